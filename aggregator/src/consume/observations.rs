//! Partitions of the observations topic: ledger, tracker, documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use metrics::counter;
use mongodb::bson::{self, Bson, doc};
use picket_wire::header::Lane;
use picket_wire::observation::{ClockState, GapOf, Reason};
use picket_wire::{CameraKey, CameraRecord, EpochId, Message};
use serde::{Deserialize, Serialize};

use super::camera::{Camera, Changes, Known, OTHER_REASON, Place, Verdict};
use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry, Stored, UNSTORABLE};
use super::returned::{Refused, Returned};
use crate::metrics::{DROPPED, TRACKERS_DISCARDED};
use crate::store::bulk::Update;
use crate::store::checkpoints::{CameraCheckpoint, Claim, camera_checkpoint_id};
use crate::store::clocks::{ClockDocument, EpochClock};
use crate::store::documents::{CameraDocument, LedgerDocument, TrackDocument, collection};
use crate::store::ledger::{EpochLedger, ledger_id};
use crate::store::{Store, StoreError, encode};
use crate::track::{Settings as TrackSettings, TRACKER_VERSION, Tracker};
use crate::upsert::{self, Retention};

/// Epochs whose clean ledgers and clocks a camera keeps in memory.
const EPOCHS_IN_MEMORY: usize = 4;

/// A camera's state as its checkpoint holds it.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    place: Place,
    tracker: Bson,
}

/// The cameras of one partition.
pub struct Observations {
    store: Store,
    claim: Claim,
    settings: TrackSettings,
    settings_sha256: String,
    retention: Retention,
    cameras: HashMap<CameraKey, Camera>,
    returned: Returned,
}

impl Observations {
    /// No camera is in memory before its first record.
    pub fn new(
        store: Store,
        claim: Claim,
        settings: TrackSettings,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let text = encode(collection::CHECKPOINTS, &settings)?;
        let settings_sha256 = upsert::digest(text.to_string().as_bytes());
        let (cameras, returned) = (HashMap::new(), Returned::default());
        Ok(Self { store, claim, settings, settings_sha256, retention, cameras, returned })
    }

