//! The writer's side of the database: opening it, and one commit after the other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use picket_wire::observation::{EpochStart, PreviousEpoch, Stamp};
use picket_wire::{CameraKey, CameraName, CameraRecord, DeviceName, ObservationId};
use rusqlite::{Connection, TransactionBehavior};

use super::age::{Ages, Old};
use super::batch::{Batch, Entry, Outcome};
use super::books::{self, Account, Ledger};
use super::clock::{self, Clock, Relations};
use super::encryption::BatchKeys;
use super::error::SpoolError;
use super::eviction::Cursors;
use super::lease::Leases;
use super::lock::StateLock;
use super::log::LogLimit;
use super::making_room::{RoomFor, need_of};
use super::month::Month;
use super::pictures::{Place, Segments};
use super::quota::{self, Need};
use super::record::{Row, RowId};
use super::recordings::{Positions, Recordings};
use super::room::Room;
use super::salvage::Salvage;
use super::schema::{self, PAGE_BYTES};
use super::settings::Settings;
use super::shared::Shared;
use super::totals::{self, Totals};
use super::transaction::{OpenGaps, Transaction};
use super::{entries, epoch, eviction, salvage};

/// The database, and what stands in it, as the writer has it in memory.
pub struct Store {
    pub(super) connection: Connection,
    pub(super) pictures: Segments,
    clock: Arc<dyn Clock>,
    cameras: Vec<CameraKey>,
    accounts: BTreeMap<CameraKey, Account>,
    open_gaps: OpenGaps,
    relations: Relations,
    pub(super) totals: Totals,
    month: Month,
    pub(super) next_id: RowId,
    pub(super) log: LogLimit,
    pub(super) salvage: Option<Salvage>,
    pub(super) room: Room,
    pub(super) cursors: Cursors,
    pub(super) ages: Ages,
    pub(super) keys: BatchKeys,
    /// Rows that are too old, to be dropped with the next commit.
    pub(super) old: Vec<Old>,
    pub(super) checkpoint_bytes: u64,
    pub(super) since_checkpoint_bytes: u64,
    /// Of rows that are in memory alone.
    pub(super) unsaved_bytes: u64,
    pub shared: Arc<Shared>,
    _lock: Arc<StateLock>,
}

