//! What is sent next: pure choice, without I/O or clock.
//!
//! Live goes before backlog, and in each the records before the pictures, so that on a slow link
//! observations stay live whatever the pictures weigh. The backlog has a guaranteed share, counted
//! in bytes: by records, one picture in four would leave a slow link nothing for what is live.

use picket_wire::{Lane, Topic};

use super::bulk::Class;

/// One of the four queues that wait to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Live or backlog.
    pub lane: Lane,
    /// Observations or frames.
    pub topic: Topic,
}

impl Queue {
    /// All four, in the order in which they are preferred.
    pub const ALL: [Self; 4] = [
        Self { lane: Lane::Live, topic: Topic::Observations },
        Self { lane: Lane::Live, topic: Topic::Frames },
        Self { lane: Lane::Backlog, topic: Topic::Observations },
        Self { lane: Lane::Backlog, topic: Topic::Frames },
    ];

    /// How soon what it holds must be there.
    pub fn class(self) -> Class {
        match (self.lane, self.topic) {
            (Lane::Live, Topic::Observations) => Class::Prompt,
            _ => Class::Bulk,
        }
    }

    /// Its place in [`Queue::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|queue| *queue == self).unwrap_or(0)
    }
}

/// Shares the link between the lanes.
#[derive(Debug)]
pub struct Lanes {
    backlog_one_in: u32,
    /// Bytes that the backlog may send before it is live's turn; negative after a large picture.
    credit: i64,
}

impl Lanes {
    /// One byte in `backlog_one_in` is of the backlog while both wait.
    pub fn new(backlog_one_in: u32) -> Self {
        Self { backlog_one_in: backlog_one_in.max(2), credit: 0 }
    }

    /// The queue to send from, of those that have something.
    pub fn choose(&self, waiting: impl Fn(Queue) -> bool) -> Option<Queue> {
        let of = |lane| move |queue: &Queue| queue.lane == lane;
        let first = |lane| Queue::ALL.into_iter().filter(of(lane)).find(|queue| waiting(*queue));
        match (first(Lane::Live), first(Lane::Backlog)) {
            (Some(_), Some(backlog)) if self.credit > 0 => Some(backlog),
            (live, backlog) => live.or(backlog),
        }
    }

    /// Notes what was sent. What the backlog sends while nothing live waits is not held against it.
    pub fn sent(&mut self, lane: Lane, bytes: u64, other_lane_waits: bool) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 2).max(1);
        if !other_lane_waits {
            self.credit = self.credit.min(0);
            return;
        }
        let one_in = i64::from(self.backlog_one_in);
        self.credit = match lane {
            // Rounded up: a live byte always earns the backlog something.
            Lane::Live => self.credit.saturating_add(bytes / (one_in - 1) + 1),
            Lane::Backlog => self.credit.saturating_sub(bytes),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes sent per lane when all queues are always full.
    fn shares(sizes: impl Fn(Queue) -> u64, rounds: usize) -> (u64, u64) {
        let mut lanes = Lanes::new(4);
        let (mut live, mut backlog) = (0, 0);
        for _ in 0..rounds {
            let queue = lanes.choose(|_| true).unwrap();
            let bytes = sizes(queue);
            match queue.lane {
                Lane::Live => live += bytes,
                Lane::Backlog => backlog += bytes,
            }
            lanes.sent(queue.lane, bytes, true);
        }
        (live, backlog)
    }

    #[test]
    fn backlog_gets_its_share_and_no_more() {
        let (live, backlog) = shares(|_| 500, 10_000);
        assert!((2..=3).contains(&(live / backlog)), "{live} {backlog}");
        let sizes = |queue: Queue| {
            if queue.lane == Lane::Live { 500 } else { 100_000 }
        };
        let (live, backlog) = shares(sizes, 100_000);
        assert!((2..=3).contains(&(live / backlog)), "{live} {backlog}");
    }

    #[test]
    fn live_goes_first_and_records_before_pictures() {
        let lanes = Lanes::new(4);
        assert_eq!(lanes.choose(|_| true), Some(Queue::ALL[0]));
        assert_eq!(lanes.choose(|queue| queue.lane == Lane::Backlog), Some(Queue::ALL[2]));
        assert_eq!(lanes.choose(|queue| queue.topic == Topic::Frames), Some(Queue::ALL[1]));
        assert_eq!(lanes.choose(|_| false), None);
    }

    #[test]
    fn backlog_that_drained_alone_owes_nothing_later() {
        let mut lanes = Lanes::new(4);
        for _ in 0..1000 {
            lanes.sent(Lane::Backlog, 100_000, false);
        }
        lanes.sent(Lane::Live, 300, true);
        assert_eq!(lanes.choose(|_| true).unwrap().lane, Lane::Backlog);
    }
}
