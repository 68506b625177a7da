//! What a camera is told: where its pictures come from, which of them count, what is published.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use picket_wire::CameraName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::decoder::{DecoderOrder, DecoderWish};
use super::error::Advice;
use super::orientation::PictureSettings;
use super::recording::open_file;
pub use super::rtsp::{RtspSource, Transport};
use super::schedule::Window;
use super::v4l2::V4l2Source;
use super::watch::WatchSettings;
use crate::detect::{MotionSettings, OutOfRange, PrivacySettings, PublishSettings, ReportSettings};

/// One camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CameraSettings {
    /// Its name, unique within the device: it stands in every id.
    pub name: CameraName,
    /// Where its pictures come from.
    pub source: Source,
    /// Which frames are captured; every one by default.
    #[serde(default)]
    pub sampling: Sampling,
    /// Of a recording: wall time of its first frame, RFC 3339. Capture times are counted from it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub start_time: Option<Timestamp>,
    /// GStreamer element that decodes, or a list of them, the first to be tried first; instead of the
    /// order that `doctor` shows. No others are used then.
    #[serde(default)]
    pub decoder: Option<DecoderOrder>,
    /// After so long a decoder that failed is tried again, seconds: after its first failure, its
    /// second, and so on; the last one stands for all further ones.
    #[serde(default = "default_decoder_retry_s")]
    pub decoder_retry_s: Vec<u32>,
    /// When the camera counts as silent, stuck, frozen or black.
    #[serde(default)]
    pub watch: WatchSettings,
    /// Which of its frames are looked at.
    #[serde(default)]
    pub motion: MotionSettings,
    /// How its picture is turned, mirrored, cut and deinterlaced before it is looked at.
    #[serde(default)]
    pub picture: PictureSettings,
    /// Times in which it captures, in the site's time (`time_zone`); always if there are none.
    /// Outside them its device is let go, and the centre is told. As long as the clock was never
    /// set it captures. A recording has none.
    #[serde(default)]
    pub schedule: Vec<Window>,
    /// What is reported of what is found in them.
    #[serde(default)]
    pub report: ReportSettings,
    /// What is published of its frames.
    #[serde(default)]
    pub publish: PublishSettings,
    /// What must not be seen in them.
    #[serde(default)]
    pub privacy: PrivacySettings,
}

/// One minute, five, fifteen.
pub fn default_decoder_retry_s() -> Vec<u32> {
    vec![60, 300, 900]
}

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A camera that the kernel knows (`cameras` lists them).
    V4l2(V4l2Source),
    /// A network camera.
    Rtsp(RtspSource),
    /// A camera on the CSI connector of a Jetson.
    Csi(CsiSource),
    /// A video or a still on this machine.
    File(FileSource),
    /// Anything else that GStreamer can open by its URI.
    Uri(UriSource),
    /// A made picture, for trying things out.
    TestPattern(TestPatternSource),
}

/// A camera on the CSI connector of a Jetson, through its image signal processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsiSource {
    /// Which connector, counted from 0.
    #[serde(default)]
    pub sensor_id: u32,
    /// Width, pixels; one of the sensor's modes.
    #[serde(default = "default_csi_width_px")]
    pub width_px: u32,
    /// Height, pixels; one of the sensor's modes.
    #[serde(default = "default_csi_height_px")]
    pub height_px: u32,
    /// Frames per second.
    #[serde(default = "default_csi_fps")]
    pub fps: u32,
}

fn default_csi_width_px() -> u32 {
    1280
}

fn default_csi_height_px() -> u32 {
    720
}

fn default_csi_fps() -> u32 {
    30
}

/// A video or a still on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file.
    pub path: PathBuf,
    /// Begin again at the end, for ever.
    #[serde(default)]
    pub repeat: bool,
    /// How fast it is read.
    #[serde(default)]
    pub pace: Pace,
}

/// Anything else that GStreamer can open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UriSource {
    /// The URI. What could be a secret in it is used, and never shown.
    pub uri: Address,
    /// Begin again at the end, for ever.
    #[serde(default)]
    pub repeat: bool,
    /// How fast it is read.
    #[serde(default)]
    pub pace: Pace,
}

/// How fast a recording is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// As it was recorded, like a camera: what the detector has no time for is skipped.
    #[default]
    Timestamps,
    /// As fast as every frame can be looked at and kept; nothing is skipped.
    None,
}

