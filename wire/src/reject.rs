//! Why a message is refused.

use crate::observation::RangeError;
use crate::topic::Topic;

/// Why a message was refused. Its [`code`](Reject::code) is the dead letter's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// A message without a value.
    #[error("the value is empty")]
    Empty,
    /// Larger than its topic takes.
    #[error("the value has {bytes} bytes, over the {limit} of its topic")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most.
        limit: u32,
    },
    /// A header that every message of this kind has.
    #[error("the header {name} is missing")]
    HeaderMissing {
        /// Which.
        name: &'static str,
    },
    /// A header that says nothing known.
    #[error("the header {name} has the invalid value {value:?}")]
    HeaderInvalid {
        /// Which.
        name: &'static str,
        /// Head of what it holds.
        value: String,
    },
    /// Written by a newer major version: to be retried after an upgrade.
    #[error("the schema {schema:?} is of a major version that this build does not read")]
    UnknownMajor {
        /// What it says.
        schema: String,
    },
    /// A kind on a topic where it does not belong.
    #[error("a message of kind {kind:?} does not belong on the topic {topic}")]
    KindOnWrongTopic {
        /// Which kind.
        kind: &'static str,
        /// Which topic.
        topic: Topic,
    },
    /// Key, headers and body contradict each other.
    #[error("{what} disagree")]
    Disagree {
        /// Which two.
        what: &'static str,
    },
    /// The body is not what the schema says.
    #[error("the body is not valid: {why}")]
    BodyInvalid {
        /// What the parser says.
        why: String,
    },
    /// The body is well-formed, its numbers cannot be true.
    #[error("the body is out of range: {0}")]
    OutOfRange(#[from] RangeError),
    /// A picture that is not a JPEG.
    #[error("the value is not a JPEG picture")]
    NotJpeg,
}

impl Reject {
    /// The reason as a word, for metrics and dead letters.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge { .. } => "too-large",
            Self::HeaderMissing { .. } => "header-missing",
            Self::HeaderInvalid { .. } => "header-invalid",
            Self::UnknownMajor { .. } => "unknown-major",
            Self::KindOnWrongTopic { .. } => "wrong-topic",
            Self::Disagree { .. } => "disagree",
            Self::BodyInvalid { .. } => "body-invalid",
            Self::OutOfRange(_) => "out-of-range",
            Self::NotJpeg => "not-jpeg",
        }
    }
}
