//! Room for the next commit: at the cap, and on a file system that is full.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_wire::Topic;

use super::batch::{Batch, Entry, Settled};
use super::error::SpoolError;
use super::eviction;
use super::quota::{self, Need, Space};
use super::record::{Row, RowId};
use super::store::Store;

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomFor {
    /// For all that is needed, or for all that SQLite itself will take.
    All,
    /// All that may go of pictures has gone, and new ones have no room all the same.
    RowsOnly,
}

/// What a batch takes; `in_memory` are the rows of it that were offered and not settled yet.
pub fn need_of(batch: &Batch, in_memory: &BTreeMap<RowId, Arc<Row>>) -> Need {
    let (mut rows, mut pictures) = (Vec::new(), 0);
    let mut add = |row: &Row| match row.topic {
        Topic::Frames => {
            rows.push(row.headers.len() as u64);
            pictures += quota::pages_for_picture(row.value.len() as u64);
        }
        _ => rows.push(row.bytes()),
    };
    let mut gaps = 0;
    for entry in &batch.entries {
        match entry {
            Entry::Row(row) => add(row),
            Entry::Offered(offered) => match in_memory.get(&offered.id) {
                Some(row) => add(row),
                None => gaps += usize::from(offered.refused.is_some()),
            },
            Entry::Dropped(_) => gaps += 1,
            Entry::Position(..) => {}
        }
    }
    rows.extend(std::iter::repeat_n(1024, gaps));
    Need { rows: quota::pages_for(rows.into_iter()), pictures }
}

impl Store {
    /// Makes room where there is none: what is settled goes, then what must. Commits of their own, so
    /// that the space of pictures is free before others are written.
    pub(super) fn make_room(
        &mut self,
        need: Need,
        settled: &[Settled],
    ) -> Result<RoomFor, SpoolError> {
        let most_pages = self.most_pages()?;
        let on_disk = Space::under(most_pages, &self.connection, self.pictures.disk_pages())?;
        if on_disk.holds(need) {
            return Ok(RoomFor::All);
        }
        self.pictures.reclaim(&self.connection, need.rows + need.pictures);
        loop {
            if self.space(most_pages)?.holds(need) {
                return Ok(RoomFor::All);
            }
            if !self.evict(most_pages, need, settled)? {
                break;
            }
            // Blocks come back, where bytes were hoped for.
            self.pictures.reclaim(&self.connection, u64::MAX);
        }
        match need.pictures > 0 {
            true => Ok(RoomFor::RowsOnly),
            // SQLite says by itself when it is full.
            false => Ok(RoomFor::All),
        }
    }

    /// Whether anything went.
    fn evict(
        &mut self,
        most_pages: u64,
        need: Need,
        settled: &[Settled],
    ) -> Result<bool, SpoolError> {
        let (now, mut cursors, mut evicted) = (self.now(), self.cursors.clone(), Vec::new());
        let rows_before = self.totals.records + self.totals.pictures;
        self.transact(now, true, |tx| {
            for settled in settled {
                tx.settle(settled)?;
            }
            evicted = eviction::make_room(tx, &mut cursors, most_pages, need)?;
            Ok(())
        })?;
        self.cursors = cursors;
        self.keys.rows_went();
        eviction::tell(&evicted);
        Ok(!evicted.is_empty() || self.totals.records + self.totals.pictures < rows_before)
    }

    /// What there is now.
    pub(super) fn space(&self, most_pages: u64) -> Result<Space, SpoolError> {
        Space::under(most_pages, &self.connection, self.pictures.live_pages())
    }

    /// Whether the spool is near its cap, as against a file system that is full. There, dropping rows
    /// makes no room: the database does not shrink.
    pub fn is_near_cap(&self) -> bool {
        let cap_pages = self.cap_pages();
        let is_near = |space: Space| space.within + space.growth <= cap_pages / 8;
        self.space(cap_pages).is_ok_and(is_near)
    }

    /// Most pages that database and pictures may ever take.
    pub fn cap_pages(&self) -> u64 {
        self.room.cap_pages()
    }

    /// Most pages that they may take now.
    pub(super) fn most_pages(&self) -> Result<u64, SpoolError> {
        let taken = quota::page_count(&self.connection)? + self.pictures.disk_pages();
        Ok(self.room.pages(taken))
    }
}
