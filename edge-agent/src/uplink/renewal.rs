//! New producers for old: after a failure for good, and for files that have changed.

use std::time::{Duration, Instant};

use picket_service::logging::chain;
use picket_service::renewed::{Digest, Look};
use picket_wire::Topic;

use super::files::{self, Snapshot};
use super::link;
use super::pairs::Tried;
use super::producer::Producers;
use super::security;
use super::sender::Sender;

/// Before files that no broker took are tried again while the link works with the former ones. While
/// it does not, they are tried again and again: they may be what opens it.
const TRY_AGAIN: Duration = Duration::from_secs(60);

impl Sender {
    /// Makes, replaces and lets go of producers as it has to be.
    pub(super) fn look_after_producers(&mut self, now: Instant) {
        self.replace_if_fatal(now);
        self.look_at_files(now);
        if let Some(tried) = self.pairs.tried() {
            self.judge_trial(tried, now);
        }
        self.pairs.tick(&self.window, now);
        if self.pairs.current().is_none() && self.pace.allows(now) && self.link.may_send(true, now)
        {
            match self.make_anew() {
                Ok(producers) => self.pairs.put(producers, self.window.next_ticket(), now),
                Err(problem) => {
                    let change = self.link.broke(problem, now);
                    self.tell(change);
                    self.link.hold(now);
                }
            }
        }
    }

    fn make_producers(&mut self) -> Result<Producers, String> {
        let pair = self.pairs.next_number();
        Producers::new(pair, &self.settings, &self.client_id, &self.reports_tx)
            .map_err(|error| chain(&error))
    }

    /// Makes a pair where there is none. What the files held that were last in use is not kept: it is
    /// made from what they hold now, which may be what was turned away, and which is then in use.
    fn make_anew(&mut self) -> Result<Producers, String> {
        // Before the library reads them: a change in between is seen at the next look.
        let files = Snapshot::take(&self.settings).map_err(|error| chain(&error))?;
        let producers = self.make_producers()?;
        if files.digest != self.files.digest {
            tracing::warn!(target: "uplink", problem = self.files_problem,
                "the producer is made with the files as they are now, which have changed");
            self.in_use(files);
        }
        Ok(producers)
    }

    /// How long a pair that is replaced may take for what is on its way: as long as silence may last.
    /// One that has no link brings nothing to its end.
    fn drained_by(&self, now: Instant) -> Instant {
        let limit = Duration::from_millis(self.settings.stall_ms);
        if self.link.is_down() { now } else { now + limit }
    }

    /// A producer with a fatal error takes nothing more. What it had sent is still answered; what it
    /// had not sent comes back as not delivered.
    fn replace_if_fatal(&mut self, now: Instant) {
        let Some(said) = self.pairs.current().and_then(Producers::fatal) else {
            return;
        };
        tracing::warn!(target: "uplink", problem = said, "the producer is replaced");
        metrics::counter!("picket_agent_uplink_producer_restarts_total", "why" => "fatal")
            .increment(1);
        self.pace.failed(now);
        let until = self.drained_by(now);
        self.pairs.retire(self.window.next_ticket(), until);
        self.link.begin_anew();
        self.link.said(&said);
        if !self.pace.allows(now) {
            let change = self.link.broke(link::explain(&said), now);
            self.tell(change);
        }
    }

    fn look_at_files(&mut self, now: Instant) {
        let settings = &self.settings;
        match self.watch.look(now, || files::digest(settings)) {
            Look::Nothing => {}
            Look::Back => self.files_are(None),
            Look::Unreadable(error) => self.files_are(Some(chain(&error))),
            Look::Changed(digest) => {
                let is_tried = self.turned_away.is_some_and(|(of, at)| {
                    of == digest
                        && self.link.is_up()
                        && now.saturating_duration_since(at) < TRY_AGAIN
                });
                if !is_tried && !self.pairs.is_trying() {
                    self.take_up_files(digest, now);
                }
            }
        }
    }

    /// What the new files are good for is found out before the former producers are given up for them,
    /// also while the link is down: it may come back, and only for the former ones.
    fn take_up_files(&mut self, digest: Digest, now: Instant) {
        let checked = security::check(&self.settings).map_err(|error| chain(&error));
        let made = checked.and_then(|files| Ok((files, self.make_producers()?)));
        let (files, producers) = match made {
            Ok(made) => made,
            Err(problem) => {
                self.turned_away = Some((digest, now));
                return self.files_are(Some(problem));
            }
        };
        // Read by the library since they were checked: a change meanwhile is seen at the next look.
        if files::digest(&self.settings).ok() != Some(files.digest) {
            return;
        }
        let limit = self.settings.trial();
        self.pairs.try_out(producers, files, self.rights_at_stake(), limit);
    }

    /// Topics that the producers in use can write, as far as is known: a right that these lack as well
    /// is no reason to keep them, and while the link is down there is none at all.
    fn rights_at_stake(&self) -> Vec<Topic> {
        let works = |topic: &Topic| self.link.is_up() && !self.troubles.has(*topic);
        Topic::OF_CAMERAS.into_iter().filter(works).collect()
    }

    fn judge_trial(&mut self, tried: Tried, now: Instant) {
        let Tried { producers, files, result } = tried;
        match result {
            Ok(()) => self.use_files(producers, files, now),
            Err(said) => {
                self.turned_away = Some((files.digest, now));
                let why = link::explain(&said);
                self.files_are(Some(format!("no broker lets this device in with them: {why}")));
            }
        }
    }

    fn use_files(&mut self, producers: Producers, files: Snapshot, now: Instant) {
        let until = self.drained_by(now);
        self.pairs.put(producers, self.window.next_ticket(), until);
        self.link.begin_anew();
        metrics::counter!("picket_agent_uplink_producer_restarts_total", "why" => "files")
            .increment(1);
        tracing::warn!(target: "uplink", certificate_days_left = files.days_left(),
            "the files of the uplink have changed, and are taken up");
        self.files_are(None);
        self.in_use(files);
    }

    fn in_use(&mut self, files: Snapshot) {
        self.watch.uses(files.digest);
        self.files = files;
        self.turned_away = None;
        self.certificate_looked_at = None;
        // What is wrong with them now is what is wrong with the link.
        self.files_problem = None;
        metrics::gauge!("picket_agent_uplink_files_refused").set(0.0);
        self.show();
    }

    /// Says once what is wrong with the changed files, and once that nothing is any more.
    fn files_are(&mut self, problem: Option<String>) {
        if problem == self.files_problem {
            return;
        }
        let refused = if problem.is_some() { 1.0 } else { 0.0 };
        metrics::gauge!("picket_agent_uplink_files_refused").set(refused);
        match &problem {
            Some(problem) => tracing::warn!(target: "uplink", problem,
                "the files of the uplink have changed and cannot be taken up: the former ones stay in use"),
            None => {
                tracing::warn!(target: "uplink", "nothing is wrong with the uplink's files any more")
            }
        }
        self.files_problem = problem;
        self.show();
    }
}
