//! `make demo`: the whole path on real parts, watched live, with an outage of the broker in the middle
//! and the books at the end.
//!
//! Settings come from the environment, as `make` hands them on: `DURATION_S`, `OUTAGE_S`, `VIDEO`
//! (file or folder), `RTSP` (address), `CAMERA` (device file), `PAGE_PORT`.

mod outage;
mod show;
mod source;
mod summary;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use picket_service::shutdown::Shutdown;
use picket_tests::checkout;
use picket_tests::fleet::{self, ALL_PARTITIONS, Fleet};
use picket_tests::stack::StackOptions;

use outage::Outage;
use show::{Next, Show};
use source::Source;
use summary::Summary;

/// How long the agent may take to drain, and the centre to write the rest.
const DRAIN: Duration = Duration::from_secs(60);
/// Before the outage, where nobody says how long the demo is to last.
const FIRST_ACT: Duration = Duration::from_secs(15);
/// Enough to see a spool fill.
const OUTAGE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    let source = Source::from_environment()?;
    let duration = seconds("DURATION_S")?;
    let outage = seconds("OUTAGE_S")?.unwrap_or(OUTAGE);
    let dir = checkout::cache().join("demo");
    let _lock = lock(&dir.with_extension("lock"))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir)?;
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;

    println!("demo: everything it writes lies in {}", dir.display());
    println!("demo: starting Kafka, MongoDB and the aggregator (some 20 s)");
    let mut fleet = tokio::select! {
        fleet = Fleet::start_on(&dir, StackOptions::default(), &ALL_PARTITIONS) => fleet?,
        () = shutdown.asked() => bail!("interrupted while starting"),
    };
    let page = fleet.page().await?;
    let agent = fleet.enrol("demo", &source.config()).await?;
    let process = agent.start()?;
    println!("demo: the edge agent plays {}", source.describe());
    println!("\n    live page: {page}\n");

    let mut show = Show::new(fleet, agent, process, shutdown);
    let outage = acts(&mut show, duration, outage).await.context("while the demo ran")?;
    println!("demo: asking the agent to drain and end");
    let Show { fleet, agent, mut process, .. } = show;
    if process.exited()?.is_none() {
        process.signal("TERM")?;
    }
    let status = process.ended(DRAIN).await?;
    ensure!(status.success(), "the agent ended with {status}:\n{}", process.log_tail());
    let findings = fleet::settled(&fleet, &[&agent], DRAIN).await?;
    let summary = Summary::gather(&fleet, &agent, &process.log(), findings, outage).await?;
    fleet.stop().await?;
    summary.print();
    summary.judge(&source)
}

/// The camera runs, the broker is away for a while, the camera runs on. The outage comes on top of the
/// time that the demo is to last, so that there is always something before it and after it.
async fn acts(
    show: &mut Show,
    duration: Option<Duration>,
    outage: Duration,
) -> Result<Option<Outage>> {
    if outage.is_zero() {
        show.watch(duration).await?;
        return Ok(None);
    }
    let first = duration.map_or(FIRST_ACT, |duration| duration / 2);
    if show.watch(Some(first)).await? == Next::End {
        return Ok(None);
    }
    let (outage, next) = Outage::play(show, outage).await?;
    if next == Next::GoOn {
        show.watch(duration.map(|duration| duration - first)).await?;
    }
    Ok(Some(outage))
}

/// A time in seconds from the environment.
fn seconds(name: &str) -> Result<Option<Duration>> {
    let set = std::env::var(name).ok().filter(|text| !text.is_empty());
    let seconds = |text: String| {
        let seconds =
            text.parse().with_context(|| format!("{name}={text} is no number of seconds"));
        seconds.map(Duration::from_secs)
    };
    set.map(seconds).transpose()
}

/// Held while the demo runs: a second one would remove the folder under the first.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("a demo is running already"),
        Err(TryLockError::Error(error)) => Err(error).context("lock the demo's folder"),
    }
}
