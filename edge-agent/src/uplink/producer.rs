//! The two librdkafka producers, and their settings.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use picket_service::kafka::Login;
use picket_service::renewed::Unreadable;
use picket_wire::{Lane, Topic, TopicNames, header};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{
    BaseProducer, BaseRecord, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaErrorCode as Code;
use serde::Deserialize;

use super::polled::Polled;
use super::security::SecurityError;
use super::settings::{PASSWORD_FILE, Settings};
use super::window::Ticket;

/// The record's own framing, over the longest value that the spool lets through.
const FRAMING_BYTES: u32 = 4096;
/// What one request holds, unless one record alone is larger.
pub const BATCH_BYTES: u64 = 512 * 1024;

/// How often it is counted what went over the connections.
const COUNTED_EVERY_MS: u32 = 5000;

/// Why there are no producers.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// The password.
    #[error(transparent)]
    Password(#[from] Unreadable),
    /// librdkafka does not make one.
    #[error("cannot make a producer")]
    Client(#[from] KafkaError),
}

/// What the producers report.
#[derive(Debug)]
pub enum Report {
    /// What became of a message.
    Delivered {
        /// Which.
        ticket: Ticket,
        /// The broker's word, or why it did not take it.
        result: Result<(), Code>,
    },
    /// So many bytes went over connections since the last such report, both ways.
    Carried {
        /// Without what TLS and TCP add.
        bytes: u64,
    },
    /// Something is wrong with the connection or the producer.
    Trouble {
        /// Of which pair of producers.
        pair: u32,
        /// Of which producer: that of observations, or that of frames.
        topic: Topic,
        /// What kind.
        code: Code,
        /// In librdkafka's words.
        said: String,
    },
}

/// Passes everything on to the uplink's thread, and waits for nothing.
pub struct Reporter {
    pair: u32,
    topic: Topic,
    reports: Sender<Report>,
    /// What the library's own counts came to when they were last reported.
    carried_bytes: AtomicU64,
}

/// Of the library's statistics, what a data plan counts.
#[derive(Deserialize)]
struct Traffic {
    tx_bytes: u64,
    rx_bytes: u64,
}

impl Reporter {
    /// Reports to `reports`, for the producer of `topic` in this pair.
    pub fn new(pair: u32, topic: Topic, reports: Sender<Report>) -> Self {
        Self { pair, topic, reports, carried_bytes: AtomicU64::new(0) }
    }
}

impl ClientContext for Reporter {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as a report too, and is logged once per change of the link. These
        // lines repeat with every attempt to connect.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(target: "uplink", facility, "{message}");
            }
            _ => tracing::debug!(target: "uplink", facility, "{message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let traffic: Traffic = match serde_json::from_slice(statistics) {
            Ok(traffic) => traffic,
            Err(error) => {
                tracing::warn!(target: "uplink", %error, "the library's counts cannot be read");
                return;
            }
        };
        let all = traffic.tx_bytes.saturating_add(traffic.rx_bytes);
        let bytes = all.saturating_sub(self.carried_bytes.swap(all, Ordering::Relaxed));
        let _ = self.reports.send(Report::Carried { bytes });
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        // The uplink has ended if nobody listens.
        let (pair, topic, said) = (self.pair, self.topic, reason.to_owned());
        let _ = self.reports.send(Report::Trouble { pair, topic, code, said });
    }
}

impl ProducerContext<NoCustomPartitioner> for Reporter {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Ticket) {
        let code =
            |(error, _): &(KafkaError, _)| error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let result = result.as_ref().map(|_| ()).map_err(code);
        let _ = self.reports.send(Report::Delivered { ticket, result });
    }
}

/// Why a pair on trial cannot take the place of one that works.
#[derive(Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// No broker answered it; the library's complaints say why.
    NoAnswer,
    /// The broker answered that it has no right on this topic.
    NoRight(String),
}

/// One for records and heartbeats, compressed; one for pictures, which are compressed already, so
/// that a large picture does not stand in front of an observation in one connection.
pub struct Producers {
    pair: u32,
    small: Polled,
    large: Polled,
    names: TopicNames,
}

