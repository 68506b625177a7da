//! All rows of a spool, a few at a time, for whoever looks from outside.
//!
//! Each step is a query of its own, so that no reading, however long, keeps the running agent's log
//! from being moved into its database. What comes, goes or is evicted between two steps is seen or
//! not.

use std::ops::Range;

use picket_wire::Topic;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::encryption::Keyring;
use super::error::SpoolError;
use super::pictures::Pictures;
use super::record::RowId;
use super::spooled::{Spooled, columns, spooled};
use super::totals::table;
use super::transaction::Outline;

/// Rows of one step.
const STEP: usize = 512;

/// An outline, and when it was committed.
pub struct Waiting {
    pub outline: Outline,
    pub committed_at_ms: Option<i64>,
}

/// Gives each row's outline to `visit`. Values are not read.
pub fn outlines(
    connection: &Connection,
    topic: Topic,
    mut visit: impl FnMut(Result<Waiting, SpoolError>),
) -> Result<(), SpoolError> {
    let read = |source| SpoolError::Read { what: "the rows", source };
    let sql = format!(
        "SELECT {}, committed_at_ms FROM {} WHERE id > ?1 ORDER BY id LIMIT {STEP}",
        Outline::columns(topic),
        table(topic)
    );
    let mut statement = connection.prepare(&sql).map_err(read)?;
    let mut after = RowId::MIN;
    loop {
        let mut rows = statement.query([after]).map_err(read)?;
        let before = after;
        while let Some(row) = rows.next().map_err(read)? {
            let id = row.get("id").map_err(read)?;
            after = behind(id, after)?;
            let committed_at_ms = row.get("committed_at_ms").map_err(read)?;
            visit(Outline::read(row).map(|outline| Waiting { outline, committed_at_ms }));
        }
        if after == before {
            return Ok(());
        }
    }
}

/// The number, which must be higher than the one before: in a damaged tree of pages rows may come again
/// and again.
fn behind(id: RowId, before: RowId) -> Result<RowId, SpoolError> {
    match id > before {
        true => Ok(id),
        false => Err(SpoolError::Row { what: "id", value: format!("{id} behind {before}") }),
    }
}

/// Gives each row with a number in `ids` to `visit`, in their order, one in memory at a time. One
/// that went meanwhile is passed over; one that cannot be read is its error.
pub fn rows<E: From<SpoolError>>(
    connection: &Connection,
    pictures: &Pictures,
    keyring: &Keyring,
    topic: Topic,
    ids: Range<RowId>,
    mut visit: impl FnMut(RowId, Result<Spooled, SpoolError>) -> Result<(), E>,
) -> Result<(), E> {
    let mut next = ids.start;
    loop {
        let step = step(connection, topic, next..ids.end)?;
        let Some(last) = step.last() else { return Ok(()) };
        let last = behind(*last, next.saturating_sub(1))?;
        next = last + 1;
        for id in step {
            if let Some(row) = row((connection, pictures, keyring), topic, id).transpose() {
                visit(id, row)?;
            }
        }
    }
}

fn step(
    connection: &Connection,
    topic: Topic,
    ids: Range<RowId>,
) -> Result<Vec<RowId>, SpoolError> {
    let sql = format!(
        "SELECT id FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT {STEP}",
        table(topic)
    );
    let ids = connection.prepare_cached(&sql).and_then(|mut statement| {
        statement.query_map([ids.start, ids.end], |row| row.get(0))?.collect()
    });
    ids.map_err(|source| SpoolError::Read { what: "the rows' numbers", source })
}

fn row(
    (connection, pictures, keyring): (&Connection, &Pictures, &Keyring),
    topic: Topic,
    id: RowId,
) -> Result<Option<Spooled>, SpoolError> {
    let sql = format!("SELECT {} FROM {} WHERE id = ?1", columns(topic), table(topic));
    let row = connection.prepare_cached(&sql).and_then(|mut statement| {
        statement.query_row([id], |row| Ok(spooled(topic, id, row, pictures, keyring))).optional()
    });
    match row {
        // Its picture, or its key, may have gone after the row was read: then the row has gone as well.
        Ok(Some(Err(error))) if is_there(connection, topic, id)? => Err(error),
        Ok(Some(Err(_)) | None) => Ok(None),
        Ok(Some(Ok(spooled))) => Ok(Some(spooled)),
        Err(source) if source.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Err(SpoolError::DamagedRow { topic, id, source })
        }
        Err(source) => Err(SpoolError::Read { what: "a row", source }),
    }
}

fn is_there(connection: &Connection, topic: Topic, id: RowId) -> Result<bool, SpoolError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE id = ?1)", table(topic));
    let found = connection.query_row(&sql, [id], |row| row.get(0));
    found.map_err(|source| SpoolError::Read { what: "a row", source })
}
