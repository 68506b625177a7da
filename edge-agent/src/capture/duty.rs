//! Whether a camera is to capture now: what its schedule says, and whether somebody paused it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use picket_wire::observation::Reason;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::schedule::{self, Window};

/// How long an answer stands: asking a clock how far it can be trusted takes system calls.
const STANDS: Duration = Duration::from_secs(1);

/// Somebody wants nothing captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Until when; until somebody resumes it if unset.
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Whether it has ended; a clock that was never set ends none.
    pub fn is_over(&self, now: Option<Timestamp>) -> bool {
        now.zip(self.until).is_some_and(|(now, until)| now >= until)
    }
}

/// Why a camera does not capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// Somebody paused it.
    Paused(Pause),
    /// It is outside its schedule.
    Schedule,
}

impl Off {
    /// As the gap record has it.
    pub fn reason(self) -> Reason {
        Reason::from(match self {
            Self::Paused(_) => Reason::PAUSED,
            Self::Schedule => Reason::SCHEDULE,
        })
    }

    /// For people.
    pub fn text(self) -> String {
        match self {
            Self::Paused(Pause { until: Some(until) }) => format!("paused until {until}"),
            Self::Paused(Pause { until: None }) => "paused until it is resumed".to_owned(),
            Self::Schedule => "outside its schedule".to_owned(),
        }
    }
}

/// One camera's, shared by its thread and by whoever pauses it.
#[derive(Debug)]
pub struct Duty(Mutex<Order>);

#[derive(Debug)]
struct Order {
    schedule: Vec<Window>,
    zone: TimeZone,
    paused: Option<Pause>,
    answered: Option<(Instant, Option<Off>)>,
}

impl Duty {
    /// By this schedule, in this zone; without windows always.
    pub fn new(schedule: Vec<Window>, zone: TimeZone, paused: Option<Pause>) -> Self {
        Self(Mutex::new(Order { schedule, zone, paused, answered: None }))
    }

    /// Always, unless it is paused.
    pub fn always() -> Self {
        Self::new(Vec::new(), TimeZone::UTC, None)
    }

    /// Why the camera does not capture now, if it does not. Of a clock that was never set nobody
    /// knows where in the schedule it stands: then the camera captures, since what is not captured
    /// cannot be made up for. A pause stands until the clock says that it is over.
    pub fn off(&self, clock: &dyn Clock) -> Option<Off> {
        let mut order = self.lock();
        let now = Instant::now();
        if let Some((at, answer)) = order.answered
            && now.duration_since(at) < STANDS
        {
            return answer;
        }
        let answer = order.judge(clock.wall().0);
        order.answered = Some((now, answer));
        answer
    }

    /// Captures nothing from now on.
    pub fn pause(&self, pause: Pause) {
        let mut order = self.lock();
        order.paused = Some(pause);
        order.answered = None;
    }

    /// Captures again, as far as the schedule goes. Whether it was paused.
    pub fn resume(&self) -> bool {
        let mut order = self.lock();
        order.answered = None;
        order.paused.take().is_some()
    }

    /// Goes by another schedule.
    pub fn set_schedule(&self, schedule: Vec<Window>) {
        let mut order = self.lock();
        order.schedule = schedule;
        order.answered = None;
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        // Each field is replaced in one assignment: a panic elsewhere leaves whole ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    /// A pause that is over is forgotten: it must not come back with a clock that goes back.
    fn judge(&mut self, now: Option<Timestamp>) -> Option<Off> {
        self.paused = self.paused.filter(|pause| !pause.is_over(now));
        if let Some(pause) = self.paused {
            return Some(Off::Paused(pause));
        }
        let local = now?.to_zoned(self.zone.clone()).datetime();
        let wanted = self.schedule.is_empty() || schedule::covers(&self.schedule, local);
        (!wanted).then_some(Off::Schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn night(paused: Option<Pause>) -> Order {
        let time = |text: &str| text.to_owned().try_into().unwrap();
        let window = Window { days: Vec::new(), from: time("20:00"), to: time("06:00") };
        let zone = TimeZone::get("America/New_York").unwrap();
        Order { schedule: vec![window], zone, paused, answered: None }
    }

    fn at(utc: &str) -> Option<Timestamp> {
        Some(utc.parse().unwrap())
    }

    #[test]
    fn the_schedule_is_kept_in_the_sites_time() {
        let mut order = night(None);
        assert_eq!(order.judge(at("2026-05-05T00:30:00Z")), None);
        assert_eq!(order.judge(at("2026-05-05T20:30:00Z")), Some(Off::Schedule));
    }

    #[test]
    fn without_a_clock_a_camera_captures_and_a_pause_stands() {
        assert_eq!(night(None).judge(None), None);
        let pause = Pause { until: at("2026-05-05T00:30:00Z") };
        assert_eq!(night(Some(pause)).judge(None), Some(Off::Paused(pause)));
    }

    #[test]
    fn a_pause_ends_when_it_said() {
        let pause = Pause { until: at("2026-05-05T01:00:00Z") };
        let mut order = night(Some(pause));
        assert_eq!(order.judge(at("2026-05-05T00:59:59Z")), Some(Off::Paused(pause)));
        assert_eq!(order.judge(at("2026-05-05T01:00:00Z")), None);
        assert_eq!(order.judge(at("2026-05-05T00:30:00Z")), None, "the clock went back");
    }
}
