//! What is to be sent, by lane, topic and camera, found in the spool a little ahead.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use picket_service::logging::chain;
use picket_wire::observation::Reason;
use picket_wire::{Lane, Topic};

use super::lanes::{Lanes, Queue};
use super::shelves::{AHEAD, Shelves, Waiting};
use crate::spool::{
    Advice, Head, Heads, Limits, Outcome, RowId, Settled, SpoolError, SpoolReader, Spooled,
};

/// Rows that one look at a table passes.
const LOOK: usize = AHEAD;
/// Looks per queue and turn while nothing was found: a long way past the rows of others is gone in
/// steps, between which reports are heard.
const LOOKS: usize = 4;

/// Before a queue is read again that could not be.
const RETRY_READ: Duration = Duration::from_secs(1);
/// The same where a person is needed.
const STOPPED: Duration = Duration::from_secs(60);

/// What the queues ask of the spool.
pub trait Rows {
    /// See [`SpoolReader::heads`].
    fn heads(&self, topic: Topic, ids: Range<RowId>, limit: usize) -> Result<Heads, SpoolError>;
    /// Takes a row to be sent; `None` if it is gone, or on its way.
    fn take(&self, topic: Topic, id: RowId) -> Result<Option<Spooled>, SpoolError>;
    /// A row that was taken was not delivered.
    fn give_back(&self, id: RowId);
    /// The number of the next row that comes in.
    fn next_id(&self) -> RowId;
}

impl Rows for SpoolReader {
    fn heads(&self, topic: Topic, ids: Range<RowId>, limit: usize) -> Result<Heads, SpoolError> {
        Self::heads(self, topic, ids, limit)
    }

    fn take(&self, topic: Topic, id: RowId) -> Result<Option<Spooled>, SpoolError> {
        Ok(self.next_batch(topic, id..id + 1, Limits { rows: 1, bytes: 1 })?.pop())
    }

    fn give_back(&self, id: RowId) {
        Self::give_back(self, [id]);
    }

    fn next_id(&self) -> RowId {
        Self::next_id(self)
    }
}

/// What is to be sent, by lane, topic and camera.
#[derive(Debug)]
pub struct Queues {
    lanes: Lanes,
    /// Rows from here on are live: they were committed while the link was up.
    live_from: RowId,
    /// The same of cameras whose partition was away while the link was up.
    live_from_of: BTreeMap<String, RowId>,
    shelves: [Shelves; 4],
    /// By queue: it could not be read.
    held_until: [Option<Instant>; 4],
    /// By queue: whether it was looked for more in this turn.
    looked: [bool; 4],
    given_up: Vec<Settled>,
}

impl Queues {
    /// What was in the spool at the start is backlog, what this run commits is live.
    pub fn new(backlog_one_in: u32, live_from: RowId) -> Self {
        let first = |queue: Queue| if queue.lane == Lane::Live { live_from } else { 0 };
        Self {
            lanes: Lanes::new(backlog_one_in),
            live_from,
            live_from_of: BTreeMap::new(),
            shelves: Queue::ALL.map(|queue| Shelves::new(first(queue))),
            held_until: [None; 4],
            looked: [false; 4],
            given_up: Vec::new(),
        }
    }

    /// To be called before what waits is handed over.
    pub fn begin_turn(&mut self) {
        self.looked = [false; 4];
    }

    /// The lane in which a row would be sent now.
    pub fn lane_of(&self, key: &str, id: RowId) -> Lane {
        lane_of(self.live_from, &self.live_from_of, key, id)
    }

    /// After an outage: all that is committed by now is backlog.
    pub fn restart(&mut self, rows: &impl Rows) {
        self.live_from = rows.next_id();
        self.live_from_of.clear();
        for topic in Topic::OF_CAMERAS {
            let [live, backlog] = self.lanes_of(topic);
            let keys: Vec<_> = live.keys().chain(backlog.keys()).cloned().collect();
            keys.iter().for_each(|key| backlog.again(key, live.first_of(key)));
            backlog.widen(live.frontier());
            backlog.more();
        }
        let live_from = self.live_from;
        for queue in Queue::ALL.into_iter().filter(|queue| queue.lane == Lane::Live) {
            self.shelves[queue.index()].restart(live_from);
        }
    }

