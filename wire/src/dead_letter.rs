//! Dead letters: the original message, untouched, with a reason.
//!
//! Key, value and headers are those of the original, so that putting it back is a copy without the
//! headers below.

/// The topic it came from.
pub const TOPIC: &str = "picket-dead-topic";
/// The partition it came from.
pub const PARTITION: &str = "picket-dead-partition";
/// Its offset there.
pub const OFFSET: &str = "picket-dead-offset";
/// The reason, as a word.
pub const REASON: &str = "picket-dead-reason";
/// The reason, as a sentence.
pub const DETAIL: &str = "picket-dead-detail";

/// An id that is already stored came again with other bytes.
pub const IDENTITY_CONFLICT: &str = "identity-conflict";

/// Whether a header was added by the centre.
pub fn is_own_header(name: &str) -> bool {
    [TOPIC, PARTITION, OFFSET, REASON, DETAIL].contains(&name)
}
