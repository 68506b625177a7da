//! Wall times of documents: the device's own, or what its clock records say of them. Pure.

use mongodb::bson::{Document, doc};
use picket_wire::observation::{ClockState, Stamp};

use super::origin::{date, nanoseconds, signed};
use crate::store::documents::{Correction, Ingest};
use crate::store::relations::{Relation, Relations};

/// When something was, as far as anybody knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Time {
    /// Nanoseconds since 1970.
    pub ns: Option<i64>,
    /// What the device said, where that is something else.
    pub corrected: Option<Correction>,
}

impl Time {
    /// Of a record's own stamp.
    pub fn of(stamp: &Stamp, relations: &Relations) -> Self {
        Self::told(nanoseconds(stamp.captured_at), stamp.mono_us, stamp.clock, relations)
    }

    /// The device's own time, unless a relation tells another one.
    pub fn told(
        device_ns: Option<i64>,
        mono_us: u64,
        clock: ClockState,
        relations: &Relations,
    ) -> Self {
        let mono_us = signed(mono_us);
        let relation = relations.tells(mono_us, clock);
        let told = relation.and_then(|relation| Some((at(relation, mono_us)?, relation.clock)));
        match told {
            None => Self { ns: device_ns, corrected: None },
            Some((ns, by)) => Self {
                ns: Some(ns),
                corrected: Some(Correction {
                    device_captured_at: date(device_ns),
                    device_captured_ns: device_ns,
                    by_clock: by.as_str().to_owned(),
                }),
            },
        }
    }

    /// The fields of a document that hold it.
    pub fn fields(&self) -> Document {
        let mut fields = doc! { "captured_at": date(self.ns), "captured_ns": self.ns };
        if let Some(corrected) = &self.corrected {
            let Correction { device_captured_at, device_captured_ns, by_clock } = corrected;
            fields.insert(
                "corrected",
                doc! {
                    "device_captured_at": *device_captured_at,
                    "device_captured_ns": *device_captured_ns,
                    "by_clock": by_clock,
                },
            );
        }
        fields
    }
}

/// The part of a document that may differ between two runs, with what was known of the clocks that its
/// times go by: whoever corrects it later by less changes nothing. Where the device knew the times
/// itself nobody corrects them.
pub fn by_what_is_known(ingest: Ingest, clocks: &[ClockState], relations: &Relations) -> Ingest {
    let is_sure = clocks.iter().all(|clock| *clock == ClockState::Synchronised);
    let known = Some(relations.count()).filter(|count| *count > 0 && !is_sure);
    Ingest { relations: known, ..ingest }
}

fn at(relation: &Relation, mono_us: i64) -> Option<i64> {
    relation.offset_us.checked_add(mono_us)?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upsert::Origin;

    /// Half past nine on a day in 2026, microseconds since 1970.
    const TRUE_US: i64 = 1_777_627_800_000_000;
    /// The day on which systemd was built.
    const BUILT_US: i64 = 1_708_300_800_000_000;

    fn stamp(mono_us: u64, wall_us: Option<i64>, clock: ClockState) -> Stamp {
        let captured_at = wall_us.map(|us| jiff::Timestamp::from_microsecond(us).unwrap());
        Stamp { mono_us, captured_at, clock }
    }

    fn relations() -> Relations {
        let clock = ClockState::Synchronised;
        [Relation { mono_us: 60_000_000, offset_us: TRUE_US, clock }].into_iter().collect()
    }

    #[test]
    fn what_was_captured_before_the_clock_was_set_gets_its_right_time_and_keeps_what_the_device_said()
     {
        let wrong_us = BUILT_US + 5_000_000;
        let wrong = stamp(5_000_000, Some(wrong_us), ClockState::Unsynchronised);
        let time = Time::of(&wrong, &relations());
        assert_eq!(time.ns, Some((TRUE_US + 5_000_000) * 1000));
        let corrected = time.corrected.unwrap();
        assert_eq!(corrected.device_captured_ns, Some(wrong_us * 1000));
        assert_eq!(corrected.by_clock, "synchronised");
        let never = stamp(5_000_000, None, ClockState::Unset);
        let time = Time::of(&never, &relations());
        assert_eq!(time.ns, Some((TRUE_US + 5_000_000) * 1000));
        assert_eq!(time.corrected.unwrap().device_captured_at, None);
    }

    #[test]
    fn a_time_that_the_device_knew_is_left_alone() {
        let known = stamp(5_000_000, Some(BUILT_US), ClockState::Synchronised);
        assert_eq!(
            Time::of(&known, &relations()),
            Time { ns: Some(BUILT_US * 1000), corrected: None }
        );
        let unknown = stamp(5, Some(BUILT_US), ClockState::Unsynchronised);
        let nothing = Time::of(&unknown, &Relations::default());
        assert_eq!(nothing, Time { ns: Some(BUILT_US * 1000), corrected: None });
    }

    #[test]
    fn a_document_says_by_how_many_relations_its_time_goes_unless_the_device_knew_it() {
        use ClockState::{Synchronised, Unset, Unsynchronised};
        let origin = Origin {
            topic: "picket.observations".to_owned(),
            partition: 0,
            offset: 0,
            broker_time_ms: 0,
            stored_at_ms: 0,
        };
        let said = |clocks: &[ClockState], relations: &Relations| {
            by_what_is_known(origin.ingest(1), clocks, relations).relations
        };
        assert_eq!(said(&[Unset], &relations()), Some(1));
        assert_eq!(said(&[Unsynchronised, Synchronised], &relations()), Some(1));
        assert_eq!(said(&[Synchronised], &relations()), None);
        assert_eq!(said(&[Unset], &Relations::default()), None);
    }

    #[test]
    fn a_time_beyond_what_can_be_stored_stays_as_the_device_said_it() {
        let clock = ClockState::Synchronised;
        let far: Relations =
            [Relation { mono_us: 1, offset_us: i64::MAX / 2, clock }].into_iter().collect();
        let wrong = stamp(5, Some(BUILT_US), ClockState::Unsynchronised);
        assert_eq!(Time::of(&wrong, &far), Time { ns: Some(BUILT_US * 1000), corrected: None });
    }
}
