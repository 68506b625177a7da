//! Capture on real GStreamer: a real clip, made ones, and sources that fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::camera::{Numbers, pattern, recording, settings, start, start_at, start_with};
use gio::prelude::*;
use picket_edge_agent::capture::{CameraSettings, Captured, Frame, ReserveError, ReserveSeq};
use picket_wire::CameraName;
use picket_wire::observation::ClockState;
use picket_wire::status::CameraState;
use serde_json::{Value, json};

const TEST_VIDEO: &str =
    "videotestsrc num-buffers=60 ! video/x-raw,width=320,height=240 ! avenc_mpeg4";

#[test]
fn a_recording_gives_each_of_its_frames_once_in_order() {
    let camera = start(recording(&common::clip()));
    let (frames, end) = camera.all_frames();
    let seqs: Vec<u64> = frames.iter().map(|frame| frame.id.seq).collect();
    assert_eq!(seqs, (1..=120).collect::<Vec<_>>());
    assert!(frames.windows(2).all(|pair| pair[0].stamp.mono_us < pair[1].stamp.mono_us));
    let first = &frames[0];
    assert_eq!(first.id.to_string(), "box/cam/1-00000007/1");
    assert_eq!((first.planes.width(), first.planes.height()), (176, 144));
    assert_eq!((first.stamp.captured_at, first.stamp.clock), (None, ClockState::Unset));
    let (last, end) = (frames[119].position.clone().unwrap(), end.unwrap());
    assert_eq!((end.media_time_ns, end.at_end), (last.media_time_ns, true));
    assert_eq!((end.fingerprint.len(), &end.fingerprint), (64, &last.fingerprint));
    let view = camera.handle.account.view();
    assert_eq!((view.state, view.captured, view.last_seq), (CameraState::Ended, 120, 120));
    assert_eq!((view.skipped, view.size_px, view.problem), (0, Some((176, 144)), None));
    assert!(view.decoder.unwrap().contains("264"));
    camera.handle.join.join().unwrap();
}

#[test]
fn an_interrupted_recording_goes_on_with_the_frames_of_an_unbroken_one() {
    for every in [1, 3] {
        let mut description = recording(&common::clip());
        description["sampling"] = json!({ "every": every });
        let times = |frames: &[Frame]| -> Vec<u64> {
            frames.iter().map(|f| f.position.as_ref().unwrap().media_time_ns).collect()
        };
        let (whole, _) = start(description.clone()).all_frames();
        let kept = times(&whole)[25];
        let (rest, end) = start_at(settings(description), Some((kept, false))).all_frames();
        assert_eq!(times(&rest), times(&whole)[26..], "every {every}");
        assert!(end.unwrap().at_end);
    }
}

#[test]
fn a_recording_that_was_read_to_its_end_gives_nothing_more() {
    let camera = start_at(settings(recording(&common::clip())), Some((4_000_000_000, true)));
    let (frames, end) = camera.all_frames();
    assert!(frames.is_empty());
    assert_eq!(end.unwrap().media_time_ns, 4_000_000_000);
}

#[test]
fn a_start_time_gives_each_frame_its_time_of_capture() {
    let mut description = recording(&common::clip());
    description["start_time"] = json!("2026-01-01T00:00:00Z");
    let (frames, _) = start(description).all_frames();
    let stamp = frames[30].stamp;
    assert_eq!(stamp.clock, ClockState::Synchronised);
    assert_eq!(stamp.captured_at.unwrap().to_string(), "2026-01-01T00:00:01.001Z");
    assert_eq!(stamp.mono_us, 1_001_000);
}

#[test]
fn a_rate_below_that_of_the_recording_is_kept() {
    let mut description = recording(&common::clip());
    description["sampling"] = json!({ "fps": 10 });
    let (frames, _) = start(description).all_frames();
    assert_eq!(frames.len(), 40, "4 s at 10 frames a second");
}

