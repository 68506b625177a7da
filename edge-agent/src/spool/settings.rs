//! The spool's section of the config.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;
/// Room for a batch that holds the largest picture, four times over.
const LEAST_BYTES: u64 = 16 * MIB;
/// SQLite counts pages in 32 bits.
const MOST_BYTES: u64 = 16 * 1024 * 1024 * MIB;

/// What is kept on disk until the broker has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most bytes that the spool's database may take. When it is reached, pictures are dropped
    /// before observations, oldest first, each counted and told to the centre as a gap. The
    /// write-ahead log beside it takes up to some 4 times `checkpoint_bytes` more, and up to an eighth
    /// of `max_bytes` while another program reads the database in one long transaction; after that
    /// nothing is committed until it ends.
    pub max_bytes: u64,
    /// Longest time in milliseconds that a record waits in memory for its commit. It is the window
    /// that a power cut can take, and part of the latency of a live record.
    pub commit_interval_ms: u64,
    /// A batch is committed when it holds this many records.
    pub commit_records: u32,
    /// A batch is committed when it holds this many bytes.
    pub commit_bytes: u64,
    /// The write-ahead log is moved into the database after this many bytes. Larger writes less
    /// (a record that is acknowledged meanwhile never reaches the database's pages twice), and
    /// takes more disk and a longer start after a crash.
    pub checkpoint_bytes: u64,
    /// Most bytes kept in memory while the disk refuses writes; what comes after is dropped,
    /// counted, and told to the centre as a gap when the disk takes writes again.
    pub max_pending_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 4 * 1024 * MIB,
            commit_interval_ms: 50,
            commit_records: 256,
            commit_bytes: 4 * MIB,
            checkpoint_bytes: 8 * MIB,
            max_pending_bytes: 32 * MIB,
        }
    }
}

/// A value that the spool cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spool.{field} = {value} is not valid: it must be {rule}")]
pub struct SettingsError {
    field: &'static str,
    value: u64,
    rule: &'static str,
}

impl Settings {
    /// Refuses values that the spool cannot work with.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |field, value, rule| Err(SettingsError { field, value, rule });
        if !(LEAST_BYTES..=MOST_BYTES).contains(&self.max_bytes) {
            return refuse("max_bytes", self.max_bytes, "16777216 (16 MiB) to 17592186044416");
        }
        if !(1..=10_000).contains(&self.commit_interval_ms) {
            return refuse("commit_interval_ms", self.commit_interval_ms, "1 to 10000");
        }
        if !(1..=100_000).contains(&self.commit_records) {
            return refuse("commit_records", self.commit_records.into(), "1 to 100000");
        }
        if self.commit_bytes == 0 || self.commit_bytes > self.max_pending_bytes {
            return refuse("commit_bytes", self.commit_bytes, "1 to max_pending_bytes");
        }
        if self.checkpoint_bytes < 256 * 1024 {
            return refuse("checkpoint_bytes", self.checkpoint_bytes, "at least 262144");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn a_refused_value_is_named_with_what_would_be_right() {
        let settings = Settings { max_bytes: 5, ..Settings::default() };
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("spool.max_bytes = 5") && error.contains("16 MiB"), "{error}");
    }
}
