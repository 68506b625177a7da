//! What the centre's tracks must be: those of a tracker that is given the stored observations of each
//! epoch in their order, however they came.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::doc;
use picket_aggregator::store::documents::{CameraDocument, ObservationDocument, TrackDocument};
use picket_aggregator::track::{Detection, ObservationRef, Settings, TrackSummary, Tracker};

/// In what the tracks of these devices differ, in words; nothing if they are as they must be.
pub async fn wrong_tracks(database: &Database, devices: &[&str]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let newest = newest_epochs(database, devices).await?;
    let of_these = doc! {
        "device": { "$in": devices }, "kind": "observation", "late": false,
    };
    let observations = database.collection::<ObservationDocument>("observations");
    let in_order = doc! { "device": 1, "camera": 1, "epoch": 1, "seq": 1 };
    let mut found = observations.find(of_these).sort(in_order).await?;
    let (mut epoch, mut tracker) = (String::new(), Tracker::new(Settings::default()));
    let mut tracks: BTreeMap<String, TrackSummary> = BTreeMap::new();
    while let Some(observation) = found.try_next().await? {
        let (its_epoch, _) = observation.id.rsplit_once('/').context("an id without /")?;
        if epoch != its_epoch {
            let before = std::mem::replace(&mut tracker, Tracker::new(Settings::default()));
            end(before, &epoch, &newest, &mut tracks);
            its_epoch.clone_into(&mut epoch);
        }
        let detections: Vec<_> = observation
            .detections
            .iter()
            .map(|d| Detection { box_px: d.box_px, score: d.score, class: &d.class })
            .collect();
        let this = ObservationRef { id: &observation.id };
        let outcome = tracker.observe(this, observation.mono_us.unsigned_abs(), &detections);
        if !observation.is_final {
            wrong.push(format!("{} is not final", observation.id));
        }
        for (index, track) in outcome.assigned.iter().enumerate() {
            let stored = observation.detections[index].track.as_deref();
            if stored != track.as_ref().map(|track| track.as_str()) {
                wrong.push(format!("{}: {index} has {stored:?}, not {track:?}", observation.id));
            }
        }
        for summary in outcome.updated.into_iter().chain(outcome.ended) {
            tracks.insert(summary.id.to_string(), summary);
        }
    }
    end(tracker, &epoch, &newest, &mut tracks);
    let of_these = doc! { "device": { "$in": devices }, "state": { "$ne": "replaced" } };
    let mut found = database.collection::<TrackDocument>("tracks").find(of_these).await?;
    while let Some(stored) = found.try_next().await? {
        match tracks.remove(&stored.id) {
            None => wrong.push(format!("{} should not be there: {stored:?}", stored.id)),
            Some(must) if !is_same(&stored, &must) => wrong.push(format!("{stored:?}: {must:?}")),
            Some(_) => {}
        }
    }
    wrong.extend(tracks.into_keys().map(|track| format!("{track} is missing")));
    Ok(wrong)
}

/// The epoch in which each camera stands, as `<device>/<camera>/<epoch>`.
async fn newest_epochs(database: &Database, devices: &[&str]) -> Result<BTreeSet<String>> {
    let cameras = database.collection::<CameraDocument>("cameras");
    let found = cameras.find(doc! { "device": { "$in": devices } }).await?;
    let found: Vec<CameraDocument> = found.try_collect().await?;
    let newest = |c: &CameraDocument| Some(format!("{}/{}", c.id, c.epoch.as_ref()?));
    Ok(found.iter().filter_map(newest).collect())
}

/// Tracks end with their epoch, unless that still goes on.
fn end(
    mut tracker: Tracker,
    epoch: &str,
    newest: &BTreeSet<String>,
    tracks: &mut BTreeMap<String, TrackSummary>,
) {
    if !newest.contains(epoch) {
        let ended = tracker.finish().into_iter();
        tracks.extend(ended.map(|summary| (summary.id.to_string(), summary)));
    }
}

fn is_same(stored: &TrackDocument, must: &TrackSummary) -> bool {
    stored.is_final
        && (stored.state == "ended") == must.ended
        && stored.observations.unsigned_abs() == must.observations
        && stored.first_observation == must.first_observation
        && stored.last_observation == must.last_observation
        && stored.best_score.to_bits() == must.best_score.to_bits()
        && stored.last_box == must.last_box_px
}
