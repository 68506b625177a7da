//! A fleet on a stack: an aggregator and agents, each the real program with a config file, a log
//! file and a certificate of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mongodb::Database;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use picket_wire::{Topic, TopicNames};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::checkout;
use crate::clock::Clock;
use crate::process::{Process, until};
use crate::stack::{Credentials, Settings as StackSettings, Stack, StackOptions};

/// How long a program may take to be ready on a slow machine.
const READY: Duration = Duration::from_secs(180);
/// How long an orderly end may take.
const END: Duration = Duration::from_secs(180);

/// Topics of one broker with fewer partitions than in the field: the broker opens and the centre takes
/// over each of them at every start, which on a busy machine takes longer than what a test is about.
pub const FEW_PARTITIONS: [&str; 4] = ["--replicas", "1", "--partitions", "6"];
/// The same with as many as in the field.
pub const ALL_PARTITIONS: [&str; 2] = ["--replicas", "1"];

/// Stack, aggregator and the folder that holds everything they write.
pub struct Fleet {
    /// Kafka and MongoDB.
    pub stack: Stack,
    /// The aggregator.
    pub aggregator: Process,
    /// Its database.
    pub database: Database,
    /// What its aggregator has stored of pictures.
    pub pictures: Arc<dyn ObjectStore>,
    dir: PathBuf,
}

impl Fleet {
    /// Starts a stack and an aggregator in `dir`, with topics, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_on(dir, StackOptions::default(), &FEW_PARTITIONS).await
    }

    /// The same on a stack of its own kind, with topics as these arguments have it.
    pub async fn start_on(dir: &Path, stack: StackOptions, topics: &[&str]) -> Result<Self> {
        let stack = Stack::start(&dir.join("stack"), stack).await?;
        let dir = std::fs::canonicalize(dir)?;
        let config = dir.join("aggregator.toml");
        std::fs::write(&config, aggregator_config(stack.settings(), &dir))?;
        create_topics(&stack, &dir, topics).await?;
        let database = database(stack.settings()).await?;
        let aggregator = start_aggregator(&dir)?;
        let images = dir.join("images");
        std::fs::create_dir_all(&images)?;
        let pictures = Arc::new(LocalFileSystem::new_with_prefix(images)?);
        let mut fleet = Self { stack, aggregator, database, pictures, dir };
        fleet.aggregator_ready().await?;
        Ok(fleet)
    }

    /// Makes the topics that are missing, as these arguments have it.
    pub async fn create_topics(&self, options: &[&str]) -> Result<()> {
        create_topics(&self.stack, &self.dir, options).await
    }

    /// Waits until the aggregator says that it is ready.
    pub async fn aggregator_ready(&mut self) -> Result<()> {
        let page = self.page().await?;
        until("the aggregator's readiness", READY, async || {
            self.aggregator.expect_running()?;
            let answer = get(&page, "/readyz").await?;
            Ok(if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) })
        })
        .await
    }

    /// The aggregator's config file.
    pub fn aggregator_config(&self) -> PathBuf {
        self.dir.join("aggregator.toml")
    }

    /// Starts the aggregator again after it ended.
    pub async fn restart_aggregator(&mut self) -> Result<()> {
        std::fs::rename(self.dir.join("aggregator.log"), self.dir.join("aggregator.before.log"))?;
        self.aggregator = start_aggregator(&self.dir)?;
        self.aggregator_ready().await
    }

    /// Starts one more aggregator in the same group, and does not wait for it.
    pub fn start_another_aggregator(&self) -> Result<Process> {
        start_aggregator_of(&self.aggregator_config(), &self.dir.join("aggregator.others.log"))
    }

    /// Starts one more aggregator that is a static member of the group, and does not wait for it.
    pub fn start_static_member(&self, name: &str) -> Result<Process> {
        let text = std::fs::read_to_string(self.aggregator_config())?;
        let with_name = format!("[consume]\nstatic_member = {name:?}\n");
        let config = self.dir.join(name).with_extension("toml");
        std::fs::write(&config, text.replacen("[consume]\n", &with_name, 1))?;
        start_aggregator_of(&config, &config.with_extension("log"))
    }

    /// Starts again whatever a test has ended and not started again. What ended by itself is told.
    pub async fn start_what_is_stopped(&mut self) -> Result<()> {
        self.stack.start_what_is_stopped().await?;
        self.stack.expect_running()?;
        if self.aggregator.is_told_to_end() {
            self.aggregator.kill()?;
            return self.restart_aggregator().await;
        }
        self.aggregator.expect_running()
    }

    /// Address of the live page.
    pub async fn page(&mut self) -> Result<String> {
        address(&mut self.aggregator, "page at ").await
    }

    /// Enrols a device and writes its config with these cameras (TOML).
    pub async fn enrol(&self, device: &str, cameras: &str) -> Result<Agent> {
        self.enrol_at(&self.stack.settings().kafka.bootstrap, device, cameras).await
    }

    /// The same with the broker behind the stack's proxy, which must run for anything to arrive.
    pub async fn enrol_behind_proxy(&self, device: &str, cameras: &str) -> Result<Agent> {
        self.enrol_at(&self.stack.settings().kafka.proxy, device, cameras).await
    }

    async fn enrol_at(&self, broker: &str, device: &str, cameras: &str) -> Result<Agent> {
        let credentials = self.stack.device_certificate(device).await?;
        let dir = self.dir.join(device);
        std::fs::create_dir_all(&dir)?;
        let agent = Agent { device: device.to_owned(), config: dir.join("agent.toml"), dir };
        let prefix = &self.stack.settings().kafka.topic_prefix;
        agent.write_config(&agent_config(broker, prefix, &credentials, &agent.dir, cameras)?)?;
        Ok(agent)
    }

    /// Ends the aggregator and the stack in order.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.aggregator.terminate(END).await?;
        ensure!(status.success(), "aggregator: {status}:\n{}", self.aggregator.log_tail());
        self.stack.stop().await
    }
}