#[test]
fn a_recording_waits_for_the_detector_and_skips_nothing() {
    let camera = start(recording(&common::clip()));
    camera.wait_until("waiting", |view| view.captured >= 3);
    let (frames, _) = camera.all_frames();
    assert_eq!(frames.len(), 120);
}

#[test]
fn a_file_at_its_own_pace_takes_as_long_as_it_lasts() {
    let source = json!({ "file": { "path": common::clip() } });
    let began = Instant::now();
    let camera = start(json!({ "name": "cam", "source": source }));
    for _ in 0..31 {
        camera.frame();
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_secs(1), "{elapsed:?} for a second of video");
}

#[test]
fn a_repeated_file_begins_again_and_its_time_goes_on() {
    let source = json!({ "file": { "path": common::clip(), "repeat": true, "pace": "none" } });
    let camera = start(json!({ "name": "cam", "source": source }));
    let frames: Vec<Frame> = (0..300).map(|_| camera.frame()).collect();
    assert_eq!(frames[299].id.seq, 300);
    assert!(frames.windows(2).all(|pair| pair[0].stamp.mono_us < pair[1].stamp.mono_us));
    assert!(frames.iter().all(|frame| frame.position.is_none()));
}

#[test]
fn a_missing_file_is_an_error_that_names_field_and_file() {
    let described = settings(recording(Path::new("/nowhere/a.mp4")));
    let error = described.check().unwrap_err().to_string();
    assert!(error.contains("source.file.path") && error.contains("/nowhere/a.mp4"), "{error}");

    let camera = start_at(described, None);
    assert!(matches!(camera.next(), Captured::Ended { position: None, .. }));
    let view = camera.handle.account.view();
    let problem = view.problem.unwrap();
    assert_eq!(view.state, CameraState::Failed);
    assert!(
        problem.contains("source.file.path") && problem.contains("/nowhere/a.mp4"),
        "{problem}"
    );
}

#[test]
fn a_file_that_is_no_video_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let clip = std::fs::read(common::clip()).unwrap();
    let of_sound = folder.path().join("sound.wav");
    common::make_video(&of_sound, "audiotestsrc num-buffers=20 ! wavenc");
    let no_videos = [
        ("text.mp4", b"this is no video".to_vec()),
        ("empty.mp4", Vec::new()),
        ("noise.mp4", (0..40_000u32).map(|n| ((n * 7919) >> 5) as u8).collect()),
        ("head.mp4", clip[..2000].to_vec()),
        ("sound.wav", std::fs::read(of_sound).unwrap()),
    ];
    for (name, content) in no_videos {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let camera = start(recording(&path));
        assert!(matches!(camera.next(), Captured::Ended { position: None, .. }), "{name}");
        let view = camera.handle.account.view();
        assert_eq!(view.state, CameraState::Failed, "{name}");
        let problem = view.problem.unwrap();
        assert!(problem.contains(name) && problem.contains("not a video"), "{name}: {problem}");
    }
}

#[test]
fn a_file_that_is_no_video_is_given_up_at_whatever_pace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.mp4");
    std::fs::write(&path, b"this is no video").unwrap();
    for file in [json!({ "path": path }), json!({ "path": path, "pace": "none" })] {
        let camera = start(json!({ "name": "cam", "source": { "file": file } }));
        assert!(matches!(camera.next(), Captured::Ended { position: None, .. }));
        let view = camera.handle.account.view();
        assert_eq!((view.state, view.gave_up), (CameraState::Failed, true), "{view:?}");
    }
}

#[test]
fn an_address_that_is_neither_a_file_nor_a_recording_is_a_camera() {
    let of = |uri: Value| settings(json!({ "name": "cam", "source": { "uri": uri } }));
    assert!(of(json!({ "uri": "http://127.0.0.1:1/mjpeg" })).is_live());
    assert!(!of(json!({ "uri": "http://127.0.0.1:1/a.mp4", "pace": "none" })).is_live());
    assert!(!of(json!({ "uri": "file:///a.mp4" })).is_live());
}

