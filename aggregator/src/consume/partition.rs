//! The work on one partition: batches, one after the other, each to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use metrics::{counter, histogram};
use mongodb::bson::{DateTime, RawDocumentBuf};
use picket_wire::Outgoing;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;

use super::backoff::Backoff;
use super::dead_letter::DeadLetters;
use super::effects::{Effects, Entry, Image};
use super::error::PartitionError;
use super::frames::Frames;
use super::inbox::Inbox;
use super::kafka::{self, Received};
use super::membership::PartitionId;
use super::observations::Observations;
use super::outbox::Outbox;
use super::proof::Proof;
use super::settings::Settings;
use super::status;
use super::twins::Twins;
use crate::metrics as names;
use crate::store::Store;
use crate::store::bulk::Update;
use crate::store::checkpoints::{LogMark, Owner};
use crate::upsert::{Images, Origin};

/// Pictures of a partition written at a time: each waits for the disk, which makes many durable in one go.
const IMAGES_AT_ONCE: usize = 32;

/// What the work of all partitions shares.
pub struct Shared {
    /// How to batch.
    pub settings: Settings,
    /// Documents go there.
    pub store: Store,
    /// Pictures go there.
    pub images: Images,
    /// What cannot be read goes there.
    pub dead_letters: DeadLetters,
    /// What others are told of tracks goes there.
    pub tracks: Outbox,
}

/// What a partition tells the group.
#[derive(Debug)]
pub enum Report {
    /// Everything before this offset is stored; with the latest time at which any of the last batch was
    /// appended.
    Stored(PartitionId, i64, Option<DateTime>),
    /// There is room for more records.
    Drained(PartitionId),
    /// The work stopped by itself.
    Stopped(PartitionId, PartitionError),
}

/// What is done with the records of a topic.
pub enum Lane {
    /// Ledger, tracker, documents.
    Observations(Box<Observations>),
    /// Pictures.
    Frames(Frames),
    /// Heartbeats.
    Status(Twins),
}

impl Lane {
    /// Whether there is something to do without a record.
    fn has_work(&self) -> bool {
        matches!(self, Self::Observations(lane) if lane.has_work())
    }

    /// Reads what the batch builds upon, then works out what it does.
    async fn work(
        &mut self,
        entries: Vec<Entry>,
        last_offset: i64,
        partition: &str,
    ) -> Result<Effects, PartitionError> {
        let mut backoff = Backoff::new(partition);
        let known = loop {
            let known = match self {
                Self::Observations(lane) => lane.load(&entries).await,
                Self::Frames(lane) => lane.load(&entries).await,
                Self::Status(twins) => return Ok(status::apply(entries, twins)),
            };
            match known {
                Ok(known) => break known,
                Err(e) => backoff.absorb(PartitionError::Load(e)).await?,
            }
        };
        match self {
            Self::Observations(lane) => lane.apply(entries, known, last_offset),
            Self::Frames(lane) => lane.apply(entries, known),
            Self::Status(twins) => Ok(status::apply(entries, twins)),
        }
        .map_err(PartitionError::Apply)
    }
}

/// How long a batch takes, and each of its steps.
struct Stopwatch {
    topic: &'static str,
    begin: Instant,
    step: Instant,
}

impl Stopwatch {
    fn start(topic: &'static str) -> Self {
        let begin = Instant::now();
        Self { topic, begin, step: begin }
    }

    fn step_done(&mut self, step: &'static str) {
        let took = std::mem::replace(&mut self.step, Instant::now()).elapsed();
        histogram!(names::BATCH_STEP, "topic" => self.topic, "step" => step)
            .record(took.as_secs_f64());
    }

    fn batch_done(&self) {
        histogram!(names::BATCH, "topic" => self.topic).record(self.begin.elapsed().as_secs_f64());
    }
}

/// The worker of one partition.
pub struct Worker {
    /// Which.
    pub id: PartitionId,
    /// What lets its checkpoints be written.
    pub owner: Owner,
    /// What is done with its records.
    pub lane: Lane,
    /// Where they come from.
    pub inbox: Inbox,
    /// Everything before it is stored.
    pub next_offset: i64,
    /// What it shares with others.
    pub shared: Arc<Shared>,
    /// Where it reports.
    pub reports: mpsc::UnboundedSender<Report>,
    /// When it was last seen that nobody else owns the partition.
    pub proof: Proof,
    /// Where it was last seen that the log is the same one.
    pub mark: watch::Receiver<Option<LogMark>>,
}

