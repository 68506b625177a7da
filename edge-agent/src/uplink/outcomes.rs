//! What becomes of a message that was handed over: acknowledged, to be sent again, or refused.
//!
//! The broker refuses a whole batch for one message of it. So each that was refused in company is tried
//! alone before it is given up.

use std::time::{Duration, Instant};

use picket_wire::Topic;
use picket_wire::observation::Reason;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::link::{self, Acked, Verdict};
use super::sender::Sender;
use super::window::{Parcel, Sent, Ticket};
use crate::spool::{Outcome, RowId, Settled};

const REMIND_EVERY: Duration = Duration::from_secs(60);

/// A row that is on its way with nothing else of its topic.
#[derive(Clone, Copy)]
pub struct Alone {
    pub ticket: Ticket,
    pub topic: Topic,
    /// Whether a gap record could stand for it.
    is_replaceable: bool,
}

/// A row that the broker refused in company.
pub struct Suspect {
    pub topic: Topic,
    key: String,
    id: RowId,
}

impl Sender {
    pub(super) fn delivered(&mut self, sent: Sent, now: Instant) {
        self.bulk.acknowledged(sent.parcel.class(), sent.at, now);
        let topic = sent.parcel.topic();
        if self.troubles.cleared(topic) {
            tracing::warn!(target: "uplink", topic = self.names.name(topic),
                "the topic can be written again");
            self.queues.restart(&self.reader);
        }
        if self.silent_keys.remove(&sent.key) {
            // All of it that waited is backlog: what this camera captures from now on goes before it.
            self.queues.restart_camera(&sent.key, &self.reader);
        }
        if let Parcel::Row { topic, id, lane } = sent.parcel {
            self.settled.push(Settled { topic, id, outcome: Outcome::Acknowledged });
            let labels = [("topic", topic.suffix()), ("lane", lane.as_str())];
            metrics::counter!("picket_agent_uplink_acknowledged_total", &labels).increment(1);
            metrics::counter!("picket_agent_uplink_acknowledged_bytes_total", &labels)
                .increment(sent.bytes);
            metrics::histogram!("picket_agent_uplink_acknowledge_seconds", &labels)
                .record(now.saturating_duration_since(sent.at));
        }
        let is_first = topic == Topic::Frames && self.window.has_any(|of| of != Topic::Frames);
        let what = if is_first { Acked::PictureFirst } else { Acked::Record };
        let change = self.link.acked(what, now);
        self.tell(change);
    }

    pub(super) fn not_delivered(&mut self, ticket: Ticket, sent: Sent, code: Code, now: Instant) {
        metrics::counter!("picket_agent_uplink_delivery_errors_total",
            "code" => format!("{code:?}"))
        .increment(1);
        let topic = sent.parcel.topic();
        let verdict = link::judge(code, topic, &self.names);
        if let (Verdict::Refused(reason), Parcel::Row { topic, id, .. }) = (&verdict, sent.parcel) {
            let suspect = Suspect { topic, key: sent.key, id };
            return self.refused(ticket, suspect, reason.clone(), now);
        }
        if let (Verdict::Refused(reason), Parcel::Status) = (&verdict, sent.parcel) {
            // The next one is a second away, and this says nothing of the link or of other topics.
            if self.refusal_told.is_none_or(|at| now - at >= REMIND_EVERY) {
                self.refusal_told = Some(now);
                tracing::warn!(target: "uplink", %reason, "heartbeats are refused");
            }
            return;
        }
        if let Parcel::Row { topic, id, .. } = sent.parcel {
            self.queues.again(&self.reader, topic, &sent.key, id);
        }
        match verdict {
            Verdict::Problem(problem) => self.topic_in_trouble(topic, problem, now),
            // The next pair is not to blame, and need not wait.
            Verdict::Retry if self.pairs.was_before(ticket) => {}
            Verdict::Retry | Verdict::Refused(_) => self.link.hold(now),
        }
    }

    /// The broker has answered, and its answer was no: the link works, the topic does not.
    fn topic_in_trouble(&mut self, topic: Topic, problem: String, now: Instant) {
        let change = self.link.acked(Acked::Record, now);
        self.tell(change);
        if self.troubles.met(topic, problem.clone(), now) {
            tracing::warn!(target: "uplink", problem, "a topic cannot be written");
        }
        self.show();
    }

    fn refused(&mut self, ticket: Ticket, suspect: Suspect, reason: Reason, now: Instant) {
        let Some(alone) = self.alone.filter(|alone| alone.ticket == ticket) else {
            return self.suspects.push_back(suspect);
        };
        let Suspect { topic, key, id } = suspect;
        if !alone.is_replaceable {
            self.queues.again(&self.reader, topic, &key, id);
            let problem = format!(
                "the broker refuses a gap, epoch or clock record on the topic {} ({reason}): \
                 without it the accounts stay open, so it is tried again",
                self.names.name(topic)
            );
            return self.topic_in_trouble(topic, problem, now);
        }
        tracing::error!(target: "uplink", topic = self.names.name(topic), row = id, %reason,
            "the broker will never take this record: it is dropped and told as a gap");
        metrics::counter!("picket_agent_uplink_refused_total",
            "topic" => topic.suffix(), "reason" => reason.as_str().to_owned())
        .increment(1);
        self.settled.push(Settled { topic, id, outcome: Outcome::Refused(reason) });
    }

    /// Sends one suspect when nothing else of its topic is on its way: keys may share a partition.
    pub(super) fn send_suspect(&mut self) {
        let now = Instant::now();
        let Some(&Suspect { topic, id, .. }) = self.suspects.front() else {
            return;
        };
        if self.window.has_any(|of| of == topic) || !self.link.may_send(true, now) {
            return;
        }
        let Some(Suspect { key, .. }) = self.suspects.pop_front() else {
            return;
        };
        self.reader.give_back([id]);
        let limits = crate::spool::Limits { rows: 1, bytes: 1 };
        let read = self.reader.next_batch(topic, id..id + 1, limits);
        match read.as_deref() {
            Ok([spooled]) => {
                // The next ticket is the one that this sending gets.
                let (ticket, is_replaceable) =
                    (self.window.next_ticket(), spooled.is_replaceable());
                self.alone = Some(Alone { ticket, topic, is_replaceable });
                let lane = self.queues.lane_of(&key, id);
                if self.send(spooled, lane, now).is_none() {
                    self.alone = None;
                }
            }
            // Not there any more.
            Ok(_) => {}
            // Its queue meets the same error, and knows what to do about it.
            Err(_) => self.queues.again(&self.reader, topic, &key, id),
        }
    }
}