#[test]
fn a_truncated_video_gives_the_frames_it_has() {
    let folder = tempfile::tempdir().unwrap();
    for (name, muxer) in [("a.mkv", "matroskamux"), ("a.mp4", "mp4mux faststart=true")] {
        let path = folder.path().join(name);
        common::make_video(&path, &format!("{TEST_VIDEO} ! {muxer}"));
        assert_eq!(start(recording(&path)).all_frames().0.len(), 60, "{name}");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let camera = start(recording(&path));
        let (frames, end) = camera.all_frames();
        assert!((5..60).contains(&frames.len()), "{name}: {} frames", frames.len());
        assert!(end.unwrap().at_end, "{name}");
        assert_eq!(camera.handle.account.view().state, CameraState::Ended, "{name}");
    }
}

#[test]
fn a_still_is_a_recording_of_one_frame() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("still.png");
    common::make_video(
        &path,
        "videotestsrc num-buffers=1 ! video/x-raw,width=99,height=51 ! pngenc",
    );
    let (frames, _) = start(recording(&path)).all_frames();
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].planes.width(), frames[0].planes.height()), (99, 51));
}

#[test]
fn the_decoder_asked_for_is_the_one_that_decodes() {
    for decoder in ["openh264dec", "avdec_h264"] {
        let mut description = recording(&common::clip());
        description["decoder"] = json!(decoder);
        let camera = start(description);
        camera.frame();
        assert_eq!(camera.handle.account.view().decoder.as_deref(), Some(decoder));
    }
}

#[test]
fn a_live_camera_has_the_time_of_both_clocks() {
    let camera = start(pattern(json!({ "fps": 30, "frames": 10 })));
    let (frames, end) = camera.all_frames();
    assert_eq!((frames.len(), end), (10, None));
    for pair in frames.windows(2) {
        assert!(pair[0].stamp.mono_us < pair[1].stamp.mono_us);
    }
    let (first, last) = (frames[0].stamp, frames[9].stamp);
    assert!((200_000..900_000).contains(&(last.mono_us - first.mono_us)), "{first:?} {last:?}");
    assert!(first.captured_at.is_some());
}

#[test]
fn what_a_busy_detector_cannot_take_is_skipped_and_each_number_comes_out_once() {
    let camera =
        start(pattern(json!({ "fps": 60, "frames": 90, "width_px": 64, "height_px": 64 })));
    camera.wait_until("half over", |view| view.captured >= 45);
    let (mut seqs, mut skipped) = (Vec::new(), 0);
    loop {
        match camera.next() {
            Captured::Frame(frame) => seqs.push(frame.id.seq),
            Captured::Skipped(skip) => {
                assert_eq!(skip.reason.as_str(), "detector-busy");
                skip.check().unwrap();
                skipped += skip.last - skip.first + 1;
                seqs.extend(skip.first..=skip.last);
            }
            Captured::Missed { id, .. } => panic!("{id}"),
            Captured::Ended { .. } => break,
        }
    }
    assert_eq!(seqs, (1..=90).collect::<Vec<_>>());
    let view = camera.handle.account.view();
    assert_eq!((view.captured, view.skipped, view.last_seq), (90, skipped, 90));
    assert!(skipped >= 40, "{skipped}");
}

/// Refuses the first time.
struct LateNumbers(Mutex<bool>, Numbers);

