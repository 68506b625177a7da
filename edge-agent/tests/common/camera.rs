//! A camera under test: what it hands on, and what it says of itself.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use picket_edge_agent::capture::{
    self, CameraHandle, CameraSettings, CaptureContext, Captured, Frame, RecordingLog,
    ReserveError, ReserveSeq, Seats, SourcePosition, SystemClock,
};
use picket_wire::{CameraName, EpochId};
use serde_json::{Value, json};

/// How long something may take that comes.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Numbers that never end.
#[derive(Default)]
pub struct Numbers(Mutex<HashMap<CameraName, u64>>);

impl ReserveSeq for Numbers {
    fn reserve(
        &self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, ReserveError> {
        let mut given = self.0.lock().unwrap();
        let end = given.entry(camera.clone()).or_default();
        let first = *end + 1;
        *end += count;
        Ok(first..=*end)
    }
}

/// Remembers one place for every recording.
struct Log(Option<(u64, bool)>);

impl RecordingLog for Log {
    fn position(&self, _: &CameraName, fingerprint: &str) -> Option<SourcePosition> {
        let (media_time_ns, at_end) = self.0?;
        Some(SourcePosition { fingerprint: fingerprint.to_owned(), media_time_ns, at_end })
    }
}

/// A camera that runs.
pub struct Camera {
    /// The camera.
    pub handle: CameraHandle,
    /// What it hands on.
    pub frames: Receiver<Captured>,
    /// Let go to stop it.
    pub stop: Sender<()>,
}

/// Settings as a config has them.
pub fn settings(settings: Value) -> CameraSettings {
    serde_json::from_value(settings).unwrap()
}

/// A file that is read as fast as possible.
pub fn recording(path: &Path) -> Value {
    json!({ "name": "cam", "source": { "file": { "path": path, "pace": "none" } } })
}

/// Starts a camera that has read this far.
pub fn start_at(settings: CameraSettings, place: Option<(u64, bool)>) -> Camera {
    start_with(settings, place, Arc::new(Numbers::default()))
}

/// Starts a camera.
pub fn start_with(
    settings: CameraSettings,
    place: Option<(u64, bool)>,
    reserve: Arc<dyn ReserveSeq>,
) -> Camera {
    let (stop, stopped) = bounded(0);
    let (out, frames) = bounded(3);
    let context = CaptureContext {
        device: "box".parse().unwrap(),
        epoch: EpochId { number: 1, instance: 7 },
        clock: Arc::new(SystemClock::start()),
        reserve,
        recordings: Arc::new(Log(place)),
        seats: Seats::for_this_machine(),
        stop: stopped,
    };
    let handle = capture::spawn(settings, context, out).unwrap();
    Camera { handle, frames, stop }
}

/// Starts a camera.
pub fn start(description: Value) -> Camera {
    start_at(settings(description), None)
}

impl Camera {
    /// What comes next.
    pub fn next(&self) -> Captured {
        self.frames.recv_timeout(LIMIT).unwrap_or_else(|error| {
            panic!("nothing came ({error}); the camera: {:?}", self.handle.account.view())
        })
    }

    /// The next frame.
    pub fn frame(&self) -> Frame {
        match self.next() {
            Captured::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    /// All frames, and where the recording ended.
    pub fn all_frames(&self) -> (Vec<Frame>, Option<SourcePosition>) {
        let mut frames = Vec::new();
        loop {
            match self.next() {
                Captured::Frame(frame) => frames.push(frame),
                Captured::Ended { position, .. } => return (frames, position),
                Captured::Skipped(skip) => panic!("{skip:?}"),
                Captured::Missed { id, .. } => panic!("{id}"),
            }
        }
    }

    /// Waits until the camera says so.
    pub fn wait_until(&self, what: &str, there: impl Fn(&capture::CameraView) -> bool) {
        let began = Instant::now();
        while !there(&self.handle.account.view()) {
            let view = self.handle.account.view();
            assert!(began.elapsed() < LIMIT, "not {what} after {LIMIT:?}: {view:?}");
            let _ = never::<()>().recv_timeout(Duration::from_millis(5));
        }
    }
}

/// A made picture that comes live.
pub fn pattern(pattern: Value) -> Value {
    json!({ "name": "cam", "source": { "test-pattern": pattern } })
}

/// Takes what comes until a frame for which it is so; each number must come once, and in order.
pub struct Sequence {
    /// The number that comes next.
    pub next: u64,
}

impl Sequence {
    /// From the first number on.
    pub fn new() -> Self {
        Self { next: 1 }
    }

    /// Takes what comes until `there` says so of the camera.
    pub fn take_until(
        &mut self,
        what: &str,
        camera: &Camera,
        there: impl Fn(&capture::CameraView) -> bool,
    ) {
        self.take_until_seen(what, camera, |view, _| there(view));
    }

    /// The same, where it depends on what the frames show.
    pub fn take_until_seen(
        &mut self,
        what: &str,
        camera: &Camera,
        mut there: impl FnMut(&capture::CameraView, Option<&Frame>) -> bool,
    ) {
        let began = Instant::now();
        loop {
            let captured = camera.frames.recv_timeout(Duration::from_millis(20)).ok();
            let frame = match &captured {
                Some(Captured::Frame(frame)) => Some(frame),
                _ => None,
            };
            captured.iter().for_each(|captured| self.take(captured));
            let view = camera.handle.account.view();
            if there(&view, frame) {
                return;
            }
            assert!(began.elapsed() < 2 * LIMIT, "not {what} after {:?}: {view:?}", 2 * LIMIT);
        }
    }

    /// Stops the camera, and takes the rest. How many numbers came in all.
    pub fn finish(mut self, camera: Camera) -> u64 {
        let Camera { handle, frames, stop } = camera;
        drop(stop);
        while let Ok(captured) = frames.recv_timeout(LIMIT) {
            self.take(&captured);
        }
        handle.join.join().unwrap();
        assert_eq!(self.next - 1, handle.account.view().captured, "what was captured came out");
        self.next - 1
    }

    fn take(&mut self, captured: &Captured) {
        let (first, last) = match captured {
            Captured::Frame(frame) => (frame.id.seq, frame.id.seq),
            Captured::Skipped(skip) => (skip.first, skip.last),
            Captured::Missed { id, .. } => (id.seq, id.seq),
            Captured::Ended { .. } => return,
        };
        assert_eq!(first, self.next, "each number comes once, and in order");
        self.next = last + 1;
    }
}
