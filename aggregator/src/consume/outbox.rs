//! A producer of the centre's own messages: what it says is sent is on all replicas that count.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use picket_wire::{Topic, TopicNames};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use super::kafka::{self, ClientError, ClientLog};
use super::settings::Connection;

/// How long a message may take before the step counts as failed and is repeated.
const DELIVERY: Duration = Duration::from_secs(30);

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A producer that failed for good could not be replaced.
    #[error("cannot set up another producer")]
    Producer(#[source] ClientError),
    /// The broker did not acknowledge it.
    #[error("it was not acknowledged")]
    NotAcknowledged(#[source] KafkaError),
}

/// Sends to one topic. Cheap to clone: all clones share one producer.
#[derive(Clone)]
pub struct Outbox {
    config: ClientConfig,
    producer: Arc<RwLock<FutureProducer<ClientLog>>>,
    topic: String,
}

impl Outbox {
    /// Connects in the background: a broker that is away is no error.
    pub fn new(
        connection: &Connection,
        topics: &TopicNames,
        topic: Topic,
        instance: &str,
    ) -> Result<Self, ClientError> {
        let mut config = kafka::client(connection, instance)?;
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .set("message.max.bytes", topic.max_message_bytes().to_string())
            .set("queue.buffering.max.kbytes", "65536")
            .set("delivery.timeout.ms", DELIVERY.as_millis().to_string());
        let producer = Arc::new(RwLock::new(make(&config)?));
        Ok(Self { config, producer, topic: topics.name(topic) })
    }

    fn producer(&self) -> FutureProducer<ClientLog> {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A producer that has failed for good takes nothing more: the repetition of the step goes over
    /// another.
    fn replace_if_fatal(&self, failed: &FutureProducer<ClientLog>) -> Result<(), SendError> {
        let Some((_, said)) = failed.client().fatal_error() else {
            return Ok(());
        };
        let mut producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        // Another task may have been first.
        if producer.client().fatal_error().is_some() {
            tracing::warn!(topic = self.topic, "the producer is replaced: {said}");
            *producer = make(&self.config).map_err(SendError::Producer)?;
        }
        Ok(())
    }

    /// Sends a message; returns once the broker has it.
    pub async fn send(
        &self,
        key: Option<&[u8]>,
        headers: OwnedHeaders,
        value: Option<&[u8]>,
    ) -> Result<(), SendError> {
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic).headers(headers);
        (record.key, record.payload) = (key, value);
        let producer = self.producer();
        let sent = producer.send(record, Timeout::After(DELIVERY)).await;
        let Err((source, _)) = sent else { return Ok(()) };
        self.replace_if_fatal(&producer)?;
        Err(SendError::NotAcknowledged(source))
    }
}

fn make(config: &ClientConfig) -> Result<FutureProducer<ClientLog>, ClientError> {
    Ok(config.create_with_context(ClientLog)?)
}
