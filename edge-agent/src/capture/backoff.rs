//! How long to wait before a failed source is opened again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles from half a second to half a minute, and begins anew once frames flowed.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// Frames flowed: the next failure is a new one.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The next wait: half of the bound, and a random share of the other half, so that the cameras
    /// of a switch that was restarted do not all return in the same moment.
    pub fn wait(&mut self, random: u8) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(LONGEST);
        bound / 2 + bound / 2 * u32::from(random) / 255
    }
}

/// A random byte; the middle if the system has none to give.
pub fn random() -> u8 {
    let mut byte = [128];
    match getrandom::fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit_and_begin_anew_after_frames() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.wait(255)).collect();
        assert_eq!(waits[..3], [500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(waits[9], LONGEST);
        assert_eq!(backoff.wait(0), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.wait(255), FIRST);
    }
}
