//! A folder of videos: each is a camera, named after its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use picket_wire::CameraName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decoder::DecoderOrder;
use super::orientation::PictureSettings;
use super::settings::{
    CameraSettings, FileSource, Pace, Sampling, Source, default_decoder_retry_s,
};
use super::watch::WatchSettings;
use crate::detect::{MotionSettings, PrivacySettings, PublishSettings, ReportSettings};

/// What counts as a video, by the ending of its name.
const ENDINGS: &[&str] =
    &["mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "flv", "h264"];

/// A folder whose videos are read once each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderSettings {
    /// The folder. Folders inside it are not looked into.
    pub path: PathBuf,
    /// How fast the videos are read.
    #[serde(default = "as_fast_as_possible")]
    pub pace: Pace,
    /// Wall time of the first frame of every video, RFC 3339.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub start_time: Option<Timestamp>,
    /// Wall time of the first frame as it stands in the file names, in UTC: a `strptime` pattern
    /// such as `%Y%m%d-%H%M%S`, looked for anywhere in the name.
    #[serde(default)]
    pub file_name_time: Option<String>,
    /// Which frames are captured; every one by default.
    #[serde(default)]
    pub sampling: Sampling,
    /// GStreamer element that decodes, or a list of them, the first to be tried first.
    #[serde(default)]
    pub decoder: Option<DecoderOrder>,
    /// Which of the frames are looked at.
    #[serde(default)]
    pub motion: MotionSettings,
    /// How the pictures are turned, mirrored, cut and deinterlaced before they are looked at.
    #[serde(default)]
    pub picture: PictureSettings,
    /// What is reported of what is found in them.
    #[serde(default)]
    pub report: ReportSettings,
    /// What is published of the frames.
    #[serde(default)]
    pub publish: PublishSettings,
    /// What must not be seen in them.
    #[serde(default)]
    pub privacy: PrivacySettings,
}

fn as_fast_as_possible() -> Pace {
    Pace::None
}

/// Why a folder gives no cameras. All but [`FolderError::TwoTimes`] comes from what lies in it, and
/// may be another thing tomorrow.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be listed.
    #[error("folder.path: cannot list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no video in it.
    #[error("folder.path: {} holds no video (looked for {})", path.display(), ENDINGS.join(", "))]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Two files would be the same camera.
    #[error(
        "folder.path: {} and {} would both be camera {camera}: rename one",
        first.display(), second.display()
    )]
    SameName {
        /// The name both give.
        camera: CameraName,
        /// A file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A video would be a camera that the config has already.
    #[error(
        "folder.path: {} would be camera {camera}, and there is one of that name: rename one",
        path.display()
    )]
    Taken {
        /// The name.
        camera: CameraName,
        /// The file.
        path: PathBuf,
    },
    /// No camera name can be made of a file's name.
    #[error("folder.path: no camera name can be made of {}: rename it", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with what was made.
        source: picket_wire::name::NameError,
    },
    /// The time is not in a file's name.
    #[error("folder.file_name_time: {} does not contain {pattern:?}", path.display())]
    NoTime {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        pattern: String,
    },
    /// Two ways to say when a video began.
    #[error("folder.start_time and folder.file_name_time: give one of them")]
    TwoTimes,
}

impl FolderSettings {
    /// Refuses what cannot work whatever lies in the folder.
    pub fn check(&self) -> Result<(), FolderError> {
        match self.start_time.is_some() && self.file_name_time.is_some() {
            true => Err(FolderError::TwoTimes),
            false => Ok(()),
        }
    }

    /// One camera per video, in the order of their names, beside those that have a name already.
    pub fn expand(&self, beside: &[CameraSettings]) -> Result<Vec<CameraSettings>, FolderError> {
        self.check()?;
        let mut by_name: BTreeMap<CameraName, PathBuf> = BTreeMap::new();
        for path in videos(&self.path)? {
            let camera = camera_name(&path)?;
            if beside.iter().any(|known| known.name == camera) {
                return Err(FolderError::Taken { camera, path });
            }
            if let Some(first) = by_name.insert(camera.clone(), path.clone()) {
                return Err(FolderError::SameName { camera, first, second: path });
            }
        }
        if by_name.is_empty() {
            return Err(FolderError::Empty { path: self.path.clone() });
        }
        by_name.into_iter().map(|(name, path)| self.camera(name, path)).collect()
    }

