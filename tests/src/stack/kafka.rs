//! Apache Kafka: one node, broker and controller at once, all listeners with TLS; and further brokers,
//! where a test asks for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use picket_pki::Role;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;

use super::part::Part;
use super::settings::Settings;
use super::{GUESTS_NAME, HOST};
use crate::checkout::{fetched, repository};
use crate::process::{output_within, until};

const START_LIMIT: Duration = Duration::from_secs(240);
/// 16 bytes in base64, "picket-stack-001": an id that every stack may share, as none meets another.
const CLUSTER_ID: &str = "cGlja2V0LXN0YWNrLTAwMQ";
/// The same with 002 at its end.
const OTHER_CLUSTER_ID: &str = "cGlja2V0LXN0YWNrLTAwMg";

/// The one principal that may log in by PLAIN, and its password: Kafka reads these at its start.
pub const PLAIN_USER: (&str, &str) = ("device-plain", "plain-Pa55word");

pub struct Kafka {
    pub(super) part: Part,
    /// From 1 on.
    pub(super) node: u16,
    port: u16,
    /// For the whole process, in MiB.
    heap_mib: u32,
    jars: PathBuf,
    properties: PathBuf,
}

/// All brokers of a stack, the first one first.
pub fn prepare_all(settings: &Settings, session: Duration) -> Result<Vec<Kafka>> {
    let ports = settings.broker_ports();
    let heap_mib = if ports.len() > 1 { 300 } else { 512 };
    let shared = |dir: &Path| shared_properties(settings, session, dir);
    let prepare = |(port, node)| Kafka::prepare(settings, (node, port), heap_mib, &shared);
    // Each is a Java program's start.
    std::thread::scope(|scope| {
        let begun = ports.into_iter().zip(1..).map(|one| scope.spawn(move || prepare(one)));
        let begun: Vec<_> = begun.collect();
        let ended = begun.into_iter().map(|one| match one.join() {
            Ok(prepared) => prepared,
            Err(_) => bail!("a broker's preparation panicked"),
        });
        ended.collect()
    })
}

impl Kafka {
    /// Writes its configuration and formats its storage, unless that was done before.
    fn prepare(
        settings: &Settings,
        (node, port): (u16, u16),
        heap_mib: u32,
        shared: &impl Fn(&Path) -> String,
    ) -> Result<Self> {
        let dir = match node {
            1 => settings.dir.join("kafka"),
            further => settings.dir.join(format!("kafka-{further}")),
        };
        fs::create_dir_all(&dir)?;
        let kafka = Self {
            part: Part::new("Kafka", dir.join("kafka.log")),
            node,
            port,
            heap_mib,
            jars: fetched("stack/kafka")?,
            properties: dir.join("server.properties"),
        };
        let listeners = match node {
            1 => first_listeners(settings),
            further => further_listeners(settings, further, port),
        };
        fs::write(&kafka.properties, format!("{listeners}{}", shared(&dir)))?;
        if !dir.join("data/meta.properties").exists() {
            kafka.format(CLUSTER_ID)?;
        }
        Ok(kafka)
    }

    /// Forgets all that it holds, and which cluster it is of.
    pub fn make_another_cluster(&self) -> Result<()> {
        let data = self.properties.with_file_name("data");
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        self.format(OTHER_CLUSTER_ID)
    }

