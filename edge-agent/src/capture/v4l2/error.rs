//! What can go wrong between a camera's name in the config and its device.

use std::path::PathBuf;
use std::time::Duration;

/// The step that failed.
#[derive(Debug, thiserror::Error)]
pub enum V4l2Error {
    /// No device is what the config asks for.
    #[error("no camera has {wanted}; {there}")]
    NotThere {
        /// What the config says.
        wanted: String,
        /// What there is instead.
        there: String,
    },
    /// More than one is.
    #[error(
        "{wanted} fits more than one camera: {fitting}; add what tells them apart (serial or bus)"
    )]
    Ambiguous {
        /// What the config says.
        wanted: String,
        /// Which ones.
        fitting: String,
    },
    /// It is there, and cannot be asked.
    #[error("cannot ask {} {what}", path.display())]
    Ask {
        /// Its device file.
        path: PathBuf,
        /// What for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It is there, and its driver does not answer.
    #[error("{} does not say what it is within {} s: its driver hangs", path.display(), limit.as_secs())]
    Silent {
        /// Its device file.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It captures no pictures.
    #[error("{} is no camera: it captures no pictures", path.display())]
    NoCamera {
        /// Its device file.
        path: PathBuf,
    },
    /// Nothing that it gives can be used.
    #[error("{} gives nothing that can be used: {why}", path.display())]
    NoMode {
        /// Its device file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}
