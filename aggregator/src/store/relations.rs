//! How a device's clocks go together, and what that tells of records whose device did not know the
//! time. Pure.

use picket_wire::observation::{ClockRelation, ClockState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most relations that are kept of an epoch; what comes beyond is told by those that are there.
const MOST_RELATIONS: usize = 4096;

/// Both clocks of a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Relation {
    /// Microseconds since the epoch's start.
    pub mono_us: i64,
    /// The time of day at the epoch's start by this relation, microseconds since 1970.
    pub offset_us: i64,
    /// How far the device's clock could be trusted.
    pub clock: ClockState,
}

impl Relation {
    /// What a clock record says; nothing if its numbers are beyond all time.
    pub fn of(record: &ClockRelation) -> Option<Self> {
        let mono_us = i64::try_from(record.stamp.mono_us).ok()?;
        let offset_us = record.stamp.captured_at?.as_microsecond().checked_sub(mono_us)?;
        Some(Self { mono_us, offset_us, clock: record.stamp.clock })
    }

    fn is_synchronised(&self) -> bool {
        self.clock == ClockState::Synchronised
    }

    /// Any total order does, as long as every reader has the same.
    fn order(&self) -> (i64, bool, i64, &'static str) {
        (self.mono_us, self.is_synchronised(), self.offset_us, self.clock.as_str())
    }
}

/// A part of an epoch in monotonic time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stretch {
    /// Microseconds since the epoch's start.
    pub from_us: i64,
    /// Microseconds since the epoch's start.
    pub to_us: i64,
}

impl Stretch {
    /// Both, and what lies between them.
    pub fn and(self, other: Self) -> Self {
        Self { from_us: self.from_us.min(other.from_us), to_us: self.to_us.max(other.to_us) }
    }
}

/// All that is known of an epoch's clocks, in the order of monotonic time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations(Vec<Relation>);

impl Relations {
    /// Nothing is known.
    pub const NONE: Self = Self(Vec::new());

    /// The relation that tells when a record was made whose own clock was in this state: the first
    /// one at or after it, since it is the setting of the clock that tells how far it was off before;
    /// the last one, where none follows. Those of a clock that a time source kept come before all
    /// others, which say something only of what has no time at all.
    pub fn tells(&self, mono_us: i64, clock: ClockState) -> Option<&Relation> {
        let set = self.ranked(true);
        match clock {
            ClockState::Synchronised => None,
            ClockState::Unsynchronised => nearest(set, mono_us),
            ClockState::Unset => {
                nearest(set, mono_us).or_else(|| nearest(self.ranked(false), mono_us))
            }
        }
    }

    /// Adds a relation; returns the stretch whose times may be others by it. One that is there already
    /// is no other case: it may be told again because what followed from it was never finished.
    pub fn insert(&mut self, relation: Relation) -> Option<Stretch> {
        let place = self.0.partition_point(|known| known.order() < relation.order());
        if self.0.get(place) != Some(&relation) {
            if self.0.len() >= MOST_RELATIONS {
                return None;
            }
            self.0.insert(place, relation);
        }
        let is_set = relation.is_synchronised();
        if !is_set && self.ranked(true).next().is_some() {
            return None;
        }
        // The first that a time source kept may also replace those that were none.
        let same = |known: &&Relation| known.is_synchronised() == is_set;
        let before = self.0[..place].iter().rfind(same);
        let after = self.0[place + 1..].iter().find(same);
        Some(Stretch {
            from_us: before
                .map_or(0, |before| before.mono_us.saturating_add(1))
                .min(relation.mono_us),
            to_us: after.map_or(i64::MAX, |_| relation.mono_us),
        })
    }

    /// Whether this one is among them.
    pub fn contains(&self, relation: &Relation) -> bool {
        self.0.contains(relation)
    }

    /// How many they are. None is ever taken out, and all who learn of them read one log, so of two
    /// that know of an epoch's clocks the one with more relations knows all that the other does.
    pub fn count(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }

    fn ranked(&self, synchronised: bool) -> impl DoubleEndedIterator<Item = &Relation> {
        self.0.iter().filter(move |relation| relation.is_synchronised() == synchronised)
    }
}

fn nearest<'a>(
    mut relations: impl DoubleEndedIterator<Item = &'a Relation>,
    mono_us: i64,
) -> Option<&'a Relation> {
    let mut last = None;
    relations
        .find(|relation| {
            last = Some(*relation);
            relation.mono_us >= mono_us
        })
        .or(last)
}

