//! A site: the centre on this host, and one device, on which the package is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_wire::Topic;
use rdkafka::message::{Headers, Message};

use super::machine::{Emulation, Machine};
use crate::fleet::Fleet;
use crate::oracle::{self, Findings};
use crate::process::{until, until_every};
use crate::stack::GUESTS_NAME;

/// The device's name.
pub const DEVICE: &str = "box";
/// Its camera's.
pub const CAMERA: &str = "door";
/// What systemd knows it as.
pub const UNIT: &str = "picket-edge-agent";
/// The host, as QEMU's network shows it.
const HOST: &str = "10.0.2.2";
/// For everything that was captured to reach MongoDB.
const SETTLED: Duration = Duration::from_secs(180);
/// For frames to flow, once there is nothing in their way.
const FLOWING: Duration = Duration::from_secs(90);
/// A question to the virtual machine or the database costs both time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What systemd says of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `active`, `activating` and so on.
    pub state: String,
    /// Its process.
    pub pid: u32,
    /// How often systemd started it again by itself.
    pub restarts: u32,
}

/// A frame that the centre stored: epoch, then `seq`.
pub type Place = (u64, u64);

/// Centre and device.
pub struct Site {
    /// Kafka, MongoDB, aggregator.
    pub fleet: Fleet,
    /// The device.
    pub machine: Machine,
}

impl Site {
    /// Starts the centre, and makes a device, which is off.
    pub async fn start(dir: &Path, emulation: Emulation) -> Result<Self> {
        let machine = Machine::new(&dir.join("machine"), emulation)?;
        let fleet = Fleet::start(&dir.join("centre")).await?;
        Ok(Self { fleet, machine })
    }

    /// How long to wait for what should take so long.
    pub fn limit(&self, limit: Duration) -> Duration {
        self.machine.limit(limit)
    }

    /// What an engineer copies onto a device: its certificate and its config.
    pub async fn write_identity_and_config(&self) -> Result<()> {
        let credentials = self.fleet.stack.device_certificate(DEVICE).await?;
        let share = self.machine.share();
        for (from, to) in [
            (&credentials.ca, "ca.crt"),
            (&credentials.certificate, "device.crt"),
            (&credentials.key, "device.key"),
        ] {
            fs::copy(from, share.join(to)).with_context(|| from.display().to_string())?;
        }
        let brokers = &self.fleet.stack.settings().kafka.bootstrap_for_guests;
        fs::write(share.join("edge-agent.toml"), config(brokers))?;
        Ok(())
    }

    /// Whether the broker's name leads to this host; without a name server it is written down.
    pub async fn name_broker(&mut self, known: bool) -> Result<()> {
        let forget = format!("sed -i '/{GUESTS_NAME}/d' /etc/hosts");
        let write = format!("echo '{HOST} {GUESTS_NAME}' >> /etc/hosts");
        let script = if known { format!("{forget}; {write}") } else { forget };
        self.machine.run(&script).await.map(drop)
    }

    /// What systemd says of the service.
    pub async fn service(&mut self) -> Result<Service> {
        let script = format!("systemctl show {UNIT} --property=ActiveState,MainPID,NRestarts");
        let said = self.machine.run(&script).await?;
        let pairs: BTreeMap<_, _> = said.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| pairs.get(name).with_context(|| format!("no {name} in {said:?}"));
        Ok(Service {
            state: (*value("ActiveState")?).to_owned(),
            pid: value("MainPID")?.parse()?,
            restarts: value("NRestarts")?.parse()?,
        })
    }

