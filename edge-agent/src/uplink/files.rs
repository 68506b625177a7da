//! The files that say who this device is and whom it trusts, as they are on disk now.

use std::path::PathBuf;

use picket_service::certificate::Validity;
use picket_service::renewed::{self, Digest, Unreadable};
use x509_parser::time::ASN1Time;

use super::security::SecurityError;
use super::settings::Settings;

/// A file with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Certificate {
    field: &'static str,
    path: PathBuf,
    validity: Validity,
}

/// What the files held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// To tell it from others.
    pub digest: Digest,
    certificates: Vec<Certificate>,
}

impl Snapshot {
    /// Reads them all; refused is a file that cannot be read or holds no certificate where one belongs.
    pub fn take(settings: &Settings) -> Result<Self, SecurityError> {
        let mut certificates = Vec::new();
        let digest = renewed::digest::<SecurityError>(settings.files(), |field, path, bytes| {
            if holds_certificate(field) {
                let validity = Validity::of_pem(bytes).ok_or_else(|| {
                    SecurityError::NoCertificate { field, path: path.to_path_buf() }
                })?;
                certificates.push(Certificate { field, path: path.to_path_buf(), validity });
            }
            Ok(())
        })?;
        Ok(Self { digest, certificates })
    }

    /// Days until the device's own certificate expires, negative when it has; `None` without one.
    pub fn days_left(&self) -> Option<i64> {
        let own = self.certificates.iter().find(|of| of.field == "uplink.certificate_file")?;
        Some(own.validity.days_left(ASN1Time::now()))
    }

    /// What the dates of the certificates say against the link, in words; `None` if all are in their
    /// time by this device's clock.
    pub fn dates_problem(&self) -> Option<String> {
        let now = ASN1Time::now();
        self.certificates.iter().find_map(|of| {
            let (field, path, validity) = (of.field, of.path.display(), &of.validity);
            if now > validity.not_after {
                let not_after = validity.not_after;
                return Some(format!("{field} {path}: the certificate expired on {not_after}"));
            }
            (now < validity.not_before).then(|| {
                format!(
                    "{field} {path}: the certificate is not valid before {} (is this \
                     device's clock right?)",
                    validity.not_before
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