impl FromIterator<Relation> for Relations {
    fn from_iter<I: IntoIterator<Item = Relation>>(relations: I) -> Self {
        let mut all = Self::default();
        for relation in relations {
            all.insert(relation);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ClockState::{Synchronised, Unset, Unsynchronised};

    fn relation(mono_us: i64, offset_us: i64, clock: ClockState) -> Relation {
        Relation { mono_us, offset_us, clock }
    }

    fn told(relations: &Relations, mono_us: i64, clock: ClockState) -> Option<i64> {
        relations.tells(mono_us, clock).map(|relation| relation.offset_us)
    }

    #[test]
    fn what_was_before_the_clock_was_set_goes_by_the_setting_and_what_comes_after_by_the_last() {
        let relations: Relations = [
            relation(10, 5, Unsynchronised),
            relation(100, 1000, Synchronised),
            relation(200, 1000, Unsynchronised),
            relation(300, 1007, Synchronised),
        ]
        .into_iter()
        .collect();
        let at = |mono_us| told(&relations, mono_us, Unsynchronised).unwrap();
        assert_eq!([at(0), at(10), at(100)], [1000, 1000, 1000]);
        assert_eq!([at(101), at(250), at(300)], [1007, 1007, 1007], "it drifted since");
        assert_eq!(at(999), 1007, "nothing better is known");
        assert_eq!(told(&relations, 0, Synchronised), None, "the device knew itself");
    }

    #[test]
    fn a_clock_that_nothing_keeps_tells_only_what_has_no_time_at_all() {
        let relations: Relations =
            [relation(50, 7, Unsynchronised), relation(90, 9, Unsynchronised)]
                .into_iter()
                .collect();
        assert_eq!(told(&relations, 0, Unset), Some(7));
        assert_eq!(told(&relations, 60, Unset), Some(9));
        assert_eq!(told(&relations, 99, Unset), Some(9));
        assert_eq!(told(&relations, 0, Unsynchronised), None);
        assert_eq!(told(&Relations::default(), 0, Unset), None);
    }

    #[test]
    fn whatever_the_order_in_which_relations_come_they_tell_the_same_and_each_names_all_it_changes()
    {
        // A generator without a crate: the test needs variety, not quality.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i64 % below
        };
        const END: i64 = 40;
        let everywhere = |relations: &Relations| -> Vec<_> {
            let states = [Synchronised, Unsynchronised, Unset];
            let moments = (0..END).flat_map(|mono| states.map(|clock| (mono, clock)));
            moments.map(|(mono, clock)| (mono, told(relations, mono, clock))).collect()
        };
        for _ in 0..300 {
            let mut told = Vec::new();
            for n in 0..next(8) {
                let clock = if next(2) == 0 { Synchronised } else { Unsynchronised };
                told.push(relation(next(END), 1000 + n, clock));
            }
            let in_order: Relations = told.iter().copied().collect();
            for _ in 0..told.len() {
                let (a, b) = (next(told.len() as i64), next(told.len() as i64));
                told.swap(a as usize, b as usize);
            }
            let mut relations = Relations::default();
            for relation in &told {
                let before = everywhere(&relations);
                let stretch = relations.insert(*relation);
                for (old, new) in before.iter().zip(everywhere(&relations)) {
                    let named = stretch.is_some_and(|s| (s.from_us..=s.to_us).contains(&new.0));
                    assert!(*old == new || named, "{old:?} became {new:?}, outside {stretch:?}");
                }
            }
            assert_eq!(relations, in_order);
            for relation in &told {
                relations.insert(*relation);
            }
            assert_eq!(relations, in_order, "told again");
        }
    }

    #[test]
    fn relations_that_differ_in_the_state_of_the_clock_alone_are_two_however_often_they_are_told() {
        let (unset, free) = (relation(5, 7, Unset), relation(5, 7, Unsynchronised));
        let once: Relations = [unset, free].into_iter().collect();
        assert_eq!(once.count(), 2);
        for again in [[unset, free, unset, free], [free, unset, free, unset]] {
            assert_eq!(again.into_iter().collect::<Relations>(), once);
        }
    }

    #[test]
    fn an_epoch_keeps_no_more_relations_than_its_document_holds() {
        let all = (0..MOST_RELATIONS as i64 + 9).map(|n| relation(n, n, Synchronised));
        assert_eq!(all.collect::<Relations>().0.len(), MOST_RELATIONS);
    }

    #[test]
    fn numbers_beyond_all_time_relate_nothing() {
        let record = |mono_us: u64| ClockRelation {
            id: "gate/north/1-00000001/1".parse().unwrap(),
            stamp: picket_wire::observation::Stamp {
                mono_us,
                captured_at: Some(jiff::Timestamp::MIN),
                clock: Synchronised,
            },
        };
        assert!(Relation::of(&record(5)).is_some());
        assert_eq!(Relation::of(&record(u64::MAX)), None);
        assert_eq!(Relation::of(&record(i64::MAX as u64)), None);
    }
}
