//! The writer's side: which key is in use, and which are no longer needed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use picket_service::logging::chain;
use picket_wire::Topic;
use rusqlite::{Connection, params};

use super::cipher::{Cipher, InUse, KEY_BYTES, Key, KeyNumber};
use super::error::KeyError;
use super::folder::KeyFile;
use super::keyring::Keyring;
use super::settings::EncryptionSettings;
use crate::spool::error::SpoolError;
use crate::spool::record::RowId;
use crate::spool::salvage;
use crate::spool::totals::table;

/// What is captured in so long has one key. Shorter makes erasure finer; each key costs two syncs.
const AGE_US: u64 = 60 * 60 * 1_000_000;
/// Before another is tried to be made where one could not.
const TRY_AGAIN_US: u64 = 60 * 1_000_000;
/// Keys that may have become needless are looked for no more often.
const LOOK_EVERY_US: u64 = 10 * 1_000_000;

/// The keys as the writer knows them.
pub struct BatchKeys {
    keyring: Arc<Keyring>,
    files: BTreeMap<KeyNumber, KeyFile>,
    in_use: Option<(InUse, u64)>,
    /// Rows went since the keys were looked at.
    rows_went: bool,
    looked_us: u64,
    /// That keys could not be destroyed at the last look was said; it is not said at each.
    said_that_keys_stay: bool,
    /// A damaged database that waits for its salvage has rows under keys below this.
    this_run_from: RowId,
}

impl BatchKeys {
    /// Reads the master keys.
    pub fn open(state_dir: &Path, settings: Option<&EncryptionSettings>) -> Result<Self, KeyError> {
        let keyring = Arc::new(Keyring::open(state_dir, settings)?);
        Ok(Self {
            keyring,
            files: BTreeMap::new(),
            in_use: None,
            rows_went: false,
            looked_us: 0,
            said_that_keys_stay: false,
            this_run_from: RowId::MAX,
        })
    }

    /// For those who read.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }

    /// Destroys what a run before left needlessly, and refuses to begin if what is left cannot be read. A
    /// key that cannot be destroyed is no reason to capture nothing.
    pub fn begin(&mut self, connection: &Connection, state_dir: &Path) -> Result<(), SpoolError> {
        if let Err(error) = self.keyring.folder().clear_half_made() {
            self.tell_keys_stay(&error);
        }
        let files = self.keyring.folder().list().map_err(SpoolError::Encryption)?;
        self.files = files.into_iter().map(|file| (file.number, file)).collect();
        match self.destroy_needless(connection, state_dir) {
            Err(SpoolError::Encryption(error)) => self.tell_keys_stay(&error),
            other => other?,
        }
        let left: Vec<_> = self.files.values().copied().collect();
        self.keyring.check_masters(&left).map_err(SpoolError::Encryption)?;
        self.tell();
        Ok(())
    }

    /// Rows of this run must have this number or a higher one, so that each key's rows are those up to
    /// the next key. Keys with other numbers than rows before this run can have say nothing.
    pub fn first_free_id(&self, before: &Range<RowId>) -> RowId {
        self.files.range(before.clone()).next_back().map_or(0, |(number, _)| number + 1)
    }

    /// Rows from here on are this run's.
    pub fn this_run_from(&mut self, id: RowId) {
        self.this_run_from = id;
    }

    /// Sees to it that there is a key for rows from `next_id` on, on disk.
    pub fn prepare(&mut self, now_us: u64, next_id: RowId) -> Result<(), KeyError> {
        if self.in_use.is_some() && !self.is_overdue(now_us) {
            return Ok(());
        }
        match (self.begin_next(now_us, next_id), &mut self.in_use) {
            // On a full disk there is no place for another, and what is to make room needs one.
            (Err(error), Some((_, since))) => {
                *since = now_us.saturating_sub(AGE_US - TRY_AGAIN_US);
                tracing::warn!(target: "spool", error = chain(&error),
                    "no new batch key can be made: the former one is used for longer");
                Ok(())
            }
            (made, _) => made,
        }
    }

    fn begin_next(&mut self, now_us: u64, next_id: RowId) -> Result<(), KeyError> {
        let Some(master) = self.keyring.master_in_use() else { return Ok(()) };
        if let Some((_, since)) = self.in_use.as_mut().filter(|(of, _)| of.number == next_id) {
            // It has encrypted nothing yet.
            *since = now_us;
            return Ok(());
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
        let file = KeyFile { number: next_id, master: master.id };
        let content = master.wrap(next_id, &bytes)?;
        let key = Key::new(&bytes).map_err(KeyError::Encrypt)?;
        // One of that number encrypted nothing that was committed: its rows would have higher ones.
        if let Some(before) = self.files.get(&next_id).copied() {
            self.destroy(before)?;
        }
        self.keyring.folder().create(file, &content)?;
        self.files.insert(next_id, file);
        self.in_use = Some((InUse::new(next_id, key), now_us));
        self.rows_went = true;
        self.tell();
        Ok(())
    }

    /// How values are to be written.
    pub fn cipher(&self) -> Cipher<'_> {
        match &self.in_use {
            _ if !self.keyring.encrypts() => Cipher::None,
            None => Cipher::NoKeyYet,
            Some((in_use, _)) => Cipher::With(in_use),
        }
    }

