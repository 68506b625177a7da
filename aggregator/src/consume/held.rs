//! The partitions that the group gave to this instance, and how each is.

use std::collections::HashMap;
use std::time::Instant;

use metrics::gauge;
use picket_wire::TopicNames;
use rdkafka::{Offset, TopicPartitionList};

use super::lag::LogEnds;
use super::marks::Marks;
use super::membership::{Membership, PartitionId, PartitionState};
use super::turn::{Suspect, Why};
use super::work::Work;
use crate::metrics as names;
use crate::store::checkpoints::LogMark;

/// A place at which reading did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stood {
    at: i64,
    /// Whether it was taken over again for that, which is done once: where a log ends with what the client
    /// keeps to itself, such as the end of a transaction, nothing comes of it.
    is_told: bool,
}

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
    /// What Kafka was told; none if that is not known.
    mirrored: Option<i64>,
    /// Where it stood still although there was more in the log.
    pub stood: Option<Stood>,
    /// What was read when those that stand still were looked for last.
    read_before: Option<i64>,
}

impl Held {
    /// Work that begins at an offset.
    pub fn at_work(work: Work, offset: i64, marks: Marks, stood: Option<Stood>) -> Self {
        Self {
            state: PartitionState { next_offset: offset, ..PartitionState::default() },
            work: Some(work),
            assigned: true,
            reopen_at: None,
            read: offset,
            marks,
            mirrored: None,
            stood,
            read_before: None,
        }
    }

    /// Whether all that was read is stored, so that the client stands where a checkpoint would.
    fn is_idle(&self) -> bool {
        self.work.is_some() && self.read <= self.state.next_offset
    }

    fn suspect(&self, id: PartitionId, why: Why) -> Suspect {
        let next = self.is_idle().then_some(self.state.next_offset);
        Suspect { id, why, marks: self.marks, next }
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
        idle.map(|(id, held)| held.suspect(*id, Why::Suspected)).collect()
    }

    /// Those that have read something since it was seen that their log is the same one.
    pub fn moved(&self) -> Vec<Suspect> {
        let moved = self.0.iter().filter(|(_, held)| held.work.is_some() && held.marks.has_moved());
        moved.map(|(id, held)| held.suspect(*id, Why::Moved)).collect()
    }

    /// Those of which nothing was read since this was asked last.
    pub fn still(&mut self) -> Vec<Suspect> {
        let mut still = Vec::new();
        for (id, held) in &mut self.0 {
            let before = held.read_before.replace(held.read);
            if held.work.is_some() && before == Some(held.read) {
                still.push(held.suspect(*id, Why::Still));
            }
        }
        still
    }

    /// Whether a partition stands still for the second time at a place that is not the end of its log.
    pub fn is_stuck(&mut self, id: PartitionId, next: i64, log_end: i64) -> bool {
        let Some(held) = self.0.get_mut(&id) else { return false };
        if held.state.paused || held.read != next || log_end <= next {
            return false;
        }
        let before = held.stood.filter(|stood| stood.at == next);
        held.stood = Some(Stood { at: next, is_told: before.is_some() });
        before.is_some_and(|stood| !stood.is_told)
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
            if held.assigned && held.mirrored != Some(held.state.next_offset) {
                let offset = held.state.next_offset;
                let added =
                    list.add_partition_offset(&topics.name(id.0), id.1, Offset::Offset(offset));
                if added.is_ok() {
                    held.mirrored = Some(offset);
                }
            }
        }
        list
    }

    /// What Kafka was told last did not get there.
    pub fn tell_again(&mut self) {
        self.0.values_mut().for_each(|held| held.mirrored = None);
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

#[cfg(test)]
mod tests {
    use picket_wire::Topic;

    use super::*;

    const ID: PartitionId = (Topic::Observations, 3);

    fn read_up_to(read: i64) -> Holdings {
        let mut held = Held::default();
        held.read = read;
        Holdings(HashMap::from([(ID, held)]))
    }

    #[test]
    fn a_partition_is_stuck_when_it_stands_twice_before_the_end_of_its_log_and_is_so_once() {
        let mut held = read_up_to(5);
        assert!(!held.is_stuck(ID, 5, 5), "it is at the end");
        assert!(!held.is_stuck(ID, 5, 7), "the record may have come a moment ago");
        assert!(held.is_stuck(ID, 5, 7));
        assert!(!held.is_stuck(ID, 5, 7), "it was taken over for it");
        held.0.get_mut(&ID).unwrap().read = 6;
        assert!(!held.is_stuck(ID, 6, 7), "it went on");
        assert!(held.is_stuck(ID, 6, 7));
    }

    #[test]
    fn a_partition_that_waits_for_room_or_has_read_on_meanwhile_is_not_stuck() {
        let mut held = read_up_to(5);
        held.0.get_mut(&ID).unwrap().state.paused = true;
        assert!(!held.is_stuck(ID, 5, 7) && !held.is_stuck(ID, 5, 7));
        let mut held = read_up_to(6);
        assert!(!held.is_stuck(ID, 5, 7) && !held.is_stuck(ID, 5, 7));
        assert!(!Holdings::default().is_stuck(ID, 5, 7), "it is another's by now");
    }

    #[test]
    fn what_kafka_was_told_is_told_again_only_when_it_did_not_get_there() {
        let mut held = read_up_to(5);
        let topics = TopicNames::default();
        held.0.get_mut(&ID).unwrap().assigned = true;
        assert_eq!(held.take_unmirrored(&topics).count(), 1, "a new owner does not know");
        assert_eq!(held.take_unmirrored(&topics).count(), 0);
        held.tell_again();
        assert_eq!(held.take_unmirrored(&topics).count(), 1);
    }
}