    fn format(&self, cluster: &str) -> Result<()> {
        let config = self.properties.display().to_string();
        let tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config"];
        let mut command = Command::new(java());
        command.args(self.jvm_args()).args(tool).arg(config);
        let output = output_within(&mut command, START_LIMIT)
            .context("is a Java 17 runtime installed (make deps)?")?;
        if !output.status.success() {
            bail!(
                "Kafka's storage cannot be formatted:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// By Kafka's own tool: the credential is kept with the cluster's metadata.
    pub fn set_password(&self, settings: &Settings, user: &str, password: &str) -> Result<()> {
        let admin = settings.dir.join("kafka/clients/admin.properties");
        let mut command = Command::new(java());
        command
            .args(self.jvm_args())
            .args(["kafka.admin.ConfigCommand", "--bootstrap-server", &settings.kafka.bootstrap])
            .arg("--command-config")
            .arg(admin)
            .args(["--alter", "--entity-type", "users", "--entity-name", user, "--add-config"])
            .arg(format!("SCRAM-SHA-512=[iterations=4096,password={password}]"));
        let output = output_within(&mut command, START_LIMIT)?;
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        anyhow::ensure!(output.status.success(), "no password for {user}:\n{}", said.concat());
        Ok(())
    }

    fn jvm_args(&self) -> Vec<String> {
        vec![
            format!("-Xmx{}m", self.heap_mib),
            // A small heap on few cores: less threads and less compiling make the start quicker.
            "-XX:+UseSerialGC".to_owned(),
            "-XX:TieredStopAtLevel=1".to_owned(),
            format!(
                "-Dlog4j2.configurationFile={}",
                repository().join("tests/stack/log4j2.properties").display()
            ),
            "-cp".to_owned(),
            format!("{}/*", self.jars.display()),
        ]
    }

    /// Starts it, and returns when it answers the admin.
    pub async fn start(&mut self, settings: &Settings) -> Result<()> {
        let mut args = self.jvm_args();
        args.extend(["kafka.Kafka".to_owned(), self.properties.display().to_string()]);
        self.part.start(Path::new(&java()), args)?;
        let answered = self.answers(settings).await;
        self.part.with_log(answered)
    }

    async fn answers(&mut self, settings: &Settings) -> Result<()> {
        // Until the port is open, librdkafka would only log refusals and back off.
        let port = self.port;
        until("Kafka to open its port", START_LIMIT, async || {
            self.part.expect_running()?;
            Ok(tokio::net::TcpStream::connect((HOST, port)).await.map_err(|e| e.to_string()))
        })
        .await?;
        let admin = settings.kafka_client(Some(&settings.admin));
        until("Kafka to answer", START_LIMIT, async || {
            self.part.expect_running()?;
            let admin = admin.clone();
            tokio::task::spawn_blocking(move || {
                let admin: AdminClient<DefaultClientContext> = admin.create()?;
                let answer = admin.inner().fetch_metadata(None, Duration::from_secs(5));
                Ok(match answer {
                    Ok(metadata) if metadata.brokers().is_empty() => {
                        Err("no broker yet".to_owned())
                    }
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                })
            })
            .await?
        })
        .await
    }
}

fn java() -> String {
    std::env::var("JAVA_HOME").map_or_else(|_| "java".to_owned(), |home| format!("{home}/bin/java"))
}

/// The first node's, broker and controller at once.
fn first_listeners(settings: &Settings) -> String {
    let (kafka, controller, guests) = (settings.ports[0], settings.ports[1], settings.ports[3]);
    let (proxied, proxy, passwords) = (settings.ports[4], settings.ports[5], settings.ports[6]);
    let (plain_user, plain_password) = PLAIN_USER;
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{HOST}:{controller}
listeners=CLIENT://{HOST}:{kafka},GUESTS://{HOST}:{guests},PROXIED://{HOST}:{proxied},\
PASSWORDS://{HOST}:{passwords},CONTROLLER://{HOST}:{controller}
# A broker tells each client where to find it, by the way that the client came: for a virtual machine
# this host is not 127.0.0.1, and who came through a proxy must come back through it.
advertised.listeners=CLIENT://{HOST}:{kafka},GUESTS://{GUESTS_NAME}:{guests},PROXIED://{HOST}:{proxy},\
PASSWORDS://{HOST}:{passwords}
listener.security.protocol.map=CLIENT:SSL,GUESTS:SSL,PROXIED:SSL,PASSWORDS:SASL_SSL,CONTROLLER:SSL
# The user's name is the principal.
listener.name.passwords.ssl.client.auth=requested
listener.name.passwords.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.passwords.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{plain_user}=\"{plain_password}\";
listener.name.passwords.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
"
    )
}

/// A further node's, which is a broker alone.
fn further_listeners(settings: &Settings, node: u16, port: u16) -> String {
    let controller = settings.ports[1];
    format!(
        "\
process.roles=broker
node.id={node}
controller.quorum.voters=1@{HOST}:{controller}
listeners=CLIENT://{HOST}:{port}
advertised.listeners=CLIENT://{HOST}:{port}
listener.security.protocol.map=CLIENT:SSL,CONTROLLER:SSL
"
    )
}

/// Where there are several.
const CHANGE_OF_LEADERS: &str = "\
# A broker that is gone is missed soon, though not on a machine that is merely busy.
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
# And one that came back leads again what it led before.
leader.imbalance.check.interval.seconds=2
leader.imbalance.per.broker.percentage=0
";

/// What all nodes have.
fn shared_properties(settings: &Settings, session: Duration, dir: &Path) -> String {
    let pki = settings.pki_dir();
    let [broker, admin] = [Role::Broker.principal("kafka"), Role::Admin.principal("admin")];
    // Beside one broker there is none to replicate to, nor one that could lead in its place.
    let replicas = settings.broker_ports().len().min(3);
    let change = if replicas > 1 { CHANGE_OF_LEADERS } else { "" };
    format!(
        "\
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
log.dirs={data}
{change}
# Only certificates of the stack's own authority connect, and only the roles that the rules name are
# principals.
ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
ssl.principal.mapping.rules={rules}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{broker};User:{admin}
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false

# Many short runs: groups form at once.
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# When an aggregator that was killed is missed. It says five times as often that it lives.
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms={session_ms}
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms={heartbeat_ms}
",
        data = dir.join("data").display(),
        keystore = pki.join("broker/kafka.pem").display(),
        truststore = pki.join("ca.crt").display(),
        rules = Role::KAFKA_MAPPING_RULES,
        session_ms = session.as_millis(),
        heartbeat_ms = session.as_millis() / 5,
    )
}
