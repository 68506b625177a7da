//! Where the tests find what `make fetch` brings.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod camera;
pub mod clock;
pub mod detection;
pub mod rehearsed;
pub mod toy;
pub mod uplink;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gstreamer::prelude::*;
use picket_edge_agent::capture::pipeline::{Next, Pipeline};
use picket_edge_agent::capture::planes::Planes;
use picket_edge_agent::capture::settings::{FileSource, Pace, Source};

/// A fetched file. `PICKET_MODELS` names the folder that holds `models`, `runtime` and `video`;
/// `.cache` at the workspace's root if unset.
pub fn fetched(path: &str) -> PathBuf {
    let folder = match std::env::var_os("PICKET_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache"),
    };
    let file = folder.join(path);
    assert!(file.exists(), "{} is missing: run `make fetch`", file.display());
    file
}

/// A real clip, 120 frames of 176x144, with one face in every frame.
pub fn clip() -> PathBuf {
    fetched("video/carphone_pristine.mp4")
}

/// Makes a video by a GStreamer launch line that ends before its sink.
pub fn make_video(path: &Path, line: &str) {
    run_to_end(&format!("{line} ! filesink location={}", path.display()));
}

/// Runs a GStreamer launch line to its end.
pub fn run_to_end(line: &str) {
    gstreamer::init().unwrap();
    let pipeline = gstreamer::parse::launch(line).unwrap();
    pipeline.set_state(gstreamer::State::Playing).unwrap();
    let kinds = [gstreamer::MessageType::Eos, gstreamer::MessageType::Error];
    let limit = gstreamer::ClockTime::from_seconds(120);
    let message = pipeline.bus().unwrap().timed_pop_filtered(limit, &kinds).unwrap();
    pipeline.set_state(gstreamer::State::Null).unwrap();
    assert!(matches!(message.view(), gstreamer::MessageView::Eos(_)), "{message:?}");
}

/// The first picture of the clip.
pub fn first_picture() -> Planes {
    let file = FileSource { path: clip(), repeat: false, pace: Pace::None };
    let mut pipeline = Pipeline::open(&Source::File(file), None, None).unwrap();
    loop {
        match pipeline.next(Duration::from_secs(5)).unwrap() {
            Next::Picture(picture) => return picture.planes,
            Next::Nothing => {}
            Next::End => panic!("no picture"),
        }
    }
}
