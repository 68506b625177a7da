//! Bodies of the observations topic, told apart by `picket-kind`.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{EpochId, ObservationId};

/// Most detections that one observation may hold.
pub const MAX_DETECTIONS: usize = 4096;
/// Most landmarks of one detection.
pub const MAX_LANDMARKS: usize = 68;
/// Largest coordinate in pixels, either way of zero; a box may stand out of its frame.
pub const MAX_COORDINATE_PX: f32 = 1_000_000.0;
/// Largest frame width or height.
pub const MAX_FRAME_PX: u32 = 65_535;

/// Most frames that one skip or gap may stand for: a thousand years at 30 frames a second, and so
/// far below 64 bits that no sum of counts at the centre can overflow.
pub const MAX_RUN: u64 = 1 << 40;

/// How far the device's wall clock could be trusted when a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// Kept by a time source.
    Synchronised,
    /// Set once, running free.
    Unsynchronised,
    /// Never set: `captured_at` is null.
    Unset,
}

impl ClockState {
    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronised => "synchronised",
            Self::Unsynchronised => "unsynchronised",
            Self::Unset => "unset",
        }
    }
}

/// When a record was made, by both clocks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stamp {
    /// CLOCK_BOOTTIME microseconds since the epoch's start; of a recording, its media time.
    pub mono_us: u64,
    /// Wall time, RFC 3339 in UTC; null when the clock was never set.
    #[schemars(with = "Option<String>")]
    pub captured_at: Option<Timestamp>,
    /// Whether the wall time can be trusted.
    pub clock: ClockState,
}

/// A short word that says why: `[a-z0-9-]`, at most 64 bytes. An open set, so that a reader takes
/// the reasons of a newer agent.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(#[schemars(regex(pattern = r"^[a-z0-9-]{1,64}$"))] String);

impl Reason {
    /// The process ended before the frame was committed to the spool.
    pub const CRASH: &'static str = "crash";
    /// Nothing was captured, since somebody paused the camera: the one `seq` stands for all that time.
    pub const PAUSED: &'static str = "paused";
    /// Nothing was captured, since the camera's schedule has it closed; as with `paused`.
    pub const SCHEDULE: &'static str = "schedule";
    /// The detector had no time for the frame.
    pub const DETECTOR_BUSY: &'static str = "detector-busy";
    /// The detector failed on the frame.
    pub const DETECTOR_FAILED: &'static str = "detector-failed";
    /// Nothing moved since the frame that was looked at last.
    pub const NO_MOTION: &'static str = "no-motion";
    /// The spool was at its cap.
    pub const SPOOL_FULL: &'static str = "spool-full";
    /// It waited in the spool for longer than was allowed.
    pub const SPOOL_EXPIRED: &'static str = "spool-expired";
    /// The row in the spool could not be read any more.
    pub const SPOOL_DAMAGED: &'static str = "spool-damaged";
    /// The key that the row in the spool was encrypted by is gone.
    pub const SPOOL_KEY_LOST: &'static str = "spool-key-lost";
    /// The spool could not be written.
    pub const SPOOL_FAILED: &'static str = "spool-failed";
    /// Larger than the topic takes.
    pub const TOO_LARGE: &'static str = "too-large";
    /// The broker refused the message for good.
    pub const REFUSED_BY_BROKER: &'static str = "refused-by-broker";
    /// The picture could not be encoded.
    pub const ENCODE_FAILED: &'static str = "encode-failed";
    /// What must not be seen could not be made unrecognisable, so the picture was not kept.
    pub const REDACT_FAILED: &'static str = "redact-failed";

    /// The month's bytes were used up, so that only observations go.
    pub const BUDGET: &'static str = "budget";

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Reason {
    /// For the constants above; a word that breaks the rule becomes "other" rather than a bad record.
    fn from(word: &'static str) -> Self {
        Self::try_from(word.to_owned()).unwrap_or_else(|_| Self("other".to_owned()))
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;
    fn try_from(word: String) -> Result<Self, ReasonError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=64).contains(&word.len()) && word.bytes().all(fits) {
            Ok(Self(word))
        } else {
            Err(ReasonError)
        }
    }
}

/// A reason that is not a short word.
#[derive(Debug, thiserror::Error)]
#[error("a reason must be 1 to 64 of a-z, 0-9 and '-'")]
pub struct ReasonError;

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of the picture of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FrameFate {
    /// It is on the frames topic.
    Published,
    /// It was not kept.
    Withheld,
    /// A detection soon after may publish it. If it does, the picture comes before that detection's
    /// observation; else it was not kept, and nothing more is said of it.
    Possible,
}

/// What found the detections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detector {
    /// Name of the model in the manifest.
    pub name: String,
    /// SHA-256 of the model's file, hex.
    pub model_sha256: String,
}

