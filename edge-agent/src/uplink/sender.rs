//! The uplink's thread: from the spool into the window, from the reports back to the spool.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender as ChannelSender, select};
use picket_service::logging::chain;
use picket_service::renewed::{Digest, Watch};
use picket_wire::message::Outgoing;
use picket_wire::{Lane, Topic, TopicNames};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::bulk::{BulkLimit, Class};
use super::ceiling::Ceiling;
use super::files::Snapshot;
use super::handle::{Drained, Shared};
use super::lanes::Queue;
use super::link::Link;
use super::outcomes::{Alone, Suspect};
use super::pairs::{Pace, Pairs};
use super::producer::Report;
use super::queues::Queues;
use super::settings::Settings;
use super::speed::BacklogSpeed;
use super::troubles::Troubles;
use super::window::{Parcel, Ticket, Window};
use crate::spool::{Settled, SpoolReader, Spooled};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// What Kafka puts around a record and its headers, near enough.
const ENVELOPE_BYTES: u64 = 80;

/// How long the last settlements may take to be committed.
const FLUSH: Duration = Duration::from_secs(3);

/// A link whose oldest message waits longer is not one that carries records away as they come.
const QUICK: Duration = Duration::from_secs(3);

/// Between two steps through rows of the spool that may hold something to send: a long backlog of
/// other cameras takes some seconds then, and a part of a core.
const SEARCH_PAUSE: Duration = Duration::from_millis(5);

/// What the rest of the agent asks of the uplink.
pub enum Command {
    /// The newest heartbeat.
    Status(Outgoing),
    /// Drop all connections, and make none for so long.
    Cut(Duration),
    /// Make them again.
    Restore,
    /// Send what is left, for so long at most; then end.
    Drain {
        /// When to give up.
        until: Instant,
        /// Where the answer goes.
        reply: ChannelSender<Drained>,
    },
}

/// The thread's state.
pub struct Sender {
    pub(super) settings: Settings,
    pub(super) client_id: String,
    pub(super) names: TopicNames,
    pub(super) reader: SpoolReader,
    pub(super) commands: Receiver<Command>,
    pub(super) reports: Receiver<Report>,
    pub(super) reports_tx: ChannelSender<Report>,
    pub(super) pairs: Pairs,
    pub(super) pace: Pace,
    /// What the files held from which the producers in use were made.
    pub(super) files: Snapshot,
    pub(super) watch: Watch,
    /// Changed files that no broker took, and when that was.
    pub(super) turned_away: Option<(Digest, Instant)>,
    /// Why changed files are not in use.
    pub(super) files_problem: Option<String>,
    pub(super) queues: Queues,
    pub(super) window: Window,
    /// Whether the month's bytes are used up.
    pub(super) over_budget: bool,
    /// Whether pictures wait for a clock that tells whether that month is over.
    pub(super) holds_pictures: bool,
    pub(super) left_out_in_turn: u32,
    pub(super) bulk: BulkLimit,
    pub(super) backlog_speed: BacklogSpeed,
    pub(super) ceiling: Ceiling,
    pub(super) link: Link,
    pub(super) troubles: Troubles,
    /// What one partition keeps waiting while others go on.
    pub(super) silent: Option<String>,
    /// The cameras of which nothing was acknowledged meanwhile.
    pub(super) silent_keys: BTreeSet<String>,
    /// Rows that the broker refused in company: each is tried alone before it is given up, since
    /// the broker refuses a whole batch for one of it.
    pub(super) suspects: VecDeque<Suspect>,
    pub(super) alone: Option<Alone>,
    pub(super) status: Option<Outgoing>,
    /// When a refused heartbeat was last told of.
    pub(super) refusal_told: Option<Instant>,
    pub(super) settled: Vec<Settled>,
    /// Whether the spool holds rows that nobody has looked at yet.
    pub(super) searching: bool,
    pub(super) drain: Option<(Instant, ChannelSender<Drained>)>,
    pub(super) certificate_looked_at: Option<Instant>,
    /// What the dates of the certificates say against the link.
    pub(super) dates_problem: Option<String>,
    /// No connection is made before.
    pub(super) cut_until: Option<Instant>,
    pub(super) shared: Arc<Shared>,
}

impl Sender {
    /// Runs until it has drained, or until nobody is left to ask for it.
    pub fn run(mut self) {
        while self.turn() {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            self.tick(Instant::now());
            self.fill();
            self.hand_back();
            if self.is_drained() {
                break;
            }
        }
        self.end();
    }

