//! # Detect: frames -> observations
//!
//! **In**: [`Captured`](crate::capture::Captured). **Out**: [`Observed`], per camera in `seq` order.
//! **Promises**: ...
//! **Limits**: ...

use picket_wire::observation::{Observation, Reason, Skip};
use picket_wire::{CameraName, Picture};

use crate::capture::SourcePosition;

/// What detection hands on. Every captured `seq` is in exactly one of these.
#[derive(Debug, Clone)]
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
    /// Frames that were not looked at.
    Skipped(Skip),
    /// Nothing follows from this camera.
    Ended {
        /// Which camera.
        camera: CameraName,
        /// Where the recording ended.
        position: Option<SourcePosition>,
    },
}