impl Producers {
    /// Makes both; they connect when there is something to send. Each pair has a number of its own.
    pub fn new(
        pair: u32,
        settings: &Settings,
        client_id: &str,
        reports: &Sender<Report>,
    ) -> Result<Self, ProducerError> {
        let common = config(settings, client_id)?;
        let make = |topic| -> Result<Polled, KafkaError> {
            let mut config = common.clone();
            let most = Topic::max_message_bytes(topic) + FRAMING_BYTES;
            config.set("message.max.bytes", most.to_string());
            let codec = if topic == Topic::Frames { "none" } else { "zstd" };
            config.set("compression.type", codec);
            config.set("statistics.interval.ms", COUNTED_EVERY_MS.to_string());
            Polled::new(&config, Reporter::new(pair, topic, reports.clone()))
        };
        let names = TopicNames::new(settings.topic_prefix.clone());
        let (small, large) = (make(Topic::Observations)?, make(Topic::Frames)?);
        Ok(Self { pair, small, large, names })
    }

    /// The number of the pair.
    pub fn pair(&self) -> u32 {
        self.pair
    }

    /// Whether a broker lets them in: an answer is more than a connection, as with TLS 1.3 a broker
    /// refuses a certificate only when the client believes itself connected. And whether it tells
    /// them of these topics: whoever has no right on one is let in all the same.
    pub fn are_let_in(&self, topics: &[Topic], limit: Duration) -> Result<(), NotLetIn> {
        let client = self.small.producer().client();
        for topic in Topic::OF_CAMERAS {
            let name = self.names.name(topic);
            let Ok(answer) = client.fetch_metadata(Some(&name), limit) else {
                return Err(NotLetIn::NoAnswer);
            };
            let found = answer.topics().iter().find(|found| found.name() == name);
            let error = found.and_then(MetadataTopic::error).map(Code::from);
            if error == Some(Code::TopicAuthorizationFailed) && topics.contains(&topic) {
                return Err(NotLetIn::NoRight(name));
            }
        }
        Ok(())
    }

    fn of(&self, topic: Topic) -> &BaseProducer<Reporter> {
        match topic {
            Topic::Frames => self.large.producer(),
            _ => self.small.producer(),
        }
    }

    /// Hands a message over; what becomes of it is reported under its ticket.
    pub fn send(
        &self,
        topic: Topic,
        key: &str,
        headers: &[(impl AsRef<str>, String)],
        lane: Option<Lane>,
        value: &[u8],
        ticket: Ticket,
    ) -> Result<(), Code> {
        let mut owned = OwnedHeaders::new_with_capacity(headers.len() + 1);
        for (name, value) in headers {
            owned = owned.insert(Header { key: name.as_ref(), value: Some(value.as_str()) });
        }
        if let Some(lane) = lane {
            owned = owned.insert(Header { key: header::LANE, value: Some(lane.as_str()) });
        }
        let name = self.names.name(topic);
        let record =
            BaseRecord::with_opaque_to(&name, ticket).key(key).payload(value).headers(owned);
        let sent = self.of(topic).send(record);
        sent.map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Unknown))
    }

    /// Why one of them can do nothing more, if so.
    pub fn fatal(&self) -> Option<String> {
        let both = [self.small.producer(), self.large.producer()];
        let fatal = both.map(|producer| producer.client().fatal_error());
        fatal.into_iter().flatten().next().map(|(_, said)| said)
    }

    /// Gives up what was not yet acknowledged; each is still reported.
    pub fn purge(&self) {
        let both = [&self.small, &self.large];
        both.into_iter().for_each(Polled::end);
        for producer in both.map(Polled::producer) {
            producer.purge(PurgeConfig::default().queue().inflight());
            // The reports of what was purged; a broken connection cannot hold this up.
            let _ = producer.flush(Duration::from_millis(500));
        }
    }
}

/// What both have in common, and `doctor` too.
pub fn config(settings: &Settings, client_id: &str) -> Result<ClientConfig, Unreadable> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", settings.brokers.join(","));
    set_common(&mut config, settings, client_id);
    set_security(&mut config, settings)?;
    Ok(config)
}

