//! An outage on purpose, in a task of its own, so that all else goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use picket_service::logging::chain;
use picket_wire::observation::Reason;
use picket_wire::status::{Books, SpoolStatus};

use super::{Agent, LOOK};
use crate::control::Call;
use crate::drill::{LONGEST_S, Report, drain_limit};
use crate::heartbeat::Heartbeat;
use crate::spool::{RowId, SpoolError, SpoolReader};
use crate::uplink::UplinkHandle;

/// Live records that are watched after the drain, and for how long at most.
const WATCHED: usize = 20;
const WATCH: Duration = Duration::from_secs(10);

/// Whether a drill runs.
#[derive(Debug, Default)]
pub(super) struct Drills(Arc<AtomicBool>);

/// A drill that runs. However it ends, the link is let go with it.
struct Drill {
    running: Arc<AtomicBool>,
    uplink: UplinkHandle,
    spool: SpoolReader,
    heartbeat: Arc<Heartbeat>,
}

impl Drop for Drill {
    fn drop(&mut self) {
        self.uplink.restore();
        self.running.store(false, Ordering::SeqCst);
    }
}

impl Agent {
    /// Begins a drill, and answers when what was kept is sent. Whoever asked may go before: then the
    /// link comes back at once. Should this task be gone too, the uplink has the time itself.
    pub(super) fn drill(&self, mut call: Call, offline_s: u64) {
        match self.begin_drill(offline_s) {
            Ok(mut drill) => drop(tokio::spawn(async move {
                let report = tokio::select! {
                    report = drill.hold(Duration::from_secs(offline_s)) => report,
                    () = call.gone() => {
                        tracing::warn!("the drill was broken off: the link comes back");
                        return;
                    }
                };
                call.answer(report);
            })),
            Err(why) => call.answer::<Report>(Err(why)),
        }
    }

    fn begin_drill(&self, offline_s: u64) -> Result<Drill, String> {
        if !(1..=LONGEST_S).contains(&offline_s) {
            return Err(format!("{offline_s} seconds offline: must be 1 to {LONGEST_S}"));
        }
        let uplink = self.link.uplink()?;
        let spool = self.spool.reader().map_err(|error| chain(&error))?;
        if self.drills.0.swap(true, Ordering::SeqCst) {
            return Err("a drill runs already: wait for its end, or end it".to_owned());
        }
        let (running, heartbeat) = (Arc::clone(&self.drills.0), Arc::clone(&self.heartbeat));
        let drill = Drill { running, uplink: uplink.clone(), spool, heartbeat };
        let link = drill.uplink.status();
        if !link.up {
            let problem = link.problem.unwrap_or_default();
            return Err(format!("the link is down already, and no drill is needed: {problem}"));
        }
        Ok(drill)
    }
}

/// Lent mutably all through: a reader of the spool may go from thread to thread, and not be shared.
impl Drill {
    async fn hold(&mut self, offline: Duration) -> Result<Report, String> {
        self.cut_and_drain(offline)
            .await
            .map_err(|error| format!("the drill ended early: {error:#}"))
    }

    async fn cut_and_drain(&mut self, offline: Duration) -> anyhow::Result<Report> {
        let before = self.books();
        let began = Instant::now();
        tracing::warn!(offline_s = offline.as_secs(), "a drill: the link is cut");
        self.uplink.cut(offline)?;
        tokio::time::sleep(offline).await;
        let offline_s = began.elapsed().as_secs_f64();
        // What was committed until now is what the outage left; what comes is live again.
        let (kept, below) = (self.spool.status(None)?, self.spool.next_id());
        self.uplink.restore();
        let drained_s = self.drained(below, drain_limit(offline)).await?;
        let live_ms = match drained_s {
            Some(_) => self.watch_live().await?,
            None => Vec::new(),
        };
        let report = report(&before, &self.books(), &kept);
        tracing::info!(?drained_s, kept = kept.records, "the drill is over");
        Ok(Report { offline_s, drained_s, live_ms, ..report })
    }

    /// The books of all cameras, up to this moment.
    fn books(&self) -> Books {
        self.heartbeat.count_captured();
        let mut sum = Books::default();
        for books in self.heartbeat.ledger.all().into_values() {
            sum.captured += books.captured;
            sum.in_memory += books.in_memory;
            sum.spooled += books.spooled;
            sum.acknowledged += books.acknowledged;
            add(&mut sum.dropped, books.dropped);
            add(&mut sum.pictures_dropped, books.pictures_dropped);
        }
        sum
    }

    /// Waits until no row below this number is left, and says how long that took.
    async fn drained(&mut self, below: RowId, limit: Duration) -> Result<Option<f64>, SpoolError> {
        let began = Instant::now();
        while self.spool.has_any_below(below)? {
            if began.elapsed() >= limit {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Some(began.elapsed().as_secs_f64()))
    }

    /// How long single rows stay, one after the other.
    async fn watch_live(&mut self) -> Result<Vec<u64>, SpoolError> {
        let until = Instant::now() + WATCH;
        let mut stays_ms = Vec::new();
        while stays_ms.len() < WATCHED {
            let next = self.spool.next_id();
            while self.spool.next_id() == next {
                if Instant::now() >= until {
                    stays_ms.sort_unstable();
                    return Ok(stays_ms);
                }
                tokio::time::sleep(LOOK).await;
            }
            let committed = Instant::now();
            // One that never goes is shown with the time that was watched.
            while self.spool.has_any_below(next + 1)? && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
            }
            stays_ms.push(u64::try_from(committed.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        stays_ms.sort_unstable();
        Ok(stays_ms)
    }
}

fn add(sum: &mut BTreeMap<Reason, u64>, counts: BTreeMap<Reason, u64>) {
    counts.into_iter().for_each(|(reason, count)| *sum.entry(reason).or_default() += count);
}

/// What changed; neither of the two has a smaller count than the other had before it.
fn report(before: &Books, after: &Books, kept: &SpoolStatus) -> Report {
    let more = |after: &BTreeMap<Reason, u64>, before: &BTreeMap<Reason, u64>| {
        let more = after.iter().map(|(reason, count)| {
            let had = before.get(reason).copied().unwrap_or(0);
            (reason.clone(), count.saturating_sub(had))
        });
        more.filter(|(_, count)| *count > 0).collect()
    };
    Report {
        captured: after.captured.saturating_sub(before.captured),
        acknowledged: after.acknowledged.saturating_sub(before.acknowledged),
        waited_before: before.in_memory + before.spooled,
        wait_after: after.in_memory + after.spooled,
        kept: kept.records,
        kept_bytes: kept.bytes,
        lost: more(&after.dropped, &before.dropped),
        pictures_lost: more(&after.pictures_dropped, &before.pictures_dropped),
        ..Report::default()
    }
}
