//! The writer's side of the database: opening it, and one commit after the other.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use picket_wire::observation::{EpochStart, PreviousEpoch, Stamp};
use picket_wire::{CameraKey, CameraName, CameraRecord, DeviceName, EpochId, ObservationId};
use rusqlite::{Connection, TransactionBehavior};

use super::age::{Ages, Old};
use super::batch::{Batch, Entry, Outcome};
use super::books::{self, Account, Ledger, unsigned};
use super::clock::{self, Clock, Relations};
use super::error::SpoolError;
use super::eviction::Cursors;
use super::lease::Leases;
use super::lock::StateLock;
use super::log::LogLimit;
use super::month::Month;
use super::record::{Row, RowId};
use super::recordings::{self, Positions, Recordings};
use super::room::Room;
use super::salvage::Salvage;
use super::schema::{self, PAGE_BYTES};
use super::settings::Settings;
use super::totals::{self, Totals};
use super::transaction::{OpenGaps, Transaction};
use super::{epoch, eviction, quota};

/// What the writer shows to the rest of the agent.
pub struct Shared {
    pub state_dir: PathBuf,
    pub device: DeviceName,
    pub cap_bytes: u64,
    pub epoch: EpochId,
    pub ledger: Arc<Ledger>,
    pub leases: Leases,
    pub recordings: Recordings,
    /// Rows of this run of the agent have this number or a higher one.
    pub first_id: RowId,
    /// Rows not yet committed will have this number or a higher one.
    pub next_id: AtomicI64,
    /// Of records and pictures: the first row that was salvaged since the uplink last asked, or
    /// `RowId::MAX`.
    pub salvaged: [AtomicI64; 2],
    /// Bytes in use, of `cap_bytes`.
    pub used_bytes: AtomicU64,
    /// Bytes that went over the link in this month.
    pub month_bytes: AtomicU64,
    /// Whether the clock tells which month this is.
    pub month_is_known: AtomicBool,
    /// Most bytes that may go in a month; the largest number where there is no budget.
    pub month_budget_bytes: AtomicU64,
    /// Rises with each turn of the writer: standing still means stuck.
    pub turns: AtomicU64,
}

impl Shared {
    /// Whether more went over the link in this month, or the last known one, than the budget allows.
    pub fn is_over_budget(&self) -> bool {
        let budget = self.month_budget_bytes.load(Ordering::SeqCst);
        self.month_bytes.load(Ordering::SeqCst) >= budget
    }

    /// Whether pictures are dropped for that: not as long as the month may be over.
    pub fn leaves_pictures_out(&self) -> bool {
        self.is_over_budget() && self.month_is_known.load(Ordering::SeqCst)
    }
}

