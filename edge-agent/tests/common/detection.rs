//! Pictures through the detector's thread, with the real model on the real clip.

use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use picket_edge_agent::capture::pipeline::{Next, Pipeline};
use picket_edge_agent::capture::planes::Planes;
use picket_edge_agent::capture::settings::{FileSource, Pace, Source};
use picket_edge_agent::capture::{Captured, Frame};
use picket_edge_agent::detect::{
    self, CameraInput, DetectSettings, MotionSettings, Observed, PrivacySettings, PublishSettings,
    ReportSettings,
};
use picket_wire::observation::{ClockState, Stamp};

use super::fetched;

/// The default model and runtime.
pub fn settings() -> DetectSettings {
    let runtime = format!("runtime/{}/libonnxruntime.so", std::env::consts::ARCH);
    DetectSettings::new(&fetched("models/yunet.onnx"), &fetched(&runtime))
}

/// All 120 pictures of the clip.
pub fn clip() -> Vec<Planes> {
    let file = FileSource { path: super::clip(), repeat: false, pace: Pace::None };
    let mut pipeline = Pipeline::open(&Source::File(file), None, None).unwrap();
    let mut pictures = Vec::new();
    loop {
        match pipeline.next(Duration::from_secs(5)).unwrap() {
            // A copy: the decoder has only so much memory to lend.
            Next::Picture(picture) => pictures.push(picture.planes.copied()),
            Next::Nothing => {}
            Next::End => return pictures,
        }
    }
}

/// A camera whose still frames are left out, all else by default.
pub fn camera(frames: Receiver<Captured>) -> CameraInput {
    CameraInput {
        name: "cam".parse().unwrap(),
        gated: true,
        motion: MotionSettings::default(),
        report: ReportSettings::default(),
        publish: PublishSettings::default(),
        privacy: PrivacySettings::default(),
        eyepiece: Default::default(),
        frames,
    }
}

/// What detection makes of these pictures, thirty a second.
pub fn look_at(
    pictures: &[Planes],
    change: impl FnOnce(CameraInput) -> CameraInput,
) -> Vec<Observed> {
    look_at_with(&settings(), pictures, change)
}

/// The same with these settings of the detector.
pub fn look_at_with(
    settings: &DetectSettings,
    pictures: &[Planes],
    change: impl FnOnce(CameraInput) -> CameraInput,
) -> Vec<Observed> {
    let (sender, receiver) = bounded(2);
    let (out, observed) = bounded(2);
    let handle = detect::spawn(settings, vec![change(camera(receiver))], out).unwrap();
    let pictures: Vec<Captured> = (1..).zip(pictures).map(captured).collect();
    let feeder = std::thread::spawn(move || {
        pictures.into_iter().for_each(|captured| sender.send(captured).unwrap());
    });
    let all = observed.iter().collect();
    feeder.join().unwrap();
    handle.join.join().unwrap();
    all
}

/// The picture as the frame of this `seq`.
pub fn captured((seq, planes): (u64, &Planes)) -> Captured {
    let stamp =
        Stamp { mono_us: seq * 1_000_000 / 30, captured_at: None, clock: ClockState::Unset };
    let id = format!("box/cam/1-00000001/{seq}").parse().unwrap();
    Captured::Frame(Frame { id, stamp, planes: planes.clone(), position: None })
}
