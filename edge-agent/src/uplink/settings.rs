//! The uplink's section of the config.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_service::kafka::{Extra, Sasl};
use picket_wire::topic::DEFAULT_PREFIX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::Snapshot;
use super::producer;
use super::security::{self, SecurityError};

/// Longest `drain_timeout_ms`. With the other steps of a stop it fits into the service manager's limit,
/// past which it would kill the agent before the spool is closed; a test of `wiring` adds them up.
pub(super) const MAX_DRAIN_MS: u64 = 10_000;

/// The field of the password's file.
pub(super) const PASSWORD_FILE: &str = "uplink.sasl.password_file";

/// The way to Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Brokers to begin with, each as `host:port`; the others are learned from them.
    pub brokers: Vec<String>,
    /// What the names of the topics begin with: `<prefix>.observations` and so on.
    pub topic_prefix: String,
    /// File with the certificates (PEM) of the CA that signed the brokers' certificates.
    pub ca_file: Option<PathBuf>,
    /// File with this device's certificate chain (PEM), its own first. Needed where the broker
    /// demands client certificates, as Picket's do.
    pub certificate_file: Option<PathBuf>,
    /// File with the private key (PEM, not encrypted) of the certificate.
    pub key_file: Option<PathBuf>,
    /// Whether records may be sent without TLS when no `ca_file` is given. Only for a broker on
    /// the same machine or a network that nobody else is on: pictures of persons go over it.
    pub allow_plaintext: bool,
    /// A login with a password, where the broker asks for one: beside `certificate_file` or instead
    /// of it. Needs `ca_file`.
    pub sasl: Option<Sasl>,
    /// More settings of librdkafka, by their names there, such as `"socket.send.buffer.bytes" =
    /// 65536`. Those that would break what Picket promises are refused by name.
    pub extra: Extra,
    /// Most bytes handed to the producer and not yet acknowledged; they are held in memory.
    pub max_in_flight_bytes: u64,
    /// Most records handed to the producer and not yet acknowledged.
    pub max_in_flight_records: u32,
    /// Most bytes to send in a second, headers included, counted before compression; leave it out for
    /// no ceiling. What is not sent waits in the spool: pictures and the backlog first, so that live
    /// records are late only where they alone are more. Heartbeats take a tenth of it at most: where one a second is more than that, they come less often.
    pub max_bytes_per_second: Option<u64>,
    /// Most bytes that may go over the link in a calendar month of the site's `time_zone`, both ways,
    /// as Kafka's client counts them (after compression, without what TLS and TCP add: some 5 %);
    /// leave it out for no budget. Once they have gone only observations go: pictures that come, and
    /// those that wait in the spool, are dropped with the reason `budget`, counted and told as gaps,
    /// until the month ends. While the clock is not set it is counted on in the last known month, and
    /// pictures past its budget wait in the spool.
    pub monthly_budget_bytes: Option<u64>,
    /// While both live records and a backlog wait, one byte in this many is of the backlog.
    pub backlog_one_in: u32,
    /// The backlog of a camera is sent at most so many times as fast as it was captured, so that what
    /// is live does not wait at the centre behind more than it can store. A quiet time counts as a
    /// second. What `spool import` publishes has no such bound.
    pub backlog_speed: u32,
    /// The link counts as down when nothing was acknowledged for this many milliseconds though
    /// something was sent.
    pub stall_ms: u64,
    /// On shutdown, how long in milliseconds to go on sending what is spooled, 0 to 10000: all of a
    /// stop has to fit into the 60 seconds that the service manager waits. What is left then stays
    /// in the spool for the next start.
    pub drain_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            topic_prefix: DEFAULT_PREFIX.to_owned(),
            ca_file: None,
            certificate_file: None,
            key_file: None,
            allow_plaintext: false,
            sasl: None,
            extra: Extra::default(),
            max_in_flight_bytes: 16 * 1024 * 1024,
            max_in_flight_records: 1000,
            max_bytes_per_second: None,
            monthly_budget_bytes: None,
            backlog_one_in: 4,
            backlog_speed: 20,
            stall_ms: 10_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Why the settings cannot be worked with. No value of a key or of a URL is ever quoted.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing to connect to.
    #[error("uplink.brokers is empty: name at least one broker as host:port")]
    NoBrokers,
    /// Not `host:port`. The text is not quoted: it may hold a password.
    #[error(
        "uplink.brokers[{index}] is not valid: it must read host:port, without a scheme, a \
             user or a password"
    )]
    Broker {
        /// Which of the list.
        index: usize,
    },
    /// Not part of a topic's name.
    #[error(
        "uplink.topic_prefix = {prefix:?} is not valid: 1 to 200 of a-z, A-Z, 0-9, '.', '_' and '-'"
    )]
    Prefix {
        /// What it is.
        prefix: String,
    },
    /// Out of range.
    #[error("uplink.{field} = {value} is not valid: it must be {rule}")]
    Range {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        rule: &'static str,
    },
    /// Neither TLS nor leave to go without.
    #[error(
        "uplink.ca_file is missing: records are sent over TLS only. Name the CA's file, or set \
             uplink.allow_plaintext = true for a broker on a network that nobody else is on"
    )]
    Plaintext,
    /// A file that goes with another.
    #[error("uplink.{given} is set, but uplink.{missing} is not: {why}")]
    Incomplete {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// The login.
    #[error("uplink.sasl.username {0}")]
    Username(&'static str),
    /// A setting that is Picket's own.
    #[error("uplink.extra: {name:?} is not passed on to librdkafka: {instead}")]
    NotPassedOn {
        /// Which.
        name: String,
        /// Why, or what to use.
        instead: &'static str,
    },
    /// librdkafka does not take it.
    #[error("uplink.extra: librdkafka refuses {names}: {why}")]
    Extra {
        /// Which, or which together.
        names: String,
        /// In its words.
        why: String,
    },
    /// The files.
    #[error("the uplink's files are not valid")]
    Security(#[from] SecurityError),
}

impl Settings {
    /// Refuses settings that cannot work, and files that are missing or of two minds.
    /// Tells what the files hold.
    pub fn check(&self) -> Result<Snapshot, SettingsError> {
        self.check_values()?;
        self.check_presence()?;
        self.check_extra()?;
        Ok(security::check(self)?)
    }

    /// Whether TLS is used.
    pub fn uses_tls(&self) -> bool {
        self.ca_file.is_some()
    }

    /// The files that others may renew, with their fields.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let password_file = self.sasl.as_ref().map(|sasl| sasl.password_file.as_path());
        let files = [
            ("uplink.ca_file", self.ca_file.as_deref()),
            ("uplink.certificate_file", self.certificate_file.as_deref()),
            ("uplink.key_file", self.key_file.as_deref()),
            (PASSWORD_FILE, password_file),
        ];
        files.into_iter().filter_map(|(field, path)| Some((field, path?)))
    }

    fn check_extra(&self) -> Result<(), SettingsError> {
        if let Some((name, instead)) = self.extra.refused() {
            return Err(SettingsError::NotPassedOn { name: name.to_owned(), instead });
        }
        producer::check_extra(self).map_err(|(names, why)| SettingsError::Extra { names, why })
    }

    /// One key may be silent so long while others are acknowledged before its partition counts as
    /// away: on a slow link what goes of another can take some time.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.stall_ms) * 3
    }

    /// How long a pair of producers with other files may take to be let in: half as long again as
    /// silence may last, as it begins with looking up names and connecting.
    pub(super) fn trial(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(5);
        (Duration::from_millis(self.stall_ms) * 3 / 2).max(LEAST)
    }

    fn check_values(&self) -> Result<(), SettingsError> {
        if self.brokers.is_empty() {
            return Err(SettingsError::NoBrokers);
        }
        if let Some(index) = self.brokers.iter().position(|broker| !is_host_and_port(broker)) {
            return Err(SettingsError::Broker { index });
        }
        let part = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let prefix = &self.topic_prefix;
        if !(1..=200).contains(&prefix.len()) || !prefix.bytes().all(part) {
            return Err(SettingsError::Prefix { prefix: prefix.chars().take(80).collect() });
        }
        let ranges = [
            (
                "max_in_flight_bytes",
                self.max_in_flight_bytes,
                8 << 20,
                1 << 30,
                "8388608 (8 MiB, two of the largest pictures) to 1073741824",
            ),
            ("max_in_flight_records", self.max_in_flight_records.into(), 1, 100_000, "1 to 100000"),
            (
                "max_bytes_per_second",
                self.max_bytes_per_second.unwrap_or(1000),
                1000,
                1 << 40,
                "1000 to 1099511627776, or left out for no ceiling",
            ),
            (
                "monthly_budget_bytes",
                self.monthly_budget_bytes.unwrap_or(1 << 20),
                1 << 20,
                1 << 50,
                "1048576 (1 MiB) to 1125899906842624, or left out for no budget",
            ),
            ("backlog_one_in", self.backlog_one_in.into(), 2, 1000, "2 to 1000"),
            ("backlog_speed", self.backlog_speed.into(), 1, 1000, "1 to 1000"),
            ("stall_ms", self.stall_ms, 1000, 600_000, "1000 to 600000"),
            (
                "drain_timeout_ms",
                self.drain_timeout_ms,
                0,
                MAX_DRAIN_MS,
                "0 to 10000: a stop that takes longer than the service manager's 60 s ends in a kill, \
                 and what is left stays in the spool for the next start anyway",
            ),
        ];
        for (field, value, least, most, rule) in ranges {
            if !(least..=most).contains(&value) {
                return Err(SettingsError::Range { field, value, rule });
            }
        }
        Ok(())
    }

    fn check_presence(&self) -> Result<(), SettingsError> {
        let incomplete =
            |given, missing, why| Err(SettingsError::Incomplete { given, missing, why });
        if let Some(sasl) = &self.sasl {
            sasl.check().map_err(SettingsError::Username)?;
            if self.ca_file.is_none() {
                return incomplete("sasl", "ca_file", "a password is sent over TLS only");
            }
        }
        match (&self.ca_file, &self.certificate_file, &self.key_file) {
            (_, Some(_), None) => {
                incomplete("certificate_file", "key_file", "a certificate is used with its key")
            }
            (_, None, Some(_)) => {
                incomplete("key_file", "certificate_file", "a key is used with its certificate")
            }
            (None, Some(_), Some(_)) => incomplete(
                "certificate_file",
                "ca_file",
                "without it the device could not tell the broker from an impostor",
            ),
            (None, None, None) if !self.allow_plaintext => Err(SettingsError::Plaintext),
            _ => Ok(()),
        }
    }
}

