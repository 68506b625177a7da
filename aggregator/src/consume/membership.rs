//! What this instance works on: for readiness, the page, and whoever wonders why nothing comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use picket_wire::Topic;

/// One partition of one topic.
pub type PartitionId = (Topic, i32);

/// How a partition of this instance is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// Everything before it is stored.
    pub next_offset: i64,
    /// Records in the broker that are not yet stored, when known.
    pub lag: Option<i64>,
    /// Reading waits for writing.
    pub paused: bool,
    /// Work on it stopped and needs a person, or another owner.
    pub stopped: bool,
}

/// This instance's part of the group's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether the group has told this instance its part, even if it is nothing.
    pub joined: bool,
    /// Its partitions.
    pub partitions: BTreeMap<PartitionId, PartitionState>,
}

impl Membership {
    /// Whether there are more instances than partitions, and this one is too many.
    pub fn without_partition(&self) -> bool {
        self.joined && self.partitions.is_empty()
    }
}

/// When the stage last turned, for the watchdog. It turns once a second at least, also while the
/// broker or MongoDB is away: only a stuck program stops it.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    last_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begin: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Progress {
    /// Marks a turn.
    pub fn beat(&self) {
        let now_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long ago the last turn was.
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.begin.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_without_partition_only_after_the_group_said_so() {
        let mut membership = Membership::default();
        assert!(!membership.without_partition());
        membership.joined = true;
        assert!(membership.without_partition());
        membership.partitions.insert((Topic::Frames, 0), PartitionState::default());
        assert!(!membership.without_partition());
    }
}
