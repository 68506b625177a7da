//! The decoders of one codec, in order of preference, and how they fared with one camera.
//!
//! One that is installed and does not decode a sample has a place all the same: it is probed again
//! now and then, and is used once it does.
//!
//! A decoder that failed is out for a while, and the next one takes over at once. When none is left
//! that did not fail too, the fault lies with the stream rather than with any of them: the source is
//! opened again with back-off like any source that breaks, until one of them decoded for a while. That
//! a decoder's time to be tried again has come is no reason to skip the back-off: where that time is
//! short, a stream that none can read would send the camera round and round through them.

use std::time::{Duration, Instant};

use super::probe::Probe;

/// Whose turn it is to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The element.
    pub element: String,
    /// Why this one.
    pub reason: String,
    /// What is wrong with a better one.
    pub degraded: Option<String>,
}

impl Turn {
    pub(super) fn asked_for(element: &str) -> Self {
        let reason = "asked for by the config".to_owned();
        Self { element: element.to_owned(), reason, degraded: None }
    }
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another decoder takes over at once.
    NextTakesOver,
    /// There is none left to take over that did not fail as well.
    NoneLeft,
}

/// One decoder.
#[derive(Debug)]
struct Link {
    element: String,
    /// Whether it ever decoded a sample: what did not is never used.
    proven: bool,
    failures: usize,
    /// Whether it failed since one of them decoded for a while.
    failed_lately: bool,
    /// The last failure: why, and until when it is out.
    out: Option<Out>,
}

#[derive(Debug)]
struct Out {
    until: Instant,
    why: String,
}

/// All of them: at least one that is proven.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    retry: Vec<Duration>,
}

impl Chain {
    /// A chain of the installed decoders; `None` if none of them is usable.
    pub fn new(
        probes: impl IntoIterator<Item = (String, Probe)>,
        retry: Vec<Duration>,
        now: Instant,
    ) -> Option<Self> {
        let mut chain = Self { links: Vec::new(), retry };
        for (element, probe) in probes.into_iter().filter(|(_, probe)| *probe != Probe::Missing) {
            let proven = probe == Probe::Usable;
            chain.links.push(Link {
                element: element.clone(),
                proven,
                failures: 0,
                failed_lately: false,
                out: None,
            });
            if !proven {
                chain.put_out(&element, &probe.to_string(), now);
            }
        }
        chain.links.iter().any(|link| link.proven).then_some(chain)
    }

    /// Whether it holds this element.
    pub fn has(&self, element: &str) -> bool {
        self.links.iter().any(|link| link.element == element)
    }

    /// Whose turn it is: of those that are not out the first, and if all are out the last.
    pub fn turn(&self, now: Instant) -> Turn {
        let place = self.place(now);
        let outs = |proven: bool| {
            let links = self.links.iter().take(if proven { place } else { self.links.len() });
            let links = links.filter(move |link| link.proven == proven);
            links.filter_map(|link| Some((link.element.as_str(), link.out.as_ref()?.why.as_str())))
        };
        let element = self.links[place].element.clone();
        let better: Vec<_> =
            outs(true).map(|(element, why)| format!("{element} failed: {why}")).collect();
        if better.is_empty() {
            let refused: Vec<_> =
                outs(false).map(|(element, why)| format!("{element}: {why}")).collect();
            let reason = match refused.as_slice() {
                [] => "the first that is installed, and it decodes".to_owned(),
                refused => format!("the first that decodes; {}", refused.join("; ")),
            };
            return Turn { element, reason, degraded: None };
        }
        let better = better.join("; ");
        let degraded = Some(format!("{element} stands in: {better}"));
        Turn { element, reason: better, degraded }
    }

    fn place(&self, now: Instant) -> usize {
        let is_in =
            |link: &Link| link.proven && link.out.as_ref().is_none_or(|out| out.until <= now);
        let last = || self.links.iter().rposition(|link| link.proven);
        self.links.iter().position(is_in).or_else(last).unwrap_or_default()
    }