/// A made picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestPatternSource {
    /// Width, pixels.
    #[serde(default = "default_pattern_width_px")]
    pub width_px: u32,
    /// Height, pixels.
    #[serde(default = "default_pattern_height_px")]
    pub height_px: u32,
    /// Frames per second.
    #[serde(default = "default_pattern_fps")]
    pub fps: u32,
    /// What it shows.
    #[serde(default)]
    pub pattern: Pattern,
    /// End after this many frames; never if unset.
    #[serde(default)]
    pub frames: Option<u32>,
}

fn default_pattern_width_px() -> u32 {
    640
}

fn default_pattern_height_px() -> u32 {
    360
}

fn default_pattern_fps() -> u32 {
    10
}

/// What a test pattern shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// A ball that moves.
    #[default]
    Ball,
    /// Colour bars.
    Smpte,
    /// Noise.
    Snow,
    /// Nothing.
    Black,
}

impl Pattern {
    /// The name that `videotestsrc` has for it.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Ball => "ball",
            Self::Smpte => "smpte",
            Self::Snow => "snow",
            Self::Black => "black",
        }
    }
}

/// Which frames of the source are captured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampling {
    /// At most this many frames per second of the source's own time.
    Fps(f64),
    /// Every n-th frame.
    Every(u32),
}

impl Default for Sampling {
    fn default() -> Self {
        Self::Every(1)
    }
}

/// A setting that cannot work, and what would.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A number is out of its range.
    #[error("camera {camera}: {field} = {value}: must be {range}")]
    Range {
        /// Which camera.
        camera: CameraName,
        /// Which field.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// A file is not there, or cannot be read.
    #[error(
        "camera {camera}: {field}: cannot read {}, which the agent's user must be able to (that of the \
         service is picket-edge-agent)",
        path.display()
    )]
    File {
        /// Which camera.
        camera: CameraName,
        /// Which field names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two fields contradict each other.
    #[error("camera {camera}: {what}")]
    Contradiction {
        /// Which camera.
        camera: CameraName,
        /// What contradicts what.
        what: &'static str,
    },
}

