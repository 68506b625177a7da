//! Taking over a partition: claim it, load its checkpoint, decide where to begin.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use picket_wire::TopicNames;
use rdkafka::consumer::{Consumer, StreamConsumer};

use super::backoff::Backoff;
use super::context::Context;
use super::error::PartitionError;
use super::membership::PartitionId;
use super::offsets::{Begin, Watermarks};
use crate::metrics::OUT_OF_RANGE;
use crate::store::Store;
use crate::store::checkpoints::Owner;

/// How long the broker may take to say where a log begins and ends.
const WATERMARKS: Duration = Duration::from_secs(10);

/// A partition that was taken over.
pub struct Opened {
    /// What lets its checkpoints be written.
    pub owner: Owner,
    /// Where to begin reading.
    pub offset: i64,
    /// Where the log ended.
    pub log_end: i64,
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
        // The log's ends first: a claim takes the partition from its owner, so it is not made
        // before everything else has succeeded.
        let log = self.watermarks(id).await?;
        let claimed = self.store.claim(topic, id.1, &self.instance).await;
        let (owner, checkpoint) = claimed.map_err(PartitionError::Claim)?;
        let begin = Begin::decide(checkpoint.next_offset, log);
        if let Begin::OutOfRange { from, to } = begin {
            let noted = self.store.note_out_of_range(&owner.claim, from, to).await;
            noted.map_err(PartitionError::OutOfRange)?;
            counter!(OUT_OF_RANGE, "topic" => id.0.suffix()).increment(1);
            tracing::error!(
                topic,
                partition = id.1,
                from_offset = from,
                to_offset = to,
                "log-out-of-range: the log of {topic}/{} holds {} to {} and not the checkpoint's \
                 {from}; reading goes on at {to}. Records expired before they were read, or the \
                 topic was made anew",
                id.1,
                log.low,
                log.high
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
        Ok(Opened { owner, offset, log_end: log.high })
    }

    /// The first and the next offset of a log.
    pub async fn watermarks(&self, id: PartitionId) -> Result<Watermarks, PartitionError> {
        let consumer = self.consumer.clone();
        let topic = self.topics.name(id.0);
        // The call waits for the broker, which is why it has a thread of its own.
        let asked = tokio::task::spawn_blocking(move || {
            consumer.fetch_watermarks(&topic, id.1, WATERMARKS)
        });
        let ends = asked.await.map_err(PartitionError::WatermarksTask)?;
        let (low, high) = ends.map_err(PartitionError::Watermarks)?;
        Ok(Watermarks { low, high })
    }
}
