//! TLS: the files, and how long they last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

use super::producer;
use super::settings::Settings;

const DAY_S: i64 = 24 * 60 * 60;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Cannot be read.
    #[error("cannot read uplink.{field} {}", path.display())]
    Unreadable {
        /// Field of the config.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Holds no certificate.
    #[error("uplink.{field} {} holds no certificate in PEM form", path.display())]
    NoCertificate {
        /// Field of the config.
        field: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Two files that do not belong together.
    #[error("uplink.key_file is not the key of uplink.certificate_file")]
    KeyMismatch,
    /// The TLS library refuses them.
    #[error("the TLS library refuses the files: {why}")]
    Refused {
        /// What it says; it names files, never their content.
        why: String,
    },
}

/// Checks that the files are there, hold what they should, and belong together. Their dates are not
/// looked at here: an agent whose certificate has expired, or whose clock begins in 1970, still has a
/// spool to fill. See [`dates_problem`].
pub fn check(settings: &Settings) -> Result<(), SecurityError> {
    for (field, path) in settings.files() {
        let bytes = read(field, path)?;
        if field != "key_file" {
            check_certificate(field, path, &bytes)?;
        }
    }
    if !settings.uses_tls() {
        return Ok(());
    }
    // The TLS library itself compares key and certificate when a producer is made; one without a
    // broker connects to nothing.
    producer::check_tls(settings).map_err(|why| {
        let mismatch = ["key values mismatch", "Private key check failed", "mismatch"];
        if mismatch.iter().any(|text| why.contains(text)) {
            SecurityError::KeyMismatch
        } else {
            SecurityError::Refused { why }
        }
    })
}

/// Days until the device's own certificate expires, negative when it has; `None` without one.
pub fn days_left(settings: &Settings) -> Option<i64> {
    let path = settings.certificate_file.as_deref()?;
    let bytes = fs::read(path).ok()?;
    let (_, not_after) = validity(&bytes)?;
    Some((not_after.timestamp() - ASN1Time::now().timestamp()).div_euclid(DAY_S))
}

/// What the dates of the certificates say against the link, in words; `None` if all are in their
/// time by this device's clock.
pub fn dates_problem(settings: &Settings) -> Option<String> {
    let now = ASN1Time::now();
    settings.files().filter(|(field, _)| *field != "key_file").find_map(|(field, path)| {
        let (not_before, not_after) = validity(&fs::read(path).ok()?)?;
        let path = path.display();
        if now > not_after {
            return Some(format!("uplink.{field} {path}: the certificate expired on {not_after}"));
        }
        (now < not_before).then(|| {
            format!(
                "uplink.{field} {path}: the certificate is not valid before {not_before} (is this \
                 device's clock right?)"
            )
        })
    })
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, SecurityError> {
    fs::read(path).map_err(|source| SecurityError::Unreadable {
        field,
        path: path.to_path_buf(),
        source,
    })
}

fn check_certificate(field: &'static str, path: &Path, bytes: &[u8]) -> Result<(), SecurityError> {
    let path = path.to_path_buf();
    validity(bytes).map(drop).ok_or(SecurityError::NoCertificate { field, path })
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::uplink::SettingsError;

    struct Files {
        dir: tempfile::TempDir,
        settings: Settings,
    }

    fn files(not_before_year: i32, not_after_year: i32) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gate".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(not_before_year, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let settings = Settings {
            brokers: vec!["127.0.0.1:9093".to_owned()],
            ca_file: write("ca.pem", certificate.pem()),
            certificate_file: write("device.pem", certificate.pem()),
            key_file: write("device.key", key.serialize_pem()),
            ..Settings::default()
        };
        Files { dir, settings }
    }

    #[test]
    fn files_that_belong_together_pass_and_their_days_are_counted() {
        let files = files(2000, 4000);
        files.settings.check().unwrap();
        assert_eq!(dates_problem(&files.settings), None);
        assert!(days_left(&files.settings).unwrap() > 365 * 1000);
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let files = files(2000, 4000);
        let other = KeyPair::generate().unwrap().serialize_pem();
        fs::write(files.dir.path().join("device.key"), other).unwrap();
        let error = files.settings.check().unwrap_err();
        assert!(
            matches!(error, SettingsError::Security(SecurityError::KeyMismatch)),
            "{}",
            picket_service::logging::chain(&error)
        );
    }

    #[test]
    fn expired_certificate_does_not_stop_the_agent_and_is_told_with_its_date() {
        let files = files(2000, 2001);
        files.settings.check().unwrap();
        let problem = dates_problem(&files.settings).unwrap();
        assert!(problem.contains("expired on") && problem.contains("2001"), "{problem}");
        assert!(days_left(&files.settings).unwrap() < 0);
    }

    #[test]
    fn certificate_of_the_future_does_not_stop_the_agent_and_asks_for_the_clock() {
        let files = files(3000, 4000);
        files.settings.check().unwrap();
        let problem = dates_problem(&files.settings).unwrap();
        assert!(problem.contains("not valid before") && problem.contains("clock"), "{problem}");
    }

    #[test]
    fn file_without_a_certificate_is_refused() {
        let files = files(2000, 4000);
        fs::write(files.dir.path().join("device.pem"), "hello").unwrap();
        let text = picket_service::logging::chain(&files.settings.check().unwrap_err());
        assert!(
            text.contains("uplink.certificate_file") && text.contains("no certificate"),
            "{text}"
        );
    }
}
