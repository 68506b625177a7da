//! Cameras whose driver keeps the thread that calls it, and cameras that show nothing any more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::camera::{Sequence, pattern, start};
use common::rehearsed::{Cue, cue, register};
use picket_wire::status::{CameraState, PictureState};
use serde_json::{Value, json};

fn live(camera: &str) -> Value {
    json!({
        "name": "cam",
        "source": { "uri": { "uri": format!("rehearsed://{camera}") } },
        "decoder": "avdec_h264",
        "watch": { "stall_after_s": 1, "stuck_after_s": 1 },
    })
}

#[test]
fn a_camera_stuck_in_its_driver_is_left_behind_and_opened_again_and_no_other_notices() {
    register();
    for (name, hang) in [("start", Cue::HangInStart), ("frame", Cue::HangInFrame)] {
        let other = start(pattern(json!({ "fps": 30 })));
        let mut taken_of_other = Sequence::new();
        taken_of_other.take_until("running", &other, |view| view.captured >= 3);
        let mut taken = Sequence::new();
        if hang == Cue::HangInStart {
            cue(name, hang);
        }
        let camera = start(live(name));
        if hang == Cue::HangInFrame {
            taken.take_until("running", &camera, |view| view.captured >= 10);
            cue(name, hang);
        }
        taken.take_until("stuck", &camera, |view| view.state == CameraState::Stuck);
        let others_before = other.handle.account.view().captured;
        taken_of_other.take_until("going on", &other, |view| view.captured > others_before + 10);
        assert_eq!(other.handle.account.view().state, CameraState::Running, "{name}");
        cue(name, Cue::Work);
        let before = camera.handle.account.view().captured;
        taken.take_until("running again", &camera, |view| {
            view.state == CameraState::Running && view.captured > before + 10
        });
        assert!(taken.finish(camera) > before + 10, "{name}");
        taken_of_other.finish(other);
    }
}

#[test]
fn only_three_threads_are_left_behind_until_one_comes_back() {
    register();
    cue("never", Cue::HangInStart);
    let camera = start(live("never"));
    let mut taken = Sequence::new();
    taken.take_until("left alone", &camera, |view| {
        view.problem.as_deref().is_some_and(|problem| problem.contains("3 threads"))
    });
    assert_eq!(camera.handle.account.view().state, CameraState::Stuck);
    cue("never", Cue::Work);
    taken.take_until("running", &camera, |view| view.state == CameraState::Running);
    taken.finish(camera);
}

#[test]
fn a_stuck_camera_stops_with_the_agent_all_the_same() {
    register();
    cue("stays", Cue::HangInStart);
    let camera = start(live("stays"));
    camera.wait_until("stuck", |view| view.state == CameraState::Stuck);
    let began = Instant::now();
    drop(camera.stop);
    camera.handle.join.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    cue("stays", Cue::Work);
}

#[test]
fn a_source_that_gives_no_new_frame_is_opened_again() {
    register();
    let camera = start(live("silent"));
    let mut taken = Sequence::new();
    taken.take_until("running", &camera, |view| view.captured >= 5);
    cue("silent", Cue::Silence);
    taken.take_until("failed", &camera, |view| view.state == CameraState::Failed);
    let problem = camera.handle.account.view().problem.unwrap();
    assert!(problem.contains("no frame for 1 s"), "{problem}");
    cue("silent", Cue::Work);
    taken.take_until("running again", &camera, |view| view.state == CameraState::Running);
    taken.finish(camera);
}

#[test]
fn frozen_and_black_pictures_are_told_from_a_picture_that_changes() {
    let expected = [
        ("ball", PictureState::Changing),
        ("smpte", PictureState::Changing),
        ("snow", PictureState::Changing),
        ("black", PictureState::Black),
    ];
    for (shows, state) in expected {
        let mut description = pattern(json!({ "pattern": shows, "fps": 10 }));
        description["watch"] = json!({ "frozen_after_s": 2, "black_after_s": 1 });
        let camera = start(description);
        let mut taken = Sequence::new();
        taken.take_until("judged", &camera, |view| view.captured >= 40);
        let seen = camera.handle.account.view().picture;
        // The colour bars have a field of noise at their foot, as a sensor has everywhere.
        assert_eq!(seen, Some(state), "{shows}");
        taken.finish(camera);
    }
}

#[test]
fn a_camera_that_repeats_its_last_picture_is_called_frozen_and_not_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("still.mkv");
    let line = "videotestsrc num-buffers=40 pattern=smpte75 ! video/x-raw,width=320,height=240,\
         framerate=20/1 ! jpegenc ! matroskamux";
    common::make_video(&path, line);
    let mut description = json!({
        "name": "cam",
        "source": { "file": { "path": path, "repeat": true } },
    });
    description["watch"] = json!({ "frozen_after_s": 1 });
    let camera = start(description);
    let mut taken = Sequence::new();
    taken.take_until("frozen", &camera, |view| view.picture == Some(PictureState::Frozen));
    let before = camera.handle.account.view();
    taken.take_until("going on", &camera, |view| view.captured > before.captured + 10);
    let view = camera.handle.account.view();
    assert_eq!((view.state, view.reopened), (CameraState::Running, 0));
    taken.finish(camera);
}