async fn create_topics(stack: &Stack, dir: &Path, options: &[&str]) -> Result<()> {
    let config = dir.join("aggregator.toml");
    let admin = &stack.settings().admin;
    let args = [
        "topics",
        "create",
        "--config",
        path(&config)?,
        "--certificate-file",
        path(&admin.certificate)?,
        "--key-file",
        path(&admin.key)?,
    ];
    let args = [&args, options].concat();
    let mut process = Process::start("picket-aggregator", &args, &dir.join("topics.log"))?;
    let status = process.ended(READY).await?;
    ensure!(status.success(), "topics create ended with {status}:\n{}", process.log_tail());
    Ok(())
}

fn start_aggregator(dir: &Path) -> Result<Process> {
    start_aggregator_of(&dir.join("aggregator.toml"), &dir.join("aggregator.log"))
}

fn start_aggregator_of(config: &Path, log: &Path) -> Result<Process> {
    Process::start("picket-aggregator", &["run", "--config", path(config)?], log)
}

/// An exit status that nothing else has.
const ALL_READ: &str = "10";

/// A device: its config, its state.
pub struct Agent {
    /// Its name.
    pub device: String,
    /// Its config file.
    pub config: PathBuf,
    dir: PathBuf,
}

impl Agent {
    /// Starts the agent.
    pub fn start(&self) -> Result<Process> {
        self.start_with(&[], &[])
    }

    /// The same by another clock.
    pub fn start_by(&self, clock: &Clock) -> Result<Process> {
        self.start_with(&[], &clock.environment())
    }

    fn start_with(&self, more: &[&str], env: &[(&str, &Path)]) -> Result<Process> {
        let args = [&["run", "--config", path(&self.config)?], more].concat();
        Process::start_with("picket-edge-agent", &args, env, &self.dir.join("agent.log"))
    }

    /// Adds lines to a section of its config, which must be there.
    pub fn configure(&self, section: &str, lines: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        let header = format!("[{section}]\n");
        ensure!(text.contains(&header), "there is no section {header} in\n{text}");
        self.write_config(&text.replacen(&header, &format!("{header}{lines}\n"), 1))
    }

    fn write_config(&self, text: &str) -> Result<()> {
        // A camera's address may hold a password.
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.config)?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// A copy of it as it is now, with its config, certificate and state, in a folder of its own.
    pub fn copied(&self) -> Result<Self> {
        let dir = self.dir.with_extension("copy");
        let copied = std::process::Command::new("cp").arg("-a").args([&self.dir, &dir]).status()?;
        ensure!(copied.success(), "cp -a {}: {copied}", self.dir.display());
        let copy = Self { device: self.device.clone(), config: dir.join("agent.toml"), dir };
        let text = std::fs::read_to_string(&copy.config)?;
        copy.write_config(&text.replace(path(&self.state())?, path(&copy.state())?))?;
        Ok(copy)
    }

