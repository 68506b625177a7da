//! The real services that the demo and the tests run on: Apache Kafka and MongoDB, with their own
//! certificate authority, in one folder, on free ports of 127.0.0.1; and [`SeaweedFs`], an S3-compatible
//! store, for the tests that ask for it.
//!
//! ```text
//! <dir>/settings.toml, settings.env   how to connect: [`Settings`]
//! <dir>/pki/                          the authority and every identity (see `picket-pki`)
//! <dir>/kafka/                        server.properties, data/, kafka.log, client files for other tools
//! <dir>/kafka-2/, kafka-3/            the same of the further brokers, where there are any
//! <dir>/mongodb/                      data/, mongod.log, keyfile, the passwords; data-2/, mongod-2.log of
//!                                     the second member of the replica set, where there is one
//! ```
//! **Who may do what.** Clients of Kafka show a certificate. A device may write the three device topics;
//! the aggregator may read them, write tracks and dead letters, read dead letters and use consumer groups
//! that begin with the topic prefix; the admin may do everything; nobody else may do anything, and no
//! topic makes itself. MongoDB asks for TLS, and a password or the
//! aggregator's certificate; the user `picket` owns one database, and so does that certificate.
//!
//! **Life.** A part ends with [`Stack::stop`], when the stack is dropped, and also when this process is
//! killed. Each part can be stopped, killed and started again by itself: same port, same data. A folder
//! that was used before is used again with its ports and data. Two stacks never share a port.

mod acls;
mod enrol;
mod kafka;
mod mongodb;
mod part;
mod ports;
mod seaweedfs;
mod settings;

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use picket_pki::{Authority, IssueOptions, Role};

use crate::proxy::Proxy;
pub use enrol::enrol_device;
pub use kafka::PLAIN_USER;
use part::Part;
use ports::Lease;
pub use seaweedfs::{BUCKET, SeaweedFs};
pub use settings::{Credentials, KafkaSettings, MongoSettings, Settings};

/// The services listen here and nowhere else.
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What Kafka is called in a virtual machine on this host.
pub const GUESTS_NAME: &str = "kafka.picket.test";
/// How many ports a stack has.
const PORTS: usize = 7;

#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Of the topics and of the aggregator's consumer groups.
    pub topic_prefix: String,
    /// The database that MongoDB's user `picket` owns.
    pub database: String,
    /// Enrolled at the start; more with [`Stack::device_certificate`].
    pub devices: Vec<String>,
    /// Brokers of the cluster. The first one also is its only controller.
    pub brokers: u16,
    /// Members of MongoDB's replica set.
    pub members: u16,
    /// After such a silence of an aggregator its partitions go to another; 6 s is the least.
    pub session: Duration,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            topic_prefix: picket_wire::topic::DEFAULT_PREFIX.to_owned(),
            database: "picket".to_owned(),
            devices: vec!["demo".to_owned()],
            brokers: 1,
            members: 1,
            session: Duration::from_secs(15),
        }
    }
}

impl StackOptions {
    /// For tests that kill aggregators: one that died is missed soon.
    pub fn with_quick_group() -> Self {
        Self { session: Duration::from_secs(6), ..Self::default() }
    }
}

/// Kafka and MongoDB, running.
pub struct Stack {
    settings: Settings,
    kafka: kafka::Kafka,
    further: Vec<kafka::Kafka>,
    mongodb: Vec<mongodb::Member>,
    // Held for as long as the stack lives: nobody else takes the folder or the ports.
    _folder: File,
    _leases: Vec<Lease>,
}

impl Stack {
    /// Starts both in `dir`, and returns when both answer.
    pub async fn start(dir: &Path, options: StackOptions) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        let folder = lock_folder(&dir)?;
        let before = Settings::read(&dir).ok();
        let count =
            PORTS + usize::from(options.brokers.max(1)) + usize::from(options.members.max(1));
        let count = count - 2;
        let leases = ports::lease(count, before.as_ref().map(|settings| settings.ports.clone()))?;
        let ports: Vec<u16> = leases.iter().map(Lease::port).collect();

