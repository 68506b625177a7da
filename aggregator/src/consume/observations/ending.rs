//! Turning what a batch changed into writes.

use mongodb::bson::{self, DateTime, doc};
use picket_wire::{EpochId, ObservationId};

use super::super::camera::{Camera, Changes};
use super::super::effects::Effects;
use super::super::provisional::Replaced;
use super::super::stored_runs;
use super::Observations;
use crate::store::bulk::Update;
use crate::store::checkpoints::{CameraCheckpoint, Claim, camera_checkpoint_id};
use crate::store::documents::{CameraDocument, TrackDocument, collection};
use crate::store::{StoreError, encode};
use crate::upsert::{self, TrackState};

/// Epochs that a camera keeps in memory beside those in use.
const EPOCHS_IN_MEMORY: usize = 4;

impl Observations {
    /// Turns changes into writes.
    pub(super) fn end(
        &mut self,
        last_offset: i64,
        changes: Changes,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        if self.reading.tells {
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
            if self.reading.tells {
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
        clock_ahead_ms: camera.place.clock_ahead_ms,
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