    /// What the ids of its records begin with.
    pub fn prefix(&self) -> String {
        format!("{}/", self.device)
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its spool's file.
    pub fn spool(&self) -> PathBuf {
        self.dir.join("state/spool.sqlite")
    }

    /// Runs the agent to its own end, as with a folder of videos: it says by its exit status that all
    /// was read and acknowledged, as it does to the service manager.
    pub async fn run_to_end(&self, limit: Duration) -> Result<()> {
        let mut process = self.start_with(&["--all-read-status", ALL_READ], &[])?;
        let status = process.ended(limit).await?;
        let all_read = status.code().is_some_and(|code| code.to_string() == ALL_READ);
        ensure!(all_read, "agent {}: {status}:\n{}", self.device, process.log_tail());
        Ok(())
    }
}

/// Address of an endpoint that a program announced in its log.
pub async fn address(process: &mut Process, announced: &str) -> Result<String> {
    let what = format!("the address after {announced:?}");
    until(&what, READY, async || {
        process.expect_running()?;
        let log = process.log();
        let rest = log.split_once(announced).map(|(_, rest)| rest);
        let found = rest.and_then(|rest| rest.split_whitespace().next());
        Ok(found.map(str::to_owned).ok_or_else(|| last_line(&log)))
    })
    .await
}

/// The database that a stack's aggregator writes.
pub async fn database(settings: &StackSettings) -> Result<Database> {
    let uri = std::fs::read_to_string(&settings.mongodb.uri_file)?;
    let client = mongodb::Client::with_uri_str(uri.trim()).await?;
    Ok(client.database(&settings.mongodb.database))
}

/// Gets a page of a program's own endpoint: status line, headers and body as they come.
pub async fn get(address: &str, page: &str) -> Result<String> {
    let answer = get_bytes(address, page).await?;
    String::from_utf8(answer).with_context(|| format!("{address}{page} is no text"))
}

/// The same of what is no text.
pub async fn get_bytes(address: &str, page: &str) -> Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let host = address.trim_start_matches("http://").trim_end_matches('/');
    let request = format!("GET {page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = async {
        let mut connection = tokio::net::TcpStream::connect(host).await?;
        connection.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    };
    let answered = tokio::time::timeout(READY, answer).await;
    answered.with_context(|| format!("{host}{page} gave no whole answer"))?
}

