//! By what a log is told from another one of the same name, while it is read.
//!
//! The client reads on where it stands when a topic is deleted and made anew, and says so only where the
//! new log is shorter. From then on what was read last is of the new log and tells nothing of the old
//! one. So a mark stays behind until it was seen that the log still is the one that it is of.

use crate::store::checkpoints::{LogMark, PartitionCheckpoint};

/// The marks of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// When it was looked at last, this stood before it, and it was the same log as ever.
    pub seen: Option<LogMark>,
    /// What was read since stands before this. It may be of another log.
    pub read: Option<LogMark>,
}

impl Marks {
    /// As a checkpoint has them.
    pub fn of(checkpoint: &PartitionCheckpoint) -> Self {
        let read = checkpoint.next_offset.zip(checkpoint.newest_at);
        let read = read.map(|(offset, newest_at)| LogMark { offset, newest_at });
        Self { seen: checkpoint.mark, read }
    }

    /// A batch was read: up to this offset, the newest of it appended at this time.
    pub fn read(&mut self, offset: i64, newest_at: Option<mongodb::bson::DateTime>) {
        let before = self.read.map(|mark| mark.newest_at);
        self.read = newest_at.max(before).map(|newest_at| LogMark { offset, newest_at });
    }

    /// Whether something was read since it was looked at.
    pub fn has_moved(&self) -> bool {
        self.read != self.seen
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn what_is_read_moves_one_mark_and_leaves_the_other() {
        let at = |offset, ms| LogMark { offset, newest_at: DateTime::from_millis(ms) };
        let mut marks = Marks { seen: Some(at(5, 50)), read: Some(at(5, 50)) };
        assert!(!marks.has_moved());
        marks.read(7, Some(DateTime::from_millis(70)));
        assert_eq!(marks, Marks { seen: Some(at(5, 50)), read: Some(at(7, 70)) });
        assert!(marks.has_moved());
        // Another leader's clock may be behind.
        marks.read(8, Some(DateTime::from_millis(60)));
        assert_eq!(marks.read, Some(at(8, 70)));
    }
}
