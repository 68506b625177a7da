//! Corrects what is stored, once its epoch's clocks tell when it was captured.
//!
//! Beside the log and not in it: a box that ran for a day without a time source has a million records
//! at the centre, and the other cameras of its partition must not wait for them. What is due stands in
//! the store until it is done, so that a crash or another owner costs no more than beginning anew;
//! whoever does it, and however often, writes the same. Epochs have their turns in a round, so that
//! neither many that are due all the time nor those that are long or fail keep another one waiting.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use metrics::counter;
use mongodb::bson::{Bson, Document, doc};
use picket_service::logging::chain;

use super::timed::{Record, Timed, Track};
use crate::metrics::{TIMES_CORRECTED, TIMES_NOT_CORRECTED};
use crate::remedy::Remedy;
use crate::store::bulk::Update;
use crate::store::clocks::{ClockDocument, Doing, Due};
use crate::store::documents::collection;
use crate::store::relations::{Relations, Stretch};
use crate::store::{Store, StoreError, decode};

/// Epochs that are looked at in one turn, for each reason.
const EPOCHS_IN_A_TURN: usize = 16;
/// Failing epochs that are remembered; the failures of others are counted and not logged.
const MOST_FAILING: usize = 1000;

/// Works off what is due.
pub struct Corrector {
    store: Store,
    limits: Limits,
    rounds: [Round; 2],
    /// What is done in part. It goes on by the relations as they were read: of more that came meanwhile
    /// the epoch is due again.
    begun: BTreeMap<(Due, String), Begun>,
    /// Epochs whose failure was logged.
    failing: BTreeSet<(Due, String)>,
}

/// How much is done in one go.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Documents that are looked at, and written, at a time.
    pub page: usize,
    /// Pages that an epoch has in its turn: a second or so.
    pub pages_in_a_turn: usize,
    /// Epochs that are remembered with the place at which their turn ended. Others begin anew at each
    /// turn: those that are done in one end, and longer ones wait for a place.
    pub most_begun: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { page: 1000, pages_in_a_turn: 8, most_begun: 64 }
    }
}

/// Where the round of all epochs stands that are due for one reason.
#[derive(Debug)]
struct Round {
    due: Due,
    number: u64,
    /// The epoch whose turn it was last; empty at the beginning.
    last: String,
}

#[derive(Debug)]
struct Begun {
    errand: Errand,
    place: Position,
    corrected: u64,
    /// In which it last had its turn.
    round: u64,
}

/// An epoch of which something is due, as it was read.
#[derive(Debug, Clone)]
pub struct Errand {
    due: Due,
    doing: Doing,
    clock: ClockDocument,
    relations: Relations,
}

/// How far an errand is done.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// Which of its collections.
    collection: usize,
    /// Behind which document of it.
    after: Option<(Bson, Bson)>,
}

/// Some documents of an errand.
#[derive(Debug)]
pub struct Step {
    collection: &'static str,
    updates: Vec<Update>,
    /// Of how many of them the time becomes another one.
    corrected: u64,
    /// What comes then; nothing at the end.
    next: Option<Position>,
}

impl Corrector {
    /// Of everything in a store.
    pub fn new(store: Store) -> Self {
        Self::with_limits(store, Limits::default())
    }

    /// The same, so much in one go.
    pub fn with_limits(store: Store, limits: Limits) -> Self {
        let rounds = Due::ALL.map(|due| Round { due, number: 0, last: String::new() });
        Self { store, limits, rounds, begun: BTreeMap::new(), failing: BTreeSet::new() }
    }

    /// Whether something is done in part, so that there is no reason to wait before the next turn.
    pub fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Works off what is due of the epochs whose turn it is; returns how many documents were corrected.
    /// Fails if the store is away; the next turn goes on behind the epoch at which it failed.
    pub async fn turn(&mut self) -> Result<u64, StoreError> {
        let mut corrected = 0;
        for which in 0..self.rounds.len() {
            let Round { due, number, ref last } = self.rounds[which];
            let epochs = self.store.due_epochs(due, last, EPOCHS_IN_A_TURN).await?;
            let is_end = epochs.len() < EPOCHS_IN_A_TURN;
            for epoch in epochs {
                self.rounds[which].last.clone_from(&epoch);
                match self.epoch(due, &epoch, number).await {
                    Ok(here) => corrected += here,
                    Err(e) => self.fail(due, &epoch, e)?,
                }
            }
            if is_end {
                // What had no turn in a whole round was brought to its end by somebody else.
                self.begun.retain(|(of, _), begun| *of != due || begun.round == number);
                self.rounds[which] = Round { due, number: number + 1, last: String::new() };
            }
        }
        Ok(corrected)
    }

