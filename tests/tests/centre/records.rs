//! Records as a device makes them.

use picket_wire::CameraRecord;
use picket_wire::observation::{
    ClockState, Detection, Detector, FrameFate, Gap, GapOf, Observation, Reason, Skip, Stamp,
};

pub fn stamp(seq: u64) -> Stamp {
    let captured_at = Some(format!("2026-01-02T03:04:{:02}Z", seq % 60).parse().unwrap());
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

pub fn seen(camera: &str, seq: u64) -> CameraRecord {
    let x = 100.0 + seq as f32;
    CameraRecord::Observation(Observation {
        id: format!("{camera}/{seq}").parse().unwrap(),
        stamp: stamp(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: Some(0.1),
        frame: FrameFate::Withheld,
        detections: vec![Detection {
            box_px: [x, 100.0, 80.0, 90.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: vec![[x, 110.0]],
            quality: None,
        }],
    })
}

pub fn skip(camera: &str, first: u64, last: u64) -> CameraRecord {
    CameraRecord::Skip(Skip {
        id: format!("{camera}/{first}").parse().unwrap(),
        stamp: stamp(first),
        first,
        last,
        reason: Reason::try_from("no-motion".to_owned()).unwrap(),
    })
}

pub fn gap(camera: &str, first: u64, last: u64) -> CameraRecord {
    CameraRecord::Gap(Gap {
        id: format!("{camera}/{first}").parse().unwrap(),
        stamp: stamp(last),
        first,
        last,
        count: last - first + 1,
        reason: Reason::SPOOL_FULL.into(),
        of: GapOf::Observations,
    })
}
