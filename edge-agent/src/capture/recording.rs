//! Recordings: who they are, and how far they were read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use picket_service::config::hex;
use picket_wire::CameraName;
use sha2::{Digest, Sha256};

use super::frame::SourcePosition;

/// Remembers how far each recording was read. The spool does it, in the transaction that keeps the
/// observation, so that the place and the observation cannot disagree.
pub trait RecordingLog: Send + Sync {
    /// The place of the last frame of this recording that was kept, if any was.
    fn position(&self, camera: &CameraName, fingerprint: &str) -> Option<SourcePosition>;
}

/// Identity of a file: SHA-256 over its size and all of its content. A name or a time stamp would
/// take a copy for another recording, and a rewritten file for the same. `None` if `stopped` says so
/// before the end.
pub fn fingerprint(path: &Path, stopped: impl Fn() -> bool) -> std::io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    hash.update(file.metadata()?.len().to_be_bytes());
    let mut part = vec![0; 1 << 20];
    loop {
        if stopped() {
            return Ok(None);
        }
        match file.read(&mut part)? {
            0 => return Ok(Some(hex(&hash.finalize()))),
            bytes => hash.update(&part[..bytes]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_recording_and_a_longer_file_another() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            fingerprint(&path, || false).unwrap().unwrap()
        };
        let first = write("a", b"abc");
        assert_eq!(first, write("b", b"abc"));
        assert_ne!(first, write("c", b"abcd"));
        assert_eq!(first.len(), 64);
    }
}
