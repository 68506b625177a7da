//! Reading the dead-letter topic. Calls wait for the broker, up to a limit: they are for a command,
//! not for a stage.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use picket_wire::{Topic, TopicNames};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::super::kafka::{self, ClientError, ClientLog, Received};
use super::super::settings::{Connection, Settings};
use super::letter::Letter;
use super::place::LetterPlace;

/// How long the brokers may take to answer before a step counts as failed.
const ANSWER: Duration = Duration::from_secs(10);

/// Why letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The client could not be made.
    #[error("cannot set up the Kafka client")]
    Client(#[source] ClientError),
    /// Nobody answers.
    #[error("no broker of {brokers} answers for the topic {topic} within {} s", ANSWER.as_secs())]
    Away {
        /// As configured.
        brokers: String,
        /// Dead letters' topic.
        topic: String,
        /// Why.
        #[source]
        source: Box<KafkaError>,
    },
    /// There is no such topic.
    #[error(
        "the topic {topic} is not there: `consume.topic_prefix` is another fleet's, or \
         `picket-aggregator topics create` was not run"
    )]
    NoTopic {
        /// Dead letters' topic.
        topic: String,
    },
    /// The certificate or user has no right.
    #[error(
        "may not read {topic}: the brokers' access list must give this aggregator's principal READ \
         on it"
    )]
    NotAllowed {
        /// Dead letters' topic.
        topic: String,
    },
    /// Reading failed otherwise.
    #[error("cannot read {topic}")]
    Read {
        /// Dead letters' topic.
        topic: String,
        /// Why.
        #[source]
        source: Box<KafkaError>,
    },
    /// The brokers stopped sending.
    #[error("{topic}: the brokers sent nothing for {} s, with more to come", ANSWER.as_secs())]
    Silent {
        /// Dead letters' topic.
        topic: String,
    },
    /// No such partition.
    #[error("there is no letter {place}: {topic} has the partitions 0 to {last}")]
    NoPartition {
        /// As asked for.
        place: LetterPlace,
        /// Dead letters' topic.
        topic: String,
        /// The last one.
        last: i32,
    },
    /// Older than what the topic holds.
    #[error(
        "the letter {place} is not there any more: {topic} keeps letters for a time (retention.ms), \
         and partition {} begins at offset {low} by now",
        place.partition
    )]
    Expired {
        /// As asked for.
        place: LetterPlace,
        /// Dead letters' topic.
        topic: String,
        /// What it begins with.
        low: i64,
    },
    /// Newer than what the topic holds.
    #[error("there is no letter {place}: partition {} of {topic} ends before offset {high}", place.partition)]
    NotYet {
        /// As asked for.
        place: LetterPlace,
        /// Dead letters' topic.
        topic: String,
        /// What comes next.
        high: i64,
    },
}

/// The dead-letter topic, as it was when it was opened.
pub struct Shelf {
    consumer: BaseConsumer<ClientLog>,
    topics: TopicNames,
    topic: String,
    /// First and next offset of each partition.
    ends: Vec<(i64, i64)>,
}

