//! What a certificate says, for people and for health checks.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, parse_x509_pem};

use crate::{PkiError, Role};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As Kafka prints it: `CN=gate-7,OU=device`.
    pub subject: String,
    pub issuer: String,
    pub name: Option<String>,
    pub role: Option<Role>,
    pub sans: Vec<String>,
    /// Seconds since 1970.
    pub not_before_s: i64,
    /// Seconds since 1970.
    pub not_after_s: i64,
    pub(crate) public_key: Vec<u8>,
}

impl Description {
    /// Reads the first certificate in a PEM file; a key before it is skipped.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let bytes =
            fs::read(path).map_err(|source| PkiError::Read { path: path.into(), source })?;
        Self::parse(&bytes).map_err(|reason| PkiError::Certificate { path: path.into(), reason })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok((after, pem)) = parse_x509_pem(rest) else {
                break;
            };
            if pem.label == "CERTIFICATE" {
                let (_, certificate) = X509Certificate::from_der(&pem.contents)
                    .map_err(|e| format!("its content cannot be read ({e})"))?;
                return Ok(Self::of(&certificate));
            }
            rest = after;
        }
        Err("it holds no CERTIFICATE block".to_owned())
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        let subject = certificate.subject();
        let unit = subject.iter_organizational_unit().next().and_then(|u| u.as_str().ok());
        let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok());
        let sans = certificate.subject_alternative_name().ok().flatten();
        Self {
            subject: special_first(subject),
            issuer: special_first(certificate.issuer()),
            name: name.map(str::to_owned),
            role: unit.and_then(|unit| unit.parse().ok()),
            sans: sans.iter().flat_map(|s| s.value.general_names.iter().map(san_text)).collect(),
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        }
    }

    /// Whole days until it ends, by this machine's clock; negative once it has ended.
    pub fn days_left(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (self.not_after_s - now.as_secs().cast_signed()).div_euclid(86_400)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = self.role.map_or("none of Picket's", Role::as_str);
        let sans = if self.sans.is_empty() { "none".to_owned() } else { self.sans.join(", ") };
        writeln!(f, "subject    {}", self.subject)?;
        writeln!(f, "role       {role}")?;
        if let (Some(role), Some(name)) = (self.role, &self.name)
            && role != Role::Server
        {
            writeln!(f, "principal  {}", role.principal(name))?;
        }
        writeln!(f, "issuer     {}", self.issuer)?;
        writeln!(f, "names      {sans}")?;
        match self.days_left() {
            left if left < 0 => write!(f, "days left  none: it ended {} days ago", -left),
            left => write!(f, "days left  {left}"),
        }
    }
}

/// RFC 2253 order, the last part of the name first.
fn special_first(name: &x509_parser::x509::X509Name<'_>) -> String {
    let mut parts: Vec<String> = name.to_string().split(", ").map(str::to_owned).collect();
    parts.reverse();
    parts.join(",")
}

fn san_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(host) => (*host).to_owned(),
        GeneralName::IPAddress(bytes) => {
            if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                Ipv4Addr::from(four).to_string()
            } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                Ipv6Addr::from(sixteen).to_string()
            } else {
                format!("an IP address of {} bytes", bytes.len())
            }
        }
        other => other.to_string(),
    }
}
