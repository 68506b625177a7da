//! What somebody sees who looks along, with the real model on the real clip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::detection::{camera, captured, clip, look_at, settings};
use crossbeam_channel::{bounded, unbounded};
use picket_edge_agent::capture::planes::{Matrix, Planes, Range};
use picket_edge_agent::detect::look::{Glimpse, Shown};
use picket_edge_agent::detect::{
    self, BlurSettings, CameraInput, Eyepiece, MotionSettings, Observed, PrivacySettings,
    PublishPolicy, PublishSettings, Region, ReportSettings,
};

/// What somebody sees who looks along while these pictures are looked at.
fn seen(
    pictures: &[Planes],
    change: impl FnOnce(CameraInput) -> CameraInput,
) -> (Glimpse, Vec<Observed>) {
    let eyepiece = Arc::new(Eyepiece::default());
    let look = eyepiece.look().unwrap();
    let all = look_at(pictures, |camera| change(CameraInput { eyepiece, ..camera }));
    (look.end(), all)
}

fn shown(pictures: &[Planes], privacy: PrivacySettings) -> Shown {
    seen(pictures, |camera| CameraInput { privacy, ..camera }).0.shown.unwrap()
}

/// Every picture blurred along its rows, which is what a lens out of focus does.
fn unfocused(pictures: &[Planes]) -> Vec<Planes> {
    let blurred = |planes: &Planes| {
        let mut copies = [planes.y(), planes.u(), planes.v()].map(|p| (p.data.to_vec(), p.stride));
        let (luma, stride) = &mut copies[0];
        for row in luma.chunks_mut(*stride) {
            let sharp = row.to_vec();
            for (at, sample) in row.iter_mut().enumerate() {
                let near = &sharp[at.saturating_sub(4)..(at + 5).min(sharp.len())];
                let sum: u32 = near.iter().map(|sample| u32::from(*sample)).sum();
                *sample = (sum / near.len() as u32) as u8;
            }
        }
        let (matrix, range) = (planes.matrix(), planes.range());
        Planes::from_vecs(planes.width(), planes.height(), copies, matrix, range).unwrap()
    };
    pictures.iter().map(blurred).collect()
}

type Image = turbojpeg::Image<Vec<u8>>;

fn decoded(shown: &Shown) -> (Image, &'static str) {
    let (jpeg, redacted) = shown.picture.as_ref().unwrap();
    (turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::RGB).unwrap(), redacted)
}

fn is_green(rgb: &[u8]) -> bool {
    let [red, green, blue] = [0, 1, 2].map(|index| i32::from(rgb[index]));
    green > 150 && green > red + 80 && green > blue + 80
}

#[test]
fn the_face_is_told_with_its_size_and_has_a_box_in_the_picture() {
    let began = Instant::now();
    let (glimpse, _) = seen(&clip(), |camera| camera);
    assert_eq!(glimpse.looked_at + glimpse.still, 120);
    assert_eq!((glimpse.with_found, glimpse.failed), (glimpse.looked_at, None));
    let shown = glimpse.shown.unwrap();
    assert!((began..Instant::now()).contains(&shown.at), "of another time");
    assert_eq!(shown.size_px, (176, 144));
    assert!((5.0..95.0).contains(&shown.brightness), "{}", shown.brightness);
    let [face] = &shown.found[..] else { panic!("{:?}", shown.found) };
    let [x, y, width, height] = face.box_px;
    assert!(face.class == "face" && width > 30.0 && height > 30.0, "{face:?}");
    let (image, redacted) = decoded(&shown);
    assert_eq!((image.width, image.height, redacted), (176, 144, "none"));
    // A green line on each side, within the box.
    let (middle_x, middle_y) = (x + width / 2.0, y + height / 2.0);
    for (x, y) in [
        (x + 1.0, middle_y),
        (x + width - 1.0, middle_y),
        (middle_x, y + 1.0),
        (middle_x, y + height - 1.0),
    ] {
        let at = y as usize * image.pitch + x as usize * 3;
        let rgb = &image.pixels[at..at + 3];
        assert!(is_green(rgb), "{rgb:?} at {x},{y} is no part of a green line");
    }
    let is_in_box = |at: usize| {
        let (column, row) = ((at % image.width) as f32, (at / image.width) as f32);
        (x - 3.0..x + width + 3.0).contains(&column) && (y - 3.0..y + height + 3.0).contains(&row)
    };
    let mut pixels = image.pixels.chunks(3).enumerate();
    assert!(pixels.all(|(at, rgb)| !is_green(rgb) || is_in_box(at)), "lines beside the box");
}

