//! Documents of tracks.

use picket_wire::{CameraKey, EpochId};
use serde::{Deserialize, Serialize};

use crate::store::documents::{Ingest, TrackDocument};
use crate::track::TrackSummary;
use crate::upsert::origin::{date, signed};

/// Wall times of a track. The tracker knows monotonic time alone, on purpose; these are kept beside
/// it while the track lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallTimes {
    /// Which track.
    pub track: String,
    /// First seen, nanoseconds since 1970.
    pub first_ns: Option<i64>,
    /// Last seen, nanoseconds since 1970.
    pub last_ns: Option<i64>,
}

/// A track's summary as a document.
pub fn track(
    summary: &TrackSummary,
    key: &CameraKey,
    epoch: EpochId,
    wall: Option<&WallTimes>,
    ingest: Ingest,
) -> TrackDocument {
    let state = if summary.ended { "ended" } else { "active" };
    TrackDocument {
        id: summary.id.to_string(),
        device: key.device.to_string(),
        camera: key.camera.to_string(),
        epoch: epoch.to_string(),
        class: summary.class.clone(),
        first_seen: date(wall.and_then(|w| w.first_ns)),
        first_mono_us: signed(summary.first_mono_us),
        last_seen: date(wall.and_then(|w| w.last_ns)),
        last_mono_us: signed(summary.last_mono_us),
        first_observation: summary.first_observation.clone(),
        last_observation: summary.last_observation.clone(),
        observations: signed(summary.observations),
        best_score: summary.best_score,
        last_box: summary.last_box_px,
        state: state.to_owned(),
        rev: ingest.offset,
        ingest,
    }
}
