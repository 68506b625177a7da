//! How fast a backlog is sent, against how fast it was captured. Pure: time comes in.
//!
//! Without a bound a device sends its backlog as fast as the broker takes it. That is faster than the
//! centre stores it, so that what is live then waits in the broker behind it; and after the outage of a
//! region each of its devices does so at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use picket_wire::Topic;
use picket_wire::header::MONO_US;

use crate::spool::Spooled;

/// The most that one record is waited for: a quiet hour is not captured time that somebody stores.
const LONGEST: Duration = Duration::from_secs(1);
/// So much is sent ahead of its time, so that a turn has several records to send.
const AHEAD: Duration = Duration::from_millis(200);

/// Of one camera and topic.
#[derive(Debug)]
struct Course {
    /// The device's clock at the newest record that was sent.
    mono_us: u64,
    /// When the next one may follow.
    due: Instant,
}

/// The bound of all cameras' backlogs.
#[derive(Debug)]
pub struct BacklogSpeed {
    times: u32,
    /// By camera: of its observations, and of its frames.
    courses: [BTreeMap<String, Course>; 2],
}

impl BacklogSpeed {
    /// At most so many times as fast as it was captured.
    pub fn new(times: u32) -> Self {
        Self { times: times.max(1), courses: Default::default() }
    }

    /// Whether the next of a camera's backlog may go.
    pub fn admits(&self, topic: Topic, key: &str, now: Instant) -> bool {
        self.courses[place(topic)].get(key).is_none_or(|course| course.due <= now + AHEAD)
    }

    /// Something of a backlog goes.
    pub fn sent(&mut self, spooled: &Spooled, now: Instant) {
        let mono = spooled.headers.iter().find(|(name, _)| name == MONO_US);
        let Some(mono_us) = mono.and_then(|(_, text)| text.parse().ok()) else { return };
        let first = Course { mono_us, due: now };
        let courses = &mut self.courses[place(spooled.topic)];
        let course = courses.entry(spooled.key.clone()).or_insert(first);
        // Of an earlier record, which is sent again, or another start of the device: zero.
        let captured = Duration::from_micros(mono_us.saturating_sub(course.mono_us)).min(LONGEST);
        course.mono_us = mono_us;
        course.due = course.due.max(now) + captured / self.times;
    }
}

fn place(topic: Topic) -> usize {
    usize::from(topic == Topic::Frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: u32 = 20;

    fn record(key: &str, mono_ms: u64) -> Spooled {
        Spooled {
            topic: Topic::Observations,
            id: 1,
            key: key.to_owned(),
            headers: vec![(MONO_US.to_owned(), (mono_ms * 1000).to_string())],
            value: Vec::new(),
        }
    }

    /// How many of the records of a camera, captured so far apart, go within a time.
    fn sent_within(speed: &mut BacklogSpeed, apart_ms: u64, time: Duration) -> u64 {
        let start = Instant::now();
        let mut count = 0;
        for turn in 0..time.as_millis() as u64 / 10 {
            let now = start + Duration::from_millis(turn * 10);
            // More in one turn would be no pace at all.
            while count < 10_000 && speed.admits(Topic::Observations, "gate/north", now) {
                speed.sent(&record("gate/north", count * apart_ms), now);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn ten_seconds_of_backlog_take_half_a_second() {
        let mut speed = BacklogSpeed::new(TIMES);
        let sent = sent_within(&mut speed, 100, Duration::from_secs(10));
        // Ten a second, twenty times as fast, for ten seconds, and what is sent ahead.
        assert!((2000..=2050).contains(&sent), "{sent}");
    }

    #[test]
    fn a_quiet_time_is_not_waited_for() {
        let mut speed = BacklogSpeed::new(TIMES);
        let sent = sent_within(&mut speed, 3_600_000, Duration::from_secs(10));
        assert!((200..=210).contains(&sent), "{sent}");
    }

    #[test]
    fn a_camera_waits_for_no_other_and_what_is_sent_again_for_nothing() {
        let mut speed = BacklogSpeed::new(1);
        let now = Instant::now();
        for ms in [0, 1000, 2000] {
            speed.sent(&record("gate/north", ms), now);
        }
        assert!(!speed.admits(Topic::Observations, "gate/north", now));
        assert!(speed.admits(Topic::Observations, "gate/south", now));
        assert!(speed.admits(Topic::Frames, "gate/north", now));
        let later = now + Duration::from_secs(2);
        for _ in 0..100 {
            speed.sent(&record("gate/north", 500), later);
            assert!(speed.admits(Topic::Observations, "gate/north", later));
        }
    }
}
