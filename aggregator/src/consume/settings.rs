//! How to reach Kafka and how to read from it.

use std::path::{Path, PathBuf};

use picket_service::config::Problem;
use picket_service::kafka::{Extra, Sasl};
use picket_wire::topic::{DEFAULT_PREFIX, TopicNames};
use schemars::JsonSchema;
use serde::Deserialize;

use super::kafka;

/// The field of the password's file.
pub(super) const PASSWORD_FILE: &str = "consume.sasl.password_file";

/// A batch is one transaction, and MongoDB's limits of one are reached beyond this.
const MAX_BATCH_RECORDS: usize = 100_000;
/// A GiB: a batch is in memory whole, and each partition has one.
const MAX_BATCH_KIB: usize = 1024 * 1024;
/// As long as the brokers let a member's name be.
const MAX_MEMBER_BYTES: usize = 249;
/// A TiB: more is a slip of the finger.
const MAX_QUEUE_MIB: usize = 1024 * 1024;

/// Section `[consume]`: the Kafka cluster that the devices write to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Brokers as `host:port`; one is enough to find the others.
    pub brokers: Vec<String>,
    /// Consumer group. All aggregators of one fleet share it and the database.
    #[serde(default = "default_group")]
    pub group: String,
    /// How the group agrees on who reads what. `consumer`, the default: the brokers decide, and after an
    /// outage of theirs each aggregator goes on with its partitions at once; needs Kafka 4.0. `classic`:
    /// the aggregators agree among themselves; for older brokers.
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    /// What the topics' names begin with.
    #[serde(default = "default_topic_prefix")]
    pub topic_prefix: String,
    /// PEM file with the certificate authority that signed the brokers' certificates.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file with this aggregator's certificate.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Talk to Kafka without TLS. For a broker on this machine only.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// A login with a password, where the broker asks for one: beside `certificate_file` and
    /// `key_file` or instead of them.
    #[serde(default)]
    pub sasl: Option<Sasl>,
    /// More settings of librdkafka, by their names there, such as `"fetch.min.bytes" = 65536`. Those
    /// that would break what Picket promises are refused by name.
    #[serde(default)]
    pub extra: Extra,
    /// Name of this instance in logs and checkpoints; `static_member` or drawn at random if it is not
    /// set.
    #[serde(default)]
    pub instance: Option<String>,
    /// Makes this aggregator a static member of the group, under this name (`group.instance.id`), of which
    /// no other one may be. Its partitions wait for it while it starts again, unread, for as long as the
    /// brokers let a session last (`group.consumer.session.timeout.ms`), instead of moving to the others
    /// and back; one that ends for good keeps them as long.
    #[serde(default)]
    pub static_member: Option<String>,
    /// Most records in one batch.
    #[serde(default = "default_batch_records")]
    pub batch_records: usize,
    /// Most bytes in one batch, in KiB; a single record may be larger.
    #[serde(default = "default_batch_kib")]
    pub batch_kib: usize,
    /// How long a batch waits for more records after its first, in milliseconds. More makes fewer,
    /// larger writes; it is also the least time from broker to store.
    #[serde(default = "default_batch_wait_ms")]
    pub batch_wait_ms: u64,
    /// Most memory for records that wait for their writes, in MiB, shared among the partitions.
    /// Beyond it reading pauses.
    #[serde(default = "default_queue_mib")]
    pub queue_mib: usize,
    /// How long observations that are missing are waited for, in hours of the broker's time. Meanwhile
    /// what was captured after them is tracked provisionally. What comes later is stored and not
    /// tracked. No longer than `upsert.observations_days`.
    #[serde(default = "default_horizon_hours")]
    pub horizon_hours: u32,
    /// Tell others of tracks, and up to where each camera is complete, on the topic
    /// `<topic_prefix>.tracks`.
    #[serde(default)]
    pub publish_tracks: bool,
    /// How long the work of a partition may take to end when it moves to another instance or the
    /// program ends, in seconds. What is not written by then is read again by the next owner.
    #[serde(default = "default_release_s")]
    pub release_s: u64,
}

/// How a group agrees on who reads what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// The brokers decide (KIP-848).
    #[default]
    Consumer,
    /// The members do.
    Classic,
}

impl GroupProtocol {
    /// As librdkafka names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Classic => "classic",
        }
    }
}

fn default_group() -> String {
    "picket-aggregator".to_owned()
}

fn default_topic_prefix() -> String {
    DEFAULT_PREFIX.to_owned()
}

fn default_batch_records() -> usize {
    500
}

fn default_batch_kib() -> usize {
    8192
}

fn default_batch_wait_ms() -> u64 {
    25
}

fn default_queue_mib() -> usize {
    256
}

