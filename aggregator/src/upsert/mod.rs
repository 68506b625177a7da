//! # Upsert: tracks and observations to MongoDB, pictures to the object store
//!
//! **In.** Records that were read and hold together, and the tracks they belong to.
//!
//! **Out.** Documents with ids that follow from the record alone; pictures at paths that do.
//!
//! **Promises.** The same record at the same place in the log gives the same document, `ingest`
//! aside. A picture is durable before the document that points at it. A time that the device did not
//! know becomes the right one once its clock records tell it, in whatever order they come.
//!
//! **Limits.** Pictures go some hours after their documents, when they are next looked through. One picture is in memory whole; the topic's limit bounds it.

mod bucket;
mod claims;
mod correction;
mod device;
mod error;
mod frame;
mod images;
mod leftovers;
mod origin;
mod owner;
mod place;
mod record;
mod settings;
mod sweep;
mod timed;
mod times;
mod told;
mod track;

pub use bucket::prepare_tls;
pub use correction::{Corrector, Errand, Limits, Position, Step};
pub use device::device;
pub use error::ImageError;
pub use frame::{frame, path as frame_path};
pub use images::Images;
pub use origin::{Origin, date, digest, nanoseconds, signed};
pub use record::{LostRun, Tracking, crash_gap, document_id, given_up, observation, other};
pub use settings::{Retention, Settings};
pub use sweep::{Documents, Removed, SweepError, Sweeper, Turn};
pub use times::Time;
pub use told::{tell_complete, tell_replaced, tell_track};
pub use track::{TrackState, WallTimes, revision, track};
