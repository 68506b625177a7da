//! Which frames detection looks at and what it makes of them, with the real model on the real clip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::detection::{camera, captured, clip, look_at, look_at_with, settings};

use crossbeam_channel::bounded;
use picket_edge_agent::capture::planes::{Matrix, Planes, Range};
use picket_edge_agent::capture::{CameraSettings, Captured};
use picket_edge_agent::detect::command::FileDetections;
use picket_edge_agent::detect::{
    self, BestCropSettings, BlurMethod, BlurSettings, CameraInput, DetectSettings, Detector,
    MotionSettings, Observed, PrivacySettings, PublishPolicy, PublishSettings, Region,
    ReportSettings, Zone, ZoneKind,
};
use picket_wire::Picture;
use picket_wire::observation::{FrameFate, Observation, Reason, Skip};

fn grey(level: u8) -> Planes {
    let planes =
        [(vec![level; 176 * 144], 176), (vec![128; 88 * 72], 88), (vec![128; 88 * 72], 88)];
    Planes::from_vecs(176, 144, planes, Matrix::Bt601, Range::Limited).unwrap()
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
        .filter_map(|observed| match observed {
            Observed::Observation { observation, .. } => {
                Some(observation.id.seq..=observation.id.seq)
            }
            Observed::Skipped(skip) => Some(skip.first..=skip.last),
            Observed::Picture(_) => None,
            Observed::Missed { id, .. } => Some(id.seq..=id.seq),
            Observed::Ended { .. } => panic!("ended"),
        })
        .flatten()
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
    let next = || observed.recv_timeout(Duration::from_secs(120)).unwrap();
    assert!(matches!(next(), Observed::Observation { .. }));
    let Observed::Skipped(skip) = next() else { panic!("no run") };
    assert_eq!((skip.first, skip.last), (2, 3));
    drop(sender);
    handle.join.join().unwrap();
}

#[test]
fn the_run_of_a_silent_camera_is_handed_on_also_while_another_one_gives_frames() {
    let ((silent, silents_frames), (busy, busys_frames)) = (bounded(2), bounded(1));
    let (out, observed) = bounded(8);
    let motion = MotionSettings { keep_looking_ms: 0, ..MotionSettings::default() };
    let cameras = vec![
        CameraInput { motion, ..camera(silents_frames) },
        CameraInput { name: "busy".parse().unwrap(), gated: false, ..camera(busys_frames) },
    ];
    let handle = detect::spawn(&settings(), cameras, out).unwrap();
    for seq in 1..=3 {
        silent.send(captured((seq, &grey(90)))).unwrap();
    }
    let began = Instant::now();
    let mut of_silent = Vec::new();
    // One frame for each observation: there is never a pause in which the detector could look about.
    for seq in 1.. {
        busy.send(captured((seq, &grey(90)))).unwrap();
        assert!(began.elapsed() < Duration::from_secs(120), "{of_silent:?}");
        match observed.recv_timeout(Duration::from_secs(120)).unwrap() {
            Observed::Skipped(skip) => {
                of_silent.push((skip.first, skip.last));
                break;
            }
            _ => observed.try_iter().for_each(|more| {
                if let Observed::Skipped(skip) = more {
                    of_silent.push((skip.first, skip.last));
                }
            }),
        }
        if !of_silent.is_empty() {
            break;
        }
    }
    assert_eq!(of_silent, [(2, 3)]);
    drop((silent, busy));
    observed.iter().for_each(drop);
    handle.join.join().unwrap();
}

#[test]
fn the_best_crop_goes_out_before_the_end_of_its_camera() {
    let (sender, receiver) = bounded(4);
    let (out, observed) = bounded(8);
    let publish = PublishSettings {
        policy: PublishPolicy::ObservationsOnly,
        best_crop: Some(BestCropSettings::default()),
        ..PublishSettings::default()
    };
    let input = CameraInput { publish, ..camera(receiver) };
    let handle = detect::spawn(&settings(), vec![input], out).unwrap();
    sender.send(captured((1, &clip()[0]))).unwrap();
    let ended = Captured::Ended { camera: "cam".parse().unwrap(), position: None };
    sender.send(ended).unwrap();
    drop(sender);
    let kinds: Vec<&str> = observed
        .iter()
        .map(|observed| match observed {
            Observed::Observation { .. } => "observation",
            Observed::Picture(picture) if picture.crop.is_some() => "crop",
            Observed::Ended { .. } => "end",
            _ => "something else",
        })
        .collect();
    assert_eq!(kinds, ["observation", "crop", "end"]);
    handle.join.join().unwrap();
}

