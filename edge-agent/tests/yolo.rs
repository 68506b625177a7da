//! YOLO networks of one's own, with generated models whose boxes are known from the picture, and the
//! providers that compute a model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::toy;
use picket_edge_agent::capture::planes::{Matrix, Planes, Range};
use picket_edge_agent::detect::{DetectSettings, Detector, Provider};
use picket_wire::observation::Detection;

/// Colours as luma and chroma, BT.601 of full range.
const BLACK: [u8; 3] = [0, 128, 128];
const RED: [u8; 3] = [76, 85, 255];
const BLUE: [u8; 3] = [29, 255, 107];

fn runtime() -> PathBuf {
    common::fetched(&format!("runtime/{}/libonnxruntime.so", std::env::consts::ARCH))
}

/// A model in a folder of its own, with this description beside it.
struct Toy {
    _folder: tempfile::TempDir,
    settings: DetectSettings,
}

fn toy(model: &[u8], description: &str) -> Toy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.onnx");
    std::fs::write(&file, model).unwrap();
    std::fs::write(folder.path().join("toy.toml"), description).unwrap();
    let settings = DetectSettings::new(&file, &runtime());
    Toy { _folder: folder, settings }
}

fn described(decoder: &str) -> String {
    format!(
        "name = \"toy\"\ndecoder = \"{decoder}\"\nlabels = [\"red\", \"blue\"]\n\
         [input]\nscale = 0.00392157\nfill = 0\n"
    )
}

/// 128x64 pixels: a model of 64x64 sees it at half the size, 16 rows from the top. Squares of 16 pixels
/// lie at each place, so that each is a cell.
fn frame(squares: &[([usize; 2], [u8; 3])]) -> Planes {
    let (width, height) = (128, 64);
    let paint = |channel: usize, step: usize| {
        let columns = width / step;
        let mut plane = vec![BLACK[channel]; columns * height / step];
        for ([x, y], colour) in squares {
            for row in y / step..(y + 16) / step {
                plane[row * columns + x / step..row * columns + (x + 16) / step]
                    .fill(colour[channel]);
            }
        }
        (plane, columns)
    };
    let planes = [paint(0, 1), paint(1, 2), paint(2, 2)];
    Planes::from_vecs(width as u32, height as u32, planes, Matrix::Bt601, Range::Full).unwrap()
}

fn find(settings: &DetectSettings, frame: &Planes) -> Vec<Detection> {
    Detector::load(settings).unwrap().detect(frame).unwrap()
}

fn chain(error: impl std::error::Error) -> String {
    picket_service::logging::chain(&error)
}

/// What is found: class and box, from left to right.
fn places(found: &[Detection]) -> Vec<(&str, [i32; 4])> {
    let whole = |value: f32| {
        assert!((value - value.round()).abs() < 0.01, "{found:?}");
        value.round() as i32
    };
    let mut places: Vec<_> =
        found.iter().map(|d| (d.class.as_str(), d.box_px.map(whole))).collect();
    places.sort_by_key(|(_, [x, ..])| *x);
    places
}

const SQUARES: [([usize; 2], [u8; 3]); 3] = [([32, 16], RED), ([64, 32], BLUE), ([112, 48], RED)];

#[test]
fn squares_are_found_where_they_are_and_by_their_colour() {
    let frame = frame(&SQUARES);
    let all = [("red", [32, 16, 16, 16]), ("blue", [64, 32, 16, 16]), ("red", [112, 48, 16, 16])];
    for (decoder, model, score, expected) in [
        ("yolov8", toy::yolov8(), 1.0, &all[..]),
        ("yolov5", toy::yolov5(), 0.5, &all),
        ("yolox", toy::yolox(), 1.0, &all),
        ("yolov10", toy::yolov10(0.0), 1.0, &[all[0], all[2]]),
    ] {
        let toy = toy(&model, &described(decoder));
        let settings = DetectSettings { score_threshold: 0.4, ..toy.settings };
        let found = find(&settings, &frame);
        assert_eq!(places(&found), expected, "{decoder}");
        assert!(found.iter().all(|d| (d.score - score).abs() < 0.05), "{decoder} {found:?}");
    }
}

#[test]
fn a_picture_in_the_upper_left_corner_and_another_order_of_colours_are_as_described() {
    let description = described("yolov8") + "place = \"upper-left\"\nchannels = \"BGR\"\n";
    let toy = toy(&toy::yolov8(), &description);
    // What the model takes for red is blue now.
    let expected =
        [("blue", [32, 16, 16, 16]), ("red", [64, 32, 16, 16]), ("blue", [112, 48, 16, 16])];
    assert_eq!(places(&find(&toy.settings, &frame(&SQUARES))), expected);
}