    /// After one camera's partition was away: what it has committed by now is backlog.
    pub fn restart_camera(&mut self, key: &str, rows: &impl Rows) {
        let live_from = rows.next_id();
        self.live_from_of.insert(key.to_owned(), live_from);
        for topic in Topic::OF_CAMERAS {
            let [live, backlog] = self.lanes_of(topic);
            backlog.again(key, live.first_of(key));
            backlog.more();
            live.cut(key, live_from);
        }
    }

    fn lanes_of(&mut self, topic: Topic) -> [&mut Shelves; 2] {
        // By their order in `Queue::ALL`: observations and frames live, the same of the backlog.
        let [live_observations, live_frames, observations, frames] = &mut self.shelves;
        match topic {
            Topic::Frames => [live_frames, frames],
            _ => [live_observations, observations],
        }
    }

    /// Something was committed, so that a live queue may have more. Gap records of evictions too
    /// come at the end, so a backlog never gets more by a commit.
    pub fn more_committed(&mut self) {
        for queue in Queue::ALL.into_iter().filter(|queue| queue.lane == Lane::Live) {
            self.shelves[queue.index()].more();
        }
    }

    /// Rows of a damaged spool came over, from this number on, where a look may have found none.
    pub fn backlog_grew(&mut self, topic: Topic, from: RowId) {
        let [_, backlog] = self.lanes_of(topic);
        backlog.grew(from);
    }

    /// A row was not delivered: it is read again, before those that come after it.
    pub fn again(&mut self, rows: &impl Rows, topic: Topic, key: &str, id: RowId) {
        rows.give_back(id);
        let queue = Queue { lane: self.lane_of(key, id), topic };
        self.shelves[queue.index()].again(key, id);
    }

    /// Takes the next row to send, of those that have room. What has none holds up nothing else.
    pub fn next(
        &mut self,
        rows: &impl Rows,
        has_room: impl Fn(Queue, &str) -> bool,
        now: Instant,
    ) -> Option<(Lane, Spooled)> {
        loop {
            self.restock(rows, &has_room, now);
            let ready = |queue| self.ready(queue, &has_room, now);
            let queue = self.lanes.choose(|queue| ready(queue).is_some())?;
            let other_waits =
                Queue::ALL.into_iter().any(|of| of.lane != queue.lane && ready(of).is_some());
            let key = ready(queue)?.to_owned();
            let waiting = self.shelves[queue.index()].take(&key)?;
            match rows.take(queue.topic, waiting.id) {
                Ok(Some(spooled)) => {
                    self.lanes.sent(queue.lane, spooled.bytes(), other_waits);
                    return Some((queue.lane, spooled));
                }
                // Evicted, or met again while it is on its way: its report says what becomes of it.
                Ok(None) => {}
                Err(error) => self.not_taken(queue, &key, waiting, &error, now),
            }
        }
    }

    /// The camera whose row is next in a queue.
    fn ready(
        &self,
        queue: Queue,
        has_room: impl Fn(Queue, &str) -> bool,
        now: Instant,
    ) -> Option<&str> {
        let shelves = &self.shelves[queue.index()];
        let may_go = |key: &str| has_room(queue, key) && !self.would_overtake(queue, key, now);
        if self.is_held(queue, now) { None } else { shelves.next(may_go) }
    }

    /// Whether a camera's next picture of the backlog was captured behind an observation that still
    /// waits: these keep to a pace, and while they do the link may have room for pictures. Observations
    /// that cannot be read are not waited for.
    fn would_overtake(&self, queue: Queue, key: &str, now: Instant) -> bool {
        let first_of = |queue: Queue| self.shelves[queue.index()].first_of(key);
        let observations = Queue { topic: Topic::Observations, ..queue };
        queue.lane == Lane::Backlog
            && queue.topic == Topic::Frames
            && !self.is_held(observations, now)
            && first_of(observations) < first_of(queue)
    }

    fn is_held(&self, queue: Queue, now: Instant) -> bool {
        self.held_until[queue.index()].is_some_and(|until| now < until)
    }

    /// Each by itself: what cannot be read in one holds up no other.
    fn restock(&mut self, rows: &impl Rows, has_room: impl Fn(Queue, &str) -> bool, now: Instant) {
        for queue in Queue::ALL {
            for _ in 0..LOOKS {
                let at = queue.index();
                let is_ready = self.ready(queue, &has_room, now).is_some();
                if self.is_held(queue, now) || (is_ready && self.looked[at]) {
                    break;
                }
                let Some(from) = self.shelves[at].look_from(|key| has_room(queue, key)) else {
                    break;
                };
                self.looked[at] = true;
                self.look(rows, queue, from, now);
            }
        }
    }

