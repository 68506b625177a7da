//! What can fail with pictures, and what to do then.

use std::path::PathBuf;

use picket_service::config::Problem;

use crate::remedy::Remedy;

/// A step with pictures that failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The settings name no place for them.
    #[error("upsert.{}: {}", .0.field, .0.problem)]
    Settings(Problem),
    /// The directory could not be made.
    #[error("cannot make the directory for pictures {} (upsert.images_directory)", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the connection's.
    #[error("cannot use the file of {field}, {}", path.display())]
    File {
        /// The field that names it.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory or the bucket could not be used.
    #[error("cannot use {place} for pictures")]
    Open {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// The store does not take what it is asked for.
    #[error("pictures cannot go to {place}{}", told(advice))]
    Unusable {
        /// Where they would.
        place: String,
        /// What to do about it.
        advice: Option<String>,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A picture could not be written.
    #[error("cannot write the picture {path}{}", told(advice))]
    Put {
        /// Which.
        path: String,
        /// What to do about it.
        advice: Option<String>,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A picture could not be read.
    #[error("cannot read the picture {path}")]
    Get {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
}

fn told(advice: &Option<String>) -> String {
    advice.as_ref().map(|advice| format!(" ({advice})")).unwrap_or_default()
}

impl ImageError {
    /// What to do next. A full or absent disk may come back, and so may a store.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Settings(_) | Self::Directory { .. } | Self::File { .. } | Self::Open { .. } => {
                Remedy::Stop
            }
            Self::Put { .. } | Self::Unusable { .. } => Remedy::Retry,
            Self::Get { .. } => Remedy::Discard,
        }
    }
}
