//! # Detect: frames -> observations
//!
//! **In**: [`Captured`](crate::capture::Captured), one bounded channel per camera. **Out**:
//! [`Observed`], per camera in `seq` order, into one bounded channel.
//!
//! **Promises**
//! - Every `seq` that comes in goes out once: as an observation, or in a skip. A frame on which the
//!   detector fails is a skip with the reason `detector-failed`; a picture that cannot be encoded is
//!   named as lost beside its observation.
//! - Where nothing moves, a frame is not looked at but accounted for in a skip with the reason
//!   `no-motion`, closed each second; see [`motion`]. That is decided here and not in the camera's
//!   thread, because a detection decides about the frames after it: so a recording gives the same
//!   observations however fast it is read, and a still frame costs this thread less than it costs to
//!   wake it.
//! - What a privacy mask covers is blackened before the detector sees it, and faces are blurred, if
//!   that is asked for, before a picture is encoded; see [`privacy`]. What cannot be made
//!   unrecognisable is not published, and said to be lost.
//! - While somebody looks along a camera (see [`look`]) a frame a second is looked at for them also
//!   where nothing moves. What is handed on is the same as if nobody looked.
//! - Cameras take turns by chance among those that have a frame; one that gives many does not hold
//!   up one that gives few.
//! - When nobody takes observations it waits, and with it capture: a live camera then skips.
//!
//! **Limits**
//! - One thread and one frame at a time: ONNX Runtime's own threads make one frame faster, not more
//!   of them at once.
//! - A face that the detector does not find is not blurred either.
//! - Faces below about ten pixels in the model's picture (`input_width_px`) are not found.

mod best_crop;
mod camera;
pub mod candidate;
mod canvas;
mod cells;
mod centerface;
mod colour;
pub mod command;
pub mod description;
pub mod detector;
pub mod jpeg;
pub mod look;
pub mod model;
pub mod motion;
mod outline;
mod pictures;
mod preroll;
pub mod privacy;
mod publish;
mod quality;
pub mod region;
mod report;
mod resize;
pub mod settings;
mod still;
pub mod suppression;
pub mod tensor;
mod worker;
mod yolo;
mod yunet;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use picket_wire::observation::{Observation, Reason, Skip};
use picket_wire::{CameraName, ObservationId, Picture};

pub use best_crop::BestCropSettings;
pub use detector::{DetectError, Detector, DetectorIdentity, LoadError, NoFaces};
pub use look::Eyepiece;
pub use motion::MotionSettings;
pub use picket_onnx::{Provider, Runtime};
pub use privacy::{BlurMethod, BlurSettings, PrivacySettings};
pub use publish::{PublishPolicy, PublishSettings};
pub use region::Region;
pub use report::{ReportSettings, Zone, ZoneKind};
pub use settings::{DetectSettings, OutOfRange, SettingsError};

use crate::capture::{Captured, SourcePosition};
use jpeg::{Encoder, JpegError};
use pictures::Pictures;
use quality::Measure;
use worker::Worker;

/// What detection hands on. Every captured `seq` is in exactly one of these.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are observations; a box for each costs more"
)]
pub enum Observed {
    /// A frame that was looked at.
    Observation {
        /// What was found.
        observation: Observation,
        /// Its picture, if it is published.
        picture: Option<Picture>,
        /// Why a picture that should be published is missing.
        picture_lost: Option<Reason>,
        /// Of a recording: where in it.
        position: Option<SourcePosition>,
    },
    /// A picture that is published after its observation was handed on: of a frame before a
    /// detection, or the best crop of a window.
    Picture(Picture),
    /// Frames that were not looked at.
    Skipped(Skip),
    /// A `seq` that no frame has: from here on the camera captured nothing, on purpose.
    Missed {
        /// With that `seq`.
        id: ObservationId,
        /// Why.
        reason: Reason,
    },
    /// Nothing follows from this camera.
    Ended {
        /// Which camera.
        camera: CameraName,
        /// Where the recording ended.
        position: Option<SourcePosition>,
    },
}

