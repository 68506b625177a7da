//! The log as what is tracked again: the observations of one camera, from the partition in which they lie.
//!
//! They lie there in the order in which they came, with the backlog of an outage behind what was live. What
//! comes before its turn is held, up to a bound; of epochs that nobody asked for nothing is.

use std::time::{Duration, Instant};

use picket_wire::observation::Observation;
use picket_wire::{CameraKey, CameraRecord, EpochId, Message, ObservationId, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::super::kafka::{self, ClientError, ClientLog, Received};
use super::super::settings::Settings;
use super::waiting::Waiting;

/// How long the brokers may take to answer before a step counts as failed.
const ANSWER: Duration = Duration::from_secs(10);
/// Most bytes of records that wait for their turn.
const MOST_HELD_BYTES: usize = 256 * 1024 * 1024;

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The client could not be made.
    #[error("cannot set up the Kafka client")]
    Client(#[source] ClientError),
    /// The broker does not say, or does not give.
    #[error(
        "cannot read {topic}/{partition}: this aggregator's principal must be able to read it, and its \
         broker must answer within {} s",
        ANSWER.as_secs()
    )]
    Read {
        /// Which.
        topic: String,
        /// Which.
        partition: i32,
        /// Why.
        #[source]
        source: Box<KafkaError>,
    },
    /// The broker stopped sending.
    #[error("{topic}/{partition}: the broker sent nothing for {} s, with more to come", ANSWER.as_secs())]
    Silent {
        /// Which.
        topic: String,
        /// Which.
        partition: i32,
    },
    /// Too much lies between what comes one after the other.
    #[error(
        "{topic}/{partition}: more than {} MiB of observations of {camera} lie before one whose turn it \
         is: ask for fewer epochs (--from, --to), or take --source mongodb, which has them in order",
        MOST_HELD_BYTES / (1024 * 1024)
    )]
    TooFarApart {
        /// Which.
        topic: String,
        /// Which.
        partition: i32,
        /// Whose.
        camera: CameraKey,
    },
}

/// Where a record lay when it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// The log of one camera, as it was when it was opened. Nothing of it is committed.
pub struct Log {
    consumer: BaseConsumer<ClientLog>,
    topic: String,
    partition: i32,
    key: CameraKey,
    waiting: Waiting,
    low: i64,
    high: i64,
    is_at_end: bool,
}

impl Log {
    /// From its beginning.
    pub fn open(
        settings: &Settings,
        key: CameraKey,
        (topic, partition): (String, i32),
        wanted: &[EpochId],
    ) -> Result<Self, LogError> {
        let consumer = kafka::reader(&settings.connection(), &settings.group, "picket-replay");
        let consumer = consumer.map_err(LogError::Client)?;
        let failed =
            |source| LogError::Read { topic: topic.clone(), partition, source: Box::new(source) };
        let ends = consumer.fetch_watermarks(&topic, partition, ANSWER);
        let (low, high) = ends.map_err(failed)?;
        let mut assignment = TopicPartitionList::new();
        let added = assignment.add_partition_offset(&topic, partition, Offset::Offset(low));
        added.map_err(failed)?;
        consumer.assign(&assignment).map_err(failed)?;
        let waiting = Waiting::new(wanted.iter().copied());
        let is_at_end = low >= high;
        Ok(Self { consumer, topic, partition, key, waiting, low, high, is_at_end })
    }

    /// What it holds, for people.
    pub fn extent(&self) -> String {
        format!("{}/{}, which holds {} to {}", self.topic, self.partition, self.low, self.high)
    }

    /// One observation; none if the log does not hold it. Of one that lies there more than once the first,
    /// as the centre takes it. Those of an epoch are asked for in the order of `seq`. One that lay where
    /// the log does not reach any more is not searched for: what comes behind would all be held meanwhile.
    pub fn take(
        &mut self,
        id: &ObservationId,
        place: Option<&Place>,
    ) -> Result<Option<Observation>, LogError> {
        if !place.is_some_and(|place| self.has_lost(place)) {
            while !self.waiting.reach(id) && !self.is_at_end {
                self.read_one()?;
            }
        }
        Ok(self.waiting.take(id))
    }

    fn has_lost(&self, place: &Place) -> bool {
        let is_here = place.topic == self.topic && place.partition == self.partition;
        is_here && place.offset < self.low
    }

    /// Nothing of an epoch is asked for any more.
    pub fn is_done_with(&mut self, epoch: EpochId) {
        self.waiting.is_done_with(epoch);
    }

    fn read_one(&mut self) -> Result<(), LogError> {
        let until = Instant::now() + ANSWER;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            let record = match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    self.is_at_end = message.offset() + 1 >= self.high;
                    if message.offset() >= self.high {
                        return Ok(());
                    }
                    let is_its = message.key() == Some(self.key.to_string().as_bytes());
                    is_its.then(|| Received::copy(&message))
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.is_at_end = true;
                    None
                }
                Some(Err(error)) if kafka::is_passing(&error) && !wait.is_zero() => continue,
                Some(Err(error)) => {
                    let (topic, partition) = (self.topic.clone(), self.partition);
                    return Err(LogError::Read { topic, partition, source: Box::new(error) });
                }
                None => {
                    let (topic, partition) = (self.topic.clone(), self.partition);
                    return Err(LogError::Silent { topic, partition });
                }
            };
            return record.map_or(Ok(()), |record| self.hold(&record));
        }
    }

    fn hold(&mut self, record: &Received) -> Result<(), LogError> {
        let key = record.key.as_deref().unwrap_or_default();
        let read = picket_wire::decode(Topic::Observations, key, &record.headers, record.body());
        let Ok(Message::Record { record: CameraRecord::Observation(observation), .. }) = read
        else {
            return Ok(());
        };
        self.waiting.hold(observation, record.bytes());
        if self.waiting.bytes() > MOST_HELD_BYTES {
            let (topic, partition, camera) = (self.topic.clone(), self.partition, self.key.clone());
            return Err(LogError::TooFarApart { topic, partition, camera });
        }
        Ok(())
    }
}
