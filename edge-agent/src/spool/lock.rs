//! One agent per state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::error::SpoolError;

const FILE: &str = "lock";

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
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(|source| SpoolError::Lock { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(SpoolError::InUse { path: state_dir.to_path_buf() })
            }
            Err(TryLockError::Error(source)) => Err(SpoolError::Lock { path, source }),
        }
    }
}
