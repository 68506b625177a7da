//! What was handed to the producers and not yet acknowledged: bounded by count and bytes.
//!
//! While a partition has five messages on their way and more that wait, librdkafka sends none of
//! them, and turns without a pause until one is acknowledged: on a slow link most of a core. What has
//! one key is in one partition, so a key of a topic that has five is given nothing, and then all at
//! once what fits one request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use picket_wire::{Lane, Topic};

use super::bulk::Class;
use super::lanes::Queue;
use super::producer::BATCH_BYTES;
use crate::spool::RowId;

/// librdkafka's `RD_KAFKA_IDEMP_MAX_INFLIGHT`: messages, not requests, of one partition.
const MOST_UNACKNOWLEDGED: usize = 5;

/// Names one sending of one thing; never used twice in a process, so that a late report of a
/// producer that was replaced is not taken for another's.
pub type Ticket = usize;

/// What a ticket stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parcel {
    /// A row of the spool.
    Row {
        /// Which table.
        topic: Topic,
        /// Which row.
        id: RowId,
        /// As it was sent.
        lane: Lane,
    },
    /// A heartbeat.
    Status,
}

impl Parcel {
    /// Where it goes.
    pub fn topic(&self) -> Topic {
        match self {
            Self::Row { topic, .. } => *topic,
            Self::Status => Topic::Status,
        }
    }
}

impl Parcel {
    /// How soon it must be there.
    pub fn class(&self) -> Class {
        match self {
            Self::Row { topic, lane, .. } => Queue { topic: *topic, lane: *lane }.class(),
            Self::Status => Class::Prompt,
        }
    }
}

/// Something on its way.
#[derive(Debug, Clone)]
pub struct Sent {
    /// What.
    pub parcel: Parcel,
    /// Its key, as messages have it.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Since when.
    pub at: Instant,
}

/// What a topic has on its way of one key: that shares a partition.
#[derive(Debug)]
struct Load {
    records: usize,
    /// Bytes that are not prompt.
    bulk_bytes: u64,
    /// How many were on their way when this turn began.
    at_turn: usize,
    /// Handed over in this turn.
    turn_bytes: u64,
    /// Nothing of it was reported since then.
    silent_since: Instant,
}

impl Load {
    fn has_room(&self) -> bool {
        let fits_a_request = self.turn_bytes < BATCH_BYTES;
        self.at_turn < MOST_UNACKNOWLEDGED && (self.records < MOST_UNACKNOWLEDGED || fits_a_request)
    }
}

/// All that is on its way.
#[derive(Debug)]
pub struct Window {
    max_records: usize,
    max_bytes: u64,
    bytes: u64,
    sent: BTreeMap<Ticket, Sent>,
    next: Ticket,
    loads: BTreeMap<Topic, BTreeMap<String, Load>>,
    /// Bytes that are not prompt, but for those of partitions that take nothing.
    bulk_bytes: u64,
}

impl Window {
    /// An empty window.
    pub fn new(max_records: u32, max_bytes: u64) -> Self {
        let (bytes, sent, next, loads) = (0, BTreeMap::new(), 1, BTreeMap::new());
        let bulk_bytes = 0;
        Self { max_records: max_records as usize, max_bytes, bytes, sent, next, loads, bulk_bytes }
    }

    /// To be called before what waits is handed over: looks which keys may be given more. One that
    /// was silent for `silence` counts against no other.
    pub fn begin_turn(&mut self, silence: Duration, now: Instant) {
        self.bulk_bytes = 0;
        for loads in self.loads.values_mut() {
            loads.retain(|_, load| load.records > 0);
            for load in loads.values_mut() {
                (load.at_turn, load.turn_bytes) = (load.records, 0);
                if now.saturating_duration_since(load.silent_since) < silence {
                    self.bulk_bytes += load.bulk_bytes;
                }
            }
        }
    }

    /// Whether a limit leaves room for more that is not prompt: one thing may always go.
    pub fn has_bulk_room(&self, limit: u64) -> bool {
        self.bulk_bytes < limit.max(1)
    }

    /// Bytes on their way that are not prompt.
    pub fn bulk_bytes(&self) -> u64 {
        self.bulk_bytes
    }