#[test]
fn only_the_classes_that_are_asked_for_are_reported() {
    let toy = toy(&toy::yolov8(), &described("yolov8"));
    let asking =
        |class: &str| DetectSettings { classes: vec![class.to_owned()], ..toy.settings.clone() };
    assert_eq!(places(&find(&asking("blue"), &frame(&SQUARES))), [("blue", [64, 32, 16, 16])]);
    let error = chain(Detector::load(&asking("green")).err().unwrap());
    for words in ["detect.classes", "toy", "\"green\"", "red, blue"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_model_that_does_not_fit_its_description_is_refused_with_what_would_be_right() {
    let one_label = described("yolov8").replace(", \"blue\"", "");
    let other_output = format!("output = \"boxes\"\n{}", described("yolov8"));
    for (model, description, words) in [
        (toy::yolov8(), one_label, &["output0", "1 x 6 x 64", "1 x (4 + 1 labels) x boxes"][..]),
        (toy::yolov8(), described("yolov5"), &["1 x 6 x 64", "1 x boxes x (5 + 2 labels)"]),
        (toy::yolov5(), described("yolox"), &["1 x 64 x 7", "1 x 84 x 7"]),
        (toy::yolov8(), other_output, &["no output boxes; it has output0"]),
        (toy::yolov8(), described("yunet").replace(", \"blue\"", ""), &["no output cls_8"]),
        (toy::of_float16(), described("yolov8"), &["images is of f16", "32 bits"]),
        (toy::of_four_pictures(), described("yolov8"), &["4 pictures at a time"]),
        (toy::of_pixels(), described("yolov8"), &["1 x 3 x height x width"]),
        (b"no model".to_vec(), described("yolov8"), &["ONNX Runtime cannot load"]),
    ] {
        let toy = toy(&model, &description);
        let error = chain(Detector::load(&toy.settings).err().unwrap());
        assert!(error.contains("detect.model") && error.contains("toy.onnx"), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} {error}");
    }
}

#[test]
fn a_label_that_is_not_listed_is_an_error_of_the_frame() {
    let toy = toy(&toy::yolov10(2.0), &described("yolov10"));
    let mut detector = Detector::load(&toy.settings).unwrap();
    let error = chain(detector.detect(&frame(&SQUARES)).unwrap_err());
    assert!(error.contains("names label 2") && error.contains("lists 2"), "{error}");
}

/// The rule for every provider: where the runtime has it, its boxes are the processor's; where it has
/// not, the processor takes over and says so, or the start is refused. On a device with a vendor's
/// runtime, `PICKET_RUNTIME_LIBRARY` names it.
#[test]
fn a_provider_finds_what_the_processor_finds_or_is_not_used() {
    let library = std::env::var_os("PICKET_RUNTIME_LIBRARY").map_or_else(runtime, PathBuf::from);
    let model = common::fetched("models/yunet.onnx");
    let settings = |provider, provider_required| DetectSettings {
        provider,
        provider_required,
        score_threshold: 0.2,
        ..DetectSettings::new(Path::new(&model), &library)
    };
    let picture = common::first_picture();
    let expected = find(&settings(Provider::Cpu, true), &picture);
    assert!(!expected.is_empty());
    for provider in Provider::ALL {
        let mut detector = Detector::load(&settings(provider, false)).unwrap();
        let found = detector.detect(&picture).unwrap();
        assert_eq!(found.len(), expected.len(), "{provider}");
        for (ours, cpu) in found.iter().zip(&expected) {
            let apart = ours.box_px.iter().zip(cpu.box_px).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) < 1.0, "{provider} {ours:?} {cpu:?}");
        }
        let identity = detector.identity();
        let required = Detector::load(&settings(provider, true));
        match &identity.fallback {
            None => {
                assert_eq!(identity.provider, provider);
                required.map(drop).unwrap();
            }
            Some(why) => {
                assert_eq!(identity.provider, Provider::Cpu);
                let error = chain(required.err().unwrap());
                let name = format!("detect.provider = {provider} ");
                assert!(error.contains(&name) && error.contains("provider_required"), "{error}");
                assert!(error.contains(why.as_str()), "{error} {why}");
            }
        }
    }
}

#[test]
fn the_packaged_runtime_has_the_processor_only_and_says_so() {
    let refused = DetectSettings {
        provider: Provider::Xnnpack,
        provider_required: true,
        ..DetectSettings::new(&common::fetched("models/yunet.onnx"), &runtime())
    };
    let error = chain(Detector::load(&refused).err().unwrap());
    for words in ["libonnxruntime.so", "built without xnnpack", "it has cpu"] {
        assert!(error.contains(words), "{error}");
    }
}
