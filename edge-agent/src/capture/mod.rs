//! # Capture: camera -> frames
//!
//! **In**: a V4L2 device, an RTSP stream, a Jetson's CSI camera, a file or URI, the videos of a
//! folder, a test pattern.
//! **Out**: [`Captured`], per camera in `seq` order, into a bounded channel.
//!
//! **Promises**
//! - Every sampled frame gets a `seq` that was reserved on disk before, and each `seq` comes out once:
//!   in a frame, or in a run of skipped ones. What a crash takes lies below the reserved bound.
//! - A live camera never waits for the detector: what does not fit is skipped, and accounted for. A
//!   recording with `pace = "none"` always waits, so that nothing of it is skipped.
//! - A recording is read once. After a restart it goes on behind the last frame that was kept, with
//!   the same frames as an unbroken reading; one that was read to its end is not opened again.
//!   It waits while the spool is nearly full, so that it pushes out nothing that is older.
//! - Of recordings with `pace = "none"` only a few are read at a time, in the order of their names.
//! - Outside its schedule, and while it is paused, a camera's device is let go. At the beginning of
//!   that time one `seq` goes out as missed, for a gap record, so that the centre knows.
//! - A camera that fails is opened again with back-off, for ever; no other camera notices.
//! - A camera has two threads: one calls GStreamer and thereby drivers, and may hang in one for ever;
//!   the other holds the numbers and the way out, and never calls a driver. A thread that hangs is
//!   left behind and another opened beside it; of its frames none had a number yet.
//! - A decoder that fails, or falls silent, is replaced by the next of its order, and tried again
//!   later; the camera is degraded meanwhile, and not failed.
//!
//! **Limits**
//! - Three threads of a camera may hang; then it waits until one of them comes back.
//! - A frozen or a black picture is a suspicion: it is said, and nothing is done about it.
//! - A recording whose decoder hangs (rather than fails) waits for ever; the others go on.
//! - A recording behind a URI that is no file has no identity, and is read anew after a restart.
//! - A software decoder works on one core per camera.
//! - Aspect ratio marks of a stream are not applied, and rotation marks only where `picture` asks for it.

pub mod address;
mod backoff;
mod camera;
pub mod clock;
pub mod decoder;
pub mod duty;
pub mod error;
pub mod folder;
pub mod frame;
mod left_behind;
pub mod orientation;
mod outlet;
pub mod pipeline;
pub mod planes;
mod reader;
pub mod recording;
pub mod rtsp;
mod sampling;
pub mod schedule;
mod seats;
pub mod seq;
pub mod settings;
pub mod source;
mod stamp;
mod standstill;
pub mod state;
mod time_source;
pub mod v4l2;
pub mod watch;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use picket_service::logging::chain;
use picket_wire::{CameraKey, CameraName, DeviceName, EpochId};

pub(crate) use backoff::{Backoff, random};
pub use clock::{Clock, SystemClock};
pub use decoder::{DecoderReport, decoders};
pub use duty::{Duty, Pause};
pub use error::CaptureError;
pub use folder::FolderSettings;
pub use frame::{Captured, Frame, SourcePosition};
pub use orientation::PictureSettings;
pub use planes::Planes;
pub use recording::RecordingLog;
pub use seats::Seats;
pub use seq::{ReserveError, ReserveSeq};
pub use settings::{CameraSettings, SettingsError, Source};
pub use state::{CameraAccount, CameraView};

use camera::Camera;
use decoder::Decoders;
use decoder::comeback::Comeback;
use left_behind::LeftBehind;
use outlet::Outlet;
use seq::SeqBlocks;
use stamp::Stamper;
use watch::Watch;

/// What all cameras of an agent share.
#[derive(Clone)]
pub struct CaptureContext {
    /// Whose cameras they are.
    pub device: DeviceName,
    /// This start of the agent.
    pub epoch: EpochId,
    /// The device's clocks.
    pub clock: Arc<dyn Clock>,
    /// Where numbers come from.
    pub reserve: Arc<dyn ReserveSeq>,
    /// How far recordings were read.
    pub recordings: Arc<dyn RecordingLog>,
    /// How many of them are read at a time.
    pub seats: Arc<Seats>,
    /// Disconnected when the agent stops: whoever starts the cameras keeps the sender and lets it go.
    pub stop: Receiver<()>,
}

/// What goes on when a camera's thread ends and another begins: so that a camera whose settings
/// change keeps its account, and numbers and times go on rising without a hole.
#[derive(Debug)]
pub struct Life {
    /// How it is.
    pub account: Arc<CameraAccount>,
    /// Whether it is to capture.
    pub duty: Arc<Duty>,
    seq: SeqBlocks,
    last_mono_us: Option<u64>,
    /// A device that hangs still hangs when its camera's settings were changed.
    left_behind: LeftBehind,
}

impl Life {
    /// Of a camera that begins.
    pub fn new(camera: CameraName, duty: Arc<Duty>) -> Self {
        let account = Arc::new(CameraAccount::new(camera.clone()));
        let left_behind = LeftBehind::new(camera);
        Self { account, duty, seq: SeqBlocks::default(), last_mono_us: None, left_behind }
    }
}

/// A camera that runs.
pub struct CameraHandle {
    /// How it is.
    pub account: Arc<CameraAccount>,
    /// Its thread, which gives back what goes on with the next one. It ends after its source, or
    /// within a second after the agent's stop; later only while the detector has not yet taken what
    /// came before.
    pub join: JoinHandle<Option<Life>>,
}

