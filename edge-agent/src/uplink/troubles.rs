//! Topics that the broker does not let this device write: each is held by itself, so that a missing
//! right on pictures never holds up observations. Pure: time comes in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use picket_wire::Topic;

const FIRST_HOLD: Duration = Duration::from_secs(1);
const LAST_HOLD: Duration = Duration::from_secs(30);
const REMIND_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Trouble {
    problem: String,
    until: Instant,
    hold: Duration,
    told: Instant,
}

/// By topic, what is wrong with it.
#[derive(Debug, Default)]
pub struct Troubles(BTreeMap<Topic, Trouble>);

impl Troubles {
    /// A message failed for want of the topic or a right. True when that is to be told: it is new,
    /// or a minute has passed.
    pub fn met(&mut self, topic: Topic, problem: String, now: Instant) -> bool {
        let Some(known) = self.0.get_mut(&topic) else {
            let trouble = Trouble { problem, until: now + FIRST_HOLD, hold: FIRST_HOLD, told: now };
            self.0.insert(topic, trouble);
            return true;
        };
        // Messages sent together fail together: that is one failure.
        if now >= known.until {
            known.hold = (known.hold * 2).min(LAST_HOLD);
            known.until = now + known.hold;
        }
        let tell = known.problem != problem || now - known.told >= REMIND_EVERY;
        known.problem = problem;
        if tell {
            known.told = now;
        }
        tell
    }

    /// A message of the topic was taken; true if that is news.
    pub fn cleared(&mut self, topic: Topic) -> bool {
        self.0.remove(&topic).is_some()
    }

    /// Whether something is wrong with the topic.
    pub fn has(&self, topic: Topic) -> bool {
        self.0.contains_key(&topic)
    }

    /// Whether nothing of the topic should be tried yet.
    pub fn holds(&self, topic: Topic, now: Instant) -> bool {
        self.0.get(&topic).is_some_and(|trouble| now < trouble.until)
    }

    /// What is wrong with the first topic that has something wrong.
    pub fn problem(&self) -> Option<&str> {
        self.0.values().next().map(|trouble| trouble.problem.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_in_trouble_is_held_longer_each_time_and_told_once() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        assert!(troubles.met(Topic::Frames, "no right".to_owned(), now));
        assert!(!troubles.met(Topic::Frames, "no right".to_owned(), now));
        assert!(troubles.has(Topic::Frames) && !troubles.has(Topic::Observations));
        assert!(troubles.holds(Topic::Frames, now) && !troubles.holds(Topic::Observations, now));
        let later = now + FIRST_HOLD;
        assert!(!troubles.holds(Topic::Frames, later));
        assert!(!troubles.met(Topic::Frames, "no right".to_owned(), later));
        assert!(troubles.holds(Topic::Frames, later + FIRST_HOLD));
        assert!(troubles.met(Topic::Frames, "no right".to_owned(), now + REMIND_EVERY));
        assert!(troubles.cleared(Topic::Frames) && !troubles.cleared(Topic::Frames));
        assert_eq!(troubles.problem(), None);
    }
}
