//! When a frame was captured.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use picket_wire::observation::{ClockState, Stamp};

use super::clock::Clock;

/// A live frame older than this has a time that cannot be right.
const OLDEST: Duration = Duration::from_secs(10);

/// Whose time a camera's frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// The device's: when the frame came in, less the time it spent being received and decoded.
    Live,
    /// The recording's own, counted from its start where that is known.
    Recording {
        /// Wall time of its first frame.
        start: Option<Timestamp>,
    },
}

/// Stamps the frames of one camera, in order.
#[derive(Debug)]
pub struct Stamper {
    timing: Timing,
    last_us: Option<u64>,
}

impl Stamper {
    /// Stamps by this time, later than what was stamped before.
    pub fn after(timing: Timing, last_us: Option<u64>) -> Self {
        Self { timing, last_us }
    }

    /// `mono_us` of the frame that was stamped last.
    pub fn last_us(&self) -> Option<u64> {
        self.last_us
    }

    /// The next frame's. `mono_us` rises from frame to frame: a tracker divides by the difference.
    pub fn stamp(&mut self, clock: &dyn Clock, media_time_ns: u64, age: Duration) -> Stamp {
        let mut stamp = match self.timing {
            Timing::Live => live(clock, age.min(OLDEST)),
            Timing::Recording { start } => recorded(start, media_time_ns),
        };
        if let Some(last) = self.last_us {
            stamp.mono_us = stamp.mono_us.max(last + 1);
        }
        self.last_us = Some(stamp.mono_us);
        stamp
    }
}

fn live(clock: &dyn Clock, age: Duration) -> Stamp {
    let age_us = u64::try_from(age.as_micros()).unwrap_or_default();
    let mono_us = clock.boottime_us().saturating_sub(age_us);
    let (now, clock) = clock.wall();
    let captured_at = now.and_then(|now| now.checked_sub(age).ok());
    Stamp { mono_us, captured_at, clock }
}

fn recorded(start: Option<Timestamp>, media_time_ns: u64) -> Stamp {
    let since_start = i64::try_from(media_time_ns).unwrap_or(i64::MAX);
    let captured_at =
        start.and_then(|s| s.checked_add(SignedDuration::from_nanos(since_start)).ok());
    let clock = match captured_at {
        Some(_) => ClockState::Synchronised,
        None => ClockState::Unset,
    };
    Stamp { mono_us: media_time_ns / 1_000, captured_at, clock }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn boottime_us(&self) -> u64 {
            5_000_000
        }
        fn wall(&self) -> (Option<Timestamp>, ClockState) {
            let noon = "2026-05-01T12:00:00Z".parse().unwrap();
            (Some(noon), ClockState::Unsynchronised)
        }
    }

    #[test]
    fn a_live_frame_is_stamped_with_the_moment_it_was_made_by_both_clocks() {
        let stamp =
            Stamper::after(Timing::Live, None).stamp(&Fixed, 77, Duration::from_millis(200));
        assert_eq!(stamp.mono_us, 4_800_000);
        assert_eq!(stamp.captured_at.unwrap().to_string(), "2026-05-01T11:59:59.8Z");
        assert_eq!(stamp.clock, ClockState::Unsynchronised);
    }

    #[test]
    fn a_recording_with_a_start_time_counts_from_it() {
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut stamper = Stamper::after(Timing::Recording { start: Some(start) }, None);
        let stamp = stamper.stamp(&Fixed, 1_500_000_000, Duration::ZERO);
        assert_eq!(stamp.mono_us, 1_500_000);
        assert_eq!(stamp.captured_at.unwrap().to_string(), "2026-01-01T00:00:01.5Z");
        assert_eq!(stamp.clock, ClockState::Synchronised);
    }

    #[test]
    fn a_recording_without_a_start_time_has_no_wall_time() {
        let mut stamper = Stamper::after(Timing::Recording { start: None }, None);
        let stamp = stamper.stamp(&Fixed, 40_000_000, Duration::ZERO);
        assert_eq!(
            (stamp.mono_us, stamp.captured_at, stamp.clock),
            (40_000, None, ClockState::Unset)
        );
    }

    #[test]
    fn monotonic_time_rises_from_frame_to_frame_whatever_the_source_says() {
        let mut stamper = Stamper::after(Timing::Live, None);
        let first = stamper.stamp(&Fixed, 0, Duration::ZERO).mono_us;
        let second = stamper.stamp(&Fixed, 0, Duration::from_secs(1)).mono_us;
        assert_eq!(second, first + 1);
    }
}
