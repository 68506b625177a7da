//! The pairs of producers: the one in use, the one before it, and the one that is on trial.
//!
//! A pair is replaced when it has failed for good, or when the files that it was made from have
//! changed. What is on its way at the former pair is waited for, and until then nothing new of the same
//! key goes over the next one, which could overtake it. What the former pair does not bring to its end
//! in time is reported as not delivered, and goes over the next one with the same bytes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use picket_wire::Topic;

use super::files::Snapshot;
use super::producer::{NotLetIn, Producers};
use super::window::{Ticket, Window};

/// How soon a trial ends that nobody waits for any more.
const SLICE: Duration = Duration::from_secs(1);

/// All that there are: three at most, and those that close.
#[derive(Default)]
pub struct Pairs {
    current: Option<Producers>,
    former: Option<Former>,
    trial: Option<Trial>,
    closing: Vec<JoinHandle<()>>,
    /// What the former pair still has on its way, as of this turn.
    awaited: BTreeSet<(Topic, String)>,
    made: u32,
}

/// A pair that takes nothing more.
struct Former {
    /// Gone when its time was up; what it reports then is still to come.
    producers: Option<Producers>,
    /// All its tickets are below.
    first_of_next: Ticket,
    until: Instant,
}

/// A pair that has to show that a broker lets it in.
struct Trial {
    pair: u32,
    files: Snapshot,
    /// What went wrong, in librdkafka's words, as far as is known.
    said: Option<String>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<(Producers, Result<(), NotLetIn>)>,
}

/// How a trial ended.
pub struct Tried {
    /// The pair.
    pub producers: Producers,
    /// The files that it was made from.
    pub files: Snapshot,
    /// Whether a broker let it in; else why not, in librdkafka's words.
    pub result: Result<(), String>,
}

