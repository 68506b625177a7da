//! What the caller of a failed step does next. Loops branch on this alone, never on the kind of
//! error.

/// The answer that each error gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same step may succeed later: try again with back-off; nothing is lost meanwhile.
    Retry,
    /// This one item will never succeed: put it aside, count it, go on with the next.
    Discard,
    /// Going on would do harm, or needs a person.
    Stop,
}
