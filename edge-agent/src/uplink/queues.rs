//! The four queues, read from the spool a little ahead.

use std::collections::VecDeque;

use picket_wire::{Lane, Topic};

use super::lanes::{Lanes, Queue};
use crate::spool::{Limits, RowId, SpoolError, SpoolReader, Spooled};

/// Read ahead per queue: enough that the spool is not asked for each record, little enough that
/// memory does not grow with the backlog.
const AHEAD: Limits = Limits { rows: 128, bytes: 512 * 1024 };

/// One queue: a range of rows, read from its front.
#[derive(Debug, Default)]
struct Shelf {
    next: RowId,
    read: VecDeque<Spooled>,
    /// Nothing more is there until something is committed or given back.
    exhausted: bool,
}

/// What is to be sent, by lane and topic.
#[derive(Debug)]
pub struct Queues {
    lanes: Lanes,
    /// Rows from here on are live: they were committed while the link was up.
    live_from: RowId,
    shelves: [Shelf; 4],
}

impl Queues {
    /// What was in the spool at the start is backlog, what this run commits is live.
    pub fn new(backlog_one_in: u32, live_from: RowId) -> Self {
        let mut queues =
            Self { lanes: Lanes::new(backlog_one_in), live_from, shelves: Default::default() };
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

    /// Takes the next row to send, of the topics that have room.
    pub fn next(
        &mut self,
        reader: &SpoolReader,
        has_room: impl Fn(Topic) -> bool,
    ) -> Result<Option<(Lane, Spooled)>, SpoolError> {
        self.restock(reader)?;
        let shelves = &self.shelves;
        let waits = |queue: Queue| !shelves[queue.index()].read.is_empty();
        let chosen = self.lanes.choose(|queue| has_room(queue.topic) && waits(queue));
        let Some(queue) = chosen else { return Ok(None) };
        let Some(spooled) = self.shelves[queue.index()].read.pop_front() else {
            return Ok(None);
        };
        let shelves = &self.shelves;
        let other =
            |other: &Queue| other.lane != queue.lane && !shelves[other.index()].read.is_empty();
        let other_waits = Queue::ALL.iter().any(other);
        self.lanes.sent(queue.lane, spooled.bytes(), other_waits);
        Ok(Some((queue.lane, spooled)))
    }

    fn restock(&mut self, reader: &SpoolReader) -> Result<(), SpoolError> {
        for queue in Queue::ALL {
            let end = self.end_of(queue);
            let shelf = &mut self.shelves[queue.index()];
            if shelf.exhausted || !shelf.read.is_empty() {
                continue;
            }
            let read = reader.next_batch(queue.topic, shelf.next..end, AHEAD)?;
            match read.last() {
                Some(last) => shelf.next = last.id + 1,
                None => shelf.exhausted = true,
            }
            shelf.read = read.into();
        }
        Ok(())
    }
}
