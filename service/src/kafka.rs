//! What both programs say of Kafka in their configs beside their own fields: a login, and settings of
//! librdkafka that are passed on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::renewed::{self, Unreadable};

/// A login with a password, beside or instead of a client's certificate; over TLS only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown: `SCRAM-SHA-512`, or `PLAIN`, which gives it to the broker as it is.
    pub mechanism: Mechanism,
    /// Name of the user; the broker's access rules are for `User:<username>`.
    pub username: String,
    /// File with the password, one line; it is read again when it changes.
    pub password_file: PathBuf,
}

/// How a password is shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    #[expect(missing_docs, reason = "the name says it")]
    #[serde(rename = "PLAIN")]
    Plain,
    #[expect(missing_docs, reason = "the name says it")]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// As Kafka and librdkafka name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Sasl {
    /// Refuses a name that no broker has.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.username.is_empty() || self.username.contains(char::is_control) {
            true => Err("must be a name of one character or more, without control characters"),
            false => Ok(()),
        }
    }
}

/// Who a client is to the broker, and how it knows the broker.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Certificates of those who sign the broker's.
    pub ca_file: Option<&'a Path>,
    /// The client's own certificate.
    pub certificate_file: Option<&'a Path>,
    /// Its key.
    pub key_file: Option<&'a Path>,
    /// Its password.
    pub sasl: Option<&'a Sasl>,
    /// The config's name of the password's file, for errors.
    pub password_field: &'static str,
}

impl Login<'_> {
    /// The same in librdkafka's words: always over TLS, with the broker's name checked.
    pub fn settings(&self) -> Result<Vec<(&'static str, String)>, Unreadable> {
        let protocol = if self.sasl.is_some() { "sasl_ssl" } else { "ssl" };
        let mut settings = vec![
            ("security.protocol", protocol.to_owned()),
            ("ssl.endpoint.identification.algorithm", "https".to_owned()),
        ];
        let files = [
            ("ssl.ca.location", self.ca_file),
            ("ssl.certificate.location", self.certificate_file),
            ("ssl.key.location", self.key_file),
        ];
        let path = |(name, path): (_, Option<&Path>)| Some((name, path?.to_string_lossy().into()));
        settings.extend(files.into_iter().filter_map(path));
        if let Some(sasl) = self.sasl {
            let password = renewed::read_password(self.password_field, &sasl.password_file)?;
            settings.push(("sasl.mechanism", sasl.mechanism.as_str().to_owned()));
            settings.push(("sasl.username", sasl.username.clone()));
            settings.push(("sasl.password", password));
        }
        Ok(settings)
    }
}

/// Settings of librdkafka, by their names there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Extra(BTreeMap<String, String>);

/// As TOML may give it: a dotted name without quotation marks is a table in a table.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, a number, true or false")]
enum Node {
    Text(String),
    Number(i64),
    Switch(bool),
    Table(BTreeMap<String, Node>),
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = BTreeMap::new();
        let tables = BTreeMap::<String, Node>::deserialize(deserializer)?;
        tables.into_iter().for_each(|(name, node)| flatten(name, node, &mut flat));
        Ok(Self(flat))
    }
}

fn flatten(name: String, node: Node, flat: &mut BTreeMap<String, String>) {
    let value = match node {
        Node::Text(text) => text,
        Node::Number(number) => number.to_string(),
        Node::Switch(on) => on.to_string(),
        Node::Table(inner) => {
            let inner = inner.into_iter();
            return inner.for_each(|(end, node)| flatten(format!("{name}.{end}"), node, flat));
        }
    };
    flat.insert(name, value);
}