impl ReserveSeq for LateNumbers {
    fn reserve(
        &self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, ReserveError> {
        if !std::mem::replace(&mut *self.0.lock().unwrap(), true) {
            return Err(ReserveError { camera: camera.clone(), source: "the disk is full".into() });
        }
        self.1.reserve(camera, count)
    }
}

#[test]
fn a_camera_that_got_no_numbers_says_so_and_goes_on_when_it_gets_some() {
    for described in [recording(&common::clip()), pattern(json!({ "fps": 30, "frames": 60 }))] {
        let waits = settings(described.clone()).waits_for_detector();
        let late = Arc::new(LateNumbers(Mutex::default(), Numbers::default()));
        let camera = start_with(settings(described), None, late);
        camera.wait_until("without numbers", |view| view.state == CameraState::Failed);
        assert!(camera.handle.account.view().problem.unwrap().contains("sequence numbers"));
        assert_eq!(camera.frame().id.seq, 1);
        camera.wait_until("running again", |view| view.state == CameraState::Running);
        if waits {
            assert_eq!(camera.all_frames().0.len(), 119);
        }
    }
}

/// Has room for so many frames.
struct SmallSpool {
    numbers: Numbers,
    given: AtomicU64,
    room: AtomicU64,
}

impl ReserveSeq for SmallSpool {
    fn reserve(
        &self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, ReserveError> {
        self.numbers.reserve(camera, count)
    }

    fn has_room(&self) -> bool {
        self.given.fetch_add(1, Ordering::SeqCst) < self.room.load(Ordering::SeqCst)
    }
}

#[test]
fn a_recording_waits_while_the_spool_is_nearly_full_and_then_goes_on() {
    let spool = Arc::new(SmallSpool {
        numbers: Numbers::default(),
        given: AtomicU64::new(0),
        room: AtomicU64::new(10),
    });
    let camera = start_with(settings(recording(&common::clip())), None, spool.clone());
    let frames: Vec<Frame> = (0..10).map(|_| camera.frame()).collect();
    assert!(camera.frames.recv_timeout(Duration::from_secs(1)).is_err(), "there is no room");
    spool.room.store(u64::MAX, Ordering::SeqCst);
    let (rest, end) = camera.all_frames();
    assert_eq!((frames.len() + rest.len(), rest[0].id.seq), (120, 11));
    assert!(end.unwrap().at_end);
}

#[test]
fn a_recording_that_waits_for_room_stops_when_told_to() {
    let spool = SmallSpool {
        numbers: Numbers::default(),
        given: AtomicU64::new(0),
        room: AtomicU64::new(0),
    };
    let camera = start_with(settings(recording(&common::clip())), None, Arc::new(spool));
    camera.wait_until("open", |view| view.decoded == 1);
    let began = Instant::now();
    drop(camera.stop);
    camera.handle.join.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a_camera_that_fails_is_opened_again_and_disturbs_no_other() {
    // Nothing listens on port 1.
    let url = "rtsp://admin:hunter2@127.0.0.1:1/live?token=abc";
    let failing = start(json!({ "name": "bad", "source": { "rtsp": { "url": url } } }));
    let other = start(pattern(json!({ "fps": 30 })));
    failing.wait_until("failed twice", |view| view.reopened >= 2);
    let view = failing.handle.account.view();
    assert_eq!((view.state, view.gave_up), (CameraState::Failed, false));
    let problem = view.problem.unwrap();
    assert!(problem.contains("127.0.0.1:1/live"), "{problem}");
    for secret in ["admin", "hunter2", "abc"] {
        assert!(!problem.contains(secret), "{problem}");
    }
    other.frame();
    assert_eq!(other.handle.account.view().state, CameraState::Running);
}

/// An address whose host drops what would open a connection, as one does that is off or behind a
/// firewall: a socket that accepts nothing, with its queue full. And what keeps it so.
fn silent_address() -> (SocketAddr, impl Sized) {
    let (v4, stream) = (gio::SocketFamily::Ipv4, gio::SocketType::Stream);
    let socket = gio::Socket::new(v4, stream, gio::SocketProtocol::Tcp).unwrap();
    let any_port = gio::InetSocketAddress::from_string("127.0.0.1", 0).unwrap();
    socket.set_listen_backlog(0);
    socket.bind(&any_port, false).unwrap();
    socket.listen().unwrap();
    let local = socket.local_address().unwrap().downcast::<gio::InetSocketAddress>().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], local.port()));
    let mut queued = Vec::new();
    while let Ok(connection) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(connection);
        assert!(queued.len() < 10, "its queue never fills");
    }
    (address, (socket, queued))
}