impl Worker {
    /// Works until told to stop; the batch in hand is brought to its end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let name = self.owner.claim.id();
        loop {
            let batch = tokio::select! {
                biased;
                // An error means that whoever could tell is gone, which is an end as well.
                _ = stop.wait_for(|stop| *stop) => return,
                batch = self.collect() => batch,
            };
            let Some(batch) = batch else { return };
            if self.inbox.has_drained() {
                self.report(Report::Drained(self.id));
            }
            match self.process(batch, &name).await {
                Ok(newest) => self.report(Report::Stored(self.id, self.next_offset, newest)),
                Err(e) => return self.report(Report::Stopped(self.id, e)),
            }
        }
    }

    /// The group outlives its workers; if it does not, nobody is left to be told.
    fn report(&self, report: Report) {
        let _ = self.reports.send(report);
    }

    /// The next batch: bounded by count, bytes, and the time since its first record. It is empty where
    /// there is something to do without a record, and none waits.
    async fn collect(&mut self) -> Option<Vec<Received>> {
        let settings = &self.shared.settings;
        let first = if self.lane.has_work() {
            match self.inbox.recv().now_or_never() {
                Some(first) => first?,
                None => return Some(Vec::new()),
            }
        } else {
            self.inbox.recv().await?
        };
        let deadline = tokio::time::Instant::now() + Duration::from_millis(settings.batch_wait_ms);
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < settings.batch_records && bytes < settings.batch_kib * 1024 {
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(record)) => {
                    bytes += record.bytes();
                    batch.push(record);
                }
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    /// Brings a batch to its end; returns the latest time at which any of it was appended.
    async fn process(
        &mut self,
        batch: Vec<Received>,
        name: &str,
    ) -> Result<Option<DateTime>, PartitionError> {
        let topic = self.id.0.suffix();
        let mut clock = Stopwatch::start(topic);
        let count = batch.len() as u64;
        let next_offset = batch.last().map_or(self.next_offset, |record| record.offset + 1);
        let entries = self.read(batch);
        let newest_ms = entries.iter().map(|entry| entry.origin.broker_time_ms).max();
        let newest = newest_ms.map(DateTime::from_millis);
        let mut effects = self.lane.work(entries, self.next_offset - 1, name).await?;
        if next_offset == self.next_offset && effects.is_empty() {
            return Ok(newest);
        }
        effects.end.next_offset = next_offset;
        effects.end.newest_at = newest;
        effects.end.mark = *self.mark.borrow();
        clock.step_done("work");
        self.put_aside(&effects, name).await?;
        clock.step_done("dead-letters");
        let paths = effects.images.iter().map(|image| image.path.clone()).collect();
        let claim = self.shared.images.claim(paths).await;
        let pictures_since = Instant::now();
        self.put_images(&effects.images, name).await?;
        clock.step_done("images");
        self.write(&effects, pictures_since, name).await?;
        drop(claim);
        clock.step_done("documents");
        self.tell(&effects.told, name).await?;
        clock.step_done("tracks");
        self.end(&effects, name).await?;
        clock.step_done("checkpoint");
        counter!(names::BATCHES, "topic" => topic).increment(1);
        counter!(names::BATCH_RECORDS, "topic" => topic).increment(count);
        counter!(names::DUPLICATES, "topic" => topic).increment(effects.duplicates);
        counter!(names::LATE).increment(effects.late);
        clock.batch_done();
        let now_ms = Timestamp::now().as_millisecond();
        for captured_ms in effects.captured_ms {
            #[expect(clippy::cast_precision_loss, reason = "a difference of seconds")]
            let seconds = (now_ms - captured_ms).max(0) as f64 / 1000.0;
            histogram!(names::CAPTURE_TO_STORE).record(seconds);
        }
        self.next_offset = next_offset;
        Ok(newest)
    }

    fn read(&self, batch: Vec<Received>) -> Vec<Entry> {
        let stored_at_ms = Timestamp::now().as_millisecond();
        let topic = self.id.0;
        let entries = batch.into_iter().map(|record| {
            let origin = Origin {
                topic: self.owner.claim.topic.clone(),
                partition: self.owner.claim.partition,
                offset: record.offset,
                broker_time_ms: record.broker_time_ms,
                stored_at_ms,
            };
            let bytes = record.body().len() as u64;
            let entry = Entry::read(topic, record, origin);
            let labels = [("topic", topic.suffix()), ("kind", entry.kind())];
            counter!(names::RECORDS, &labels).increment(1);
            counter!(names::BYTES, "topic" => topic.suffix()).increment(bytes);
            entry
        });
        entries.collect()
    }

    async fn put_aside(&self, effects: &Effects, name: &str) -> Result<(), PartitionError> {
        for letter in &effects.dead_letters {
            let mut backoff = Backoff::new(name);
            let (topic, partition) = (&self.owner.claim.topic, self.owner.claim.partition);
            while let Err(e) = self.shared.dead_letters.send(letter, topic, partition).await {
                backoff.absorb(PartitionError::DeadLetter(e)).await?;
            }
            let labels = [("topic", self.id.0.suffix()), ("reason", letter.reason)];
            counter!(names::DEAD_LETTERS, &labels).increment(1);
            tracing::warn!(
                topic,
                partition,
                offset = letter.record.offset,
                reason = letter.reason,
                "put aside on the dead-letter topic: {}",
                letter.detail
            );
        }
        Ok(())
    }

    /// Writes pictures until the store has them all.
    async fn put_images(&self, images: &[Image], name: &str) -> Result<(), PartitionError> {
        let store = &self.shared.images;
        let mut backoff = Backoff::new(name);
        let mut left = images.to_vec();
        loop {
            let puts = left.into_iter().map(|image| async move {
                let outcome = store.put(&image.path, image.jpeg.clone()).await;
                outcome.err().map(|error| (image, error))
            });
            let failed = stream::iter(puts).buffer_unordered(IMAGES_AT_ONCE);
            let failed: Vec<_> = failed.filter_map(std::future::ready).collect().await;
            let (images, errors): (Vec<_>, Vec<_>) = failed.into_iter().unzip();
            // Told of once, not for each picture.
            let Some(error) = errors.into_iter().next() else { return Ok(()) };
            backoff.absorb(PartitionError::Image(error)).await?;
            left = images;
        }
    }

    /// Writes documents until MongoDB has them all. Pictures that wait for theirs are written again
    /// before they are so old that another instance takes them for orphans.
    async fn write(
        &mut self,
        effects: &Effects,
        mut pictures_since: Instant,
        name: &str,
    ) -> Result<(), PartitionError> {
        let mut backoff = Backoff::new(name);
        for (collection, documents) in effects.inserts.iter().filter(|(_, all)| !all.is_empty()) {
            loop {
                while pictures_since.elapsed() > self.shared.images.renew_after() {
                    pictures_since = Instant::now();
                    self.put_images(&effects.images, name).await?;
                }
                match self.try_insert(collection, documents).await {
                    Ok(()) => break,
                    Err(e) => backoff.absorb(e).await?,
                }
            }
        }
        for (collection, updates) in effects.writes.iter().filter(|(_, all)| !all.is_empty()) {
            while let Err(e) = self.try_write(collection, updates).await {
                backoff.absorb(e).await?;
            }
        }
        Ok(())
    }

    async fn try_insert(
        &mut self,
        collection: &'static str,
        documents: &[RawDocumentBuf],
    ) -> Result<(), PartitionError> {
        self.prove_ownership().await?;
        let written = self.shared.store.insert_once(collection, documents).await;
        written.map_err(PartitionError::Write)
    }

    async fn try_write(
        &mut self,
        collection: &'static str,
        updates: &[Update],
    ) -> Result<(), PartitionError> {
        self.prove_ownership().await?;
        let written = self.shared.store.write(collection, updates).await;
        written.map_err(PartitionError::Write)
    }

    /// Asks whether somebody else owns the partition by now, unless that was seen a moment ago.
    async fn prove_ownership(&mut self) -> Result<(), PartitionError> {
        if self.proof.is_stale() {
            let proof = Proof::of_what_follows();
            let proved = self.shared.store.prove(&self.owner.claim).await;
            proved.map_err(PartitionError::Ownership)?;
            self.proof = proof;
        }
        Ok(())
    }

    /// Tells others of tracks, each at least once. What is one camera's keeps its order.
    async fn tell(&self, told: &[Outgoing], name: &str) -> Result<(), PartitionError> {
        let mut backoff = Backoff::new(name);
        loop {
            let sent = told.iter().map(|message| {
                let headers = kafka::headers(&message.headers);
                self.shared.tracks.send(Some(message.key.as_bytes()), headers, Some(&message.value))
            });
            match try_join_all(sent).await {
                Ok(_) => return Ok(()),
                Err(e) => backoff.absorb(PartitionError::Tell(e)).await?,
            }
        }
    }

    async fn end(&mut self, effects: &Effects, name: &str) -> Result<(), PartitionError> {
        let mut backoff = Backoff::new(name);
        let mut proof = Proof::of_what_follows();
        while let Err(e) = self.shared.store.end_batch(&mut self.owner, &effects.end).await {
            backoff.absorb(PartitionError::Checkpoint(e)).await?;
            proof = Proof::of_what_follows();
        }
        self.proof = proof;
        Ok(())
    }
}
