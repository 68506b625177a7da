//! When a camera is to capture, in the site's time.
//!
//! Judged by what a clock on the wall shows: on the night in which summer time begins the hour that
//! is left out is in no window, and the one that comes twice is in its window twice.

use std::fmt;

use jiff::civil::DateTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A time in which a camera captures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Days on which it begins: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`, or a run such as
    /// `mon-fri`; every day by default.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub days: Vec<Days>,
    /// When it begins, `HH:MM` in the site's time.
    #[schemars(with = "String")]
    pub from: TimeOfDay,
    /// When it ends, `HH:MM`; what is not later than `from` is on the next day. `24:00` is midnight.
    #[schemars(with = "String")]
    pub to: TimeOfDay,
}

/// Minutes since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

/// A day, or a run of days, counted from Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Days {
    first: u8,
    last: u8,
}

/// A time or a day that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct ScheduleError {
    text: String,
    wanted: &'static str,
}

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MIDNIGHT: u16 = 24 * 60;

/// Whether some window holds this local time.
pub fn covers(windows: &[Window], local: DateTime) -> bool {
    let now = TimeOfDay(
        u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs()),
    );
    let today = local.weekday().to_monday_zero_offset().unsigned_abs();
    let yesterday = (today + 6) % 7;
    windows.iter().any(|window| {
        if window.from < window.to {
            return window.begins_on(today) && (window.from..window.to).contains(&now);
        }
        (window.begins_on(today) && now >= window.from)
            || (window.begins_on(yesterday) && now < window.to)
    })
}

impl Window {
    fn begins_on(&self, day: u8) -> bool {
        self.days.is_empty() || self.days.iter().any(|days| days.holds(day))
    }
}

impl Days {
    fn holds(self, day: u8) -> bool {
        // A run may go over the week's end: `fri-mon`.
        (day + 7 - self.first) % 7 <= (self.last + 7 - self.first) % 7
    }
}

impl TryFrom<String> for Days {
    type Error = ScheduleError;
    fn try_from(text: String) -> Result<Self, ScheduleError> {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let number = |name: &str| {
            NAMES.iter().zip(0..).find(|(known, _)| **known == name.trim()).map(|(_, n)| n)
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) => Ok(Self { first, last }),
            _ => {
                let wanted = "a day (mon, tue, wed, thu, fri, sat, sun) or a run such as mon-fri";
                Err(ScheduleError { text, wanted })
            }
        }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = ScheduleError;
    fn try_from(text: String) -> Result<Self, ScheduleError> {
        let digits = |part: &str, most: u16| {
            let is_number = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u16>().ok().filter(|number| is_number && *number <= most)
        };
        let read = text.split_once(':').and_then(|(hours, minutes)| {
            let minutes = digits(hours, 24)? * 60 + digits(minutes, 59)?;
            (minutes <= MIDNIGHT).then_some(Self(minutes))
        });
        read.ok_or(ScheduleError { text, wanted: "a time of day from 00:00 to 24:00" })
    }
}

impl From<Days> for String {
    fn from(days: Days) -> Self {
        let name = |day: u8| NAMES.get(usize::from(day)).copied().unwrap_or_default();
        match days.first == days.last {
            true => name(days.first).to_owned(),
            false => format!("{}-{}", name(days.first), name(days.last)),
        }
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;

    fn window(days: &[&str], from: &str, to: &str) -> Window {
        let days = days.iter().map(|days| Days::try_from((*days).to_owned()).unwrap()).collect();
        let time = |text: &str| TimeOfDay::try_from(text.to_owned()).unwrap();
        Window { days, from: time(from), to: time(to) }
    }

    /// 2026-05-04 is a Monday.
    fn at(windows: &[Window], local: &str) -> bool {
        covers(windows, local.parse().unwrap())
    }

    #[test]
    fn a_window_holds_its_days_from_its_first_minute_to_before_its_last() {
        let windows = [window(&["mon-fri"], "07:00", "19:00")];
        for (local, held) in [
            ("2026-05-04T06:59:59", false),
            ("2026-05-04T07:00:00", true),
            ("2026-05-08T18:59:59", true),
            ("2026-05-08T19:00:00", false),
            ("2026-05-09T12:00:00", false),
        ] {
            assert_eq!(at(&windows, local), held, "{local}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let windows = [window(&["fri"], "22:00", "06:00")];
        for (local, held) in [
            ("2026-05-08T05:00:00", false),
            ("2026-05-08T22:00:00", true),
            ("2026-05-09T05:59:00", true),
            ("2026-05-09T06:00:00", false),
            ("2026-05-09T22:00:00", false),
        ] {
            assert_eq!(at(&windows, local), held, "{local}");
        }
    }

    #[test]
    fn runs_of_days_go_over_the_end_of_the_week_and_no_days_are_all() {
        let weekend = [window(&["fri-mon"], "00:00", "24:00")];
        let days = ["04", "05", "06", "07", "08", "09", "10"];
        let held: Vec<_> =
            days.iter().map(|day| at(&weekend, &format!("2026-05-{day}T12:00:00"))).collect();
        assert_eq!(held, [true, false, false, false, true, true, true]);
        let all = [window(&[], "00:00", "24:00")];
        assert!(days.iter().all(|day| at(&all, &format!("2026-05-{day}T23:59:59"))));
    }

    #[test]
    fn it_goes_by_the_clock_on_the_wall_when_summer_time_begins_and_ends() {
        let windows = [window(&[], "02:30", "05:00")];
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let held = |utc: &str| {
            covers(&windows, utc.parse::<Timestamp>().unwrap().to_zoned(berlin.clone()).datetime())
        };
        // On 2026-03-29 the clock goes from 02:00 to 03:00, at 01:00 UTC.
        assert!(!held("2026-03-29T00:59:59Z") && held("2026-03-29T01:00:00Z"));
        assert!(held("2026-03-29T02:59:59Z") && !held("2026-03-29T03:00:00Z"));
        // On 2026-10-25 02:30 comes at 00:30 UTC, and again an hour later.
        assert!(held("2026-10-25T00:30:00Z") && !held("2026-10-25T01:00:00Z"));
        assert!(held("2026-10-25T01:30:00Z"));
    }

    #[test]
    fn what_is_no_time_or_day_is_refused_with_what_would_be() {
        for text in ["7:00", "24:01", "12:60", "noon", "+1:00", ""] {
            let error = TimeOfDay::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains("00:00 to 24:00"), "{error}");
        }
        for text in ["monday", "mon-", "mon-fri-sat", ""] {
            let error = Days::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains("mon-fri"), "{error}");
        }
        for text in ["mon-fri", "sun"] {
            assert_eq!(String::from(Days::try_from(text.to_owned()).unwrap()), text);
        }
    }
}
