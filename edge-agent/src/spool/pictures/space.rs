//! What segments take of the disk, and giving it back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::Connection;
use rustix::fs::{FallocateFlags, fallocate};

use crate::spool::books::unsigned;
use crate::spool::error::SpoolError;
use crate::spool::record::RowId;

/// File systems give space back in blocks; those of other sizes lose a little at the edges.
const BLOCK_BYTES: u64 = 4096;

/// What a segment takes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub disk_bytes: u64,
    /// Of these, what rows had that were deleted since it was last looked at.
    pub dead_bytes: u64,
    /// It is of an earlier run, and was not looked at yet.
    pub unknown: bool,
}

impl Use {
    pub fn of(file: &File) -> Self {
        let disk_bytes = usage_of(file).unwrap_or(0);
        Self { disk_bytes, dead_bytes: 0, unknown: false }
    }

    pub fn may_shrink(&self) -> bool {
        self.unknown || self.dead_bytes > 0
    }
}

/// Bytes of the disk that a file takes: holes take none.
pub fn usage_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// The segments in a folder; what has no segment's name is nobody's.
pub fn segments_of(folder: &Path) -> io::Result<BTreeMap<RowId, Use>> {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| RowId::from_str_radix(name, 16).ok());
        if let Some(segment) = number {
            let disk_bytes = entry.metadata()?.blocks() * 512;
            uses.insert(segment, Use { disk_bytes, dead_bytes: 0, unknown: true });
        }
    }
    Ok(uses)
}

/// Whether there is no picture with such a number.
pub fn is_empty(connection: &Connection, rows: Range<RowId>) -> rusqlite::Result<bool> {
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM pictures WHERE id >= ?1 AND id < ?2)";
    connection.prepare_cached(sql)?.query_row([rows.start, rows.end], |row| row.get(0))
}

/// Gives the file system back what lies between the pictures of a segment.
pub fn punch(
    connection: &Connection,
    path: &Path,
    segment: RowId,
    end: RowId,
) -> Result<Use, SpoolError> {
    let failed =
        |source| SpoolError::PictureFile { step: "free parts of", path: path.into(), source };
    let file = File::options().write(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let read = |source| SpoolError::Read { what: "the pictures of a segment", source };
    let holes = holes(connection, segment..end, length).map_err(read)?;
    for hole in holes {
        // Blocks that are dead as a whole.
        let (start, end) = (hole.start.next_multiple_of(BLOCK_BYTES), hole.end);
        let end = if end == length { end } else { end / BLOCK_BYTES * BLOCK_BYTES };
        if end > start {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, start, end - start).map_err(|error| failed(error.into()))?;
        }
    }
    Ok(Use::of(&file))
}

/// What no row points to, of a segment of so many bytes.
fn holes(
    connection: &Connection,
    rows: Range<RowId>,
    length: u64,
) -> rusqlite::Result<Vec<Range<u64>>> {
    let sql = "SELECT position, length FROM pictures WHERE id >= ?1 AND id < ?2 AND segment = ?1 \
               ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([rows.start, rows.end])?;
    let (mut holes, mut reached) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (position, bytes) = (unsigned(row.get(0)?), unsigned(row.get(1)?));
        if position > reached {
            holes.push(reached..position);
        }
        reached = reached.max(position.saturating_add(bytes));
    }
    if reached < length {
        holes.push(reached..length);
    }
    Ok(holes)
}
