//! What is kept, where and for how long.

use std::path::{Path, PathBuf};

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

use super::bucket::{BucketUrl, S3};

/// Section `[upsert]`: where pictures go, and for how long documents are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory that holds the pictures, by its absolute path; made if it is missing. Either this or
    /// `images_url` must be set; where both are, this is not used.
    #[serde(default)]
    pub images_directory: Option<PathBuf>,
    /// Bucket of an S3-compatible store that holds the pictures instead, as `s3://bucket/prefix`; the
    /// section `upsert.s3` has how to reach it. The bucket must be there.
    #[serde(default)]
    pub images_url: Option<String>,
    /// How to reach the store of `images_url`.
    #[serde(default)]
    pub s3: Option<S3>,
    /// Seconds after which a picture is removed that no document points at, by the store's own clock;
    /// also how often all of them are looked through. Less than an hour is for tests.
    #[serde(default = "default_orphans_after_s")]
    pub orphans_after_s: u32,
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

pub(super) fn default_orphans_after_s() -> u32 {
    7200
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

/// What is being written must never look as if nothing pointed at it.
const MIN_ORPHANS_AFTER_S: u32 = 10;
/// A hundred years: longer is a slip of the finger.
const MAX_DAYS: u32 = 36_500;

impl Settings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        self.kept()?;
        if self.orphans_after_s < MIN_ORPHANS_AFTER_S {
            let problem = format_args!("must be {MIN_ORPHANS_AFTER_S} or more").to_string();
            return Err(Problem::new("orphans_after_s", problem));
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

    /// Where pictures are kept.
    pub fn kept(&self) -> Result<Kept<'_>, Problem> {
        match (&self.images_url, &self.s3, &self.images_directory) {
            (Some(url), Some(s3), _) => {
                let url = BucketUrl::parse(url).map_err(|why| Problem::new("images_url", why))?;
                s3.check().map_err(|problem| problem.within("s3"))?;
                Ok(Kept::Bucket(url, s3))
            }
            (Some(_), None, _) => {
                let problem = "is needed with `images_url`: `credentials_file` at the least";
                Err(Problem::new("s3", problem))
            }
            (None, Some(_), _) => Err(Problem::new("images_url", "is needed with `s3`")),
            (None, None, Some(directory)) if directory.is_absolute() => {
                Ok(Kept::Directory(directory))
            }
            (None, None, Some(_)) => {
                Err(Problem::new("images_directory", "must be an absolute path"))
            }
            (None, None, None) => Err(Problem::new(
                "images_directory",
                "name a directory for the pictures, or a bucket by `images_url`",
            )),
        }
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

/// Where pictures are kept.
#[derive(Debug)]
pub enum Kept<'a> {
    /// Below a directory.
    Directory(&'a Path),
    /// In a bucket.
    Bucket(BucketUrl, &'a S3),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Option<String> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().err().map(|problem| problem.field)
    }

    #[test]
    fn pictures_go_to_a_directory_or_to_a_bucket_that_can_be_reached() {
        const S3: &str = "s3.credentials_file = '/key'";
        assert_eq!(problem("images_directory = '/images'"), None);
        assert_eq!(problem(&format!("images_url = 's3://pictures'\n{S3}")), None);
        // A packaged config names a directory, which a drop-in cannot take back.
        let both = format!("images_directory = '/images'\nimages_url = 's3://pictures'\n{S3}");
        assert_eq!(problem(&both), None);
        for (text, field) in [
            ("", "images_directory"),
            ("images_directory = 'images'", "images_directory"),
            ("images_url = 's3://pictures'", "s3"),
            (S3, "images_url"),
            ("images_url = 'https://pictures'\ns3.credentials_file = '/key'", "images_url"),
            (
                "images_url = 's3://p'\ns3 = { credentials_file = '/key', endpoint = 'http://h' }",
                "s3.endpoint",
            ),
            ("images_directory = '/images'\norphans_after_s = 5", "orphans_after_s"),
        ] {
            assert_eq!(problem(text).as_deref(), Some(field), "{text}");
        }
    }
}
