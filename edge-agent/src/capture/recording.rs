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

/// Opens what is a file: whoever opens a pipe waits until somebody writes into it.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(std::io::Error::other("it is a pipe, a socket or a device, and no file"));
    }
    File::open(path)
}

/// Identity of a file: SHA-256 over its size and all of its content. A name or a time stamp would
/// take a copy for another recording, and a rewritten file for the same. `None` if `stopped` says so
/// before the end.
pub fn fingerprint(path: &Path, stopped: impl Fn() -> bool) -> std::io::Result<Option<String>> {
    let mut file = open_file(path)?;
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
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("a.mp4");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(open_file(&pipe).unwrap_err().to_string().contains("pipe"));
        assert!(fingerprint(&pipe, || false).is_err());
    }

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