    async fn epoch(&mut self, due: Due, epoch: &str, round: u64) -> Result<u64, StoreError> {
        let key = (due, epoch.to_owned());
        let mut begun = match self.begun.remove(&key) {
            Some(begun) => begun,
            // Read when its turn has come, and not with the others: the less old what is read is, the
            // less is looked at in vain.
            None => match self.errand(due, epoch).await? {
                Some(errand) => Begun { errand, place: Position::default(), corrected: 0, round },
                None => return Ok(0),
            },
        };
        let before = begun.corrected;
        let outcome = self.go_on(&mut begun, self.limits.pages_in_a_turn).await;
        let (corrected, documents) = (begun.corrected - before, begun.corrected);
        let is_in_part = match &outcome {
            Ok(is_done) => !is_done,
            // The store is away, and this goes on from here.
            Err(e) => e.remedy() == Remedy::Retry,
        };
        if is_in_part && self.begun.len() < self.limits.most_begun {
            self.begun.insert(key.clone(), Begun { round, ..begun });
        }
        if outcome? && documents > 0 {
            tracing::info!(epoch, documents, "times of {epoch} are right by its clock");
        }
        self.failing.remove(&key);
        Ok(corrected)
    }

    /// Counts a failure, and says it once for each epoch until that succeeds.
    fn fail(&mut self, due: Due, epoch: &str, error: StoreError) -> Result<(), StoreError> {
        counter!(TIMES_NOT_CORRECTED, "of" => "epoch").increment(1);
        if error.remedy() == Remedy::Retry {
            return Err(error);
        }
        let key = (due, epoch.to_owned());
        if self.failing.len() < MOST_FAILING && self.failing.insert(key) {
            tracing::warn!(
                epoch,
                "times of {epoch} are not corrected before its next turn, nor is this said again: {}",
                chain(&error)
            );
        }
        Ok(())
    }

    /// What is due of an epoch now, if anything is. It is set apart, and gets no longer while it is done.
    pub async fn errand(&self, due: Due, epoch: &str) -> Result<Option<Errand>, StoreError> {
        self.store.set_apart(due, epoch).await?;
        let found = self.store.clocks(&[epoch.to_owned()]).await?.pop();
        Ok(found.and_then(|clock| {
            let doing = clock.doing(due)?;
            let relations = clock.relations.iter().copied().collect();
            Some(Errand { due, doing, clock, relations })
        }))
    }

    /// Does all of an errand; returns how many documents were corrected.
    pub async fn work_off(&self, errand: Errand) -> Result<u64, StoreError> {
        let mut begun = Begun { errand, place: Position::default(), corrected: 0, round: 0 };
        self.go_on(&mut begun, usize::MAX).await?;
        Ok(begun.corrected)
    }

    /// Does so many pages more of an errand, and settles it at its end; returns whether that is reached.
    async fn go_on(&self, begun: &mut Begun, pages: usize) -> Result<bool, StoreError> {
        for _ in 0..pages {
            let step = self.look(&begun.errand, begun.place.clone()).await?;
            let corrected = step.corrected;
            let next = self.write(step).await?;
            begun.corrected += corrected;
            let Some(next) = next else {
                let Errand { due, doing, clock, .. } = &begun.errand;
                self.store.settle(*due, &clock.id, doing.number).await?;
                return Ok(true);
            };
            begun.place = next;
        }
        Ok(false)
    }

    /// Works out what the next documents of an errand become.
    pub async fn look(&self, errand: &Errand, place: Position) -> Result<Step, StoreError> {
        let stretch = errand.doing.stretch;
        match errand.collections()[place.collection] {
            collection::TRACKS => {
                self.look_at::<Track>(errand, place, collection::TRACKS, tracks(stretch)).await
            }
            name => self.look_at::<Record>(errand, place, name, records(stretch)).await,
        }
    }

