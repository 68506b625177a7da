//! What the writer does beside its commits: it brings damaged databases over, watches ages and space, and
//! moves the log into the database.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::books::unsigned;
use super::error::SpoolError;
use super::eviction::Cursors;
use super::quota::{self, Need};
use super::salvage::{self, Salvage};
use super::schema::PAGE_BYTES;
use super::store::Store;

impl Store {
    /// When the next slice of a damaged database may be brought over, if there is one.
    pub fn salvage_due_at(&self) -> Option<Instant> {
        self.salvage.as_ref().map(Salvage::due_at)
    }

    /// Brings a slice of a damaged database over, if one is due; whether one came.
    pub fn salvage_if_due(&mut self) -> bool {
        let Some(mut salvage) = self.salvage.take_if(|s| s.due_at() <= Instant::now()) else {
            return false;
        };
        match self.salvage_slice(&mut salvage) {
            Ok(Some(true)) => {
                salvage.finish();
                // Those that only the damaged database had rows under.
                self.keys.rows_went();
                if !salvage::any_left(&self.shared.state_dir) {
                    self.pictures.keep_no_more();
                }
                true
            }
            Ok(came) => {
                if came.is_none() {
                    salvage.try_later();
                }
                self.salvage = Some(salvage);
                came.is_some()
            }
            Err(error) => {
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "the damaged spool cannot be salvaged at the moment");
                salvage.try_later();
                self.salvage = Some(salvage);
                false
            }
        }
    }

    /// Whether that was the end; `None` while there is no room: nothing new goes for what is old.
    fn salvage_slice(&mut self, salvage: &mut Salvage) -> Result<Option<bool>, SpoolError> {
        self.log.check(&self.connection)?;
        let sizes = salvage.read()?;
        let bytes: u64 = sizes.iter().sum();
        let need = Need { rows: quota::pages_for(sizes.into_iter()), pictures: 0 };
        let has_room = self.space(self.most_pages()?)?.holds_rows(need);
        if !has_room && !salvage.is_at_pictures() {
            return Ok(None);
        }
        let (now, mut at_end) = (self.now(), false);
        self.transact(now, true, |tx| {
            at_end = salvage.write(tx)?;
            Ok(())
        })?;
        if salvage.has_all_pictures(&self.shared.state_dir) {
            self.pictures.keep_no_more();
        }
        for (salvaged, first) in self.shared.salvaged.iter().zip(salvage.went_on()) {
            salvaged.fetch_min(first, Ordering::SeqCst);
        }
        // What came over is older than anything that was here.
        self.cursors = Cursors::default();
        self.since_checkpoint_bytes += bytes + 4 * PAGE_BYTES;
        Ok(Some(at_end))
    }

    /// The file system took no more bytes. From now on the database makes do with the pages it has.
    pub fn file_system_is_full(&mut self) {
        self.room.is_full_now();
        // A log that was moved is written again from its beginning, and needs no space.
        if let Err(error) = self.checkpoint("PASSIVE") {
            tracing::debug!(target: "spool", error = picket_service::logging::chain(&error),
                "the log could not be moved on a full file system");
        }
    }

    /// Looks whether there is space again on the file system, which segments an earlier run left empty,
    /// and which rows are too old.
    pub fn look_around(&mut self) {
        self.room.take_back();
        self.pictures.sweep(&self.connection);
        let now = self.now();
        let may_retire = self.unsaved_bytes == 0;
        self.keys.look(&self.connection, &self.shared.state_dir, now.mono_us, may_retire);
        if !self.old.is_empty() {
            return;
        }
        match self.ages.find(&self.connection, &now) {
            Ok(old) => self.old = old,
            Err(error) => {
                self.ages.put_off(&now);
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "the ages cannot be looked at");
            }
        }
    }

    /// Whether there are rows to drop because of their age.
    pub fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Moves the log into the database when it has grown enough. Readers are not waited for.
    pub fn checkpoint_if_due(&mut self) {
        if self.since_checkpoint_bytes < self.checkpoint_bytes && !self.room.is_full() {
            return;
        }
        match self.checkpoint("PASSIVE") {
            // Pages that a reader still needs stay in the log, and are moved the next time.
            Ok(left) => self.since_checkpoint_bytes = left * PAGE_BYTES,
            Err(error) => {
                // The log only grows meanwhile; try again after as much again.
                self.since_checkpoint_bytes = 0;
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "the spool's log could not be moved into its database");
            }
        }
    }

    /// Pages left in the log afterwards.
    pub(super) fn checkpoint(&self, mode: &str) -> Result<u64, SpoolError> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let (pages, moved) = self
            .connection
            .query_row(&sql, [], counts)
            .map_err(|source| SpoolError::Commit { step: "checkpoint", source })?;
        let left = unsigned(pages.saturating_sub(moved));
        metrics::gauge!("picket_agent_spool_log_pages").set(unsigned(pages) as f64);
        Ok(left)
    }
}
