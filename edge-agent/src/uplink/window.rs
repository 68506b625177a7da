//! What was handed to the producer and not yet acknowledged: bounded by count and bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use picket_wire::{Lane, Topic};

use crate::spool::RowId;

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

/// Something on its way.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// What.
    pub parcel: Parcel,
    /// Its bytes.
    pub bytes: u64,
    /// Since when.
    pub at: Instant,
}

/// All that is on its way.
#[derive(Debug)]
pub struct Window {
    max_records: usize,
    max_bytes: u64,
    bytes: u64,
    sent: BTreeMap<Ticket, Sent>,
    next: Ticket,
}

impl Window {
    /// An empty window.
    pub fn new(max_records: u32, max_bytes: u64) -> Self {
        let (bytes, sent, next) = (0, BTreeMap::new(), 1);
        Self { max_records: max_records as usize, max_bytes, bytes, sent, next }
    }

    /// Whether something more of this topic may be sent. A quarter is kept free of pictures, so
    /// that a slow link that is full of them still takes observations.
    pub fn has_room(&self, topic: Topic) -> bool {
        let (records, bytes) = match topic {
            Topic::Frames => (self.max_records * 3 / 4, self.max_bytes * 3 / 4),
            _ => (self.max_records, self.max_bytes),
        };
        self.sent.is_empty() || (self.sent.len() < records && self.bytes < bytes)
    }

    /// A ticket for something that is about to be sent.
    pub fn issue(&mut self, parcel: Parcel, bytes: u64, at: Instant) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.sent.insert(ticket, Sent { parcel, bytes, at });
        ticket
    }

    /// The ticket that will be issued next.
    pub fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Takes a ticket back; `None` if it was taken back before.
    pub fn settle(&mut self, ticket: Ticket) -> Option<Sent> {
        let sent = self.sent.remove(&ticket)?;
        self.bytes = self.bytes.saturating_sub(sent.bytes);
        Some(sent)
    }

    /// How long the oldest has been on its way.
    pub fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.sent.first_key_value().map(|(_, sent)| now.saturating_duration_since(sent.at))
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether something of such a topic is on its way.
    pub fn has_any(&self, of: impl Fn(Topic) -> bool) -> bool {
        self.sent.values().any(|sent| of(sent.parcel.topic()))
    }

    /// Count and bytes on their way.
    pub fn depth(&self) -> (usize, u64) {
        (self.sent.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_leave_room_for_observations() {
        let now = Instant::now();
        let row = |id| Parcel::Row { topic: Topic::Frames, id, lane: Lane::Live };
        let mut window = Window::new(100, 1000);
        let mut tickets = Vec::new();
        while window.has_room(Topic::Frames) {
            tickets.push(window.issue(row(tickets.len() as i64), 100, now));
        }
        assert_eq!(window.depth(), (8, 800));
        assert!(window.has_room(Topic::Observations));
        for ticket in tickets {
            assert!(window.settle(ticket).is_some());
            assert!(window.settle(ticket).is_none());
        }
        assert_eq!(window.depth(), (0, 0));
        assert!(window.oldest_age(now).is_none());
    }

    #[test]
    fn one_record_larger_than_the_window_still_goes() {
        let window = Window::new(1, 10);
        assert!(window.has_room(Topic::Frames));
    }
}