impl Shelf {
    /// Asks the brokers for the topic.
    pub fn open(settings: &Settings, connection: &Connection) -> Result<Self, ShelfError> {
        let topics = settings.topics();
        let topic = topics.name(Topic::DeadLetter);
        let consumer = kafka::reader(connection, &settings.group, "picket-dead-letter");
        let consumer = consumer.map_err(ShelfError::Client)?;
        let away = |source| ShelfError::Away {
            brokers: connection.brokers.join(", "),
            topic: topic.clone(),
            source: Box::new(source),
        };
        let metadata = consumer.fetch_metadata(Some(&topic), ANSWER).map_err(away)?;
        let found = metadata.topics().first();
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(ShelfError::NotAllowed { topic });
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(ShelfError::NoTopic { topic });
            }
            Some(code) => return Err(away(KafkaError::MetadataFetch(code))),
        }
        let count = found.map_or(0, |found| found.partitions().len());
        let mut ends = Vec::with_capacity(count);
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            ends.push(consumer.fetch_watermarks(&topic, partition, ANSWER).map_err(away)?);
        }
        Ok(Self { consumer, topics, topic, ends })
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// One letter.
    pub fn letter(&self, place: LetterPlace) -> Result<Letter, ShelfError> {
        let topic = self.topic.clone();
        let ends = usize::try_from(place.partition).ok().and_then(|p| self.ends.get(p));
        let Some(&(low, high)) = ends else {
            let last = i32::try_from(self.ends.len()).unwrap_or(i32::MAX) - 1;
            return Err(ShelfError::NoPartition { place, topic, last });
        };
        if place.offset < low {
            return Err(ShelfError::Expired { place, topic, low });
        }
        let missing = ShelfError::NotYet { place, topic, high };
        if place.offset >= high {
            return Err(missing);
        }
        let from = HashMap::from([(place.partition, place.offset)]);
        let found = self.read(from)?.next().transpose()?;
        found.filter(|letter| letter.place == place).ok_or(missing)
    }

    /// All letters that were put aside since then (milliseconds since 1970), each partition's in its
    /// order, up to the end that the topic had when it was opened.
    pub fn letters(&self, since_ms: Option<i64>) -> Result<Letters<'_>, ShelfError> {
        let mut from: HashMap<i32, i64> =
            (0..).zip(&self.ends).map(|(partition, ends)| (partition, ends.0)).collect();
        if let Some(since_ms) = since_ms {
            let mut times = TopicPartitionList::new();
            for partition in from.keys() {
                let added = times.add_partition_offset(
                    &self.topic,
                    *partition,
                    Offset::Offset(since_ms.max(0)),
                );
                added.map_err(|e| self.failed(e))?;
            }
            let found = self.consumer.offsets_for_times(times, ANSWER);
            for element in found.map_err(|e| self.failed(e))?.elements() {
                element.error().map_err(|e| self.failed(e))?;
                match element.offset() {
                    Offset::Offset(offset) => _ = from.insert(element.partition(), offset),
                    // None is so new.
                    _ => _ = from.remove(&element.partition()),
                }
            }
        }
        self.read(from)
    }

    fn read(&self, from: HashMap<i32, i64>) -> Result<Letters<'_>, ShelfError> {
        let mut assignment = TopicPartitionList::new();
        let mut left = HashMap::new();
        for (partition, offset) in from {
            let ends = usize::try_from(partition).ok().and_then(|p| self.ends.get(p));
            let Some(&(_, high)) = ends.filter(|(_, high)| offset < *high) else { continue };
            let offset = Offset::Offset(offset);
            let added = assignment.add_partition_offset(&self.topic, partition, offset);
            added.map_err(|e| self.failed(e))?;
            left.insert(partition, high);
        }
        self.consumer.assign(&assignment).map_err(|e| self.failed(e))?;
        Ok(Letters { shelf: self, left })
    }

    fn failed(&self, source: KafkaError) -> ShelfError {
        let topic = self.topic.clone();
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => ShelfError::NotAllowed { topic },
            _ => ShelfError::Read { topic, source: Box::new(source) },
        }
    }
}

/// Letters, as they come.
pub struct Letters<'a> {
    shelf: &'a Shelf,
    /// Partitions that are not at their end, each with the offset where it is.
    left: HashMap<i32, i64>,
}

impl Iterator for Letters<'_> {
    type Item = Result<Letter, ShelfError>;

    fn next(&mut self) -> Option<Self::Item> {
        let until = Instant::now() + ANSWER;
        while !self.left.is_empty() {
            let wait = until.saturating_duration_since(Instant::now());
            match self.shelf.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(&high) = self.left.get(&partition) else { continue };
                    if offset + 1 >= high {
                        self.left.remove(&partition);
                    }
                    if offset >= high {
                        continue;
                    }
                    let record = Received::copy(&message);
                    return Some(Ok(Letter::open(partition, record, &self.shelf.topics)));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => _ = self.left.remove(&partition),
                Some(Err(error)) if kafka::is_passing(&error) && !wait.is_zero() => {}
                Some(Err(error)) => return Some(Err(self.fail(error))),
                None => {
                    self.left.clear();
                    return Some(Err(ShelfError::Silent { topic: self.shelf.topic.clone() }));
                }
            }
        }
        None
    }
}

impl Letters<'_> {
    /// Nothing comes after an error.
    fn fail(&mut self, error: KafkaError) -> ShelfError {
        self.left.clear();
        self.shelf.failed(error)
    }
}
