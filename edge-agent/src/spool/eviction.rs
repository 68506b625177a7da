//! What has to go: so that the next batch fits, or because it is too old.
//!
//! Pictures of frames go before crops, and those before observations. Of the least worth, the camera
//! that holds most of it loses its oldest first, so that one that fills the spool does not push out
//! the little that another has. Gap, epoch and clock records stay, because they are what the centre's
//! accounts stand on.

use std::collections::{BTreeMap, BTreeSet};

use picket_wire::observation::Reason;
use picket_wire::{CameraKey, Topic};
use rusqlite::{Connection, params};

use super::age::Old;
use super::error::SpoolError;
use super::quota::{Need, Space};
use super::record::{Dropped, RowId, push_dropped};
use super::totals::table;
use super::transaction::{Outline, Transaction};
use super::worth::Worth;

/// Rows to drop for their age in one transaction.
const OLD_AT_ONCE: usize = 256;

/// Up to which row nothing of a camera and of this worth is left, so that each search begins where
/// the one before ended.
#[derive(Debug, Clone, Default)]
pub struct Cursors(BTreeMap<(CameraKey, Worth), RowId>);

impl Cursors {
    fn after(&self, key: &CameraKey, worth: Worth) -> RowId {
        self.0.get(&(key.clone(), worth)).copied().unwrap_or(RowId::MIN)
    }
}

/// Drops what must go until there is room, or nothing is left that may go. For pictures no observation
/// goes: its pages are the database's. Gives what went, to be told once it is committed: a transaction
/// that fails drops nothing.
pub fn make_room(
    tx: &mut Transaction<'_>,
    cursors: &mut Cursors,
    most_pages: u64,
    need: Need,
) -> Result<Vec<Dropped>, SpoolError> {
    let mut evicted = Evicted::because(Reason::SPOOL_FULL);
    for worth in Worth::LEAST_FIRST {
        let mut done = BTreeSet::new();
        let is_enough = |space: Space| match worth.topic() {
            Topic::Frames => space.holds(need),
            _ => space.holds_rows(need),
        };
        while !is_enough(tx.space(most_pages)?) {
            let Some(key) = heaviest(tx, worth, &done) else { break };
            if !evicted.oldest_of(tx, cursors, &key, worth)? {
                done.insert(key);
            }
        }
    }
    evicted.into_gaps(tx)
}

/// Drops rows that are too old, but not what is on its way, and no more than one transaction should;
/// gives also up to which row it came.
pub fn drop_old(tx: &mut Transaction<'_>, old: &Old) -> Result<(Vec<Dropped>, RowId), SpoolError> {
    let mut evicted = Evicted::because(Reason::SPOOL_EXPIRED);
    let choice = format!("id > ?1 AND id <= ?2 ORDER BY id LIMIT {OLD_AT_ONCE}");
    let rows = outlines(tx.connection, old.topic, &choice, params![old.after, old.last])?;
    let is_all = rows.len() < OLD_AT_ONCE;
    let reached = rows.last().filter(|_| !is_all).map_or(old.last, |(id, _)| *id);
    for (id, row) in rows {
        evicted.row(tx, old.topic, id, row)?;
    }
    Ok((evicted.into_gaps(tx)?, reached))
}

/// Says what an eviction took.
pub fn tell(evicted: &[Dropped]) {
    for dropped in evicted {
        tracing::warn!(target: "spool", camera = %dropped.key, first = dropped.first,
            last = dropped.last, count = dropped.count, of = ?dropped.of, reason = %dropped.reason,
            "the oldest were dropped");
    }
}

/// The camera that holds most of this worth, of those that have any left to drop.
fn heaviest(tx: &Transaction<'_>, worth: Worth, done: &BTreeSet<CameraKey>) -> Option<CameraKey> {
    let unchanged = tx.accounts.iter().filter(|(key, _)| !tx.changed.contains_key(*key));
    let all = unchanged.chain(&tx.changed).filter(|(key, _)| !done.contains(*key));
    let weighed = all.map(|(key, account)| (account.weights.of(worth), key));
    weighed.filter(|(bytes, _)| *bytes > 0).max().map(|(_, key)| key.clone())
}

/// What goes in one transaction, and why.
struct Evicted {
    reason: &'static str,
    runs: Vec<Dropped>,
}

impl Evicted {
    fn because(reason: &'static str) -> Self {
        Self { reason, runs: Vec::new() }
    }

    /// Drops some of the oldest rows; false if none is left but what is on its way.
    fn oldest_of(
        &mut self,
        tx: &mut Transaction<'_>,
        cursors: &mut Cursors,
        key: &CameraKey,
        worth: Worth,
    ) -> Result<bool, SpoolError> {
        // A picture frees many pages: one at a time, so that none goes in vain.
        let limit = if worth.topic() == Topic::Frames { 1 } else { 16 };
        let kinds: Vec<_> = worth.kinds().iter().map(|kind| format!("'{kind}'")).collect();
        let rows = format!("id > ?1 AND key = ?2 AND kind IN ({})", kinds.join(", "));
        let (mut after, mut passed_over) = (cursors.after(key, worth), false);
        loop {
            let choice = format!("{rows} ORDER BY id LIMIT {limit}");
            let found =
                outlines(tx.connection, worth.topic(), &choice, params![after, key.to_string()])?;
            // In a damaged tree of pages rows may come again and again.
            let last = found.last().map(|(last, _)| *last).filter(|last| *last > after);
            let Some(last) = last else { return Ok(false) };
            after = last;
            let mut any = false;
            for (id, row) in found {
                let went = self.row(tx, worth.topic(), id, row)?;
                (any, passed_over) = (any || went, passed_over || !went);
            }
            if !passed_over {
                cursors.0.insert((key.clone(), worth), after);
            }
            if any {
                return Ok(true);
            }
        }
    }

    /// Drops a row; false if it stays.
    fn row(
        &mut self,
        tx: &mut Transaction<'_>,
        topic: Topic,
        id: RowId,
        row: Result<Outline, SpoolError>,
    ) -> Result<bool, SpoolError> {
        if tx.held.as_ref().is_some_and(|held| held.is_in_flight(id)) {
            return Ok(false);
        }
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                tx.delete_damaged(topic, id, &error)?;
                return Ok(true);
            }
        };
        let Some(dropped) = tx.dropped(&row, self.reason.into()) else {
            return Ok(false);
        };
        tx.delete(topic, id)?;
        tx.account(&row.key).lost_on_disk(&dropped);
        push_dropped(&mut self.runs, dropped);
        Ok(true)
    }

    fn into_gaps(self, tx: &mut Transaction<'_>) -> Result<Vec<Dropped>, SpoolError> {
        for dropped in &self.runs {
            tx.gap(dropped)?;
        }
        Ok(self.runs)
    }
}

/// A row by its number; its error is that damage has made it untrue.
type Found = (RowId, Result<Outline, SpoolError>);

fn outlines(
    connection: &Connection,
    topic: Topic,
    choice: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<Found>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the oldest rows", source };
    let sql = format!("SELECT {} FROM {} WHERE {choice}", Outline::columns(topic), table(topic));
    let mut statement = connection.prepare_cached(&sql).map_err(read)?;
    let mut rows = statement.query(values).map_err(read)?;
    let mut outlines = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        let id = row.get(0).map_err(read)?;
        match Outline::read(row) {
            outline @ (Ok(_) | Err(SpoolError::Row { .. })) => outlines.push((id, outline)),
            Err(error) => return Err(error),
        }
    }
    Ok(outlines)
}