fn is_host_and_port(broker: &str) -> bool {
    let Some((host, port)) = broker.rsplit_once(':') else {
        return false;
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let part = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    !host.is_empty() && host.bytes().all(part) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use picket_service::kafka::Mechanism;

    use super::*;

    fn plain() -> Settings {
        let brokers = vec!["broker-1.example:9093".to_owned(), "[::1]:9092".to_owned()];
        Settings { brokers, allow_plaintext: true, ..Settings::default() }
    }

    #[test]
    fn plaintext_is_refused_unless_allowed() {
        plain().check().unwrap();
        let refused = Settings { allow_plaintext: false, ..plain() };
        assert!(matches!(refused.check(), Err(SettingsError::Plaintext)));
    }

    #[test]
    fn a_broker_with_a_password_is_refused_and_not_quoted() {
        let brokers = vec!["ssl://user:secret@host:9092".to_owned()];
        let error = Settings { brokers, ..plain() }.check().unwrap_err().to_string();
        assert!(error.contains("brokers[0]") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_drain_that_the_service_manager_would_cut_off_is_refused_with_the_reason() {
        Settings { drain_timeout_ms: MAX_DRAIN_MS, ..plain() }.check().unwrap();
        let longer = Settings { drain_timeout_ms: MAX_DRAIN_MS + 1, ..plain() };
        let error = longer.check().unwrap_err().to_string();
        let words =
            ["drain_timeout_ms = 10001", &format!("0 to {MAX_DRAIN_MS}"), "service manager"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_by_name() {
        let certificate_file = Some(PathBuf::from("device.pem"));
        let error = Settings { certificate_file, ..plain() }.check().unwrap_err().to_string();
        assert!(error.contains("uplink.key_file is not"), "{error}");
    }

    #[test]
    fn what_breaks_a_promise_or_is_unknown_to_librdkafka_is_refused_by_name() {
        let with = |name, value| {
            let extra = Extra::from([("linger.ms", "20"), (name, value)]);
            Settings { extra, ..plain() }.check().map_err(|error| error.to_string())
        };
        with("socket.nagle.disable", "true").unwrap();
        let cases = [
            ("acks", "1", "\"acks\" is not passed on"),
            ("lingre.ms", "1", "\"lingre.ms\": No such configuration property"),
            ("socket.timeout.ms", "soon", "\"socket.timeout.ms\": Invalid value"),
            // Each is right by itself.
            ("reconnect.backoff.max.ms", "100", "\"reconnect.backoff.max.ms\""),
        ];
        for (name, value, said) in cases {
            let error = with(name, value).unwrap_err();
            assert!(error.contains("uplink.extra") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_password_is_refused_without_tls_and_its_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let sasl = Sasl {
            mechanism: Mechanism::ScramSha512,
            username: "device-gate".to_owned(),
            password_file: dir.path().join("password"),
        };
        let open = Settings { sasl: Some(sasl.clone()), ..plain() };
        let error = open.check().unwrap_err().to_string();
        assert!(error.contains("uplink.ca_file is not") && error.contains("TLS only"), "{error}");
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["ca".to_owned()]).unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let closed = Settings { ca_file: Some(ca_file), ..open };
        let text = picket_service::logging::chain(&closed.check().unwrap_err());
        assert!(text.contains("uplink.sasl.password_file"), "{text}");
        std::fs::write(&sasl.password_file, "secret\n").unwrap();
        closed.check().unwrap();
    }

    #[test]
    fn a_missing_file_is_named_with_its_field() {
        let ca_file = Some(PathBuf::from("/nowhere/ca.pem"));
        let error = Settings { ca_file, ..plain() }.check().unwrap_err();
        let text = picket_service::logging::chain(&error);
        assert!(text.contains("uplink.ca_file") && text.contains("/nowhere/ca.pem"), "{text}");
    }
}
