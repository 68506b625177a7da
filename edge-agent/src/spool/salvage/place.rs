//! How far a salvage got: kept in the database that it goes to, and changed with what comes over.

use std::collections::BTreeMap;
use std::path::Path;

use picket_wire::{CameraKey, EpochId, Topic};
use rusqlite::{Connection, OptionalExtension, params};

use crate::spool::books::{parsed, signed, unsigned};
use crate::spool::error::SpoolError;
use crate::spool::record::RowId;
use crate::spool::totals::table;

/// `salvage` has a row per damaged database; `remains` is null until it was read to its end.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS salvage (
    file    TEXT PRIMARY KEY,
    topic   TEXT NOT NULL,
    next    INTEGER NOT NULL,
    end     INTEGER NOT NULL,
    damage  INTEGER NOT NULL,
    remains INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS salvage_waiting (
    key            TEXT PRIMARY KEY,
    epoch          TEXT NOT NULL,
    last_committed INTEGER NOT NULL,
    frames         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What a camera's damaged account said.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub epoch: EpochId,
    pub last_committed: u64,
    /// Frames that were spooled and have not come over.
    pub frames: u64,
}

/// Where to go on.
#[derive(Debug, Clone)]
pub struct Place {
    pub topic: Topic,
    pub next: RowId,
    /// No row has this number or a higher one.
    pub end: RowId,
    /// Rows, and stretches of rows, that could not be read.
    pub damage: u64,
}

pub fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)
}

/// Where an earlier run got to with this database.
pub fn load(connection: &Connection, wreck: &Path) -> rusqlite::Result<Option<Place>> {
    let sql = "SELECT topic, next, end, damage FROM salvage WHERE file = ?1";
    let place = connection.query_row(sql, [file_name(wreck)], |row| {
        let is_frames = row.get::<_, String>(0)? == table(Topic::Frames);
        let topic = if is_frames { Topic::Frames } else { Topic::Observations };
        let damage = unsigned(row.get(3)?);
        Ok(Place { topic, next: row.get(1)?, end: row.get(2)?, damage })
    });
    place.optional()
}

pub fn store(
    connection: &Connection,
    wreck: &Path,
    place: &Place,
    waiting: &BTreeMap<CameraKey, Waiting>,
) -> rusqlite::Result<()> {
    let (file, damage) = (file_name(wreck), signed(place.damage));
    connection
        .prepare_cached("INSERT OR REPLACE INTO salvage VALUES (?1, ?2, ?3, ?4, ?5, NULL)")?
        .execute(params![file, table(place.topic), place.next, place.end, damage])?;
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO salvage_waiting VALUES (?1, ?2, ?3, ?4)")?;
    for (key, waiting) in waiting {
        let (last, frames) = (signed(waiting.last_committed), signed(waiting.frames));
        statement.execute(params![key.to_string(), waiting.epoch.to_string(), last, frames])?;
    }
    Ok(())
}

/// It was read to its end. That stays known, since its file may be there again after a power cut.
pub fn end(connection: &Connection, wreck: &Path, remains: bool) -> rusqlite::Result<()> {
    let sql = "UPDATE salvage SET remains = ?2 WHERE file = ?1";
    connection.execute(sql, params![file_name(wreck), remains])?;
    connection.execute("DELETE FROM salvage_waiting", []).map(|_| ())
}

/// Empty also where no salvage was ever begun.
pub fn load_waiting(connection: &Connection) -> Result<BTreeMap<CameraKey, Waiting>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the salvage", source };
    if !connection.table_exists(None, "salvage_waiting").map_err(read)? {
        return Ok(BTreeMap::new());
    }
    let sql = "SELECT key, epoch, last_committed, frames FROM salvage_waiting";
    let mut statement = connection.prepare(sql).map_err(read)?;
    let mut rows = statement.query([]).map_err(read)?;
    let mut waiting = BTreeMap::new();
    while let Some(row) = rows.next().map_err(read)? {
        let text = |column| row.get::<_, String>(column).map_err(read);
        let number = |column| row.get::<_, i64>(column).map_err(read).map(unsigned);
        let (key, epoch) = (parsed("key", &text(0)?)?, parsed("epoch", &text(1)?)?);
        waiting.insert(key, Waiting { epoch, last_committed: number(2)?, frames: number(3)? });
    }
    Ok(waiting)
}

/// Whether a database that was read to its end holds more; `None` if it was not.
pub fn remains_of(connection: &Connection, wreck: &Path) -> rusqlite::Result<Option<bool>> {
    let sql = "SELECT remains FROM salvage WHERE file = ?1";
    let remains = connection.query_row(sql, [file_name(wreck)], |row| row.get(0)).optional();
    remains.map(Option::flatten)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