/// The database, and what stands in it, as the writer has it in memory.
pub struct Store {
    connection: Connection,
    clock: Arc<dyn Clock>,
    cameras: Vec<CameraKey>,
    accounts: BTreeMap<CameraKey, Account>,
    open_gaps: OpenGaps,
    relations: Relations,
    totals: Totals,
    month: Month,
    next_id: RowId,
    log: LogLimit,
    salvage: Option<Salvage>,
    room: Room,
    cursors: Cursors,
    ages: Ages,
    /// Rows that are too old, to be dropped with the next commit.
    old: Vec<Old>,
    checkpoint_bytes: u64,
    since_checkpoint_bytes: u64,
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
        let connection = schema::open_for_writing(state_dir, settings)?;
        let (epoch_in_database, totals) = totals::load(&connection)?;
        let epoch = epoch::begin(state_dir, epoch_in_database)?;
        let salvage = Salvage::begin(&connection, state_dir, device, epoch)?;
        let month = Month::load(&connection)?;
        let accounts = books::load(&connection)?;
        let above_salvaged = salvage.as_ref().map_or(0, Salvage::first_free_id);
        let next_id = (totals::last_id(&connection)? + 1).max(above_salvaged);
        let shared = Arc::new(Shared {
            state_dir: state_dir.to_path_buf(),
            device: device.clone(),
            cap_bytes: settings.max_bytes,
            epoch,
            ledger: Arc::new(Ledger::new(device.clone(), cameras, accounts.clone())),
            leases: Leases::default(),
            recordings: Recordings::load(&connection)?,
            first_id: next_id,
            next_id: AtomicI64::new(next_id),
            salvaged: [const { AtomicI64::new(RowId::MAX) }; 2],
            used_bytes: AtomicU64::new(0),
            month_bytes: AtomicU64::new(month.bytes),
            month_is_known: AtomicBool::new(false),
            month_budget_bytes: AtomicU64::new(u64::MAX),
            turns: AtomicU64::new(0),
        });
        let key =
            |camera: &CameraName| CameraKey { device: device.clone(), camera: camera.clone() };
        let mut store = Self {
            connection,
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
            old: Vec::new(),
            checkpoint_bytes: settings.checkpoint_bytes,
            since_checkpoint_bytes: 0,
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
        let most_pages = self.most_pages()?;
        let needed = quota::pages_for(cameras.iter().map(|_| 1024));
        let mut cursors = self.cursors.clone();
        let mut evicted = Vec::new();
        self.transact(now, true, |tx| {
            evicted = eviction::make_room(tx, &mut cursors, most_pages, needed)?;
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
        self.cursors = cursors;
        eviction::tell(&evicted);
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
        let most_pages = self.most_pages()?;
        let needed = extra_pages + pages_needed(batch);
        let full = quota::free_pages(&self.connection, most_pages)? < needed;
        let gaps = batch.entries.iter().any(|entry| matches!(entry, Entry::Dropped(_)))
            || batch.settled.iter().any(|settled| settled.outcome != Outcome::Acknowledged);
        let mut positions = Positions::new();
        let mut evicted = Vec::new();
        let clocks = self.clock_records(&now);
        let mut cursors = self.cursors.clone();
        let old = std::mem::take(&mut self.old);
        let exclusive = full || gaps || !old.is_empty();
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
            if full {
                evicted.extend(eviction::make_room(tx, &mut cursors, most_pages, needed)?);
            }
            for record in &clocks {
                tx.insert(&Row::of_record(record)?)?;
            }
            positions = write_entries(tx, &batch.entries)?;
            Ok(())
        })?;
        self.cursors = cursors;
        self.ages.dropped(&reached);
        eviction::tell(&evicted);
        for record in &clocks {
            let id = record.id();
            self.relations.said(id.key.clone(), id.seq, &now);
        }
        self.shared.recordings.settle(positions);
        self.give_back(batch);
        self.since_checkpoint_bytes += batch.bytes() + 4 * PAGE_BYTES;
        Ok(())
    }

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
        if quota::free_pages(&self.connection, self.most_pages()?)?
            < quota::pages_for(sizes.into_iter())
        {
            return Ok(None);
        }
        let (now, mut at_end) = (self.now(), false);
        self.transact(now, true, |tx| {
            at_end = salvage.write(tx)?;
            Ok(())
        })?;
        for (salvaged, first) in self.shared.salvaged.iter().zip(salvage.went_on()) {
            salvaged.fetch_min(first, Ordering::SeqCst);
        }
        // What came over is older than anything that was here.
        self.cursors = Cursors::default();
        self.since_checkpoint_bytes += bytes + 4 * PAGE_BYTES;
        Ok(Some(at_end))
    }

    /// Whether the database is near its cap, as against a file system that is full.
    pub fn is_near_cap(&self) -> bool {
        quota::is_near_cap(&self.connection, self.cap_pages()).unwrap_or(false)
    }

    /// Most pages that the database may ever take.
    pub fn cap_pages(&self) -> u64 {
        self.room.cap_pages()
    }

    /// Most pages that it may take now.
    fn most_pages(&self) -> Result<u64, SpoolError> {
        Ok(self.room.pages(quota::page_count(&self.connection)?))
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

    /// Looks whether there is space again on the file system, and which rows are too old.
    pub fn look_around(&mut self) {
        self.room.take_back();
        if !self.old.is_empty() {
            return;
        }
        let now = self.now();
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
    fn transact(
        &mut self,
        now: Stamp,
        exclusive: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
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
            held: held.as_deref_mut(),
            epoch: shared.epoch,
            now,
            changed: BTreeMap::new(),
            new_gaps: OpenGaps::new(),
            totals: self.totals,
            month,
            next_id: self.next_id,
        };
        work(&mut tx)?;
        tx.close()?;
        let Transaction { changed, new_gaps, totals, month, next_id, .. } = tx;
        guard.commit().map_err(step("commit"))?;
        self.shared.month_bytes.store(month.bytes, Ordering::SeqCst);
        self.shared.month_is_known.store(month_is_known, Ordering::SeqCst);
        self.month = month;
        self.take_over(changed, new_gaps, totals, next_id);
        Ok(())
    }

    fn take_over(
        &mut self,
        changed: BTreeMap<CameraKey, Account>,
        new_gaps: OpenGaps,
        totals: Totals,
        next_id: RowId,
    ) {
        self.shared.ledger.settle(&changed);
        self.accounts.extend(changed);
        self.open_gaps.extend(new_gaps);
        (self.totals, self.next_id) = (totals, next_id);
        self.shared.next_id.store(next_id, Ordering::SeqCst);
        if let Ok(free) = quota::free_pages(&self.connection, self.cap_pages()) {
            let used = self.shared.cap_bytes.saturating_sub(free * PAGE_BYTES);
            self.shared.used_bytes.store(used, Ordering::Relaxed);
            metrics::gauge!("picket_agent_spool_used_bytes").set(used as f64);
        }
        metrics::gauge!("picket_agent_uplink_month_bytes").set(self.month.bytes as f64);
        let bytes = totals.record_bytes + totals.picture_bytes;
        metrics::gauge!("picket_agent_spool_records").set(totals.records as f64);
        metrics::gauge!("picket_agent_spool_pictures").set(totals.pictures as f64);
        metrics::gauge!("picket_agent_spool_bytes").set(bytes as f64);
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
    fn checkpoint(&self, mode: &str) -> Result<u64, SpoolError> {
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
        self.checkpoint("TRUNCATE").map(|_| ())
    }
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

/// Writes what came in, in its order; the positions follow all that they stand for.
fn write_entries(
    tx: &mut Transaction<'_>,
    entries: &VecDeque<Entry>,
) -> Result<Positions, SpoolError> {
    let mut positions = Positions::new();
    for entry in entries {
        match entry {
            Entry::Row(row) => {
                tx.insert(row)?;
                tx.account(&row.key).kept(row);
            }
            Entry::Dropped(dropped) => {
                tx.account(&dropped.key).lost_in_memory(dropped);
                tx.gap(dropped)?;
            }
            Entry::Position(key, position) => {
                positions.insert((key.clone(), position.fingerprint.clone()), position.clone());
            }
        }
    }
    recordings::store(tx.connection, &positions)
        .map_err(|source| SpoolError::Commit { step: "write the recordings' positions", source })?;
    Ok(positions)
}

fn pages_needed(batch: &Batch) -> u64 {
    let rows = batch.entries.iter().filter_map(|entry| match entry {
        Entry::Row(row) => Some(row.bytes()),
        Entry::Dropped(_) => Some(1024),
        Entry::Position(..) => None,
    });
    quota::pages_for(rows)
}
