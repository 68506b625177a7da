//! Where the bytes of a picture lie.

use picket_wire::Topic;
use rusqlite::Row;

use crate::spool::books::{signed, unsigned};
use crate::spool::record::RowId;

/// A part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment's name.
    pub segment: RowId,
    /// First byte.
    pub position: u64,
    /// Bytes.
    pub length: u64,
    /// CRC-32 (IEEE 802.3) of them.
    pub checksum: u32,
}

impl Place {
    /// Its columns, for those tables that have them.
    pub const COLUMNS: &str = "segment, position, length, checksum";

    /// As many nulls for the others.
    pub fn columns_of(topic: Topic) -> &'static str {
        match topic {
            Topic::Frames => Self::COLUMNS,
            _ => "NULL, NULL, NULL, NULL",
        }
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8], segment: RowId, position: u64) -> Self {
        let checksum = crc32fast::hash(bytes);
        Self { segment, position, length: bytes.len() as u64, checksum }
    }

    /// Whether these are its bytes.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        *self == Self::of(bytes, self.segment, self.position)
    }

    /// From its four columns, beginning at `first`; none where they are null or no place.
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Self>> {
        let number = |column: usize| row.get::<_, Option<i64>>(first + column);
        let (segment, position, length, checksum) =
            (number(0)?, number(1)?, number(2)?, number(3)?);
        let all = segment.zip(position).zip(length).zip(checksum);
        Ok(all.and_then(|(((segment, position), length), checksum)| {
            let checksum = u32::try_from(checksum).ok()?;
            let (position, length) = (unsigned(position), unsigned(length));
            Some(Self { segment, position, length, checksum })
        }))
    }

    /// Its columns' values.
    pub fn values(&self) -> [i64; 4] {
        [self.segment, signed(self.position), signed(self.length), self.checksum.into()]
    }
}
