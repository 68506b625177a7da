//! The write-ahead log: how long it may get while another program keeps it from being moved.
//!
//! A reader sees the database as it was when its transaction began, so the log cannot begin anew
//! before it ends. One that never ends (a shell that was left open, a copy over a slow line) would
//! let the log grow without bound, and no eviction makes room in it.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::error::SpoolError;
use super::schema::FILE;
use super::settings::Settings;

/// Watches the log's length.
pub struct LogLimit {
    path: PathBuf,
    /// Longer than it ever gets by itself.
    usual_bytes: u64,
    /// Longer than this, nothing is committed.
    most_bytes: u64,
    said: bool,
}

impl LogLimit {
    pub fn new(state_dir: &Path, settings: &Settings) -> Self {
        let usual_bytes = 4 * settings.checkpoint_bytes.max(settings.commit_bytes);
        let most_bytes = usual_bytes.max(settings.max_bytes / 8);
        Self { path: state_dir.join(format!("{FILE}-wal")), usual_bytes, most_bytes, said: false }
    }

    /// Before a commit: an error while the log may not grow any more. Then what is captured waits in
    /// memory as with any disk that refuses, which is bounded and told.
    pub fn check(&mut self, connection: &Connection) -> Result<(), SpoolError> {
        let bytes = std::fs::metadata(&self.path).map_or(0, |log| log.len());
        if bytes <= self.usual_bytes {
            if std::mem::take(&mut self.said) {
                tracing::info!(target: "spool", "the spool's log is short again");
            }
            return Ok(());
        }
        if !self.said {
            self.said = true;
            tracing::warn!(target: "spool", bytes, most_bytes = self.most_bytes,
                log = %self.path.display(),
                "another program keeps the spool's log from being moved into the database: end it");
        }
        if bytes <= self.most_bytes || begin_anew(connection)? {
            return Ok(());
        }
        Err(SpoolError::LogTooLong { bytes, most_bytes: self.most_bytes })
    }
}

/// Waits for readers, for as long as `busy_timeout` says; whether the log could begin anew.
fn begin_anew(connection: &Connection) -> Result<bool, SpoolError> {
    connection
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0))
        .map(|busy| busy == 0)
        .map_err(|source| SpoolError::Commit { step: "begin the log anew", source })
}
