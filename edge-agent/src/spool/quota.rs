//! The cap: what has to go so that the next batch fits.
//!
//! Pictures go before observations, oldest first; gap, epoch and clock records stay, because they
//! are what the centre's accounts stand on. Room is counted in free pages of the database, as
//! SQLite itself counts them, and not in a sum of payloads that would have to guess the overhead.

use picket_wire::Topic;
use picket_wire::observation::Reason;
use rusqlite::Connection;

use super::error::SpoolError;
use super::record::{Dropped, RowId, push_dropped};
use super::schema::PAGE_BYTES;
use super::totals::table;
use super::transaction::{Outline, Transaction};

/// For the trees above the leaves, the books, and the gap records of an eviction.
const SPARE_PAGES: u64 = 16;

/// Pages that rows of these bytes take at most: each may begin a page and end within one.
pub fn pages_for(row_bytes: impl Iterator<Item = u64>) -> u64 {
    let pages = |bytes: u64| match bytes {
        // Small rows share a page, a quarter of which a split may leave empty.
        0..=2048 => (bytes + 128) as f64 / (PAGE_BYTES as f64 * 0.5),
        _ => (bytes / (PAGE_BYTES - 8) + 2) as f64,
    };
    row_bytes.map(pages).sum::<f64>().ceil() as u64 + SPARE_PAGES
}

/// Pages that can be written before the cap is reached.
pub fn free_pages(connection: &Connection, cap_pages: u64) -> Result<u64, SpoolError> {
    let count = |pragma: &'static str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|source| SpoolError::Read { what: pragma, source })
    };
    let used = count("page_count")?.saturating_sub(count("freelist_count")?);
    Ok(cap_pages.saturating_sub(u64::try_from(used).unwrap_or(0)))
}

/// Whether the database itself is near its cap. Where the file system is full instead, dropping rows
/// makes no room: the file does not shrink.
pub fn is_near_cap(connection: &Connection, cap_pages: u64) -> Result<bool, SpoolError> {
    Ok(free_pages(connection, cap_pages)? <= cap_pages / 8)
}

/// Drops what must go until `needed` pages are free, or nothing is left that may go. Gives what went,
/// to be told once it is committed: a transaction that fails drops nothing.
pub fn evict(
    tx: &mut Transaction<'_>,
    cap_pages: u64,
    needed: u64,
) -> Result<Vec<Dropped>, SpoolError> {
    let mut runs = Vec::new();
    // A picture frees many pages: one at a time, so that none goes in vain.
    for (topic, step) in [(Topic::Frames, 1), (Topic::Observations, 16)] {
        let mut after = RowId::MIN;
        while free_pages(tx.connection, cap_pages)? < needed {
            let rows = oldest(tx.connection, topic, after, step)?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for row in &rows {
                evict_row(tx, &mut runs, topic, row)?;
            }
        }
    }
    for dropped in &runs {
        tx.gap(dropped)?;
    }
    Ok(runs)
}

/// Says what an eviction took.
pub fn tell(evicted: &[Dropped]) {
    for dropped in evicted {
        tracing::warn!(target: "spool", camera = %dropped.key, first = dropped.first,
            last = dropped.last, count = dropped.count, of = ?dropped.of,
            "the spool is full: the oldest were dropped");
    }
}

fn evict_row(
    tx: &mut Transaction<'_>,
    runs: &mut Vec<Dropped>,
    topic: Topic,
    row: &Outline,
) -> Result<(), SpoolError> {
    if tx.held.as_ref().is_some_and(|held| held.is_in_flight(row.id)) {
        return Ok(());
    }
    let Some(dropped) = tx.dropped(row, Reason::SPOOL_FULL.into()) else {
        return Ok(());
    };
    tx.delete(topic, row.id)?;
    tx.account(&row.key).lost_on_disk(&dropped);
    push_dropped(runs, dropped);
    Ok(())
}

fn oldest(
    connection: &Connection,
    topic: Topic,
    after: RowId,
    limit: usize,
) -> Result<Vec<Outline>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the oldest rows", source };
    let sql = format!(
        "SELECT {} FROM {} WHERE id > ?1 ORDER BY id LIMIT {limit}",
        Outline::COLUMNS,
        table(topic)
    );
    let mut statement = connection.prepare_cached(&sql).map_err(read)?;
    let mut rows = statement.query([after]).map_err(read)?;
    let mut outlines = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        outlines.push(Outline::read(row)?);
    }
    Ok(outlines)
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
