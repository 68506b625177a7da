//! Clients of Kafka: what they all share, and the record as the rest of this stage sees it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_service::kafka::{Extra, Login};
use picket_service::renewed::Unreadable;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use super::settings::{Connection, GroupProtocol, PASSWORD_FILE, Settings};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that says who this aggregator is.
    #[error(transparent)]
    File(#[from] Unreadable),
    /// librdkafka does not make one.
    #[error("librdkafka does not take the settings of the section consume")]
    Refused(#[from] KafkaError),
}

/// A client's settings: where the brokers are and how to prove who one is.
pub fn client(connection: &Connection, instance: &str) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    config
        .set("socket.keepalive.enable", "true")
        // Doubled with each attempt, and each a quarter less to a half more by chance. Not longer:
        // what is live waits for it, and a few aggregators are no storm.
        .set("reconnect.backoff.max.ms", "1000")
        .set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in connection.extra.iter() {
        config.set(name, value);
    }
    config.set("bootstrap.servers", connection.brokers.join(",")).set("client.id", instance);
    if connection.allow_plaintext {
        return Ok(config);
    }
    let login = Login {
        ca_file: connection.ca_file.as_deref(),
        certificate_file: connection.certificate_file.as_deref(),
        key_file: connection.key_file.as_deref(),
        sasl: connection.sasl.as_ref(),
        password_field: PASSWORD_FILE,
    };
    for (name, value) in login.settings()? {
        config.set(name, value);
    }
    Ok(config)
}

/// Has librdkafka look at the settings that are passed on to it: each by itself, then all together.
/// What it does not like comes with its name and librdkafka's words.
pub fn check_extra(
    connection: &Connection,
    protocol: GroupProtocol,
) -> Result<(), (String, String)> {
    let alone = |name: &str, value: &str| {
        let made = ClientConfig::new().set(name, value).create_native_config();
        made.map(drop).map_err(|error| match error {
            KafkaError::ClientConfig(_, said, ..) => said,
            other => other.to_string(),
        })
    };
    connection.extra.check(alone, || {
        // Without a broker it connects to nothing.
        let mut config = ClientConfig::new();
        set_reading(&mut config, protocol, &connection.extra);
        let made: Result<BaseConsumer, KafkaError> = config.set("group.id", "check").create();
        made.map(drop).map_err(|error| error.to_string())
    })
}

/// A client that reads without being part of the group. One is named because the client wants it; it is
/// neither joined nor told of anything.
pub fn reader(
    connection: &Connection,
    group: &str,
    name: &str,
) -> Result<BaseConsumer<ClientLog>, ClientError> {
    let mut config = client(connection, name)?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "16384");
    Ok(config.create_with_context(ClientLog)?)
}

/// A connection that broke is made again by the client.
pub fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::NotLeaderForPartition
        )
    )
}

/// The settings of the group's consumer.
pub fn consumer(settings: &Settings, instance: &str) -> Result<ClientConfig, ClientError> {
    let mut config = member(settings, &settings.group, instance)?;
    // Where to begin is decided by the checkpoint; silently jumping elsewhere would be a loss.
    config.set("auto.offset.reset", "error");
    // In this group alone: of the others each may have several members by one config.
    if let Some(name) = &settings.static_member {
        config.set("group.instance.id", name);
    }
    Ok(config)
}

/// The settings of a member of a group, which says itself what it has done.
pub fn member(
    settings: &Settings,
    group: &str,
    instance: &str,
) -> Result<ClientConfig, ClientError> {
    let connection = settings.connection();
    let mut config = client(&connection, instance)?;
    set_reading(&mut config, settings.group_protocol, &connection.extra);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", "2000");
    Ok(config)
}

/// How the group agrees, and what may be told otherwise.
fn set_reading(config: &mut ClientConfig, protocol: GroupProtocol, extra: &Extra) {
    config.set("group.protocol", protocol.as_str());
    match protocol {
        // A member keeps its name and its partitions while the brokers are away, however long: with
        // the classic protocol librdkafka gives up its name after `session.timeout.ms`, and when the
        // brokers are back, they wait as long again for the member of that name.
        GroupProtocol::Consumer => {}
        GroupProtocol::Classic => {
            config
                // Partitions that stay are not disturbed when others move.
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", "15000")
                .set("heartbeat.interval.ms", "3000");
        }
    }
    config
        .set("topic.metadata.refresh.interval.ms", "10000")
        // A half-open connection is noticed after this and the half second of a fetch.
        .set("socket.timeout.ms", "20000")
        .set("max.poll.interval.ms", "300000")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "100");
    for (name, value) in extra.iter() {
        config.set(name, value);
    }
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

impl ConsumerContext for ClientLog {}

/// How soon an error that goes on is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// librdkafka's own log lines, in the log of the program. What ends a connection comes as an error too.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if (level as i32) <= (RDKafkaLogLevel::Warning as i32) && facility != "FAIL" {
        tracing::warn!(facility, "Kafka client: {message}");
    } else {
        tracing::debug!(facility, "Kafka client: {message}");
    }
}

/// An error that librdkafka reports and handles by itself, such as a broker that went away. It comes with
/// every attempt of every client, ten times a second, and is said once a minute.
pub fn log_error(error: &KafkaError, reason: &str) {
    static SAID: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    // Behind this stands how long the attempt took.
    let what = format!("{error} {}", reason.split(" (after ").next().unwrap_or_default());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.retain(|_, at| at.elapsed() < SAY_AGAIN);
    match said.entry(what) {
        Entry::Occupied(_) => tracing::debug!(error = %error, "Kafka client: {reason}"),
        Entry::Vacant(unsaid) => {
            unsaid.insert(Instant::now());
            tracing::warn!(error = %error, "Kafka client: {reason}");
        }
    }
}

/// Headers as the client takes them.
pub fn headers<K: AsRef<str>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> OwnedHeaders {
    let none = OwnedHeaders::new_with_capacity(pairs.len());
    pairs.iter().fold(none, |all, (key, value)| {
        all.insert(Header { key: key.as_ref(), value: Some(value.as_ref()) })
    })
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