    /// Waits until systemd says what is looked for.
    pub async fn service_until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Service) -> bool,
    ) -> Result<Service> {
        until_every(what, limit, LOOK_EVERY, async || {
            let service = self.service().await?;
            Ok(if wanted(&service) { Ok(service) } else { Err(format!("{service:?}")) })
        })
        .await
    }

    /// The service's log of this boot.
    pub async fn journal(&mut self) -> Result<String> {
        self.machine.run(&format!("journalctl --unit={UNIT} --boot --output=cat --no-pager")).await
    }

    /// The end of it, for a failure's message.
    pub async fn log_tail(&mut self) -> String {
        let journal = self.journal().await.unwrap_or_else(|why| format!("no journal: {why:#}"));
        let lines: Vec<_> = journal.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits until the log of this boot holds a text.
    pub async fn said(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("the service to say {text:?}");
        until_every(&what, limit, LOOK_EVERY, async || {
            let journal = self.journal().await?;
            let last = journal.lines().last().unwrap_or("nothing").to_owned();
            Ok(if journal.contains(text) { Ok(()) } else { Err(last) })
        })
        .await
    }

    /// Where the newest frame of the camera stands that the centre knows of: looked at, or left out since nothing
    /// moved.
    pub async fn newest(&self) -> Result<Place> {
        let of_camera = format!("^{DEVICE}/{CAMERA}/");
        let filter =
            doc! { "_id": { "$regex": of_camera }, "kind": { "$in": ["observation", "skip"] } };
        let observations = self.fleet.database.collection::<Document>("observations");
        let mut found = observations.find(filter).projection(doc! { "last": 1 }).await?;
        let mut newest = Place::default();
        while let Some(document) = found.try_next().await? {
            let (epoch, seq) = place(document.get_str("_id")?)?;
            let seq = document.get_i64("last").map_or(Ok(seq), u64::try_from)?;
            newest = newest.max((epoch, seq));
        }
        Ok(newest)
    }

    /// Waits until the centre has an observation of a camera.
    pub async fn first_of(&mut self, camera: &str, limit: Duration) -> Result<()> {
        let filter =
            doc! { "_id": { "$regex": format!("^{DEVICE}/{camera}/") }, "kind": "observation" };
        let observations = self.fleet.database.collection::<Document>("observations");
        until_every(&format!("an observation of {camera}"), limit, LOOK_EVERY, async || {
            let found = observations.find_one(filter.clone()).await?;
            Ok(found.map(drop).ok_or_else(|| "there is none".to_owned()))
        })
        .await
    }

    /// Waits until frames arrive that were captured after this call.
    pub async fn frames_flow(&mut self) -> Result<Place> {
        let before = self.newest().await?;
        self.frames_after((before.0, before.1 + 5), self.limit(FLOWING)).await
    }

    /// Waits until the centre has a frame beyond that one.
    pub async fn frames_after(&mut self, before: Place, limit: Duration) -> Result<Place> {
        let what = format!("frames after {before:?}");
        until(&what, limit, async || {
            self.fleet.aggregator.expect_running()?;
            let newest = self.newest().await?;
            Ok(if newest > before { Ok(newest) } else { Err(format!("newest is {newest:?}")) })
        })
        .await
    }

    /// Epochs of which an observation lies in Kafka, read as any client would read it.
    pub fn epochs_in_kafka(&self) -> Result<BTreeMap<u64, usize>> {
        let mut epochs = BTreeMap::new();
        for message in self.fleet.messages(Topic::Observations)? {
            let headers = message.headers().context("a message without headers")?;
            let header = |name: &str| {
                let found = headers.iter().find(|header| header.key == name);
                let value = found.and_then(|header| header.value).unwrap_or_default();
                String::from_utf8_lossy(value).into_owned()
            };
            if header("picket-kind") == "observation" {
                *epochs.entry(place(&header("picket-id"))?.0).or_default() += 1;
            }
        }
        Ok(epochs)
    }

    /// Asks the oracle, until every frame is stored, spooled or counted as lost with a reason.
    pub async fn accounts_balance(&mut self) -> Result<Findings> {
        let pictures = Arc::clone(&self.fleet.pictures);
        let copy = self.machine.share().join("spool.sqlite");
        let database = self.fleet.database.clone();
        let findings =
            until_every("the books to balance", self.limit(SETTLED), LOOK_EVERY, async || {
                self.copy_spool().await?;
                let findings =
                    oracle::ask(&database, &[DEVICE], std::slice::from_ref(&copy), &pictures)
                        .await?;
                Ok(match findings.violations.is_empty() {
                    true => Ok(findings),
                    false => Err(findings.violations.join("; ")),
                })
            })
            .await?;
        let stored: usize = findings.accounts.values().map(|account| account.stored.len()).sum();
        ensure!(stored > 0, "nothing is stored, so nothing balances");
        Ok(findings)
    }

    /// The same, and that there are no dead letters, which only a broker that runs can tell.
    pub async fn books_balance(&mut self) -> Result<Findings> {
        let findings = self.accounts_balance().await?;
        ensure!(self.fleet.dead_letters()? == 0, "the centre could not read every message");
        Ok(findings)
    }

    /// A copy of one moment, which SQLite makes while the agent writes.
    async fn copy_spool(&mut self) -> Result<()> {
        let script = "rm -f /tmp/spool.sqlite && sqlite3 -readonly \
            /var/lib/picket-edge-agent/spool.sqlite \"VACUUM INTO '/tmp/spool.sqlite'\" \
            && cp /tmp/spool.sqlite /share/";
        self.machine.run(script).await.map(drop)
    }

    /// Records that wait in the spool, by the agent's own word.
    pub async fn spooled(&mut self) -> Result<u64> {
        let script = format!("{UNIT} spool stat --config /etc/picket/edge-agent.toml");
        let said = self.machine.run(&script).await?;
        let line = said.lines().find(|line| line.starts_with("records"));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        count.and_then(|n| n.parse().ok()).with_context(|| format!("no records in {said:?}"))
    }

    /// Waits until so many records wait in the spool.
    pub async fn backlog(&mut self, records: u64, limit: Duration) -> Result<u64> {
        until_every("a backlog", limit, LOOK_EVERY, async || {
            let spooled = self.spooled().await?;
            let enough = spooled >= records;
            Ok(if enough { Ok(spooled) } else { Err(format!("{spooled} records")) })
        })
        .await
    }
}