    /// A decoder failed while it decoded.
    pub fn failed(&mut self, element: &str, why: &str, now: Instant) -> Verdict {
        self.put_out(element, why, now);
        if let Some(link) = self.links.iter_mut().find(|link| link.element == element) {
            link.failed_lately = true;
        }
        // The last one is its own successor when all are out.
        match self.links[self.place(now)].failed_lately {
            true => Verdict::NoneLeft,
            false => Verdict::NextTakesOver,
        }
    }

    /// One of them decoded for a while: the stream can be read, and the next failure is a new one.
    pub fn lasted(&mut self) {
        self.links.iter_mut().for_each(|link| link.failed_lately = false);
    }

    /// A decoder that stands before the one in use, and whose time to be tried again has come.
    pub fn due(&self, in_use: &str, now: Instant) -> Option<String> {
        let due = |link: &&Link| link.out.as_ref().is_some_and(|out| out.until <= now);
        let mut better = self.links.iter().take_while(|link| link.element != in_use);
        better.find(due).map(|link| link.element.clone())
    }

    /// A due decoder was probed. Whether it takes over: a probe that fails puts it out anew.
    pub fn probed_again(&mut self, element: &str, probe: &Probe, now: Instant) -> bool {
        if *probe == Probe::Usable {
            if let Some(link) = self.links.iter_mut().find(|link| link.element == element) {
                link.proven = true;
            }
            return true;
        }
        self.put_out(element, &probe.to_string(), now);
        false
    }