        let authority = open_or_make_authority(&dir)?;
        let settings = Settings::new(&dir, &options, &authority, ports)?;
        let mongodb = mongodb::prepare_all(&settings)?;
        let mut brokers = kafka::prepare_all(&settings, options.session)?;
        let further = brokers.split_off(1);
        let kafka = brokers.pop().context("a stack without a broker")?;
        let mut stack =
            Self { settings, kafka, further, mongodb, _folder: folder, _leases: leases };

        // Together: each takes seconds, and mostly waits.
        let settings = &stack.settings;
        let further = stack.further.iter_mut().map(|broker| broker.start(settings));
        tokio::try_join!(
            stack.kafka.start(settings),
            futures_util::future::try_join_all(further),
            mongodb::start_all(&mut stack.mongodb, settings)
        )?;
        enrol::grant_aggregator(&stack.settings).await?;
        for device in &options.devices {
            stack.device_certificate(device).await?;
        }
        stack.settings.write()?;
        Ok(stack)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The certificate of a device, made and allowed to write when it is asked for first.
    pub async fn device_certificate(&self, name: &str) -> Result<Credentials> {
        enrol_device(&self.settings, name).await
    }

    /// Gives a principal a password for SCRAM at `settings().kafka.passwords`, or another one.
    pub fn set_password(&self, user: &str, password: &str) -> Result<()> {
        self.kafka.set_password(&self.settings, user, password)
    }

    /// A proxy before the broker, for clients that connect to `settings().kafka.proxy`.
    pub fn proxy(&self) -> Result<Proxy> {
        let [_, _, _, _, proxied, proxy, ..] = self.settings.ports.as_slice() else {
            bail!("the stack has no port for a proxy")
        };
        let at = |port: u16| SocketAddr::from((HOST, port));
        Proxy::start(at(*proxy), at(*proxied))
    }

    /// Ends Kafka in order.
    pub async fn stop_kafka(&mut self) -> Result<()> {
        self.kafka.part.stop().await
    }

    /// Ends Kafka as a power cut would.
    pub fn kill_kafka(&mut self) -> Result<()> {
        self.kafka.part.kill()
    }

    /// Starts Kafka again where it was, and returns when it answers.
    pub async fn start_kafka(&mut self) -> Result<()> {
        self.kafka.start(&self.settings).await
    }

    /// Has another cluster of one broker, without topics, take the place of the one that is there.
    pub async fn start_another_cluster(&mut self) -> Result<()> {
        self.kafka.part.stop().await?;
        self.kafka.make_another_cluster()?;
        self.start_kafka().await?;
        enrol::grant_aggregator(&self.settings).await
    }

    /// Ends one of several brokers in order: it hands its partitions over before it goes.
    pub async fn stop_broker(&mut self, node: i32) -> Result<()> {
        self.broker(node)?.part.stop().await
    }

    /// Ends one of several brokers as a power cut would.
    pub fn kill_broker(&mut self, node: i32) -> Result<()> {
        self.broker(node)?.part.kill()
    }

    /// Starts one of several brokers again where it was, and returns when it answers.
    pub async fn start_broker(&mut self, node: i32) -> Result<()> {
        let settings = self.settings.clone();
        self.broker(node)?.start(&settings).await
    }

    fn broker(&mut self, node: i32) -> Result<&mut kafka::Kafka> {
        let mut all = std::iter::once(&mut self.kafka).chain(&mut self.further);
        all.find(|broker| i32::from(broker.node) == node)
            .with_context(|| format!("no broker {node}"))
    }

    /// Ends MongoDB in order.
    pub async fn stop_mongodb(&mut self) -> Result<()> {
        for member in &mut self.mongodb {
            member.part.stop().await?;
        }
        Ok(())
    }

