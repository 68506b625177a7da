//! The device's clocks, as the records that the spool itself makes need them.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use picket_wire::observation::{ClockRelation, ClockState, Stamp};
use picket_wire::{CameraKey, CameraName, CameraRecord, EpochId, ObservationId};

/// A wall clock that moved by more than this against the monotonic one was set, not steered.
pub const JUMP_US: i64 = 500_000;

/// Both clocks; a test's clock stands where the test put it.
pub trait Clock: Send + Sync {
    /// Both clocks now.
    fn now(&self) -> Stamp;

    /// Whether this clock stamps the camera's frames. That of a recording is its media time, and a
    /// relation of this clock would be wrong for it.
    fn stamps(&self, camera: &CameraName) -> bool;

    /// Time zone of the site, in whose calendar months bytes are counted.
    fn zone(&self) -> TimeZone {
        TimeZone::UTC
    }
}

/// What was said of the clocks to one camera's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    seq: u64,
    offset_us: i64,
    state: ClockState,
}

/// Tells when a camera's log needs a clock record: when wall time becomes known, when it jumps,
/// and when its state changes.
#[derive(Debug, Default)]
pub struct Relations(BTreeMap<CameraKey, Said>);

impl Relations {
    /// The clock record that is due behind `seq`, if one is. At most one for each `seq`: two would
    /// have one id and different bytes.
    pub fn due(&self, key: &CameraKey, seq: u64, now: &Stamp) -> bool {
        let Some(offset_us) = offset_us(now) else {
            return false;
        };
        match self.0.get(key) {
            None => true,
            Some(said) => {
                let moved = offset_us.saturating_sub(said.offset_us).saturating_abs() > JUMP_US;
                seq > said.seq && (moved || said.state != now.clock)
            }
        }
    }

    /// Notes that the record was committed.
    pub fn said(&mut self, key: CameraKey, seq: u64, now: &Stamp) {
        if let Some(offset_us) = offset_us(now) {
            self.0.insert(key, Said { seq, offset_us, state: now.clock });
        }
    }
}

/// Wall time at the epoch's zero.
pub fn offset_us(now: &Stamp) -> Option<i64> {
    let wall = now.captured_at?.as_microsecond();
    Some(wall.saturating_sub(i64::try_from(now.mono_us).ok()?))
}

/// The record.
pub fn record(key: &CameraKey, epoch: EpochId, seq: u64, now: Stamp) -> CameraRecord {
    let id = ObservationId { key: key.clone(), epoch, seq };
    CameraRecord::Clock(ClockRelation { id, stamp: now })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64, wall_us: Option<i64>) -> Stamp {
        let captured_at = wall_us.map(|us| jiff::Timestamp::from_microsecond(us).unwrap());
        let clock = if wall_us.is_some() { ClockState::Synchronised } else { ClockState::Unset };
        Stamp { mono_us, captured_at, clock }
    }

    #[test]
    fn a_relation_is_told_when_known_and_when_it_jumps_but_not_when_steered() {
        let key: CameraKey = "gate/north".parse().unwrap();
        let mut relations = Relations::default();
        assert!(!relations.due(&key, 0, &at(10, None)), "unknown");
        let known = at(20, Some(1_000_020));
        assert!(relations.due(&key, 3, &known), "becomes known");
        relations.said(key.clone(), 3, &known);
        assert!(!relations.due(&key, 9, &at(50, Some(1_000_900))), "steered");
        let jumped = at(60, Some(99_000_000));
        assert!(!relations.due(&key, 3, &jumped), "the id of the one before");
        assert!(relations.due(&key, 4, &jumped), "jumped");
    }
}
