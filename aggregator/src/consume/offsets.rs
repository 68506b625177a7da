//! Where to begin reading a partition.

/// The first and the next offset of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest record that the broker still has.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
}

/// Why reading does not go on where the checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The checkpoint lies outside the log: records expired before they were read, or the topic was
    /// made anew and is shorter.
    OutOfRange,
    /// The topic was made anew: where all that was read stood, the log holds what was appended later.
    Recreated,
    /// The log is another cluster's, whose offsets mean nothing here.
    OtherCluster,
}

impl Break {
    /// Its name in checkpoints, in the log and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfRange => "log-out-of-range",
            Self::Recreated => "topic-recreated",
            Self::OtherCluster => "other-cluster",
        }
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::OutOfRange => {
                "the log does not hold the checkpoint's offset. Records expired before they were \
                 read, or the topic was made anew"
            }
            Self::Recreated => {
                "the log holds newer records before the checkpoint's offset. The topic was made \
                 anew; what it held and was not read is lost"
            }
            Self::OtherCluster => {
                "the brokers are another cluster's than those that the checkpoint was made with. \
                 What was not read there, and is not here, is lost"
            }
        }
    }
}

/// What tells one log from another of the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// The cluster is another one than the checkpoint's.
    pub other_cluster: bool,
    /// Before one of the marks of the checkpoint the log holds what was appended later than all that
    /// stood there.
    pub recreated: bool,
}

/// Where to begin, and whether that is where reading should have gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// As the checkpoint says, or at the log's beginning without one.
    At(i64),
    /// Not there. Reading goes on at the oldest record; the ledger keeps what is there from being
    /// stored twice.
    Broken {
        /// Why.
        why: Break,
        /// Where reading should have gone on.
        from: i64,
        /// Where it does.
        to: i64,
    },
}

impl Begin {
    /// The decision for a checkpoint's offset.
    pub fn decide(checkpoint: Option<i64>, log: Watermarks, signs: Signs) -> Self {
        let Some(from) = checkpoint else { return Self::At(log.low) };
        let why = if signs.other_cluster {
            Break::OtherCluster
        } else if !(log.low..=log.high).contains(&from) {
            Break::OutOfRange
        } else if signs.recreated {
            Break::Recreated
        } else {
            return Self::At(from);
        };
        Self::Broken { why, from, to: log.low }
    }

    /// Whether it is another log than the one that the checkpoint was made with, and not the same one
    /// of which the oldest records have expired.
    pub fn is_another_log(self) -> bool {
        match self {
            Self::At(_) => false,
            Self::Broken { why, from, to } => why != Break::OutOfRange || to < from,
        }
    }

    /// The offset to read first.
    pub fn offset(self) -> i64 {
        match self {
            Self::At(offset) => offset,
            Self::Broken { to, .. } => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Watermarks = Watermarks { low: 10, high: 20 };
    const SAME: Signs = Signs { other_cluster: false, recreated: false };

    #[test]
    fn without_a_checkpoint_the_oldest_record_comes_first() {
        assert_eq!(Begin::decide(None, LOG, SAME), Begin::At(10));
        let other = Signs { other_cluster: true, recreated: true };
        assert_eq!(Begin::decide(None, LOG, other), Begin::At(10));
    }

    #[test]
    fn a_checkpoint_within_the_log_or_at_its_end_stands() {
        for offset in [10, 15, 20] {
            assert_eq!(Begin::decide(Some(offset), LOG, SAME), Begin::At(offset));
        }
    }

    #[test]
    fn a_checkpoint_before_or_behind_the_log_is_named_and_reading_begins_at_the_oldest() {
        for from in [0, 9, 21] {
            let broken = Begin::Broken { why: Break::OutOfRange, from, to: 10 };
            assert_eq!(Begin::decide(Some(from), LOG, SAME), broken);
        }
        let empty = Watermarks { low: 0, high: 0 };
        assert_eq!(Begin::decide(Some(5), empty, SAME).offset(), 0);
    }

    #[test]
    fn a_log_with_newer_records_before_the_checkpoint_is_another_one() {
        let signs = Signs { recreated: true, ..SAME };
        let broken = Begin::Broken { why: Break::Recreated, from: 15, to: 10 };
        assert_eq!(Begin::decide(Some(15), LOG, signs), broken);
    }

    #[test]
    fn offsets_of_another_cluster_mean_nothing_even_within_the_log() {
        let signs = Signs { other_cluster: true, recreated: false };
        let broken = Begin::Broken { why: Break::OtherCluster, from: 15, to: 10 };
        assert_eq!(Begin::decide(Some(15), LOG, signs), broken);
    }

    #[test]
    fn where_records_only_expired_it_is_the_same_log_and_otherwise_another() {
        let begin = |from, signs| Begin::decide(Some(from), LOG, signs).is_another_log();
        assert!(!begin(9, SAME), "expired");
        assert!(!begin(15, SAME), "it goes on");
        assert!(begin(21, SAME), "made anew, and shorter");
        assert!(begin(15, Signs { recreated: true, ..SAME }), "made anew, and longer");
        assert!(begin(9, Signs { other_cluster: true, ..SAME }), "another cluster's");
    }
}
