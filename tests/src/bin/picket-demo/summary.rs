//! The summary: the books, asked of MongoDB and the spool.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use picket_tests::drain::Drain;
use picket_tests::faults::tracks_are_final;
use picket_tests::fleet::{Agent, Fleet};
use picket_tests::oracle::{Account, Findings, open_spool};

use crate::outage::Outage;
use crate::source::Source;

/// How many frames the cameras gave, as the agent said when it closed them.
fn decoded_frames(agent_log: &str) -> u64 {
    let closed = agent_log.lines().filter(|line| line.contains("camera closed"));
    let decoded = closed.filter_map(|line| line.split_once("decoded=")?.1.split(' ').next());
    decoded.filter_map(|number| number.parse::<u64>().ok()).sum()
}

/// What happened.
pub struct Summary {
    findings: Findings,
    outage: Option<(Outage, Drain)>,
    decoded: u64,
    acknowledged: i64,
    spooled: i64,
    tracks: Tracks,
    dead_letters: usize,
}

/// What the centre has made of the faces.
struct Tracks {
    /// Tracks that stand.
    standing: u64,
    /// Provisional ones that had their place while something before them was missing.
    replaced: u64,
    /// Whether they are those of a run without an outage; nobody can say while a part is spooled.
    as_without_outage: Option<Result<()>>,
}

impl Tracks {
    async fn ask(fleet: &Fleet, agent: &Agent, is_all_there: bool) -> Result<Self> {
        let as_without_outage = match is_all_there {
            true => Some(tracks_are_final(fleet, &[agent]).await),
            false => None,
        };
        let tracks = fleet.database.collection::<Document>("tracks");
        let replaced = tracks.count_documents(doc! { "state": "replaced" }).await?;
        let standing = tracks.count_documents(doc! {}).await? - replaced;
        Ok(Self { standing, replaced, as_without_outage })
    }
}

impl Summary {
    pub async fn gather(
        fleet: &Fleet,
        agent: &Agent,
        log: &str,
        findings: Findings,
        outage: Option<Outage>,
    ) -> Result<Self> {
        let decoded = decoded_frames(log);
        let outage = match outage {
            Some(outage) => {
                let drain = Drain::ask(&fleet.database, outage.span.0, outage.span).await?;
                Some((outage, drain))
            }
            None => None,
        };
        let spool = open_spool(&agent.spool())?;
        let sums = "SELECT coalesce(sum(acknowledged), 0), coalesce(sum(spooled), 0) FROM accounts";
        let (acknowledged, spooled) =
            spool.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let tracks = Tracks::ask(fleet, agent, spooled == 0).await?;
        let dead_letters = fleet.dead_letters()?;
        Ok(Self { findings, outage, decoded, acknowledged, spooled, tracks, dead_letters })
    }

    fn total(&self, of: impl Fn(&Account) -> usize) -> usize {
        self.findings.accounts.values().map(of).sum()
    }

    fn sampled(&self) -> u64 {
        self.findings.accounts.values().map(|account| account.last_seq).sum()
    }

    pub fn print(&self) {
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
        row("tracks", self.tracks.standing.to_string());
        row("  provisional, replaced", self.tracks.replaced.to_string());
        row("latency capture to MongoDB", format!("p50 {}, p99 {}", ms(50.0), ms(99.0)));
        row("dead letters", self.dead_letters.to_string());
        for account in self.findings.accounts.values() {
            for (reason, count) in account.drops() {
                row("drops by reason", format!("{reason}: {count}"));
            }
        }
        if let Some((outage, drain)) = &self.outage {
            print_outage(outage, drain);
            let same = match self.tracks.as_without_outage {
                Some(Ok(())) => "yes",
                Some(Err(_)) => "NO",
                None => "unknown: some is still spooled",
            };
            row("  tracks as without it", same.to_owned());
        }
        self.print_cameras();
        let balanced = if self.balanced() { "yes" } else { "NO" };
        row("books balanced", balanced.to_owned());
    }

    /// The books of each camera, over all its epochs.
    fn print_cameras(&self) {
        let mut cameras: BTreeMap<&str, Vec<&Account>> = BTreeMap::new();
        for (epoch, account) in &self.findings.accounts {
            let camera = epoch.rsplit_once('/').map_or(epoch.as_str(), |(camera, _)| camera);
            cameras.entry(camera).or_default().push(account);
        }
        println!(
            "  {:<18}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
            "camera", "sampled", "stored", "skipped", "dropped", "spooled", "doubled", "pictures"
        );
        for (camera, accounts) in cameras {
            let sum = |of: fn(&Account) -> usize| -> usize {
                accounts.iter().map(|account| of(account)).sum()
            };
            println!(
                "  {camera:<18}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
                accounts.iter().map(|account| account.last_seq).sum::<u64>(),
                sum(|a| a.stored.len()),
                sum(|a| a.skipped.len()),
                sum(|a| a.dropped.len()),
                sum(|a| a.spooled.len()),
                sum(|a| a.settled_twice().len()),
                sum(|a| a.pictures_stored.len()),
            );
        }
    }

    /// Every sampled frame is acknowledged, spooled or dropped at the agent, and nowhere twice.
    fn balanced(&self) -> bool {
        let settled = self.acknowledged + self.spooled + self.total(|a| a.dropped.len()) as i64;
        self.findings.violations.is_empty() && settled == self.sampled() as i64
    }

    pub fn judge(self, source: &Source) -> Result<()> {
        ensure!(self.balanced(), "the books do not balance: {:?}", self.findings.violations);
        ensure!(self.total(|a| a.stored.len()) > 0, "no observation was stored");
        ensure!(self.dead_letters == 0, "{} messages became dead letters", self.dead_letters);
        let due = self.total(|a| a.pictures_due.len());
        let stored = self.total(|a| a.pictures_stored.len());
        ensure!(stored >= due, "{due} pictures were to be stored, {stored} are");
        if let Source::Clip(_) = source {
            ensure!(stored > 0, "no picture was stored");
            ensure!(self.tracks.standing > 0, "the face in the clip has no track");
        }
        let tracks = self.tracks.as_without_outage.unwrap_or(Ok(()));
        tracks.context("the tracks are not those of a run without an outage")
    }
}

fn print_outage(outage: &Outage, drain: &Drain) {
    let row = |name: &str, value: String| println!("  {name:<28} {value}");
    let (from, to) = outage.span;
    row("without the broker", format!("{} s", (to - from).get_seconds()));
    let kept = outage.peak;
    row("  kept in the spool", format!("{} records, {} pictures", kept.records, kept.pictures));
    let took =
        outage.drained_in.map_or("-".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
    row("  sent to the broker in", took);
    let times = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
    let (records, pictures) = (times(drain.observations_rate), times(drain.pictures_rate));
    row("  drain rate, to MongoDB", format!("{records} times real time, pictures {pictures}"));
    row("  live meanwhile", drain.live.to_string());
}
