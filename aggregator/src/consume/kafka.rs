//! Clients of Kafka: what they all share, and the record as the rest of this stage sees it.

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, ClientContext};

use super::settings::{Connection, Settings};

/// A client's settings: where the brokers are and how to prove who one is.
pub fn client(connection: &Connection, instance: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", connection.brokers.join(","))
        .set("client.id", instance)
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Warning);
    if connection.allow_plaintext {
        return config;
    }
    config.set("security.protocol", "ssl");
    for (name, file) in [
        ("ssl.ca.location", &connection.ca_file),
        ("ssl.certificate.location", &connection.certificate_file),
        ("ssl.key.location", &connection.key_file),
    ] {
        if let Some(file) = file {
            config.set(name, file.to_string_lossy());
        }
    }
    config
}

/// The settings of the group's consumer.
pub fn consumer(settings: &Settings, instance: &str) -> ClientConfig {
    let mut config = client(&settings.connection(), instance);
    config
        .set("group.id", &settings.group)
        // Partitions that stay are not disturbed when others move.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where to begin is decided by the checkpoint; silently jumping elsewhere would be a loss.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("session.timeout.ms", "15000")
        .set("heartbeat.interval.ms", "3000")
        .set("max.poll.interval.ms", "300000")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "100")
        .set("statistics.interval.ms", "2000");
    config
}

/// Of a client that has nothing else to say: its words go to the log.
pub struct ClientLog;

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

/// librdkafka's own log lines, in the log of the program.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if (level as i32) <= (RDKafkaLogLevel::Warning as i32) {
        tracing::warn!(facility, "Kafka client: {message}");
    } else {
        tracing::debug!(facility, "Kafka client: {message}");
    }
}

/// An error that librdkafka reports and handles by itself, such as a broker that went away.
pub fn log_error(error: &KafkaError, reason: &str) {
    tracing::warn!(error = %error, "Kafka client: {reason}");
}

/// A record as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Offset.
    pub offset: i64,
    /// When the broker appended it, milliseconds since 1970.
    pub broker_time_ms: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Headers, in order; one without a value counts as empty.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Value.
    pub value: Option<Vec<u8>>,
}

impl Received {
    /// Copies a record out of the client's memory.
    pub fn copy(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let pairs = headers.iter();
            pairs.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_owned())).collect()
        });
        Self {
            offset: message.offset(),
            broker_time_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key().map(<[u8]>::to_owned),
            headers: headers.unwrap_or_default(),
            value: message.payload().map(<[u8]>::to_owned),
        }
    }

    /// The value; empty if there is none.
    pub fn body(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Memory it takes, roughly.
    pub fn bytes(&self) -> usize {
        const OVERHEAD: usize = 256;
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.body().len() + self.key.as_ref().map_or(0, Vec::len) + headers + OVERHEAD
    }
}
