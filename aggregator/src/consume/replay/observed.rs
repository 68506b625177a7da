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
    if is_wanted {
        report.differs(contents(&other, &frame));
    }
    Ok(Some(walk.observe(&frame, broker_ms, is_wanted)))
}

/// In what an observation that is stored differs from the one in the log.
fn contents(stored: &Frame, logged: &Frame) -> Vec<Difference> {
    let is_same = (stored.mono_us, stored.captured_ns) == (logged.mono_us, logged.captured_ns)
        && stored.clock == logged.clock
        && stored.detections == logged.detections;
    if is_same {
        return Vec::new();
    }
    let time = |ns: Option<i64>| ns.map_or_else(|| "none".to_owned(), |ns| format!("{ns} ns"));
    let fields = [
        ("mono_us", [stored, logged].map(|frame| format!("{} us", frame.mono_us))),
        ("captured_ns", [stored, logged].map(|frame| time(frame.captured_ns))),
        ("clock", [stored, logged].map(|frame| format!("{:?}", frame.clock))),
        ("detections", [stored, logged].map(|frame| format!("{:?}", frame.detections))),
    ];
    let differing = fields.into_iter().filter(|(_, [is, must])| is != must);
    let difference = |(field, [is, must]): (&str, [String; 2])| Difference {
        of: "observation",
        id: stored.id.to_owned(),
        field: field.to_owned(),
        stored: is,
        replayed: format!("{must} in the log"),
    };
    differing.map(difference).collect()
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

#[cfg(test)]
mod tests {
    use picket_wire::observation::ClockState;

    use super::*;
    use crate::track::Detection;

    #[test]
    fn boxes_times_and_clocks_are_compared_with_what_the_log_holds() {
        let class = "face";
        let found = [Detection { box_px: [1.0, 2.0, 30.0, 40.0], score: 0.9, class }];
        let logged = || Frame {
            id: "gate/north/1-00000001/1",
            seq: 1,
            mono_us: 100,
            captured_ns: Some(5),
            clock: ClockState::Synchronised,
            detections: &found,
        };
        assert_eq!(contents(&logged(), &logged()), []);
        for (field, stored) in [
            ("mono_us", Frame { mono_us: 101, ..logged() }),
            ("captured_ns", Frame { captured_ns: None, ..logged() }),
            ("captured_ns", Frame { captured_ns: Some(6), ..logged() }),
            ("clock", Frame { clock: ClockState::Unset, ..logged() }),
            ("detections", Frame { detections: &[], ..logged() }),
        ] {
            let told = contents(&stored, &logged());
            let fields: Vec<_> = told.iter().map(|difference| difference.field.as_str()).collect();
            assert_eq!(fields, [field], "{told:?}");
        }
    }
}
