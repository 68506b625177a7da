//! The partitions that the group gave to this instance, and how each is.

use std::collections::HashMap;
use std::time::Instant;

use metrics::gauge;
use picket_wire::TopicNames;
use rdkafka::{Offset, TopicPartitionList};

use super::lag::LogEnds;
use super::marks::Marks;
use super::membership::{Membership, PartitionId, PartitionState};
use super::turn::Suspect;
use super::work::Work;
use crate::metrics as names;
use crate::store::checkpoints::LogMark;

/// A partition that the group gave to this instance.
#[derive(Default)]
pub struct Held {
    /// How it is, as others see it.
    pub state: PartitionState,
    /// The work on it, unless it is being taken over or has stopped.
    pub work: Option<Work>,
    /// Whether the client reads it.
    pub assigned: bool,
    /// When it is taken over again, if its work stopped.
    pub reopen_at: Option<Instant>,
    /// Everything before it was read from the broker.
    pub read: i64,
    /// By what its log is told from others.
    pub marks: Marks,
    /// What Kafka was told.
    mirrored: i64,
}

impl Held {
    /// Work that begins at an offset.
    pub fn at_work(work: Work, offset: i64, marks: Marks) -> Self {
        Self {
            state: PartitionState { next_offset: offset, ..PartitionState::default() },
            work: Some(work),
            assigned: true,
            reopen_at: None,
            read: offset,
            marks,
            mirrored: offset,
        }
    }

    /// Whether all that was read is stored, so that the client stands where a checkpoint would.
    fn is_idle(&self) -> bool {
        self.work.is_some() && self.read <= self.state.next_offset
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            work.abandon();
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct Holdings(pub HashMap<PartitionId, Held>);

impl Holdings {
    /// Which.
    pub fn ids(&self) -> Vec<PartitionId> {
        self.0.keys().copied().collect()
    }

    /// Takes the work of some of them out.
    pub fn take_works(&mut self, ids: &[PartitionId]) -> Vec<Work> {
        ids.iter().filter_map(|id| self.0.get_mut(id)?.work.take()).collect()
    }

    /// Those whose reading had paused and may go on.
    pub fn take_drained(&mut self, candidates: &[PartitionId]) -> Vec<PartitionId> {
        let mut drained = Vec::new();
        for id in candidates {
            let Some(held) = self.0.get_mut(id) else { continue };
            if held.work.as_ref().is_some_and(|work| work.sender.take_drained()) {
                held.state.paused = false;
                drained.push(*id);
            }
        }
        drained
    }

    /// Those whose work stopped and is due to be taken up again.
    pub fn due(&self, now: Instant) -> Vec<PartitionId> {
        let due = self.0.iter().filter(|(_, held)| held.reopen_at.is_some_and(|at| at <= now));
        due.map(|(id, _)| *id).collect()
    }

    /// Those whose worker has ended and is still counted on.
    pub fn without_worker(&self) -> Vec<PartitionId> {
        let ended = |held: &Held| held.work.as_ref().is_some_and(Work::has_ended);
        self.0.iter().filter(|(_, held)| ended(held)).map(|(id, _)| *id).collect()
    }

    /// Those that have nothing in hand, and what they read next.
    pub fn idle(&self) -> Vec<Suspect> {
        let idle = self.0.iter().filter(|(_, held)| held.is_idle());
        let suspect = |(id, held): (&PartitionId, &Held)| {
            let next = Some(held.state.next_offset);
            Suspect { id: *id, marks: held.marks, next }
        };
        idle.map(suspect).collect()
    }

    /// Those that have read something since it was seen that their log is the same one.
    pub fn moved(&self) -> Vec<Suspect> {
        let moved = self.0.iter().filter(|(_, held)| held.work.is_some() && held.marks.has_moved());
        moved.map(|(id, held)| Suspect { id: *id, marks: held.marks, next: None }).collect()
    }

    /// It was seen that a log is the same one up to here.
    pub fn mark(&mut self, id: PartitionId, mark: Option<LogMark>) {
        let Some(held) = self.0.get_mut(&id) else { return };
        held.marks.seen = mark;
        if let Some(work) = &held.work {
            work.mark.send_replace(mark);
        }
    }

    /// Compares what is stored with the ends of the logs.
    pub fn measure_lag(&mut self, ends: &LogEnds) {
        for (id, held) in &mut self.0 {
            held.state.lag = ends.lag(*id, held.state.next_offset);
        }
    }

    /// What Kafka was not told yet, and is told now.
    pub fn take_unmirrored(&mut self, topics: &TopicNames) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (id, held) in &mut self.0 {
            if held.assigned && held.state.next_offset > held.mirrored {
                let offset = held.state.next_offset;
                let added =
                    list.add_partition_offset(&topics.name(id.0), id.1, Offset::Offset(offset));
                if added.is_ok() {
                    held.mirrored = offset;
                }
            }
        }
        list
    }

    /// All of it, as others see it.
    pub fn membership(&self, joined: bool) -> Membership {
        let partitions = self.0.iter().map(|(id, held)| (*id, held.state)).collect();
        Membership { joined, partitions }
    }

    /// The same as metrics.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn measure(&self) {
        let count = |test: fn(&Held) -> bool| self.0.values().filter(|held| test(held)).count();
        gauge!(names::PARTITIONS).set(count(|held| held.work.is_some()) as f64);
        gauge!(names::PAUSED).set(count(|held| held.state.paused) as f64);
        for (id, held) in &self.0 {
            if let Some(lag) = held.state.lag {
                lag_gauge(*id, lag as f64);
            }
        }
    }
}

/// Sets the lag of a partition; 0 once it is another instance's.
pub fn lag_gauge((topic, partition): PartitionId, records: f64) {
    let labels = [("topic", topic.suffix().to_owned()), ("partition", partition.to_string())];
    gauge!(names::LAG, &labels).set(records);
}
