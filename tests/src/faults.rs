//! What the fault tests share: how long they last, what they feed in, what they wait for.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell};

use crate::checkout;
use crate::fleet::{Agent, FEW_PARTITIONS, Fleet, settled};
use crate::oracle::{Findings, open_spool, wrong_tracks};
use crate::process::{Process, until};
use crate::proxy::{Fault, Proxy};
use crate::scratch;
use crate::stack::StackOptions;

/// How long anything may take on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(240);

/// Fault tests are short, in `make test`, unless `PICKET_FAULTS=long` asks for the long form of the
/// same claims.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var("PICKET_FAULTS").is_ok_and(|form| form == "long") { long } else { short }
}

/// A fleet whose broker also stands behind a proxy: one for all tests of a file, one after the other,
/// each with a device of its own.
pub struct Bench {
    /// Kafka, MongoDB and the aggregator.
    pub fleet: Fleet,
    /// What agents that are enrolled behind it connect to.
    pub proxy: Proxy,
}

/// Runs a test on the file's bench; when it begins, the link passes all and all services run, whatever
/// the test before has come to.
pub fn on_bench(test: impl AsyncFnOnce(&mut Bench) -> Result<()>) -> Result<()> {
    on_bench_of(StackOptions::with_quick_group(), test)
}

/// The same with a stack of its own kind, which is the same for all tests of the file.
///
/// The bench lives as long as the process, on a runtime of its own: a test's own runtime would end the
/// database's connections with the first test. What it started is ended by the kernel.
pub fn on_bench_of(
    stack: StackOptions,
    test: impl AsyncFnOnce(&mut Bench) -> Result<()>,
) -> Result<()> {
    static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(Runtime::new);
    static BENCH: OnceCell<Mutex<Bench>> = OnceCell::const_new();
    let runtime = RUNTIME.as_ref().map_err(|error| anyhow::anyhow!("no runtime: {error}"))?;
    runtime.block_on(async {
        let start = async || {
            let dir = scratch::until_exit()?;
            let fleet = Fleet::start_on(&dir, stack, &FEW_PARTITIONS).await?;
            let proxy = fleet.stack.proxy()?;
            anyhow::Ok(Mutex::new(Bench { fleet, proxy }))
        };
        let mut bench = BENCH.get_or_try_init(start).await?.lock().await;
        bench.proxy.set(Fault::None);
        bench.fleet.start_what_is_stopped().await?;
        test(&mut bench).await
    })
}

/// The clip as a camera that never ends, ten frames a second.
pub fn ten_a_second(name: &str) -> Result<String> {
    let clip = checkout::clip()?;
    Ok(format!(
        "[[camera]]\nname = \"{name}\"\nsource.file = {{ path = {clip:?}, repeat = true }}\n\
         sampling.fps = 10.0\nmotion.gate = false\n"
    ))
}

/// The same without pictures.
pub fn ten_a_second_without_pictures(name: &str) -> Result<String> {
    Ok(ten_a_second(name)? + "publish.policy = \"observations-only\"\n")
}

/// How many observations the centre has stored, of a device.
pub async fn stored(fleet: &Fleet, agent: &Agent) -> Result<u64> {
    let observations = fleet.database.collection::<Document>("observations");
    let filter = doc! { "kind": "observation", "device": &agent.device };
    Ok(observations.count_documents(filter).await?)
}

/// Waits until the centre has stored so many more observations of a device that runs.
pub async fn wait_for_stored(
    fleet: &Fleet,
    agent: &Agent,
    process: &mut Process,
    more: u64,
) -> Result<()> {
    let wanted = stored(fleet, agent).await? + more;
    until(&format!("{wanted} stored observations"), LIMIT, async || {
        process.expect_running()?;
        let stored = stored(fleet, agent).await?;
        Ok(if stored >= wanted { Ok(()) } else { Err(format!("{stored}")) })
    })
    .await
    .with_context(|| format!("the agent's log:\n{}", process.log_tail()))
}

/// How many observations an agent has in its spool.
pub fn spooled(agent: &Agent) -> Result<u64> {
    let spool = open_spool(&agent.spool())?;
    let count = "SELECT count(*) FROM records WHERE kind = 'observation'";
    Ok(spool.query_row(count, [], |row| row.get(0))?)
}

