//! Headers, on every message.

use std::fmt;

use jiff::Timestamp;

use crate::id;
use crate::observation::{ClockState, Stamp};
use crate::reject::Reject;

/// Schema name and version.
pub const SCHEMA: &str = "picket-schema";
/// Which body.
pub const KIND: &str = "picket-kind";
/// Id of the record.
pub const ID: &str = "picket-id";
/// Device.
pub const DEVICE: &str = "picket-device";
/// Camera; absent from status.
pub const CAMERA: &str = "picket-camera";
/// Lane; absent from status.
pub const LANE: &str = "picket-lane";
/// Monotonic microseconds since the epoch's start.
pub const MONO_US: &str = "picket-mono-us";
/// Wall time; an empty value stands for null.
pub const CAPTURED_AT: &str = "picket-captured-at";
/// State of the wall clock.
pub const CLOCK: &str = "picket-clock";
/// Frames: pixels.
pub const WIDTH: &str = "picket-width";
/// Frames: pixels.
pub const HEIGHT: &str = "picket-height";
/// Frames: what was made unrecognisable, `none` if nothing.
pub const REDACTED: &str = "picket-redacted";
/// Frames: `image/jpeg`.
pub const CONTENT_TYPE: &str = "content-type";

/// All of them.
const ALL: [&str; 13] = [
    SCHEMA,
    KIND,
    ID,
    DEVICE,
    CAMERA,
    LANE,
    MONO_US,
    CAPTURED_AT,
    CLOCK,
    WIDTH,
    HEIGHT,
    REDACTED,
    CONTENT_TYPE,
];

/// Major version of every schema of this build; another one is refused.
pub const SCHEMA_MAJOR: u32 = 1;
/// Minor version: rises when fields are added.
pub const SCHEMA_MINOR: u32 = 0;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A frame that was looked at.
    Observation,
    /// Frames that were not looked at.
    Skip,
    /// What was dropped.
    Gap,
    /// Begin of an epoch.
    Epoch,
    /// Relation of the clocks.
    Clock,
    /// The device's chain.
    Certificate,
    /// A picture.
    Frame,
    /// A part of a picture.
    Crop,
    /// A heartbeat.
    Status,
    /// A version of a track, from the centre.
    Track,
    /// Up to where a camera is complete, from the centre.
    Complete,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Observation,
        Self::Skip,
        Self::Gap,
        Self::Epoch,
        Self::Clock,
        Self::Certificate,
        Self::Frame,
        Self::Crop,
        Self::Status,
        Self::Track,
        Self::Complete,
    ];

    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observation => "observation",
            Self::Skip => "skip",
            Self::Gap => "gap",
            Self::Epoch => "epoch",
            Self::Clock => "clock",
            Self::Certificate => "certificate",
            Self::Frame => "frame",
            Self::Crop => "crop",
            Self::Status => "status",
            Self::Track => "track",
            Self::Complete => "complete",
        }
    }

    /// The schema header's value that this build writes.
    pub fn schema(self) -> String {
        format!("picket.{self}/{SCHEMA_MAJOR}.{SCHEMA_MINOR}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of a camera's two queues a record took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Sent as it was captured.
    Live,
    /// Kept through an outage or a restart, and sent later.
    Backlog,
}

impl Lane {
    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backlog => "backlog",
        }
    }
}

/// The headers of a received message.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(pub &'a [(String, Vec<u8>)]);

impl<'a> Headers<'a> {
    /// The value of a header, which must be there and be text.
    pub fn text(&self, name: &'static str) -> Result<&'a str, Reject> {
        self.optional(name)?.ok_or(Reject::HeaderMissing { name })
    }

    fn optional(&self, name: &'static str) -> Result<Option<&'a str>, Reject> {
        let Some((_, value)) = self.0.iter().find(|(key, _)| key == name) else {
            return Ok(None);
        };
        std::str::from_utf8(value).map(Some).map_err(|_| invalid(name, "not UTF-8"))
    }

    pub(crate) fn kind(&self) -> Result<Kind, Reject> {
        let text = self.text(KIND)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| invalid(KIND, text))
    }

    /// Checks that the schema is the one of `kind`, in a version that this build reads.
    pub(crate) fn check_schema(&self, kind: Kind) -> Result<(), Reject> {
        let text = self.text(SCHEMA)?;
        let parse = || {
            let (name, version) = text.strip_prefix("picket.")?.split_once('/')?;
            let (major, minor) = version.split_once('.')?;
            id::number(minor)?;
            Some((name, id::number(major)?))
        };
        match parse() {
            Some((_, major)) if major != u64::from(SCHEMA_MAJOR) => {
                Err(Reject::UnknownMajor { schema: text.chars().take(120).collect() })
            }
            Some((name, _)) if name == kind.as_str() => Ok(()),
            _ => Err(invalid(SCHEMA, text)),
        }
    }

    pub(crate) fn lane(&self) -> Result<Lane, Reject> {
        match self.text(LANE)? {
            "live" => Ok(Lane::Live),
            "backlog" => Ok(Lane::Backlog),
            other => Err(invalid(LANE, other)),
        }
    }

    pub(crate) fn stamp(&self) -> Result<Stamp, Reject> {
        let mono_us = self.number(MONO_US)?;
        let captured_at = match self.text(CAPTURED_AT)? {
            "" => None,
            text => Some(text.parse::<Timestamp>().map_err(|_| invalid(CAPTURED_AT, text))?),
        };
        let clock = match self.text(CLOCK)? {
            "synchronised" => ClockState::Synchronised,
            "unsynchronised" => ClockState::Unsynchronised,
            "unset" => ClockState::Unset,
            other => return Err(invalid(CLOCK, other)),
        };
        Ok(Stamp { mono_us, captured_at, clock })
    }

    /// Each number has one way only to be written, and fits 63 bits.
    pub(crate) fn number(&self, name: &'static str) -> Result<u64, Reject> {
        let text = self.text(name)?;
        id::number(text).ok_or_else(|| invalid(name, text))
    }

    /// Refuses headers that stand twice: one reader would take the first, another the last.
    pub(crate) fn check_once(&self) -> Result<(), Reject> {
        let times = |name: &str| self.0.iter().filter(|(key, _)| key == name).count();
        match ALL.into_iter().find(|name| times(name) > 1) {
            Some(name) => Err(invalid(name, "stands there more than once")),
            None => Ok(()),
        }
    }

    pub(crate) fn is_absent(&self, name: &'static str) -> bool {
        !self.0.iter().any(|(key, _)| key == name)
    }
}

pub(crate) fn invalid(name: &'static str, value: impl fmt::Display) -> Reject {
    Reject::HeaderInvalid { name, value: value.to_string().chars().take(120).collect() }
}