#[test]
fn a_face_is_shown_where_nothing_moves_and_what_is_handed_on_is_as_if_nobody_looked() {
    // A face that comes without anything that the gate takes for motion, before a camera that
    // publishes no picture.
    let motion = MotionSettings {
        change_luma: 255,
        look_every_ms: 3_600_000,
        keep_looking_ms: 0,
        ..MotionSettings::default()
    };
    let change = |camera| {
        let policy = PublishPolicy::ObservationsOnly;
        let publish = PublishSettings { policy, ..PublishSettings::default() };
        CameraInput { motion: motion.clone(), publish, ..camera }
    };
    let pictures: Vec<_> = std::iter::once(wall()).chain(clip()).collect();
    let unseen = look_at(&pictures, change);
    let (glimpse, all) = seen(&pictures, change);
    assert_eq!((glimpse.looked_at, glimpse.with_found, glimpse.still), (1, 0, 120));
    let shown = glimpse.shown.unwrap();
    assert_eq!(shown.found.len(), 1, "{:?}", shown.found);
    assert!(decoded(&shown).0.pixels.chunks(3).any(is_green), "no box");
    assert_eq!(text(&all), text(&unseen));
}

fn text(all: &[Observed]) -> Vec<String> {
    all.iter().map(|observed| format!("{observed:?}")).collect()
}

#[test]
fn a_look_where_nothing_moves_blurs_no_published_picture_and_counts_nothing() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder();
    let metrics = recorder.unwrap();
    // A wall, then faces in which nothing counts as moved; at three seconds a look all the same, at
    // stripes, within the time for which a face stays blurred.
    let motion = MotionSettings {
        change_luma: 255,
        look_every_ms: 3_000,
        keep_looking_ms: 0,
        ..MotionSettings::default()
    };
    let report = ReportSettings { least_height: 1.0, ..ReportSettings::default() };
    let blur = Some(BlurSettings { keep_ms: 10_000, ..BlurSettings::default() });
    let privacy = PrivacySettings { mask: Vec::new(), blur };
    let publish = PublishSettings { policy: PublishPolicy::All, ..PublishSettings::default() };
    let change = |name: &'static str| {
        let (motion, report) = (motion.clone(), report.clone());
        let (privacy, publish) = (privacy.clone(), publish.clone());
        let name = name.parse().unwrap();
        move |camera| CameraInput { name, motion, report, privacy, publish, ..camera }
    };
    let mut pictures: Vec<_> = std::iter::once(wall()).chain(clip()).take(90).collect();
    pictures.extend([stripes(), stripes()]);
    let unseen = look_at(&pictures, change("unseen"));
    let (glimpse, all) = seen(&pictures, change("seen"));
    assert_eq!((glimpse.looked_at, glimpse.still), (2, 90));
    let published = |all: &[Observed]| {
        let with = |o: &&Observed| matches!(o, Observed::Observation { picture: Some(_), .. });
        all.iter().filter(with).count()
    };
    assert_eq!(published(&all), 2);
    assert_eq!(text(&all), text(&unseen));
    let counts = |camera: &str| -> Vec<String> {
        let (label, text) = (format!("camera=\"{camera}\""), metrics.render());
        let counts = text.lines().filter(|line| line.contains(&label));
        let mut counts: Vec<_> = counts.map(|line| line.replace(&label, "")).collect();
        counts.sort();
        counts
    };
    assert!(counts("seen").iter().any(|line| line.contains("detect_frames_total")));
    assert_eq!(counts("seen"), counts("unseen"));
}

/// Lines across, in which no face is found.
fn stripes() -> Planes {
    let luma = (0..176 * 144).map(|at| if at / 176 % 4 < 2 { 60 } else { 180 }).collect();
    let chroma = || (vec![128; 88 * 72], 88);
    let planes = [(luma, 176), chroma(), chroma()];
    Planes::from_vecs(176, 144, planes, Matrix::Bt601, Range::Limited).unwrap()
}

