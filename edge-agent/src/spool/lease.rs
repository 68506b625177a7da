//! Which rows are on their way to the broker.
//!
//! The writer must not evict a row that the uplink is sending, and the uplink must not send a row
//! that the writer is evicting: the one would tell a gap where there is none, the other store an
//! observation that was counted as dropped. Both hold this lock while they choose, the writer until
//! its commit, the uplink for one short read.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Row, RowId};
use super::unsaved::Unsaved;

/// Shared by the writer and the uplink's reader.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Held>);

/// What is held, while the lock is.
#[derive(Debug, Default)]
pub struct Held {
    /// Handed to the uplink; until its deletion is committed, or it is given back.
    in_flight: HashSet<RowId>,
    /// Gap rows of this run that were never handed out, and so may still grow: nobody has seen
    /// their bytes.
    unseen_gaps: HashSet<RowId>,
    /// Offered before they are committed.
    unsaved: Unsaved,
}

impl Leases {
    /// The rows that are held.
    pub fn lock(&self) -> MutexGuard<'_, Held> {
        // Sets of numbers hold no broken state after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether the uplink has the row.
    pub fn is_in_flight(&self, id: RowId) -> bool {
        self.in_flight.contains(&id)
    }

    /// Hands the row to the uplink.
    pub fn hand_out(&mut self, id: RowId) {
        self.in_flight.insert(id);
        self.unseen_gaps.remove(&id);
    }

    /// The uplink has it no more: it is deleted, or was not delivered.
    pub fn give_back(&mut self, id: RowId) {
        self.in_flight.remove(&id);
    }

    /// A row may be sent before it is committed.
    pub fn offer(&mut self, id: RowId, row: Arc<Row>) {
        self.unsaved.add(id, row);
    }

    /// Rows that are not committed.
    pub fn unsaved(&self) -> &Unsaved {
        &self.unsaved
    }

    /// A row was committed, or dropped, that was offered before.
    pub fn left_memory(&mut self, id: RowId) {
        self.unsaved.remove(id);
    }

    /// The uplink is done with a row that was not committed; false if it was.
    pub fn settle_unsaved(&mut self, id: RowId) -> bool {
        let removed = self.unsaved.remove(id);
        if removed {
            self.in_flight.remove(&id);
        }
        removed
    }

    /// A gap row was committed that may still grow.
    pub fn note_gap(&mut self, id: RowId) {
        self.unseen_gaps.insert(id);
    }

    /// No gap row that there is grows any more: somebody has seen their bytes.
    pub fn seal(&mut self) {
        self.unseen_gaps.clear();
    }

    /// Whether a gap row may still grow; it is about to be replaced if so.
    pub fn take_gap(&mut self, id: RowId) -> bool {
        self.unseen_gaps.remove(&id)
    }
}
