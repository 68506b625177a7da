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
use super::quota::free_pages;
use super::record::{Dropped, RowId, push_dropped};
use super::totals::table;
use super::transaction::{Outline, Transaction};
use super::worth::Worth;

/// Up to which row nothing of a camera and of this worth is left, so that each search begins where
/// the one before ended.
#[derive(Debug, Clone, Default)]
pub struct Cursors(BTreeMap<(CameraKey, Worth), RowId>);

impl Cursors {
    fn after(&self, key: &CameraKey, worth: Worth) -> RowId {
        self.0.get(&(key.clone(), worth)).copied().unwrap_or(RowId::MIN)
    }
}

/// Drops what must go until `needed` pages are free, or nothing is left that may go. Gives what went,
/// to be told once it is committed: a transaction that fails drops nothing.
pub fn make_room(
    tx: &mut Transaction<'_>,
    cursors: &mut Cursors,
    cap_pages: u64,
    needed: u64,
) -> Result<Vec<Dropped>, SpoolError> {
    let mut evicted = Evicted::because(Reason::SPOOL_FULL);
    for worth in Worth::LEAST_FIRST {
        let mut done = BTreeSet::new();
        while free_pages(tx.connection, cap_pages)? < needed {
            let Some(key) = heaviest(tx, worth, &done) else { break };
            if !evicted.oldest_of(tx, cursors, &key, worth)? {
                done.insert(key);
            }
        }
    }
    evicted.into_gaps(tx)
}

/// Drops rows that are too old, but not what is on its way.
pub fn drop_old(tx: &mut Transaction<'_>, old: &Old) -> Result<Vec<Dropped>, SpoolError> {
    let mut evicted = Evicted::because(Reason::SPOOL_EXPIRED);
    let choice = "id BETWEEN ?1 AND ?2 ORDER BY id";
    for row in outlines(tx.connection, old.topic, choice, params![old.first, old.last])? {
        evicted.row(tx, old.topic, &row)?;
    }
    evicted.into_gaps(tx)
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
            let Some(last) = found.last() else { return Ok(false) };
            after = last.id;
            let mut any = false;
            for row in &found {
                let went = self.row(tx, worth.topic(), row)?;
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
        row: &Outline,
    ) -> Result<bool, SpoolError> {
        if tx.held.as_ref().is_some_and(|held| held.is_in_flight(row.id)) {
            return Ok(false);
        }
        let Some(dropped) = tx.dropped(row, self.reason.into()) else {
            return Ok(false);
        };
        tx.delete(topic, row.id)?;
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

fn outlines(
    connection: &Connection,
    topic: Topic,
    choice: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<Outline>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the oldest rows", source };
    let sql = format!("SELECT {} FROM {} WHERE {choice}", Outline::COLUMNS, table(topic));
    let mut statement = connection.prepare_cached(&sql).map_err(read)?;
    let mut rows = statement.query(values).map_err(read)?;
    let mut outlines = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        outlines.push(Outline::read(row)?);
    }
    Ok(outlines)
}
