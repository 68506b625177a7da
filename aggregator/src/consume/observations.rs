//! Partitions of the observations topic: ledger, tracker, documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use metrics::counter;
use mongodb::bson::{self, DateTime, doc};
use picket_wire::header::{self, Kind, Lane};
use picket_wire::observation::{ClockState, GapOf, Reason};
use picket_wire::{CameraKey, CameraRecord, EpochId, Message, ObservationId};

use super::camera::{Camera, Changes, Known, OTHER_REASON, Verdict};
use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry, Stored, UNSTORABLE};
use super::provisional::Replaced;
use super::reading_back::{ReadBack, ReadingBack};
use super::returned::{Refused, Returned};
use super::runs::EpochRuns;
use super::stored_runs::{self, Tracking};
use crate::metrics::{DROPPED, TRACKERS_DISCARDED};
use crate::store::bulk::Update;
use crate::store::checkpoints::{
    CameraCheckpoint, Claim, RunsCheckpoint, camera_checkpoint_id, runs_checkpoint_id,
};
use crate::store::clocks::{ClockDocument, EpochClock};
use crate::store::documents::{CameraDocument, LedgerDocument, TrackDocument, collection};
use crate::store::ledger::{EpochLedger, ledger_id};
use crate::store::{Store, StoreError, encode};
use crate::track::Settings as TrackSettings;
use crate::upsert::{self, Origin, Retention, TrackState};

/// Epochs that a camera keeps in memory beside those in use.
const EPOCHS_IN_MEMORY: usize = 4;
/// How a partition is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// How long what is missing is waited for, milliseconds.
    pub horizon_ms: i64,
    /// Where the log ended when it was taken over: what comes from there on nobody has written before.
    pub reread_until: i64,
    /// The owner epoch since which it is this log.
    pub log_since: i64,
    /// Whether others are told of tracks.
    pub tells: bool,
}

/// The cameras of one partition.
pub struct Observations {
    store: Store,
    claim: Claim,
    tracking: Tracking,
    retention: Retention,
    horizon_ms: i64,
    cameras: HashMap<CameraKey, Camera>,
    /// Whether the cameras are in memory of which time alone may change something.
    has_resumed: bool,
    reading_back: ReadingBack,
    returned: Returned,
    /// A record of the log before this offset may have been written by a batch that did not end.
    reread_until: i64,
    /// The owner epoch since which it is this log.
    log_since: i64,
    /// Whether others are told of tracks.
    tells: bool,
}

impl Observations {
    /// No camera is in memory before the first batch.
    pub fn new(
        store: Store,
        claim: Claim,
        settings: TrackSettings,
        retention: Retention,
        reading: Reading,
    ) -> Result<Self, StoreError> {
        let Reading { horizon_ms, reread_until, log_since, tells } = reading;
        Ok(Self {
            store,
            claim,
            tracking: Tracking::new(settings)?,
            retention,
            horizon_ms,
            cameras: HashMap::new(),
            has_resumed: false,
            reading_back: ReadingBack::default(),
            reread_until,
            log_since,
            tells,
            returned: Returned::default(),
        })
    }

    /// Whether there is something to do without a record.
    pub fn has_work(&self) -> bool {
        !self.has_resumed || self.reading_back.has_work()
    }

