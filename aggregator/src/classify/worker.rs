//! A batch: messages to pictures, labels, documents. It repeats its writes until MongoDB has them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metrics::counter;
use mongodb::bson::DateTime;
use picket_service::logging::chain;
use picket_wire::{Message as WireMessage, Picture, Topic};

use super::classifier::{Classifier, ComputeError, step};
use super::metrics as names;
use super::queue::Message;
use crate::remedy::Remedy;
use crate::store::classes::{Class, Classified, ClassifiedBy, Put, Waiting};
use crate::store::{Store, StoreError};
use crate::upsert::digest;

const HOUR_MS: i64 = 60 * 60 * 1000;
/// The first wait after a failed write, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Of a long outage, every this many failures are logged.
const LOGGED: u32 = 12;
/// Between two messages of one reason that the log names.
const NAMED_EVERY: Duration = Duration::from_secs(10);

/// Why a classifier cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The model.
    #[error("cannot classify")]
    Compute(#[from] ComputeError),
    /// Documents that MongoDB will never take.
    #[error("cannot write what was found")]
    Write(#[source] StoreError),
    /// The thread that computes.
    #[error("the thread that computes ended without a word")]
    Task(#[from] tokio::task::JoinError),
    /// It went with the thread that had it.
    #[error("the classifier is gone since a thread that computed ended without a word")]
    Gone,
}

/// How long what was found may wait, and what is too old to be looked at, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// How long labels wait for their observation.
    pub wait_ms: i64,
    /// How long observations are kept.
    pub kept_ms: i64,
}

impl Ages {
    /// Of these settings.
    pub fn new(wait_hours: u32, observations_days: u32) -> Self {
        let (wait, kept) = (i64::from(wait_hours), i64::from(observations_days) * 24);
        Self { wait_ms: wait * HOUR_MS, kept_ms: kept * HOUR_MS }
    }

    /// When labels are given up that were found now. A frame that waited in the broker for long, because
    /// everything was off, comes about as late as its observation does; and where this machine's clock is
    /// behind, the broker's counts.
    fn give_up_ms(&self, broker_time_ms: i64, now_ms: i64) -> i64 {
        broker_time_ms.max(now_ms).saturating_add(self.wait_ms)
    }
}

/// Works off batches, one at a time.
pub struct Worker {
    /// None only while it is lent to a thread that computes, and after that thread has panicked.
    classifier: Option<Classifier>,
    by: ClassifiedBy,
    store: Store,
    ages: Ages,
    said: Said,
}

/// A message that holds a frame.
struct Frame {
    picture: Picture,
    sha256: String,
    broker_time_ms: i64,
}

impl Worker {
    /// With a model that is loaded.
    pub fn new(classifier: Classifier, store: Store, ages: Ages) -> Self {
        let by = ClassifiedBy {
            model: classifier.name().to_owned(),
            model_sha256: classifier.model_sha256().to_owned(),
            picture_sha256: String::new(),
        };
        Self { classifier: Some(classifier), by, store, ages, said: Said::default() }
    }

    /// Deals with each message of a batch; returns when all that was found is durable.
    pub async fn work_off(&mut self, batch: &[Message]) -> Result<(), WorkError> {
        let now_ms = DateTime::now().timestamp_millis();
        let frames: Vec<Frame> =
            batch.iter().filter_map(|message| self.frame(message, now_ms)).collect();
        let found = self.classify(frames, now_ms).await?;
        let began = Instant::now();
        let put = put(&self.store, &found).await?;
        step("write", began.elapsed());
        let outcomes =
            [("stored", put.stored), ("waiting", put.waiting), ("conflict", put.conflicts)];
        for (outcome, count) in outcomes {
            counter!(names::PICTURES, "outcome" => outcome).increment(count);
        }
        counter!(names::MESSAGES).increment(batch.len() as u64);
        counter!(names::BATCHES).increment(1);
        Ok(())
    }

    /// The frame that a message holds; what holds none is counted.
    fn frame(&mut self, message: &Message, now_ms: i64) -> Option<Frame> {
        let record = &message.record;
        let key = record.key.as_deref().unwrap_or_default();
        let place = || format!("{}/{} of the frames", message.partition, record.offset);
        let read = picket_wire::decode(Topic::Frames, key, &record.headers, record.body());
        let picture = match read {
            Ok(WireMessage::Picture { picture, .. }) => picture,
            Ok(_) => return self.said.skip("wrong-topic", &place(), "it holds no picture"),
            Err(reject) => return self.said.skip(reject.code(), &place(), &reject.to_string()),
        };
        if picture.crop.is_some() {
            return count_skipped("crop");
        }
        if record.broker_time_ms.saturating_add(self.ages.kept_ms) <= now_ms {
            return count_skipped("expired");
        }
        let (sha256, broker_time_ms) = (digest(record.body()), record.broker_time_ms);
        Some(Frame { picture, sha256, broker_time_ms })
    }

    /// What is found in these, by a thread that may take its time.
    async fn classify(
        &mut self,
        frames: Vec<Frame>,
        now_ms: i64,
    ) -> Result<Vec<Waiting>, WorkError> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let mut classifier = self.classifier.take().ok_or(WorkError::Gone)?;
        let computing = tokio::task::spawn_blocking(move || {
            let jpegs: Vec<&[u8]> = frames.iter().map(|f| f.picture.jpeg.as_slice()).collect();
            let found = classifier.classify(&jpegs);
            (classifier, frames, found)
        });
        let (classifier, frames, found) = computing.await?;
        self.classifier = Some(classifier);
        let mut all = Vec::with_capacity(frames.len());
        for (frame, found) in frames.into_iter().zip(found?) {
            match found {
                Ok(classes) => all.push(self.waiting(frame, classes, now_ms)),
                Err(e) => {
                    let id = frame.picture.id_text();
                    self.said.skip::<()>(e.reason(), &id, &chain(&e));
                }
            }
        }
        Ok(all)
    }

    fn waiting(&self, frame: Frame, classes: Vec<Class>, now_ms: i64) -> Waiting {
        let classified_by = ClassifiedBy { picture_sha256: frame.sha256, ..self.by.clone() };
        let id = frame.picture.id.to_string();
        let give_up_ms = self.ages.give_up_ms(frame.broker_time_ms, now_ms);
        Waiting::new(Classified { id, classes, classified_by }, give_up_ms)
    }
}

