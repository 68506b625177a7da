//! The files that say who this device is and whom it trusts, as they are on disk now.
//!
//! They are looked at by content and not by a watch of the folder: a renewal may overwrite them,
//! rename others into their place or turn a link, also far up the path, and a look every few seconds
//! sees all of that alike.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

use super::security::SecurityError;
use super::settings::Settings;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A change counts once it was seen twice: whoever writes them may be half done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// More than any chain of certificates.
const MAX_BYTES: u64 = 1 << 20;
const DAY_S: i64 = 24 * 60 * 60;

/// What all the files held, in 32 bytes.
pub type Digest = [u8; 32];

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
        let digest = read_all(settings, |field, path, bytes| {
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
        let own = self.validities.iter().find(|of| of.field == "certificate_file")?;
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
                return Some(format!(
                    "uplink.{field} {path}: the certificate expired on {not_after}"
                ));
            }
            (now < of.not_before).then(|| {
                format!(
                    "uplink.{field} {path}: the certificate is not valid before {} (is this \
                     device's clock right?)",
                    of.not_before
                )
            })
        })
    }
}

fn holds_certificate(field: &str) -> bool {
    matches!(field, "ca_file" | "certificate_file")
}

/// What the files hold now, well-formed or not.
pub fn digest(settings: &Settings) -> Result<Digest, SecurityError> {
    read_all(settings, |_, _, _| Ok(()))
}

fn read_all(
    settings: &Settings,
    mut each: impl FnMut(&'static str, &Path, &[u8]) -> Result<(), SecurityError>,
) -> Result<Digest, SecurityError> {
    let mut hash = Sha256::new();
    for (field, path) in settings.files() {
        let bytes = read(field, path)?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
        each(field, path, &bytes)?;
    }
    Ok(hash.finalize().into())
}

/// Never waits for a pipe or a device, nor takes in more than such a file can hold.
pub fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, SecurityError> {
    let unreadable = |source| SecurityError::Unreadable { field, path: path.to_path_buf(), source };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        let why = "it must be a file of 1 MiB at most";
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
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

/// What a look at the files says.
#[derive(Debug)]
pub enum Look {
    /// They are as those in use, or it is not yet time to look.
    Nothing,
    /// They are as those in use again, after a change.
    Back,
    /// They have changed, and were the same at two looks.
    Changed(Digest),
    /// At two looks one could not be read.
    Unreadable(SecurityError),
}

/// Whether the files have changed. Without I/O of its own.
#[derive(Debug)]
pub struct Watch {
    in_use: Digest,
    /// What the last look saw, where that was something else than what is in use.
    seen: Option<Option<Digest>>,
    next: Instant,
}

impl Watch {
    /// The files in use hold this.
    pub fn new(in_use: Digest, now: Instant) -> Self {
        Self { in_use, seen: None, next: now + LOOK_EVERY }
    }

    /// These are in use from now on.
    pub fn uses(&mut self, digest: Digest) {
        (self.in_use, self.seen) = (digest, None);
    }

    /// Looks if it is time.
    pub fn look(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> Result<Digest, SecurityError>,
    ) -> Look {
        if now < self.next {
            return Look::Nothing;
        }
        let read = read();
        let sees = read.as_ref().ok().copied();
        if sees == Some(self.in_use) {
            self.next = now + LOOK_EVERY;
            return if self.seen.take().is_some() { Look::Back } else { Look::Nothing };
        }
        let is_settled = self.seen.replace(sees) == Some(sees);
        self.next = now + if is_settled { LOOK_EVERY } else { LOOK_AGAIN };
        match read {
            _ if !is_settled => Look::Nothing,
            Ok(digest) => Look::Changed(digest),
            Err(error) => Look::Unreadable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Digest = [0; 32];
    const NEW: Digest = [1; 32];

    fn gone() -> Result<Digest, SecurityError> {
        let (field, path) = ("key_file", PathBuf::from("device.key"));
        let source = io::Error::from(io::ErrorKind::NotFound);
        Err(SecurityError::Unreadable { field, path, source })
    }

    #[test]
    fn a_change_counts_once_two_looks_saw_the_same() {
        let start = Instant::now();
        let mut watch = Watch::new(OLD, start);
        let mut now = start;
        let mut look = |watch: &mut Watch, read: Result<Digest, SecurityError>| {
            now += LOOK_EVERY;
            watch.look(now, || read)
        };
        assert!(matches!(look(&mut watch, Ok(OLD)), Look::Nothing));
        assert!(matches!(look(&mut watch, Ok([7; 32])), Look::Nothing), "half written");
        assert!(matches!(look(&mut watch, Ok(NEW)), Look::Nothing), "another half");
        assert!(matches!(look(&mut watch, Ok(NEW)), Look::Changed(NEW)));
        assert!(matches!(look(&mut watch, Ok(NEW)), Look::Changed(NEW)), "until it is in use");
        watch.uses(NEW);
        assert!(matches!(look(&mut watch, Ok(NEW)), Look::Nothing));
    }

    #[test]
    fn a_moment_without_a_file_is_not_told_and_a_file_that_stays_away_is() {
        let start = Instant::now();
        let mut watch = Watch::new(OLD, start);
        let first = start + LOOK_EVERY;
        assert!(matches!(watch.look(first, gone), Look::Nothing));
        assert!(matches!(watch.look(first + LOOK_AGAIN / 2, || Ok(OLD)), Look::Nothing));
        assert!(matches!(watch.look(first + LOOK_AGAIN, gone), Look::Unreadable(_)));
        assert!(matches!(watch.look(first + LOOK_AGAIN + LOOK_EVERY, || Ok(OLD)), Look::Back));
    }
}