/// A part of the picture, all of it unless it ends at another share of the width.
fn region(right: f32) -> Region {
    let polygon = vec![[0.0, 0.0], [right, 0.0], [right, 1.0], [0.0, 1.0]];
    Region { name: "part".to_owned(), polygon }
}

fn pictures(all: &[Observed]) -> Vec<&Picture> {
    all.iter()
        .filter_map(|observed| match observed {
            Observed::Picture(picture) => Some(picture),
            Observed::Observation { picture, .. } => picture.as_ref(),
            _ => None,
        })
        .collect()
}

/// The faces in a JPEG, as the detector finds them.
fn faces_in(jpeg: &[u8], least_score: f32) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("picture.jpg");
    std::fs::write(&file, jpeg).unwrap();
    let settings = DetectSettings { score_threshold: least_score, ..settings() };
    let detector = Detector::load(&settings).unwrap();
    let mut file = FileDetections::open(detector, &file).unwrap();
    file.next_frame().unwrap().unwrap().detections.len()
}

#[test]
fn a_face_outside_the_zones_or_too_small_is_not_reported_and_its_picture_not_published() {
    let clip = &clip()[..5];
    let zone = |kind| Zone {
        name: "wall".to_owned(),
        kind,
        polygon: region(0.2).polygon,
        least_height: None,
    };
    let with = |zone| ReportSettings { zone, ..ReportSettings::default() };
    for (report, reported) in [
        (with(vec![]), 5),
        (with(vec![zone(ZoneKind::Exclude)]), 5),
        (with(vec![zone(ZoneKind::Include)]), 0),
        (with(vec![Zone { polygon: region(1.0).polygon, ..zone(ZoneKind::Exclude) }]), 0),
        (ReportSettings { least_height: 0.3, ..ReportSettings::default() }, 5),
        (ReportSettings { least_height: 0.6, ..ReportSettings::default() }, 0),
    ] {
        let all = look_at(clip, |camera| CameraInput { report: report.clone(), ..camera });
        let found: usize = observations(&all).iter().map(|o| o.detections.len()).sum();
        assert_eq!((found, pictures(&all).len()), (reported, reported), "{report:?}");
    }
}

#[test]
fn every_face_has_its_quality() {
    let all = look_at(&clip(), |camera| camera);
    for observation in observations(&all) {
        let quality = observation.detections[0].quality.unwrap();
        let [_, _, width, height] = observation.detections[0].box_px;
        assert_eq!(quality.size_px, width.min(height));
        assert!(quality.score > 0.1 && quality.sharpness > 10.0, "{quality:?}");
        // The man on the phone looks about, and never away.
        assert!(quality.yaw_deg.unwrap().abs() < 70.0, "{quality:?}");
        assert!(quality.roll_deg.unwrap().abs() < 30.0, "{quality:?}");
    }
}

#[test]
fn the_moments_before_and_after_a_detection_are_published_and_no_others() {
    // Two seconds of nothing, a face in three frames, two seconds of nothing.
    let nothing = std::iter::repeat_n(grey(90), 60);
    let seen: Vec<Planes> = nothing.clone().chain(clip()[..3].to_vec()).chain(nothing).collect();
    let all = look_at(&seen, |camera| CameraInput {
        gated: false,
        publish: PublishSettings { before_ms: 500, after_ms: 200, ..PublishSettings::default() },
        ..camera
    });
    assert_whole(&all, 123);
    let published: Vec<u64> = pictures(&all).iter().map(|picture| picture.id.seq).collect();
    assert_eq!(published, (46..=69).collect::<Vec<_>>());
    for observation in observations(&all) {
        let seq = observation.id.seq;
        let expected = match seq {
            61..=69 => FrameFate::Published,
            _ => FrameFate::Possible,
        };
        assert_eq!(observation.frame, expected, "{seq}");
    }
}