fn default_horizon_hours() -> u32 {
    7 * 24
}

fn default_release_s() -> u64 {
    20
}

impl Settings {
    /// `horizon_hours` in milliseconds.
    pub fn horizon_ms(&self) -> i64 {
        i64::from(self.horizon_hours) * 60 * 60 * 1000
    }

    /// The topics' names.
    pub fn topics(&self) -> TopicNames {
        TopicNames::new(self.topic_prefix.clone())
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        check_connection(&self.connection(), self.group_protocol)?;
        if self.group.is_empty() {
            return Err(Problem::new("group", "must not be empty"));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if let Some(name) = &self.static_member {
            let is_name = (1..=MAX_MEMBER_BYTES).contains(&name.len()) && name.bytes().all(fits);
            if !is_name || name == "." || name == ".." {
                let problem =
                    "must be 1 to 249 letters, digits, '.', '_' and '-', and not '.' or '..'";
                return Err(Problem::new("static_member", problem));
            }
        }
        if self.topic_prefix.is_empty() || !self.topic_prefix.bytes().all(fits) {
            return Err(Problem::new("topic_prefix", "must be letters, digits, '.', '_' and '-'"));
        }
        for (field, value, most) in [
            ("batch_records", self.batch_records, MAX_BATCH_RECORDS),
            ("batch_kib", self.batch_kib, MAX_BATCH_KIB),
            ("queue_mib", self.queue_mib, MAX_QUEUE_MIB),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Problem::new(field, format_args!("{value} is not 1 to {most}")));
            }
        }
        if self.batch_wait_ms > 1000 {
            return Err(Problem::new("batch_wait_ms", "must be 1000 or less"));
        }
        // Kafka gives up on a member that takes longer to hand over (`max.poll.interval.ms`).
        if !(1..=120).contains(&self.release_s) {
            return Err(Problem::new("release_s", "must be 1 to 120"));
        }
        Ok(())
    }

    /// The part that says how to connect.
    pub fn connection(&self) -> Connection {
        Connection {
            brokers: self.brokers.clone(),
            ca_file: self.ca_file.clone(),
            certificate_file: self.certificate_file.clone(),
            key_file: self.key_file.clone(),
            allow_plaintext: self.allow_plaintext,
            sasl: self.sasl.clone(),
            extra: self.extra.clone(),
        }
    }
}

/// How to connect to Kafka.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Brokers as `host:port`.
    pub brokers: Vec<String>,
    /// PEM file of the authority.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// Without TLS.
    pub allow_plaintext: bool,
    /// A login.
    pub sasl: Option<Sasl>,
    /// Settings of librdkafka.
    pub extra: Extra,
}

impl Connection {
    /// The files that others may renew, with their fields.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("consume.ca_file", self.ca_file.as_deref()),
            ("consume.certificate_file", self.certificate_file.as_deref()),
            ("consume.key_file", self.key_file.as_deref()),
            (PASSWORD_FILE, self.sasl.as_ref().map(|sasl| sasl.password_file.as_path())),
        ];
        files.into_iter().filter_map(|(field, path)| Some((field, path?)))
    }
}

fn check_extra(connection: &Connection, protocol: GroupProtocol) -> Result<(), Problem> {
    let field = |name: &str| format!("extra.{name:?}");
    if let Some((name, instead)) = connection.extra.refused() {
        let problem = format!("is not passed on to librdkafka: {instead}");
        return Err(Problem::new(field(name), problem));
    }
    kafka::check_extra(connection, protocol).map_err(|(name, said)| {
        Problem::new(format!("extra.{name}"), format!("librdkafka refuses it: {said}"))
    })
}

