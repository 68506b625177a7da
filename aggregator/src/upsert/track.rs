//! Documents of tracks.

use picket_wire::observation::ClockState;
use picket_wire::{CameraKey, EpochId};
use serde::{Deserialize, Serialize};

use crate::store::documents::{Ingest, TrackCorrection, TrackDocument};
use crate::store::relations::Relations;
use crate::track::TrackSummary;
use crate::upsert::origin::{date, signed};
use crate::upsert::times::{Time, by_what_is_known};

/// Wall times of a track, by the device. The tracker knows monotonic time alone, on purpose; these are
/// kept beside it while the track lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallTimes {
    /// Which track.
    pub track: String,
    /// First seen, nanoseconds since 1970.
    pub first_ns: Option<i64>,
    /// Last seen, nanoseconds since 1970.
    pub last_ns: Option<i64>,
    /// State of the device's clock when it was first seen; null in the state of an older build.
    #[serde(default)]
    pub first_clock: Option<ClockState>,
    /// State of the device's clock when it was last seen.
    #[serde(default)]
    pub last_clock: Option<ClockState>,
}

/// First and last seen, as far as anybody knows.
pub struct TrackTimes {
    pub first: Time,
    pub last: Time,
}

impl TrackTimes {
    /// By the device, or by the relations of the epoch's clocks.
    pub fn told(
        device: (Option<i64>, Option<i64>),
        mono_us: (u64, u64),
        clocks: (Option<ClockState>, Option<ClockState>),
        relations: &Relations,
    ) -> Self {
        // Of a clock whose state nobody noted nothing is known to be wrong.
        let told = |ns, mono_us, clock: Option<ClockState>| {
            Time::told(ns, mono_us, clock.unwrap_or(ClockState::Synchronised), relations)
        };
        Self {
            first: told(device.0, mono_us.0, clocks.0),
            last: told(device.1, mono_us.1, clocks.1),
        }
    }

    /// What the device said, if any of it was corrected.
    pub fn correction(&self, device: (Option<i64>, Option<i64>)) -> Option<TrackCorrection> {
        let is_corrected = self.first.corrected.is_some() || self.last.corrected.is_some();
        is_corrected.then(|| TrackCorrection {
            device_first_seen: date(device.0),
            device_last_seen: date(device.1),
        })
    }
}

/// Above all numbers of provisional versions, and exact in JSON's numbers.
const FINAL: i64 = 1 << 52;
/// A state's number is below this.
const STATES: i64 = 4;

/// What a track is at the end of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackState {
    /// It may be seen again.
    Active,
    /// It will not.
    Ended,
    /// A provisional track that the final ones do not have.
    Replaced,
}

impl TrackState {
    /// As documents and messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ended => "ended",
            Self::Replaced => "replaced",
        }
    }
}

/// The number of a version of a track: of two versions the one with the higher number stands. It follows
/// from what the version says, not from when it was written, so that a batch which is read again, or a
/// former owner that wakes up, changes nothing. A final version is above all provisional ones.
pub fn revision(observations: u64, state: TrackState, is_final: bool) -> i64 {
    let base = if is_final { FINAL } else { 0 };
    let most = (FINAL - 1) / STATES;
    base + signed(observations).clamp(0, most) * STATES + state as i64
}

/// A track's summary as a document.
pub fn track(
    summary: &TrackSummary,
    key: &CameraKey,
    epoch: EpochId,
    wall: Option<&WallTimes>,
    is_final: bool,
    relations: &Relations,
    ingest: Ingest,
) -> TrackDocument {
    let device = (wall.and_then(|w| w.first_ns), wall.and_then(|w| w.last_ns));
    let clocks = (wall.and_then(|w| w.first_clock), wall.and_then(|w| w.last_clock));
    let mono_us = (summary.first_mono_us, summary.last_mono_us);
    let times = TrackTimes::told(device, mono_us, clocks, relations);
    let states: Vec<ClockState> = [clocks.0, clocks.1].into_iter().flatten().collect();
    let word = |clock: Option<ClockState>| clock.map(|clock| clock.as_str().to_owned());
    let state = if summary.ended { TrackState::Ended } else { TrackState::Active };
    TrackDocument {
        id: summary.id.to_string(),
        device: key.device.to_string(),
        camera: key.camera.to_string(),
        epoch: epoch.to_string(),
        class: summary.class.clone(),
        first_seen: date(times.first.ns),
        first_mono_us: signed(summary.first_mono_us),
        last_seen: date(times.last.ns),
        last_mono_us: signed(summary.last_mono_us),
        first_clock: word(clocks.0),
        last_clock: word(clocks.1),
        corrected: times.correction(device),
        first_observation: summary.first_observation.clone(),
        last_observation: summary.last_observation.clone(),
        observations: signed(summary.observations),
        best_score: summary.best_score,
        last_box: summary.last_box_px,
        state: state.as_str().to_owned(),
        is_final,
        replaced_by: None,
        rev: revision(summary.observations, state, is_final),
        ingest: by_what_is_known(ingest, &states, relations),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order_of_progress_and_final_ones_above_all_others() {
        use TrackState::{Active, Ended, Replaced};
        let numbers = [
            revision(1, Active, false),
            revision(1, Ended, false),
            revision(2, Active, false),
            revision(u64::MAX, Ended, false),
            revision(0, Replaced, true),
            revision(1, Active, true),
            revision(1, Ended, true),
            revision(2, Active, true),
        ];
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(revision(u64::MAX, Replaced, true) < 1 << 53, "exact in JSON");
    }
}