/// Grey all over.
fn wall() -> Planes {
    let chroma = || (vec![128; 88 * 72], 88);
    let planes = [(vec![90; 176 * 144], 176), chroma(), chroma()];
    Planes::from_vecs(176, 144, planes, Matrix::Bt601, Range::Limited).unwrap()
}

#[test]
fn what_a_mask_covers_is_neither_shown_nor_measured_nor_found() {
    let shown = shown(&clip(), mask_over_all());
    assert!(shown.found.is_empty(), "{:?}", shown.found);
    assert!(shown.brightness < 1.0 && shown.sharpness == 0.0, "{shown:?}");
    assert_black(&shown);
}

fn mask_over_all() -> PrivacySettings {
    let polygon = vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
    PrivacySettings { mask: vec![Region { name: "all".to_owned(), polygon }], blur: None }
}

fn assert_black(shown: &Shown) {
    let (image, redacted) = decoded(shown);
    assert_eq!(redacted, "masks");
    assert!(image.pixels.iter().all(|sample| *sample < 16), "something is to be seen");
}

#[test]
fn a_picture_from_before_a_new_mask_is_shown_to_nobody_after_it() {
    let face = &clip()[0];
    let (add, additions) = unbounded();
    let (out, observed) = bounded(2);
    let handle = detect::spawn_for(&settings(), additions, out).unwrap();
    // A frame was dealt with when its observation is there; each is over a second from the last.
    let before = Arc::new(Eyepiece::default());
    let (sender, frames) = bounded(2);
    add.send(CameraInput { gated: false, eyepiece: Arc::clone(&before), ..camera(frames) })
        .unwrap();
    let look = before.look().unwrap();
    sender.send(captured((1, face))).unwrap();
    observed.recv().unwrap();
    let after = Arc::new(before.after_change());
    // The camera is still open as it was, or hangs in its driver.
    let glimpse = look.end();
    assert_eq!((glimpse.looked_at, glimpse.changed), (1, true));
    assert!(glimpse.shown.is_none(), "what the mask covers is shown");

    let look = after.look().unwrap();
    sender.send(captured((101, face))).unwrap();
    observed.recv().unwrap();
    assert!(look.end().shown.is_none(), "a frame of the former settings is shown");

    let look = after.look().unwrap();
    drop(sender);
    let (sender, frames) = bounded(2);
    let privacy = mask_over_all();
    add.send(CameraInput { gated: false, eyepiece: after, privacy, ..camera(frames) }).unwrap();
    sender.send(captured((201, face))).unwrap();
    observed.recv().unwrap();
    assert_black(&look.end().shown.unwrap());
    drop((sender, add));
    handle.join.join().unwrap();
}

#[test]
fn a_face_that_is_blurred_in_what_is_published_is_blurred_here() {
    let clip = clip();
    let clear = shown(&clip, PrivacySettings::default());
    let blur = Some(Default::default());
    let blurred = shown(&clip, PrivacySettings { mask: Vec::new(), blur });
    assert_eq!(clear.found, blurred.found, "the same is found");
    let [x, y, width, height] = clear.found[0].box_px.map(|px| px as usize);
    let ((clear, _), (blurred, redacted)) = (decoded(&clear), decoded(&blurred));
    assert_eq!(redacted, "faces");
    // How much neighbours differ in the middle of the face, where no line is.
    let detail = |image: &Image| -> u32 {
        let rows = y + height / 4..y + 3 * height / 4;
        let columns = x + width / 4..x + 3 * width / 4;
        rows.flat_map(|row| columns.clone().map(move |column| row * image.pitch + column * 3))
            .map(|at| u32::from(image.pixels[at].abs_diff(image.pixels[at + 3])))
            .sum()
    };
    assert!(2 * detail(&blurred) < detail(&clear), "{} {}", detail(&blurred), detail(&clear));
}

#[test]
fn sharpness_falls_when_the_lens_is_out_of_focus() {
    let pictures = &clip()[..2];
    let sharpness = |pictures: &[Planes]| shown(pictures, PrivacySettings::default()).sharpness;
    let (soft, sharp) = (sharpness(&unfocused(pictures)), sharpness(pictures));
    assert!(sharp > 2.0 * soft && soft > 0.0, "{sharp} {soft}");
}
