//! Topics: their names and what the broker must know of them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The prefix unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "picket";

/// Partitions of a topic unless configured otherwise; fixed once a topic is made, because the
/// partition of a camera follows from it.
pub const DEFAULT_PARTITIONS: u32 = 48;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
const HOUR_MS: i64 = 60 * 60 * 1000;

/// What a topic carries.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Observations, skips, gaps, epochs, clocks, certificates; by camera.
    Observations,
    /// JPEG pictures; by camera.
    Frames,
    /// Heartbeats; by device.
    Status,
    /// Tracks, from the centre.
    Tracks,
    /// Messages that nobody could read, from the centre.
    DeadLetter,
}

impl Topic {
    /// All topics, in the order of the design.
    pub const ALL: [Self; 5] =
        [Self::Observations, Self::Frames, Self::Status, Self::Tracks, Self::DeadLetter];
    /// Those of a camera's records and pictures, which the device keeps until they are acknowledged.
    pub const OF_CAMERAS: [Self; 2] = [Self::Observations, Self::Frames];
    /// The topics that devices write.
    pub const OF_DEVICES: [Self; 3] = [Self::Observations, Self::Frames, Self::Status];

    /// The name without the prefix.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Observations => "observations",
            Self::Frames => "frames",
            Self::Status => "status",
            Self::Tracks => "tracks",
            Self::DeadLetter => "dead-letter",
        }
    }

    /// Longest message in bytes, key and headers included. Dead letters carry any other message
    /// whole and need room for the reason beside it; one that unpacks to more is cut.
    pub fn max_message_bytes(self) -> u32 {
        match self {
            Self::Observations | Self::Tracks => MIB,
            Self::Status => 256 * KIB,
            Self::Frames => 4 * MIB,
            Self::DeadLetter => 4 * MIB + 64 * KIB,
        }
    }

    /// How long the broker keeps a message, in milliseconds.
    pub fn retention_ms(self) -> i64 {
        match self {
            Self::Observations | Self::Tracks => 7 * 24 * HOUR_MS,
            Self::Frames => 3 * 24 * HOUR_MS,
            Self::Status => 24 * HOUR_MS,
            Self::DeadLetter => 30 * 24 * HOUR_MS,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix())
    }
}

/// The topics' names under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicNames {
    prefix: String,
}

impl TopicNames {
    /// Names under `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The full name of a topic.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.suffix())
    }

    /// Which topic a full name is, if it is one of these.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        let suffix = name.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        Topic::ALL.into_iter().find(|topic| topic.suffix() == suffix)
    }
}

impl Default for TopicNames {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}
