//! What is too old to be kept: by wall time, and only while that can be trusted.
//!
//! A clock that jumps a year ahead, or that begins in 1970, must not empty the spool. So nothing is
//! too old unless a time source keeps the clock, and it has not jumped for ten minutes; and of a row
//! whose time of commit was not kept by a time source, the age is unknown, unless a later row is too
//! old itself.

use picket_wire::Topic;
use picket_wire::observation::{ClockState, Stamp};
use rusqlite::{Connection, params};

use super::clock::{JUMP_US, offset_us};
use super::error::SpoolError;
use super::record::RowId;
use super::totals::table;

const TRUSTED_AFTER_US: u64 = 10 * 60 * 1_000_000;
const LOOK_EVERY_US: u64 = 60 * 1_000_000;
const HOUR_MS: i64 = 60 * 60 * 1000;
/// Rows to look at in one turn of the writer.
const ROWS: usize = 4096;

/// When to look for what is too old.
#[derive(Debug)]
pub struct Ages {
    max_age_ms: Option<i64>,
    /// The relation of the clocks when they were last looked at, and since when it holds.
    steady: Option<(i64, u64)>,
    looked_us: Option<u64>,
    looks: [Look; 2],
}

/// How far a look through one table has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    /// What is too old up to here is dropped; those that never go stay.
    after: RowId,
    /// All up to here are too old.
    old_until: RowId,
    /// Times up to here are read.
    read_until: RowId,
    at_end: bool,
}

/// Rows that are too old: all behind `after` up to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// Of which table.
    pub topic: Topic,
    /// None of these.
    pub after: RowId,
    /// The last of them.
    pub last: RowId,
}

impl Ages {
    /// Keeps rows for so long; for ever if not said.
    pub fn new(max_age_hours: Option<u32>) -> Self {
        let max_age_ms = max_age_hours.map(|hours| i64::from(hours) * HOUR_MS);
        Self { max_age_ms, steady: None, looked_us: None, looks: [Look::BEGUN; 2] }
    }

    /// Rows to drop now, as few as one transaction should; a look goes on until there are none.
    pub fn find(&mut self, connection: &Connection, now: &Stamp) -> Result<Vec<Old>, SpoolError> {
        let Some(limit_ms) = self.due(now) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (topic, look) in Topic::OF_CAMERAS.into_iter().zip(&mut self.looks) {
            look.go_on(connection, topic, limit_ms)?;
            let (after, last) = (look.after, look.old_until);
            found.extend((last > after).then_some(Old { topic, after, last }));
        }
        if found.is_empty() && self.looks.iter().all(|look| look.at_end) {
            self.put_off(now);
        }
        Ok(found)
    }

    /// Looks again in a minute, from the beginning.
    pub fn put_off(&mut self, now: &Stamp) {
        self.looked_us = Some(now.mono_us);
        self.looks = [Look::BEGUN; 2];
    }

    /// The rows of [`find`](Self::find) were dropped up to these, but for those that stay.
    pub fn dropped(&mut self, reached: &[(Topic, RowId)]) {
        for (topic, look) in Topic::OF_CAMERAS.into_iter().zip(&mut self.looks) {
            let last = reached.iter().filter(|(of, _)| *of == topic).map(|(_, last)| *last);
            look.after = last.fold(look.after, RowId::max);
        }
    }

    /// Wall time in Unix milliseconds before which a row is too old, when it is time to look.
    fn due(&mut self, now: &Stamp) -> Option<i64> {
        let max_age_ms = self.max_age_ms?;
        let trusted = self.is_trusted(now);
        let waited = |looked: u64| now.mono_us.saturating_sub(looked) >= LOOK_EVERY_US;
        if !trusted || !self.looked_us.is_none_or(waited) {
            return None;
        }
        Some(now.captured_at?.as_millisecond().saturating_sub(max_age_ms))
    }

    fn is_trusted(&mut self, now: &Stamp) -> bool {
        let offset = offset_us(now).filter(|_| now.clock == ClockState::Synchronised);
        let Some(offset) = offset else {
            self.steady = None;
            return false;
        };
        let held =
            self.steady.filter(|(before, _)| offset.abs_diff(*before) <= JUMP_US.unsigned_abs());
        let since = held.map_or(now.mono_us, |(_, since)| since);
        self.steady = Some((offset, since));
        now.mono_us.saturating_sub(since) >= TRUSTED_AFTER_US
    }
}

impl Look {
    const BEGUN: Self =
        Self { after: RowId::MIN, old_until: RowId::MIN, read_until: RowId::MIN, at_end: false };

