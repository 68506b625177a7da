//! What others are told of tracks, as messages.

use jiff::Timestamp;
use mongodb::bson::DateTime;
use picket_wire::message::EncodeError;
use picket_wire::track::{Change, Complete, Summary, Track};
use picket_wire::{CameraKey, EpochId, Outgoing};

use super::track::{TrackState, revision};
use crate::store::documents::TrackDocument;

/// A version of a track, as its document has it.
pub fn tell_track(
    document: &TrackDocument,
    camera: &CameraKey,
    epoch: EpochId,
) -> Result<Outgoing, EncodeError> {
    let has_ended = document.state == TrackState::Ended.as_str();
    let change = match document.observations {
        _ if has_ended => Change::End,
        1 => Change::Begin,
        _ => Change::Update,
    };
    let unsigned = |n: i64| u64::try_from(n).unwrap_or_default();
    let summary = Summary {
        class: document.class.clone(),
        first_seen: timestamp(document.first_seen),
        last_seen: timestamp(document.last_seen),
        first_mono_us: unsigned(document.first_mono_us),
        last_mono_us: unsigned(document.last_mono_us),
        last_observation: document.last_observation.clone(),
        observations: unsigned(document.observations),
        best_score: document.best_score,
        last_box: document.last_box,
    };
    let track = Track {
        track: document.id.clone(),
        camera: camera.clone(),
        epoch,
        change,
        rev: document.rev,
        is_final: document.is_final,
        replaced_by: None,
        summary: Some(summary),
    };
    track.encode()
}

/// That a provisional track is followed by a final one, or by none.
pub fn tell_replaced(
    track: &str,
    successor: Option<&str>,
    camera: &CameraKey,
    epoch: EpochId,
) -> Result<Outgoing, EncodeError> {
    let track = Track {
        track: track.to_owned(),
        camera: camera.clone(),
        epoch,
        change: Change::Replaced,
        rev: revision(0, TrackState::Replaced, true),
        is_final: true,
        replaced_by: successor.map(str::to_owned),
        summary: None,
    };
    track.encode()
}

/// Up to where a camera is complete.
pub fn tell_complete(
    camera: &CameraKey,
    epoch: EpochId,
    complete_until: u64,
    waiting_since_ms: Option<i64>,
) -> Result<Outgoing, EncodeError> {
    let waiting_since = waiting_since_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Complete { camera: camera.clone(), epoch, complete_until, waiting_since }.encode()
}

fn timestamp(date: Option<DateTime>) -> Option<Timestamp> {
    Timestamp::from_millisecond(date?.timestamp_millis()).ok()
}
