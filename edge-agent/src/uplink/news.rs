//! What the uplink tells of itself: log lines once per change, the status, the metrics.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::link::Change;
use super::sender::Sender;

const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(3600);
/// While its dates are wrong: a clock that is set soon after the start makes them right.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// From here on a certificate that nobody renews is said with every look at it.
const RENEW_DAYS: i64 = 14;

impl Sender {
    /// One line for each change, and one a minute while it stays down.
    pub(super) fn tell(&mut self, change: Option<Change>) {
        let problem = self.link.problem().map(ToOwned::to_owned);
        match change {
            None => return,
            Some(Change::Up { outage: None }) => {
                tracing::info!(target: "uplink", brokers = ?self.settings.brokers, "the link is up");
            }
            Some(Change::Up { outage: Some(outage) }) => {
                // All that came meanwhile is backlog: what comes from now on goes before it.
                self.queues.restart(&self.reader);
                self.silent_keys.clear();
                self.bulk.restart(Instant::now());
                self.window.forget_silence(Instant::now());
                tracing::warn!(target: "uplink", outage_ms = outage.as_millis() as u64,
                    "the link is up again");
            }
            Some(Change::Down) => {
                metrics::counter!("picket_agent_uplink_outages_total").increment(1);
                tracing::warn!(target: "uplink", problem,
                    "the link is down: what is captured waits in the spool");
            }
            Some(Change::StillDown) => {
                tracing::warn!(target: "uplink", problem, "the link is still down");
            }
        }
        self.show();
    }

    /// Brings the status up to date.
    pub(super) fn show(&self) {
        let problem = self.link.problem().or_else(|| self.troubles.problem());
        let problem = problem.or(self.silent.as_deref());
        let up = self.link.is_up() && problem.is_none();
        // Said first while nothing goes: it is then the likeliest cause. While the broker takes
        // records all the same it is only a log line.
        let likely = [&self.dates_problem, &self.files_problem];
        let likely = likely.into_iter().filter(|_| !up).filter_map(Option::as_deref);
        let said: Vec<_> = likely.chain(problem).collect();
        let problem = (!said.is_empty()).then(|| said.join("; "));
        metrics::gauge!("picket_agent_uplink_up").set(if up { 1.0 } else { 0.0 });
        let files_wait = self.files_problem.is_some() || self.pairs.is_trying();
        self.shared.files_wait.store(files_wait, Ordering::Relaxed);
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.up = up;
        status.problem = problem;
    }

    /// What changes with time alone.
    pub(super) fn measure(&mut self, now: Instant) {
        let (records, bytes) = self.window.depth();
        metrics::gauge!("picket_agent_uplink_in_flight_records").set(records as f64);
        metrics::gauge!("picket_agent_uplink_in_flight_bytes").set(bytes as f64);
        metrics::gauge!("picket_agent_uplink_bulk_limit_bytes").set(self.bulk.bytes() as f64);
        let every = if self.dates_problem.is_some() { LOOK_AGAIN } else { LOOK_AT_CERTIFICATE };
        if self.certificate_looked_at.is_none_or(|at| now - at >= every) {
            self.certificate_looked_at = Some(now);
            self.look_at_certificate();
        }
        self.look_for_silence(now);
        self.show();
    }

    /// Acknowledgements come, but none for one of the keys: its partition is not well.
    fn look_for_silence(&mut self, now: Instant) {
        let limit = self.settings.silence();
        let mut silent = self.window.silent_for(limit, now).filter(|_| self.link.is_up());
        let first = silent.next();
        self.silent_keys.extend(first.iter().cloned().chain(silent).map(|(_, key)| key.to_owned()));
        let problem = first.map(|(topic, key)| {
            format!(
                "others are acknowledged, but nothing of {key} on the topic {}: the broker that leads \
                 its partition may be away, or the partition has fewer replicas than \
                 min.insync.replicas",
                self.names.name(topic)
            )
        });
        if problem == self.silent {
            return;
        }
        match &problem {
            Some(problem) => tracing::warn!(target: "uplink", problem, "a partition is silent"),
            None => tracing::warn!(target: "uplink", "no partition is silent any more"),
        }
        self.silent = problem;
    }

    fn look_at_certificate(&mut self) {
        let dates = self.files.dates_problem();
        let is_news = dates != self.dates_problem;
        match &dates {
            Some(problem) if is_news => {
                tracing::warn!(target: "uplink", problem,
                    "the broker will hardly let this device in: what is captured waits in the spool");
            }
            None if is_news => {
                tracing::warn!(target: "uplink", "the certificates are in their time again");
            }
            _ => {}
        }
        self.dates_problem = dates;
        let Some(days) = self.files.days_left() else {
            return;
        };
        metrics::gauge!("picket_agent_uplink_certificate_days_left").set(days as f64);
        if days < RENEW_DAYS && (is_news || self.dates_problem.is_none()) {
            tracing::warn!(target: "uplink", days_left = days,
                "this device's certificate must be renewed");
        }
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.certificate_days_left = Some(days);
    }
}
