//! The writer's side of the database: opening it, and one commit after the other.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use picket_wire::observation::{EpochStart, PreviousEpoch, Stamp};
use picket_wire::{CameraKey, CameraName, CameraRecord, DeviceName, ObservationId, Topic};
use rusqlite::{Connection, TransactionBehavior};

use super::age::{Ages, Old};
use super::batch::{Batch, Entry, Offered, Outcome, Settled};
use super::books::{self, Account, Ledger};
use super::clock::{self, Clock, Relations};
use super::encryption::BatchKeys;
use super::error::SpoolError;
use super::eviction::Cursors;
use super::lease::Leases;
use super::lock::StateLock;
use super::log::LogLimit;
use super::month::Month;
use super::pictures::{Place, Segments};
use super::record::{Row, RowId, frames};
use super::recordings::{self, Positions, Recordings};
use super::room::Room;
use super::salvage::Salvage;
use super::schema::{self, PAGE_BYTES};
use super::settings::Settings;
use super::shared::Shared;
use super::totals::{self, Totals};
use super::transaction::{OpenGaps, Transaction};
use super::{epoch, eviction, quota};

/// The database, and what stands in it, as the writer has it in memory.
pub struct Store {
    pub(super) connection: Connection,
    pub(super) pictures: Segments,
    clock: Arc<dyn Clock>,
    cameras: Vec<CameraKey>,
    accounts: BTreeMap<CameraKey, Account>,
    open_gaps: OpenGaps,
    relations: Relations,
    totals: Totals,
    month: Month,
    next_id: RowId,
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
        let next_id = next_id.max(keys.first_free_id());
        keys.this_run_from(next_id);
        let keep_below = if salvage.is_some() { next_id } else { RowId::MIN };
        let pictures = Segments::open(&state_dir.join(schema::FILE), keep_below)?;
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

    /// Offers what waits in a batch to the uplink before it is committed.
    pub fn offer(&mut self, batch: &mut Batch) {
        let mut held = self.shared.leases.lock();
        for (id, row) in (self.next_id..).zip(batch.offer(self.next_id)) {
            held.offer(id, row);
            self.next_id = id + 1;
        }
        self.shared.next_id.store(self.next_id, Ordering::SeqCst);
    }

    /// Books what the uplink is done with; gives what is on the disk, to be deleted with the next commit.
    pub fn settle_unsaved(&self, batch: &mut Batch, settled: Vec<Settled>) -> Vec<Settled> {
        let mut held = self.shared.leases.lock();
        let mut on_disk = Vec::new();
        for settled in settled {
            match held.settle_unsaved(settled.id) {
                true => batch.settle_offered(settled),
                false => on_disk.push(settled),
            }
        }
        on_disk
    }

    /// Bytes of what was offered and is in memory alone.
    pub fn unsaved_bytes(&self) -> u64 {
        self.shared.leases.lock().unsaved().bytes()
    }

    /// Commits a batch: all of it or nothing. `extra_pages` asks for more room than the estimate,
    /// after the estimate was wrong.
    pub fn commit(&mut self, batch: &Batch, extra_pages: u64) -> Result<(), SpoolError> {
        self.log.check(&self.connection)?;
        let now = self.now();
        self.keys.prepare(now.mono_us, self.next_id).map_err(SpoolError::Encryption)?;
        self.make_room(batch, extra_pages)?;
        let gaps = batch.entries.iter().any(|entry| matches!(entry, Entry::Dropped(_)))
            || batch.entries.iter().any(|entry| matches!(entry, Entry::Offered(_)))
            || batch.settled.iter().any(|settled| settled.outcome != Outcome::Acknowledged);
        let (mut positions, mut evicted, mut bytes) = (Positions::new(), Vec::new(), 0);
        self.each_row(batch, |row| bytes += row.bytes());
        let clocks = self.clock_records(&now);
        let old = std::mem::take(&mut self.old);
        let exclusive = gaps || !old.is_empty();
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
            positions = write_entries(tx, &batch.entries)?;
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
        self.since_checkpoint_bytes += bytes + 4 * PAGE_BYTES;
        Ok(())
    }

