//! The device's two clocks.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use picket_wire::observation::ClockState;

use super::time_source::TimeSource;

/// The clocks, as a seam for tests.
pub trait Clock: Send + Sync {
    /// CLOCK_BOOTTIME microseconds since the epoch's start: it goes on while the box sleeps, and no
    /// correction of the wall clock moves it.
    fn boottime_us(&self) -> u64;

    /// Wall time, if it was ever set, and how far it can be trusted.
    fn wall(&self) -> (Option<Timestamp>, ClockState);
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClock {
    epoch_start_us: u64,
    time_source: TimeSource,
}

impl SystemClock {
    /// An epoch that starts now.
    pub fn start() -> Self {
        Self { epoch_start_us: boottime_us(), time_source: TimeSource::watch() }
    }
}

impl Clock for SystemClock {
    fn boottime_us(&self) -> u64 {
        boottime_us().saturating_sub(self.epoch_start_us)
    }

    fn wall(&self) -> (Option<Timestamp>, ClockState) {
        judge(Timestamp::now(), self.time_source.keeps_clock())
    }
}

/// A box without a battery for its clock starts in 1970, or on the day its firmware was made.
const FIRST_POSSIBLE_YEAR: i16 = 2020;

fn judge(now: Timestamp, synchronised: bool) -> (Option<Timestamp>, ClockState) {
    if synchronised {
        return (Some(now), ClockState::Synchronised);
    }
    let first_possible = Date::constant(FIRST_POSSIBLE_YEAR, 1, 1).to_zoned(TimeZone::UTC);
    match first_possible {
        Ok(first) if now < first.timestamp() => (None, ClockState::Unset),
        _ => (Some(now), ClockState::Unsynchronised),
    }
}

fn boottime_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the call to write to, and the call keeps no pointer to it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    // It fails only where the kernel lacks this clock; Linux has had it since 2.6.39.
    debug_assert_eq!(result, 0);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000
        + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_rises_from_the_start_of_the_epoch() {
        let clock = SystemClock::start();
        let first = clock.boottime_us();
        assert!(first < 60_000_000);
        assert!(clock.boottime_us() >= first);
    }

    #[test]
    fn a_clock_that_was_never_set_gives_no_wall_time() {
        let boot_without_battery: Timestamp = "1970-01-01T00:00:30Z".parse().unwrap();
        assert_eq!(judge(boot_without_battery, false), (None, ClockState::Unset));
        let free_running: Timestamp = "2026-05-01T00:00:00Z".parse().unwrap();
        assert_eq!(judge(free_running, false), (Some(free_running), ClockState::Unsynchronised));
        assert_eq!(judge(free_running, true), (Some(free_running), ClockState::Synchronised));
    }
}