impl Pairs {
    /// A number for a new pair.
    pub fn next_number(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    /// The pair in use.
    pub fn current(&self) -> Option<&Producers> {
        self.current.as_ref()
    }

    /// Whether this is the pair in use.
    pub fn is_current(&self, pair: u32) -> bool {
        self.current.as_ref().is_some_and(|current| current.pair() == pair)
    }

    /// Takes a pair into use. The one before it, if there is one, has until then.
    pub fn put(&mut self, producers: Producers, next: Ticket, until: Instant) {
        self.retire(next, until);
        self.current = Some(producers);
    }

    /// Takes the pair in use out of use.
    pub fn retire(&mut self, first_of_next: Ticket, until: Instant) {
        let Some(producers) = self.current.take() else {
            return;
        };
        // Two are replaced in so short a time only if something is wrong: the older one's time is up.
        if let Some(older) = self.former.take() {
            older.producers.into_iter().for_each(|producers| self.close(producers));
        }
        self.former = Some(Former { producers: Some(producers), first_of_next, until });
    }

    /// To be called before what waits is handed over: looks what the former pair still has.
    pub fn begin_turn(&mut self, window: &Window) {
        self.awaited.clear();
        if let Some(former) = &self.former {
            let before = window.before(former.first_of_next);
            self.awaited = before.map(|(topic, key)| (topic, key.to_owned())).collect();
        }
    }

    /// Whether something of this key is still on its way at the former pair.
    pub fn awaits(&self, topic: Topic, key: &str) -> bool {
        !self.awaited.is_empty() && self.awaited.contains(&(topic, key.to_owned()))
    }

    /// Whether this was handed to a pair that is not in use any more.
    pub fn was_before(&self, ticket: Ticket) -> bool {
        self.former.as_ref().is_some_and(|former| ticket < former.first_of_next)
    }

    /// Lets the former pair go when it has brought everything to its end, or its time is up.
    pub fn tick(&mut self, window: &Window, now: Instant) {
        self.closing.retain(|thread| !thread.is_finished());
        let Some(former) = &mut self.former else {
            return;
        };
        let is_empty = window.before(former.first_of_next).next().is_none();
        let producers =
            if is_empty || now >= former.until { former.producers.take() } else { None };
        if is_empty {
            self.former = None;
        }
        producers.into_iter().for_each(|producers| self.close(producers));
    }

    /// On a thread of its own: the library waits for its threads, which may be looking up a name.
    fn close(&mut self, producers: Producers) {
        let thread = thread::Builder::new().name("closing".to_owned());
        match thread.spawn(move || producers.purge()) {
            Ok(thread) => self.closing.push(thread),
            Err(error) => {
                // The producers went with the closure, and were closed here.
                tracing::warn!(target: "uplink", %error, "no thread to close a producer on");
            }
        }
    }

    /// Tries for so long whether a new pair is let in, which must also have a right on these topics;
    /// whatever was on trial before is not wanted any more.
    pub fn try_out(
        &mut self,
        producers: Producers,
        files: Snapshot,
        topics: Vec<Topic>,
        limit: Duration,
    ) {
        self.end_trial();
        let (pair, over) = (producers.pair(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let run = move || {
            let until = Instant::now() + limit;
            let mut result = Err(NotLetIn::NoAnswer);
            while result == Err(NotLetIn::NoAnswer)
                && !is_over.load(Ordering::Relaxed)
                && Instant::now() < until
            {
                result = producers.are_let_in(&topics, SLICE);
            }
            (producers, result)
        };
        match thread::Builder::new().name("trial".to_owned()).spawn(run) {
            Ok(thread) => self.trial = Some(Trial { pair, files, said: None, over, thread }),
            // Tried again at the next look at the files.
            Err(error) => tracing::warn!(target: "uplink", %error, "no thread for a trial"),
        }
    }

    /// Whether a pair is on trial.
    pub fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// A producer complains; true if it is one that is on trial.
    pub fn trial_said(&mut self, pair: u32, said: &str) -> bool {
        match &mut self.trial {
            Some(trial) if trial.pair == pair => {
                trial.said = Some(said.to_owned());
                true
            }
            _ => false,
        }
    }

    /// What came of the trial, once it is over.
    pub fn tried(&mut self) -> Option<Tried> {
        let trial = self.trial.take_if(|trial| trial.thread.is_finished())?;
        // A thread that broke off has taken the pair with it; the files are looked at again.
        let (producers, result) = trial.thread.join().ok()?;
        let result = result.map_err(|why| match why {
            NotLetIn::NoAnswer => trial.said.unwrap_or_else(|| "no broker answered".to_owned()),
            NotLetIn::NoRight(topic) => format!("they have no right on the topic {topic}"),
        });
        Some(Tried { producers, files: trial.files, result })
    }

    fn end_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.over.store(true, Ordering::Relaxed);
            self.closing.extend(
                thread::Builder::new()
                    .name("closing".to_owned())
                    .spawn(move || drop(trial.thread.join())),
            );
        }
    }

    /// Gives up what was not acknowledged, and waits for nothing: each message is still reported, and
    /// until then nothing of its key goes over the next pair.
    pub fn drop_all(&mut self, next: Ticket, now: Instant) {
        self.end_trial();
        self.retire(next, now);
        let former = self.former.as_mut().and_then(|former| former.producers.take());
        former.into_iter().for_each(|producers| self.close(producers));
    }

    /// Gives up what was not acknowledged, closes all and waits for it; each message is still reported.
    pub fn end(&mut self) {
        self.end_trial();
        let former = self.former.take().and_then(|former| former.producers);
        for producers in [self.current.take(), former].into_iter().flatten() {
            producers.purge();
        }
        for thread in self.closing.drain(..) {
            if thread.join().is_err() {
                tracing::warn!(target: "uplink", "the thread that closes a producer broke off");
            }
        }
    }
}

/// When a pair may be made after one that has failed for good.
#[derive(Debug, Default)]
pub struct Pace {
    failed: Option<Instant>,
    pause: Duration,
}

/// A failure that comes so long after the one before is a new one.
const CALM: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

impl Pace {
    /// One has failed: the first is replaced at once, those after it later and later.
    pub fn failed(&mut self, now: Instant) {
        let is_first = self.failed.is_none_or(|before| now - before >= CALM);
        self.pause = match is_first {
            true => Duration::ZERO,
            false => (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE),
        };
        self.failed = Some(now);
    }

    /// Whether another may be made.
    pub fn allows(&self, now: Instant) -> bool {
        self.failed.is_none_or(|at| now - at >= self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_pair_is_replaced_at_once_and_those_after_it_later_and_later() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.allows(now));
        let mut waits = Vec::new();
        for _ in 0..9 {
            pace.failed(now);
            let failed = now;
            while !pace.allows(now) {
                now += Duration::from_secs(1);
            }
            waits.push((now - failed).as_secs());
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        now += CALM;
        pace.failed(now);
        assert!(pace.allows(now));
    }
}
