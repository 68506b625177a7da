//! Taking over a partition: claim it, load its checkpoint, decide where to begin.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use mongodb::bson::DateTime;
use picket_wire::TopicNames;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{Offset, TopicPartitionList};

use super::backoff::Backoff;
use super::context::Context;
use super::error::PartitionError;
use super::marks::Marks;
use super::membership::PartitionId;
use super::offsets::{Begin, Signs, Watermarks};
use super::proof::Proof;
use crate::metrics::LOGS_BROKEN;
use crate::store::Store;
use crate::store::checkpoints::{BrokenLog, LogNote, Owner};

/// How long the broker may take to answer.
const BROKER: Duration = Duration::from_secs(10);

/// A partition that was taken over.
pub struct Opened {
    /// What lets its checkpoints be written.
    pub owner: Owner,
    /// Where to begin reading.
    pub offset: i64,
    /// Where the log ended.
    pub log_end: i64,
    /// By what it is told from another log of its name, if anything was read.
    pub marks: Marks,
    /// That nobody else owns it.
    pub proof: Proof,
    /// The owner epoch since which it is this log.
    pub log_since: i64,
}

/// What taking over needs. Cheap to clone.
#[derive(Clone)]
pub struct Opener {
    /// Checkpoints lie there.
    pub store: Store,
    /// Knows where logs begin and end.
    pub consumer: Arc<StreamConsumer<Context>>,
    /// The topics' names.
    pub topics: TopicNames,
    /// Name of this instance.
    pub instance: String,
}

impl Opener {
    /// Takes over a partition, however long MongoDB or the broker are away.
    pub async fn open(&self, id: PartitionId) -> Result<Opened, PartitionError> {
        let topic = self.topics.name(id.0);
        let name = format!("{topic}/{}", id.1);
        let mut backoff = Backoff::new(&name);
        loop {
            match self.try_open(&topic, id).await {
                Ok(opened) => return Ok(opened),
                Err(e) => backoff.absorb(e).await?,
            }
        }
    }

    async fn try_open(&self, topic: &str, id: PartitionId) -> Result<Opened, PartitionError> {
        // A claim takes the partition from its owner: not while the broker does not answer.
        self.watermarks(id).await?;
        let cluster = self.cluster().await?;
        let proof = Proof::of_what_follows();
        let claimed = self.store.claim(topic, id.1, &self.instance).await;
        let (owner, mut checkpoint) = claimed.map_err(PartitionError::Claim)?;
        // Asked again: the owner before may have read on until the claim.
        let log = self.watermarks(id).await?;
        // Of one that nobody has read there is nothing to miss elsewhere.
        let was_read = checkpoint.newest_at.is_some() || checkpoint.next_offset != Some(log.low);
        let is_elsewhere = checkpoint.cluster.as_ref().is_some_and(|known| *known != cluster);
        let signs = Signs {
            other_cluster: is_elsewhere && was_read,
            recreated: self.is_recreated(id, &Marks::of(&checkpoint)).await?,
        };
        let begin = Begin::decide(checkpoint.next_offset, log, signs);
        let broken = match begin {
            Begin::At(_) => None,
            Begin::Broken { why, from, to } => Some(BrokenLog {
                state: why.as_str().to_owned(),
                from_offset: from,
                to_offset: to,
                noticed_at: DateTime::now(),
            }),
        };
        let is_first = checkpoint.next_offset.is_none();
        if is_first || broken.is_some() || checkpoint.cluster.as_ref() != Some(&cluster) {
            let note = LogNote {
                cluster: &cluster,
                next_offset: begin.offset(),
                broken,
                is_another: begin.is_another_log(),
            };
            let noted = self.store.note_log(&owner.claim, note).await;
            checkpoint = noted.map_err(PartitionError::NoteLog)?;
        }
        if let Begin::Broken { why, from, to } = begin {
            let labels = [("topic", id.0.suffix()), ("state", why.as_str())];
            counter!(LOGS_BROKEN, &labels).increment(1);
            tracing::error!(
                topic,
                partition = id.1,
                from_offset = from,
                to_offset = to,
                "{}: {topic}/{} holds {} to {}, the checkpoint says {from}, and reading goes on at \
                 {to}: {}",
                why.as_str(),
                id.1,
                log.low,
                log.high,
                why.meaning()
            );
        }
        let offset = begin.offset();
        // One line for each of 144 partitions says little at a start; their number is told once.
        tracing::debug!(
            topic,
            partition = id.1,
            offset,
            owner_epoch = owner.claim.owner_epoch,
            "took over {topic}/{} at offset {offset}",
            id.1
        );
        let (marks, log_since) = (Marks::of(&checkpoint), checkpoint.log_since);
        Ok(Opened { owner, offset, log_end: log.high, marks, log_since, proof })
    }

    /// The first and the next offset of a log.
    pub async fn watermarks(&self, id: PartitionId) -> Result<Watermarks, PartitionError> {
        let topic = self.topics.name(id.0);
        let asked = self.ask(move |client| client.fetch_watermarks(&topic, id.1, BROKER)).await?;
        let (low, high) = asked.map_err(PartitionError::Offsets)?;
        Ok(Watermarks { low, high })
    }

    /// The id of the cluster.
    async fn cluster(&self) -> Result<String, PartitionError> {
        let asked = self.ask(|client| client.client().fetch_cluster_id(BROKER)).await?;
        asked.ok_or(PartitionError::Cluster)
    }

    /// Whether what stood before a mark stands there no more, and what was appended later does.
    pub async fn is_recreated(
        &self,
        id: PartitionId,
        marks: &Marks,
    ) -> Result<bool, PartitionError> {
        for mark in [marks.seen, marks.read].into_iter().flatten() {
            let first = self.first_after(id, mark.newest_at.timestamp_millis()).await?;
            if first.is_some_and(|first| first < mark.offset) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The offset of the first record that the broker appended after this time, if there is one.
    async fn first_after(&self, id: PartitionId, ms: i64) -> Result<Option<i64>, PartitionError> {
        let mut times = TopicPartitionList::new();
        let time = Offset::Offset(ms.saturating_add(1));
        times
            .add_partition_offset(&self.topics.name(id.0), id.1, time)
            .map_err(PartitionError::Offsets)?;
        let asked = self.ask(move |client| client.offsets_for_times(times, BROKER)).await?;
        let found = asked.map_err(PartitionError::Offsets)?;
        let found = found.elements().first().map(|partition| {
            partition.error().map_err(PartitionError::Offsets)?;
            Ok(match partition.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        });
        found.unwrap_or(Ok(None))
    }

    /// Asks the broker something. The call waits for it, which is why it has a thread of its own.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&StreamConsumer<Context>) -> T + Send + 'static,
    ) -> Result<T, PartitionError> {
        let consumer = self.consumer.clone();
        let asked = tokio::task::spawn_blocking(move || question(&consumer));
        asked.await.map_err(PartitionError::AskTask)
    }
}