    /// What a video of it would be, as long as there is none.
    pub fn stand_in(&self) -> Option<CameraSettings> {
        let path = self.path.join("any-video.mp4");
        Some(self.camera_from(camera_name(&path).ok()?, path, self.start_time))
    }

    fn camera(&self, name: CameraName, path: PathBuf) -> Result<CameraSettings, FolderError> {
        let start_time = match &self.file_name_time {
            Some(pattern) => Some(time_in_name(&path, pattern).ok_or_else(|| {
                FolderError::NoTime { path: path.clone(), pattern: pattern.clone() }
            })?),
            None => self.start_time,
        };
        Ok(self.camera_from(name, path, start_time))
    }

    fn camera_from(
        &self,
        name: CameraName,
        path: PathBuf,
        start_time: Option<Timestamp>,
    ) -> CameraSettings {
        CameraSettings {
            name,
            source: Source::File(FileSource { path, repeat: false, pace: self.pace }),
            sampling: self.sampling,
            start_time,
            decoder: self.decoder.clone(),
            motion: self.motion.clone(),
            decoder_retry_s: default_decoder_retry_s(),
            watch: WatchSettings::default(),
            picture: self.picture,
            schedule: Vec::new(),
            report: self.report.clone(),
            publish: self.publish.clone(),
            privacy: self.privacy.clone(),
        }
    }
}

fn videos(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let failed = |source| FolderError::List { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if path.is_file() && ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The file's name without its ending, in lower case, with '-' for what a name may not hold.
fn camera_name(path: &Path) -> Result<CameraName, FolderError> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let name: String =
        stem.unwrap_or_default().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    name.parse().map_err(|source| FolderError::Name { path: path.to_owned(), source })
}

/// The time as the pattern has it, found at any place of the name.
fn time_in_name(path: &Path, pattern: &str) -> Option<Timestamp> {
    let name = path.file_stem()?.to_string_lossy().into_owned();
    // A sign is left to the text around: `%Y` would take that of "gate-2026" for the year's.
    let starts = name.char_indices().filter(|(_, c)| !"+-".contains(*c)).map(|(at, _)| at);
    starts.filter_map(|at| time_at(pattern, &name[at..])).next()
}

fn time_at(pattern: &str, text: &str) -> Option<Timestamp> {
    let (parsed, _) = jiff::fmt::strtime::BrokenDownTime::parse_prefix(pattern, text).ok()?;
    parsed.to_timestamp().ok().or_else(|| {
        let civil: DateTime = parsed.to_datetime().ok()?;
        civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> (tempfile::TempDir, FolderSettings) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), b"").unwrap();
        }
        let settings = serde_json::json!({ "path": folder.path() });
        let settings = serde_json::from_value(settings).unwrap();
        (folder, settings)
    }

    #[test]
    fn each_video_becomes_a_camera_named_after_its_file() {
        let (_folder, settings) = folder(&["Gate North.MP4", "yard_2.mkv", "notes.txt"]);
        let cameras = settings.expand(&[]).unwrap();
        let names: Vec<_> = cameras.iter().map(|camera| camera.name.as_str()).collect();
        assert_eq!(names, ["gate-north", "yard_2"]);
        assert!(cameras.iter().all(|camera| camera.is_recording() && camera.waits_for_detector()));
    }

    #[test]
    fn two_files_of_one_name_are_an_error_that_names_both() {
        let (_folder, settings) = folder(&["a b.mp4", "A_B.mp4", "a-b.mkv"]);
        let error = settings.expand(&[]).unwrap_err().to_string();
        assert!(error.contains("a b.mp4") && error.contains("a-b.mkv"), "{error}");
    }

    #[test]
    fn an_empty_folder_and_a_missing_one_are_errors_that_name_it() {
        let (folder, mut settings) = folder(&["notes.txt"]);
        let error = settings.expand(&[]).unwrap_err().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        settings.path = "/nowhere".into();
        assert!(settings.expand(&[]).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn the_start_time_is_read_from_the_file_name() {
        let (_folder, mut settings) = folder(&["gate-20260102-030405-x.mp4"]);
        settings.file_name_time = Some("%Y%m%d-%H%M%S".into());
        let start = settings.expand(&[]).unwrap()[0].start_time.unwrap();
        assert_eq!(start.to_string(), "2026-01-02T03:04:05Z");
        settings.file_name_time = Some("%Y_%m_%d".into());
        let error = settings.expand(&[]).unwrap_err().to_string();
        assert!(error.contains("gate-20260102-030405-x.mp4"), "{error}");
    }
}
