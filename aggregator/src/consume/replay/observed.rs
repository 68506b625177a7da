//! An observation as it is stored beside one as it is tracked again.

use super::super::provisional::StoredObservation;
use super::super::runs::{Frame, detections};
use super::ReplayError;
use super::log::{Log, Place};
use super::report::{Difference, EpochReport};
use super::walk::{Step, Walk};

/// Tracks what the log holds of an observation, if it does.
pub fn from_log(
    log: &mut Log,
    (stored, place): (&StoredObservation, Option<&Place>),
    broker_ms: i64,
    is_wanted: bool,
    walk: &mut Walk,
    report: &mut EpochReport,
) -> Result<Option<Step>, ReplayError> {
    let id = stored.id();
    let record = match id.parse() {
        Ok(id) => log.take(&id, place)?,
        Err(_) => None,
    };
    let Some(record) = record else {
        walk.miss();
        report.cannot(stored.seq(), stored.seq(), format!("not in the log {}", log.extent()));
        return Ok(None);
    };
    let (logged, found) = (detections(&record), stored.detections());
    let (frame, other) = (Frame::of(&record, id, &logged), stored.frame(&found));
    if is_wanted && (frame.mono_us != other.mono_us || frame.detections != other.detections) {
        report.differs(vec![Difference {
            of: "observation",
            id: id.to_owned(),
            field: if frame.mono_us == other.mono_us { "detections" } else { "mono_us" }.to_owned(),
            stored: format!("{} us, {:?}", other.mono_us, other.detections),
            replayed: format!("{} us, {:?} in the log", frame.mono_us, frame.detections),
        }]);
    }
    Ok(Some(walk.observe(&frame, broker_ms, is_wanted)))
}

/// Compares the tracks of an observation's detections.
pub fn note(
    step: Option<Step>,
    stored: &StoredObservation,
    is_wanted: bool,
    report: &mut EpochReport,
) {
    let Some(Step::Tracked(tracks)) = step else { return };
    report.observations += 1;
    if !is_wanted {
        return;
    }
    report.observations_compared += 1;
    let difference = |field: String, stored_as: String, replayed: String| Difference {
        of: "observation",
        id: stored.id().to_owned(),
        field,
        stored: stored_as,
        replayed,
    };
    let mut differences = Vec::new();
    if !stored.is_final() {
        differences.push(difference("final".to_owned(), "false".to_owned(), "true".to_owned()));
    }
    let text = |track: Option<&str>| track.unwrap_or("none").to_owned();
    for (index, (is, must)) in stored.tracks().zip(&tracks).enumerate() {
        if is != must.as_deref() {
            let field = format!("detections.{index}.track");
            differences.push(difference(field, text(is), text(must.as_deref())));
        }
    }
    report.differs(differences);
}