    fn put_out(&mut self, element: &str, why: &str, now: Instant) {
        let longest = self.retry.iter().max().copied().unwrap_or_default();
        let Some(link) = self.links.iter_mut().find(|link| link.element == element) else {
            return;
        };
        // One that worked for long after its last failure begins anew: once a day is not a habit.
        if link.out.as_ref().is_some_and(|out| now.duration_since(out.until) > longest) {
            link.failures = 0;
        }
        let wait = self.retry.get(link.failures).or(self.retry.last()).copied().unwrap_or_default();
        link.failures += 1;
        link.out = Some(Out { until: now + wait, why: why.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn chain() -> Chain {
        of([("hard", Probe::Usable), ("va", Probe::Usable), ("soft", Probe::Usable)]).unwrap()
    }

    fn of<const N: usize>(probes: [(&str, Probe); N]) -> Option<Chain> {
        let probes = probes.map(|(element, probe)| (element.to_owned(), probe));
        Chain::new(probes, vec![minutes(1), minutes(5), minutes(15)], Instant::now())
    }

    #[test]
    fn what_does_not_decode_a_sample_is_not_used_before_it_does() {
        let fails = || Probe::Fails("busy".to_owned());
        assert!(of([("hard", fails()), ("va", Probe::Missing)]).is_none());
        let mut chain =
            of([("hard", fails()), ("soft", Probe::Usable), ("other", Probe::Hangs)]).unwrap();
        assert!(!chain.has("va"));
        let now = Instant::now();
        let later = now + minutes(2);
        for now in [now, later] {
            let turn = chain.turn(now);
            assert_eq!((turn.element.as_str(), turn.degraded), ("soft", None));
            assert!(
                turn.reason.contains("hard") && turn.reason.contains("busy"),
                "{}",
                turn.reason
            );
        }
        assert_eq!(chain.failed("soft", "corrupt", now), Verdict::NoneLeft);
        assert_eq!(chain.turn(now).element, "soft", "the last that is proven");
        assert_eq!(chain.due("soft", now), None);
        assert_eq!(chain.due("soft", later).as_deref(), Some("hard"));
        assert!(chain.probed_again("hard", &Probe::Usable, later));
        assert_eq!(chain.turn(later).element, "hard");
    }

    #[test]
    fn the_next_decoder_takes_over_and_the_camera_is_degraded_until_the_better_one_is_back() {
        let (mut chain, now) = (chain(), Instant::now());
        assert_eq!((chain.turn(now).element.as_str(), chain.turn(now).degraded), ("hard", None));
        assert_eq!(chain.failed("hard", "no session", now), Verdict::NextTakesOver);
        let turn = chain.turn(now);
        assert_eq!(turn.element, "va");
        assert!(turn.degraded.unwrap().contains("hard failed: no session"));
        assert_eq!(chain.due("soft", now + minutes(1) - Duration::from_secs(1)), None);
        let later = now + minutes(1);
        assert_eq!(chain.due("soft", later).as_deref(), Some("hard"));
        assert!(chain.probed_again("hard", &Probe::Usable, later));
        assert_eq!(chain.due("hard", later), None, "it is the one in use");
        assert_eq!(
            (chain.turn(later).element.as_str(), chain.turn(later).degraded),
            ("hard", None)
        );
    }

    #[test]
    fn each_failure_in_a_row_keeps_a_decoder_out_for_longer() {
        let (mut chain, mut now) = (chain(), Instant::now());
        for wait in [1, 5, 15, 15] {
            chain.failed("hard", "again", now);
            assert_eq!(
                chain.due("soft", now + minutes(wait) - Duration::from_secs(1)),
                None,
                "{wait}"
            );
            now += minutes(wait);
            assert_eq!(chain.due("soft", now).as_deref(), Some("hard"), "{wait}");
        }
        now += minutes(16);
        chain.failed("hard", "after a long time that it worked", now);
        assert_eq!(chain.due("soft", now + minutes(1)).as_deref(), Some("hard"));
    }

    #[test]
    fn a_probe_that_fails_again_keeps_the_decoder_out() {
        let (mut chain, now) = (chain(), Instant::now());
        chain.failed("hard", "gone", now);
        assert!(!chain.probed_again("hard", &Probe::Hangs, now + minutes(1)));
        assert_eq!(chain.turn(now + minutes(1)).element, "va");
        assert_eq!(chain.due("soft", now + minutes(2)), None);
        assert_eq!(chain.due("soft", now + minutes(6)).as_deref(), Some("hard"));
    }

    #[test]
    fn a_stream_that_no_decoder_bears_does_not_send_the_camera_round() {
        let (mut chain, now) = (chain(), Instant::now());
        assert_eq!(chain.failed("hard", "corrupt", now), Verdict::NextTakesOver);
        assert_eq!(chain.failed("va", "corrupt", now), Verdict::NextTakesOver);
        for second in 0..50 {
            let now = now + Duration::from_secs(second);
            assert_eq!(chain.turn(now).element, "soft");
            assert_eq!(chain.failed("soft", "corrupt", now), Verdict::NoneLeft);
        }
    }

    #[test]
    fn decoders_whose_time_comes_at_once_do_not_take_turns_on_a_stream_that_none_can_read() {
        let probes = ["hard", "soft"].map(|element| (element.to_owned(), Probe::Usable));
        let began = Instant::now();
        let mut chain = Chain::new(probes, vec![Duration::from_secs(1)], began).unwrap();
        // Each is opened at once, and takes two seconds to fail: the other is in again by then.
        for (round, element) in ["hard", "soft", "hard", "soft"].into_iter().enumerate() {
            let (opened, failed) = (2 * round as u64, 2 * round as u64 + 2);
            assert_eq!(chain.turn(began + Duration::from_secs(opened)).element, element);
            let verdict = chain.failed(element, "corrupt", began + Duration::from_secs(failed));
            let first = if round == 0 { Verdict::NextTakesOver } else { Verdict::NoneLeft };
            assert_eq!(verdict, first, "{round}");
        }
        chain.lasted();
        let later = began + Duration::from_secs(10);
        assert_eq!(chain.failed("hard", "once more", later), Verdict::NextTakesOver);
    }
}
