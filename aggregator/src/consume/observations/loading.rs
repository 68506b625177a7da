//! Bringing into memory what a batch needs: cameras, their epochs, and what is stored of its records.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use metrics::counter;
use mongodb::bson;
use picket_wire::{CameraKey, CameraRecord, EpochId, Message};

use super::super::camera::{Camera, Known};
use super::super::effects::{Entry, Stored};
use super::super::returned::Returned;
use super::super::runs::EpochRuns;
use super::super::stored_runs;
use super::{Observations, camera_of, observation_of};
use crate::metrics::TRACKERS_DISCARDED;
use crate::store::StoreError;
use crate::store::checkpoints::{
    CameraCheckpoint, RunsCheckpoint, camera_checkpoint_id, runs_checkpoint_id,
};
use crate::store::clocks::{ClockDocument, EpochClock};
use crate::store::documents::{CameraDocument, LedgerDocument, collection};
use crate::store::ledger::{EpochLedger, ledger_id};
use crate::upsert;

impl Observations {
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
            let may_be_there = accounted || offset < self.reading.reread_until;
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
            let mut camera =
                Camera::new(key.clone(), settings, self.retention, self.reading.horizon_ms);
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
            && checkpoint.owner_epoch >= self.reading.log_since;
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

fn records_with_digests(entries: &[Entry]) -> impl Iterator<Item = (&CameraRecord, &str, i64)> {
    entries.iter().filter_map(|entry| match &entry.message {
        Ok(Message::Record { record, .. }) => {
            Some((record, entry.digest.as_str(), entry.origin.offset))
        }
        _ => None,
    })
}