    /// Writes it; returns where to go on.
    pub async fn write(&self, step: Step) -> Result<Option<Position>, StoreError> {
        self.store.write(step.collection, &step.updates).await?;
        counter!(TIMES_CORRECTED, "collection" => step.collection).increment(step.corrected);
        Ok(step.next)
    }

    async fn look_at<T: Timed>(
        &self,
        errand: &Errand,
        place: Position,
        name: &'static str,
        which: Document,
    ) -> Result<Step, StoreError> {
        let page = self.page::<T>(name, errand.filter::<T>(which, place.after)).await?;
        let (mut updates, mut corrected, mut unread) = (Vec::new(), 0, Vec::new());
        for document in &page {
            // One that this build cannot read keeps no other from its right time.
            match decode::<T>(name, document.clone()) {
                Ok(document) => {
                    if let Some(amendment) = document.correction(&errand.relations)? {
                        updates.push(amendment.update);
                        corrected += u64::from(amendment.is_other_time);
                    }
                }
                Err(e) => unread.push(e),
            }
        }
        if let Some(error) = unread.first() {
            let count = unread.len() as u64;
            counter!(TIMES_NOT_CORRECTED, "of" => "document").increment(count);
            tracing::warn!(count, "some times stay as they are, the first: {}", chain(error));
        }
        let end = page.last().filter(|_| page.len() >= self.limits.page);
        let after =
            end.and_then(|last| Some((last.get(T::FIELD)?.clone(), last.get("_id")?.clone())));
        let next = match after {
            Some(after) => Some(Position { collection: place.collection, after: Some(after) }),
            None => Some(Position { collection: place.collection + 1, after: None })
                .filter(|next| next.collection < errand.collections().len()),
        };
        Ok(Step { collection: name, updates, corrected, next })
    }

    async fn page<T: Timed>(
        &self,
        name: &'static str,
        filter: Document,
    ) -> Result<Vec<Document>, StoreError> {
        let failed = |e| StoreError::Read { collection: name, source: Box::new(e) };
        let documents = self.store.database().collection::<Document>(name);
        let fields = doc! {
            "kind": 1, "rev": 1, "clock": 1, "mono_us": 1, "captured_ns": 1, "corrected": 1,
            "first_clock": 1, "first_mono_us": 1, "first_seen": 1,
            "last_clock": 1, "last_mono_us": 1, "last_seen": 1, "ingest.relations": 1,
        };
        let found = documents.find(filter).sort(doc! { T::FIELD: 1, "_id": 1 });
        let found =
            found.limit(i64::try_from(self.limits.page).unwrap_or(i64::MAX)).projection(fields);
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }
}

impl Errand {
    /// Where documents may be that it concerns.
    fn collections(&self) -> &'static [&'static str] {
        match self.due {
            Due::Relation => &[collection::OBSERVATIONS, collection::FRAMES, collection::TRACKS],
            Due::Pictures => &[collection::FRAMES],
        }
    }

    /// The next page of these documents of its epoch.
    fn filter<T: Timed>(&self, which: Document, after: Option<(Bson, Bson)>) -> Document {
        let ClockDocument { device, camera, epoch, .. } = &self.clock;
        let here = doc! { "device": device, "camera": camera, "epoch": epoch };
        let mut all = vec![here, which];
        if let Some((place, id)) = after {
            // Said by itself too: a bound of the index, which else is read from the stretch's beginning
            // for each page.
            all.push(doc! { T::FIELD: { "$gte": place.clone() } });
            all.push(doc! { "$or": [
                { T::FIELD: { "$gt": place.clone() } },
                { T::FIELD: place, "_id": { "$gt": id } },
            ] });
        }
        doc! { "$and": all }
    }
}

/// Records of a stretch whose times the device did not know.
fn records(due: Stretch) -> Document {
    let stretch = doc! { "$gte": due.from_us, "$lte": due.to_us };
    doc! { "clock": { "$gt": "synchronised" }, "mono_us": stretch }
}

/// Tracks of which a part lies in a stretch, and whose times the device did not know.
fn tracks(due: Stretch) -> Document {
    let unsure = doc! { "$gt": "synchronised" };
    doc! {
        "first_mono_us": { "$lte": due.to_us },
        "last_mono_us": { "$gte": due.from_us },
        "$or": [{ "first_clock": unsure.clone() }, { "last_clock": unsure }],
    }
}
