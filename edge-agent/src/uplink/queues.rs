//! The four queues, read from the spool a little ahead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use picket_service::logging::chain;
use picket_wire::observation::Reason;
use picket_wire::{Lane, Topic};

use super::lanes::{Lanes, Queue};
use crate::spool::{Advice, Limits, Outcome, RowId, Settled, SpoolError, SpoolReader, Spooled};

/// Read ahead per queue: enough that the spool is not asked for each record, little enough that
/// memory does not grow with the backlog.
const AHEAD: Limits = Limits { rows: 128, bytes: 512 * 1024 };

/// So much is held where all that was read waits for room, in search of something that has some.
const SEARCHED: Limits = Limits { rows: 4 * AHEAD.rows, bytes: 4 * AHEAD.bytes };

/// Before a queue is read again that could not be.
const RETRY_READ: Duration = Duration::from_secs(1);
/// The same where a person is needed.
const STOPPED: Duration = Duration::from_secs(60);

/// One queue: a range of rows, read from its front.
#[derive(Debug, Default)]
struct Shelf {
    next: RowId,
    read: VecDeque<Spooled>,
    /// Nothing more is there until something is committed or given back.
    exhausted: bool,
    /// It could not be read.
    held_until: Option<Instant>,
}

impl Shelf {
    fn is_below(&self, limits: Limits) -> bool {
        let bytes: u64 = self.read.iter().map(Spooled::bytes).sum();
        self.read.len() < limits.rows && bytes < limits.bytes
    }

    fn unreadable(
        &mut self,
        queue: Queue,
        error: &SpoolError,
        given_up: &mut Vec<Settled>,
        now: Instant,
    ) {
        let (lane, topic) = (queue.lane.as_str(), queue.topic.suffix());
        let text = chain(error);
        match (error.advice(), error) {
            (Advice::Discard, SpoolError::BadRow { id, .. }) => {
                tracing::error!(target: "uplink", lane, topic, row = id, error = text,
                    "a row of the spool is given up");
                let outcome = Outcome::Refused(Reason::SPOOL_DAMAGED.into());
                given_up.push(Settled { topic: queue.topic, id: *id, outcome });
                self.next = id + 1;
            }
            // Deleting it would read the same pages. It stays for the next start, which looks
            // closely, and what is behind it goes.
            (_, SpoolError::DamagedRow { id, .. }) => {
                tracing::error!(target: "uplink", lane, topic, row = id, error = text,
                    "a row of the spool is stepped over; restart the agent to have its spool checked");
                self.next = id + 1;
            }
            (Advice::Retry, _) => {
                tracing::warn!(target: "uplink", lane, topic, error = text,
                    "a queue of the spool cannot be read; tried again");
                self.held_until = Some(now + RETRY_READ);
            }
            (Advice::Stop | Advice::Discard, _) => {
                tracing::error!(target: "uplink", lane, topic, error = text,
                    "a queue of the spool cannot be read; restart the agent to have its spool checked");
                self.held_until = Some(now + STOPPED);
            }
        }
    }
}

/// What is to be sent, by lane and topic.
#[derive(Debug)]
pub struct Queues {
    lanes: Lanes,
    /// Rows from here on are live: they were committed while the link was up.
    live_from: RowId,
    shelves: [Shelf; 4],
    given_up: Vec<Settled>,
}

impl Queues {
    /// What was in the spool at the start is backlog, what this run commits is live.
    pub fn new(backlog_one_in: u32, live_from: RowId) -> Self {
        let (lanes, shelves) = (Lanes::new(backlog_one_in), Default::default());
        let mut queues = Self { lanes, live_from, shelves, given_up: Vec::new() };
        queues.rewind();
        queues
    }

    fn rewind(&mut self) {
        for queue in Queue::ALL {
            let next = self.first_of(queue);
            let shelf = &mut self.shelves[queue.index()];
            (shelf.next, shelf.exhausted) = (next, false);
            shelf.read.clear();
        }
    }

    fn first_of(&self, queue: Queue) -> RowId {
        match queue.lane {
            Lane::Live => self.live_from,
            Lane::Backlog => 0,
        }
    }