impl<const N: usize> From<[(&str, &str); N]> for Extra {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// Settings that are Picket's own, and what stands in their place. A name that ends in `*` is the
/// beginning of names. librdkafka has two names for some, and takes the last that it is given.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["acks", "request.required.acks", "delivery.report.only.error", "dr_*"],
        "what was acknowledged is deleted from the spool, so an acknowledgement is always that of all \
         replicas (acks=all)",
    ),
    (
        &[
            "enable.idempotence",
            "enable.gapless.guarantee",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "retries",
            "message.send.max.retries",
            "queuing.strategy",
            "transactional.id",
            "transaction.timeout.ms",
        ],
        "order and once-ness rest on the idempotent producer as Picket sets it",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "what is not acknowledged is tried until it is; how long silence may last is stall_ms of the \
         agent",
    ),
    (
        &["partitioner", "partitioner_cb", "msg_order_cmp"],
        "a camera's records are in the partition in which every tool looks for them (murmur2_random)",
    ),
    (
        &["compression.*", "message.max.bytes", "batch.size"],
        "it is set for each topic, as the broker's side expects it",
    ),
    (
        &["queue.buffering.max.kbytes", "queue.buffering.max.messages"],
        "what is on its way is bounded by max_in_flight_bytes and max_in_flight_records of the agent",
    ),
    (&["queue.buffering.max.ms"], "give it by its other name, \"linger.ms\""),
    (&["group.instance.id"], "use the field static_member of the aggregator"),
    (
        &["group.*", "partition.assignment.strategy", "max.poll.interval.ms", "topic.blacklist"],
        "the group is joined as the checkpoints need it; its name is the field group",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.*",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "offset.store.*",
            "enable.partition.eof",
            "consume.callback.*",
        ],
        "where to resume stands in MongoDB with the state that belongs to it",
    ),
    (&["bootstrap.servers", "metadata.broker.list"], "use the field brokers"),
    (&["allow.auto.create.topics"], "topics are made with picket-aggregator topics create"),
    (&["client.id"], "it is made from the device's or the instance's name"),
    (
        &["security.protocol", "ssl.*", "ssl_*", "enable.ssl.*", "https.*"],
        "use the fields ca_file, certificate_file, key_file and allow_plaintext",
    ),
    (&["sasl.*", "enable.sasl.*", "oauthbearer_*"], "use the table sasl"),
    (
        &["api.version.request", "api.version.fallback.ms", "broker.version.fallback"],
        "what the broker understands is asked of the broker: the idempotent producer and headers need \
         it, and a guess at an older one would turn them off",
    ),
    (&["statistics.interval.ms"], "see the metrics of the program instead"),
    (
        &[
            "plugin.library.paths",
            "test.*",
            "enabled_events",
            "interceptors",
            "opaque",
            "default_topic_conf",
            "*_cb",
        ],
        "it is for programs that use librdkafka, not for their users",
    ),
];

/// Longer, and waiting on purpose looks like a link that is slow or down.
const MAX_LINGER_MS: f64 = 1000.0;

fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(begin)) => name.starts_with(begin),
        _ => pattern == name,
    }
}

fn why_refused(name: &str, value: &str) -> Option<&'static str> {
    // librdkafka takes a setting of topics by its bare name, and with this before it.
    let bare = name.strip_prefix("topic.");
    let is_of =
        |pattern: &&str| matches(pattern, name) || bare.is_some_and(|bare| matches(pattern, bare));
    if let Some((_, why)) = REFUSED.iter().find(|(patterns, _)| patterns.iter().any(is_of)) {
        return Some(why);
    }
    // What is no number at all is librdkafka's to refuse.
    let lingers =
        name == "linger.ms" && value.trim().parse::<f64>().is_ok_and(|ms| ms > MAX_LINGER_MS);
    lingers.then_some("at most 1000: a record that lingers counts as one that is not acknowledged")
}

impl Extra {
    /// Names and values, as they are passed on.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has librdkafka look at each by itself (`alone`), then at all `together`. What it does not like
    /// comes with its name and librdkafka's words.
    pub fn check(
        &self,
        alone: impl Fn(&str, &str) -> Result<(), String>,
        together: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), (String, String)> {
        for (name, value) in self.iter() {
            alone(name, value).map_err(|said| (format!("{name:?}"), said))?;
        }
        if self.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.iter().map(|(name, _)| format!("{name:?}")).collect();
        together().map_err(|said| (names.join(" with "), said))
    }