#[test]
fn each_window_publishes_the_crop_of_its_best_face() {
    let best_crop = BestCropSettings { every_ms: 1000, margin: 0.5, ..Default::default() };
    let policy = PublishPolicy::ObservationsOnly;
    let publish =
        PublishSettings { policy, best_crop: Some(best_crop), ..PublishSettings::default() };
    let all = look_at(&clip(), |camera| CameraInput { publish, ..camera });
    let score = |o: &&Observation| o.detections[0].quality.unwrap().score;
    let best: Vec<u64> = observations(&all)
        .chunks(30)
        .map(|window| {
            let best = window.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)));
            best.unwrap().id.seq
        })
        .collect();
    let crops = pictures(&all);
    assert_eq!(crops.iter().map(|crop| crop.id.seq).collect::<Vec<_>>(), best);
    for crop in crops {
        assert_eq!((crop.crop, crop.redacted.as_str()), (Some(0), "none"));
        assert!(crop.width < 176 && crop.height <= 144, "{}x{}", crop.width, crop.height);
        assert_eq!(faces_in(&crop.jpeg, 0.6), 1);
    }
}

#[test]
fn what_a_mask_covers_is_neither_found_nor_published() {
    let policy = PublishPolicy::All;
    for (right, found) in [(1.0, 0), (0.05, 1)] {
        let privacy = PrivacySettings { mask: vec![region(right)], blur: None };
        let publish = PublishSettings { policy, ..PublishSettings::default() };
        let all = look_at(&clip()[..1], |camera| CameraInput { privacy, publish, ..camera });
        assert_eq!(observations(&all)[0].detections.len(), found, "{right}");
        let picture = pictures(&all)[0];
        assert_eq!(picture.redacted, "masks");
        let image = turbojpeg::decompress(&picture.jpeg, turbojpeg::PixelFormat::GRAY).unwrap();
        let covered = (right * 176.0) as usize;
        for row in image.pixels.chunks(image.pitch) {
            assert!(row[..covered].iter().all(|level| *level < 12), "{right}");
        }
    }
}

#[test]
fn a_blurred_face_is_reported_and_cannot_be_found_in_what_is_published() {
    let clip = &clip()[..4];
    let seen = |blur| {
        let privacy = PrivacySettings { mask: vec![], blur };
        look_at(clip, |camera| CameraInput { privacy, ..camera })
    };
    let (plain, blurred) = (seen(None), seen(Some(BlurSettings::default())));
    assert_eq!(observations(&plain), observations(&blurred), "the same is reported");
    for (plain, blurred) in pictures(&plain).into_iter().zip(pictures(&blurred)) {
        assert_eq!((plain.redacted.as_str(), blurred.redacted.as_str()), ("none", "faces"));
        assert_eq!((faces_in(&plain.jpeg, 0.6), faces_in(&blurred.jpeg, 0.6)), (1, 0));
    }
}

#[test]
fn a_face_too_unsure_to_be_reported_is_blurred_all_the_same() {
    // Nothing in the clip reaches this score; the blur takes its boxes from 0.3 on.
    let detect = DetectSettings { score_threshold: 0.99, ..settings() };
    let privacy = PrivacySettings { mask: vec![], blur: Some(BlurSettings::default()) };
    let publish = PublishSettings { policy: PublishPolicy::All, ..PublishSettings::default() };
    let all =
        look_at_with(&detect, &clip()[..3], |camera| CameraInput { privacy, publish, ..camera });
    assert!(observations(&all).iter().all(|observation| observation.detections.is_empty()));
    let pictures = pictures(&all);
    assert_eq!(pictures.len(), 3);
    assert!(pictures.iter().all(|picture| faces_in(&picture.jpeg, 0.6) == 0));
}

/// Finds red squares of 16x16 in pictures of 128x64 as faces and blue ones as cars.
fn toy(folder: &Path, labels: &str) -> DetectSettings {
    let file = folder.join("toy.onnx");
    std::fs::write(&file, common::toy::yolov8()).unwrap();
    let description = format!(
        "name = \"toy\"\ndecoder = \"yolov8\"\nlabels = {labels}\n\
         [input]\nscale = 0.00392157\nfill = 0\n"
    );
    std::fs::write(folder.join("toy.toml"), description).unwrap();
    DetectSettings {
        score_threshold: 0.4,
        ..DetectSettings::new(&file, &settings().runtime_library)
    }
}

