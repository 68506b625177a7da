//! Reading back what is stored and was not tracked, because something before it was missing.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt;
use metrics::counter;
use mongodb::bson::{Document, doc};
use picket_service::logging::chain;
use picket_wire::{CameraKey, EpochId};

use super::camera::Camera;
use super::provisional::StoredObservation;
use super::runs::Stretch;
use crate::metrics::UNREADABLE;
use crate::store::documents::collection;
use crate::store::{Store, StoreError, decode};
use crate::upsert;

/// Observations of a camera that are read back at a time, so that what is new does not wait for them.
const READ_BACK: i64 = 250;
/// Cameras of which that is done at a time.
const READ_BACK_CAMERAS: usize = 4;

/// What was read back of an epoch, in the order of `seq`.
pub struct ReadBack {
    /// Whose.
    pub key: CameraKey,
    /// Which epoch.
    pub epoch: EpochId,
    /// Which numbers.
    pub stretch: Stretch,
    /// What is stored of them.
    pub observations: Vec<StoredObservation>,
}

/// The cameras of a partition of which something stored is not tracked yet.
#[derive(Default)]
pub struct ReadingBack {
    behind: BTreeSet<CameraKey>,
    /// What was read back of some of them for this batch.
    at_hand: Vec<ReadBack>,
    /// Whose turn it was last.
    last: Option<CameraKey>,
}

impl ReadingBack {
    /// Whether something is to be read back.
    pub fn has_work(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Notes whether something of a camera is.
    pub fn look_at(&mut self, camera: &Camera) {
        match camera.behind() {
            Some(_) => self.behind.insert(camera.key.clone()),
            None => self.behind.remove(&camera.key),
        };
    }

    /// What was read back last.
    pub fn take(&mut self) -> Vec<ReadBack> {
        std::mem::take(&mut self.at_hand)
    }

    /// Reads a part of it.
    pub async fn load(
        &mut self,
        store: &Store,
        cameras: &HashMap<CameraKey, Camera>,
    ) -> Result<(), StoreError> {
        self.at_hand.clear();
        self.behind.retain(|key| cameras.get(key).is_some_and(|c| c.behind().is_some()));
        // In turns, from the one after the last.
        let (before, after): (Vec<&CameraKey>, Vec<&CameraKey>) =
            self.behind.iter().partition(|key| Some(*key) <= self.last.as_ref());
        let keys: Vec<CameraKey> =
            after.into_iter().chain(before).take(READ_BACK_CAMERAS).cloned().collect();
        for key in keys {
            let Some((epoch, stretch)) = cameras.get(&key).and_then(Camera::behind) else {
                continue;
            };
            let read_back = stored_within(store, &key, epoch, stretch).await?;
            self.at_hand.push(read_back);
            self.last = Some(key);
        }
        Ok(())
    }
}

async fn stored_within(
    store: &Store,
    key: &CameraKey,
    epoch: EpochId,
    stretch: Stretch,
) -> Result<ReadBack, StoreError> {
    let name = collection::OBSERVATIONS;
    let failed = |e| StoreError::Read { collection: name, source: Box::new(e) };
    let filter = doc! {
        "device": key.device.as_str(), "camera": key.camera.as_str(),
        "epoch": epoch.to_string(),
        "seq": { "$gt": upsert::signed(stretch.after), "$lte": upsert::signed(stretch.until) },
        "kind": "observation", "late": false,
    };
    let stored = store.database().collection::<Document>(name);
    let found = stored.find(filter).projection(StoredObservation::fields());
    let found = found.sort(doc! { "seq": 1 }).limit(READ_BACK).await.map_err(failed)?;
    let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
    let is_full = found.len() as i64 == READ_BACK;
    // After an edit by hand it may be a number of another type.
    let seq = |document: &Document| document.get_i64("seq").ok();
    let until = is_full.then(|| found.iter().rev().find_map(seq)).flatten();
    let read = |document| match decode(name, document) {
        Ok(observation) => Some(observation),
        // Whoever changed it: the others are tracked all the same.
        Err(error) => {
            counter!(UNREADABLE, "collection" => name).increment(1);
            tracing::warn!(error = chain(&error), "a stored observation is not tracked");
            None
        }
    };
    Ok(ReadBack {
        key: key.clone(),
        epoch,
        stretch: Stretch { until: until.map_or(stretch.until, i64::unsigned_abs), ..stretch },
        observations: found.into_iter().filter_map(read).collect(),
    })
}
