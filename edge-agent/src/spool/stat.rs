//! What a spool holds, read without disturbing its agent: for `doctor`, `spool stat` and the heartbeat.

use std::collections::BTreeMap;
use std::path::Path;

use picket_wire::status::Books;
use picket_wire::{CameraKey, EpochId};
use rusqlite::Connection;

use super::error::SpoolError;
use super::totals::{self, Totals};
use super::{books, encryption, pictures, schema};

/// Wall time of the oldest row, in milliseconds; none if the clock was not set then.
pub fn oldest_ms(connection: &Connection) -> Result<Option<i64>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the oldest row", source };
    let sql = "SELECT min(at) FROM (
        SELECT (SELECT committed_at_ms FROM records ORDER BY id LIMIT 1) AS at UNION ALL
        SELECT (SELECT committed_at_ms FROM pictures ORDER BY id LIMIT 1))";
    connection.query_row(sql, [], |row| row.get(0)).map_err(read)
}

/// What a spool holds, read without disturbing its agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Stat {
    /// Rows and bytes.
    pub totals: Totals,
    /// Wall time of the oldest row, Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// Bytes that the database, its log and the pictures take of the disk.
    pub file_bytes: u64,
    /// Damaged databases that were set aside.
    pub set_aside: u64,
    /// Keys that encrypted records wait under.
    pub batch_keys: usize,
    /// By camera: newest epoch, last committed `seq`, bound, and books.
    pub accounts: BTreeMap<CameraKey, AccountStat>,
}

/// One camera's part.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountStat {
    /// The newest epoch.
    pub epoch: EpochId,
    /// Last `seq` committed in it.
    pub last_committed: u64,
    /// No `seq` beyond this was given out in it.
    pub reserved: u64,
    /// As on disk.
    pub books: Books,
}

/// Reads the spool of a state directory, whether its agent runs or not.
pub fn stat(state_dir: &Path) -> Result<Stat, SpoolError> {
    let connection = schema::open_for_reading(state_dir)?;
    let (_, totals) = totals::load(&connection)?;
    let size = |suffix: &str| {
        let path = state_dir.join(format!("{}{suffix}", schema::FILE));
        std::fs::metadata(path).map_or(0, |meta| meta.len())
    };
    let accounts = books::load(&connection)?.into_iter().map(|(key, account)| {
        let (last_committed, reserved) = (account.last_committed, account.reserved);
        let epoch = account.epoch;
        (key, AccountStat { epoch, last_committed, reserved, books: account.books })
    });
    Ok(Stat {
        totals,
        oldest_ms: oldest_ms(&connection)?,
        file_bytes: size("") + size("-wal") + pictures::disk_bytes(&state_dir.join(schema::FILE)),
        set_aside: schema::count_set_aside(state_dir),
        batch_keys: encryption::count(state_dir),
        accounts: accounts.collect(),
    })
}