    /// Room for the rows of a batch in the database, and for their pictures.
    fn pages_needed(&self, batch: &Batch) -> u64 {
        let small = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Dropped(_) => Some(1024),
            Entry::Offered(offered) => offered.refused.as_ref().map(|_| 1024),
            Entry::Row(_) | Entry::Position(..) => None,
        });
        let mut rows: Vec<u64> = small.collect();
        self.each_row(batch, |row| {
            let is_picture = row.topic == Topic::Frames;
            rows.push(if is_picture { row.headers.len() as u64 } else { row.bytes() });
        });
        quota::pages_for(rows.into_iter()) + self.picture_pages(batch)
    }

    fn picture_pages(&self, batch: &Batch) -> u64 {
        let mut pages = 0;
        self.each_row(batch, |row| {
            if row.topic == Topic::Frames {
                pages += quota::pages_for_picture(row.value.len() as u64);
            }
        });
        pages
    }

    /// The rows that a commit of the batch would write.
    fn each_row(&self, batch: &Batch, mut visit: impl FnMut(&Row)) {
        let held = self.shared.leases.lock();
        for entry in &batch.entries {
            match entry {
                Entry::Row(row) => visit(row),
                Entry::Offered(offered) => {
                    held.unsaved().get(offered.id).iter().for_each(|row| visit(row));
                }
                Entry::Dropped(_) | Entry::Position(..) => {}
            }
        }
    }

    /// Makes room for a batch where there is none: what is settled goes, then what must. A commit of its
    /// own, so that the space of pictures is free before others are written.
    fn make_room(&mut self, batch: &Batch, extra_pages: u64) -> Result<(), SpoolError> {
        let most_pages = self.most_pages()?;
        let needed = extra_pages + self.pages_needed(batch);
        if self.free_pages_on_disk(most_pages)? >= needed {
            return Ok(());
        }
        self.pictures.reclaim(&self.connection, needed)?;
        if self.free_pages(most_pages)? < needed {
            let (now, mut cursors, mut evicted) = (self.now(), self.cursors.clone(), Vec::new());
            self.transact(now, true, |tx| {
                for settled in &batch.settled {
                    tx.settle(settled)?;
                }
                evicted = eviction::make_room(tx, &mut cursors, most_pages, needed)?;
                Ok(())
            })?;
            self.cursors = cursors;
            self.keys.rows_went();
            eviction::tell(&evicted);
            self.pictures.reclaim(&self.connection, needed)?;
        }
        // Pages of the database have SQLite's own limit.
        let (pictures, free_pages) = (self.picture_pages(batch), self.free_pages(most_pages)?);
        if pictures > 0 && free_pages < pictures {
            return Err(SpoolError::NoRoom { needed_pages: pictures, free_pages });
        }
        Ok(())
    }

    /// Pages that can be written before `most_pages` are reached.
    pub(super) fn free_pages(&self, most_pages: u64) -> Result<u64, SpoolError> {
        quota::free_pages(&self.connection, most_pages, self.pictures.live_pages())
    }

    /// The same, where what is left of pictures that are gone still counts.
    fn free_pages_on_disk(&self, most_pages: u64) -> Result<u64, SpoolError> {
        quota::free_pages(&self.connection, most_pages, self.pictures.disk_pages())
    }

    /// Whether the spool is near its cap, as against a file system that is full. There, dropping rows
    /// makes no room: the database does not shrink.
    pub fn is_near_cap(&self) -> bool {
        let cap_pages = self.cap_pages();
        self.free_pages(cap_pages).is_ok_and(|free| free <= cap_pages / 8)
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
            held: held.as_deref_mut(),
            epoch: shared.epoch,
            now,
            changed: BTreeMap::new(),
            new_gaps: OpenGaps::new(),
            totals: self.totals,
            month,
            next_id: self.next_id,
            cipher: self.keys.cipher(),
            saved: Vec::new(),
        };
        work(&mut tx)?;
        tx.close()?;
        // A row never says where its picture lies before it lies there.
        tx.pictures.sync()?;
        let Transaction { changed, new_gaps, totals, month, next_id, freed, saved, .. } = tx;
        guard.commit().map_err(step("commit"))?;
        // Under the lock: who reads finds them in memory or on the disk, and never in both.
        if let Some(held) = &mut held {
            saved.into_iter().for_each(|id| held.saved(id));
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
        if let Ok(free) = self.free_pages(self.cap_pages()) {
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
                tx.account(&row.key).kept(row.kind, row.first, row.last);
            }
            Entry::Offered(offered) => write_offered(tx, offered)?,
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

/// What became of a row that was offered: it is on the disk from now on, or was settled before.
fn write_offered(tx: &mut Transaction<'_>, offered: &Offered) -> Result<(), SpoolError> {
    let Offered { id, ref key, kind, first, last, ref refused, .. } = *offered;
    if let Some(row) = tx.held.as_ref().and_then(|held| held.unsaved().get(id)) {
        tx.save(id, &row)?;
        tx.account(key).kept(kind, first, last);
        return Ok(());
    }
    match refused {
        None => {
            tx.account(key).kept(kind, first, last);
            tx.account(key).acknowledged(frames(kind, first, last));
        }
        Some(reason) => {
            let dropped = offered.dropped(tx.epoch, reason.clone(), tx.now);
            tx.account(key).lost_in_memory(&dropped);
            tx.gap(&dropped)?;
        }
    }
    Ok(())
}