    /// Ends MongoDB as a power cut would.
    pub fn kill_mongodb(&mut self) -> Result<()> {
        self.mongodb.iter_mut().try_for_each(|member| member.part.kill())
    }

    /// Starts MongoDB again where it was, and returns when it takes writes.
    pub async fn start_mongodb(&mut self) -> Result<()> {
        mongodb::start_all(&mut self.mongodb, &self.settings).await
    }

    /// The port of the member of the replica set that takes writes, if there is one now.
    pub async fn primary(&self) -> Result<Option<u16>> {
        mongodb::primary(&self.settings).await
    }

    /// How many members of the replica set hold what there is.
    pub async fn whole_members(&self) -> Result<usize> {
        mongodb::whole_members(&self.settings).await
    }

    /// Has the primary hand over to another member.
    pub async fn step_down(&self, primary: u16) -> Result<()> {
        mongodb::step_down(&self.settings, primary).await
    }

    /// Ends one of several members as a power cut would.
    pub fn kill_member(&mut self, port: u16) -> Result<()> {
        self.member(port)?.part.kill()
    }

    /// Starts one of several members again where it was, and returns when it answers.
    pub async fn start_member(&mut self, port: u16) -> Result<()> {
        let settings = self.settings.clone();
        self.member(port)?.start(&settings).await
    }

    fn member(&mut self, port: u16) -> Result<&mut mongodb::Member> {
        let found = self.mongodb.iter_mut().find(|member| member.port == port);
        found.with_context(|| format!("no member of the replica set at port {port}"))
    }

    /// Process ids of the parts that run, Kafka's first.
    pub fn process_ids(&self) -> Vec<u32> {
        let members = self.mongodb.iter().map(|member| &member.part);
        std::iter::once(&self.kafka.part).chain(members).filter_map(Part::process_id).collect()
    }

    /// Starts again each part that was stopped or killed, as by a test that failed before it did so itself.
    pub async fn start_what_is_stopped(&mut self) -> Result<()> {
        let brokers = std::iter::once(&mut self.kafka).chain(&mut self.further);
        for broker in brokers.filter(|broker| broker.part.is_stopped()) {
            broker.start(&self.settings).await?;
        }
        if self.mongodb.iter().any(|member| member.part.is_stopped()) {
            self.start_mongodb().await?;
        }
        Ok(())
    }

    /// Fails with the log's end of a part that ended by itself.
    pub fn expect_running(&mut self) -> Result<()> {
        self.kafka.part.expect_running()?;
        self.mongodb.iter_mut().try_for_each(|member| member.part.expect_running())
    }

    /// Ends both in order.
    pub async fn stop(mut self) -> Result<()> {
        // The controller last: a broker that ends in order asks it to.
        for broker in &mut self.further {
            broker.part.stop().await?;
        }
        let members = self.mongodb.iter_mut().map(|member| member.part.stop());
        let members = futures_util::future::try_join_all(members);
        let (kafka, mongodb) = tokio::join!(self.kafka.part.stop(), members);
        kafka.and(mongodb.map(drop))
    }
}

fn lock_folder(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("a stack runs in {} already", dir.display()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

/// The authority and the identities that every stack has.
fn open_or_make_authority(dir: &Path) -> Result<Authority> {
    let pki = dir.join("pki");
    let authority = if pki.join("ca.crt").exists() {
        Authority::open(&pki)?
    } else {
        Authority::init(&pki, picket_pki::MAX_DAYS)?
    };
    let sans = ["localhost", "127.0.0.1", "::1", GUESTS_NAME].map(str::to_owned).to_vec();
    let serving = IssueOptions { sans, ..Default::default() };
    let plain = IssueOptions::default();
    for (role, name, options) in [
        (Role::Broker, "kafka", &serving),
        (Role::Server, "mongodb", &serving),
        (Role::Admin, "admin", &plain),
        (Role::Aggregator, "centre", &plain),
    ] {
        if !authority.identity(role, name).certificate.exists() {
            authority.issue(role, name, options)?;
        }
    }
    Ok(authority)
}
