//! TLS and passwords: whether the files can be used.

use std::path::PathBuf;

use picket_service::renewed::Unreadable;

use super::files::Snapshot;
use super::producer;
use super::settings::Settings;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Holds no certificate.
    #[error("{field} {} holds no certificate in PEM form", path.display())]
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

/// Checks that the files are there, hold what they should, and belong together, and tells what they
/// held. Their dates are not judged here: an agent whose certificate has expired, or whose clock begins
/// in 1970, still has a spool to fill. See [`Snapshot::dates_problem`].
pub fn check(settings: &Settings) -> Result<Snapshot, SecurityError> {
    let snapshot = Snapshot::take(settings)?;
    if !settings.uses_tls() {
        return Ok(snapshot);
    }
    // The TLS library itself compares key and certificate when a producer is made.
    producer::check_security(settings)?;
    Ok(snapshot)
}

/// Days until the certificate on disk expires, negative when it has; `None` without one.
pub fn days_left(settings: &Settings) -> Option<i64> {
    Snapshot::take(settings).ok()?.days_left()
}

/// What the dates of the certificates on disk say against the link, in words.
pub fn dates_problem(settings: &Settings) -> Option<String> {
    Snapshot::take(settings).ok()?.dates_problem()
}

#[cfg(test)]
mod tests {
    use std::fs;

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
