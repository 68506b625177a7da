//! `make demo`: the whole path on real parts, watched live, with the books at the end.
//!
//! Settings come from the environment, as `make` hands them on: `DURATION_S`, `VIDEO` (file or
//! folder), `RTSP` (address), `CAMERA` (device file), `PAGE_PORT`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mongodb::bson::{Document, doc};
use picket_service::shutdown::Shutdown;
use picket_tests::checkout;
use picket_tests::fleet::{self, Agent, Fleet};
use picket_tests::oracle::{Findings, open_spool};
use picket_tests::process::Process;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(2);
/// How long the agent may take to drain, and the centre to write the rest.
const DRAIN: Duration = Duration::from_secs(60);

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
        fleet = Fleet::start(&dir) => fleet?,
        () = shutdown.asked() => bail!("interrupted while starting"),
    };
    let page = fleet.page().await?;
    let agent = fleet.enrol("demo", &source.config()).await?;
    let mut process = agent.start()?;
    println!("demo: the edge agent plays {}", source.describe());
    println!("\n    live page: {page}\n");

    watch(&mut fleet, &mut process, &shutdown).await.context("while the demo ran")?;
    println!("demo: asking the agent to drain and end");
    if process.exited()?.is_none() {
        process.signal("TERM")?;
    }
    let status = process.ended(DRAIN).await?;
    ensure!(status.success(), "the agent ended with {status}:\n{}", process.log_tail());
    let findings = fleet::settled(&fleet, &[&agent], DRAIN).await?;
    let decoded = decoded_frames(&process.log());
    let summary = Summary::gather(&fleet, &agent, findings, decoded).await?;
    fleet.stop().await?;
    summary.print();
    summary.judge(&source)
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

/// What the agent captures.
enum Source {
    Clip(PathBuf),
    Video(PathBuf),
    Folder(PathBuf),
    Rtsp(String),
    Camera(String),
}

impl Source {
    fn from_environment() -> Result<Self> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (set("VIDEO"), set("RTSP"), set("CAMERA")) {
            (Some(path), None, None) => {
                let path = std::fs::canonicalize(&path).with_context(|| format!("VIDEO={path}"))?;
                Ok(if path.is_dir() { Self::Folder(path) } else { Self::Video(path) })
            }
            (None, Some(url), None) => Ok(Self::Rtsp(url)),
            (None, None, Some(device)) => Ok(Self::Camera(device)),
            (None, None, None) => Ok(Self::Clip(checkout::clip()?)),
            _ => bail!("give one of VIDEO, RTSP and CAMERA, not several"),
        }
    }

    fn config(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let camera = |source: String| format!("[[camera]]\nname = \"front\"\n{source}\n");
        match self {
            Self::Clip(path) | Self::Video(path) => camera(format!(
                "source.file = {{ path = {}, repeat = true }}",
                quoted(&path.to_string_lossy())
            )),
            Self::Folder(path) => {
                format!("[[folder]]\npath = {}\npace = \"none\"\n", quoted(&path.to_string_lossy()))
            }
            Self::Rtsp(url) => camera(format!("source.rtsp = {{ url = {} }}", quoted(url))),
            Self::Camera(device) => {
                camera(format!("source.v4l2 = {{ device = {} }}", quoted(device)))
            }
        }
    }

    /// For people; an address may hold a password, so it is not repeated.
    fn describe(&self) -> String {
        match self {
            Self::Clip(_) => "a real clip of a man in a car, as a camera, over and over".to_owned(),
            Self::Video(path) => format!("{} as a camera, over and over", path.display()),
            Self::Folder(path) => format!("each video in {}, as fast as it goes", path.display()),
            Self::Rtsp(_) => "the network camera at RTSP".to_owned(),
            Self::Camera(device) => device.clone(),
        }
    }
}

/// Shows progress until the time is over, the user ends it, or the agent has read everything.
async fn watch(fleet: &mut Fleet, agent: &mut Process, shutdown: &Shutdown) -> Result<()> {
    let limit = std::env::var("DURATION_S").ok().filter(|text| !text.is_empty());
    let limit: Option<u64> =
        limit.map(|text| text.parse().with_context(|| format!("DURATION_S={text}"))).transpose()?;
    let started = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SHOW_EVERY) => {}
            () = shutdown.asked() => return Ok(()),
        }
        if agent.exited()?.is_some_and(|status| status.success()) {
            println!("demo: the agent has read everything and ended");
            return Ok(());
        }
        agent.expect_running()?;
        fleet.aggregator.expect_running()?;
        fleet.stack.expect_running()?;
        let elapsed = started.elapsed().as_secs();
        println!("demo: {elapsed:>4} s  {}", progress(fleet).await?);
        if limit.is_some_and(|limit| elapsed >= limit) {
            return Ok(());
        }
    }
}