/// One thing found in a frame. Its place in the list is its index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Detection {
    /// x, y of the upper left corner, width, height; pixels of the captured frame, as it is after it
    /// was turned, mirrored and cut.
    #[serde(rename = "box")]
    pub box_px: [f32; 4],
    /// Confidence, 0 to 1.
    pub score: f32,
    /// What it is.
    pub class: String,
    /// x, y; pixels of the captured frame. Of a face: right eye, left eye, nose tip, right and left
    /// corner of the mouth, right being the person's.
    #[serde(default)]
    pub landmarks: Vec<[f32; 2]>,
    /// How useful its picture is; null when not measured.
    #[serde(default)]
    pub quality: Option<Quality>,
}

/// How useful the picture of a face is, in parts and in one number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quality {
    /// The parts in one number, 0 to 1.
    pub score: f32,
    /// The shorter side of the box, pixels of the captured frame.
    pub size_px: f32,
    /// Variance of the Laplacian of the box's luma, brought to 64x64 pixels: the sharper the higher.
    pub sharpness: f32,
    /// Estimate of how far the head is turned, degrees, positive towards the person's left; null
    /// without landmarks.
    #[serde(default)]
    pub yaw_deg: Option<f32>,
    /// How far the line of the eyes is tilted in the picture, degrees, positive clockwise; null
    /// without landmarks.
    #[serde(default)]
    pub roll_deg: Option<f32>,
}

/// A frame that was looked at; the list is empty if nothing was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// Its id.
    pub id: ObservationId,
    /// When it was captured.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Pixels of the captured frame.
    pub frame_width: u32,
    /// Pixels of the captured frame.
    pub frame_height: u32,
    /// What looked.
    pub detector: Detector,
    /// Share of the picture that changed since the frame that was looked at before, 0 to 1; null
    /// without a motion gate.
    #[serde(default)]
    pub motion_score: Option<f32>,
    /// What becomes of its picture.
    pub frame: FrameFate,
    /// What was found.
    pub detections: Vec<Detection>,
}

/// A run of frames that were captured and not looked at. For a tracker: no evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Skip {
    /// Id of the first frame of the run.
    pub id: ObservationId,
    /// When the first frame was captured.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// First `seq`.
    pub first: u64,
    /// Last `seq`.
    pub last: u64,
    /// Why nobody looked.
    pub reason: Reason,
}

/// What a gap took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GapOf {
    /// Observations (and their frames).
    Observations,
    /// Frames alone; their observations are not affected.
    Frames,
    /// Crops alone; their observations and frames are not affected.
    Crops,
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// Id of the first dropped frame.
    pub id: ObservationId,
    /// When the gap was recorded.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// First `seq`.
    pub first: u64,
    /// Last `seq`.
    pub last: u64,
    /// How many were dropped: of `observations`, each `seq` from `first` to `last`.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// What was dropped.
    pub of: GapOf,
}

/// How the epoch before ended, as its successor found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviousEpoch {
    /// Which epoch.
    pub epoch: EpochId,
    /// Last `seq` that reached the spool.
    pub last_committed: u64,
    /// No `seq` beyond this one was ever given out: what a crash took lies between the two.
    pub reserved: u64,
}

/// The first record of each camera's epoch; its `seq` is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EpochStart {
    /// Id with `seq` 0.
    pub id: ObservationId,
    /// When the epoch began.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Null for a camera's first epoch.
    pub previous: Option<PreviousEpoch>,
    /// Version of the agent.
    pub agent_version: String,
}

/// The relation of monotonic and wall time in this epoch: both clocks read at the same moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockRelation {
    /// Id with the last `seq` given out before.
    pub id: ObservationId,
    /// Both clocks; `captured_at` is never null here.
    #[serde(flatten)]
    pub stamp: Stamp,
}

/// The device's certificate chain, once per key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceCertificate {
    /// Id with the last `seq` given out before.
    pub id: ObservationId,
    /// When it was first used.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// PEM certificates, the device's own first.
    pub chain_pem: Vec<String>,
}

/// Why a body that is well-formed JSON was still refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct RangeError {
    field: &'static str,
    why: String,
}

fn outside(field: &'static str, why: impl fmt::Display) -> RangeError {
    RangeError { field, why: why.to_string() }
}

fn check_fraction(field: &'static str, value: f32) -> Result<(), RangeError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(outside(field, format_args!("{value} is not between 0 and 1")))
    }
}

fn check_coordinate(field: &'static str, value: f32) -> Result<(), RangeError> {
    if value.is_finite() && value.abs() <= MAX_COORDINATE_PX {
        Ok(())
    } else {
        Err(outside(field, format_args!("{value} is not within {MAX_COORDINATE_PX} pixels")))
    }
}