async fn put(store: &Store, found: &[Waiting]) -> Result<Put, WorkError> {
    if found.is_empty() {
        return Ok(Put::default());
    }
    let mut retries = Retries::new("write");
    loop {
        match store.put_classes(found).await {
            Ok(put) => return Ok(put),
            Err(e) => retries.absorb(e).await.map_err(WorkError::Write)?,
        }
    }
}

/// The failures of one step in a row.
pub struct Retries {
    step: &'static str,
    failures: u32,
}

impl Retries {
    /// None yet.
    pub fn new(step: &'static str) -> Self {
        Self { step, failures: 0 }
    }

    /// Waits before the step is tried again, or gives the error back if that is no use.
    pub async fn absorb(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.remedy() != Remedy::Retry {
            return Err(error);
        }
        counter!(names::RETRIES, "step" => self.step).increment(1);
        if self.failures.is_multiple_of(LOGGED) {
            let (step, failures) = (self.step, self.failures + 1);
            let said = chain(&error);
            tracing::warn!(failures, "{step}: repeated until it succeeds, reading waits: {said}");
        }
        let (first, longest) = RETRY;
        tokio::time::sleep(first.saturating_mul(1 << self.failures.min(10)).min(longest)).await;
        self.failures += 1;
        Ok(())
    }
}

fn count_skipped<T>(reason: &'static str) -> Option<T> {
    counter!(names::SKIPPED, "reason" => reason).increment(1);
    None
}

/// What the log has named of the messages that get no labels: a device that sends nothing else must not
/// fill the disk.
#[derive(Default)]
struct Said(BTreeMap<&'static str, (Instant, u64)>);

impl Said {
    /// Counts one, and names it if it is time.
    fn skip<T>(&mut self, reason: &'static str, subject: &str, why: &str) -> Option<T> {
        if let Some(silent) = self.is_time(reason, Instant::now()) {
            tracing::warn!(reason, silent, "{subject} gets no labels: {why}");
        }
        count_skipped(reason)
    }

    /// How many were not named since the last one that was, if it is time to name one.
    fn is_time(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        match self.0.get_mut(reason) {
            Some((last, silent)) if now.saturating_duration_since(*last) < NAMED_EVERY => {
                *silent += 1;
                None
            }
            _ => Some(self.0.insert(reason, (now, 0)).map_or(0, |(_, silent)| silent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_frame_that_lay_in_the_broker_for_long_wait_from_when_they_were_found() {
        let ages = Ages::new(1, 30);
        assert_eq!(ages.give_up_ms(5, 9 * 24 * HOUR_MS), (9 * 24 + 1) * HOUR_MS);
        assert_eq!(ages.give_up_ms(7 * HOUR_MS, 0), 8 * HOUR_MS, "a clock that is behind");
    }

    #[test]
    fn the_first_of_each_reason_is_named_and_then_one_in_a_while_with_how_many_were_not() {
        let (mut said, now) = (Said::default(), Instant::now());
        assert_eq!(said.is_time("empty", now), Some(0));
        assert_eq!(said.is_time("not-jpeg", now), Some(0));
        assert_eq!(said.is_time("empty", now), None);
        assert_eq!(said.is_time("empty", now), None);
        assert_eq!(said.is_time("empty", now + NAMED_EVERY), Some(2));
        assert_eq!(said.is_time("empty", now + NAMED_EVERY), None);
    }
}