/// A camera whose thread could not be started: nothing of it is lost, so that it can be tried again.
#[derive(Debug)]
pub struct NotStarted {
    /// Why.
    pub error: CaptureError,
    /// What goes on with the next try.
    pub life: Box<Life>,
}

/// Starts a camera. `out` should hold two or three frames: they keep the decoder's memory.
pub fn spawn(
    settings: CameraSettings,
    context: CaptureContext,
    out: Sender<Captured>,
) -> Result<CameraHandle, NotStarted> {
    let life = Life::new(settings.name.clone(), Arc::new(Duty::always()));
    go_on(settings, context, out, life)
}

/// Starts a camera that may have run before in this epoch. Its former thread must have ended.
pub fn go_on(
    settings: CameraSettings,
    context: CaptureContext,
    out: Sender<Captured>,
    life: Life,
) -> Result<CameraHandle, NotStarted> {
    go_on_in(std::thread::Builder::new(), settings, context, out, life)
}

fn go_on_in(
    thread: std::thread::Builder,
    settings: CameraSettings,
    context: CaptureContext,
    out: Sender<Captured>,
    life: Life,
) -> Result<CameraHandle, NotStarted> {
    let name = settings.name.clone();
    // The life follows once there is a thread: with a thread that does not start it would be lost.
    let (hand_over, handed_over) = bounded(1);
    // The kernel shows the first 15 bytes of a thread's name.
    let started = thread.name(format!("cam-{name}")).spawn(move || {
        let (camera, stamper): (Camera, Stamper) = handed_over.recv().ok()?;
        Some(live(camera, stamper))
    });
    let join = match started {
        Ok(join) => join,
        Err(source) => {
            let error = CaptureError::Thread { camera: name.to_string(), source };
            life.account.not_started(chain(&error));
            return Err(NotStarted { error, life: Box::new(life) });
        }
    };
    let Life { account, duty, seq, last_mono_us, left_behind } = life;
    account.opening(None);
    let key = CameraKey { device: context.device, camera: name.clone() };
    let mut outlet = Outlet::new(
        key,
        context.epoch,
        context.reserve,
        out,
        context.stop.clone(),
        Arc::clone(&account),
    );
    outlet.go_on_from(seq);
    // Asked for here and not on the thread: threads start in no order.
    let reads_fast = settings.waits_for_detector() && !settings.repeats();
    let seat = reads_fast.then(|| context.seats.queue(name));
    let decoders = Decoders::new(settings.decoder_wish());
    let stamper = Stamper::after(Camera::timing(&settings), last_mono_us);
    let camera = Camera {
        watch: Watch::new(&settings.watch, settings.is_camera()),
        comeback: Comeback::new(Arc::clone(&decoders)),
        left_behind,
        decoders,
        settings,
        seat,
        duty,
        clock: context.clock,
        recordings: context.recordings,
        stop: context.stop,
        account: Arc::clone(&account),
        outlet,
        without_numbers: false,
    };
    // There is room, and the thread waits for it.
    let _ = hand_over.send((camera, stamper));
    Ok(CameraHandle { account, join })
}

fn live(mut camera: Camera, mut stamper: Stamper) -> Life {
    camera.run(&mut stamper);
    let Camera { account, duty, outlet, left_behind, .. } = camera;
    let (seq, last_mono_us) = (outlet.into_numbers(), stamper.last_us());
    Life { account, duty, seq, last_mono_us, left_behind }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    struct Nothing;

    impl ReserveSeq for Nothing {
        fn reserve(&self, _: &CameraName, count: u64) -> Result<RangeInclusive<u64>, ReserveError> {
            Ok(1..=count)
        }
    }

    impl RecordingLog for Nothing {
        fn position(&self, _: &CameraName, _: &str) -> Option<SourcePosition> {
            None
        }
    }

    #[test]
    fn a_camera_whose_thread_cannot_be_started_keeps_its_numbers_and_its_time() {
        let settings: CameraSettings = serde_json::from_value(serde_json::json!({
            "name": "cam", "source": { "test-pattern": {} }
        }))
        .unwrap();
        let (stop, stopped) = bounded::<()>(0);
        let context = CaptureContext {
            device: "box".parse().unwrap(),
            epoch: EpochId { number: 1, instance: 7 },
            clock: Arc::new(SystemClock::start()),
            reserve: Arc::new(Nothing),
            recordings: Arc::new(Nothing),
            seats: Seats::new(1),
            stop: stopped,
        };
        let mut life = Life::new(settings.name.clone(), Arc::new(Duty::always()));
        life.seq.take(&settings.name, &Nothing).unwrap();
        life.last_mono_us = Some(5);
        // More than there is of memory.
        let thread = std::thread::Builder::new().stack_size(1 << 60);
        let (out, _frames) = bounded(1);
        let refused = go_on_in(thread, settings.clone(), context.clone(), out.clone(), life);
        let mut life = refused.err().unwrap().life;
        let view = life.account.view();
        assert_eq!(view.state, picket_wire::status::CameraState::Failed);
        assert!(view.problem.unwrap().contains("thread"));
        assert_eq!(life.last_mono_us, Some(5));
        assert_eq!(life.seq.take(&settings.name, &Nothing).unwrap(), 2);
        drop(stop);
        let started = go_on(settings, context, out, *life).unwrap();
        assert!(started.join.join().unwrap().is_some());
    }
}