fn check_run(id: &ObservationId, first: u64, last: u64) -> Result<(), RangeError> {
    if first == 0 || first > last || i64::try_from(last).is_err() {
        return Err(outside("first, last", format_args!("{first} to {last} is not a run")));
    }
    if last - first >= MAX_RUN {
        return Err(outside("first, last", format_args!("{first} to {last} is over {MAX_RUN}")));
    }
    if id.seq != first {
        return Err(outside("id", format_args!("its seq {} is not `first` {first}", id.seq)));
    }
    Ok(())
}

impl Detection {
    fn check(&self) -> Result<(), RangeError> {
        for value in self.box_px {
            check_coordinate("detections.box", value)?;
        }
        if self.box_px[2] < 0.0 || self.box_px[3] < 0.0 {
            return Err(outside("detections.box", "width or height below 0"));
        }
        check_fraction("detections.score", self.score)?;
        if let Some(quality) = &self.quality {
            quality.check()?;
        }
        if self.class.is_empty() || self.class.len() > 64 {
            return Err(outside("detections.class", "must have 1 to 64 bytes"));
        }
        if self.landmarks.len() > MAX_LANDMARKS {
            return Err(outside("detections.landmarks", format_args!("over {MAX_LANDMARKS}")));
        }
        for value in self.landmarks.iter().flatten() {
            check_coordinate("detections.landmarks", *value)?;
        }
        Ok(())
    }
}

impl Quality {
    fn check(&self) -> Result<(), RangeError> {
        check_fraction("detections.quality.score", self.score)?;
        check_coordinate("detections.quality.size_px", self.size_px)?;
        if self.size_px < 0.0 {
            return Err(outside("detections.quality.size_px", "below 0"));
        }
        // The variance of what lies within four times 255 either way.
        let sharpness = self.sharpness;
        if !(0.0..=1_040_400.0).contains(&sharpness) {
            let why = format_args!("{sharpness} is no variance of 8-bit samples");
            return Err(outside("detections.quality.sharpness", why));
        }
        for (field, angle, most) in [
            ("detections.quality.yaw_deg", self.yaw_deg, 90.0),
            ("detections.quality.roll_deg", self.roll_deg, 180.0),
        ] {
            if let Some(angle) = angle.filter(|angle| !(-most..=most).contains(angle)) {
                return Err(outside(field, format_args!("{angle} is not within {most} degrees")));
            }
        }
        Ok(())
    }
}

impl Observation {
    /// Refuses numbers that no camera can give, before they reach a tracker or a store.
    pub fn check(&self) -> Result<(), RangeError> {
        if self.id.seq == 0 {
            return Err(outside("id", "the seq of an observation begins at 1"));
        }
        for (field, px) in [("frame_width", self.frame_width), ("frame_height", self.frame_height)]
        {
            if !(1..=MAX_FRAME_PX).contains(&px) {
                return Err(outside(field, format_args!("{px} is not 1 to {MAX_FRAME_PX}")));
            }
        }
        if let Some(score) = self.motion_score {
            check_fraction("motion_score", score)?;
        }
        if self.detections.len() > MAX_DETECTIONS {
            return Err(outside("detections", format_args!("over {MAX_DETECTIONS}")));
        }
        self.detections.iter().try_for_each(Detection::check)
    }
}

impl Skip {
    /// Refuses a run that is none.
    pub fn check(&self) -> Result<(), RangeError> {
        check_run(&self.id, self.first, self.last)
    }
}

impl Gap {
    /// Refuses a run that is none, or a count that does not fit it.
    pub fn check(&self) -> Result<(), RangeError> {
        check_run(&self.id, self.first, self.last)?;
        let span = self.last - self.first + 1;
        let fits = match self.of {
            GapOf::Observations => self.count == span,
            GapOf::Frames | GapOf::Crops => (1..=span).contains(&self.count),
        };
        if fits {
            Ok(())
        } else {
            Err(outside("count", format_args!("{} in a run of {span}", self.count)))
        }
    }
}

impl EpochStart {
    /// Refuses a place other than the epoch's beginning, and bounds that contradict each other.
    pub fn check(&self) -> Result<(), RangeError> {
        if self.id.seq != 0 {
            return Err(outside("id", "the seq of an epoch record is 0"));
        }
        match &self.previous {
            Some(p) if p.last_committed > p.reserved || i64::try_from(p.reserved).is_err() => {
                Err(outside("previous", "last_committed lies beyond reserved"))
            }
            _ => Ok(()),
        }
    }
}

impl ClockRelation {
    /// Refuses a relation with one side.
    pub fn check(&self) -> Result<(), RangeError> {
        match self.stamp.captured_at {
            Some(_) => Ok(()),
            None => Err(outside("captured_at", "a clock record needs a wall time")),
        }
    }
}

impl DeviceCertificate {
    /// Refuses an empty or endless chain.
    pub fn check(&self) -> Result<(), RangeError> {
        if (1..=8).contains(&self.chain_pem.len()) {
            Ok(())
        } else {
            Err(outside("chain_pem", "must hold 1 to 8 certificates"))
        }
    }
}