async fn progress(fleet: &Fleet) -> Result<String> {
    let count = async |name: &str| {
        fleet.database.collection::<Document>(name).estimated_document_count().await
    };
    let (observations, frames, tracks) =
        tokio::try_join!(count("observations"), count("frames"), count("tracks"))?;
    Ok(format!("stored so far: {observations} records, {frames} pictures, {tracks} tracks"))
}

/// How many frames the cameras gave, as the agent said when it closed them.
fn decoded_frames(agent_log: &str) -> u64 {
    let closed = agent_log.lines().filter(|line| line.contains("camera closed"));
    let decoded = closed.filter_map(|line| line.split_once("decoded=")?.1.split(' ').next());
    decoded.filter_map(|number| number.parse::<u64>().ok()).sum()
}

/// What happened, asked of MongoDB and the spool.
struct Summary {
    findings: Findings,
    decoded: u64,
    acknowledged: i64,
    spooled: i64,
    tracks: u64,
    dead_letters: usize,
}

impl Summary {
    async fn gather(
        fleet: &Fleet,
        agent: &Agent,
        findings: Findings,
        decoded: u64,
    ) -> Result<Self> {
        let tracks =
            fleet.database.collection::<Document>("tracks").count_documents(doc! {}).await?;
        let spool = open_spool(&agent.spool())?;
        let sums = "SELECT coalesce(sum(acknowledged), 0), coalesce(sum(spooled), 0) FROM accounts";
        let (acknowledged, spooled) =
            spool.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let dead_letters = fleet.dead_letters()?;
        Ok(Self { findings, decoded, acknowledged, spooled, tracks, dead_letters })
    }

    fn total(&self, of: impl Fn(&picket_tests::oracle::Account) -> usize) -> usize {
        self.findings.accounts.values().map(of).sum()
    }

    fn sampled(&self) -> u64 {
        self.findings.accounts.values().map(|account| account.last_seq).sum()
    }

    fn print(&self) {
        let row = |name: &str, value: String| println!("  {name:<28} {value}");
        let ms = |p| self.findings.latency_ms(p).map_or("-".to_owned(), |ms| format!("{ms} ms"));
        println!("\nSummary, asked of MongoDB and the spool");
        row("frames from the source", self.decoded.to_string());
        row("frames sampled (got a seq)", self.sampled().to_string());
        row("  looked at and stored", self.total(|a| a.stored.len()).to_string());
        row("  skipped", self.total(|a| a.skipped.len()).to_string());
        row("  dropped", self.total(|a| a.dropped.len()).to_string());
        row("  still spooled", self.spooled.to_string());
        row("acknowledged by the broker", self.acknowledged.to_string());
        row("pictures stored", self.total(|a| a.pictures_stored.len()).to_string());
        row("tracks", self.tracks.to_string());
        row("latency capture to MongoDB", format!("p50 {}, p99 {}", ms(50.0), ms(99.0)));
        row("dead letters", self.dead_letters.to_string());
        for account in self.findings.accounts.values() {
            for (reason, count) in account.drops() {
                row("drops by reason", format!("{reason}: {count}"));
            }
        }
        let balanced = if self.balanced() { "yes" } else { "NO" };
        row("books balanced", balanced.to_owned());
    }

    /// Every sampled frame is acknowledged, spooled or dropped at the agent, and nowhere twice.
    fn balanced(&self) -> bool {
        let settled = self.acknowledged + self.spooled + self.total(|a| a.dropped.len()) as i64;
        self.findings.violations.is_empty() && settled == self.sampled() as i64
    }

    fn judge(&self, source: &Source) -> Result<()> {
        ensure!(self.balanced(), "the books do not balance: {:?}", self.findings.violations);
        ensure!(self.total(|a| a.stored.len()) > 0, "no observation was stored");
        ensure!(self.dead_letters == 0, "{} messages became dead letters", self.dead_letters);
        let due = self.total(|a| a.pictures_due.len());
        let stored = self.total(|a| a.pictures_stored.len());
        ensure!(stored >= due, "{due} pictures were to be stored, {stored} are");
        if let Source::Clip(_) = source {
            ensure!(stored > 0, "no picture was stored");
            ensure!(self.tracks > 0, "the face in the clip has no track");
        }
        Ok(())
    }
}