    fn end_of(&self, queue: Queue) -> RowId {
        match queue.lane {
            Lane::Live => RowId::MAX,
            Lane::Backlog => self.live_from,
        }
    }

    /// The lane in which a row would be sent now.
    pub fn lane_of(&self, id: RowId) -> Lane {
        if id >= self.live_from { Lane::Live } else { Lane::Backlog }
    }

    /// After an outage: all that is committed by now is backlog, in one queue from its front.
    pub fn restart(&mut self, reader: &SpoolReader) {
        let read = self.shelves.iter().flat_map(|shelf| shelf.read.iter());
        reader.give_back(read.map(|spooled| spooled.id));
        self.live_from = reader.next_id();
        self.rewind();
    }

    /// Something was committed, so that a live queue may have more. Gap records of evictions too
    /// come at the end, so a backlog never gets more by a commit.
    pub fn more_committed(&mut self) {
        for queue in Queue::ALL.into_iter().filter(|queue| queue.lane == Lane::Live) {
            self.shelves[queue.index()].exhausted = false;
        }
    }

    /// A row was not delivered: it is read again, before those that come after it.
    pub fn again(&mut self, reader: &SpoolReader, topic: Topic, id: RowId) {
        let queue = Queue { lane: self.lane_of(id), topic };
        let shelf = &mut self.shelves[queue.index()];
        // What was read ahead goes back too, to come behind it. Rows that are still on their way are
        // stepped over in the second reading.
        let later = shelf.read.drain(..).map(|spooled| spooled.id);
        reader.give_back(later.chain([id]));
        shelf.next = shelf.next.min(id);
        shelf.exhausted = false;
    }

    /// Takes the next row to send, of the topics and keys that have room. A key that has none holds up
    /// no other before its rows fill what is searched.
    pub fn next(
        &mut self,
        reader: &SpoolReader,
        has_room: impl Fn(Topic, Option<&str>) -> bool,
        now: Instant,
    ) -> Option<(Lane, Spooled)> {
        self.restock(reader, &has_room, now);
        let shelves = &self.shelves;
        let first = |queue: Queue| {
            let mut read = shelves[queue.index()].read.iter();
            read.position(|spooled| has_room(queue.topic, Some(&spooled.key)))
        };
        let queue = self.lanes.choose(|queue| first(queue).is_some())?;
        let place = first(queue)?;
        let spooled = self.shelves[queue.index()].read.remove(place)?;
        let shelves = &self.shelves;
        let other =
            |other: &Queue| other.lane != queue.lane && !shelves[other.index()].read.is_empty();
        let other_waits = Queue::ALL.iter().any(other);
        self.lanes.sent(queue.lane, spooled.bytes(), other_waits);
        Some((queue.lane, spooled))
    }

    /// Each by itself: what cannot be read in one holds up no other.
    fn restock(
        &mut self,
        reader: &SpoolReader,
        has_room: impl Fn(Topic, Option<&str>) -> bool,
        now: Instant,
    ) {
        for queue in Queue::ALL {
            let end = self.end_of(queue);
            let shelf = &mut self.shelves[queue.index()];
            let held = shelf.held_until.is_some_and(|until| now < until);
            let waits = |spooled: &Spooled| !has_room(queue.topic, Some(&spooled.key));
            let searches = has_room(queue.topic, None)
                && shelf.is_below(SEARCHED)
                && shelf.read.iter().all(waits);
            if held || shelf.exhausted || !(shelf.read.is_empty() || searches) {
                continue;
            }
            match reader.next_batch(queue.topic, shelf.next..end, AHEAD) {
                Ok(read) => {
                    match read.last() {
                        Some(last) => shelf.next = last.id + 1,
                        None => shelf.exhausted = true,
                    }
                    shelf.read.extend(read);
                }
                Err(error) => shelf.unreadable(queue, &error, &mut self.given_up, now),
            }
        }
    }

    /// Rows that can never be sent, to be settled as refused.
    pub fn given_up(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.given_up)
    }
}
