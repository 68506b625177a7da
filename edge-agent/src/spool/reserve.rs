//! Disk space that is kept for the moment when the file system is full: without it there is no space
//! to drop what is old, nor to write down that it was dropped.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use picket_service::durable;
use rustix::fs::{FallocateFlags, fallocate};

/// Its file in the state directory.
const FILE: &str = "spool.reserve";

/// The file, or its absence.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    state: State,
    /// Whether it was said that it is not there.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    GivenUp,
    /// The file system cannot set space aside.
    Impossible,
}

impl Reserve {
    /// Not taken yet.
    pub fn new(state_dir: &Path, bytes: u64) -> Self {
        Self { path: state_dir.join(FILE), bytes, state: State::GivenUp, told: false }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are yet to be taken.
    pub fn missing_bytes(&self) -> u64 {
        if self.is_held() { 0 } else { self.bytes }
    }

    /// Bytes that its file takes already, of an earlier run.
    pub fn laid_out_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.blocks() * 512)
    }

    /// Whether there is nothing to take back.
    pub fn is_held(&self) -> bool {
        self.state != State::GivenUp
    }

    /// Takes the space; tried again later if it cannot be had.
    pub fn take(&mut self) {
        match set_aside(&self.path, self.bytes) {
            Ok(()) => {
                self.enter(State::Held);
                tracing::debug!(target: "spool", bytes = self.bytes, "the disk reserve is taken");
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.enter(State::Impossible);
                tracing::warn!(target: "spool", file = %self.path.display(),
                    "this file system cannot set space aside: on a full disk the newest is dropped \
                     first, not the oldest");
            }
            Err(error) => self.missed(&error.to_string()),
        }
    }

    /// Says that it is not there.
    pub fn missed(&mut self, why: &str) {
        let _ = fs::remove_file(&self.path);
        self.enter(State::GivenUp);
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        tracing::warn!(target: "spool", why, bytes = self.bytes,
            "no disk space can be kept in reserve: free some, or lower spool.max_bytes");
    }

    /// Frees the space, if it is held.
    pub fn give_up(&mut self) {
        if self.state != State::Held {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(target: "spool", file = %self.path.display(), %error,
                    "the disk reserve cannot be given up");
                return;
            }
            _ => {}
        }
        self.enter(State::GivenUp);
        tracing::warn!(target: "spool", bytes = self.bytes,
            "the file system is full: the disk reserve is given up, and the oldest is dropped for \
             what is new");
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.told &= state == State::GivenUp;
        let bytes = if state == State::Held { self.bytes } else { 0 };
        metrics::gauge!("picket_agent_spool_reserve_bytes").set(bytes as f64);
    }
}

/// Makes the file with all its blocks, on disk when it returns.
fn set_aside(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    durable::give_to_owner_of_directory(&file, path)?;
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
    }
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_its_blocks_and_gives_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(dir.path(), 1 << 20);
        reserve.take();
        assert!(reserve.is_held());
        let meta = fs::metadata(dir.path().join(FILE)).unwrap();
        assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
        reserve.give_up();
        assert!(!reserve.is_held());
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_reserve_of_another_size_is_made_the_right_one() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [2 << 20, 1 << 20, 3 << 20] {
            Reserve::new(dir.path(), bytes).take();
            assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), bytes);
        }
    }
}
