//! Picket's messages: what devices and the centre say to each other, and how it is checked.
//!
//! - [`name`], [`id`]: who and what; [`topic`]: where; [`header`]: what every message says of itself.
//! - [`observation`], [`status`], [`track`]: the bodies.
//! - [`message`]: encoding, decoding, and the checks between key, headers and body; [`reject`]: why one is refused.
//! - [`dead_letter`]: what becomes of a message that nobody can read.
//! - [`schema`]: the published JSON Schemas in `schemas/`; `golden/` holds messages of each release
//!   that every later one must read.

pub mod dead_letter;
pub mod header;
pub mod id;
pub mod message;
pub mod name;
pub mod observation;
pub mod reject;
pub mod schema;
pub mod status;
pub mod topic;
pub mod track;

pub use header::{Kind, Lane};
pub use id::{CameraKey, EpochId, ObservationId};
pub use message::{CameraRecord, Message, Outgoing, Picture, decode};
pub use name::{CameraName, DeviceName};
pub use reject::Reject;
pub use topic::{Topic, TopicNames};
