//! How fast the backlog of an outage drained, and how late what was live came meanwhile: asked of the
//! times in MongoDB's documents, not of Picket's own counters.

use std::fmt;
use std::ops::Range;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};

/// When something was captured, when the broker had it, and when it was stored, milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Passage {
    captured_ms: i64,
    at_broker_ms: i64,
    stored_ms: i64,
}

/// What became of what was captured during an outage, and after it.
#[derive(Debug)]
pub struct Drain {
    /// How many seconds of observations were stored in one second; none where there are too few to say.
    pub observations_rate: Option<f64>,
    /// The same of pictures.
    pub pictures_rate: Option<f64>,
    /// Of observations that were captured after the outage, from capture to store.
    pub live: Latency,
    /// The same from capture to the broker.
    pub live_to_broker: Latency,
    /// How many of them the broker had before the last of the backlog.
    pub live_amid: usize,
    /// From capture to store of what was stored before the outage.
    pub before: Latency,
}

/// Milliseconds, sorted.
#[derive(Debug)]
pub struct Latency(Vec<i64>);

impl Latency {
    /// From capture to store, of what a device with the right time captured in this one.
    pub async fn ask(
        database: &Database,
        device: &str,
        captured: Range<Timestamp>,
    ) -> Result<Self> {
        let date = |at: Timestamp| DateTime::from_millis(at.as_millisecond());
        let captured_at = doc! { "$gte": date(captured.start), "$lt": date(captured.end) };
        let filter = doc! { "kind": "observation", "device": device, "captured_at": captured_at };
        let passages = passages(database, "observations", filter).await?;
        Ok(Self::of(passages.iter().map(|p| p.stored_ms - p.captured_ms)))
    }

    fn of(passages: impl Iterator<Item = i64>) -> Self {
        let mut sorted: Vec<_> = passages.collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// A percentile in milliseconds; none if there was nothing.
    pub fn ms(&self, percent: usize) -> Option<i64> {
        let last = self.0.len().checked_sub(1)?;
        self.0.get(last * percent / 100).copied()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ms(50), self.ms(99)) {
            (Some(p50), Some(p99)) => write!(f, "p50 {p50} ms, p99 {p99} ms"),
            _ => write!(f, "none"),
        }
    }
}

impl Drain {
    /// Asks for an outage between these times, of cameras whose clock is this machine's, and that
    /// had begun well before `warm`.
    pub async fn ask(
        database: &Database,
        warm: Timestamp,
        outage: (Timestamp, Timestamp),
    ) -> Result<Self> {
        let (from_ms, to_ms) = (outage.0.as_millisecond(), outage.1.as_millisecond());
        let observations =
            passages(database, "observations", doc! { "kind": "observation" }).await?;
        let pictures = passages(database, "frames", doc! { "kind": "frame" }).await?;
        let live = || observations.iter().filter(|passage| passage.captured_ms > to_ms);
        let warm_ms = warm.as_millisecond();
        let is_before = |p: &&Passage| p.captured_ms > warm_ms && p.stored_ms < from_ms;
        let before = observations.iter().filter(is_before);
        Ok(Self {
            observations_rate: rate(&observations, from_ms, to_ms),
            pictures_rate: rate(&pictures, from_ms, to_ms),
            live: Latency::of(live().map(|p| p.stored_ms - p.captured_ms)),
            live_to_broker: Latency::of(live().map(|p| p.at_broker_ms - p.captured_ms)),
            live_amid: live_amid(&observations, from_ms, to_ms),
            before: Latency::of(before.map(|p| p.stored_ms - p.captured_ms)),
        })
    }
}

async fn passages(database: &Database, collection: &str, filter: Document) -> Result<Vec<Passage>> {
    let mut passages = Vec::new();
    let mut found = database.collection::<Document>(collection).find(filter).await?;
    while let Some(document) = found.try_next().await? {
        let ingest = document.get_document("ingest")?;
        let captured = document.get_datetime("captured_at").context("no captured_at")?;
        passages.push(Passage {
            captured_ms: captured.timestamp_millis(),
            at_broker_ms: ingest.get_datetime("broker_time")?.timestamp_millis(),
            stored_ms: ingest.get_datetime("stored_at")?.timestamp_millis(),
        });
    }
    Ok(passages)
}

/// What waited through an outage of this time. What was captured just before the broker went may have
/// arrived.
fn backlog(passages: &[Passage], from_ms: i64, to_ms: i64) -> impl Iterator<Item = &Passage> {
    let waited =
        move |p: &&Passage| (from_ms..to_ms).contains(&p.captured_ms) && p.at_broker_ms > from_ms;
    passages.iter().filter(waited)
}

/// How many that were captured after the outage the broker had before the last that waited through it.
fn live_amid(passages: &[Passage], from_ms: i64, to_ms: i64) -> usize {
    let Some(last) = backlog(passages, from_ms, to_ms).map(|p| p.at_broker_ms).max() else {
        return 0;
    };
    passages.iter().filter(|p| p.captured_ms > to_ms && p.at_broker_ms < last).count()
}

/// How many seconds of what was captured in this time were stored in one second.
fn rate(passages: &[Passage], from_ms: i64, to_ms: i64) -> Option<f64> {
    let backlog = || backlog(passages, from_ms, to_ms);
    let span = |from: fn(&Passage) -> i64, to: fn(&Passage) -> i64| {
        let (first, last) = (backlog().map(from).min()?, backlog().map(to).max()?);
        Some((last - first) as f64)
    };
    let captured = span(|passage| passage.captured_ms, |passage| passage.captured_ms)?;
    // From when the broker had the first: a short backlog is stored in one batch, all at one time.
    let stored = span(|passage| passage.at_broker_ms, |passage| passage.stored_ms)?.max(1.0);
    (captured > 0.0).then_some(captured / stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_ten_seconds_that_is_stored_within_half_a_second_drained_at_twenty_times() {
        let passage =
            |captured_ms, stored_ms| Passage { captured_ms, at_broker_ms: stored_ms, stored_ms };
        let backlog = (0..=100).map(|n| passage(n * 100, 12_000 + n * 5));
        let (before, live) = (passage(0, 0), passage(12_000, 60_000));
        let all: Vec<_> = backlog.chain([before, live]).collect();
        assert_eq!(rate(&all, 0, 11_000), Some(20.0));
        assert_eq!(rate(&all, 20_000, 30_000), None);
        assert_eq!(live_amid(&all, 0, 11_000), 0);
        assert_eq!(live_amid(&[all[100], passage(12_000, 12_400)], 0, 11_000), 1);
    }
}
