//! Small files that others renew while a program runs: certificates, keys, passwords.
//!
//! They are looked at by content and not by a watch of the folder: a renewal may overwrite them,
//! rename others into their place or turn a link, also far up the path, and a look every few seconds
//! sees all of that alike.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A change counts once it was seen twice: whoever writes them may be half done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// More than any chain of certificates.
const MAX_BYTES: u64 = 1 << 20;

/// What all the files held, in 32 bytes.
pub type Digest = [u8; 32];

/// A file of the config that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {field} {}", path.display())]
pub struct Unreadable {
    /// Field of the config.
    pub field: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Reads one; never waits for a pipe or a device, nor takes in more than such a file can hold.
pub fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, Unreadable> {
    let unreadable = |source| Unreadable { field, path: path.to_path_buf(), source };
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

/// Reads one that holds a password: its one line, without the line's end.
pub fn read_password(field: &'static str, path: &Path) -> Result<String, Unreadable> {
    let invalid = |why: &str| Unreadable {
        field,
        path: path.to_path_buf(),
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    };
    let text = String::from_utf8(read(field, path)?).map_err(|_| invalid("it is not UTF-8"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(invalid("it must hold one line, the password"));
    }
    Ok(line.to_owned())
}

/// Reads all, shows each to `each`, and tells them together from what they may hold later.
pub fn digest<'a, E: From<Unreadable>>(
    files: impl Iterator<Item = (&'static str, &'a Path)>,
    mut each: impl FnMut(&'static str, &Path, &[u8]) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut hash = Sha256::new();
    for (field, path) in files {
        let bytes = read(field, path)?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
        each(field, path, &bytes)?;
    }
    Ok(hash.finalize().into())
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
    Unreadable(Unreadable),
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
        read: impl FnOnce() -> Result<Digest, Unreadable>,
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

    fn gone() -> Result<Digest, Unreadable> {
        let (field, path) = ("key_file", PathBuf::from("device.key"));
        let source = io::Error::from(io::ErrorKind::NotFound);
        Err(Unreadable { field, path, source })
    }

    #[test]
    fn a_change_counts_once_two_looks_saw_the_same() {
        let start = Instant::now();
        let mut watch = Watch::new(OLD, start);
        let mut now = start;
        let mut look = |watch: &mut Watch, read: Result<Digest, Unreadable>| {
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

    #[test]
    fn a_file_is_told_from_what_it_held_before_however_it_was_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let [link, first, second] = ["key", "1", "2"].map(|name| dir.path().join(name));
        fs::write(&first, "one").unwrap();
        fs::write(&second, "two").unwrap();
        std::os::unix::fs::symlink(&first, &link).unwrap();
        let now = || {
            let files = [("key_file", link.as_path())].into_iter();
            digest::<Unreadable>(files, |_, _, _| Ok(())).unwrap()
        };
        let mut seen = vec![now()];
        std::os::unix::fs::symlink(&second, dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &link).unwrap();
        seen.push(now());
        fs::write(&second, "six").unwrap();
        seen.push(now());
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
    }

    #[test]
    fn a_password_is_one_line_and_neither_its_end_nor_its_bytes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, " s3 cret\r\n").unwrap();
        assert_eq!(read_password("password_file", &path).unwrap(), " s3 cret");
        for wrong in ["", "\n", "s3cret\nmore\n"] {
            fs::write(&path, wrong).unwrap();
            let error = crate::logging::chain(&read_password("password_file", &path).unwrap_err());
            assert!(error.contains("password_file") && !error.contains("s3cret"), "{error}");
        }
        let error = read_password("password_file", dir.path()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
    }
}
