//! Decoders that fail on cue, in the place of the hardware: another takes over, and no frame's
//! number is lost or given twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::camera::{Camera, LIMIT, Sequence, recording, settings, start};
use common::rehearsed::{Cue, cue, current, hanging, register};
use crossbeam_channel::never;
use picket_edge_agent::capture::{Captured, Frame, SourcePosition};
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

/// A live camera with this decoder, for which a real one stands in.
fn with_stand_in(camera: &str, decoder: &str) -> Value {
    live(camera, json!([decoder, "avdec_h264"]))
}

/// A camera from its first frames on, and what was taken of it.
fn decoding(description: Value) -> (Camera, Sequence) {
    register();
    let camera = start(description);
    let mut taken = Sequence::new();
    taken.take_until("decoding", &camera, |view| view.captured >= 5);
    (camera, taken)
}

/// Takes so many frames more.
fn go_on(taken: &mut Sequence, camera: &Camera, frames: u64) {
    let before = camera.handle.account.view().captured;
    taken.take_until("going on", camera, |view| view.captured > before + frames);
}

fn decodes_with(camera: &Camera, decoder: &str) -> bool {
    let view = camera.handle.account.view();
    view.state == CameraState::Running && view.decoder.as_deref() == Some(decoder)
}

#[test]
fn a_decoder_that_fails_is_replaced_and_no_other_camera_notices() {
    register();
    let camera = start(with_stand_in("a", "rehearsed-fails"));
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
    go_on(&mut taken, &camera, 20);
    taken_of_other.take_until("going on", &other, |view| view.captured > 20);
    let other_view = other.handle.account.view();
    assert_eq!((other_view.state, other_view.degraded), (CameraState::Running, None));
    taken.finish(camera);
    taken_of_other.finish(other);
}

#[test]
fn a_better_decoder_takes_over_again_once_it_decodes_a_sample() {
    let (camera, mut taken) = decoding(with_stand_in("c", "rehearsed-returns"));
    cue("rehearsed-returns", Cue::Fail);
    taken.take_until("degraded", &camera, |view| view.degraded.is_some());
    // Its time comes after a second, and again, and each probe fails meanwhile.
    go_on(&mut taken, &camera, 60);
    assert!(decodes_with(&camera, "avdec_h264"), "{:?}", camera.handle.account.view());
    cue("rehearsed-returns", Cue::Work);
    taken.take_until("back", &camera, |view| {
        view.decoder.as_deref() == Some("rehearsed-returns") && view.degraded.is_none()
    });
    go_on(&mut taken, &camera, 10);
    taken.finish(camera);
}

#[test]
fn a_decoder_that_takes_frames_and_gives_none_is_replaced() {
    let mut description = with_stand_in("d", "rehearsed-silent");
    // It is to be noticed as the decoder's silence, before it counts as the source's.
    description["watch"]["stall_after_s"] = json!(15);
    let (camera, mut taken) = decoding(description);
    cue("rehearsed-silent", Cue::Silence);
    taken.take_until("degraded", &camera, |view| view.degraded.is_some());
    let view = camera.handle.account.view();
    assert!(view.degraded.as_deref().unwrap().contains("gave none"), "{view:?}");
    assert_eq!((view.decoder.as_deref(), view.reopened), (Some("avdec_h264"), 0));
    taken.finish(camera);
}

#[test]
fn a_decoder_that_hangs_is_left_behind_and_another_takes_over() {
    let (camera, mut taken) = decoding(with_stand_in("e", "rehearsed-hangs"));
    cue("rehearsed-hangs", Cue::HangInFrame);
    taken.take_until("stuck", &camera, |view| view.state == CameraState::Stuck);
    let problem = camera.handle.account.view().problem.unwrap();
    assert!(problem.contains("stuck"), "{problem}");
    taken.take_until("degraded", &camera, |view| {
        view.state == CameraState::Running && view.degraded.is_some()
    });
    go_on(&mut taken, &camera, 10);
    assert!(decodes_with(&camera, "avdec_h264"));
    // What was left behind comes back: it ends, and its frame goes nowhere.
    cue("rehearsed-hangs", Cue::Work);
    taken.take_until("back", &camera, |view| view.degraded.is_none());
    taken.finish(camera);
}

