//! Putting a message back on the topic that it came from.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use picket_wire::{Topic, TopicNames};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use super::super::kafka::{self, ClientError, ClientLog};
use super::super::settings::{Connection, Settings};
use super::letter::Letter;
use crate::store::letters::LogPlace;

/// How long the brokers may take before a step counts as failed.
const ANSWER: Duration = Duration::from_secs(10);
/// How long they may take to acknowledge a message.
const DELIVERY: Duration = Duration::from_secs(20);

/// Why a message was not put back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PutBackError {
    /// The letter does not say where it came from.
    #[error("it is no dead letter of an aggregator: it does not say where it came from")]
    NoOrigin,
    /// It is not the whole message.
    #[error(
        "it is cut: its message was too long to be put aside whole (its value had {value_bytes} bytes), so \
         it cannot be put back; find out who sent it, then drop it"
    )]
    Cut {
        /// How long its value was.
        value_bytes: u64,
    },
    /// From a topic that this aggregator does not read.
    #[error("it came from {topic}, which is none of the topics that this aggregator reads")]
    ForeignTopic {
        /// Where it came from.
        topic: String,
    },
    /// The topic is gone.
    #[error("its topic {topic} is not there any more")]
    NoTopic {
        /// Where it came from.
        topic: String,
    },
    /// No right.
    #[error(
        "may not write to {topic}: the brokers' access list must give this principal WRITE on it \
         (or name a certificate that has it by --certificate-file and --key-file)"
    )]
    NotAllowed {
        /// Where it came from.
        topic: String,
    },
    /// Nobody answers.
    #[error("no broker tells of {topic}")]
    Away {
        /// Where it came from.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// The brokers, or the client before them, do not take it as it is.
    #[error("was refused for {topic}, where it is not; it is open as before")]
    Refused {
        /// Where it came from.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// No acknowledgement: it may be on its topic or not.
    #[error(
        "was not acknowledged within {} s; it may be on {topic} all the same, and trying again stores \
         nothing twice",
        DELIVERY.as_secs()
    )]
    NotAcknowledged {
        /// Where it came from.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
}

impl PutBackError {
    /// Whether the message is not on its topic for certain.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::NotAcknowledged { .. })
    }
}

/// Puts messages back. Each is acknowledged by all replicas that must have it.
pub struct PutBack {
    producer: FutureProducer<ClientLog>,
    topics: TopicNames,
    /// How many partitions each topic has, as far as it was asked for.
    partitions: Mutex<HashMap<String, Result<i32, PutBackError>>>,
}

impl PutBack {
    /// Connects in the background.
    pub fn new(settings: &Settings, connection: &Connection) -> Result<Self, ClientError> {
        let mut config = kafka::client(connection, "picket-dead-letter")?;
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // A camera's records belong to the partition of its key.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("message.max.bytes", Topic::DeadLetter.max_message_bytes().to_string())
            .set("allow.auto.create.topics", "false")
            .set("delivery.timeout.ms", DELIVERY.as_millis().to_string());
        let producer = config.create_with_context(ClientLog)?;
        Ok(Self { producer, topics: settings.topics(), partitions: Mutex::default() })
    }

    /// Whether a letter can go back: it is whole, and its topic is there and is one that devices write.
    /// Waits for the broker.
    pub fn check(&self, letter: &Letter) -> Result<(), PutBackError> {
        check_whole(letter)?;
        let from = letter.from.as_ref().ok_or(PutBackError::NoOrigin)?;
        self.partitions_of(&from.topic).map(drop)
    }

    fn partitions_of(&self, topic: &str) -> Result<i32, PutBackError> {
        let mut known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(topic.to_owned()).or_insert_with(|| self.ask(topic)).clone()
    }

    fn ask(&self, name: &str) -> Result<i32, PutBackError> {
        let topic = name.to_owned();
        let is_ours = self.topics.topic(name).is_some_and(|t| Topic::OF_DEVICES.contains(&t));
        if !is_ours {
            return Err(PutBackError::ForeignTopic { topic });
        }
        let metadata = match self.producer.client().fetch_metadata(Some(name), ANSWER) {
            Ok(metadata) => metadata,
            Err(source) => return Err(PutBackError::Away { topic, source }),
        };
        let found = metadata.topics().first();
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            None => {
                let count = found.map_or(0, |found| found.partitions().len());
                Ok(i32::try_from(count).unwrap_or(i32::MAX))
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Err(PutBackError::NotAllowed { topic })
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(PutBackError::NoTopic { topic })
            }
            Some(code) => {
                Err(PutBackError::Away { topic, source: KafkaError::MetadataFetch(code) })
            }
        }
    }

    /// Puts a message back; returns where it is now, once that is durable.
    pub async fn send(&self, letter: &Letter) -> Result<LogPlace, PutBackError> {
        let from = letter.from.as_ref().ok_or(PutBackError::NoOrigin)?;
        let headers = kafka::headers(&letter.record.headers);
        let mut record = FutureRecord::<[u8], [u8]>::to(&from.topic).headers(headers);
        record.key = letter.record.key.as_deref();
        record.payload = letter.record.value.as_deref();
        // Without a key it goes where it was, unless the topic has fewer partitions by now.
        let is_there = from.partition < self.partitions_of(&from.topic)?;
        record.partition = Some(from.partition).filter(|_| letter.record.key.is_none() && is_there);
        let topic = from.topic.clone();
        match self.producer.send(record, Timeout::After(DELIVERY)).await {
            Ok(sent) => Ok(LogPlace { topic, partition: sent.partition, offset: sent.offset }),
            Err((source, _)) => Err(not_sent(topic, source)),
        }
    }
}

/// What a failure to send says of the message. Certain is only what follows from the message or the topic's
/// settings, whichever attempt it was said of; the rest may come after an attempt that went through.
fn not_sent(topic: String, source: KafkaError) -> PutBackError {
    use RDKafkaErrorCode as Code;
    match source.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed) => PutBackError::NotAllowed { topic },
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => PutBackError::NoTopic { topic },
        Some(
            Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType
            | Code::ClusterAuthorizationFailed
            | Code::UnknownPartition,
        ) => PutBackError::Refused { topic, source },
        _ => PutBackError::NotAcknowledged { topic, source },
    }
}

fn check_whole(letter: &Letter) -> Result<(), PutBackError> {
    match &letter.cut {
        None => Ok(()),
        Some(cut) => Err(PutBackError::Cut { value_bytes: cut.value_bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_brokers_refuse_for_good_is_not_on_its_topic_and_what_they_are_silent_about_may_be()
    {
        let said = |code| not_sent("picket.frames".to_owned(), KafkaError::MessageProduction(code));
        for code in [
            RDKafkaErrorCode::MessageSizeTooLarge,
            RDKafkaErrorCode::InvalidRecord,
            RDKafkaErrorCode::PolicyViolation,
            RDKafkaErrorCode::InvalidMessage,
            RDKafkaErrorCode::InvalidMessageSize,
        ] {
            let error = said(code);
            assert!(matches!(error, PutBackError::Refused { .. }) && error.is_certain(), "{code}");
        }
        assert!(said(RDKafkaErrorCode::TopicAuthorizationFailed).is_certain());
        for code in [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::RequestTimedOut,
            RDKafkaErrorCode::NotEnoughReplicasAfterAppend,
            RDKafkaErrorCode::BrokerTransportFailure,
        ] {
            assert!(!said(code).is_certain(), "{code}");
        }
    }
}
