//! Dead letters: the original message, untouched, with a reason.
//!
//! Key, value and headers are those of the original, so that putting it back is a copy without the
//! headers below. A message that is too long for the topic of dead letters is cut: two more headers say
//! so, and it cannot be put back.

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

/// Of a letter that is cut: how long the value was, in bytes.
pub const VALUE_BYTES: &str = "picket-dead-value-bytes";
/// Of a letter that is cut: SHA-256 of the whole value, hex.
pub const VALUE_SHA256: &str = "picket-dead-value-sha256";

/// An id that is already stored came again with other bytes.
pub const IDENTITY_CONFLICT: &str = "identity-conflict";

/// Whether a header was added by the centre.
pub fn is_own_header(name: &str) -> bool {
    [TOPIC, PARTITION, OFFSET, REASON, DETAIL, VALUE_BYTES, VALUE_SHA256].contains(&name)
}
