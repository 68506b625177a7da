//! Room in the database, counted in its free pages, as SQLite itself counts them, and not in a sum of
//! payloads that would have to guess the overhead.

use rusqlite::Connection;

use super::books::unsigned;
use super::error::SpoolError;
use super::schema::PAGE_BYTES;

/// For the trees above the leaves, the books, and the gap records of an eviction.
const SPARE_PAGES: u64 = 64;

/// A row that is not smaller takes pages of its own.
const SMALL_ROW_BYTES: u64 = PAGE_BYTES / 4;

/// Pages that rows of these bytes take at most: each may begin a page and end within one.
pub fn pages_for(row_bytes: impl Iterator<Item = u64>) -> u64 {
    let pages = |bytes: u64| match bytes {
        // Small rows share a page, a quarter of which a split may leave empty.
        0..SMALL_ROW_BYTES => (bytes + 128) as f64 / (PAGE_BYTES as f64 * 0.5),
        _ => (bytes / (PAGE_BYTES - 8) + 2) as f64,
    };
    row_bytes.map(pages).sum::<f64>().ceil() as u64 + SPARE_PAGES
}

/// Pages that a picture of these bytes takes in its segment: file systems count in blocks, and may
/// lose one at its edge.
pub fn pages_for_picture(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES) + 2
}

/// Pages that a commit takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// In the database.
    pub rows: u64,
    /// In the files of pictures.
    pub pictures: u64,
}

/// Pages that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free ones of the database, which pictures cannot have: its file does not shrink.
    pub within: u64,
    /// By which the database and the files of pictures may grow together.
    pub growth: u64,
}

impl Space {
    /// Under a limit for both, where pictures take as many.
    pub fn under(
        most_pages: u64,
        connection: &Connection,
        picture_pages: u64,
    ) -> Result<Self, SpoolError> {
        let taken = page_count(connection)?.saturating_add(picture_pages);
        let within = count(connection, "freelist_count")?;
        Ok(Self { within, growth: most_pages.saturating_sub(taken) })
    }

    /// Whether there is room for rows.
    pub fn holds_rows(self, need: Need) -> bool {
        need.rows <= self.within.saturating_add(self.growth)
    }

    /// Whether there is room for rows, and beside them for pictures.
    pub fn holds(self, need: Need) -> bool {
        let by_rows = need.rows.saturating_sub(self.within);
        self.growth.checked_sub(by_rows).is_some_and(|left| need.pictures <= left)
    }
}

/// Pages of the database, those that are free among them.
pub fn page_count(connection: &Connection) -> Result<u64, SpoolError> {
    count(connection, "page_count")
}

fn count(connection: &Connection, pragma: &'static str) -> Result<u64, SpoolError> {
    connection
        .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0).map(unsigned))
        .map_err(|source| SpoolError::Read { what: pragma, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_cannot_have_what_is_free_within_the_database() {
        let space = Space { within: 100, growth: 10 };
        let holds = |rows, pictures| space.holds(Need { rows, pictures });
        assert!(holds(100, 10) && holds(105, 5) && holds(0, 10) && holds(110, 0));
        assert!(!holds(105, 6) && !holds(0, 11) && !holds(111, 0));
    }

    #[test]
    fn the_estimate_is_never_below_the_payload() {
        for bytes in [1, 500, 2049, 8192, 100_000, 4_000_000] {
            assert!(
                (pages_for([bytes].into_iter()) - SPARE_PAGES) * PAGE_BYTES >= bytes,
                "{bytes}"
            );
        }
    }
}
