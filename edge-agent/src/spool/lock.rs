//! One agent per state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use picket_service::durable;

use super::error::SpoolError;

const FILE: &str = "lock";
/// A program that an agent started has a copy of all its files until it is loaded, though the agent may
/// have ended meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held while the agent runs; the kernel lets it go however the process ends, so that no stale
/// lock ever has to be removed by hand, as a file with a process id would.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the state directory, or says that another agent has it.
    pub fn take(state_dir: &Path) -> Result<Self, SpoolError> {
        let path = state_dir.join(FILE);
        let file = open(&path).map_err(|source| SpoolError::Lock { path: path.clone(), source })?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(SpoolError::InUse { path: state_dir.to_path_buf() });
                }
                Err(TryLockError::Error(source)) => return Err(SpoolError::Lock { path, source }),
            }
        }
    }
}

/// `reset-identity` takes it as well, and root may be the first who does: then it must be the
/// agent's. One that is there is left as it is; it could be a link to a file of root's.
fn open(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Ok(file) => durable::give_to_owner_of_directory(&file, path).map(|()| file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().create(true).truncate(false).write(true).open(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;

    #[test]
    fn a_lock_that_root_takes_first_belongs_to_the_directorys_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Only root can; without, it is the same user's all the way.
        let _ = chown(dir.path(), Some(4321), Some(4321));
        drop(StateLock::take(dir.path()).unwrap());
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
        assert_eq!(owner(&dir.path().join(FILE)), owner(dir.path()));
    }
}