/// Why detection does not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No detector.
    #[error("cannot load the detector")]
    Load(#[source] LoadError),
    /// No encoder.
    #[error("cannot start the encoder")]
    Encoder(#[source] JpegError),
    /// No thread.
    #[error("cannot start the detector's thread")]
    Thread(#[source] std::io::Error),
}

/// A camera whose frames are to be looked at. One of a name that is known takes the place of the
/// former, whose channel was closed before; what still waits in that one is looked at first.
pub struct CameraInput {
    /// Its name.
    pub name: CameraName,
    /// Whether frames in which nothing moves are left out.
    pub gated: bool,
    /// What counts as motion.
    pub motion: MotionSettings,
    /// What is reported.
    pub report: ReportSettings,
    /// What is published.
    pub publish: PublishSettings,
    /// What must not be seen.
    pub privacy: PrivacySettings,
    /// Where somebody may look along.
    pub eyepiece: Arc<Eyepiece>,
    /// Its frames.
    pub frames: Receiver<Captured>,
}

/// A detector that runs.
pub struct DetectorHandle {
    /// What it is made of.
    pub identity: DetectorIdentity,
    /// Its thread, which ends when all cameras' channels are closed and empty and no camera can be
    /// added any more, or when `out` is closed.
    pub join: JoinHandle<()>,
    turns: Arc<AtomicU64>,
}

impl DetectorHandle {
    /// How often its loop has turned: at least once a second, also without a frame.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether its thread has ended.
    pub fn has_ended(&self) -> bool {
        self.join.is_finished()
    }
}

/// Loads the detector and starts its thread, for these cameras.
pub fn spawn(
    settings: &DetectSettings,
    cameras: Vec<CameraInput>,
    out: Sender<Observed>,
) -> Result<DetectorHandle, SpawnError> {
    let (add, additions) = crossbeam_channel::unbounded();
    // The other end is in the next line but one: it cannot have gone.
    cameras.into_iter().for_each(|camera| drop(add.send(camera)));
    drop(add);
    spawn_for(settings, additions, out)
}

/// Loads the detector and starts its thread, for cameras that come as they are added.
pub fn spawn_for(
    settings: &DetectSettings,
    additions: Receiver<CameraInput>,
    out: Sender<Observed>,
) -> Result<DetectorHandle, SpawnError> {
    let detector = Detector::load(settings).map_err(SpawnError::Load)?;
    let encoder = Encoder::new().map_err(SpawnError::Encoder)?;
    let identity = detector.identity().clone();
    report_provider(&identity, settings.provider);
    let turns = Arc::new(AtomicU64::new(0));
    let worker = Worker {
        detector,
        measure: Measure::default(),
        pictures: Pictures { encoder },
        cameras: Vec::new(),
        additions,
        out,
        outbox: Vec::new(),
        turns: Arc::clone(&turns),
        looked_after: Instant::now(),
    };
    let join = std::thread::Builder::new()
        .name("detect".to_owned())
        .spawn(move || worker.run())
        .map_err(SpawnError::Thread)?;
    Ok(DetectorHandle { identity, join, turns })
}

/// What computes the model, and whether that is what was asked for.
fn report_provider(identity: &DetectorIdentity, asked_for: Provider) {
    let provider = identity.provider;
    metrics::gauge!("picket_agent_detect_provider", "provider" => provider.as_str()).set(1.0);
    metrics::gauge!("picket_agent_detect_provider_fallback").set(if identity.fallback.is_some() {
        1.0
    } else {
        0.0
    });
    if let Some(why) = &identity.fallback {
        tracing::warn!(
            target: "detect", %asked_for, %provider, why,
            "the model is computed by {provider} instead of {asked_for}: {why}"
        );
    }
}