fn set_common(config: &mut ClientConfig, settings: &Settings, client_id: &str) {
    // What may be told otherwise.
    config
        .set("linger.ms", "5")
        // A half-open connection is noticed by the first of these that passes.
        .set("request.timeout.ms", "10000")
        .set("socket.timeout.ms", "15000")
        .set("socket.keepalive.enable", "true")
        // Doubled with each attempt, and each a quarter less to a half more by chance, so that a
        // fleet does not come back all at once.
        .set("reconnect.backoff.ms", "250")
        .set("reconnect.backoff.max.ms", "10000")
        // How long a topic that is not there may still appear before that is said.
        .set("topic.metadata.propagation.max.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in settings.extra.iter() {
        config.set(name, value);
    }
    // Twice the window: the window is the bound, this one must never be met.
    let queue_kbytes = settings.max_in_flight_bytes.max(16 << 20) * 2 / 1024;
    config
        .set("client.id", client_id)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Java clients choose, so that any tool finds a camera's partition.
        .set("partitioner", "murmur2_random")
        // Never give up: a message that timed out here would only be read from the spool again.
        .set("message.timeout.ms", "0")
        .set("batch.size", BATCH_BYTES.to_string())
        .set("queue.buffering.max.kbytes", queue_kbytes.to_string())
        .set("queue.buffering.max.messages", "200000");
}

fn set_security(config: &mut ClientConfig, settings: &Settings) -> Result<(), Unreadable> {
    if !settings.uses_tls() {
        return Ok(());
    }
    let login = Login {
        ca_file: settings.ca_file.as_deref(),
        certificate_file: settings.certificate_file.as_deref(),
        key_file: settings.key_file.as_deref(),
        sasl: settings.sasl.as_ref(),
        password_field: PASSWORD_FILE,
    };
    for (name, value) in login.settings()? {
        config.set(name, value);
    }
    Ok(())
}

/// Has librdkafka look at the settings that are passed on to it: each by itself, then all together.
/// What it does not like comes with its name and librdkafka's words.
pub fn check_extra(settings: &Settings) -> Result<(), (String, String)> {
    let alone = |name: &str, value: &str| {
        let made = ClientConfig::new().set(name, value).create_native_config();
        made.map(drop).map_err(|error| words_of(&error))
    };
    settings.extra.check(alone, || {
        let mut config = ClientConfig::new();
        set_common(&mut config, settings, "check");
        make_unconnected(&config)
    })
}

/// What librdkafka says of its settings.
fn words_of(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, said, ..) | KafkaError::ClientCreation(said) => said.clone(),
        other => other.to_string(),
    }
}

/// Has the TLS library look at the files.
pub fn check_security(settings: &Settings) -> Result<(), SecurityError> {
    let mut config = ClientConfig::new();
    set_security(&mut config, settings)?;
    make_unconnected(&config).map_err(|why| {
        let mismatch = ["key values mismatch", "Private key check failed", "mismatch"];
        match mismatch.iter().any(|text| why.contains(text)) {
            true => SecurityError::KeyMismatch,
            false => SecurityError::Refused { why },
        }
    })
}

/// Makes a producer that knows no broker, and so connects to nothing.
fn make_unconnected(config: &ClientConfig) -> Result<(), String> {
    let (reports, _) = crossbeam_channel::unbounded();
    let made: Result<BaseProducer<Reporter, NoCustomPartitioner>, KafkaError> =
        config.create_with_context(Reporter::new(0, Topic::Observations, reports));
    made.map(drop).map_err(|error| words_of(&error))
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    #[test]
    fn a_pair_without_a_right_on_a_topic_that_others_can_write_does_not_take_their_place() {
        const LIMIT: Duration = Duration::from_secs(20);
        let mock = MockCluster::<DefaultProducerContext>::new(1).unwrap();
        let names = TopicNames::default();
        for topic in Topic::OF_DEVICES {
            mock.create_topic(&names.name(topic), 1, 1).unwrap();
        }
        let brokers = vec![mock.bootstrap_servers()];
        let settings = Settings { brokers, allow_plaintext: true, ..Settings::default() };
        let (reports, _reports) = crossbeam_channel::unbounded();
        let producers = Producers::new(1, &settings, "gate", &reports).unwrap();
        let both = Topic::OF_CAMERAS;
        assert_eq!(producers.are_let_in(&both, LIMIT), Ok(()));
        let frames = names.name(Topic::Frames);
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        mock.topic_error(&frames, denied).unwrap();
        assert_eq!(producers.are_let_in(&both, LIMIT), Err(NotLetIn::NoRight(frames)));
        assert_eq!(producers.are_let_in(&both[..1], LIMIT), Ok(()));
        producers.purge();
    }
}
