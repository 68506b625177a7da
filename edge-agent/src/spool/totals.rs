//! How much the tables hold, kept beside them so that no start and no status has to count rows.

use picket_wire::Topic;
use rusqlite::Connection;

use super::books::unsigned;
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
                let number = |column| row.get::<_, i64>(column).map(unsigned);
                let totals = Totals {
                    records: number(1)?,
                    record_bytes: number(2)?,
                    pictures: number(3)?,
                    picture_bytes: number(4)?,
                };
                Ok((number(0)?, totals))
            },
        )
        .map_err(|source| SpoolError::Read { what: "the totals", source })
}

/// The highest row number of both tables.
pub fn last_id(connection: &Connection) -> Result<RowId, SpoolError> {
    let newest = Topic::OF_CAMERAS.map(|topic| {
        let sql = format!("SELECT max(id) FROM {}", table(topic));
        connection
            .query_row(&sql, [], |row| row.get::<_, Option<RowId>>(0))
            .map_err(|source| SpoolError::Read { what: "the newest row", source })
    });
    let [records, pictures] = newest;
    Ok(records?.max(pictures?).unwrap_or(0))
}
