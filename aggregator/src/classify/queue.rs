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

/// A partition of this instance.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The offset that comes next, once one has come.
    next: Option<i64>,
    /// Everything before it is done, and not yet committed.
    done: Option<i64>,
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
}

impl Queue {
    /// An empty one.
    pub fn new(max_bytes: usize, batch: usize, batch_wait: Duration) -> Self {
        let (waiting, places) = (VecDeque::new(), BTreeMap::new());
        Self { waiting, bytes: 0, max_bytes, batch, batch_wait, places }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.places.len()
    }

    /// Partitions that are read from now on.
    pub fn assign(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.places.insert(*partition, Place::default());
        }
    }

    /// Partitions that another reads from now on: what waits of them is that one's.
    pub fn revoke(&mut self, partitions: &[i32]) {
        self.places.retain(|partition, _| !partitions.contains(partition));
        let places = &self.places;
        self.waiting.retain(|(_, message)| places.contains_key(&message.partition));
        self.bytes = self.waiting.iter().map(|(_, message)| message.record.bytes()).sum();
    }

    /// Takes a message in; returns how many before it never came, because the broker has deleted them:
    /// nothing else makes holes in this log.
    pub fn push(&mut self, now: Instant, message: Message) -> u64 {
        let place = self.places.entry(message.partition).or_default();
        let offset = message.record.offset;
        let missing = place.next.map_or(0, |next| u64::try_from(offset - next).unwrap_or(0));
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
        let done = self.places.iter_mut();
        done.filter_map(|(partition, place)| Some((*partition, place.done.take()?))).collect()
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
        queue.done([(0, 4), (3, 1), (0, 5)]);
        assert_eq!(queue.take_done(), [(0, 6), (3, 2)]);
        assert_eq!(queue.take_done(), []);
    }

    #[test]
    fn messages_that_the_broker_has_deleted_are_told_and_the_first_one_that_comes_misses_none() {
        let (mut queue, now) = (Queue::new(10_000, 1, WAIT), Instant::now());
        assert_eq!(queue.push(now, message(0, 100, 1)), 0);
        assert_eq!(queue.push(now, message(0, 101, 1)), 0);
        assert_eq!(queue.push(now, message(0, 110, 1)), 8);
        // A log that was made anew begins at its beginning.
        assert_eq!(queue.push(now, message(0, 0, 1)), 0);
    }
}