fn last_line(log: &str) -> String {
    log.lines().last().unwrap_or("nothing logged yet").to_owned()
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn aggregator_config(stack: &StackSettings, dir: &Path) -> String {
    let host = stack.mongodb.uri.split_once("://").map_or("", |(_, rest)| rest);
    let hosts = host.split(['/', '?']).next().unwrap_or_default().replace(',', "\", \"");
    format!(
        r#"[consume]
brokers = ["{brokers}"]
topic_prefix = "{prefix}"
ca_file = "{ca}"
certificate_file = "{certificate}"
key_file = "{key}"

[store]
hosts = ["{hosts}"]
replica_set = "picket"
database = "{database}"
user = "{user}"
password_file = "{password}"
ca_file = "{mongo_ca}"

[upsert]
images_directory = "{images}"

[web]
listen = "127.0.0.1:{port}"
"#,
        brokers = stack.kafka.bootstrap.replace(',', "\", \""),
        prefix = stack.kafka.topic_prefix,
        ca = stack.aggregator.ca.display(),
        certificate = stack.aggregator.certificate.display(),
        key = stack.aggregator.key.display(),
        database = stack.mongodb.database,
        user = stack.mongodb.user,
        password = stack.mongodb.password_file.display(),
        mongo_ca = stack.mongodb.ca.display(),
        images = dir.join("images").display(),
        port = std::env::var("PAGE_PORT").unwrap_or_else(|_| "0".to_owned()),
    )
}

fn agent_config(
    broker: &str,
    topic_prefix: &str,
    credentials: &Credentials,
    dir: &Path,
    cameras: &str,
) -> Result<String> {
    let cache = std::fs::canonicalize(checkout::cache()).context("run `make fetch` first")?;
    let broker = broker.replace(',', "\", \"");
    Ok(format!(
        r#"device = "{device}"
state_dir = "{state}"

[detect]
model = "{cache}/models/yunet.onnx"
runtime_library = "{cache}/runtime/{arch}/libonnxruntime.so"

[uplink]
brokers = ["{broker}"]
topic_prefix = "{topic_prefix}"
ca_file = "{ca}"
certificate_file = "{certificate}"
key_file = "{key}"

[ops]
listen = "127.0.0.1:0"

{cameras}"#,
        device = credentials.name,
        state = dir.join("state").display(),
        cache = cache.display(),
        arch = std::env::consts::ARCH,
        ca = credentials.ca.display(),
        certificate = credentials.certificate.display(),
        key = credentials.key.display(),
    ))
}

/// Waits until the centre has everything that the agents' brokers acknowledged: `ask` returns no
/// violations. What other devices have left on the same stack is theirs.
pub async fn settled(
    fleet: &Fleet,
    agents: &[&Agent],
    limit: Duration,
) -> Result<crate::oracle::Findings> {
    let devices: Vec<_> = agents.iter().map(|agent| agent.device.as_str()).collect();
    let spools: Vec<_> = agents.iter().map(|agent| agent.spool()).collect();
    until("every seq and picture to be accounted for", limit, async || {
        let findings =
            crate::oracle::ask(&fleet.database, &devices, &spools, &fleet.pictures).await?;
        Ok(if findings.violations.is_empty() {
            Ok(findings)
        } else {
            Err(findings.violations.join("; "))
        })
    })
    .await
}

/// The first and the next offset of a partition. A broker that has just started does not lead all of its
/// partitions yet.
fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64)> {
    use rdkafka::types::RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition};
    let until = Instant::now() + READY;
    loop {
        match consumer.fetch_watermarks(topic, partition, READY) {
            Err(error)
                if matches!(
                    error.rdkafka_error_code(),
                    Some(LeaderNotAvailable | NotLeaderForPartition)
                ) && Instant::now() < until =>
            {
                // Waits for the answer, and has the client learn who leads by now.
                consumer.fetch_metadata(Some(topic), READY)?;
            }
            answer => return Ok(answer?),
        }
    }
}

impl Fleet {
    fn reader(&self) -> Result<BaseConsumer> {
        let settings = self.stack.settings();
        let mut config = settings.kafka_client(Some(&settings.admin));
        config
            .set("group.id", "picket-tests-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "false");
        Ok(config.create()?)
    }

    /// The first and the next offset of each partition of a topic.
    pub fn logs(&self, topic: Topic) -> Result<Vec<(i32, i64, i64)>> {
        let name = TopicNames::new(&self.stack.settings().kafka.topic_prefix).name(topic);
        logs(&self.reader()?, &name)
    }

    /// Every message that a topic holds, read as the admin.
    pub fn messages(&self, topic: Topic) -> Result<Vec<OwnedMessage>> {
        let consumer = self.reader()?;
        let name = TopicNames::new(&self.stack.settings().kafka.topic_prefix).name(topic);
        let mut wanted = 0;
        let mut assignment = TopicPartitionList::new();
        for (partition, low, high) in logs(&consumer, &name)? {
            wanted += usize::try_from(high - low)?;
            assignment.add_partition_offset(&name, partition, Offset::Offset(low))?;
        }
        consumer.assign(&assignment)?;
        let mut messages = Vec::with_capacity(wanted);
        while messages.len() < wanted {
            let message = consumer
                .poll(READY)
                .with_context(|| format!("{name}: {} of {wanted} messages came", messages.len()))?;
            messages.push(message?.detach());
        }
        Ok(messages)
    }

    /// How many messages could not be read by the centre.
    pub fn dead_letters(&self) -> Result<usize> {
        Ok(self.messages(Topic::DeadLetter)?.len())
    }
}

fn logs(consumer: &BaseConsumer, topic: &str) -> Result<Vec<(i32, i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), READY)?;
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    let ends = partitions.iter().map(|partition| {
        let (low, high) = watermarks(consumer, topic, partition.id())?;
        Ok((partition.id(), low, high))
    });
    ends.collect()
}
