//! Offering rows to the uplink before they are committed; see [`super::unsaved`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use picket_wire::observation::Stamp;

use super::batch::{Batch, Entry, Settled};
use super::error::SpoolError;
use super::record::{Row, RowId};
use super::store::Store;

impl Store {
    /// Offers what waits in a batch to the uplink before it is committed.
    pub fn offer(&mut self, batch: &mut Batch) -> Result<(), SpoolError> {
        self.prepare_key(&self.now())?;
        let shared = Arc::clone(&self.shared);
        let mut held = shared.leases.lock();
        for (id, row) in (self.next_id..).zip(batch.offer(self.next_id)) {
            held.offer(id, row);
            self.next_id = id + 1;
        }
        self.unsaved_bytes = held.unsaved().bytes();
        shared.next_id.store(self.next_id, Ordering::SeqCst);
        Ok(())
    }

    /// A key's rows have its number or a higher one: so another key begins only while no row has a number
    /// that is not written yet.
    pub(super) fn prepare_key(&mut self, now: &Stamp) -> Result<(), SpoolError> {
        match self.unsaved_bytes {
            0 => self.keys.prepare(now.mono_us, self.next_id).map_err(SpoolError::Encryption),
            _ => Ok(()),
        }
    }

    /// Books what the uplink is done with; gives what is on the disk, to be deleted with the next commit.
    pub fn settle_unsaved(&mut self, batch: &mut Batch, settled: Vec<Settled>) -> Vec<Settled> {
        if self.unsaved_bytes == 0 {
            return settled;
        }
        let mut held = self.shared.leases.lock();
        let mut on_disk = Vec::new();
        for settled in settled {
            match held.settle_unsaved(settled.id) {
                true => batch.settle_offered(settled),
                false => on_disk.push(settled),
            }
        }
        self.unsaved_bytes = held.unsaved().bytes();
        on_disk
    }

    /// Takes a first part of a batch off; see [`Batch::take_part`].
    pub fn take_part(&self, batch: &mut Batch, max_bytes: u64) -> Batch {
        match self.unsaved_bytes {
            0 => batch.take_part(max_bytes, |_| false),
            _ => {
                let held = self.shared.leases.lock();
                batch.take_part(max_bytes, |id| held.unsaved().get(id).is_some())
            }
        }
    }

    /// The rows of a batch that were offered, and are in memory alone.
    pub(super) fn rows_in_memory(&self, batch: &Batch) -> BTreeMap<RowId, Arc<Row>> {
        if self.unsaved_bytes == 0 {
            return BTreeMap::new();
        }
        let held = self.shared.leases.lock();
        let offered = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Offered(offered) => Some((offered.id, held.unsaved().get(offered.id)?)),
            _ => None,
        });
        offered.collect()
    }
}