impl CameraSettings {
    /// Whether the source is a recording: read once from its beginning to its end, in its own time,
    /// and gone on with after a restart. A file that is played at its own pace without a start time
    /// stands in for a camera instead.
    pub fn is_recording(&self) -> bool {
        let (repeat, pace) = match &self.source {
            Source::File(file) => (file.repeat, file.pace),
            Source::Uri(uri) => (uri.repeat, uri.pace),
            Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) | Source::TestPattern(_) => {
                return false;
            }
        };
        !repeat && (self.start_time.is_some() || pace == Pace::None)
    }

    /// Whether the source has no end of its own: one that ends, fails or falls silent is opened
    /// again whatever the reason. An address that is neither a file nor read as a recording is
    /// taken for a network camera.
    pub fn is_live(&self) -> bool {
        match &self.source {
            Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) => true,
            Source::TestPattern(pattern) => pattern.frames.is_none(),
            Source::File(_) => false,
            Source::Uri(uri) => !self.is_recording() && !uri.uri.has_scheme(&["file"]),
        }
    }

    /// How its decoders are chosen.
    pub fn decoder_wish(&self) -> DecoderWish {
        let seconds = |&seconds: &u32| Duration::from_secs(u64::from(seconds));
        DecoderWish {
            order: self.decoder.clone(),
            retry: self.decoder_retry_s.iter().map(seconds).collect(),
        }
    }

    /// Whether a real camera is behind it, whose pictures have noise.
    pub fn is_camera(&self) -> bool {
        self.is_live() && !matches!(self.source, Source::TestPattern(_))
    }

    /// Whether the source begins again at its end.
    pub fn repeats(&self) -> bool {
        match &self.source {
            Source::File(file) => file.repeat,
            Source::Uri(uri) => uri.repeat,
            Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) | Source::TestPattern(_) => false,
        }
    }

    /// Whether it is opened again after a failure, with what the failure itself advises. A file
    /// that is played once is not, at whatever pace: then the camera has given up.
    pub fn opens_again_after(&self, advice: Advice) -> bool {
        let may_come_back = matches!(self.source, Source::Uri(_)) && advice == Advice::Retry;
        self.is_live() || self.repeats() || may_come_back
    }

    /// Whether capture waits for the detector, so that no frame is skipped.
    pub fn waits_for_detector(&self) -> bool {
        matches!(
            &self.source,
            Source::File(FileSource { pace: Pace::None, .. })
                | Source::Uri(UriSource { pace: Pace::None, .. })
        )
    }

    /// Whether frames in which nothing moves are not looked at.
    pub fn is_gated(&self) -> bool {
        self.motion.gate.unwrap_or(!self.waits_for_detector())
    }

    /// Refuses what cannot work. Whether a file is a video shows only when it is opened.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_all_but_source()?;
        match &self.source {
            Source::File(file) => {
                self.check_readable("source.file.path", &file.path)?;
                self.check_start_time(file.repeat)
            }
            Source::Uri(uri) => self.check_start_time(uri.repeat),
            Source::Rtsp(rtsp) => self.check_rtsp(rtsp),
            Source::Csi(csi) => self.check_csi(csi),
            Source::V4l2(v4l2) => self.check_v4l2(v4l2),
            Source::TestPattern(pattern) => self.check_pattern(pattern),
        }
    }

    /// The same for a video of a folder: one that cannot be read holds nothing else up.
    pub fn check_all_but_source(&self) -> Result<(), SettingsError> {
        match self.sampling {
            Sampling::Fps(fps) if !(fps.is_finite() && fps > 0.0 && fps <= 1000.0) => {
                return Err(self.range("sampling.fps", fps, "above 0 and at most 1000"));
            }
            Sampling::Every(0) => return Err(self.range("sampling.every", 0, "1 or more")),
            Sampling::Fps(_) | Sampling::Every(_) => {}
        }
        self.check_decoder()?;
        self.watch.check().map_err(|(field, value, range)| self.range(field, value, range))?;
        self.check_picture()?;
        self.check_looking()?;
        if self.is_recording() && !self.schedule.is_empty() {
            return Err(
                self.contradiction("schedule: a recording is not captured by the clock; remove it")
            );
        }
        Ok(())
    }

    fn range(
        &self,
        field: &'static str,
        value: impl ToString,
        range: &'static str,
    ) -> SettingsError {
        SettingsError::Range { camera: self.name.clone(), field, value: value.to_string(), range }
    }

    fn out_of_range(&self, OutOfRange { field, value, range }: OutOfRange) -> SettingsError {
        self.range(field, value, range)
    }

    fn contradiction(&self, what: &'static str) -> SettingsError {
        SettingsError::Contradiction { camera: self.name.clone(), what }
    }

    fn check_readable(&self, field: &'static str, path: &Path) -> Result<(), SettingsError> {
        open_file(path).map(drop).map_err(|source| SettingsError::File {
            camera: self.name.clone(),
            field,
            path: path.to_owned(),
            source,
        })
    }

    fn check_start_time(&self, repeat: bool) -> Result<(), SettingsError> {
        if repeat && self.start_time.is_some() {
            return Err(self.contradiction(
                "start_time and repeat: a recording that begins again has no one start time; \
                 remove one of them",
            ));
        }
        Ok(())
    }

    fn check_rtsp(&self, rtsp: &RtspSource) -> Result<(), SettingsError> {
        if !rtsp.url.has_scheme(&["rtsp", "rtsps", "rtspt", "rtspu"]) {
            return Err(self.range("source.rtsp.url", &rtsp.url, "an rtsp:// or rtsps:// address"));
        }
        if rtsp.url.has_raw_credentials() {
            return Err(self.contradiction(
                "source.rtsp.url: its password ends the address: write / as %2F, ? as %3F, # as %23 \
                 and @ as %40 in it, or use source.rtsp.user and password_file",
            ));
        }
        if let Some(path) = &rtsp.password_file {
            if rtsp.user.is_none() && rtsp.url.credentials().is_none() {
                return Err(self.contradiction(
                    "source.rtsp.password_file: the user that it is for is missing; give \
                     source.rtsp.user",
                ));
            }
            self.check_readable("source.rtsp.password_file", path)?;
        }
        if let Some(path) = &rtsp.ca_file {
            self.check_readable("source.rtsp.ca_file", path)?;
        }
        let tls_asked = rtsp.ca_file.is_some() || !rtsp.verify_certificate;
        if tls_asked && !rtsp.url.has_scheme(&["rtsps"]) {
            return Err(self.contradiction(
                "source.rtsp.ca_file and verify_certificate are for rtsps:// addresses; change the \
                 address or remove them",
            ));
        }
        self.check_live()
    }

    fn check_v4l2(&self, v4l2: &V4l2Source) -> Result<(), SettingsError> {
        if let Some(problem) = v4l2.naming_problem() {
            return Err(self.contradiction(problem));
        }
        if v4l2.width_px.is_some() != v4l2.height_px.is_some() {
            return Err(self.contradiction("width_px and height_px: give both or none"));
        }
        for (field, px) in [
            ("source.v4l2.width_px", v4l2.width_px),
            ("source.v4l2.height_px", v4l2.height_px),
            ("source.v4l2.fps", v4l2.fps),
        ] {
            if px.is_some_and(|px| !(1..=16384).contains(&px)) {
                return Err(self.range(field, px.unwrap_or_default(), "1 to 16384"));
            }
        }
        self.check_live()
    }

    fn check_csi(&self, csi: &CsiSource) -> Result<(), SettingsError> {
        for (field, value, most, range) in [
            (
                "source.csi.sensor_id",
                csi.sensor_id.saturating_add(1),
                16,
                "0 to 15 (one less than this)",
            ),
            ("source.csi.width_px", csi.width_px, 16384, "1 to 16384"),
            ("source.csi.height_px", csi.height_px, 16384, "1 to 16384"),
            ("source.csi.fps", csi.fps, 240, "1 to 240"),
        ] {
            if !(1..=most).contains(&value) {
                return Err(self.range(field, value, range));
            }
        }
        self.check_live()
    }

    fn check_decoder(&self) -> Result<(), SettingsError> {
        let elements = self.decoder.as_ref().map(DecoderOrder::elements);
        if elements.is_some_and(|elements| elements.iter().all(|name| name.trim().is_empty())) {
            let range = "the name of a GStreamer element, or a list of them (`doctor` shows some)";
            return Err(self.range("decoder", "empty", range));
        }
        let range = "one to ten numbers of seconds, each 1 to 86400";
        let few = (1..=10).contains(&self.decoder_retry_s.len());
        let bad = self.decoder_retry_s.iter().find(|seconds| !(1..=86_400).contains(*seconds));
        match bad {
            Some(seconds) => Err(self.range("decoder_retry_s", seconds, range)),
            None if !few => Err(self.range("decoder_retry_s", "a list of another length", range)),
            None => Ok(()),
        }
    }

    fn check_pattern(&self, pattern: &TestPatternSource) -> Result<(), SettingsError> {
        for (field, px) in [
            ("source.test-pattern.width_px", pattern.width_px),
            ("source.test-pattern.height_px", pattern.height_px),
        ] {
            if !(16..=8192).contains(&px) {
                return Err(self.range(field, px, "16 to 8192"));
            }
        }
        if !(1..=240).contains(&pattern.fps) {
            return Err(self.range("source.test-pattern.fps", pattern.fps, "1 to 240"));
        }
        if pattern.frames.is_some_and(|frames| frames == 0 || frames > i32::MAX as u32) {
            return Err(self.range("source.test-pattern.frames", 0, "1 or more, or left out"));
        }
        self.check_live()
    }

    fn check_live(&self) -> Result<(), SettingsError> {
        if self.start_time.is_some() {
            return Err(self.contradiction(
                "start_time: only a recording (source.file, source.uri) has one; remove it",
            ));
        }
        Ok(())
    }

    fn check_picture(&self) -> Result<(), SettingsError> {
        if let Some((field, value, range)) = self.picture.range_problem() {
            return Err(self.range(field, value, range));
        }
        if self.picture.contradicts_itself() {
            return Err(self.contradiction(
                "picture.rotate_as_marked turns as the stream says; remove it, or rotate_deg and mirror",
            ));
        }
        Ok(())
    }

    /// What detection is told of this camera.
    fn check_looking(&self) -> Result<(), SettingsError> {
        let checks =
            [self.motion.check(), self.report.check(), self.publish.check(), self.privacy.check()];
        checks.into_iter().try_for_each(|check| check.map_err(|out| self.out_of_range(out)))?;
        if self.publish.best_crop.is_some() && self.privacy.blur.is_some() {
            return Err(self.contradiction(
                "publish.best_crop and privacy.blur: the crop of a face would show what the blur \
                 is to hide; remove one of them",
            ));
        }
        self.check_blur()
    }

    /// What is published around a detection is the moments in which a face may be there and not be
    /// found: these pictures show it, unless it was blurred at this place shortly before.
    fn check_blur(&self) -> Result<(), SettingsError> {
        let (Some(blur), publish) = (&self.privacy.blur, &self.publish) else { return Ok(()) };
        if publish.before_ms > 0 {
            return Err(self.contradiction(
                "publish.before_ms and privacy.blur: the pictures before a detection show a face \
                 that was not found yet, and so was not blurred; remove one of them",
            ));
        }
        if publish.after_ms > blur.keep_ms {
            return Err(self.contradiction(
                "publish.after_ms and privacy.blur.keep_ms: the pictures after a detection would \
                 show the face where it is no longer blurred; after_ms must be at most keep_ms",
            ));
        }
        Ok(())
    }
}