    /// Brings into memory what the batch needs. Changes nothing that a repetition would miss.
    pub async fn load(&mut self, entries: &[Entry]) -> Result<HashMap<String, Known>, StoreError> {
        let keys = entries.iter().filter_map(camera_of).collect();
        self.load_cameras(keys).await?;
        let in_use = entries.iter().filter_map(camera_of).map(|key| (key, None));
        self.load_epochs(epochs_of(entries).into_iter().chain(in_use).collect()).await?;
        self.resume().await?;
        self.reading_back.load(&self.store, &self.cameras).await?;
        let camera = |entry: &Entry| self.cameras.get(&camera_of(entry)?);
        self.returned = Returned::load(&self.store, entries, camera).await?;
        let mut ids = BTreeSet::new();
        for (record, digest, offset) in records_with_digests(entries) {
            let camera = self.cameras.get(&record.id().key);
            let accounted = camera.is_some_and(|camera| camera.is_accounted(record));
            // Else what settles new ids cannot be there already, so most batches ask nothing.
            let may_be_there = accounted || offset < self.reread_until;
            if may_be_there || record.settles().is_none_or(|(first, last)| first != last) {
                ids.insert(upsert::document_id(record, digest));
            }
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let found = self
            .store
            .find_readable_by_ids::<Stored>(collection::OBSERVATIONS, &ids, Some(Stored::fields()))
            .await?;
        Ok(found.into_iter().map(Stored::known).collect())
    }

    /// Takes up those that wait for something, once.
    async fn resume(&mut self) -> Result<(), StoreError> {
        if self.has_resumed {
            return Ok(());
        }
        let waiting = self.store.waiting_cameras(&self.claim).await?;
        let keys: BTreeSet<CameraKey> = waiting.iter().filter_map(|k| k.parse().ok()).collect();
        self.load_cameras(keys.clone()).await?;
        self.load_epochs(keys.into_iter().map(|key| (key, None)).collect()).await?;
        self.has_resumed = true;
        Ok(())
    }

    async fn load_cameras(&mut self, keys: BTreeSet<CameraKey>) -> Result<(), StoreError> {
        let new: Vec<CameraKey> =
            keys.into_iter().filter(|key| !self.cameras.contains_key(key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = new.iter().map(ToString::to_string).collect();
        let checkpoints = self.store.camera_checkpoints(&ids).await?;
        let mut checkpoints: HashMap<String, CameraCheckpoint> =
            checkpoints.into_iter().map(|c| (c.id.clone(), c)).collect();
        let documents: Vec<CameraDocument> =
            self.store.find_by_ids(collection::CAMERAS, &ids, None).await?;
        let mut documents: HashMap<String, CameraDocument> =
            documents.into_iter().map(|d| (d.id.clone(), d)).collect();
        for (key, id) in new.into_iter().zip(ids) {
            let settings = self.tracking.settings.clone();
            let mut camera = Camera::new(key.clone(), settings, self.retention, self.horizon_ms);
            if let Some(document) = documents.remove(&id) {
                camera.accounts = document.accounts;
            }
            if let Some(checkpoint) = checkpoints.remove(&camera_checkpoint_id(&id)) {
                self.restore(&mut camera, checkpoint);
            }
            self.cameras.insert(key, camera);
        }
        Ok(())
    }

    fn restore(&self, camera: &mut Camera, checkpoint: CameraCheckpoint) {
        let same_log = checkpoint.topic == self.claim.topic
            && checkpoint.partition == self.claim.partition
            && checkpoint.owner_epoch >= self.log_since;
        if same_log {
            camera.next_offset = checkpoint.next_offset;
        }
        match bson::deserialize_from_bson(checkpoint.state) {
            Ok(place) => camera.place = place,
            Err(e) => tracing::warn!(camera = %camera.key, error = %e,
                "where the camera stands cannot be read: its next record says it anew"),
        }
    }

    /// The epochs that are named, and those that their cameras use whatever comes.
    async fn load_epochs(
        &mut self,
        epochs: BTreeSet<(CameraKey, Option<EpochId>)>,
    ) -> Result<(), StoreError> {
        let mut wanted: BTreeMap<String, (CameraKey, EpochId)> = BTreeMap::new();
        for (key, epoch) in epochs {
            let Some(camera) = self.cameras.get(&key) else { continue };
            let mut epochs: Vec<EpochId> =
                epoch.into_iter().chain(camera.epochs_in_use()).collect();
            epochs.retain(|epoch| !camera.ledgers.contains_key(epoch));
            wanted.extend(epochs.into_iter().map(|e| (ledger_id(&key, e), (key.clone(), e))));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = wanted.keys().cloned().collect();
        let runs_ids: Vec<_> = wanted.values().map(|(k, e)| runs_checkpoint_id(k, *e)).collect();
        let (ledgers, clocks, runs) = tokio::try_join!(
            self.store.ledgers(&ids),
            self.store.clocks(&ids),
            self.store.runs_checkpoints(&runs_ids)
        )?;
        let mut ledgers: HashMap<String, LedgerDocument> =
            ledgers.into_iter().map(|d| (d.id.clone(), d)).collect();
        let mut clocks: HashMap<String, ClockDocument> =
            clocks.into_iter().map(|d| (d.id.clone(), d)).collect();
        let mut runs: HashMap<String, RunsCheckpoint> =
            runs.into_iter().map(|d| (d.id.clone(), d)).collect();
        for (id, (key, epoch)) in wanted {
            let Some(camera) = self.cameras.get_mut(&key) else { continue };
            let ledger = ledgers.remove(&id).map(EpochLedger::from).unwrap_or_default();
            if let Some(checkpoint) = runs.remove(&runs_checkpoint_id(&key, epoch)) {
                let until = ledger.accounted.complete_until();
                let (runs, discarded) = stored_runs::restored(checkpoint, &self.tracking, until);
                if let Some(discarded) = discarded {
                    counter!(TRACKERS_DISCARDED, "why" => discarded.label).increment(1);
                    tracing::warn!(camera = %key, %epoch,
                        "its tracks end early, the tracker begins anew: {}", discarded.why);
                    camera.orphans.extend(discarded.tracks);
                }
                camera.runs.insert(epoch, runs);
            } else if ledger.accounted.last().is_some() {
                let mut runs = EpochRuns::new(self.tracking.settings.clone());
                runs.begin_anew(ledger.accounted.complete_until());
                camera.runs.insert(epoch, runs);
            }
            camera.ledgers.insert(epoch, ledger);
            camera
                .clocks
                .insert(epoch, clocks.remove(&id).map(EpochClock::from).unwrap_or_default());
            self.reading_back.look_at(camera);
        }
        Ok(())
    }

    /// Takes in what was read back, then the batch in the order of the log. `last_offset` is that of the
    /// last record before it.
    pub fn apply(
        &mut self,
        entries: Vec<Entry>,
        mut known: HashMap<String, Known>,
        mut last_offset: i64,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut changes = Changes::default();
        self.track_read_back(last_offset, &mut changes);
        let last = entries.last().map(|entry| entry.origin.clone());
        for entry in entries {
            last_offset = entry.origin.offset;
            self.take(entry, &mut known, &mut effects, &mut changes)?;
        }
        // The broker's time has passed for those too of which nothing comes.
        for camera in self.cameras.values_mut().filter(|c| !c.place.open.is_empty()) {
            if let Some(last) = &last {
                camera.give_up_overdue(last, &mut changes);
            }
        }
        self.end(last_offset, changes, &mut effects)?;
        Ok(effects)
    }

    fn track_read_back(&mut self, last_offset: i64, changes: &mut Changes) {
        for ReadBack { key, epoch, stretch, observations } in self.reading_back.take() {
            let Some(camera) = self.cameras.get_mut(&key) else { continue };
            let origin = Origin {
                topic: self.claim.topic.clone(),
                partition: self.claim.partition,
                offset: last_offset,
                broker_time_ms: camera.place.seen_ms,
                stored_at_ms: jiff::Timestamp::now().as_millisecond(),
            };
            camera.read_back((epoch, stretch), &observations, &origin, changes);
        }
    }

    fn take(
        &mut self,
        entry: Entry,
        known: &mut HashMap<String, Known>,
        effects: &mut Effects,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let (lane, record) = match &entry.message {
            Ok(Message::Record { lane, record }) => (*lane, record),
            Ok(_) => return Ok(()),
            Err(reject) => {
                let reject = reject.clone();
                if let Some(camera) = camera_of(&entry).and_then(|key| self.cameras.get_mut(&key)) {
                    let reason = reject.code();
                    match self.returned.is_refused(&entry, camera, reason, effects)? {
                        Refused::New => {
                            camera.refuse_unread(&entry.origin, reason);
                            if let Some(id) =
                                observation_of(&entry).filter(|id| id.key == camera.key)
                            {
                                camera.pass_aside(&id, &entry.origin, changes);
                            }
                        }
                        Refused::Again => {
                            effects.duplicates += 1;
                            return Ok(());
                        }
                    }
                }
                effects.dead_letters.push(DeadLetter::unreadable(entry.record, &reject));
                return Ok(());
            }
        };
        let Some(camera) = self.cameras.get_mut(&record.id().key) else { return Ok(()) };
        let id = upsert::document_id(record, &entry.digest);
        let verdict = camera.take(record, &entry.digest, &entry.origin, known.get(&id), changes);
        match verdict {
            Ok(Verdict::Stored { late }) => {
                self.returned.is_taken(&entry, camera, effects)?;
                effects.late += u64::from(late);
                count_drops(record);
                effects.captured_ms.extend(captured_live_ms(lane, record));
                known.insert(id, Known::new(&entry.digest, &entry.origin));
            }
            Ok(Verdict::Duplicate) => {
                self.returned.is_taken(&entry, camera, effects)?;
                effects.duplicates += 1;
            }
            Ok(Verdict::Conflict) => {
                // It is counted by now.
                let reason = picket_wire::dead_letter::IDENTITY_CONFLICT;
                match self.returned.is_refused(&entry, camera, reason, effects)? {
                    Refused::New => effects.dead_letters.push(entry.conflict(&id)),
                    Refused::Again => {
                        camera.take_back(Some(record.id().epoch), reason);
                        effects.duplicates += 1;
                    }
                }
            }
            Err(error) => match self.returned.is_refused(&entry, camera, UNSTORABLE, effects)? {
                Refused::New => {
                    camera.refuse_unread(&entry.origin, UNSTORABLE);
                    if let CameraRecord::Observation(observation) = record {
                        camera.pass_aside(&observation.id, &entry.origin, changes);
                    }
                    effects.dead_letters.push(entry.unstorable(&error));
                }
                Refused::Again => effects.duplicates += 1,
            },
        }
        Ok(())
    }

    /// What others are told of tracks.
    fn tell(&self, changes: &Changes, effects: &mut Effects) {
        let of = |id: &str| {
            let (observation, _) = id.rsplit_once('#')?;
            observation.parse::<ObservationId>().ok()
        };
        let tracks = changes.tracks.values().filter_map(|document| {
            let id = of(&document.id)?;
            // Its epoch is its observation's.
            upsert::tell_track(document, &id.key, id.epoch).ok()
        });
        effects.told.extend(tracks);
        let replaced = changes.replaced.iter().filter_map(|replaced| {
            let key = of(&replaced.track)?.key;
            let successor = replaced.successor.as_deref();
            upsert::tell_replaced(&replaced.track, successor, &key, replaced.epoch).ok()
        });
        effects.told.extend(replaced);
    }

    /// Turns changes into writes.
    fn end(
        &mut self,
        last_offset: i64,
        changes: Changes,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        if self.tells {
            self.tell(&changes, effects);
        }
        effects.inserts.push((collection::OBSERVATIONS, changes.records));
        let tracks = changes.tracks.values().map(|track| {
            let document = encode(collection::TRACKS, track)?;
            Ok(Update::keep_higher(&track.id, &TrackDocument::ORDER, document))
        });
        effects.writes.push((collection::TRACKS, tracks.collect::<Result<_, StoreError>>()?));
        let replaced = changes.replaced.iter().map(Replaced::update).collect();
        effects.writes.push((collection::TRACKS, replaced));
        let orphans = changes.orphans.iter().map(|track| Update {
            filter: doc! { "_id": track, "state": TrackState::Active.as_str() },
            change: doc! {
                "$set": { "state": TrackState::Ended.as_str() },
                // As `upsert::revision` counts.
                "$inc": { "rev": TrackState::Ended as i64 },
            }
            .into(),
            upsert: false,
        });
        effects.writes.push((collection::TRACKS, orphans.collect()));
        // After the tracks that take the place of those that stand there now.
        effects.writes.push((collection::OBSERVATIONS, changes.retracked));
        let mut clocks = Vec::new();
        for camera in self.cameras.values_mut() {
            if !camera.dirty {
                continue;
            }
            if self.tells {
                effects.told.extend(camera.tell_complete());
            }
            self.reading_back.look_at(camera);
            effects.end.cameras.push(camera_update(camera, last_offset)?);
            effects.end.checkpoints.push(checkpoint_update(camera, &self.claim, last_offset)?);
            for (epoch, runs) in camera.runs.iter_mut().filter(|(_, runs)| runs.dirty) {
                let update =
                    stored_runs::update(runs, &camera.key, *epoch, &self.claim, &self.tracking)?;
                effects.end.checkpoints.push(update);
                runs.dirty = false;
            }
            for (epoch, ledger) in camera.ledgers.iter_mut().filter(|(_, l)| l.dirty) {
                effects.end.ledger.push(ledger.update(&camera.key, *epoch)?);
                ledger.dirty = false;
            }
            for (epoch, clock) in &mut camera.clocks {
                clocks.extend(clock.take_update(&camera.key, *epoch)?);
            }
            camera.dirty = false;
            forget_epochs(camera);
        }
        // Last: what they say concerns what is written before them.
        effects.writes.push((collection::CLOCKS, clocks));
        Ok(())
    }
}

/// The epochs that a batch names, by camera.
fn epochs_of(entries: &[Entry]) -> BTreeSet<(CameraKey, Option<EpochId>)> {
    let mut epochs = BTreeSet::new();
    for (record, ..) in records_with_digests(entries) {
        let id = record.id();
        epochs.insert((id.key.clone(), Some(id.epoch)));
        if let CameraRecord::Epoch(start) = record {
            let previous = start.previous.as_ref().map(|previous| previous.epoch);
            epochs.insert((id.key.clone(), previous));
        }
    }
    let unread = entries.iter().filter(|entry| entry.message.is_err()).filter_map(observation_of);
    epochs.extend(unread.map(|id| (id.key, Some(id.epoch))));
    epochs
}

/// Which observation a record is that cannot be read, by its headers.
fn observation_of(entry: &Entry) -> Option<ObservationId> {
    let header = |name: &str| {
        let (_, value) = entry.record.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    };
    let is_observation = header(header::KIND)? == Kind::Observation.as_str();
    is_observation.then(|| header(header::ID)?.parse().ok()).flatten()
}

fn records_with_digests(entries: &[Entry]) -> impl Iterator<Item = (&CameraRecord, &str, i64)> {
    entries.iter().filter_map(|entry| match &entry.message {
        Ok(Message::Record { record, .. }) => {
            Some((record, entry.digest.as_str(), entry.origin.offset))
        }
        _ => None,
    })
}

/// Whose a record is: of one that cannot be read, its key says so, if even that can be read.
fn camera_of(entry: &Entry) -> Option<CameraKey> {
    match &entry.message {
        Ok(Message::Record { record, .. }) => Some(record.id().key.clone()),
        Ok(_) => None,
        Err(_) => std::str::from_utf8(entry.record.key.as_deref()?).ok()?.parse().ok(),
    }
}

fn count_drops(record: &CameraRecord) {
    if let CameraRecord::Gap(gap) = record {
        // Somebody wanted nothing captured: no loss.
        if [Reason::PAUSED, Reason::SCHEDULE].contains(&gap.reason.as_str()) {
            return;
        }
        let of = match gap.of {
            GapOf::Observations => "observations",
            GapOf::Frames | GapOf::Crops => "pictures",
        };
        let reason = label(gap.reason.as_str());
        counter!(DROPPED, "of" => of, "reason" => reason).increment(gap.count);
    }
}

/// A reason as a label: a device may send any word, and a metric keeps each label for ever.
fn label(reason: &str) -> &'static str {
    let known = [
        Reason::CRASH,
        Reason::DETECTOR_BUSY,
        Reason::DETECTOR_FAILED,
        Reason::SPOOL_FULL,
        Reason::SPOOL_EXPIRED,
        Reason::SPOOL_DAMAGED,
        Reason::SPOOL_KEY_LOST,
        Reason::SPOOL_FAILED,
        Reason::TOO_LARGE,
        Reason::REFUSED_BY_BROKER,
        Reason::ENCODE_FAILED,
        Reason::REDACT_FAILED,
    ];
    known.into_iter().find(|known| *known == reason).unwrap_or(OTHER_REASON)
}

fn captured_live_ms(lane: Lane, record: &CameraRecord) -> Option<i64> {
    let CameraRecord::Observation(observation) = record else { return None };
    let stamp = &observation.stamp;
    let trusted = lane == Lane::Live && stamp.clock == ClockState::Synchronised;
    stamp.captured_at.filter(|_| trusted).map(|at| at.as_millisecond())
}

/// Keeps the newest epochs, which are the ones that records still come from; another one is loaded
/// again when it is asked for.
fn forget_epochs(camera: &mut Camera) {
    let mut in_use = camera.epochs_in_use();
    in_use.extend(camera.behind().map(|(epoch, _)| epoch));
    let mut others: Vec<EpochId> =
        camera.ledgers.keys().filter(|epoch| !in_use.contains(epoch)).copied().collect();
    others.truncate(others.len().saturating_sub(EPOCHS_IN_MEMORY));
    for epoch in others {
        camera.ledgers.remove(&epoch);
        camera.clocks.remove(&epoch);
        camera.runs.remove(&epoch);
    }
}

fn camera_update(camera: &Camera, last_offset: i64) -> Result<Update, StoreError> {
    let newest = camera.place.newest.as_ref();
    let document = CameraDocument {
        id: camera.key.to_string(),
        device: camera.key.device.to_string(),
        camera: camera.key.camera.to_string(),
        newest_observation: newest.map(|newest| newest.id.clone()),
        newest_captured_at: upsert::date(camera.newest_ns()),
        epoch: camera.place.epoch.map(|epoch| epoch.to_string()),
        complete_until: upsert::signed(camera.complete_until()),
        waiting_since: camera.waiting_since_ms().map(DateTime::from_millis),
        accounts: camera.accounts.clone(),
        rev: last_offset,
    };
    Ok(Update::set(&document.id, encode(collection::CAMERAS, &document)?))
}

fn checkpoint_update(
    camera: &Camera,
    claim: &Claim,
    last_offset: i64,
) -> Result<Update, StoreError> {
    let encoded =
        |e| StoreError::Encode { collection: collection::CHECKPOINTS, source: Box::new(e) };
    let checkpoint = CameraCheckpoint {
        id: camera_checkpoint_id(&camera.key.to_string()),
        topic: claim.topic.clone(),
        partition: claim.partition,
        next_offset: last_offset.saturating_add(1),
        owner_epoch: claim.owner_epoch,
        waits: !camera.place.open.is_empty() || camera.behind().is_some(),
        state: bson::serialize_to_bson(&camera.place).map_err(encoded)?,
    };
    Ok(Update::set(&checkpoint.id, encode(collection::CHECKPOINTS, &checkpoint)?))
}