    /// Whether there are rows that were not looked at, and that somebody may wait for.
    pub fn is_searching(&self, has_room: impl Fn(Queue, &str) -> bool, now: Instant) -> bool {
        Queue::ALL.into_iter().any(|queue| {
            let from = self.shelves[queue.index()].look_from(|key| has_room(queue, key));
            !self.is_held(queue, now) && from.is_some()
        })
    }

    fn look(&mut self, rows: &impl Rows, queue: Queue, from: RowId, now: Instant) {
        let end = match queue.lane {
            Lane::Live => RowId::MAX,
            Lane::Backlog => {
                let later = self.live_from_of.values().copied();
                later.fold(self.live_from, RowId::max)
            }
        };
        let Heads { heads, ends } = match rows.heads(queue.topic, from..end, LOOK) {
            Ok(heads) => heads,
            Err(error) => return self.not_looked(queue, from, &error, now),
        };
        let behind = heads.last().map_or(from, |head| head.id + 1);
        let to = if ends && queue.lane == Lane::Backlog { end.max(from) } else { behind };
        let (live_from, live_from_of) = (self.live_from, &self.live_from_of);
        let of_this_lane =
            |head: &Head| lane_of(live_from, live_from_of, &head.key, head.id) == queue.lane;
        self.shelves[queue.index()].take_in((from, to), heads, ends, of_this_lane);
    }

    /// A look met something that cannot be read: what is behind it goes.
    fn not_looked(&mut self, queue: Queue, from: RowId, error: &SpoolError, now: Instant) {
        match self.unreadable(queue, error, now) {
            Some(row) => {
                let past = (from, row.max(from) + 1);
                self.shelves[queue.index()].take_in(past, Vec::new(), false, |_| true);
            }
            None => self.looked[queue.index()] = true,
        }
    }

    fn not_taken(
        &mut self,
        queue: Queue,
        key: &str,
        row: Waiting,
        error: &SpoolError,
        now: Instant,
    ) {
        if self.unreadable(queue, error, now).is_none() {
            self.shelves[queue.index()].put_back(key, row);
        }
    }

    /// Says what is wrong. The row, if it is to be passed over; else the queue is held for a while.
    fn unreadable(&mut self, queue: Queue, error: &SpoolError, now: Instant) -> Option<RowId> {
        let (lane, topic) = (queue.lane.as_str(), queue.topic.suffix());
        let text = chain(error);
        let hold = match (error.advice(), error) {
            (Advice::Discard, SpoolError::BadRow { id, .. }) => {
                tracing::error!(target: "uplink", lane, topic, row = id, error = text,
                    "a row of the spool is given up");
                let outcome = Outcome::Refused(Reason::SPOOL_DAMAGED.into());
                self.given_up.push(Settled { topic: queue.topic, id: *id, outcome });
                return Some(*id);
            }
            (Advice::Discard, SpoolError::Key { id, .. }) => {
                tracing::error!(target: "uplink", lane, topic, row = id, error = text,
                    "a row of the spool can never be decrypted again, and is given up");
                let outcome = Outcome::Refused(Reason::SPOOL_KEY_LOST.into());
                self.given_up.push(Settled { topic: queue.topic, id: *id, outcome });
                return Some(*id);
            }
            // Deleting it would read the same pages. It stays for the next start, which looks
            // closely, and what is behind it goes.
            (_, SpoolError::DamagedRow { id, .. }) => {
                tracing::error!(target: "uplink", lane, topic, row = id, error = text,
                    "a row of the spool is stepped over; restart the agent to have its spool checked");
                return Some(*id);
            }
            (Advice::Retry, _) => {
                tracing::warn!(target: "uplink", lane, topic, error = text,
                    "a queue of the spool cannot be read; tried again");
                RETRY_READ
            }
            (Advice::Stop | Advice::Discard, _) => {
                tracing::error!(target: "uplink", lane, topic, error = text,
                    "a queue of the spool cannot be read; restart the agent to have its spool checked");
                STOPPED
            }
        };
        self.held_until[queue.index()] = Some(now + hold);
        None
    }

    /// Rows that can never be sent, to be settled as refused.
    pub fn given_up(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.given_up)
    }
}

fn lane_of(live_from: RowId, of: &BTreeMap<String, RowId>, key: &str, id: RowId) -> Lane {
    let from = of.get(key).copied().unwrap_or(live_from);
    if id >= from { Lane::Live } else { Lane::Backlog }
}

#[cfg(test)]
mod tests;