/// Waits until so many observations wait in the spool of a device that runs.
pub async fn wait_for_spooled(agent: &Agent, process: &mut Process, least: u64) -> Result<()> {
    // At ten a second, and half as fast on a machine that has other work.
    let limit = LIMIT + Duration::from_secs(least / 5);
    until(&format!("{least} observations in the spool"), limit, async || {
        process.expect_running()?;
        // An agent that has just begun has no spool yet, or an empty file.
        Ok(match spooled(agent) {
            Ok(spooled) if spooled >= least => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
    })
    .await
}

/// How many pictures an agent has in its spool.
pub fn pictures_spooled(agent: &Agent) -> Result<u64> {
    let spool = open_spool(&agent.spool())?;
    Ok(spool.query_row("SELECT count(*) FROM pictures", [], |row| row.get(0))?)
}

/// Waits until fewer observations, and fewer pictures, wait in the spool of a device that runs than a
/// commit holds.
pub async fn wait_for_drained(agent: &Agent, process: &mut Process, limit: Duration) -> Result<()> {
    const LIVE: u64 = 20;
    until("the backlog to be sent", limit, async || {
        process.expect_running()?;
        let (spooled, pictures) = (spooled(agent)?, pictures_spooled(agent)?);
        let is_drained = spooled <= LIVE && pictures <= LIVE;
        Ok(is_drained
            .then_some(())
            .ok_or_else(|| format!("{spooled} and {pictures} pictures wait")))
    })
    .await
}

/// Ends an agent in order.
pub async fn end(process: &mut Process) -> Result<()> {
    let status = process.terminate(LIMIT).await?;
    ensure!(status.success(), "the agent ended with {status}:\n{}", process.log_tail());
    Ok(())
}

/// Asks the books of agents that ended after they had drained: nothing is lost, doubled, left behind or
/// unreadable.
pub async fn nothing_is_lost(fleet: &Fleet, agents: &[&Agent]) -> Result<Findings> {
    let findings = settled(fleet, agents, LIMIT).await?;
    for (epoch, account) in agents.iter().flat_map(|agent| findings.of(agent)) {
        ensure!(account.dropped.is_empty(), "{epoch}: dropped {:?}", account.drops());
        ensure!(account.picture_gaps.is_empty(), "{epoch}: {:?}", account.picture_gaps);
        ensure!(account.spooled.is_empty(), "{epoch}: {:?} are left", account.spooled);
        let pictures = &account.pictures_spooled;
        ensure!(pictures.is_empty(), "{epoch}: the pictures of {pictures:?} are left");
    }
    let letters = fleet.dead_letters()?;
    ensure!(letters == 0, "{letters} dead letters");
    tracks_are_final(fleet, agents).await?;
    Ok(findings)
}

/// Waits until the tracks of these devices are those that they would be had all come in order.
pub async fn tracks_are_final(fleet: &Fleet, agents: &[&Agent]) -> Result<()> {
    let devices: Vec<&str> = agents.iter().map(|agent| agent.device.as_str()).collect();
    until("all tracks to be final", LIMIT, async || {
        let wrong = wrong_tracks(&fleet.database, &devices).await?;
        Ok(wrong.first().map_or(Ok(()), |first| Err(format!("{} wrong: {first}", wrong.len()))))
    })
    .await
}

/// Waits until an agent's log has said something so many times.
pub async fn wait_for_log(process: &mut Process, words: &str, times: usize) -> Result<()> {
    until(&format!("{words:?} in the log"), LIMIT, async || {
        process.expect_running()?;
        let log = process.log();
        let last = log.lines().last().unwrap_or_default().to_owned();
        Ok(if log.matches(words).count() >= times { Ok(()) } else { Err(last) })
    })
    .await
}

/// Numbers that differ from run to run, and that a run can repeat: the seed is printed, and taken from
/// `PICKET_SEED` where that is set.
pub struct Chance(u64);

impl Chance {
    /// Drawn, or given.
    pub fn new() -> Result<Self> {
        let given = std::env::var("PICKET_SEED").ok();
        let drawn = || getrandom::u64().map_err(|error| anyhow::anyhow!("no seed: {error}"));
        let seed = given.map_or_else(drawn, |text| Ok(text.parse()?))?;
        println!("PICKET_SEED={seed}");
        Ok(Self(seed))
    }

    /// Numbers of their own for a part of the test that runs beside others.
    pub fn another(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    /// A number below `end`, by splitmix64.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// A time between these, in milliseconds.
    pub fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most.saturating_sub(least)))
    }
}