    /// Brings into memory what the batch needs. Changes nothing that a repetition would miss.
    pub async fn load(&mut self, entries: &[Entry]) -> Result<HashMap<String, Known>, StoreError> {
        self.load_cameras(entries).await?;
        self.load_epochs(entries).await?;
        let camera = |entry: &Entry| self.cameras.get(&camera_of(entry)?);
        self.returned = Returned::load(&self.store, entries, camera).await?;
        let mut ids = BTreeSet::new();
        for (record, digest) in records_with_digests(entries) {
            let camera = self.cameras.get(&record.id().key);
            let accounted = camera.is_some_and(|camera| camera.is_accounted(record));
            // What settles new ids cannot be there already, so most batches ask nothing.
            if accounted || record.settles().is_none_or(|(first, last)| first != last) {
                ids.insert(upsert::document_id(record, digest));
            }
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let found = self
            .store
            .find_by_ids::<Stored>(collection::OBSERVATIONS, &ids, Some(Stored::fields()))
            .await?;
        Ok(found.into_iter().map(Stored::known).collect())
    }

    async fn load_cameras(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let keys: BTreeSet<CameraKey> = entries.iter().filter_map(camera_of).collect();
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
            let mut camera = Camera::new(key.clone(), self.settings.clone(), self.retention);
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

    /// Takes over a stored state. A tracker's state of another version or other settings cannot go
    /// on: its tracks end, new ones begin, and that is counted.
    fn restore(&self, camera: &mut Camera, checkpoint: CameraCheckpoint) {
        let same_log =
            checkpoint.topic == self.claim.topic && checkpoint.partition == self.claim.partition;
        if same_log {
            camera.next_offset = checkpoint.next_offset;
        }
        let state: State = match bson::deserialize_from_bson(checkpoint.state) {
            Ok(state) => state,
            Err(e) => return discarded(camera, "unreadable", &e.to_string()),
        };
        camera.place = state.place;
        if checkpoint.tracker_version != i64::from(TRACKER_VERSION) {
            return discarded(camera, "version", "it is of another version of the tracker");
        }
        if checkpoint.tracker_settings != self.settings_sha256 {
            return discarded(camera, "settings", "the tracker's settings have changed");
        }
        match bson::deserialize_from_bson::<Tracker>(state.tracker) {
            Ok(tracker) => camera.tracker = tracker,
            Err(e) => discarded(camera, "unreadable", &e.to_string()),
        }
    }

    async fn load_epochs(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut wanted: BTreeMap<String, (CameraKey, EpochId)> = BTreeMap::new();
        for record in records(entries) {
            let key = &record.id().key;
            let Some(camera) = self.cameras.get(key) else { continue };
            let mut epochs = vec![record.id().epoch];
            epochs.extend(camera.epochs_in_use().into_iter().flatten());
            if let CameraRecord::Epoch(start) = record {
                epochs.extend(start.previous.as_ref().map(|previous| previous.epoch));
            }
            epochs.retain(|epoch| !camera.ledgers.contains_key(epoch));
            wanted.extend(epochs.into_iter().map(|e| (ledger_id(key, e), (key.clone(), e))));
        }
        let ids: Vec<_> = wanted.keys().cloned().collect();
        let (ledgers, clocks) =
            tokio::try_join!(self.store.ledgers(&ids), self.store.clocks(&ids))?;
        let mut ledgers: HashMap<String, LedgerDocument> =
            ledgers.into_iter().map(|d| (d.id.clone(), d)).collect();
        let mut clocks: HashMap<String, ClockDocument> =
            clocks.into_iter().map(|d| (d.id.clone(), d)).collect();
        for (id, (key, epoch)) in wanted {
            let ledger = ledgers.remove(&id).map(EpochLedger::from).unwrap_or_default();
            let clock = clocks.remove(&id).map(EpochClock::from).unwrap_or_default();
            if let Some(camera) = self.cameras.get_mut(&key) {
                camera.ledgers.insert(epoch, ledger);
                camera.clocks.insert(epoch, clock);
            }
        }
        Ok(())
    }

    /// Takes the batch in, in the order of the log.
    pub fn apply(
        &mut self,
        entries: Vec<Entry>,
        mut known: HashMap<String, Known>,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut changes = Changes::default();
        let mut last_offset = 0;
        for entry in entries {
            last_offset = entry.origin.offset;
            self.take(entry, &mut known, &mut effects, &mut changes)?;
        }
        self.end(last_offset, changes, &mut effects)?;
        Ok(effects)
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
                        Refused::New => camera.refuse_unread(&entry.origin, reason),
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
                    effects.dead_letters.push(entry.unstorable(&error));
                }
                Refused::Again => effects.duplicates += 1,
            },
        }
        Ok(())
    }

    /// Turns changes into writes.
    fn end(
        &mut self,
        last_offset: i64,
        changes: Changes,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let records = changes.records.into_iter().map(|document| {
            let id = document.get_str("_id").unwrap_or_default().to_owned();
            Update::insert_once(&id, document)
        });
        effects.writes.push((collection::OBSERVATIONS, records.collect()));
        let tracks = changes.tracks.values().map(|track| {
            let document = encode(collection::TRACKS, track)?;
            Ok(Update::keep_higher(&track.id, &TrackDocument::ORDER, document))
        });
        effects.writes.push((collection::TRACKS, tracks.collect::<Result<_, StoreError>>()?));
        let orphans = changes.orphans.iter().map(|track| Update {
            filter: doc! { "_id": track, "rev": { "$lte": last_offset } },
            change: doc! { "$set": { "state": "ended", "rev": last_offset } }.into(),
            upsert: false,
        });
        effects.writes.push((collection::TRACKS, orphans.collect()));
        let mut clocks = Vec::new();
        for camera in self.cameras.values_mut() {
            if !camera.dirty {
                continue;
            }
            effects.end.cameras.push(camera_update(camera, last_offset)?);
            let checkpoint =
                checkpoint_update(camera, &self.claim, &self.settings_sha256, last_offset)?;
            effects.end.checkpoints.push(checkpoint);
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

fn records(entries: &[Entry]) -> impl Iterator<Item = &CameraRecord> {
    records_with_digests(entries).map(|(record, _)| record)
}

fn records_with_digests(entries: &[Entry]) -> impl Iterator<Item = (&CameraRecord, &str)> {
    entries.iter().filter_map(|entry| match &entry.message {
        Ok(Message::Record { record, .. }) => Some((record, entry.digest.as_str())),
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

fn discarded(camera: &mut Camera, label: &'static str, why: &str) {
    camera.tracker_lost = true;
    counter!(TRACKERS_DISCARDED, "why" => label).increment(1);
    tracing::warn!(camera = %camera.key, "its tracks end early, the tracker begins anew: {why}");
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
    let in_use = camera.epochs_in_use();
    while camera.ledgers.len() > EPOCHS_IN_MEMORY {
        let oldest = camera.ledgers.keys().find(|epoch| !in_use.contains(&Some(**epoch))).copied();
        let Some(oldest) = oldest else { return };
        camera.ledgers.remove(&oldest);
        camera.clocks.remove(&oldest);
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
        epoch: camera.place.position.map(|at| at.epoch.to_string()),
        complete_until: i64::try_from(camera.complete_until()).unwrap_or(i64::MAX),
        accounts: camera.accounts.clone(),
        rev: last_offset,
    };
    Ok(Update::set(&document.id, encode(collection::CAMERAS, &document)?))
}

fn checkpoint_update(
    camera: &Camera,
    claim: &Claim,
    settings_sha256: &str,
    last_offset: i64,
) -> Result<Update, StoreError> {
    let encoded =
        |e| StoreError::Encode { collection: collection::CHECKPOINTS, source: Box::new(e) };
    let tracker = bson::serialize_to_bson(&camera.tracker).map_err(encoded)?;
    let state = State { place: camera.place.clone(), tracker };
    let checkpoint = CameraCheckpoint {
        id: camera_checkpoint_id(&camera.key.to_string()),
        topic: claim.topic.clone(),
        partition: claim.partition,
        next_offset: last_offset.saturating_add(1),
        owner_epoch: claim.owner_epoch,
        tracker_version: i64::from(TRACKER_VERSION),
        tracker_settings: settings_sha256.to_owned(),
        state: bson::serialize_to_bson(&state).map_err(encoded)?,
    };
    Ok(Update::set(&checkpoint.id, encode(collection::CHECKPOINTS, &checkpoint)?))
}
