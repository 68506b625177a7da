//! What was read and waits for its turn, and which offsets are done. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::consume::kafka::Received;

/// Most messages that wait, whatever their size.
const MAX_MESSAGES: usize = 4000;

/// A message of a partition.
#[derive(Debug)]
pub struct Message {
    /// Which.
    pub partition: i32,
    /// As it came.
    pub record: Received,
}

/// A partition, and how many had been assigned when it was: it may go and come back.
pub type Assigned = (i32, u64);

/// A partition of this instance.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// How many had been assigned when it was.
    assigned: u64,
    /// Whether it is known where the group stood when it came. Nothing is committed before: it would be
    /// taken for that.
    is_known: bool,
    /// The first offset that came.
    first: Option<i64>,
    /// The offset that comes next, once one has come or it is known where the group stood.
    next: Option<i64>,
    /// Everything before it is done.
    done: Option<i64>,
    /// What of that was told.
    told: Option<i64>,
}

/// The queue of one reader.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<(Instant, Message)>,
    bytes: usize,
    max_bytes: usize,
    batch: usize,
    batch_wait: Duration,
    places: BTreeMap<i32, Place>,
    assigned: u64,
}

impl Queue {
    /// An empty one.
    pub fn new(max_bytes: usize, batch: usize, batch_wait: Duration) -> Self {
        let (waiting, places) = (VecDeque::new(), BTreeMap::new());
        Self { waiting, bytes: 0, max_bytes, batch, batch_wait, places, assigned: 0 }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.places.len()
    }

