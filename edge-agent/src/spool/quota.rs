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

/// Pages that can be written before the cap is reached, where pictures take as many.
pub fn free_pages(
    connection: &Connection,
    cap_pages: u64,
    picture_pages: u64,
) -> Result<u64, SpoolError> {
    let used = page_count(connection)?.saturating_sub(count(connection, "freelist_count")?);
    Ok(cap_pages.saturating_sub(used).saturating_sub(picture_pages))
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
    fn the_estimate_is_never_below_the_payload() {
        for bytes in [1, 500, 2049, 8192, 100_000, 4_000_000] {
            assert!(
                (pages_for([bytes].into_iter()) - SPARE_PAGES) * PAGE_BYTES >= bytes,
                "{bytes}"
            );
        }
    }
}
