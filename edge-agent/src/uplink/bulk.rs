//! How many bytes may be on their way beside live records: pictures, and all of the backlog. Pure: time
//! comes in.
//!
//! What is handed over stands before what comes after it, in librdkafka, in the socket, or in a modem
//! of the way, and none of these can be asked how much it holds. So the limit follows what live records
//! feel: while they are acknowledged promptly it grows, and when they are not it is halved. On a good
//! link it reaches the window within seconds; on one of 64 kbit/s it comes down to a picture at a time,
//! and live records wait for little more than their own bytes. A limit from measured rates was refused:
//! it needs the delay of the idle link, which nobody knows while a backlog drains.
//!
//! A satellite's way takes longer than that by itself, and no limit makes it prompt. So where it stays
//! too long although the limit is at its least, the shortest that was met there is taken for the way's
//! own, and half as much again is prompt. Only there, since anywhere else it would be our own queue
//! that is measured, and only up to a bound: where one picture takes a minute, more is no help. When
//! the way becomes quicker, the first quick acknowledgement says so.

use std::time::{Duration, Instant};

/// Live records and heartbeats are to be acknowledged within this: well under the two seconds that
/// they may take to the centre.
const PROMPT: Duration = Duration::from_millis(750);
/// The same of all else: bounds what is on its way where nothing live feels it. One large picture on
/// a slow link takes longer, and goes alone.
const BULK: Duration = Duration::from_secs(2);
/// Nothing counts as prompt that takes longer, whatever the way takes by itself.
const LONGEST: Duration = Duration::from_secs(5);
/// The limit has been at its least for so long before what is late is put down to the way.
const LEARN: Duration = Duration::from_secs(4);
/// How often the limit changes.
const STEP: Duration = Duration::from_millis(200);
/// As many bytes as a link of which nothing is known is given: four seconds of 64 kbit/s.
const FIRST_BYTES: u64 = 32 * 1024;
/// Some records, so that a slow link still carries several in one request.
const LEAST_BYTES: u64 = 4 * 1024;

/// What is sent, by how soon it must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Live records, and heartbeats.
    Prompt,
    /// Pictures, and the backlog.
    Bulk,
}

impl Class {
    /// Both, as arrays have them.
    pub const ALL: [Self; 2] = [Self::Prompt, Self::Bulk];

    fn target(self) -> Duration {
        match self {
            Self::Prompt => PROMPT,
            Self::Bulk => BULK,
        }
    }
}

/// The limit of what is on its way of [`Class::Bulk`].
#[derive(Debug)]
pub struct BulkLimit {
    limit: u64,
    most: u64,
    stepped: Instant,
    /// When the limit was changed last: what was handed over before does not tell that it may grow.
    changed: Instant,
    /// When it had come true after it was lowered: what was handed over before still waited behind
    /// too much. `None` as long as it only grew.
    lowered: Option<Instant>,
    /// What was on its way when it was lowered is still more.
    settling: bool,
    /// When what was acknowledged had been handed over, the latest of each class.
    newest: [Option<Instant>; 2],
    heard_since_change: bool,
    late: bool,
    reached: bool,
    /// What the way takes by itself, by class: zero where it was never in question.
    own: [Duration; 2],
    /// Since when the limit and what is on its way are at their least.
    least_since: Option<Instant>,
    /// The shortest that anything took which was handed over since then.
    shortest: [Option<Duration>; 2],
}

impl BulkLimit {
    /// Of a link of which nothing is known; at most so many bytes.
    pub fn new(most: u64, now: Instant) -> Self {
        Self {
            limit: FIRST_BYTES.min(most),
            most,
            stepped: now,
            changed: now,
            lowered: None,
            settling: false,
            newest: [None; 2],
            heard_since_change: false,
            late: false,
            reached: false,
            own: [Duration::ZERO; 2],
            least_since: None,
            shortest: [None; 2],
        }
    }