    /// Partitions that are read from now on.
    pub fn assign(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.assigned += 1;
            let place = Place { assigned: self.assigned, ..Place::default() };
            self.places.insert(*partition, place);
        }
    }

    /// Partitions of which it is not known where the group stood when they came.
    pub fn unknown(&self) -> Vec<Assigned> {
        let unknown = self.places.iter().filter(|(_, place)| !place.is_known);
        unknown.map(|(partition, place)| (*partition, place.assigned)).collect()
    }

    /// Where the group stood in a partition when it came. Returns how far behind that its first message
    /// was, if one has come already; of one that comes later [`push`](Self::push) tells.
    pub fn stood(&mut self, (partition, assigned): Assigned, committed: Option<i64>) -> i64 {
        let Some(place) = self.places.get_mut(&partition) else { return 0 };
        if place.is_known || place.assigned != assigned {
            return 0;
        }
        place.is_known = true;
        place.next = place.next.or(committed);
        place.first.zip(committed).map_or(0, |(first, committed)| first - committed)
    }

    /// Partitions that another reads from now on: what waits of them is that one's.
    pub fn revoke(&mut self, partitions: &[i32]) {
        self.places.retain(|partition, _| !partitions.contains(partition));
        let places = &self.places;
        self.waiting.retain(|(_, message)| places.contains_key(&message.partition));
        self.bytes = self.waiting.iter().map(|(_, message)| message.record.bytes()).sum();
    }

    /// Takes a message in; returns how far it is behind the one that was to come next. What is between
    /// them the broker has deleted: nothing else makes holes in this log. Below 0 the log was made anew.
    pub fn push(&mut self, now: Instant, message: Message) -> i64 {
        let place = self.places.entry(message.partition).or_default();
        let offset = message.record.offset;
        let missing = place.next.map_or(0, |next| offset - next);
        place.first = place.first.or(Some(offset));
        place.next = Some(offset + 1);
        self.bytes += message.record.bytes();
        self.waiting.push_back((now, message));
        missing
    }

    /// Whether reading must pause.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_MESSAGES || self.bytes >= self.max_bytes
    }

    /// Whether reading may go on.
    pub fn has_drained(&self) -> bool {
        self.waiting.len() <= MAX_MESSAGES / 4 && self.bytes <= self.max_bytes / 4
    }

    /// When a batch is due; none if nothing waits.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let (first, _) = self.waiting.front()?;
        // What is full waits for nothing: no more comes.
        let whole = self.waiting.len() >= self.batch || self.is_full();
        Some(if whole { now } else { *first + self.batch_wait })
    }

    /// The messages of the next batch, in the order in which they came.
    pub fn take_batch(&mut self) -> Vec<Message> {
        let count = self.batch.min(self.waiting.len());
        let batch: Vec<_> = self.waiting.drain(..count).map(|(_, message)| message).collect();
        self.bytes -= batch.iter().map(|message| message.record.bytes()).sum::<usize>();
        batch
    }

    /// Messages that were dealt with: partition and offset, in their order.
    pub fn done(&mut self, messages: impl IntoIterator<Item = (i32, i64)>) {
        for (partition, offset) in messages {
            if let Some(place) = self.places.get_mut(&partition) {
                place.done = Some(offset + 1);
            }
        }
    }

    /// Where to resume each partition of which something was done since.
    pub fn take_done(&mut self) -> Vec<(i32, i64)> {
        let known = self.places.iter_mut().filter(|(_, place)| place.is_known);
        let untold = known.filter(|(_, place)| place.told != place.done);
        untold
            .filter_map(|(partition, place)| {
                place.told = place.done;
                Some((*partition, place.done?))
            })
            .collect()
    }

    /// Where to resume each partition of which something was done, also if it was told already.
    pub fn all_done(&self) -> Vec<(i32, i64)> {
        let known = self.places.iter().filter(|(_, place)| place.is_known);
        known.filter_map(|(partition, place)| Some((*partition, place.done?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    fn message(partition: i32, offset: i64, bytes: usize) -> Message {
        let record = Received {
            offset,
            broker_time_ms: 0,
            key: None,
            headers: Vec::new(),
            value: Some(vec![0; bytes]),
        };
        Message { partition, record }
    }

    fn places(batch: &[Message]) -> Vec<(i32, i64)> {
        batch.iter().map(|message| (message.partition, message.record.offset)).collect()
    }

    #[test]
    fn a_batch_is_due_when_it_is_whole_or_its_first_has_waited_long_enough() {
        let (mut queue, now) = (Queue::new(1 << 20, 2, WAIT), Instant::now());
        assert_eq!(queue.due(now), None);
        queue.push(now, message(0, 5, 1));
        assert_eq!(queue.due(now), Some(now + WAIT));
        queue.push(now, message(1, 9, 1));
        queue.push(now, message(0, 6, 1));
        assert_eq!(queue.due(now), Some(now));
        assert_eq!(places(&queue.take_batch()), [(0, 5), (1, 9)]);
        assert_eq!(places(&queue.take_batch()), [(0, 6)]);
    }

    #[test]
    fn reading_pauses_when_it_is_full_and_a_batch_is_due_at_once_then() {
        let (mut queue, now) = (Queue::new(10_000, 1000, WAIT), Instant::now());
        queue.push(now, message(0, 0, 1000));
        assert!(!queue.is_full() && queue.has_drained());
        queue.push(now, message(0, 1, 9000));
        assert!(queue.is_full() && !queue.has_drained());
        assert_eq!(queue.due(now), Some(now));
        assert_eq!(queue.take_batch().len(), 2);
        assert!(queue.has_drained() && !queue.is_full());
    }

    #[test]
    fn what_a_revoked_partition_has_left_is_neither_done_nor_counted() {
        let (mut queue, now) = (Queue::new(10_000, 1, WAIT), Instant::now());
        queue.assign(&[0, 1]);
        for partition in [0, 1] {
            queue.push(now, message(partition, 7, 6000));
        }
        assert!(queue.is_full());
        let batch = places(&queue.take_batch());
        queue.revoke(&[0]);
        queue.done(batch);
        assert_eq!(queue.take_done(), []);
        assert_eq!(places(&queue.take_batch()), [(1, 7)]);
        assert!(queue.has_drained());
    }

    #[test]
    fn where_to_resume_is_told_once_and_behind_the_last_that_was_done() {
        let mut queue = Queue::new(10_000, 1, WAIT);
        queue.assign(&[0, 3]);
        assert_eq!(queue.unknown(), [(0, 1), (3, 2)]);
        queue.done([(0, 4), (3, 1), (0, 5)]);
        assert_eq!(queue.take_done(), [], "before it is known where the group stood");
        queue.stood((0, 1), Some(4));
        queue.stood((3, 2), None);
        assert_eq!(queue.unknown(), []);
        assert_eq!(queue.take_done(), [(0, 6), (3, 2)]);
        assert_eq!(queue.take_done(), []);
        queue.done([(3, 2)]);
        assert_eq!(queue.take_done(), [(3, 3)]);
        assert_eq!(queue.all_done(), [(0, 6), (3, 3)]);
    }

    #[test]
    fn what_the_broker_deleted_before_a_partition_came_is_told_once_whichever_is_known_first() {
        let (mut queue, now) = (Queue::new(10_000, 1, WAIT), Instant::now());
        queue.assign(&[0, 1, 2]);
        assert_eq!(queue.stood((0, 1), Some(90)), 0);
        assert_eq!(queue.push(now, message(0, 100, 1)), 10);
        assert_eq!(queue.push(now, message(1, 100, 1)), 0);
        assert_eq!(queue.stood((1, 2), Some(90)), 10);
        assert_eq!(queue.stood((1, 2), Some(90)), 0, "a second answer");
        assert_eq!(queue.push(now, message(1, 101, 1)), 0);
        assert_eq!(queue.stood((2, 3), None), 0);
        assert_eq!(queue.push(now, message(2, 100, 1)), 0, "a group that never stood anywhere");
    }

    #[test]
    fn an_answer_for_a_partition_that_went_and_came_back_is_none_for_what_came_back() {
        let (mut queue, now) = (Queue::new(10_000, 1, WAIT), Instant::now());
        queue.assign(&[0]);
        queue.revoke(&[0]);
        queue.assign(&[0]);
        queue.push(now, message(0, 100, 1));
        assert_eq!(queue.stood((0, 1), Some(50)), 0);
        assert_eq!(queue.unknown(), [(0, 2)]);
        assert_eq!(queue.stood((0, 2), Some(100)), 0);
    }

    #[test]
    fn messages_that_the_broker_has_deleted_are_told_and_the_first_one_that_comes_misses_none() {
        let (mut queue, now) = (Queue::new(10_000, 1, WAIT), Instant::now());
        assert_eq!(queue.push(now, message(0, 100, 1)), 0);
        assert_eq!(queue.push(now, message(0, 101, 1)), 0);
        assert_eq!(queue.push(now, message(0, 110, 1)), 8);
        // A log that was made anew begins at its beginning.
        assert_eq!(queue.push(now, message(0, 0, 1)), -111);
        assert_eq!(queue.push(now, message(0, 1, 1)), 0);
    }
}
