//! What went over the link in a calendar month of the site. Pure: time comes in.
//!
//! A clock that was never set tells no month, and what goes is counted on in the last one that was
//! known. A month that is over begins the count anew, also by a clock that no time source keeps: a
//! box that never hears of one would else stay over its budget for ever. A clock that falls back does
//! not: only when a time source says that the month is an earlier one is the name corrected, and what
//! was counted stays.

use jiff::tz::TimeZone;
use picket_wire::observation::{ClockState, Stamp};
use rusqlite::{Connection, params};

use super::books::{signed, unsigned};
use super::error::SpoolError;

/// A month, and the bytes that went in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Month {
    /// As `2026-11`; `None` until a clock told one.
    pub name: Option<String>,
    /// Sent and received.
    pub bytes: u64,
}

impl Month {
    /// Looks whether another has begun; false where the clock does not tell.
    pub fn turn(&mut self, now: &Stamp, zone: &TimeZone) -> bool {
        let Some(at) = now.captured_at.filter(|_| now.clock != ClockState::Unset) else {
            return false;
        };
        let date = at.to_zoned(zone.clone()).date();
        let name = format!("{:04}-{:02}", date.year(), date.month());
        match &self.name {
            Some(known) if name > *known => *self = Self { name: Some(name), bytes: 0 },
            Some(known) if name < *known && now.clock == ClockState::Synchronised => {
                self.name = Some(name);
            }
            Some(_) => {}
            None => self.name = Some(name),
        }
        true
    }

    /// As the database has it.
    pub fn load(connection: &Connection) -> Result<Self, SpoolError> {
        let sql = "SELECT month, month_bytes FROM spool";
        let of_row = |row: &rusqlite::Row<'_>| {
            Ok(Self { name: row.get(0)?, bytes: row.get::<_, i64>(1).map(unsigned)? })
        };
        let read = |source| SpoolError::Read { what: "the month", source };
        connection.query_row(sql, [], of_row).map_err(read)
    }

    /// Writes it, within the transaction that made it so.
    pub fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE spool SET month = ?1, month_bytes = ?2";
        connection.prepare_cached(sql)?.execute(params![self.name, signed(self.bytes)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, clock: ClockState) -> Stamp {
        Stamp { mono_us: 1, captured_at: text.parse().ok(), clock }
    }

    /// Name and bytes after each of these clocks, with a byte sent at each.
    fn months(clocks: &[(&str, ClockState)]) -> Vec<(Option<String>, u64)> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut month = Month::default();
        let turned = clocks.iter().map(|(text, clock)| {
            month.turn(&at(text, *clock), &zone);
            month.bytes += 1;
            (month.name.clone(), month.bytes)
        });
        turned.collect()
    }

    const SET: ClockState = ClockState::Synchronised;
    const FREE: ClockState = ClockState::Unsynchronised;

    #[test]
    fn the_count_begins_anew_with_the_sites_month() {
        let name = |text: &str| Some(text.to_owned());
        let november = months(&[
            ("2026-10-31T22:59:59Z", SET),
            ("2026-10-31T23:00:00Z", SET),
            ("2026-12-01T00:00:00Z", FREE),
        ]);
        assert_eq!(november, [(name("2026-10"), 1), (name("2026-11"), 1), (name("2026-12"), 1)]);
    }

    #[test]
    fn without_a_clock_it_is_counted_on_in_the_last_month_that_was_known() {
        let name = |text: &str| Some(text.to_owned());
        let unset = months(&[
            ("", ClockState::Unset),
            ("2026-11-02T00:00:00Z", SET),
            ("1970-01-01T00:00:00Z", ClockState::Unset),
            ("2025-03-01T00:00:00Z", FREE),
        ]);
        assert_eq!(
            unset,
            [(None, 1), (name("2026-11"), 2), (name("2026-11"), 3), (name("2026-11"), 4)]
        );
    }

    #[test]
    fn a_clock_that_was_ahead_is_corrected_by_a_time_source_and_the_count_stays() {
        let name = |text: &str| Some(text.to_owned());
        let ahead = months(&[("2030-01-05T00:00:00Z", FREE), ("2026-11-05T00:00:00Z", SET)]);
        assert_eq!(ahead, [(name("2030-01"), 1), (name("2026-11"), 2)]);
    }
}
