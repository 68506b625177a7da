//! The ceiling of what is sent in a second, by token buckets. Pure: time comes in.
//!
//! Two buckets fill at the same rate. Everything is taken from the one, and what is not prompt waits
//! until it holds something; a large picture may take more than it holds, and the next one waits
//! longer. Live records wait for the other, from which only they are taken: behind a picture of a
//! minute's bytes they would not be live. Both together keep to the rate in the long run, as long as
//! live records alone do.
//!
//! Heartbeats wait for neither, and are charged to both: so they are spaced, or where the rate is
//! small they would leave nothing for anything else. Only the newest is ever sent, so a longer space
//! loses none that matters.

use std::time::{Duration, Instant};

use super::bulk::Class;

/// How long bytes that were not used are kept for.
const BURST: Duration = Duration::from_secs(1);
/// Heartbeats take one byte in so many at most.
const HEARTBEATS_ONE_IN: f64 = 10.0;

#[derive(Debug)]
struct Bucket {
    rate: f64,
    bytes: f64,
    filled: Instant,
    /// The most that went at once.
    largest: f64,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.bytes = (self.bytes + self.rate * passed).min(self.rate * BURST.as_secs_f64());
        self.filled = now;
    }

    /// It owes at most the largest record and a burst: a row that is tried again is never held up, and
    /// many of them would stop all else for as long as they weigh.
    fn take(&mut self, bytes: f64) {
        self.largest = self.largest.max(bytes);
        let owed = self.largest + self.rate * BURST.as_secs_f64();
        self.bytes = (self.bytes - bytes).max(-owed);
    }
}

/// What may be sent now; nothing is ever held where no rate is set.
#[derive(Debug)]
pub struct Ceiling {
    /// Of all, and of what is prompt alone.
    buckets: Option<[Bucket; 2]>,
    /// No heartbeat goes before.
    next_heartbeat: Instant,
}

impl Ceiling {
    /// Of so many bytes per second.
    pub fn new(bytes_per_second: Option<u64>, now: Instant) -> Self {
        let bucket =
            |rate: u64| Bucket { rate: rate as f64, bytes: rate as f64, filled: now, largest: 0.0 };
        let buckets = bytes_per_second.map(|rate| [bucket(rate), bucket(rate)]);
        Self { buckets, next_heartbeat: now }
    }

    /// To be called before what waits is handed over.
    pub fn begin_turn(&mut self, now: Instant) {
        self.buckets.iter_mut().flatten().for_each(|bucket| bucket.fill(now));
    }

    /// Whether something of this class may go.
    pub fn admits(&self, class: Class) -> bool {
        self.buckets.as_ref().is_none_or(|[all, prompt]| match class {
            Class::Prompt => prompt.bytes > 0.0,
            Class::Bulk => all.bytes > 0.0,
        })
    }

    /// So many bytes went.
    pub fn spent(&mut self, class: Class, bytes: u64) {
        let Some([all, prompt]) = &mut self.buckets else { return };
        all.take(bytes as f64);
        if class == Class::Prompt {
            prompt.take(bytes as f64);
        }
    }

    /// Whether a heartbeat may go.
    pub fn admits_heartbeat(&self, now: Instant) -> bool {
        self.buckets.is_none() || now >= self.next_heartbeat
    }

    /// One of so many bytes went.
    pub fn spent_on_heartbeat(&mut self, bytes: u64, now: Instant) {
        self.spent(Class::Prompt, bytes);
        if let Some([all, _]) = &self.buckets {
            let space = bytes as f64 * HEARTBEATS_ONE_IN / all.rate;
            self.next_heartbeat = now + Duration::from_secs_f64(space);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 10_000;

    /// Bytes by class that went in so many seconds while bulk always waits and so many live records
    /// of 500 bytes come a second.
    fn run(live_per_second: u32, seconds: u32) -> [u64; 2] {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(Some(RATE), start);
        let [mut prompt, mut bulk] = [0, 0];
        let mut waiting = 0;
        for turn in 0..seconds * 100 {
            ceiling.begin_turn(start + Duration::from_millis(10) * turn);
            waiting += if turn % (100 / live_per_second) == 0 { 1 } else { 0 };
            while waiting > 0 && ceiling.admits(Class::Prompt) {
                ceiling.spent(Class::Prompt, 500);
                (waiting, prompt) = (waiting - 1, prompt + 500);
            }
            while ceiling.admits(Class::Bulk) {
                ceiling.spent(Class::Bulk, 40_000);
                bulk += 40_000;
            }
        }
        [prompt, bulk]
    }

    #[test]
    fn no_more_than_the_rate_goes_in_the_long_run_and_live_records_go_before_pictures() {
        let [prompt, bulk] = run(10, 600);
        assert_eq!(prompt, 10 * 600 * 500);
        let all = (prompt + bulk) / 600;
        assert!((RATE * 9 / 10..=RATE * 102 / 100).contains(&all), "{all} bytes a second");
    }

    #[test]
    fn live_records_alone_keep_to_the_rate_too() {
        let [prompt, _] = run(50, 600);
        assert!(prompt / 600 <= RATE * 102 / 100, "{prompt}");
    }

    #[test]
    fn heartbeats_leave_the_smallest_rate_to_records() {
        const LEAST: u64 = 1000;
        let start = Instant::now();
        let mut ceiling = Ceiling::new(Some(LEAST), start);
        let [mut heartbeats, mut live, mut bulk] = [0_u64; 3];
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            ceiling.begin_turn(now);
            if second % 2 == 0 && ceiling.admits(Class::Prompt) {
                ceiling.spent(Class::Prompt, 500);
                live += 1;
            }
            while ceiling.admits(Class::Bulk) {
                ceiling.spent(Class::Bulk, 5000);
                bulk += 1;
            }
            if ceiling.admits_heartbeat(now) {
                ceiling.spent_on_heartbeat(1200, now);
                heartbeats += 1;
            }
        }
        assert_eq!((live, heartbeats), (300, 50));
        let all = (live * 500 + bulk * 5000 + heartbeats * 1200) / 600;
        assert!(bulk > 60 && all <= LEAST * 102 / 100, "{bulk} pictures, {all} bytes a second");
    }

    #[test]
    fn what_goes_in_spite_of_the_ceiling_stops_nothing_for_ever() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(Some(RATE), start);
        (0..1000).for_each(|_| ceiling.spent(Class::Prompt, RATE));
        ceiling.begin_turn(start + Duration::from_secs(3));
        assert!(ceiling.admits(Class::Bulk) && ceiling.admits(Class::Prompt));
    }

    #[test]
    fn without_a_ceiling_everything_goes() {
        let now = Instant::now();
        let mut ceiling = Ceiling::new(None, now);
        ceiling.spent(Class::Bulk, u64::MAX);
        ceiling.spent_on_heartbeat(u64::MAX, now);
        assert!(ceiling.admits(Class::Bulk) && ceiling.admits(Class::Prompt));
        assert!(ceiling.admits_heartbeat(now));
    }
}