    /// Reads on until something is too old, the rest is not, or it is enough for one turn.
    fn go_on(
        &mut self,
        connection: &Connection,
        topic: Topic,
        limit_ms: i64,
    ) -> Result<(), SpoolError> {
        if self.at_end || self.old_until > self.after {
            return Ok(());
        }
        let read = |source| SpoolError::Read { what: "the oldest rows' ages", source };
        let sql = format!(
            "SELECT id, committed_at_ms, synchronised FROM {} WHERE id > ?1 ORDER BY id",
            table(topic)
        );
        let mut statement = connection.prepare_cached(&sql).map_err(read)?;
        let mut rows = statement.query(params![self.read_until]).map_err(read)?;
        for _ in 0..ROWS {
            let Some(row) = rows.next().map_err(read)? else {
                self.at_end = true;
                return Ok(());
            };
            let id: RowId = row.get(0).map_err(read)?;
            let at: Option<i64> = row.get(1).map_err(read)?;
            let synchronised: bool = row.get(2).map_err(read)?;
            match at.filter(|_| synchronised) {
                Some(at) if at >= limit_ms => {
                    self.at_end = true;
                    return Ok(());
                }
                Some(_) => self.old_until = id,
                None => {}
            }
            self.read_until = id;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60 * 1_000_000;
    const NOW_US: i64 = 1_800_000_000_000_000;

    /// A clock that a time source keeps, `ahead_us` of what the monotonic clock says.
    fn at(minute: u64, ahead_us: i64) -> Stamp {
        let mono_us = minute * MINUTE_US;
        let wall = NOW_US + i64::try_from(mono_us).unwrap() + ahead_us;
        let captured_at = Some(jiff::Timestamp::from_microsecond(wall).unwrap());
        Stamp { mono_us, captured_at, clock: ClockState::Synchronised }
    }

    /// At which of these minutes it is time to look.
    fn looks(stamps: impl IntoIterator<Item = Stamp>) -> Vec<u64> {
        let mut ages = Ages::new(Some(24));
        let mut looks = Vec::new();
        for stamp in stamps {
            if ages.due(&stamp).is_some() {
                ages.looked_us = Some(stamp.mono_us);
                looks.push(stamp.mono_us / MINUTE_US);
            }
        }
        looks
    }

    #[test]
    fn nothing_is_too_old_until_the_clock_has_held_for_ten_minutes() {
        assert_eq!(looks((0..14).map(|minute| at(minute, 0))), [10, 11, 12, 13]);
    }

    #[test]
    fn a_clock_that_jumps_a_day_either_way_is_not_trusted_for_ten_minutes() {
        const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;
        for jump in [DAY_US, -DAY_US] {
            let stamps = (0..30).map(|minute| at(minute, if minute < 12 { 0 } else { jump }));
            assert_eq!(looks(stamps), [10, 11, 22, 23, 24, 25, 26, 27, 28, 29]);
        }
    }

    #[test]
    fn a_clock_that_no_time_source_keeps_is_not_trusted() {
        let unsynchronised = |minute| Stamp { clock: ClockState::Unsynchronised, ..at(minute, 0) };
        assert_eq!(looks((0..30).map(unsynchronised)), [0_u64; 0]);
        let lost = (0..30).map(|m| if m == 12 { unsynchronised(m) } else { at(m, 0) });
        assert_eq!(looks(lost), [10, 11, 23, 24, 25, 26, 27, 28, 29]);
    }

    #[test]
    fn a_row_is_too_old_a_day_after_its_commit() {
        let mut ages = Ages::new(Some(24));
        assert_eq!(ages.due(&at(0, 0)), None);
        let now = at(10, 0);
        let day_before = now.captured_at.unwrap().as_millisecond() - 24 * HOUR_MS;
        assert_eq!(ages.due(&now), Some(day_before));
    }

    fn table_of(rows: &[(RowId, Option<i64>, bool)]) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE records (id INTEGER PRIMARY KEY, committed_at_ms INTEGER, \
                   synchronised INTEGER NOT NULL) STRICT";
        connection.execute_batch(sql).unwrap();
        for (id, at, synchronised) in rows {
            let values = params![id, at, synchronised];
            connection.execute("INSERT INTO records VALUES (?1, ?2, ?3)", values).unwrap();
        }
        connection
    }

    fn last_old(rows: &[(RowId, Option<i64>, bool)]) -> Option<RowId> {
        let (table, mut look) = (table_of(rows), Look::BEGUN);
        while !look.at_end && look.old_until == RowId::MIN {
            look.go_on(&table, Topic::Observations, 100).unwrap();
        }
        Some(look.old_until).filter(|last| *last > RowId::MIN)
    }

    #[test]
    fn the_first_row_that_is_young_ends_what_is_too_old() {
        assert_eq!(last_old(&[(1, Some(50), true), (2, Some(99), true)]), Some(2));
        assert_eq!(
            last_old(&[(1, Some(50), true), (2, Some(100), true), (3, Some(5), true)]),
            Some(1)
        );
        assert_eq!(last_old(&[(1, Some(100), true)]), None);
    }

    #[test]
    fn any_number_of_rows_of_unknown_time_hides_none_behind_them() {
        let count = i64::try_from(ROWS).unwrap() + 5;
        let mut rows: Vec<_> = (1..=count).map(|id| (id, None, false)).collect();
        assert_eq!(last_old(&rows), None);
        rows.push((count + 1, Some(50), true));
        rows.push((count + 2, Some(100), true));
        assert_eq!(last_old(&rows), Some(count + 1));
    }

    #[test]
    fn a_row_of_unknown_time_is_too_old_only_when_a_later_one_is() {
        assert_eq!(last_old(&[(1, None, false), (2, Some(50), false)]), None);
        assert_eq!(last_old(&[(1, None, false), (2, Some(50), true), (3, None, false)]), Some(2));
    }
}
