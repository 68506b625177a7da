//! Where to begin reading a partition.

/// The first and the next offset of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest record that the broker still has.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
}

/// Where to begin, and whether that is where reading should have gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// As the checkpoint says, or at the log's beginning without one.
    At(i64),
    /// The checkpoint lies outside the log: records expired before they were read, or the topic was
    /// made anew. Reading goes on at the oldest record; the ledger keeps what is there from being
    /// stored twice.
    OutOfRange {
        /// Where reading should have gone on.
        from: i64,
        /// Where it does.
        to: i64,
    },
}

impl Begin {
    /// The decision for a checkpoint's offset.
    pub fn decide(checkpoint: Option<i64>, log: Watermarks) -> Self {
        match checkpoint {
            None => Self::At(log.low),
            Some(offset) if (log.low..=log.high).contains(&offset) => Self::At(offset),
            Some(offset) => Self::OutOfRange { from: offset, to: log.low },
        }
    }

    /// The offset to read first.
    pub fn offset(self) -> i64 {
        match self {
            Self::At(offset) => offset,
            Self::OutOfRange { to, .. } => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Watermarks = Watermarks { low: 10, high: 20 };

    #[test]
    fn without_a_checkpoint_the_oldest_record_comes_first() {
        assert_eq!(Begin::decide(None, LOG), Begin::At(10));
    }

    #[test]
    fn a_checkpoint_within_the_log_or_at_its_end_stands() {
        for offset in [10, 15, 20] {
            assert_eq!(Begin::decide(Some(offset), LOG), Begin::At(offset));
        }
    }

    #[test]
    fn a_checkpoint_before_or_behind_the_log_is_named_and_reading_begins_at_the_oldest() {
        for from in [0, 9, 21] {
            assert_eq!(Begin::decide(Some(from), LOG), Begin::OutOfRange { from, to: 10 });
        }
        let empty = Watermarks { low: 0, high: 0 };
        assert_eq!(Begin::decide(Some(5), empty).offset(), 0);
    }
}
