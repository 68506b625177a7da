//! When a certificate is valid.

use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

const DAY_S: i64 = 24 * 60 * 60;

/// The times between which a certificate is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Not before this.
    pub not_before: ASN1Time,
    /// Not after this.
    pub not_after: ASN1Time,
}

impl Validity {
    /// Of the first certificate in a PEM file; none where there is none that can be read.
    pub fn of_pem(bytes: &[u8]) -> Option<Self> {
        let mut pems = Pem::iter_from_buffer(bytes).filter_map(Result::ok);
        let pem = pems.find(|pem| pem.label == "CERTIFICATE")?;
        let certificate = pem.parse_x509().ok()?;
        let validity = certificate.validity();
        Some(Self { not_before: validity.not_before, not_after: validity.not_after })
    }

    /// Days until it expires, negative once it has.
    pub fn days_left(&self, now: ASN1Time) -> i64 {
        self.not_after.timestamp().saturating_sub(now.timestamp()).div_euclid(DAY_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_that_a_certificate_has_left_pass() {
        let at = |second| ASN1Time::from_timestamp(second).unwrap();
        let validity = Validity { not_before: at(0), not_after: at(10 * DAY_S) };
        let days = [0, 1, 9 * DAY_S, 10 * DAY_S, 10 * DAY_S + 1];
        assert_eq!(days.map(|now| validity.days_left(at(now))), [10, 9, 1, 0, -1]);
    }

    #[test]
    fn what_holds_no_certificate_has_no_validity() {
        let key = "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n";
        for bytes in [&b""[..], b"text", key.as_bytes()] {
            assert_eq!(Validity::of_pem(bytes), None);
        }
    }
}
