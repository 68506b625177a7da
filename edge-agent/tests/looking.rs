//! Which frames detection looks at and what it makes of them, with the real model on the real clip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use crossbeam_channel::bounded;
use picket_edge_agent::capture::pipeline::{Next, Pipeline};
use picket_edge_agent::capture::planes::{Matrix, Planes, Range};
use picket_edge_agent::capture::settings::{FileSource, Pace, Source};
use picket_edge_agent::capture::{Captured, Frame};
use picket_edge_agent::detect::{
    self, CameraInput, DetectSettings, MotionSettings, Observed, PublishSettings,
};
use picket_wire::observation::{ClockState, Observation, Reason, Skip, Stamp};

fn settings() -> DetectSettings {
    let runtime = format!("runtime/{}/libonnxruntime.so", std::env::consts::ARCH);
    DetectSettings::new(&common::fetched("models/yunet.onnx"), &common::fetched(&runtime))
}

/// All 120 pictures of the clip.
fn clip() -> Vec<Planes> {
    let file = FileSource { path: common::clip(), repeat: false, pace: Pace::None };
    let mut pipeline = Pipeline::open(&Source::File(file), None, None).unwrap();
    let mut pictures = Vec::new();
    loop {
        match pipeline.next(Duration::from_secs(5)).unwrap() {
            // A copy: the decoder has only so much memory to lend.
            Next::Picture(picture) => pictures.push(copy(&picture.planes)),
            Next::Nothing => {}
            Next::End => return pictures,
        }
    }
}

fn copy(planes: &Planes) -> Planes {
    let copies = [planes.y(), planes.u(), planes.v()].map(|p| (p.data.to_vec(), p.stride));
    let (matrix, range) = (planes.matrix(), planes.range());
    Planes::from_vecs(planes.width(), planes.height(), copies, matrix, range).unwrap()
}

fn grey(level: u8) -> Planes {
    let planes =
        [(vec![level; 176 * 144], 176), (vec![128; 88 * 72], 88), (vec![128; 88 * 72], 88)];
    Planes::from_vecs(176, 144, planes, Matrix::Bt601, Range::Limited).unwrap()
}

fn camera(frames: crossbeam_channel::Receiver<Captured>) -> CameraInput {
    CameraInput {
        name: "cam".parse().unwrap(),
        gated: true,
        motion: MotionSettings::default(),
        publish: PublishSettings::default(),
        frames,
    }
}

/// What detection makes of these pictures, thirty a second.
fn look_at(pictures: &[Planes], change: impl FnOnce(CameraInput) -> CameraInput) -> Vec<Observed> {
    let (sender, receiver) = bounded(2);
    let (out, observed) = bounded(2);
    let handle = detect::spawn(&settings(), vec![change(camera(receiver))], out).unwrap();
    let pictures: Vec<Captured> = (1..).zip(pictures).map(captured).collect();
    let feeder = std::thread::spawn(move || {
        pictures.into_iter().for_each(|captured| sender.send(captured).unwrap());
    });
    let all = observed.iter().collect();
    feeder.join().unwrap();
    handle.join.join().unwrap();
    all
}

fn captured((seq, planes): (u64, &Planes)) -> Captured {
    let stamp =
        Stamp { mono_us: seq * 1_000_000 / 30, captured_at: None, clock: ClockState::Unset };
    let id = format!("box/cam/1-00000001/{seq}").parse().unwrap();
    Captured::Frame(Frame { id, stamp, planes: planes.clone(), position: None })
}

fn observations(all: &[Observed]) -> Vec<&Observation> {
    all.iter()
        .filter_map(|observed| match observed {
            Observed::Observation { observation, .. } => Some(observation),
            _ => None,
        })
        .collect()
}

fn skips(all: &[Observed]) -> Vec<&Skip> {
    all.iter()
        .filter_map(|observed| match observed {
            Observed::Skipped(skip) => Some(skip),
            _ => None,
        })
        .collect()
}

/// Each `seq` once and in order, from 1.
fn assert_whole(all: &[Observed], frames: u64) {
    let seqs: Vec<u64> = all
        .iter()
        .flat_map(|observed| match observed {
            Observed::Observation { observation, .. } => observation.id.seq..=observation.id.seq,
            Observed::Skipped(skip) => skip.first..=skip.last,
            Observed::Ended { .. } => panic!("ended"),
        })
        .collect();
    assert_eq!(seqs, (1..=frames).collect::<Vec<_>>());
}

#[test]
fn no_face_is_lost_to_the_gate_neither_a_moving_nor_a_still_one() {
    // Four seconds of nothing, the clip, and four seconds of its last picture.
    let clip = clip();
    let still = clip.last().unwrap().clone();
    let pictures: Vec<Planes> = std::iter::repeat_n(grey(90), 120)
        .chain(clip)
        .chain(std::iter::repeat_n(still, 120))
        .collect();
    let gated = look_at(&pictures, |camera| camera);
    let all = look_at(&pictures, |camera| CameraInput { gated: false, ..camera });
    assert_whole(&gated, 360);
    assert_whole(&all, 360);
    let found = |all: &[Observed]| {
        let observations = observations(all).into_iter();
        let found = observations.filter(|observation| !observation.detections.is_empty());
        found.map(|o| (o.id.seq, o.detections.clone())).collect::<Vec<_>>()
    };
    assert_eq!(found(&gated).len(), 240);
    assert_eq!(found(&gated), found(&all));
    let passed: u64 = skips(&gated).iter().map(|skip| skip.last - skip.first + 1).sum();
    // Of the empty scene: the first three seconds are looked at, as after any beginning.
    assert_eq!((observations(&gated).len() as u64 + passed, passed >= 25), (360, true));
    assert!(skips(&gated).iter().all(|skip| skip.reason == Reason::NO_MOTION.into()));
    assert!(observations(&gated).iter().all(|o| o.motion_score.is_some() && o.check().is_ok()));
    assert!(observations(&all).iter().all(|o| o.motion_score.is_none()));
}

#[test]
fn a_still_scene_costs_one_look_a_second_and_one_skip_between_two_looks() {
    let motion = MotionSettings { keep_looking_ms: 0, ..MotionSettings::default() };
    let all = look_at(&vec![grey(90); 300], |camera| CameraInput { motion, ..camera });
    assert_whole(&all, 300);
    assert_eq!((observations(&all).len(), skips(&all).len()), (10, 10));
}

#[test]
fn the_run_of_a_camera_that_falls_silent_is_handed_on_after_a_second() {
    let (sender, receiver) = bounded(2);
    let (out, observed) = bounded(8);
    let motion = MotionSettings { keep_looking_ms: 0, ..MotionSettings::default() };
    let input = CameraInput { motion, ..camera(receiver) };
    let handle = detect::spawn(&settings(), vec![input], out).unwrap();
    for seq in 1..=3 {
        sender.send(captured((seq, &grey(90)))).unwrap();
    }
    let next = || observed.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(matches!(next(), Observed::Observation { .. }));
    let Observed::Skipped(skip) = next() else { panic!("no run") };
    assert_eq!((skip.first, skip.last), (2, 3));
    drop(sender);
    handle.join.join().unwrap();
}
