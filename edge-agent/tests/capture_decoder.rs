//! Decoders that fail on cue, in the place of the hardware: another takes over, and no frame's
//! number is lost or given twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::camera::{Camera, Sequence, settings, start};
use common::rehearsed::{Cue, cue, register};
use picket_wire::status::CameraState;
use serde_json::{Value, json};

/// A live camera with these decoders, which are tried again after a second.
fn live(camera: &str, decoder: Value) -> Value {
    json!({
        "name": "cam",
        "source": { "uri": { "uri": format!("rehearsed://{camera}") } },
        "decoder": decoder,
        "decoder_retry_s": [1],
        "watch": { "stall_after_s": 2, "stuck_after_s": 1 },
    })
}

fn decodes_with(camera: &Camera, decoder: &str) -> bool {
    let view = camera.handle.account.view();
    view.state == CameraState::Running && view.decoder.as_deref() == Some(decoder)
}

#[test]
fn a_decoder_that_fails_is_replaced_and_no_other_camera_notices() {
    register();
    let camera = start(live("a", json!(["rehearsed-fails", "avdec_h264"])));
    let other = start(live("b", json!("avdec_h264")));
    let (mut taken, mut taken_of_other) = (Sequence::new(), Sequence::new());
    taken.take_until("decoding", &camera, |view| view.captured >= 10);
    assert!(decodes_with(&camera, "rehearsed-fails"));
    assert_eq!(camera.handle.account.view().degraded, None);
    taken_of_other.take_until("decoding", &other, |view| view.captured >= 10);
    cue("rehearsed-fails", Cue::Fail);
    taken.take_until("degraded", &camera, |view| {
        view.decoder.as_deref() == Some("avdec_h264") && view.state == CameraState::Running
    });
    let view = camera.handle.account.view();
    let degraded = view.degraded.unwrap();
    assert!(degraded.contains("rehearsed-fails") && degraded.contains("on cue"), "{degraded}");
    assert_eq!(view.reopened, 0, "nothing was wrong with the source");
    let before = camera.handle.account.view().captured;
    taken.take_until("going on", &camera, |view| view.captured > before + 20);
    taken_of_other.take_until("going on", &other, |view| view.captured > 20);
    let other_view = other.handle.account.view();
    assert_eq!((other_view.state, other_view.degraded), (CameraState::Running, None));
    taken.finish(camera);
    taken_of_other.finish(other);
}

#[test]
fn a_better_decoder_takes_over_again_once_it_decodes_a_sample() {
    register();
    let camera = start(live("c", json!(["rehearsed-returns", "avdec_h264"])));
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    cue("rehearsed-returns", Cue::Fail);
    taken.take_until("degraded", &camera, |view| view.degraded.is_some());
    // Its time comes after a second, and again, and each probe fails meanwhile.
    let before = camera.handle.account.view().captured;
    taken.take_until("degraded for 3 s", &camera, |view| view.captured > before + 60);
    assert!(decodes_with(&camera, "avdec_h264"), "{:?}", camera.handle.account.view());
    cue("rehearsed-returns", Cue::Work);
    taken.take_until("back", &camera, |view| {
        view.decoder.as_deref() == Some("rehearsed-returns") && view.degraded.is_none()
    });
    let before = camera.handle.account.view().captured;
    taken.take_until("going on", &camera, |view| view.captured > before + 10);
    taken.finish(camera);
}

#[test]
fn a_decoder_that_takes_frames_and_gives_none_is_replaced() {
    register();
    let mut description = live("d", json!(["rehearsed-silent", "avdec_h264"]));
    // It is to be noticed as the decoder's silence, before it counts as the source's.
    description["watch"]["stall_after_s"] = json!(15);
    let camera = start(description);
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    cue("rehearsed-silent", Cue::Silence);
    taken.take_until("degraded", &camera, |view| view.degraded.is_some());
    let view = camera.handle.account.view();
    assert!(view.degraded.as_deref().unwrap().contains("gave none"), "{view:?}");
    assert_eq!((view.decoder.as_deref(), view.reopened), (Some("avdec_h264"), 0));
    taken.finish(camera);
}

#[test]
fn a_decoder_that_hangs_is_left_behind_and_another_takes_over() {
    register();
    let camera = start(live("e", json!(["rehearsed-hangs", "avdec_h264"])));
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    cue("rehearsed-hangs", Cue::HangInFrame);
    taken.take_until("stuck", &camera, |view| view.state == CameraState::Stuck);
    let problem = camera.handle.account.view().problem.unwrap();
    assert!(problem.contains("stuck"), "{problem}");
    taken.take_until("degraded", &camera, |view| {
        view.state == CameraState::Running && view.degraded.is_some()
    });
    let before = camera.handle.account.view().captured;
    taken.take_until("going on", &camera, |view| view.captured > before + 10);
    assert!(decodes_with(&camera, "avdec_h264"));
    // What was left behind comes back: it ends, and its frame goes nowhere.
    cue("rehearsed-hangs", Cue::Work);
    taken.take_until("back", &camera, |view| view.degraded.is_none());
    taken.finish(camera);
}

#[test]
fn a_decoder_that_does_not_decode_a_sample_is_never_used() {
    register();
    cue("rehearsed-broken", Cue::Silence);
    let camera = start(live("f", json!(["rehearsed-broken", "avdec_h264"])));
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    let view = camera.handle.account.view();
    assert_eq!((view.decoder.as_deref(), &view.degraded), (Some("avdec_h264"), &None));
    let reason = view.decoder_reason.unwrap();
    assert!(reason.contains("rehearsed-broken") && reason.contains("sample"), "{reason}");
    taken.finish(camera);
}

#[test]
fn a_corrupt_stream_does_not_send_the_camera_round_its_decoders() {
    register();
    // The decoder works: it is the stream that is broken, for a while.
    let camera = start(live("corrupt", json!(["rehearsed-corrupt", "avdec_h264"])));
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    cue("corrupt", Cue::Garbage);
    taken.take_until("failed twice", &camera, |view| view.reopened >= 2);
    cue("corrupt", Cue::Work);
    let before = camera.handle.account.view().captured;
    taken.take_until("well again", &camera, |view| {
        view.state == CameraState::Running && view.captured > before + 10
    });
    taken.take_until("with its best decoder", &camera, |view| view.degraded.is_none());
    assert!(decodes_with(&camera, "rehearsed-corrupt"), "{:?}", camera.handle.account.view());
    taken.finish(camera);
}

#[test]
fn a_decoder_asked_for_that_is_not_there_is_said_by_name() {
    let camera = start(live("g", json!("nosuchdec")));
    camera.wait_until("failed", |view| view.state == CameraState::Failed);
    let problem = camera.handle.account.view().problem.unwrap();
    assert!(problem.contains("nosuchdec") && problem.contains("not installed"), "{problem}");
    let empty = settings(live("g", json!([]))).check().unwrap_err().to_string();
    assert!(empty.contains("decoder"), "{empty}");
    let retry = json!({ "name": "cam", "decoder_retry_s": [0], "source": { "test-pattern": {} } });
    let retry = settings(retry).check().unwrap_err().to_string();
    assert!(retry.contains("decoder_retry_s") && retry.contains("86400"), "{retry}");
}