fn check_connection(connection: &Connection, protocol: GroupProtocol) -> Result<(), Problem> {
    if connection.brokers.is_empty() {
        return Err(Problem::new("brokers", "name at least one broker as host:port"));
    }
    let port_of = |broker: &str| broker.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
    for broker in &connection.brokers {
        if port_of(broker).is_none() || broker.contains(['/', '@', ',']) {
            return Err(Problem::new("brokers", format_args!("{broker:?} is not host:port")));
        }
    }
    let tls = [&connection.ca_file, &connection.certificate_file, &connection.key_file];
    check_extra(connection, protocol)?;
    if connection.allow_plaintext {
        if connection.sasl.is_some() {
            let problem = "a password is sent over TLS only: leave allow_plaintext out";
            return Err(Problem::new("sasl", problem));
        }
        return match tls.iter().any(|file| file.is_some()) {
            true => Err(Problem::new(
                "allow_plaintext",
                "contradicts ca_file, certificate_file and key_file: leave it out, or leave them out",
            )),
            false => Ok(()),
        };
    }
    if let Some(sasl) = &connection.sasl {
        sasl.check().map_err(|problem| Problem::new("sasl.username", problem))?;
    }
    let has_own = connection.certificate_file.is_some() || connection.key_file.is_some();
    for (field, file) in ["ca_file", "certificate_file", "key_file"].into_iter().zip(tls) {
        // A password says who one is as well as a certificate does.
        let is_needed = field == "ca_file" || connection.sasl.is_none() || has_own;
        if file.is_none() && is_needed {
            return Err(Problem::new(
                field,
                "is needed: the brokers are reached over TLS with a certificate on both sides",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn tls_is_required_unless_plaintext_is_asked_for_by_name() {
        let plain = settings("brokers = ['localhost:9092']");
        assert_eq!(plain.check().unwrap_err().field, "ca_file");
        settings("brokers = ['localhost:9092']\nallow_plaintext = true").check().unwrap();
    }

    #[test]
    fn a_password_stands_for_a_certificate_and_never_goes_without_tls() {
        let sasl = "[sasl]\nmechanism = 'SCRAM-SHA-512'\nusername = 'aggregator-centre'\n\
                    password_file = '/password'";
        let over_tls = format!("brokers = ['a:1']\nca_file = '/ca.pem'\n{sasl}");
        settings(&over_tls).check().unwrap();
        let open = format!("brokers = ['a:1']\nallow_plaintext = true\n{sasl}");
        assert_eq!(settings(&open).check().unwrap_err().field, "sasl");
        let half = format!("brokers = ['a:1']\nca_file = '/ca.pem'\nkey_file = '/key'\n{sasl}");
        assert_eq!(settings(&half).check().unwrap_err().field, "certificate_file");
    }

    #[test]
    fn what_breaks_a_promise_or_is_unknown_to_librdkafka_is_refused_by_name() {
        let with_protocol = |protocol: &str, line: &str| {
            let plain = "brokers = ['a:1']\nallow_plaintext = true";
            let text = format!("{plain}\ngroup_protocol = '{protocol}'\n[extra]\n{line}");
            settings(&text).check()
        };
        let with = |line: &str| with_protocol("consumer", line);
        with("fetch.min.bytes = 65536").unwrap();
        with_protocol("classic", "session.timeout.ms = 9000").unwrap();
        for (line, field, said) in [
            ("enable.auto.commit = true", "extra.\"enable.auto.commit\"", "MongoDB"),
            ("fetch.minbytes = 1", "extra.\"fetch.minbytes\"", "No such configuration property"),
            ("fetch.min.bytes = 'few'", "extra.\"fetch.min.bytes\"", "Invalid value"),
            // The brokers say how long a session lasts.
            ("session.timeout.ms = 9000", "extra.\"session.timeout.ms\"", "group.protocol"),
        ] {
            let error = with(line).unwrap_err();
            assert!(error.field == field && error.problem.contains(said), "{error:?}");
        }
        // It is right by itself.
        let long = "max.partition.fetch.bytes = 9\nsession.timeout.ms = 400000";
        let error = with_protocol("classic", long).unwrap_err();
        assert_eq!(error.field, "extra.\"max.partition.fetch.bytes\" with \"session.timeout.ms\"");
        assert!(error.problem.contains("max.poll.interval.ms"), "{error:?}");
    }

    #[test]
    fn plaintext_and_certificates_contradict_each_other() {
        let both = "brokers = ['a:1']\nallow_plaintext = true\nca_file = '/ca.pem'";
        assert_eq!(settings(both).check().unwrap_err().field, "allow_plaintext");
    }

    #[test]
    fn numbers_beyond_sense_are_refused_by_name() {
        for field in ["batch_records", "batch_kib", "queue_mib", "batch_wait_ms", "release_s"] {
            let most = settings(&format!(
                "brokers = ['a:1']\nallow_plaintext = true\n{field} = 9223372036854775807"
            ));
            assert_eq!(most.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn a_static_members_name_is_one_that_the_brokers_take() {
        let with = |name: &str| {
            let text =
                format!("brokers = ['a:1']\nallow_plaintext = true\nstatic_member = '{name}'");
            settings(&text).check()
        };
        with("centre-1.north_2").unwrap();
        for name in ["", ".", "..", "centre 1", "centre/1", &"x".repeat(250)] {
            assert_eq!(with(name).unwrap_err().field, "static_member");
        }
    }

    #[test]
    fn a_broker_without_a_port_is_refused_by_name() {
        let error = settings("brokers = ['a']\nallow_plaintext = true").check().unwrap_err();
        assert!(error.problem.contains("\"a\""), "{error:?}");
    }
}
