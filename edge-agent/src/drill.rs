//! `drill --offline 60s`: an outage on purpose, to see what becomes of what is captured meanwhile.
//!
//! The running agent cuts its own link, so that all of it is what a real outage would do but the
//! cable. It restores it by itself: when the time is over, and at once when this command ends before.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use picket_wire::observation::Reason;
use serde::{Deserialize, Serialize};

use crate::control::{self, ControlError, Request};

/// Longest outage, seconds.
pub const LONGEST_S: u64 = 3600;
/// How long the agent may take beyond the outage and the drain.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a drill waits for what was kept to be sent. A link that takes more than five times the
/// outage for it does not get ahead of a camera.
pub fn drain_limit(offline: Duration) -> Duration {
    (offline * 5).max(Duration::from_secs(300))
}

/// What the agent answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How long the link was cut.
    pub offline_s: f64,
    /// Frames that were captured from the cut to the end of the drill.
    pub captured: u64,
    /// Of these and those before, acknowledged meanwhile.
    pub acknowledged: u64,
    /// Frames that waited, on disk and in memory, when the link was cut.
    pub waited_before: u64,
    /// And at the end of the drill.
    pub wait_after: u64,
    /// Records and pictures that the spool held when the link came back.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// How long it took until the broker had all of these, from the moment when the link came back;
    /// none if the drill did not wait any longer.
    pub drained_s: Option<f64>,
    /// Frames lost, by reason.
    pub lost: BTreeMap<Reason, u64>,
    /// Pictures lost whose observation is not, by reason.
    pub pictures_lost: BTreeMap<Reason, u64>,
    /// How long live records were kept after the drain, from one commit to the one that deletes them
    /// as acknowledged: milliseconds, sorted.
    pub live_ms: Vec<u64>,
}

impl Report {
    /// Whether each frame is accounted for.
    pub fn balances(&self) -> bool {
        let lost: u64 = self.lost.values().sum();
        self.waited_before + self.captured == self.acknowledged + lost + self.wait_after
    }

    /// Whether the outage cost nothing.
    pub fn is_fine(&self) -> bool {
        let nothing = |lost: &BTreeMap<Reason, u64>| lost.values().all(|count| *count == 0);
        self.balances()
            && nothing(&self.lost)
            && nothing(&self.pictures_lost)
            && self.drained_s.is_some()
    }
}

/// Has the agent of this state directory hold a drill, and tells of it; false if it cost something.
pub fn run(state_dir: &Path, offline: Duration, out: &mut impl Write) -> anyhow::Result<bool> {
    let s = offline.as_secs();
    eprintln!("the link is cut for {s} s, unless the agent refuses; ending this command ends it");
    let limit = offline + drain_limit(offline) + ANSWER;
    let report = ask(state_dir, s, limit)?;
    write(&report, out)?;
    Ok(report.is_fine())
}

fn ask(state_dir: &Path, offline_s: u64, limit: Duration) -> Result<Report, ControlError> {
    control::ask(state_dir, &Request::Drill { offline_s }, limit)
}

fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { offline_s, captured, acknowledged, kept, kept_bytes, .. } = report;
    writeln!(out, "offline     {offline_s:.1} s")?;
    writeln!(out, "captured    {captured} frames, and {} waited before", report.waited_before)?;
    writeln!(out, "kept        {kept} records and pictures, {}", megabytes(*kept_bytes as f64))?;
    writeln!(out, "sent        {acknowledged} frames, and {} are on the way", report.wait_after)?;
    writeln!(out, "lost        {}", lost(&report.lost, &report.pictures_lost))?;
    match report.drained_s {
        Some(s) => {
            let s = s.max(0.001);
            let (rate, bytes) = (*kept as f64 / s, megabytes(*kept_bytes as f64 / s));
            let times = offline_s / s;
            writeln!(
                out,
                "drained     in {s:.1} s: {rate:.0} records/s, {bytes}/s, {times:.1} times real time"
            )?;
        }
        None => writeln!(out, "drained     NOT YET: it goes on, `spool stat` shows how far")?,
    }
    match (report.live_ms.get(report.live_ms.len() / 2), report.live_ms.last()) {
        (Some(middle), Some(worst)) => writeln!(
            out,
            "live after  {middle} ms from commit to acknowledgement, {worst} ms at worst, of {}",
            report.live_ms.len()
        )?,
        _ => writeln!(out, "live after  nothing was captured any more")?,
    }
    writeln!(out, "books       {}", if report.balances() { "balance" } else { "DO NOT BALANCE" })
}

fn lost(frames: &BTreeMap<Reason, u64>, pictures: &BTreeMap<Reason, u64>) -> String {
    let told = |what: &str, lost: &BTreeMap<Reason, u64>| {
        let total: u64 = lost.values().sum();
        let reasons: Vec<_> = lost
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        (total > 0).then(|| format!("{total} {what} ({})", reasons.join(", ")))
    };
    let told: Vec<_> =
        [told("FRAMES", frames), told("PICTURES", pictures)].into_iter().flatten().collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            offline_s: 60.0,
            captured: 700,
            acknowledged: 695,
            waited_before: 2,
            wait_after: 7,
            kept: 610,
            kept_bytes: 31_000_000,
            drained_s: Some(3.0),
            live_ms: vec![40, 50, 120],
            ..Report::default()
        }
    }

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        write(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_drill_that_cost_nothing_is_fine_and_shows_its_rates() {
        let (report, text) = (report(), text(&report()));
        assert!(report.is_fine());
        for part in
            ["lost        nothing", "203 records/s", "10.3 MB/s", "20.0 times", "50 ms", "balance"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_was_lost_missing_or_not_drained_is_said_and_not_fine() {
        let full: Reason = Reason::SPOOL_FULL.into();
        let lost = [(full, 5)].into();
        let frames = Report { acknowledged: 690, lost, ..report() };
        assert!(frames.balances() && !frames.is_fine());
        assert!(text(&frames).contains("5 FRAMES (spool-full 5)"), "{}", text(&frames));
        let missing = Report { acknowledged: 694, ..report() };
        assert!(!missing.is_fine() && text(&missing).contains("DO NOT BALANCE"));
        let slow = Report { drained_s: None, ..report() };
        assert!(!slow.is_fine() && text(&slow).contains("NOT YET"));
    }
}