    /// The first that breaks what Picket promises, and why or what to use instead.
    pub fn refused(&self) -> Option<(&str, &'static str)> {
        self.0.iter().find_map(|(name, value)| Some((name.as_str(), why_refused(name, value)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(text: &str) -> Extra {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn names_are_taken_with_and_without_quotation_marks_and_values_of_any_kind() {
        let read =
            extra("\"linger.ms\" = \"20\"\nsocket.nagle.disable = true\nsocket.timeout.ms = 9");
        let all: Vec<_> = read.iter().collect();
        let expected =
            [("linger.ms", "20"), ("socket.nagle.disable", "true"), ("socket.timeout.ms", "9")];
        assert_eq!(all, expected);
        assert_eq!(read.refused(), None);
        let error = toml::from_str::<Extra>("a = [1]").unwrap_err().to_string();
        assert!(error.contains("a text, a number, true or false"), "{error}");
    }

    #[test]
    fn what_breaks_a_promise_is_refused_by_each_of_its_names_with_what_to_do_instead() {
        let names = [
            ("acks", "acks=all"),
            ("request.required.acks", "acks=all"),
            ("enable.idempotence", "idempotent"),
            ("message.timeout.ms", "stall_ms"),
            ("delivery.timeout.ms", "stall_ms"),
            ("retries", "idempotent"),
            ("message.send.max.retries", "idempotent"),
            ("max.in.flight", "idempotent"),
            ("max.in.flight.requests.per.connection", "idempotent"),
            ("partitioner", "partition"),
            ("transactional.id", "idempotent"),
            ("enable.auto.commit", "MongoDB"),
            ("auto.commit.enable", "MongoDB"),
            ("auto.offset.reset", "MongoDB"),
            ("enable.auto.offset.store", "MongoDB"),
            ("group.id", "group"),
            ("group.instance.id", "static_member"),
            ("bootstrap.servers", "brokers"),
            ("metadata.broker.list", "brokers"),
            ("ssl.key.password", "key_file"),
            ("enable.ssl.certificate.verification", "ca_file"),
            ("security.protocol", "ca_file"),
            ("sasl.password", "sasl"),
            ("compression.codec", "topic"),
            ("dr_msg_cb", "acks=all"),
            ("rebalance_cb", "librdkafka"),
            ("topic.partitioner", "partition"),
            ("topic.message.timeout.ms", "stall_ms"),
            ("topic.delivery.timeout.ms", "stall_ms"),
            ("topic.auto.offset.reset", "MongoDB"),
            ("topic.request.required.acks", "acks=all"),
            ("topic.acks", "acks=all"),
            ("topic.compression.type", "topic"),
            ("topic.opaque", "librdkafka"),
            ("api.version.request", "broker"),
            ("api.version.fallback.ms", "broker"),
            ("broker.version.fallback", "broker"),
        ];
        for (name, instead) in names {
            let extra = Extra::from([(name, "1")]);
            let (refused, why) = extra.refused().unwrap_or_else(|| panic!("{name} is let through"));
            assert_eq!(refused, name);
            assert!(why.contains(instead), "{name}: {why}");
        }
    }

    #[test]
    fn settings_whose_own_name_begins_with_topic_are_let_through() {
        let names = ["topic.metadata.refresh.interval.ms", "topic.metadata.propagation.max.ms"];
        for name in names.into_iter().chain(["api.version.request.timeout.ms"]) {
            assert_eq!(Extra::from([(name, "60000")]).refused(), None);
        }
    }

    #[test]
    fn a_record_lingers_for_a_second_at_most() {
        for (value, is_refused) in
            [("0.5", false), ("1000", false), ("1000.5", true), ("1e6", true)]
        {
            let extra = Extra::from([("linger.ms", value)]);
            assert_eq!(extra.refused().is_some(), is_refused, "{value}");
        }
    }
}