    /// Whether something more of this class may be sent. A quarter is kept free of pictures and of
    /// the backlog, so that a slow link that is full of them still takes live records.
    fn has_room(&self, class: Class) -> bool {
        let (records, bytes) = match class {
            Class::Bulk => (self.max_records * 3 / 4, self.max_bytes * 3 / 4),
            Class::Prompt => (self.max_records, self.max_bytes),
        };
        self.sent.is_empty() || (self.sent.len() < records && self.bytes < bytes)
    }

    /// Whether that may be something of this key.
    pub fn has_room_for(&self, queue: Queue, key: &str) -> bool {
        let load = self.loads.get(&queue.topic).and_then(|loads| loads.get(key));
        self.has_room(queue.class()) && load.is_none_or(Load::has_room)
    }

    /// A ticket for something that is about to be sent.
    pub fn issue(&mut self, parcel: Parcel, key: &str, bytes: u64, at: Instant) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.bytes += bytes;
        let new =
            || Load { records: 0, bulk_bytes: 0, at_turn: 0, turn_bytes: 0, silent_since: at };
        let bulk_bytes = if parcel.class() == Class::Bulk { bytes } else { 0 };
        self.bulk_bytes += bulk_bytes;
        let loads = self.loads.entry(parcel.topic()).or_default();
        let load = loads.entry(key.to_owned()).or_insert_with(new);
        load.records += 1;
        load.bulk_bytes += bulk_bytes;
        load.turn_bytes += bytes;
        self.sent.insert(ticket, Sent { parcel, key: key.to_owned(), bytes, at });
        ticket
    }

    /// The ticket that will be issued next.
    pub fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Takes a ticket back; `None` if it was taken back before.
    pub fn settle(&mut self, ticket: Ticket, now: Instant) -> Option<Sent> {
        let sent = self.sent.remove(&ticket)?;
        self.bytes = self.bytes.saturating_sub(sent.bytes);
        let loads = self.loads.get_mut(&sent.parcel.topic());
        if let Some(load) = loads.and_then(|loads| loads.get_mut(&sent.key)) {
            load.records = load.records.saturating_sub(1);
            load.silent_since = now;
            if sent.parcel.class() == Class::Bulk {
                load.bulk_bytes = load.bulk_bytes.saturating_sub(sent.bytes);
                self.bulk_bytes = self.bulk_bytes.saturating_sub(sent.bytes);
            }
        }
        Some(sent)
    }

    /// Topic and key of what is on its way since before this ticket.
    pub fn before(&self, ticket: Ticket) -> impl Iterator<Item = (Topic, &str)> {
        self.sent.range(..ticket).map(|(_, sent)| (sent.parcel.topic(), sent.key.as_str()))
    }

    /// What was silent in an outage has no more than others to answer for.
    pub fn forget_silence(&mut self, now: Instant) {
        for load in self.loads.values_mut().flat_map(BTreeMap::values_mut) {
            load.silent_since = now;
        }
    }

    /// Topics and keys of which nothing was reported for so long, with something on its way.
    pub fn silent_for(&self, limit: Duration, now: Instant) -> impl Iterator<Item = (Topic, &str)> {
        let is_silent = move |load: &Load| {
            load.records > 0 && now.saturating_duration_since(load.silent_since) >= limit
        };
        let all = self.loads.iter().flat_map(|(topic, loads)| loads.iter().map(|of| (*topic, of)));
        let silent = all.filter(move |(_, (_, load))| is_silent(load));
        silent.map(|(topic, (key, _))| (topic, key.as_str()))
    }

    /// How long the oldest has been on its way.
    pub fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.sent.first_key_value().map(|(_, sent)| now.saturating_duration_since(sent.at))
    }

    /// When the oldest of each class was handed over.
    pub fn oldest(&self) -> [Option<Instant>; 2] {
        Class::ALL.map(|class| {
            let mut all = self.sent.values();
            all.find(|sent| sent.parcel.class() == class).map(|sent| sent.at)
        })
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether something of such a topic is on its way.
    pub fn has_any(&self, of: impl Fn(Topic) -> bool) -> bool {
        let has_some = |loads: &BTreeMap<String, Load>| loads.values().any(|load| load.records > 0);
        self.loads.iter().any(|(topic, loads)| of(*topic) && has_some(loads))
    }

    /// Count and bytes on their way.
    pub fn depth(&self) -> (usize, u64) {
        (self.sent.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "gate/a";
    const B: &str = "gate/b";

    /// Hands over rows of so many bytes until there is no room; how many that were.
    fn hand_over(window: &mut Window, topic: Topic, key: &str, bytes: u64) -> usize {
        window.begin_turn(Duration::from_secs(30), Instant::now());
        let before = window.depth().0;
        while window.has_room_for(Queue { lane: Lane::Live, topic }, key) {
            let row = Parcel::Row { topic, id: 0, lane: Lane::Live };
            window.issue(row, key, bytes, Instant::now());
        }
        window.depth().0 - before
    }

    #[test]
    fn pictures_leave_room_for_observations() {
        let mut window = Window::new(100, 1000);
        assert_eq!(hand_over(&mut window, Topic::Frames, A, 100), 8);
        assert_eq!(window.depth(), (8, 800));
        assert!(window.has_room(Class::Prompt) && !window.has_room(Class::Bulk));
        for ticket in 1..window.next_ticket() {
            assert!(window.settle(ticket, Instant::now()).is_some());
            assert!(window.settle(ticket, Instant::now()).is_none());
        }
        assert_eq!(window.depth(), (0, 0));
        assert!(window.oldest_age(Instant::now()).is_none());
    }

    #[test]
    fn a_key_with_five_on_their_way_is_given_nothing_and_then_what_fits_a_request() {
        let mut window = Window::new(10_000, 64 << 20);
        assert_eq!(hand_over(&mut window, Topic::Frames, A, BATCH_BYTES / 2), 5);
        assert_eq!(hand_over(&mut window, Topic::Frames, A, BATCH_BYTES / 2), 0);
        assert!(window.settle(1, Instant::now()).is_some());
        assert_eq!(hand_over(&mut window, Topic::Frames, A, BATCH_BYTES / 8), 8);
        assert_eq!(hand_over(&mut window, Topic::Frames, A, 1), 0);
        assert_eq!(hand_over(&mut window, Topic::Frames, B, BATCH_BYTES / 2), 5);
        assert_eq!(hand_over(&mut window, Topic::Observations, A, BATCH_BYTES / 512), 512);
    }

    #[test]
    fn a_key_that_is_silent_among_others_is_named() {
        let mut window = Window::new(100, 1000);
        let (began, limit) = (Instant::now(), Duration::from_secs(10));
        let row = |id| Parcel::Row { topic: Topic::Frames, id, lane: Lane::Live };
        window.issue(row(1), A, 1, began);
        let answered = window.issue(row(2), B, 1, began);
        window.issue(row(3), B, 1, began);
        let later = began + limit;
        assert!(window.settle(answered, later).is_some());
        let silent = |at| window.silent_for(limit, at).collect::<Vec<_>>();
        assert_eq!(silent(later - Duration::from_secs(1)), []);
        assert_eq!(silent(later), [(Topic::Frames, A)]);
        window.forget_silence(later);
        assert_eq!(window.silent_for(limit, later).count(), 0);
    }

    #[test]
    fn what_a_silent_partition_keeps_counts_against_no_other_and_one_thing_always_goes() {
        let mut window = Window::new(100, 10_000_000);
        let (began, silence) = (Instant::now(), Duration::from_secs(30));
        let row = |topic, lane| Parcel::Row { topic, id: 1, lane };
        assert!(window.has_bulk_room(0));
        window.issue(row(Topic::Frames, Lane::Live), A, 5000, began);
        let live = window.issue(row(Topic::Observations, Lane::Live), A, 500, began);
        let backlog = window.issue(row(Topic::Observations, Lane::Backlog), B, 700, began);
        assert_eq!((window.bulk_bytes(), window.oldest()), (5700, [Some(began); 2]));
        assert!(!window.has_bulk_room(5000) && window.has_bulk_room(5701));
        let later = began + silence;
        assert!(window.settle(live, later).is_some() && window.settle(backlog, later).is_some());
        assert_eq!(window.oldest(), [None, Some(began)]);
        window.begin_turn(silence, later - Duration::from_secs(1));
        assert_eq!(window.bulk_bytes(), 5000);
        window.begin_turn(silence, later);
        assert!(window.has_bulk_room(0), "the picture is silent for too long to be waited for");
    }

    #[test]
    fn one_record_larger_than_the_window_still_goes() {
        let window = Window::new(1, 10);
        assert!(window.has_room_for(Queue { lane: Lane::Live, topic: Topic::Frames }, A));
    }
}
