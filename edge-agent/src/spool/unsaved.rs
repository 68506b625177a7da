//! Rows that are offered to the uplink before they are on the disk.
//!
//! With `durability = "offline"` and a link that works, most rows are acknowledged before their commit is
//! due, and are never written. They have their numbers already, and lie here under the lease lock, so that
//! whoever reads database and memory under it sees each row once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use picket_wire::Topic;

use super::record::{Row, RowId};

/// By number.
#[derive(Debug, Default)]
pub struct Unsaved {
    rows: BTreeMap<RowId, Arc<Row>>,
    bytes: u64,
}

impl Unsaved {
    /// A row was offered.
    pub fn add(&mut self, id: RowId, row: Arc<Row>) {
        self.bytes += row.bytes();
        self.rows.insert(id, row);
    }

    /// The row, if it was neither saved nor settled.
    pub fn get(&self, id: RowId) -> Option<Arc<Row>> {
        self.rows.get(&id).cloned()
    }

    /// Takes a row out; false if it is not here.
    pub fn remove(&mut self, id: RowId) -> bool {
        let removed = self.rows.remove(&id);
        self.bytes -= removed.as_ref().map_or(0, |row| row.bytes());
        removed.is_some()
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Those of a topic, in their order.
    pub fn range(
        &self,
        topic: Topic,
        ids: Range<RowId>,
    ) -> impl Iterator<Item = (RowId, &Arc<Row>)> {
        // The end of a range may lie before its start where nothing was ever committed.
        let end = ids.end.max(ids.start);
        let rows = self.rows.range(ids.start..end);
        rows.filter(move |(_, row)| row.topic == topic).map(|(id, row)| (*id, row))
    }
}
