//! What each epoch's clock records say: how its monotonic time and the time of day go together. Kept
//! without expiry, as the ledger is: a record that was carried by hand may come long after.
//!
//! A relation that becomes known may correct what is stored already. Which stretch of the epoch that
//! is stands beside the relations as *due*, and is worked off beside the log (`upsert::correction`).
//! It is marked after the documents that it concerns were written, so that whoever works it off finds
//! them, and it stays until somebody did, whoever crashes or hands over meanwhile.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use picket_wire::observation::{ClockRelation, ClockState};
use picket_wire::{CameraKey, EpochId};
use serde::{Deserialize, Serialize};

use super::bulk::Update;
use super::client::Store;
use super::documents::collection;
use super::error::StoreError;
use super::ledger::ledger_id;
use super::{decode, encode};

/// Most relations that are kept of an epoch; what comes beyond is told by those that are there.
const MOST_RELATIONS: usize = 4096;
/// Epochs whose corrections are due that are worked off in one turn.
const EPOCHS_IN_A_TURN: i64 = 16;

/// Both clocks of a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    fn order(&self) -> (i64, bool, i64) {
        (self.mono_us, self.is_synchronised(), self.offset_us)
    }
}

/// A part of an epoch in monotonic time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// The clocks of one epoch of one camera, in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochClock {
    /// All that is known.
    pub relations: Relations,
    news: Vec<Relation>,
    due: Option<Stretch>,
}

impl EpochClock {
    /// Takes in what a clock record says.
    pub fn learn(&mut self, relation: Relation) {
        if let Some(stretch) = self.relations.insert(relation) {
            self.due = Some(self.due.map_or(stretch, |due| due.and(stretch)));
        }
        // Beyond the most that are kept, none is stored either.
        if self.relations.0.contains(&relation) {
            self.news.push(relation);
        }
    }

    /// The write that stores what is new, if anything is. Two instances that write at once, as a
    /// former owner may that wakes up, leave what both knew.
    pub fn take_update(
        &mut self,
        key: &CameraKey,
        epoch: EpochId,
    ) -> Result<Option<Update>, StoreError> {
        if self.news.is_empty() {
            return Ok(None);
        }
        let news = std::mem::take(&mut self.news);
        let news: Vec<Document> = news
            .iter()
            .map(|relation| encode(collection::CLOCKS, relation))
            .collect::<Result<_, _>>()?;
        let mut change = doc! {
            "$setOnInsert": {
                "device": key.device.as_str(),
                "camera": key.camera.as_str(),
                "epoch": epoch.to_string(),
            },
            "$addToSet": { "relations": { "$each": news } },
        };
        if let Some(due) = self.due.take() {
            change.extend(mark(due));
        }
        let filter = doc! { "_id": ledger_id(key, epoch) };
        Ok(Some(Update { filter, change: change.into(), upsert: true }))
    }
}

/// What makes a stretch due, beside what is due already.
fn mark(due: Stretch) -> Document {
    doc! {
        "$min": { "due.from_us": due.from_us },
        "$max": { "due.to_us": due.to_us },
        "$inc": { "version": 1_i64 },
    }
}

/// The write that has a stretch of an epoch looked at once more, if anything is known of its clocks: if
/// not, whoever learns of them looks at all of it.
pub fn look_again(key: &CameraKey, epoch: EpochId, stretch: Stretch) -> Update {
    let filter = doc! { "_id": ledger_id(key, epoch) };
    Update { filter, change: mark(stretch).into(), upsert: false }
}

/// What is known of the clocks of one epoch of one camera. `_id` is
/// `<device>/<camera>/<epoch>-<instance>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClockDocument {
    /// Epoch of a camera.
    #[serde(rename = "_id")]
    pub id: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// `<epoch>-<instance>`.
    pub epoch: String,
    /// In no order.
    pub relations: Vec<Relation>,
    /// What is to be corrected by them; absent if nothing is.
    #[serde(default)]
    pub due: Option<Stretch>,
    /// Raised whenever more is due.
    #[serde(default)]
    pub version: i64,
}

impl From<ClockDocument> for EpochClock {
    fn from(document: ClockDocument) -> Self {
        Self { relations: document.relations.into_iter().collect(), ..Self::default() }
    }
}

impl Store {
    /// The clocks of these epochs, where anything is known of them.
    pub async fn clocks(&self, ids: &[String]) -> Result<Vec<ClockDocument>, StoreError> {
        self.find_by_ids(collection::CLOCKS, ids, None).await
    }

    /// Some epochs of which something is to be corrected.
    pub async fn due_clocks(&self) -> Result<Vec<ClockDocument>, StoreError> {
        let failed = |e| StoreError::Read { collection: collection::CLOCKS, source: Box::new(e) };
        let clocks = self.database.collection::<Document>(collection::CLOCKS);
        let due = clocks.find(doc! { "due.from_us": { "$exists": true } }).limit(EPOCHS_IN_A_TURN);
        let found: Vec<Document> =
            due.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        found.into_iter().map(|document| decode(collection::CLOCKS, document)).collect()
    }

    /// Notes that all that was due in this version of the document is done.
    pub async fn settle_clock(&self, clock: &ClockDocument) -> Result<(), StoreError> {
        let unchanged = doc! { "_id": &clock.id, "version": clock.version };
        let change: Bson = doc! { "$unset": { "due": "" } }.into();
        self.write(collection::CLOCKS, vec![Update { filter: unchanged, change, upsert: false }])
            .await
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