#[test]
fn a_decoder_that_does_not_decode_a_sample_is_never_used() {
    cue("rehearsed-broken", Cue::Silence);
    let (camera, taken) = decoding(with_stand_in("f", "rehearsed-broken"));
    let view = camera.handle.account.view();
    assert_eq!((view.decoder.as_deref(), &view.degraded), (Some("avdec_h264"), &None));
    let reason = view.decoder_reason.unwrap();
    assert!(reason.contains("rehearsed-broken") && reason.contains("sample"), "{reason}");
    taken.finish(camera);
}

#[test]
fn a_corrupt_stream_does_not_send_the_camera_round_its_decoders() {
    // The decoder works: it is the stream that is broken, for a while.
    let (camera, mut taken) = decoding(with_stand_in("corrupt", "rehearsed-corrupt"));
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

/// The clip, taken slowly until its decoder fails, since decoded frames wait then: what was taken of
/// it, and where it ended. On a busy machine the end may be there before it shows that it failed.
fn fails_midway(decoder: &str, decoders: Value) -> (Camera, Vec<Frame>, Option<SourcePosition>) {
    register();
    let mut description = recording(&common::clip());
    description["decoder"] = decoders;
    let camera = start(description);
    let mut frames: Vec<Frame> = (0..4).map(|_| camera.frame()).collect();
    cue(decoder, Cue::Fail);
    let began = Instant::now();
    loop {
        match camera.next() {
            Captured::Frame(frame) => frames.push(frame),
            Captured::Ended { position, .. } => return (camera, frames, position),
            other => panic!("{other:?}"),
        }
        if current(decoder) == Cue::Fail {
            assert!(began.elapsed() < LIMIT);
            let _ = never::<()>().recv_timeout(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_decoder_that_fails_amid_a_recording_loses_none_of_its_frames() {
    let (camera, frames, end) =
        fails_midway("rehearsed-midway", json!(["rehearsed-midway", "avdec_h264"]));
    let times: Vec<_> =
        frames.iter().map(|frame| frame.position.as_ref().unwrap().media_time_ns).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert_eq!(frames.len(), 120);
    assert!(end.unwrap().at_end);
    let view = camera.handle.account.view();
    assert_eq!(view.decoder.as_deref(), Some("avdec_h264"));
}

#[test]
fn a_recording_whose_last_decoder_fails_keeps_its_place_and_is_not_done() {
    let (camera, frames, end) = fails_midway("rehearsed-alone", json!("rehearsed-alone"));
    assert!(frames.len() < 120, "{}", frames.len());
    assert_eq!(end, None, "its place is that of its last frame");
    let view = camera.handle.account.view();
    assert_eq!((view.state, view.gave_up), (CameraState::Failed, true));
    let problem = view.problem.unwrap();
    assert!(problem.contains("no decoder is left; rehearsed-alone failed"), "{problem}");
}

#[test]
fn a_decoder_that_failed_its_probe_at_the_start_is_used_once_it_decodes_a_sample() {
    cue("rehearsed-later", Cue::Silence);
    let (camera, mut taken) = decoding(with_stand_in("h", "rehearsed-later"));
    assert!(decodes_with(&camera, "avdec_h264"));
    cue("rehearsed-later", Cue::Work);
    taken.take_until("with the better one", &camera, |view| {
        view.decoder.as_deref() == Some("rehearsed-later") && view.state == CameraState::Running
    });
    taken.finish(camera);
}

#[test]
fn a_decoder_whose_probe_hangs_is_not_probed_again_meanwhile() {
    register();
    cue("rehearsed-asleep", Cue::HangInStart);
    let mut description = with_stand_in("i", "rehearsed-asleep");
    description["watch"]["stall_after_s"] = json!(4);
    let camera = start(description);
    let mut taken = Sequence::new();
    // Five seconds, in which its time comes again and again; this camera may be silent for four.
    taken.take_until("going on", &camera, |view| view.captured >= 100);
    let view = camera.handle.account.view();
    assert_eq!(view.reopened, 0, "a camera that waits for its decoders is not silent");
    assert_eq!(hanging("rehearsed-asleep"), 1);
    assert!(decodes_with(&camera, "avdec_h264"));
    cue("rehearsed-asleep", Cue::Work);
    taken.take_until("with the better one", &camera, |view| {
        view.decoder.as_deref() == Some("rehearsed-asleep")
    });
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
