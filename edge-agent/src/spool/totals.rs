//! How much the tables hold, kept beside them so that no start and no status has to count rows.

use std::ops::Range;

use picket_wire::{EpochId, Topic};
use rusqlite::Connection;

use super::books::{counted, signed};
use super::epoch;
use super::error::SpoolError;
use super::record::RowId;

/// Rows and bytes of both tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows of `records`.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Rows of `pictures`.
    pub pictures: u64,
    /// Their bytes.
    pub picture_bytes: u64,
}

impl Totals {
    /// A row came in.
    pub(super) fn add(&mut self, topic: Topic, bytes: u64) {
        let (count, sum) = self.of(topic);
        *count += 1;
        *sum += bytes;
    }

    /// A row went.
    pub(super) fn subtract(&mut self, topic: Topic, bytes: u64) {
        let (count, sum) = self.of(topic);
        *count = count.saturating_sub(1);
        *sum = sum.saturating_sub(bytes);
    }

    fn of(&mut self, topic: Topic) -> (&mut u64, &mut u64) {
        match topic {
            Topic::Frames => (&mut self.pictures, &mut self.picture_bytes),
            _ => (&mut self.records, &mut self.record_bytes),
        }
    }
}

/// The table of a topic.
pub fn table(topic: Topic) -> &'static str {
    match topic {
        Topic::Frames => "pictures",
        _ => "records",
    }
}

/// The epoch in the database, and the totals.
pub fn load(connection: &Connection) -> Result<(u64, Totals), SpoolError> {
    connection
        .query_row(
            "SELECT epoch_number, records, record_bytes, pictures, picture_bytes FROM spool",
            [],
            |row| {
                let number = |column| row.get::<_, i64>(column);
                Ok([number(0)?, number(1)?, number(2)?, number(3)?, number(4)?])
            },
        )
        .map_err(|source| SpoolError::Read { what: "the totals", source })
        .and_then(of_columns)
}

fn of_columns(columns: [i64; 5]) -> Result<(u64, Totals), SpoolError> {
    let [epoch, records, record_bytes, pictures, picture_bytes] = columns;
    let epoch_number = counted("epoch_number", epoch)?;
    if epoch_number > epoch::MOST {
        return Err(SpoolError::Row { what: "epoch_number", value: epoch.to_string() });
    }
    let totals = Totals {
        records: counted("records", records)?,
        record_bytes: counted("record_bytes", record_bytes)?,
        pictures: counted("pictures", pictures)?,
        picture_bytes: counted("picture_bytes", picture_bytes)?,
    };
    Ok((epoch_number, totals))
}

/// The highest row number of both tables, 0 if there is none.
pub fn last_id(connection: &Connection) -> Result<RowId, SpoolError> {
    Ok(ids(connection)?.map_or(0, |(_, last)| last))
}

/// The lowest and the highest row number of both tables.
fn ids(connection: &Connection) -> Result<Option<(RowId, RowId)>, SpoolError> {
    let of = |topic| -> Result<_, SpoolError> {
        // Two queries each: SQLite looks up one end of a table, and scans it for both.
        let end = |end| {
            let sql = format!("SELECT {end}(id) FROM {}", table(topic));
            connection
                .query_row(&sql, [], |row| row.get::<_, Option<RowId>>(0))
                .map_err(|source| SpoolError::Read { what: "the rows' numbers", source })
        };
        Ok(end("min")?.zip(end("max")?))
    };
    let both = [of(Topic::Observations)?, of(Topic::Frames)?].into_iter().flatten();
    Ok(both.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
}

/// The numbers that rows of earlier epochs can have.
pub fn ids_before(epoch: EpochId) -> Range<RowId> {
    1..signed(epoch.number).saturating_mul(1 << 32)
}

/// The number of the first row that an epoch writes. Rows are numbered from 1, and no epoch writes 2^32
/// of them: others cannot be true, and behind the last number there is none.
pub fn next_id(connection: &Connection, epoch: EpochId) -> Result<RowId, SpoolError> {
    let Some((lowest, highest)) = ids(connection)? else { return Ok(1) };
    let before = ids_before(epoch);
    match [lowest, highest].into_iter().find(|id| !before.contains(id)) {
        Some(id) => Err(SpoolError::Row { what: "id", value: id.to_string() }),
        None => Ok(highest + 1),
    }
}
