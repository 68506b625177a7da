//! # Capture: camera -> frames
//!
//! **In**: a V4L2 device, an RTSP stream, a file or URI, the videos of a folder, a test pattern.
//! **Out**: [`Captured`], per camera in `seq` order, into a bounded channel.
//! **Promises**: ...
//! **Limits**: ...

pub mod frame;

pub use frame::{Captured, Frame, SourcePosition};
