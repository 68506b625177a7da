//! What capture hands on: frames as planes, and runs of frames that nobody will look at.

use picket_wire::observation::{Reason, Skip, Stamp};
use picket_wire::{CameraName, ObservationId};

use super::planes::Planes;

/// How far a recording was read, so that a restart goes on where the spool stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePosition {
    /// Identity of the recording: SHA-256 over its size and content digest, hex.
    pub fingerprint: String,
    /// Media time of this frame, nanoseconds. Frames up to here are done once this one is kept.
    pub media_time_ns: u64,
    /// Whether the recording ends here.
    pub at_end: bool,
}

/// A captured and sampled frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its id; `seq` was reserved on disk before.
    pub id: ObservationId,
    /// When it was captured.
    pub stamp: Stamp,
    /// The picture, as it was decoded.
    pub planes: Planes,
    /// Of a recording: where in it.
    pub position: Option<SourcePosition>,
}

/// What a camera gives.
#[derive(Debug, Clone)]
pub enum Captured {
    /// A frame to look at.
    Frame(Frame),
    /// Frames that got a `seq` and will not be looked at.
    Skipped(Skip),
    /// A `seq` that no frame has: from here on the camera captured nothing, on purpose.
    Missed {
        /// With that `seq`.
        id: ObservationId,
        /// Why.
        reason: Reason,
    },
    /// The recording was read to its end: nothing follows from this camera.
    Ended {
        /// Which camera.
        camera: CameraName,
        /// Where it ended.
        position: Option<SourcePosition>,
    },
}
