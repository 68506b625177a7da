//! What is kept, where and for how long.

use std::path::PathBuf;

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

/// Section `[upsert]`: where pictures go, and for how long documents are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory that holds the pictures; made if it is missing.
    pub images_directory: PathBuf,
    /// Days after which MongoDB deletes an observation, counted from the broker's time.
    #[serde(default = "default_observations_days")]
    pub observations_days: u32,
    /// Days after which MongoDB deletes the document of a picture.
    #[serde(default = "default_frames_days")]
    pub frames_days: u32,
    /// Days after which MongoDB deletes a track that was not seen since.
    #[serde(default = "default_tracks_days")]
    pub tracks_days: u32,
}

fn default_observations_days() -> u32 {
    30
}

fn default_frames_days() -> u32 {
    7
}

fn default_tracks_days() -> u32 {
    90
}

/// A hundred years: longer is a slip of the finger.
const MAX_DAYS: u32 = 36_500;

impl Settings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        if !self.images_directory.is_absolute() {
            return Err(Problem::new("images_directory", "must be an absolute path"));
        }
        for (field, days) in [
            ("observations_days", self.observations_days),
            ("frames_days", self.frames_days),
            ("tracks_days", self.tracks_days),
        ] {
            if !(1..=MAX_DAYS).contains(&days) {
                return Err(Problem::new(field, format_args!("{days} is not 1 to {MAX_DAYS}")));
            }
        }
        Ok(())
    }

    /// The retentions alone.
    pub fn retention(&self) -> Retention {
        Retention {
            observations_days: self.observations_days,
            frames_days: self.frames_days,
            tracks_days: self.tracks_days,
        }
    }
}

/// How long documents are kept, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Observations and the other records of their log.
    pub observations_days: u32,
    /// Documents of pictures.
    pub frames_days: u32,
    /// Tracks.
    pub tracks_days: u32,
}
