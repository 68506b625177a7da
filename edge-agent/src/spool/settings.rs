//! The spool's section of the config.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::encryption::{EncryptionError, EncryptionSettings};

const MIB: u64 = 1024 * 1024;
/// Room for a batch that holds the largest picture, four times over.
pub(super) const LEAST_BYTES: u64 = 16 * MIB;
/// SQLite counts pages in 32 bits.
const MOST_BYTES: u64 = 8 * 1024 * 1024 * MIB;
/// Ten years.
const MOST_AGE_HOURS: u32 = 87_660;

/// When what was captured is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Before it is sent: a power cut takes what was captured in the last `commit_interval_ms`.
    #[default]
    Always,
    /// While the link works, only what is not acknowledged within `memory_window_ms`, so that an SD card
    /// is hardly written. A power cut or crash takes what was captured in that time and not acknowledged:
    /// with a link that works that is what is on its way. It shows at the centre as a gap
    /// (`crash`).
    Offline,
}

/// What is kept on disk until the broker has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most bytes that the spool may take: its database and the files of pictures beside it. When they
    /// are reached, pictures are dropped before observations, oldest first and of the camera that holds
    /// most, each counted and told to the centre as a gap. On a file system that cannot free parts of a
    /// file (FAT and exFAT among others) the space of pictures comes back some 8 MiB at a time. The write-ahead log beside it takes some 2 times `checkpoint_bytes` more,
    /// and as much again twice is kept in reserve for the moment when the file system is full. While
    /// another program reads the database in one long transaction, the log takes up to an eighth of
    /// `max_bytes`; after that nothing is committed until it ends.
    pub max_bytes: u64,
    /// The spool does not grow when fewer bytes than this are free on its file system, but drops
    /// what is old for what is new, as at `max_bytes`. The first 16 MiB it takes all the same.
    pub min_free_bytes: u64,
    /// Records that wait longer than this many hours are dropped, counted and told to the centre as a
    /// gap; unset, they are kept until there is no room. Nothing is too old while no time source keeps
    /// the clock, nor for ten minutes after it jumped.
    pub max_age_hours: Option<u32>,
    /// When what was captured is on the disk: `always` before it is sent; `offline` only what a working
    /// link does not carry away in time.
    pub durability: Durability,
    /// With `durability = "offline"` and a link that works: the longest time in milliseconds that a record
    /// is kept in memory alone, and so the most that a power cut can take. It ends when nothing was
    /// acknowledged for some 3 seconds, and when half of `max_pending_bytes` is in memory.
    pub memory_window_ms: u64,
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
    /// Encrypts what is kept; without this table it is kept in the clear.
    pub encryption: Option<EncryptionSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 4 * 1024 * MIB,
            min_free_bytes: 32 * MIB,
            max_age_hours: None,
            durability: Durability::Always,
            memory_window_ms: 30_000,
            commit_interval_ms: 50,
            commit_records: 256,
            commit_bytes: 4 * MIB,
            checkpoint_bytes: 8 * MIB,
            max_pending_bytes: 32 * MIB,
            encryption: None,
        }
    }
}

/// A value that the spool cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number.
    #[error("spool.{field} = {value} is not valid: it must be {rule}")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// What is said of keys.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
}

impl Settings {
    /// Refuses values that the spool cannot work with.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |field, value, rule| Err(SettingsError::Number { field, value, rule });
        if !(LEAST_BYTES..=MOST_BYTES).contains(&self.max_bytes) {
            return refuse(
                "max_bytes",
                self.max_bytes,
                "16777216 (16 MiB) to 8796093022208 (8 TiB)",
            );
        }
        if let Some(hours) = self.max_age_hours
            && !(1..=MOST_AGE_HOURS).contains(&hours)
        {
            return refuse("max_age_hours", hours.into(), "1 to 87660 (ten years), or left out");
        }
        if !(1..=10_000).contains(&self.commit_interval_ms) {
            return refuse("commit_interval_ms", self.commit_interval_ms, "1 to 10000");
        }
        if !(1_000..=600_000).contains(&self.memory_window_ms) {
            return refuse("memory_window_ms", self.memory_window_ms, "1000 to 600000");
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
        self.encryption.as_ref().map_or(Ok(()), EncryptionSettings::check)?;
        Ok(())
    }

    /// Disk space to keep for the moment when the file system is full: twice the write-ahead log at
    /// its largest, which is twice `checkpoint_bytes` unless a reader holds it up.
    pub(super) fn reserve_bytes(&self) -> u64 {
        (self.checkpoint_bytes * 4).min(self.max_bytes / 8)
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