#[test]
fn a_network_camera_that_does_not_answer_is_said_to_be_unreachable_and_not_silent() {
    let (address, _kept) = silent_address();
    let url = format!("rtsp://{address}/live");
    let camera = start(json!({
        "name": "cam",
        "source": { "rtsp": { "url": url } },
        "watch": { "stall_after_s": 6, "stuck_after_s": 10 },
    }));
    camera.wait_until("failed", |view| view.state == CameraState::Failed);
    let problem = camera.handle.account.view().problem.unwrap();
    assert!(problem.contains(&format!("no connection to {address}")), "{problem}");
}

/// How long a camera takes to stop once it is at work.
fn time_to_stop(description: Value, gives_frames: bool) -> Duration {
    let camera = start(description);
    match gives_frames {
        true => drop(camera.next()),
        false => camera.wait_until("failed", |view| view.reopened > 0),
    }
    let began = Instant::now();
    drop(camera.stop);
    camera.handle.join.join().unwrap();
    began.elapsed()
}

#[test]
fn every_source_stops_within_a_second() {
    let repeated = json!({ "file": { "path": common::clip(), "repeat": true } });
    let failing = json!({ "rtsp": { "url": "rtsp://127.0.0.1:1/" } });
    let cameras = [
        (pattern(json!({ "fps": 30 })), true),
        (json!({ "name": "cam", "source": repeated }), true),
        (recording(&common::clip()), true),
        (json!({ "name": "cam", "source": failing }), false),
    ];
    for (camera, gives_frames) in cameras {
        // The quickest of three: what else the machine does makes any one of them late, and a source
        // that waits for something makes all of them late.
        let times = [(); 3].map(|()| time_to_stop(camera.clone(), gives_frames));
        assert!(times.iter().any(|time| *time < Duration::from_secs(1)), "{camera}: {times:?}");
    }
}

/// Any file that can be read.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let refused = [
        (json!({ "sampling": { "every": 0 } }), "sampling.every"),
        (json!({ "sampling": { "fps": -1.0 } }), "sampling.fps"),
        (json!({ "publish": { "quality": 0 } }), "publish.quality"),
        (json!({ "start_time": "2026-01-01T00:00:00Z" }), "start_time"),
        (json!({ "source": { "rtsp": { "url": "http://u:secret@h/" } } }), "source.rtsp.url"),
        (json!({ "source": { "test-pattern": { "fps": 0 } } }), "source.test-pattern.fps"),
        (
            json!({ "source": { "rtsp": { "url": "rtsp://h/s", "password_file": A_FILE } } }),
            "source.rtsp.password_file",
        ),
    ];
    for (change, field) in refused {
        let mut description = pattern(json!({}));
        description.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = settings(description).check().unwrap_err().to_string();
        assert!(error.contains(field) && !error.contains("secret"), "{error}");
    }
    for with_user in [
        json!({ "url": "rtsp://h/s", "user": "adam", "password_file": A_FILE }),
        json!({ "url": "rtsp://adam@h/s", "password_file": A_FILE }),
    ] {
        settings(json!({ "name": "cam", "source": { "rtsp": with_user } })).check().unwrap();
    }
    for unknown in [
        json!({ "name": "cam", "source": { "file": { "path": "a", "loop": true } } }),
        json!({ "name": "cam", "sauce": 1, "source": { "test-pattern": {} } }),
        json!({ "name": "Cam", "source": { "test-pattern": {} } }),
        json!({ "name": "cam", "source": { "tape": {} } }),
    ] {
        assert!(serde_json::from_value::<CameraSettings>(unknown).is_err());
    }
}
