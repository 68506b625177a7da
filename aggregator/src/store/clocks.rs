//! What each epoch's clock records say: how its monotonic time and the time of day go together. Kept
//! without expiry, as the ledger is: a record that was carried by hand may come long after.
//!
//! A relation that becomes known may correct what is stored already. Which stretch of the epoch that
//! is stands beside the relations as *due*, and is worked off beside the log (`upsert::correction`).
//! It is marked after the documents that it concerns were written, so that whoever works it off finds
//! them, and it stays until somebody did, whoever crashes or hands over meanwhile. Pictures are stored
//! with the device's own time, and so are due whenever they come; they have a stretch of their own,
//! lest a camera whose clock is never set has all of its observations looked at with each of them.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::Hint;
use picket_wire::{CameraKey, EpochId};
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

    /// The field that holds the stretch; also the name of its index.
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

/// The write that has the pictures of a stretch looked at, if anything is known of the epoch's clocks:
/// if not, whoever learns of them looks at all of it.
pub fn look_at_pictures(key: &CameraKey, epoch: EpochId, stretch: Stretch) -> Update {
    let filter = doc! { "_id": ledger_id(key, epoch) };
    Update { filter, change: Due::Pictures.mark(stretch).into(), upsert: false }
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
    /// Where pictures came whose times nobody compared with the relations yet; absent if nowhere.
    #[serde(default)]
    pub pictures_due: Option<Stretch>,
    /// Raised whenever more of them came.
    #[serde(default)]
    pub pictures_version: i64,
}

impl ClockDocument {
    /// The stretch that is due for this, if any is.
    pub fn stretch(&self, due: Due) -> Option<Stretch> {
        match due {
            Due::Relation => self.due,
            Due::Pictures => self.pictures_due,
        }
    }

    fn version(&self, due: Due) -> i64 {
        match due {
            Due::Relation => self.version,
            Due::Pictures => self.pictures_version,
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

    /// Notes that all that was due in this version of the document is done.
    pub async fn settle_clock(&self, due: Due, clock: &ClockDocument) -> Result<(), StoreError> {
        let unchanged = doc! { "_id": &clock.id, due.version(): clock.version(due) };
        let change: Bson = doc! { "$unset": { due.field(): "" } }.into();
        self.write(collection::CLOCKS, vec![Update { filter: unchanged, change, upsert: false }])
            .await
    }
}
