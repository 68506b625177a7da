//! Detection with the real model on the real runtime.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, bounded};
use picket_edge_agent::capture::planes::{Matrix, Planes, Range};
use picket_edge_agent::capture::{Captured, Frame, SourcePosition};
use picket_edge_agent::detect::command::{self, Arguments, FileDetections};
use picket_edge_agent::detect::jpeg::Encoder;
use picket_edge_agent::detect::privacy::Redactor;
use picket_edge_agent::detect::{
    self, CameraInput, DetectSettings, Detector, Observed, PrivacySettings, PublishPolicy,
    PublishSettings,
};
use picket_wire::ObservationId;
use picket_wire::observation::{ClockState, FrameFate, Reason, Skip, Stamp};

fn runtime() -> PathBuf {
    common::fetched(&format!("runtime/{}/libonnxruntime.so", std::env::consts::ARCH))
}

fn settings() -> DetectSettings {
    DetectSettings::new(&common::fetched("models/yunet.onnx"), &runtime())
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn the_face_in_the_clip_is_found_in_every_frame() {
    let detector = Detector::load(&settings()).unwrap();
    let mut file = FileDetections::open(detector, &common::clip()).unwrap();
    let mut frames = 0;
    while let Some(report) = file.next_frame().unwrap() {
        let [face] = report.detections.as_slice() else { panic!("{report:?}") };
        assert!(face.score > 0.7, "{report:?}");
        let [x, y, width, height] = face.box_px;
        assert!(x > 0.0 && y > 0.0 && x + width < 176.0 && y + height < 144.0, "{report:?}");
        assert!(
            face.landmarks
                .iter()
                .all(|[px, py]| { (x..x + width).contains(px) && (y..y + height).contains(py) })
        );
        frames += 1;
    }
    assert_eq!(frames, 120);
}

#[test]
fn a_box_is_that_of_the_independent_detector() {
    // OpenCV 4.12 FaceDetectorYN on the pixels of frame 0; tests/detector compares all of them.
    let reference = [63.572_163, 34.972_64, 48.141_945, 62.937_897];
    let detector = Detector::load(&settings()).unwrap();
    let mut file = FileDetections::open(detector, &common::clip()).unwrap();
    let face = file.next_frame().unwrap().unwrap().detections.remove(0);
    for (ours, theirs) in face.box_px.into_iter().zip(reference) {
        assert!((ours - theirs).abs() < 0.01, "{:?}", face.box_px);
    }
    assert!((face.score - 0.919_181).abs() < 1e-4);
}

#[test]
fn centerface_finds_the_same_face_in_every_frame() {
    let centerface = common::fetched("models/centerface.onnx");
    let yunet = Detector::load(&settings()).unwrap();
    let detector = Detector::load(&DetectSettings::new(&centerface, &runtime())).unwrap();
    assert_eq!(detector.identity().model_name, "centerface");
    let mut file = FileDetections::open(detector, &common::clip()).unwrap();
    let mut other = FileDetections::open(yunet, &common::clip()).unwrap();
    let mut frames = 0;
    while let Some(report) = file.next_frame().unwrap() {
        let yunet = other.next_frame().unwrap().unwrap();
        let ([face], [expected]) = (report.detections.as_slice(), yunet.detections.as_slice())
        else {
            panic!("{report:?}")
        };
        // Two networks: no point is a third of the face away, so none stands for another.
        for ([x, y], [ex, ey]) in face.landmarks.iter().zip(&expected.landmarks) {
            assert!((x - ex).hypot(y - ey) < 16.0, "{report:?} {expected:?}");
        }
        frames += 1;
    }
    assert_eq!(frames, 120);
}

#[test]
fn a_lower_score_gives_more_boxes_and_the_same_sure_ones() {
    let frame = common::first_picture();
    let mut detector = Detector::load(&settings()).unwrap();
    let sure = detector.detect(&frame).unwrap();
    let all = detector.detect_from(&frame, 0.01).unwrap();
    assert!(all.len() > sure.len(), "{all:?}");
    assert_eq!(all[..sure.len()], sure[..]);
    assert!(all[sure.len()..].iter().all(|weak| weak.score < settings().score_threshold));
}

#[test]
fn a_smaller_input_gives_boxes_in_pixels_of_the_frame() {
    let find = |input_width_px| {
        let detector = Detector::load(&DetectSettings { input_width_px, ..settings() }).unwrap();
        let mut file = FileDetections::open(detector, &common::clip()).unwrap();
        file.next_frame().unwrap().unwrap()
    };
    let (whole, small) = (find(320), find(96));
    assert_eq!((small.input_width, small.input_height), (96, 79));
    for (a, b) in whole.detections[0].box_px.into_iter().zip(small.detections[0].box_px) {
        assert!((a - b).abs() < 8.0, "{whole:?} {small:?}");
    }
}

#[test]
fn a_model_or_runtime_that_cannot_be_used_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let no_model = folder.path().join("no-model.onnx");
    std::fs::write(&no_model, b"no model").unwrap();
    let wrong = "0".repeat(64);
    let failing: [(DetectSettings, &[&str]); 4] = [
        (
            DetectSettings::new(Path::new("/nowhere/m.onnx"), &runtime()),
            &["detect.model", "/nowhere/m.onnx"],
        ),
        (DetectSettings::new(&no_model, &runtime()), &["detect.model", "no-model.onnx"]),
        (
            DetectSettings { model_sha256: Some(wrong.clone()), ..settings() },
            &["detect.model_sha256", "yunet.onnx", &wrong],
        ),
        (
            DetectSettings { runtime_library: "/nowhere/libonnxruntime.so".into(), ..settings() },
            &["detect.runtime_library", "/nowhere/libonnxruntime.so"],
        ),
    ];
    for (settings, words) in failing {
        let Err(error) = Detector::load(&settings) else { panic!("{settings:?} loads") };
        let error = chain(error);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    for (change, field) in [
        (DetectSettings { score_threshold: 0.0, ..settings() }, "detect.score_threshold"),
        (DetectSettings { nms_iou: f32::NAN, ..settings() }, "detect.nms_iou"),
        (DetectSettings { input_width_px: 0, ..settings() }, "detect.input_width_px"),
        (DetectSettings { model_sha256: Some("12".into()), ..settings() }, "detect.model_sha256"),
    ] {
        let error = change.check().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

fn id(camera: &str, seq: u64) -> ObservationId {
    format!("box/{camera}/1-00000001/{seq}").parse().unwrap()
}

fn stamp() -> Stamp {
    Stamp { mono_us: 5, captured_at: None, clock: ClockState::Unset }
}

fn frame(camera: &str, seq: u64, planes: &Planes) -> Captured {
    let position = SourcePosition { fingerprint: "f".into(), media_time_ns: seq, at_end: false };
    Captured::Frame(Frame {
        id: id(camera, seq),
        stamp: stamp(),
        planes: planes.clone(),
        position: Some(position),
    })
}

/// Every frame of a camera, published as by default.
fn input(camera: &str, frames: Receiver<Captured>) -> CameraInput {
    let name = camera.parse().unwrap();
    CameraInput { name, gated: false, ..common::detection::camera(frames) }
}

fn skip(camera: &str, first: u64, last: u64) -> Skip {
    let reason = Reason::from(Reason::DETECTOR_BUSY);
    Skip { id: id(camera, first), stamp: stamp(), first, last, reason }
}

fn uniform(width: u32, height: u32, [y, u, v]: [u8; 3], matrix: Matrix, range: Range) -> Planes {
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    let planes = [(vec![y; w * h], w), (vec![u; cw * ch], cw), (vec![v; cw * ch], cw)];
    Planes::from_vecs(width, height, planes, matrix, range).unwrap()
}

#[test]
fn each_number_goes_out_once_in_order_with_the_pictures_the_policy_asks_for() {
    let publish = |policy| PublishSettings {
        policy,
        width_px: Some(88),
        quality: 70,
        ..PublishSettings::default()
    };
    let cameras = [
        ("all", PublishPolicy::All, [true, true]),
        ("some", PublishPolicy::WithDetections, [true, false]),
        ("none", PublishPolicy::ObservationsOnly, [false, false]),
    ];
    let grey = uniform(176, 144, [128; 3], Matrix::Bt601, Range::Limited);
    let (mut inputs, face) = (Vec::new(), common::first_picture());
    for (camera, policy, _) in cameras {
        let (sender, receiver) = bounded(8);
        sender.send(frame(camera, 1, &face)).unwrap();
        sender.send(Captured::Skipped(skip(camera, 2, 9))).unwrap();
        sender.send(frame(camera, 10, &grey)).unwrap();
        let ended = Captured::Ended { camera: camera.parse().unwrap(), position: None };
        sender.send(ended).unwrap();
        inputs.push(CameraInput { publish: publish(policy), ..input(camera, receiver) });
    }
    let (out, observed) = bounded(1);
    let handle = detect::spawn(&settings(), inputs, out).unwrap();
    let all: Vec<Observed> = observed.iter().collect();
    handle.join.join().unwrap();

    assert_eq!(handle.identity.model_name, "yunet");
    assert_eq!(handle.identity.runtime_version, "1.23.2");
    for (camera, _, published) in cameras {
        let name = camera.parse().unwrap();
        let mine: Vec<&Observed> = all
            .iter()
            .filter(|observed| match observed {
                Observed::Observation { observation, .. } => observation.id.key.camera == name,
                Observed::Picture(picture) => picture.id.key.camera == name,
                Observed::Skipped(skip) => skip.id.key.camera == name,
                Observed::Missed { id, .. } => id.key.camera == name,
                Observed::Ended { camera, .. } => *camera == name,
            })
            .collect();
        let [first, Observed::Skipped(skipped), second, Observed::Ended { .. }] = mine[..] else {
            panic!("{mine:?}")
        };
        assert_eq!((skipped.first, skipped.last), (2, 9));
        for (observed, seq, faces, published) in
            [(first, 1, 1, published[0]), (second, 10, 0, published[1])]
        {
            let Observed::Observation { observation, picture, picture_lost, position } = observed
            else {
                panic!("{observed:?}")
            };
            observation.check().unwrap();
            assert_eq!((observation.id.seq, observation.detections.len()), (seq, faces));
            assert_eq!(observation.detector.model_sha256, handle.identity.model_sha256);
            assert_eq!(position.as_ref().unwrap().media_time_ns, seq);
            assert_eq!(observation.frame == FrameFate::Published, published);
            assert_eq!((picture.is_some(), picture_lost), (published, &None));
            if let Some(picture) = picture {
                let header = turbojpeg::read_header(&picture.jpeg).unwrap();
                assert_eq!((header.width, header.height), (88, 72));
                assert_eq!((picture.width, picture.height), (88, 72));
            }
        }
    }
}

#[test]
fn the_detector_ends_when_nobody_takes_observations() {
    let (sender, receiver) = bounded(1);
    let (out, observed) = bounded(1);
    let inputs = vec![input("a", receiver)];
    let handle = detect::spawn(&settings(), inputs, out).unwrap();
    drop(observed);
    sender.send(Captured::Skipped(skip("a", 1, 1))).unwrap();
    handle.join.join().unwrap();
}

#[test]
fn a_jpeg_shows_the_colours_of_the_frame() {
    let red = [
        (Matrix::Bt601, Range::Limited, [81, 90, 240]),
        (Matrix::Bt601, Range::Full, [76, 85, 255]),
        (Matrix::Bt709, Range::Limited, [63, 102, 240]),
        (Matrix::Bt709, Range::Full, [54, 99, 255]),
    ];
    let mut encoder = Encoder::new().unwrap();
    for (matrix, range, yuv) in red {
        for width_px in [None, Some(50), Some(1000)] {
            let planes = uniform(101, 67, yuv, matrix, range);
            let mut redactor = Redactor::new(&PrivacySettings::default());
            let redacted = redactor.mask(&planes).and_then(|masked| redactor.redact(&masked));
            let jpeg = encoder.encode(&redacted.unwrap(), width_px, 95).unwrap();
            let expected = if width_px == Some(50) { (50, 33) } else { (101, 67) };
            assert_eq!((jpeg.width, jpeg.height), expected);
            let image = turbojpeg::decompress(&jpeg.bytes, turbojpeg::PixelFormat::RGB).unwrap();
            assert_eq!((image.width, image.height), (expected.0 as usize, expected.1 as usize));
            for (row, pixels) in image.pixels.chunks(image.pitch).enumerate() {
                for rgb in pixels[..image.width * 3].chunks(3) {
                    let close = rgb[0] >= 250 && rgb[1] <= 6 && rgb[2] <= 6;
                    assert!(close, "{matrix:?} {range:?} {width_px:?} row {row}: {rgb:?}");
                }
            }
        }
    }
}

#[test]
fn the_command_writes_a_line_per_frame_and_the_pictures_the_model_saw() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = |json, dump| Arguments {
        file: common::clip(),
        model: None,
        model_description: None,
        runtime_library: None,
        provider: None,
        score_threshold: Some(0.5),
        input_width_px: Some(100),
        json,
        dump,
    };
    let mut written = Vec::new();
    let dump = Some(folder.path().to_owned());
    let frames = command::run(&arguments(true, dump), Some(settings()), &mut written).unwrap();
    assert_eq!(frames, 120);
    let lines: Vec<serde_json::Value> = written
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 120);
    assert_eq!(
        (&lines[7]["frame"], &lines[7]["width"], &lines[7]["input_width"]),
        (&7.into(), &176.into(), &100.into())
    );
    let picture = std::fs::read(folder.path().join("frame-000007.ppm")).unwrap();
    let head = b"P6 100 82 255\n";
    assert!(picture.starts_with(head));
    assert_eq!(picture.len(), head.len() + 100 * 82 * 3);
    // What the command names takes the place of what is configured.
    let missing = folder.path().join("none.onnx");
    let arguments = Arguments { model: Some(missing.clone()), ..arguments(false, None) };
    let error = chain(command::run(&arguments, Some(settings()), &mut Vec::new()).unwrap_err());
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}