/// Epoch and `seq` of `<device>/<camera>/<epoch>-<instance>/<seq>...`.
fn place(id: &str) -> Result<Place> {
    let mut parts = id.split('/').skip(2);
    let epoch = parts.next().and_then(|epoch| epoch.split('-').next());
    let seq = parts.next().and_then(|seq| seq.split(|c: char| !c.is_ascii_digit()).next());
    match (epoch.map(str::parse), seq.map(|seq| seq.parse().unwrap_or_default())) {
        (Some(Ok(epoch)), Some(seq)) => Ok((epoch, seq)),
        _ => bail!("{id:?} is no id"),
    }
}

/// The machine is slow: a small picture, few frames.
fn config(brokers: &str) -> String {
    format!(
        r#"device = "{DEVICE}"
ready_timeout_s = 80

[[camera]]
name = "{CAMERA}"
source.v4l2 = {{ device = "/dev/video0", width_px = 320, height_px = 180, fps = 5 }}
sampling = {{ fps = 2 }}
publish.policy = "all"

[detect]
input_width_px = 160

[uplink]
brokers = ["{brokers}"]
ca_file = "/var/lib/picket-edge-agent/identity/ca.crt"
certificate_file = "/var/lib/picket-edge-agent/identity/device.crt"
key_file = "/var/lib/picket-edge-agent/identity/device.key"
"#
    )
}

/// The same package under a higher version, as the next release would be.
pub fn next_version(package: &Path, out: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    let dpkg = |args: &[&std::ffi::OsStr]| -> Result<()> {
        let status = Command::new("dpkg-deb").args(args).status().context("start dpkg-deb")?;
        ensure!(status.success(), "dpkg-deb ended with {status}");
        Ok(())
    };
    dpkg(&["--raw-extract".as_ref(), package.as_ref(), tree.as_ref()])?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let line = text.lines().find(|line| line.starts_with("Version: "));
    let line = line.with_context(|| format!("no version in {}", package.display()))?;
    fs::write(&control, text.replace(line, &format!("{line}+next")))?;
    dpkg(&["-z1".as_ref(), "--build".as_ref(), tree.as_ref(), out.as_ref()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_id_is_its_epoch_and_seq() {
        assert_eq!(place("box/door/12-0a1b2c3d/7").unwrap(), (12, 7));
        assert_eq!(place("box/door/3-0a1b2c3d/gap-4").unwrap(), (3, 0));
        assert!(place("box/door").is_err());
    }
}
