//! The parts of a fleet, as they stand in the OU of a certificate.

use std::fmt;
use std::str::FromStr;

use crate::PkiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A service that is not a Kafka client: MongoDB, the aggregator's web page. No Kafka principal.
    Server,
    /// A Kafka broker or controller.
    Broker,
    /// A person or tool that makes topics and ACLs.
    Admin,
    Aggregator,
    Device,
}

impl Role {
    pub const ALL: [Role; 5] =
        [Role::Server, Role::Broker, Role::Admin, Role::Aggregator, Role::Device];

    /// The word in the certificate's OU, in the folder's name and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Broker => "broker",
            Role::Admin => "admin",
            Role::Aggregator => "aggregator",
            Role::Device => "device",
        }
    }

    /// Whether others connect to it, so that its certificate must carry host names.
    pub fn serves(self) -> bool {
        matches!(self, Role::Server | Role::Broker)
    }

    /// The Kafka principal that [`Role::KAFKA_MAPPING_RULES`] gives to this certificate.
    pub fn principal(self, name: &str) -> String {
        format!("{self}-{name}")
    }

    /// The value of a broker's `ssl.principal.mapping.rules`. There is no `DEFAULT` at its end on
    /// purpose: a certificate with another role is no principal at all and cannot connect.
    pub const KAFKA_MAPPING_RULES: &str = "\
RULE:^CN=([a-z0-9][a-z0-9._-]*),OU=(broker|admin|aggregator|device)$/$2-$1/";
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| PkiError::Name { what: "role", name: text.to_owned() })
    }
}

/// The rule for every name on the wire: `[a-z0-9][a-z0-9._-]{0,62}`.
pub fn check_name(what: &'static str, name: &str) -> Result<(), PkiError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = bytes.first().is_some_and(|&b| plain(b))
        && bytes.len() <= 63
        && bytes.iter().all(|&b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(PkiError::Name { what, name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_wire_are_accepted() {
        let longest = "a".repeat(63);
        for name in ["a", "7", "gate-7", "north.gate_2", longest.as_str()] {
            assert!(check_name("device", name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_forge_a_subject_or_a_path_are_refused() {
        let too_long = "a".repeat(64);
        let names =
            ["", "Gate", "-x", ".x", "_x", "a b", "a/b", "..", "a,OU=admin", "a\n", "é", &too_long];
        for name in names {
            assert!(check_name("device", name).is_err(), "{name:?}");
        }
    }
}
