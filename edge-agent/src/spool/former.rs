//! The spool of the device that a copied card came from: set aside, not deleted, since it may hold
//! what that device has lost.

use std::path::{Path, PathBuf};

use super::encryption;
use super::error::SpoolError;
use super::lock::StateLock;
use super::schema::{self, FILE};
use super::stat::stat;

/// A spool that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Where it lies now.
    pub path: PathBuf,
    /// Records that wait in it; `None` if it cannot be read.
    pub records: Option<u64>,
    /// Pictures that wait in it.
    pub pictures: Option<u64>,
}

/// Sets the spool aside, while no agent can run; `None` if there is none.
pub fn set_aside_former(state_dir: &Path, _lock: &StateLock) -> Result<Option<Former>, SpoolError> {
    if !state_dir.join(FILE).exists() {
        return Ok(None);
    }
    let totals = stat(state_dir).ok().map(|stat| stat.totals);
    // Its keys first: should the power go in between, the command is run again, and it is the database
    // that says whether there is anything to set aside. Keys without it would look needless to a start.
    encryption::set_aside(state_dir, "former").map_err(SpoolError::Encryption)?;
    let path = schema::set_aside_whole(state_dir, "former")?;
    let records = totals.map(|totals| totals.records);
    Ok(Some(Former { path, records, pictures: totals.map(|totals| totals.pictures) }))
}