#[test]
fn a_face_is_blurred_also_where_only_cars_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DetectSettings {
        classes: vec!["car".to_owned()],
        ..toy(folder.path(), "[\"face\", \"car\"]")
    };
    // A red square at 32, 16 on black.
    let paint = |black: u8, red: u8, step: usize| {
        let columns = 128 / step;
        let mut plane = vec![black; columns * 64 / step];
        for row in plane.chunks_mut(columns).skip(16 / step).take(16 / step) {
            row[32 / step..48 / step].fill(red);
        }
        (plane, columns)
    };
    let planes = [paint(0, 76, 1), paint(128, 85, 2), paint(128, 255, 2)];
    let frame = Planes::from_vecs(128, 64, planes, Matrix::Bt601, Range::Full).unwrap();
    let brightest = |blur| {
        let privacy = PrivacySettings { mask: vec![], blur };
        let publish = PublishSettings { policy: PublishPolicy::All, ..PublishSettings::default() };
        let all = look_at_with(&settings, std::slice::from_ref(&frame), |camera| CameraInput {
            privacy,
            publish,
            ..camera
        });
        assert!(observations(&all)[0].detections.is_empty(), "no car is in it");
        let jpeg = &pictures(&all)[0].jpeg;
        let image = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::GRAY).unwrap();
        image.pixels.into_iter().max().unwrap()
    };
    let fill = BlurSettings { method: BlurMethod::Fill, ..BlurSettings::default() };
    assert!(brightest(None) > 60);
    assert!(brightest(Some(fill)) < 12);
}

#[test]
fn blur_is_refused_with_a_model_that_finds_no_people() {
    let folder = tempfile::tempdir().unwrap();
    let (name, blur) = ("gate".parse().unwrap(), Some(BlurSettings::default()));
    let blurred = PrivacySettings { mask: vec![], blur };
    let check = |labels, privacy: &PrivacySettings| {
        let detector = Detector::load(&toy(folder.path(), labels)).unwrap();
        detector.identity().check_blur(&name, privacy).map_err(|error| error.to_string())
    };
    assert_eq!(check("[\"bus\", \"car\"]", &PrivacySettings::default()), Ok(()));
    for people in ["[\"face\", \"car\"]", "[\"bus\", \"person\"]"] {
        assert_eq!(check(people, &blurred), Ok(()));
    }
    let error = check("[\"bus\", \"car\"]", &blurred).unwrap_err();
    for words in ["camera gate", "privacy.blur", "toy", "bus, car", "`face`", "`person`"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_size_of_a_jpeg_is_estimated_within_a_factor_of_two() {
    for quality in [30, 60, 85, 95] {
        let publish = PublishSettings { quality, ..PublishSettings::default() };
        let all = look_at(&clip()[..1], |camera| CameraInput { publish, ..camera });
        let bytes = pictures(&all)[0].jpeg.len() as f64;
        let estimate = picket_edge_agent::estimate::jpeg_bytes(176.0 * 144.0, quality);
        assert!((0.5..2.0).contains(&(estimate / bytes)), "{quality}: {estimate} for {bytes}");
    }
}

#[test]
fn crops_and_blur_together_are_refused() {
    let text = "name = 'cam'\npublish = { best_crop = {} }\nprivacy = { blur = {} }\n\
                source = { test-pattern = {} }";
    let settings: CameraSettings = toml::from_str(text).unwrap();
    let error = settings.check().unwrap_err().to_string();
    assert!(error.contains("publish.best_crop and privacy.blur"), "{error}");
}

#[test]
fn blur_and_pictures_in_which_a_face_is_not_blurred_yet_or_no_longer_are_refused() {
    for (publish, refused) in [
        ("before_ms = 1", Some("publish.before_ms and privacy.blur")),
        ("after_ms = 2001", Some("after_ms must be at most keep_ms")),
        ("after_ms = 2000", None),
        ("policy = 'all'", None),
    ] {
        let text = format!(
            "name = 'cam'\npublish = {{ {publish} }}\nprivacy = {{ blur = {{ keep_ms = 2000 }} }}\n\
             source = {{ test-pattern = {{}} }}"
        );
        let settings: CameraSettings = toml::from_str(&text).unwrap();
        let error = settings.check().err().map(|error| error.to_string());
        assert_eq!(error.is_some(), refused.is_some(), "{publish}: {error:?}");
        assert!(error.unwrap_or_default().contains(refused.unwrap_or_default()), "{publish}");
    }
}