impl Store {
    /// Opens the state directory, begins a new epoch, and puts the epoch record of each camera
    /// before all that will follow.
    pub fn open(
        settings: &Settings,
        state_dir: &Path,
        device: &DeviceName,
        cameras: &[CameraName],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SpoolError> {
        settings.check()?;
        std::fs::create_dir_all(state_dir)
            .map_err(|source| SpoolError::Directory { path: state_dir.to_path_buf(), source })?;
        let lock = Arc::new(StateLock::take(state_dir)?);
        let begin = || {
            let (clock, lock) = (Arc::clone(&clock), Arc::clone(&lock));
            Self::begin(settings, state_dir, device, cameras, clock, lock)
        };
        match begin() {
            // Damage beyond the file's head shows only in reading what is needed to begin. Started
            // again and again by the service manager, the agent would never capture.
            Err(error) if error.is_corruption() => {
                schema::give_up(state_dir, &error)?;
                begin()
            }
            other => other,
        }
    }

    fn begin(
        settings: &Settings,
        state_dir: &Path,
        device: &DeviceName,
        cameras: &[CameraName],
        clock: Arc<dyn Clock>,
        lock: Arc<StateLock>,
    ) -> Result<Self, SpoolError> {
        let keys = BatchKeys::open(state_dir, settings.encryption.as_ref());
        let mut keys = keys.map_err(SpoolError::Encryption)?;
        let connection = schema::open_for_writing(state_dir, settings)?;
        // Before an epoch begins: a start that is refused leaves nothing behind.
        keys.begin(&connection, state_dir)?;
        let (epoch_in_database, totals) = totals::load(&connection)?;
        let epoch = epoch::begin(state_dir, epoch_in_database)?;
        let salvage = Salvage::begin(&connection, state_dir, device, epoch, keys.keyring())?;
        let month = Month::load(&connection)?;
        let accounts = books::load(&connection)?;
        let above_salvaged = salvage.as_ref().map_or(0, Salvage::first_free_id);
        let next_id = totals::next_id(&connection, epoch)?.max(above_salvaged);
        let before = totals::ids_before(epoch);
        let mut pictures = Segments::open(&state_dir.join(schema::FILE), &before)?;
        let next_id = next_id.max(keys.first_free_id(&before)).max(pictures.first_free_id());
        if salvage::any_left(state_dir) {
            pictures.keep_below(next_id);
        }
        keys.this_run_from(next_id);
        let shared = Arc::new(Shared {
            state_dir: state_dir.to_path_buf(),
            device: device.clone(),
            cap_bytes: settings.max_bytes,
            epoch,
            ledger: Arc::new(Ledger::new(device.clone(), cameras, accounts.clone())),
            leases: Leases::default(),
            recordings: Recordings::load(&connection)?,
            keyring: keys.keyring(),
            first_id: next_id,
            next_id: AtomicI64::new(next_id),
            salvaged: [const { AtomicI64::new(RowId::MAX) }; 2],
            used_bytes: AtomicU64::new(0),
            month_bytes: AtomicU64::new(month.bytes),
            month_is_known: AtomicBool::new(false),
            month_budget_bytes: AtomicU64::new(u64::MAX),
            link_works: AtomicBool::new(false),
            turns: AtomicU64::new(0),
        });
        let key =
            |camera: &CameraName| CameraKey { device: device.clone(), camera: camera.clone() };
        let mut store = Self {
            connection,
            pictures,
            clock,
            cameras: cameras.iter().map(key).collect(),
            accounts,
            open_gaps: OpenGaps::new(),
            relations: Relations::default(),
            totals,
            month,
            next_id,
            log: LogLimit::new(state_dir, settings),
            salvage,
            room: Room::new(state_dir, settings),
            cursors: Cursors::default(),
            ages: Ages::new(settings.max_age_hours),
            keys,
            old: Vec::new(),
            checkpoint_bytes: settings.checkpoint_bytes,
            since_checkpoint_bytes: 0,
            unsaved_bytes: 0,
            shared,
            _lock: lock,
        };
        store.begin_epoch(&store.cameras.clone())?;
        Ok(store)
    }

    /// Takes cameras in while the agent runs, all of them or none, with their epoch records before all
    /// that will follow. One that was there in this epoch goes on as it was.
    pub fn add_cameras(&mut self, cameras: &[CameraName]) -> Result<(), SpoolError> {
        let device = &self.shared.device;
        let keys = cameras
            .iter()
            .map(|camera| CameraKey { device: device.clone(), camera: camera.clone() });
        let new: Vec<_> = keys.filter(|key| !self.cameras.contains(key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.begin_epoch(&new)?;
        new.iter().for_each(|key| self.shared.ledger.add(&key.camera));
        self.cameras.extend(new);
        Ok(())
    }

    pub fn now(&self) -> Stamp {
        self.clock.now()
    }

    /// One epoch record per camera, and the accounts moved to the new epoch, in one transaction.
    fn begin_epoch(&mut self, cameras: &[CameraKey]) -> Result<(), SpoolError> {
        let now = self.now();
        let before = cameras.iter().filter_map(|key| Some((key, self.accounts.get(key)?.clone())));
        let before: Vec<_> = before.map(|(key, account)| (key.clone(), account)).collect();
        let rows = quota::pages_for(cameras.iter().map(|_| 1024));
        self.make_room(Need { rows, pictures: 0 }, &[])?;
        self.transact(now, true, |tx| {
            for key in cameras {
                let previous = tx.accounts.get(key).map(|account| PreviousEpoch {
                    epoch: account.epoch,
                    last_committed: account.last_committed,
                    // A bound below what was committed would be refused by the centre.
                    reserved: account.reserved.max(account.last_committed),
                });
                let id = ObservationId { key: key.clone(), epoch: tx.epoch, seq: 0 };
                let agent_version = env!("CARGO_PKG_VERSION").to_owned();
                let start = EpochStart { id, stamp: now, previous, agent_version };
                tx.insert(&Row::of_record(&CameraRecord::Epoch(start))?)?;
                let epoch = tx.epoch;
                let account = tx.account(key);
                (account.epoch, account.reserved, account.last_committed) = (epoch, 0, 0);
            }
            Ok(())
        })?;
        before.iter().for_each(|(key, account)| tell_what_a_crash_took(key, account));
        Ok(())
    }

    /// Makes a block of `seq` durable and gives it out.
    pub fn reserve(
        &mut self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, SpoolError> {
        let known = self.cameras.iter().find(|key| key.camera == *camera).cloned();
        let key = known.ok_or_else(|| SpoolError::UnknownCamera { camera: camera.clone() })?;
        let first = self.accounts.get(&key).map_or(0, |account| account.reserved) + 1;
        let last = first.saturating_add(count.max(1) - 1);
        let now = self.now();
        self.transact(now, false, |tx| {
            tx.account(&key).reserved = last;
            Ok(())
        })?;
        Ok(first..=last)
    }

    /// Commits a batch: all of it or nothing. `extra_pages` asks for more room than the estimate,
    /// after the estimate was wrong.
    pub fn commit(&mut self, batch: &Batch, extra_pages: u64) -> Result<(), SpoolError> {
        self.log.check(&self.connection)?;
        let now = self.now();
        self.prepare_key(&now)?;
        let rows = self.rows_in_memory(batch);
        let mut need = need_of(batch, &rows);
        need.rows += extra_pages;
        let room_for = self.make_room(need, &batch.settled)?;
        let (mut positions, mut evicted) = (Positions::new(), Vec::new());
        let clocks = self.clock_records(&now);
        let old = std::mem::take(&mut self.old);
        let drops = batch.entries.iter().any(|entry| matches!(entry, Entry::Dropped(_)))
            || batch.settled.iter().any(|settled| settled.outcome != Outcome::Acknowledged);
        let exclusive = drops || !old.is_empty() || room_for == RoomFor::RowsOnly;
        let mut reached = Vec::new();
        self.transact(now, exclusive, |tx| {
            tx.month.bytes = tx.month.bytes.saturating_add(batch.carried_bytes);
            for settled in &batch.settled {
                tx.settle(settled)?;
            }
            for old in &old {
                let (dropped, last) = eviction::drop_old(tx, old)?;
                evicted.extend(dropped);
                reached.push((old.topic, last));
            }
            for record in &clocks {
                tx.insert(&Row::of_record(record)?)?;
            }
            positions = entries::write(tx, &batch.entries, &rows, room_for)?;
            Ok(())
        })?;
        self.ages.dropped(&reached);
        if !batch.settled.is_empty() || !evicted.is_empty() {
            self.keys.rows_went();
        }
        eviction::tell(&evicted);
        for record in &clocks {
            let id = record.id();
            self.relations.said(id.key.clone(), id.seq, &now);
        }
        self.shared.recordings.settle(positions);
        self.give_back(batch);
        self.since_checkpoint_bytes += (need.rows + 4) * PAGE_BYTES;
        Ok(())
    }

    /// Whether a clock record is due though no frame came.
    pub fn has_clock_news(&self) -> bool {
        !self.clock_records(&self.now()).is_empty()
    }

    fn clock_records(&self, now: &Stamp) -> Vec<CameraRecord> {
        let stamped = self.cameras.iter().filter(|key| self.clock.stamps(&key.camera));
        let with_seq = stamped
            .map(|key| (key, self.accounts.get(key).map_or(0, |account| account.last_committed)));
        with_seq
            .filter(|(key, seq)| self.relations.due(key, *seq, now))
            .map(|(key, seq)| clock::record(key, self.shared.epoch, seq, *now))
            .collect()
    }

    fn give_back(&self, batch: &Batch) {
        if !batch.settled.is_empty() {
            let mut held = self.shared.leases.lock();
            batch.settled.iter().for_each(|settled| held.give_back(settled.id));
        }
    }

    /// Runs `work` in a transaction and takes over, after its commit, what it changed in memory.
    /// With `exclusive` the uplink can take no row meanwhile.
    pub(super) fn transact(
        &mut self,
        now: Stamp,
        exclusive: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        let changes = self.attempt(now, exclusive, work);
        match changes {
            Ok(changes) => {
                self.take_over(changes);
                Ok(())
            }
            Err(error) => {
                self.pictures.roll_back();
                Err(error)
            }
        }
    }

    fn attempt(
        &mut self,
        now: Stamp,
        exclusive: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), SpoolError>,
    ) -> Result<Changes, SpoolError> {
        let shared = Arc::clone(&self.shared);
        let mut held = exclusive.then(|| shared.leases.lock());
        let step = |step| move |source| SpoolError::Commit { step, source };
        let behaviour = TransactionBehavior::Immediate;
        let guard = rusqlite::Transaction::new_unchecked(&self.connection, behaviour)
            .map_err(step("begin a commit"))?;
        let mut month = self.month.clone();
        let month_is_known = month.turn(&now, &self.clock.zone());
        let mut tx = Transaction {
            connection: &guard,
            accounts: &self.accounts,
            open_gaps: &self.open_gaps,
            pictures: &mut self.pictures,
            freed: Vec::new(),
            freed_bytes: 0,
            held: held.as_deref_mut(),
            epoch: shared.epoch,
            now,
            changed: BTreeMap::new(),
            new_gaps: OpenGaps::new(),
            totals: self.totals,
            month,
            next_id: self.next_id,
            cipher: self.keys.cipher(),
            left_memory: Vec::new(),
        };
        work(&mut tx)?;
        tx.close()?;
        // A row never says where its picture lies before it lies there.
        tx.pictures.sync()?;
        let Transaction { changed, new_gaps, totals, month, next_id, freed, left_memory, .. } = tx;
        guard.commit().map_err(step("commit"))?;
        if !left_memory.is_empty() {
            match &mut held {
                Some(held) => left_memory.into_iter().for_each(|id| held.left_memory(id)),
                None => {
                    let mut held = shared.leases.lock();
                    left_memory.into_iter().for_each(|id| held.left_memory(id));
                }
            }
        }
        Ok(Changes {
            accounts: changed,
            gaps: new_gaps,
            totals,
            month,
            month_is_known,
            next_id,
            freed,
        })
    }

    fn take_over(&mut self, changes: Changes) {
        self.unsaved_bytes = self.shared.leases.lock().unsaved().bytes();
        let Changes { accounts, gaps, totals, month, month_is_known, next_id, freed } = changes;
        self.pictures.committed(&self.connection, &freed);
        self.shared.month_bytes.store(month.bytes, Ordering::SeqCst);
        self.shared.month_is_known.store(month_is_known, Ordering::SeqCst);
        self.month = month;
        self.shared.ledger.settle(&accounts);
        self.accounts.extend(accounts);
        self.open_gaps.extend(gaps);
        (self.totals, self.next_id) = (totals, next_id);
        self.shared.next_id.store(next_id, Ordering::SeqCst);
        if let Ok(space) = self.space(self.cap_pages()) {
            let free = (space.within + space.growth) * PAGE_BYTES;
            let used = self.shared.cap_bytes.saturating_sub(free);
            self.shared.used_bytes.store(used, Ordering::Relaxed);
            metrics::gauge!("picket_agent_spool_used_bytes").set(used as f64);
        }
        metrics::gauge!("picket_agent_uplink_month_bytes").set(self.month.bytes as f64);
        let bytes = totals.record_bytes + totals.picture_bytes;
        metrics::gauge!("picket_agent_spool_records").set(totals.records as f64);
        metrics::gauge!("picket_agent_spool_pictures").set(totals.pictures as f64);
        metrics::gauge!("picket_agent_spool_bytes").set(bytes as f64);
    }

    /// A clean end: the bound is what was really given out, so that no crash gap shows.
    pub fn close(&mut self) -> Result<(), SpoolError> {
        let ledger = Arc::clone(&self.shared.ledger);
        let cameras = self.cameras.clone();
        let now = self.now();
        self.transact(now, false, |tx| {
            for key in &cameras {
                let given_out = ledger.given_out(&key.camera);
                let account = tx.account(key);
                account.reserved = given_out.max(account.last_committed);
            }
            Ok(())
        })?;
        self.keys.close(&self.connection, &self.shared.state_dir);
        self.checkpoint("TRUNCATE").map(|_| ())
    }
}

/// What a transaction changes in memory, once it is committed.
struct Changes {
    accounts: BTreeMap<CameraKey, Account>,
    gaps: OpenGaps,
    totals: Totals,
    month: Month,
    month_is_known: bool,
    next_id: RowId,
    freed: Vec<Place>,
}

/// The epoch record tells the centre; this tells the operator. Equal after a clean end.
fn tell_what_a_crash_took(key: &CameraKey, before: &Account) {
    let bound = before.reserved.saturating_sub(before.last_committed);
    if bound == 0 {
        return;
    }
    metrics::counter!("picket_agent_spool_crash_lost_bound_total",
        "camera" => key.camera.to_string())
    .increment(bound);
    tracing::warn!(target: "spool", camera = %key.camera, epoch = %before.epoch,
        last_committed = before.last_committed, reserved = before.reserved, at_most = bound,
        "the agent did not end cleanly: frames that were not yet committed are lost");
}