    /// The link is another, or was away.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(self.most, now);
    }

    /// Bytes that may be on their way.
    pub fn bytes(&self) -> u64 {
        self.limit
    }

    /// More waited than the limit let go.
    pub fn was_reached(&mut self) {
        self.reached = true;
    }

    /// Something was acknowledged that was handed over at `sent`.
    pub fn acknowledged(&mut self, class: Class, sent: Instant, now: Instant) {
        let newest = &mut self.newest[class as usize];
        *newest = (*newest).max(Some(sent));
        self.heard_since_change |= sent >= self.changed;
        let took = now.saturating_duration_since(sent);
        let own = &mut self.own[class as usize];
        *own = (*own).min(took);
        if self.least_since.is_some_and(|since| sent >= since) {
            let shortest = &mut self.shortest[class as usize];
            *shortest = Some(shortest.map_or(took, |shortest| shortest.min(took)));
        }
        let counts = self.lowered.is_none_or(|lowered| sent >= lowered);
        self.late |= counts && took > self.target(class);
    }

    fn target(&self, class: Class) -> Duration {
        class.target().max((self.own[class as usize] * 3 / 2).min(LONGEST))
    }

    /// Whether something waits too long. Where what was handed over after it was acknowledged before
    /// it, it does not wait behind others: its partition takes nothing.
    fn waits(&self, class: Class, oldest: Option<Instant>, now: Instant) -> bool {
        let newest = self.newest[class as usize];
        oldest.filter(|sent| newest.is_none_or(|newest| newest < *sent)).is_some_and(|sent| {
            let since = self.lowered.map_or(sent, |lowered| sent.max(lowered));
            now.saturating_duration_since(since) > self.target(class)
        })
    }

    /// Whether it is time for a [`step`](Self::step).
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.stepped) >= STEP
    }

    /// So much is on its way: to be called with each turn, before more is handed over.
    pub fn on_way(&mut self, bulk_bytes: u64, now: Instant) {
        if self.settling {
            self.lowered = Some(now);
            self.settling = bulk_bytes >= self.limit;
        }
        if self.limit > 2 * self.least() {
            (self.least_since, self.shortest) = (None, [None; 2]);
        } else if self.least_since.is_none() && self.limit == self.least() && !self.settling {
            self.least_since = Some(now);
        }
    }

    fn least(&self) -> u64 {
        LEAST_BYTES.min(self.most)
    }

    /// What is late is late by the way itself, if the limit was at its least for long enough. Gives
    /// whether more counts as prompt now.
    fn learn(&mut self, now: Instant) -> bool {
        if self.least_since.is_none_or(|since| now.saturating_duration_since(since) < LEARN) {
            return false;
        }
        let before = Class::ALL.map(|class| self.target(class));
        for (own, shortest) in self.own.iter_mut().zip(self.shortest) {
            *own = shortest.unwrap_or(*own);
        }
        let is_more = |class| self.target(class) > before[class as usize];
        Class::ALL.into_iter().any(is_more)
    }

    /// Changes the limit; `oldest` is when the oldest thing of each class on its way was handed over.
    pub fn step(&mut self, oldest: [Option<Instant>; 2], now: Instant) {
        let [prompt, bulk] = oldest;
        let waits = self.waits(Class::Prompt, prompt, now) || self.waits(Class::Bulk, bulk, now);
        if (self.late || waits) && self.learn(now) {
            // It was lowered in vain.
            (self.lowered, self.settling) = (None, false);
        } else if self.late || waits {
            self.limit = (self.limit / 2).max(self.least());
            (self.lowered, self.settling) = (Some(now), true);
            (self.changed, self.heard_since_change) = (now, false);
        } else if self.heard_since_change && self.reached {
            // Twice as much until it was too much once; then by an eighth, to stay near what is right.
            let more = if self.lowered.is_none() { self.limit } else { self.limit / 8 };
            self.limit = (self.limit + more).min(self.most);
            (self.changed, self.heard_since_change) = (now, false);
        }
        (self.stepped, self.late, self.reached) = (now, false, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MOST: u64 = 12 << 20;
    const TURN: Duration = Duration::from_millis(10);
    const LIVE_BYTES: u64 = 500;

    /// A link that carries so many bytes a second, first in, first out, after a delay of its own. A
    /// live record comes every 200 ms; bulk waits without end. Gives how long live records took from
    /// `after` on, the longest first, and the bytes of bulk per second.
    fn run(rate: u64, delay: Duration, bulk_bytes: u64, after: Duration) -> (Vec<Duration>, u64) {
        let mut limit = BulkLimit::new(MOST, Instant::now());
        run_with(&mut limit, rate, delay, bulk_bytes, after)
    }

    fn run_with(
        limit: &mut BulkLimit,
        rate: u64,
        delay: Duration,
        bulk_bytes: u64,
        after: Duration,
    ) -> (Vec<Duration>, u64) {
        let start = limit.stepped;
        let mut way: VecDeque<(Class, u64, Instant)> = VecDeque::new();
        let (mut on_way, mut budget, mut carried) = (0, 0.0, 0);
        let mut latencies = Vec::new();
        let mut acknowledgements: VecDeque<(Instant, Class, u64, Instant)> = VecDeque::new();
        let seconds = after.as_secs() + 60;
        for turn in 0..seconds * 100 {
            let now = start + TURN * turn as u32;
            if turn % 20 == 0 {
                way.push_back((Class::Prompt, LIVE_BYTES, now));
            }
            while on_way < limit.bytes() || on_way == 0 {
                way.push_back((Class::Bulk, bulk_bytes, now));
                on_way += bulk_bytes;
            }
            limit.was_reached();
            budget += rate as f64 / 100.0;
            while let Some((class, bytes, sent)) = way.front().copied()
                && budget >= bytes as f64
            {
                budget -= bytes as f64;
                way.pop_front();
                acknowledgements.push_back((now + delay, class, bytes, sent));
            }
            if way.is_empty() {
                budget = 0.0;
            }
            while let Some((at, class, bytes, sent)) = acknowledgements.front().copied()
                && at <= now
            {
                acknowledgements.pop_front();
                limit.acknowledged(class, sent, now);
                match class {
                    Class::Prompt if now > start + after => latencies.push(now - sent),
                    Class::Prompt => {}
                    Class::Bulk => {
                        on_way -= bytes;
                        carried += if now > start + after { bytes } else { 0 };
                    }
                }
            }
            let answers = acknowledgements.iter().map(|(_, class, _, sent)| (class, sent));
            let sent = answers.chain(way.iter().map(|(class, _, sent)| (class, sent)));
            let oldest = Class::ALL
                .map(|of| sent.clone().find(|(class, _)| **class == of).map(|(_, sent)| *sent));
            limit.on_way(on_way, now);
            if limit.is_due(now) {
                limit.step(oldest, now);
            }
        }
        latencies.sort_unstable_by(|a, b| b.cmp(a));
        (latencies, carried / 60)
    }

    fn p99(latencies: &[Duration]) -> Duration {
        latencies[latencies.len() / 100]
    }

    #[test]
    fn a_good_link_is_filled_and_live_records_are_prompt_all_the_same() {
        for rate in [1_000_000, 12_000_000] {
            let delay = Duration::from_millis(20);
            let (latencies, carried) = run(rate, delay, 100_000, Duration::from_secs(5));
            assert!(p99(&latencies) < Duration::from_secs(2), "{rate}: {:?}", p99(&latencies));
            assert!(carried > rate * 8 / 10, "{carried} of {rate}");
        }
    }

    #[test]
    fn on_64_kbit_a_second_live_records_go_between_the_records_of_a_backlog() {
        let delay = Duration::from_millis(100);
        let (latencies, carried) = run(8_000, delay, 900, Duration::from_secs(30));
        assert!(p99(&latencies) < Duration::from_secs(2), "{:?}", p99(&latencies));
        // Live records take 2500 of the 8000 bytes a second.
        assert!(carried > 4_000, "{carried}");
    }

    #[test]
    fn a_link_with_a_long_delay_is_used() {
        for (delay_ms, learned_s, bulk_bytes) in
            [(600, 10, 20_000), (1200, 40, 20_000), (1200, 40, 900), (2000, 60, 100_000)]
        {
            let delay = Duration::from_millis(delay_ms);
            let (latencies, carried) =
                run(500_000, delay, bulk_bytes, Duration::from_secs(learned_s));
            // Its own delay, as much again of ours, and what a change of the limit takes to be felt.
            let most = (2 * delay).max(Duration::from_secs(1)) + Duration::from_secs(1);
            assert!(p99(&latencies) < most, "{delay:?}: {:?}", p99(&latencies));
            assert!(carried > 100_000, "{delay:?}: {carried}");
        }
    }

    #[test]
    fn a_slow_link_with_large_pictures_is_not_taken_for_one_with_a_long_delay() {
        let delay = Duration::from_millis(100);
        let mut limit = BulkLimit::new(MOST, Instant::now());
        let (latencies, _) = run_with(&mut limit, 8_000, delay, 200_000, Duration::from_secs(60));
        assert!(p99(&latencies) < Duration::from_secs(40), "{:?}", p99(&latencies));
        assert!(limit.bytes() < 200_000, "one at a time: {}", limit.bytes());
    }

    #[test]
    fn a_way_that_became_quicker_is_held_to_what_is_prompt_there() {
        let start = Instant::now();
        let mut limit = BulkLimit::new(MOST, start);
        limit.own = [Duration::from_secs(2); 2];
        assert_eq!(limit.target(Class::Prompt), Duration::from_secs(3));
        limit.acknowledged(Class::Prompt, start, start + Duration::from_millis(50));
        assert_eq!(limit.target(Class::Prompt), PROMPT);
        assert_eq!(limit.target(Class::Bulk), Duration::from_secs(3));
    }

    #[test]
    fn the_limit_stands_while_nothing_is_heard_and_comes_down_when_that_lasts() {
        let start = Instant::now();
        let mut limit = BulkLimit::new(MOST, start);
        limit.was_reached();
        limit.step([None, Some(start)], start + STEP);
        assert_eq!(limit.bytes(), FIRST_BYTES);
        limit.step([None, Some(start)], start + BULK + STEP);
        assert_eq!(limit.bytes(), FIRST_BYTES / 2);
        // Only what was handed over since can say that this is still too much.
        let later = start + BULK + 2 * STEP;
        limit.acknowledged(Class::Bulk, start + STEP, later);
        limit.step([None, None], later);
        assert_eq!(limit.bytes(), FIRST_BYTES / 2);
        limit.restart(later);
        assert_eq!(limit.bytes(), FIRST_BYTES);
    }
}