    /// Rows were deleted: a key may have become needless.
    pub fn rows_went(&mut self) {
        self.rows_went = true;
    }

    /// Destroys keys that became needless, if it is time to look; the one in use only where it may be
    /// followed by another now. What cannot be done now is tried again.
    pub fn look(
        &mut self,
        connection: &Connection,
        state_dir: &Path,
        now_us: u64,
        may_retire: bool,
    ) {
        if now_us.saturating_sub(self.looked_us) < LOOK_EVERY_US {
            return;
        }
        self.looked_us = now_us;
        if may_retire && self.is_overdue(now_us) {
            let has_rows = |(of, _): &(InUse, u64)| has_rows(connection, of.number, RowId::MAX);
            // One that something waits under goes on until another is made.
            self.rows_went |=
                self.in_use.take_if(|of| has_rows(of).is_ok_and(|has| !has)).is_some();
        }
        if self.rows_went {
            self.look_now(connection, state_dir);
        }
    }

    /// At the end of the run: also the key in use goes, if nothing waits under it.
    pub fn close(&mut self, connection: &Connection, state_dir: &Path) {
        self.in_use = None;
        self.look_now(connection, state_dir);
    }

    fn look_now(&mut self, connection: &Connection, state_dir: &Path) {
        match self.destroy_needless(connection, state_dir) {
            Ok(()) => {
                self.rows_went = false;
                self.said_that_keys_stay = false;
            }
            Err(error) => self.tell_keys_stay(&error),
        }
        self.tell();
    }

    /// Whether the key in use has served its time.
    fn is_overdue(&self, now_us: u64) -> bool {
        self.in_use.as_ref().is_some_and(|(_, since)| now_us.saturating_sub(*since) >= AGE_US)
    }

    fn destroy_needless(
        &mut self,
        connection: &Connection,
        state_dir: &Path,
    ) -> Result<(), SpoolError> {
        let in_use = self.in_use.as_ref().map(|(in_use, _)| in_use.number);
        let salvage_waits = salvage::any_left(state_dir);
        let mut end = RowId::MAX;
        let mut needless = Vec::new();
        for (number, file) in self.files.iter().rev() {
            let stays = Some(*number) == in_use || (salvage_waits && *number < self.this_run_from);
            if !stays && !has_rows(connection, *number, end)? {
                needless.push(*file);
            }
            end = *number;
        }
        // One that stays does not keep the others.
        let destroyed: Vec<_> = needless.into_iter().map(|file| self.destroy(file)).collect();
        destroyed.into_iter().collect::<Result<(), _>>().map_err(SpoolError::Encryption)
    }

    fn destroy(&mut self, file: KeyFile) -> Result<(), KeyError> {
        self.keyring.forget(file.number);
        self.keyring.folder().destroy(file)?;
        self.files.remove(&file.number);
        metrics::counter!("picket_agent_spool_keys_destroyed_total").increment(1);
        tracing::info!(target: "spool", key = file.number,
            "nothing waits under a batch key any more: it is destroyed");
        Ok(())
    }

    /// Says once, until all could be destroyed, that some stay; the gauge shows how many there are.
    fn tell_keys_stay(&mut self, error: &(dyn std::error::Error + 'static)) {
        if !std::mem::replace(&mut self.said_that_keys_stay, true) {
            tracing::warn!(target: "spool", error = chain(error),
                "keys that nothing waits under cannot be destroyed at the moment: it is tried again");
        }
    }

    fn tell(&self) {
        metrics::gauge!("picket_agent_spool_keys").set(self.files.len() as f64);
    }
}

/// Whether a row of the batch is left: all that may be lie between its number and the next key's.
fn has_rows(connection: &Connection, number: KeyNumber, end: RowId) -> Result<bool, SpoolError> {
    for topic in Topic::OF_CAMERAS {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE id >= ?1 AND id < ?2 AND batch_key = ?1)",
            table(topic)
        );
        let found = connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_row(params![number, end], |row| row.get::<_, bool>(0))
            })
            .map_err(|source| SpoolError::Read { what: "a batch's rows", source })?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