    /// Waits for one thing, and takes all that is there; false when nobody is left.
    fn turn(&mut self) -> bool {
        let wait = if self.searching { SEARCH_PAUSE } else { TICK };
        select! {
            recv(self.reports) -> report => report.into_iter().for_each(|report| self.heed(report)),
            recv(self.reader.committed()) -> word => match word {
                Ok(()) => {
                    self.queues.more_committed();
                    for (topic, from) in self.reader.salvaged() {
                        self.queues.backlog_grew(topic, from);
                    }
                }
                // The spool has ended before the uplink: nothing can be settled any more.
                Err(_) => return false,
            },
            recv(self.commands) -> command => match command {
                Ok(command) => self.obey(command),
                Err(_) => return false,
            },
            default(wait) => {}
        }
        while let Ok(report) = self.reports.try_recv() {
            self.heed(report);
        }
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Status(status) => self.status = Some(status),
            Command::Cut(time) => self.cut(time, Instant::now()),
            Command::Restore => self.restore(Instant::now()),
            Command::Drain { until, reply } => {
                self.restore(Instant::now());
                self.drain = Some((until, reply));
            }
        }
    }

    fn heed(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Delivered { ticket, result } => {
                if let Some(sent) = self.window.settle(ticket, now) {
                    match result {
                        Ok(()) => self.delivered(sent, now),
                        Err(code) => self.not_delivered(ticket, sent, code, now),
                    }
                }
                if self.alone.is_some_and(|alone| alone.ticket == ticket) {
                    self.alone = None;
                }
            }
            Report::Carried { bytes } => self.carried(bytes),
            // Of a pair that is not in use: it says nothing of the link.
            Report::Trouble { pair, code, said, .. } if !self.pairs.is_current(pair) => {
                tracing::debug!(target: "uplink", said, "another producer complains");
                if code != Code::AllBrokersDown {
                    self.pairs.trial_said(pair, &said);
                }
            }
            // A broker closes connections that are idle: where nothing is on its way, that is all.
            Report::Trouble { code: Code::AllBrokersDown, topic, .. } => {
                if !self.window.has_any(|of| (of == Topic::Frames) == (topic == Topic::Frames)) {
                    return;
                }
                let change = self.link.all_brokers_down(now);
                self.tell(change);
            }
            Report::Trouble { said, .. } => {
                tracing::debug!(target: "uplink", said, "the producer complains");
                self.link.said(&said);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let change = self.link.tick(self.window.oldest_age(now), now);
        self.tell(change);
        self.bulk.on_way(self.window.bulk_bytes(), now);
        if self.bulk.is_due(now) {
            self.bulk.step(self.window.oldest(), now);
        }
        self.measure(now);
        // What is kept in memory for a link that works is not, once that is in doubt.
        let is_quick = self.window.oldest_age(now).is_none_or(|age| age < QUICK);
        self.reader.set_link_works(self.link.is_up() && is_quick && self.drain.is_none());
        if self.look_at_cut(now) {
            self.look_after_producers(now);
        }
    }

    /// Sends as long as the window has room and something waits.
    fn fill(&mut self) {
        self.searching = false;
        if self.pairs.current().is_none() {
            return;
        }
        let now = Instant::now();
        self.window.begin_turn(self.settings.silence(), now);
        self.ceiling.begin_turn(now);
        self.pairs.begin_turn(&self.window);
        self.queues.begin_turn();
        self.look_at_budget();
        self.send_suspect();
        loop {
            let now = Instant::now();
            if !self.link.may_send(self.window.is_empty(), now) || !self.send_next(now) {
                break;
            }
        }
        self.send_status();
    }

    /// False when nothing can be sent.
    fn send_next(&mut self, now: Instant) -> bool {
        let (window, troubles, pairs) = (&self.window, &self.troubles, &self.pairs);
        let is_suspect = |of: Topic| {
            self.suspects.iter().any(|suspect| suspect.topic == of)
                || self.alone.is_some_and(|alone| alone.topic == of)
        };
        let (bulk_room, ceiling) = (window.has_bulk_room(self.bulk.bytes()), &self.ceiling);
        let holds_pictures = self.holds_pictures;
        let admits = |queue: Queue| {
            !(holds_pictures && queue.topic == Topic::Frames)
                && (bulk_room || queue.class() == Class::Prompt)
                && ceiling.admits(queue.class())
        };
        let (speed, ends) = (&self.backlog_speed, self.drain.is_some());
        let open = |queue: Queue, key: &str| {
            let topic = queue.topic;
            let has_room = window.has_room_for(queue, key) && !pairs.awaits(topic, key);
            let in_time = ends || queue.lane == Lane::Live || speed.admits(topic, key, now);
            admits(queue)
                && in_time
                && has_room
                && !is_suspect(topic)
                && !troubles.holds(topic, now)
        };
        let next = self.queues.next(&self.reader, open, now);
        if next.is_none() && !bulk_room {
            self.bulk.was_reached();
        }
        self.searching = next.is_none() && self.queues.is_searching(open, now);
        self.settled.extend(self.queues.given_up());
        match next {
            None => false,
            Some((_, picture)) if picture.topic == Topic::Frames && self.over_budget => {
                self.leave_out(&picture)
            }
            Some((lane, spooled)) => {
                if lane == Lane::Backlog {
                    self.backlog_speed.sent(&spooled, now);
                }
                self.send(&spooled, lane, now).is_some()
            }
        }
    }

    pub(super) fn send(&mut self, spooled: &Spooled, lane: Lane, now: Instant) -> Option<Ticket> {
        let producers = self.pairs.current()?;
        let (topic, id) = (spooled.topic, spooled.id);
        let parcel = Parcel::Row { topic, id, lane };
        let bytes = spooled.bytes();
        let ticket = self.window.issue(parcel, &spooled.key, bytes, now);
        self.ceiling.spent(parcel.class(), bytes + ENVELOPE_BYTES);
        let sent = producers.send(
            topic,
            &spooled.key,
            &spooled.headers,
            Some(lane),
            &spooled.value,
            ticket,
        );
        match sent {
            Ok(()) => Some(ticket),
            Err(code) => {
                tracing::warn!(target: "uplink", id = spooled.id_text(), ?code,
                    "the producer does not take a record");
                let sent = self.window.settle(ticket, now)?;
                self.not_delivered(ticket, sent, code, now);
                None
            }
        }
    }

    /// At most one heartbeat is on its way, so that a broken link never holds more than one old.
    fn send_status(&mut self) {
        let now = Instant::now();
        let idle = self.window.is_empty();
        let held = self.troubles.holds(Topic::Status, now);
        if held
            || self.window.has_any(|topic| topic == Topic::Status)
            || !self.ceiling.admits_heartbeat(now)
            || !self.link.may_send(idle, now)
        {
            return;
        }
        let (Some(producers), Some(status)) = (self.pairs.current(), self.status.take()) else {
            return;
        };
        let bytes = status.value.len() as u64;
        let ticket = self.window.issue(Parcel::Status, &status.key, bytes, now);
        self.ceiling.spent_on_heartbeat(bytes + ENVELOPE_BYTES, now);
        let Outgoing { topic, key, headers, value } = &status;
        if let Err(code) = producers.send(*topic, key, headers, None, value, ticket)
            && let Some(sent) = self.window.settle(ticket, now)
        {
            self.not_delivered(ticket, sent, code, now);
        }
    }

    fn hand_back(&mut self) {
        if let Err(error) = self.reader.settle(std::mem::take(&mut self.settled)) {
            tracing::error!(target: "uplink", error = chain(&error),
                "what was acknowledged cannot be deleted; it will be sent again");
        }
    }

    fn is_drained(&self) -> bool {
        let Some((until, _)) = &self.drain else {
            return false;
        };
        let empty = self.window.is_empty() && self.reader.is_empty().unwrap_or(false);
        empty || Instant::now() >= *until
    }

    fn end(&mut self) {
        self.pairs.end();
        while let Ok(report) = self.reports.try_recv() {
            self.heed(report);
        }
        self.hand_back();
        if let Some((_, reply)) = self.drain.take() {
            // What was settled just now is still on disk until the writer has committed it, and
            // would be counted as not acknowledged.
            if let Err(error) = self.reader.flush(FLUSH) {
                tracing::warn!(target: "uplink", error = chain(&error),
                    "the count of what is left may be too high");
            }
            let left = self.reader.status(None).unwrap_or_default();
            let _ = reply.send(Drained { records: left.records, bytes: left.bytes });
        }
    }
}
