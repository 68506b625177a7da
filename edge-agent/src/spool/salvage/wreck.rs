//! A damaged database that was set aside, and what can still be read of it, row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use picket_wire::{CameraKey, CameraRecord, EpochId, Kind, Message, Topic, decode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use crate::spool::books::{self, Account};
use crate::spool::error::SpoolError;
use crate::spool::record::{Row, RowId};
use crate::spool::recordings::Recordings;
use crate::spool::totals::table;
use crate::spool::transaction::Outline;

/// A row that could be read whole.
pub struct Kept {
    pub id: RowId,
    pub committed_at_ms: Option<i64>,
    pub synchronised: bool,
    pub row: Row,
    /// The `seq` that it accounts for, if it does.
    pub settles: Option<(u64, u64)>,
    /// An epoch record's word of the epoch before: its last committed `seq`.
    pub ended: Option<(EpochId, u64)>,
}

/// What stands at a place of a queue.
pub enum Found {
    Row(Box<Kept>),
    /// What it was is known, but not what it held.
    Outline(Outline),
    /// A row, or a stretch of pages of which not even the numbers can be read.
    Damage,
    /// Nothing more.
    End,
}

/// The damaged database, open.
pub struct Wreck {
    connection: Connection,
    path: PathBuf,
}

impl Wreck {
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let open = |source| SpoolError::Open { path: path.to_path_buf(), source };
        let connection = Connection::open(path).map_err(open)?;
        // Its log belongs to it and is read with it, but a damaged file is not written any more.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(open)?;
        for (pragma, value) in [("query_only", "ON"), ("mmap_size", "0")] {
            connection
                .pragma_update(None, pragma, value)
                .map_err(|source| SpoolError::Pragma { pragma, source })?;
        }
        // What is no database at all shows here.
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .map_err(|source| SpoolError::Read { what: "a damaged database", source })?;
        Ok(Self { connection, path: path.to_path_buf() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn accounts(&self) -> Result<BTreeMap<CameraKey, Account>, SpoolError> {
        books::load(&self.connection)
    }

    pub fn recordings(&self) -> Result<Recordings, SpoolError> {
        Recordings::load(&self.connection)
    }

    /// What stands first in a queue from a number on, and where to go on. Every number below `end`
    /// that the database could hold is looked at in a bounded number of queries.
    pub fn next(&self, topic: Topic, from: RowId, end: RowId) -> (Found, RowId) {
        if from >= end {
            return (Found::End, end);
        }
        match self.first_id(topic, from, end) {
            Ok(None) => (Found::End, end),
            Ok(Some(id)) => (self.at(topic, id), id + 1),
            Err(_) => (Found::Damage, self.behind_damage(topic, from, end)),
        }
    }

    fn first_id(&self, topic: Topic, from: RowId, end: RowId) -> rusqlite::Result<Option<RowId>> {
        let sql = format!("SELECT min(id) FROM {} WHERE id >= ?1 AND id < ?2", table(topic));
        self.connection.prepare_cached(&sql)?.query_row([from, end], |row| row.get(0))
    }

    /// The lowest number behind a damaged stretch, near enough: leaps until a number can be read, then
    /// halves the last leap.
    fn behind_damage(&self, topic: Topic, from: RowId, end: RowId) -> RowId {
        let reads = |id| self.first_id(topic, id, end).is_ok();
        let (mut damaged, mut leap): (RowId, RowId) = (from, 1);
        let mut whole = loop {
            let probe = damaged.saturating_add(leap);
            if probe >= end {
                return end;
            }
            if reads(probe) {
                break probe;
            }
            (damaged, leap) = (probe, leap.saturating_mul(2));
        };
        while whole - damaged > 1 {
            let middle = damaged + (whole - damaged) / 2;
            match reads(middle) {
                true => whole = middle,
                false => damaged = middle,
            }
        }
        whole
    }

    fn at(&self, topic: Topic, id: RowId) -> Found {
        match self.row(topic, id) {
            Ok(Some(kept)) => Found::Row(Box::new(kept)),
            Ok(None) | Err(_) => match self.outline(topic, id) {
                Ok(Some(outline)) => Found::Outline(outline),
                Ok(None) | Err(_) => Found::Damage,
            },
        }
    }

    fn outline(&self, topic: Topic, id: RowId) -> Result<Option<Outline>, SpoolError> {
        let read = |source| SpoolError::Read { what: "a damaged row", source };
        let sql = format!("SELECT {} FROM {} WHERE id = ?1", Outline::COLUMNS, table(topic));
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let outline = statement.query_row([id], |row| Ok(Outline::read(row)));
        outline.optional().map_err(read)?.transpose()
    }

    /// The row, if the centre would take it: a flipped bit shows in no checksum of SQLite's.
    fn row(&self, topic: Topic, id: RowId) -> Result<Option<Kept>, SpoolError> {
        let read = |source| SpoolError::Read { what: "a damaged row", source };
        let Some(outline) = self.outline(topic, id)? else { return Ok(None) };
        let sql = format!(
            "SELECT committed_at_ms, synchronised, value FROM {} WHERE id = ?1",
            table(topic)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let columns = statement.query_row([id], columns).optional().map_err(read)?;
        let Some((committed_at_ms, synchronised, value)) = columns else { return Ok(None) };
        let row = Row {
            topic,
            kind: parsed_kind(&outline.kind)?,
            key: outline.key,
            epoch: outline.epoch,
            first: outline.first,
            last: outline.last,
            headers: outline.headers,
            value,
        };
        let whole = row.bytes() == outline.bytes;
        let Some(message) = message(&row).filter(|_| whole) else { return Ok(None) };
        let (settles, ended) = match message {
            Message::Record { record: CameraRecord::Epoch(start), .. } => {
                (None, start.previous.map(|previous| (previous.epoch, previous.last_committed)))
            }
            Message::Record { record, .. } => (record.settles(), None),
            _ => (None, None),
        };
        Ok(Some(Kept { id, committed_at_ms, synchronised, row, settles, ended }))
    }
}

fn parsed_kind(text: &str) -> Result<Kind, SpoolError> {
    let kinds = [
        Kind::Observation,
        Kind::Skip,
        Kind::Gap,
        Kind::Epoch,
        Kind::Clock,
        Kind::Certificate,
        Kind::Frame,
        Kind::Crop,
    ];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == text);
    kind.ok_or_else(|| SpoolError::Row { what: "kind", value: text.to_owned() })
}

/// What the centre would read of it; none where key, headers and body do not agree.
fn message(row: &Row) -> Option<Message> {
    let headers: Vec<(String, String)> = serde_json::from_str(&row.headers).ok()?;
    let lane = (picket_wire::header::LANE.to_owned(), b"backlog".to_vec());
    let headers: Vec<_> =
        headers.into_iter().map(|(n, v)| (n, v.into_bytes())).chain([lane]).collect();
    decode(row.topic, row.key.to_string().as_bytes(), &headers, &row.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_no_row_has_is_refused() {
        assert!(parsed_kind("observatiom").is_err());
        assert_eq!(parsed_kind("crop").unwrap(), Kind::Crop);
    }
}
