//! What each epoch's clock records say: how its monotonic time and the time of day go together. Kept
//! without expiry, as the ledger is: a record that was carried by hand may come long after.
//!
//! A relation that becomes known may correct what is stored already. Which stretch of the epoch that
//! is stands beside the relations as *due*, and is worked off beside the log (`upsert::correction`).
//! It is marked after the documents that it concerns were written, so that whoever works it off finds
//! them, and it stays until somebody did, whoever crashes or hands over meanwhile. Pictures are stored
//! with the device's own time, and so are due whenever they come; they have a stretch of their own,
//! lest a camera whose clock is never set has all of its observations looked at with each of them.
//!
//! More may become due faster than what is due is done. So whoever begins sets it apart first, in one
//! step, to where nothing is added to it: then it has an end. Only one stretch is set apart at a time
//! and anybody may work it off, which leaves nothing behind that belonged to somebody who is gone; its
//! number tells one who stood still that what is set apart now is another one.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::Hint;
use picket_wire::observation::ClockState;
use picket_wire::{CameraKey, EpochId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bulk::Update;
use super::client::Store;
use super::documents::collection;
use super::encode;
use super::error::StoreError;
use super::ledger::ledger_id;
use super::relations::{Relation, Relations, Stretch};

/// Why documents of an epoch are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A relation became known, which may tell other times of all that is stored.
    Relation,
    /// Pictures were stored with the time that the device said.
    Pictures,
}

impl Due {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Relation, Self::Pictures];

    /// The field that holds what is due; also the name of its index.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Relation => "due",
            Self::Pictures => "pictures_due",
        }
    }

    /// The field that is raised whenever more is due.
    pub(super) const fn version(self) -> &'static str {
        match self {
            Self::Relation => "version",
            Self::Pictures => "pictures_version",
        }
    }

    /// The field that holds what is set apart of it.
    fn doing(self) -> String {
        format!("{}.doing", self.field())
    }

    /// What makes a stretch due, beside what is due already.
    fn mark(self, stretch: Stretch) -> Document {
        let field = self.field();
        doc! {
            "$min": { format!("{field}.from_us"): stretch.from_us },
            "$max": { format!("{field}.to_us"): stretch.to_us },
            "$inc": { self.version(): 1_i64 },
        }
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
        if self.relations.contains(&relation) {
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
            change.extend(Due::Relation.mark(due));
        }
        let filter = doc! { "_id": ledger_id(key, epoch) };
        Ok(Some(Update { filter, change: change.into(), upsert: true }))
    }
}

/// The write that has pictures of a stretch looked at, all made in this state of the clock, if anything
/// is known that tells other times of them: if not, whoever learns of it looks at all of the epoch.
pub fn look_at_pictures(
    key: &CameraKey,
    epoch: EpochId,
    clock: ClockState,
    stretch: Stretch,
) -> Update {
    let mut filter = doc! { "_id": ledger_id(key, epoch) };
    // What carries a date keeps it until a time source kept the clock.
    if clock == ClockState::Unsynchronised {
        filter.insert("relations.clock", ClockState::Synchronised.as_str());
    }
    Update { filter, change: Due::Pictures.mark(stretch).into(), upsert: false }
}

/// What is due of an epoch for one reason, as far as it is set apart. What became due since stands
/// beside it, as `from_us` and `to_us`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// What is worked off now, or was when somebody crashed.
    #[serde(default)]
    pub doing: Option<Doing>,
}

/// A stretch that is set apart, and does not change until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doing {
    /// Which.
    pub stretch: Stretch,
    /// No other one of its epoch and reason has it.
    pub number: i64,
}

/// What is known of the clocks of one epoch of one camera. `_id` is
/// `<device>/<camera>/<epoch>-<instance>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    pub due: Option<Work>,
    /// Where pictures came whose times nobody compared with the relations yet; absent if nowhere.
    #[serde(default)]
    pub pictures_due: Option<Work>,
}

impl ClockDocument {
    /// What is set apart for this reason, if anything is.
    pub fn doing(&self, due: Due) -> Option<Doing> {
        match due {
            Due::Relation => self.due?.doing,
            Due::Pictures => self.pictures_due?.doing,
        }
    }
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

    /// Ids of epochs of which something is due, at most so many, from behind this one on in the order
    /// of ids: whoever goes on from the last of them comes to each in its turn.
    pub async fn due_epochs(
        &self,
        due: Due,
        after: &str,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let failed = |e| StoreError::Read { collection: collection::CLOCKS, source: Box::new(e) };
        let clocks = self.database.collection::<Document>(collection::CLOCKS);
        let filter = doc! { due.field(): { "$exists": true }, "_id": { "$gt": after } };
        let found = clocks
            .find(filter)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(i64::try_from(most).unwrap_or(i64::MAX))
            // The index of all ids is in that order too, and holds every start of every agent.
            .hint(Hint::Name(due.field().to_owned()));
        let found: Vec<Document> =
            found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        // By the filter, every one is a string.
        Ok(found.iter().filter_map(|d| Some(d.get_str("_id").ok()?.to_owned())).collect())
    }

    /// Sets apart what is due of an epoch, unless something is already.
    pub async fn set_apart(&self, due: Due, epoch: &str) -> Result<(), StoreError> {
        let (field, doing) = (due.field(), due.doing());
        let [from_us, to_us] = ["from_us", "to_us"].map(|end| format!("{field}.{end}"));
        let filter = doc! {
            "_id": epoch, &from_us: { "$exists": true }, &doing: { "$exists": false },
        };
        let set_apart = doc! {
            "stretch": { "from_us": format!("${from_us}"), "to_us": format!("${to_us}") },
            // It is raised with whatever becomes due, so that the next stretch has another one.
            "number": format!("${}", due.version()),
        };
        let change =
            vec![doc! { "$set": { doing: set_apart } }, doc! { "$unset": [from_us, to_us] }];
        let update = Update { filter, change: pipeline(change), upsert: false };
        self.write(collection::CLOCKS, &[update]).await
    }

    /// Notes that what was set apart with this number is done; of another one nothing is noted.
    pub async fn settle(&self, due: Due, epoch: &str, number: i64) -> Result<(), StoreError> {
        let (field, doing) = (due.field(), due.doing());
        let filter = doc! { "_id": epoch, format!("{doing}.number"): number };
        let now = format!("${field}");
        let is_all = doc! { "$eq": [&now, { "$literal": {} }] };
        let rest = doc! { "$cond": [is_all, "$$REMOVE", now] };
        let change = vec![doc! { "$unset": doing }, doc! { "$set": { field: rest } }];
        let update = Update { filter, change: pipeline(change), upsert: false };
        self.write(collection::CLOCKS, &[update]).await
    }
}

fn pipeline(stages: Vec<Document>) -> Bson {
    Bson::Array(stages.into_iter().map(Bson::from).collect())
}
