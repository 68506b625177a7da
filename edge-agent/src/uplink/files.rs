//! The files that say who this device is and whom it trusts, as they are on disk now.

use std::path::PathBuf;

use picket_service::renewed::{self, Digest, Unreadable};
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

use super::security::SecurityError;
use super::settings::Settings;

const DAY_S: i64 = 24 * 60 * 60;

/// When the first certificate of a file is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Validity {
    field: &'static str,
    path: PathBuf,
    not_before: ASN1Time,
    not_after: ASN1Time,
}

/// What the files held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// To tell it from others.
    pub digest: Digest,
    validities: Vec<Validity>,
}

impl Snapshot {
    /// Reads them all; refused is a file that cannot be read or holds no certificate where one belongs.
    pub fn take(settings: &Settings) -> Result<Self, SecurityError> {
        let mut validities = Vec::new();
        let digest = renewed::digest::<SecurityError>(settings.files(), |field, path, bytes| {
            if holds_certificate(field) {
                let (not_before, not_after) = validity(bytes).ok_or_else(|| {
                    SecurityError::NoCertificate { field, path: path.to_path_buf() }
                })?;
                validities.push(Validity {
                    field,
                    path: path.to_path_buf(),
                    not_before,
                    not_after,
                });
            }
            Ok(())
        })?;
        Ok(Self { digest, validities })
    }

    /// Days until the device's own certificate expires, negative when it has; `None` without one.
    pub fn days_left(&self) -> Option<i64> {
        let own = self.validities.iter().find(|of| of.field == "uplink.certificate_file")?;
        Some((own.not_after.timestamp() - ASN1Time::now().timestamp()).div_euclid(DAY_S))
    }

    /// What the dates of the certificates say against the link, in words; `None` if all are in their
    /// time by this device's clock.
    pub fn dates_problem(&self) -> Option<String> {
        let now = ASN1Time::now();
        self.validities.iter().find_map(|of| {
            let (field, path) = (of.field, of.path.display());
            if now > of.not_after {
                let not_after = of.not_after;
                return Some(format!("{field} {path}: the certificate expired on {not_after}"));
            }
            (now < of.not_before).then(|| {
                format!(
                    "{field} {path}: the certificate is not valid before {} (is this \
                     device's clock right?)",
                    of.not_before
                )
            })
        })
    }
}

fn holds_certificate(field: &str) -> bool {
    matches!(field, "uplink.ca_file" | "uplink.certificate_file")
}

/// What the files hold now, well-formed or not.
pub fn digest(settings: &Settings) -> Result<Digest, Unreadable> {
    renewed::digest(settings.files(), |_, _, _| Ok(()))
}

/// Of the first certificate in a file.
fn validity(bytes: &[u8]) -> Option<(ASN1Time, ASN1Time)> {
    let pem = Pem::iter_from_buffer(bytes)
        .filter_map(Result::ok)
        .find(|pem| pem.label == "CERTIFICATE")?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before, validity.not_after))
}
