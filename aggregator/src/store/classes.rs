//! What a second look at a frame found: into its observation's document, which may not be there yet.
//!
//! A frame and its observation come by two topics, and either may be first by as much as one of them is
//! behind. A document of an observation is made by who reads observations and by nobody else: one that was
//! begun here would be taken for the observation itself, which is stored only where there is none. So
//! what finds no observation waits in a collection of its own, until somebody finds one for it or its time
//! is over.
//!
//! Every write may be done twice, by two classifiers at once, or be cut off at any point: what is set in
//! an observation follows from the picture and the model, and the first picture of an id stands: also one
//! that waits, as it came before what was put into its observation since.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use picket_service::logging::chain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bulk::Update;
use super::client::Store;
use super::documents::collection;
use super::error::StoreError;
use super::schema::Date;
use super::{decode, encode};

/// A label, and how sure the model is of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Class {
    /// By the model's description.
    pub label: String,
    /// 0 to 1.
    pub confidence: f32,
}

/// What gave a frame its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassifiedBy {
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its file, hex.
    pub model_sha256: String,
    /// SHA-256 of the JPEG that it was shown, hex: that of the frame's document.
    pub picture_sha256: String,
}

/// What was found in the frame of an observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Classified {
    /// Id of the observation.
    #[serde(rename = "_id")]
    pub id: String,
    /// The surest first.
    pub classes: Vec<Class>,
    /// What gave them.
    pub classified_by: ClassifiedBy,
}

/// The same while there is no observation. `_id` is that of the observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// What was found.
    #[serde(flatten)]
    pub classified: Classified,
    /// When it is given up.
    #[schemars(with = "Date")]
    pub give_up_at: DateTime,
    /// When MongoDB deletes it if no classifier has run since: a day after that.
    #[schemars(with = "Date")]
    pub expire_at: DateTime,
}

/// What became of some that were put, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Put {
    /// In their observations.
    pub stored: u64,
    /// Waiting for them.
    pub waiting: u64,
    /// Of another picture of an id that has its labels.
    pub conflicts: u64,
}

/// What became of a page of those that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Their observation is there: they wait no more.
    pub stored: u64,
    /// Their time was over.
    pub given_up: u64,
    /// The first of these.
    pub first_given_up: Option<String>,
    /// Somebody has changed them, and they cannot be read.
    pub unreadable: u64,
    /// What is wrong with the first of these.
    pub first_unreadable: Option<String>,
    /// Behind which the next page begins; none at the end.
    pub next: Option<String>,
}

/// Those that wait, a page of them.
struct Page {
    waiting: Vec<Waiting>,
    unreadable: Vec<StoreError>,
    next: Option<String>,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Of which picture a document has labels.
const PICTURE: &str = "classified_by.picture_sha256";

impl Waiting {
    /// From now until its time is over.
    pub fn new(classified: Classified, give_up_ms: i64) -> Self {
        Self {
            classified,
            give_up_at: DateTime::from_millis(give_up_ms),
            expire_at: DateTime::from_millis(give_up_ms.saturating_add(DAY_MS)),
        }
    }

    /// Puts it aside, unless labels of another picture wait already.
    fn update(&self) -> Result<Update, StoreError> {
        let own = encode(collection::UNCLAIMED_CLASSES, self)?;
        let (field, picture) =
            (format!("${PICTURE}"), &self.classified.classified_by.picture_sha256);
        let is_other = doc! { "$and": [
            { "$eq": [{ "$type": &field }, "string"] },
            { "$ne": [&field, { "$literal": picture }] },
        ] };
        let choice = doc! { "$cond": [is_other, "$$ROOT", { "$literal": own }] };
        let change = Bson::Array(vec![doc! { "$replaceWith": choice }.into()]);
        Ok(Update { filter: doc! { "_id": &self.classified.id }, change, upsert: true })
    }
}

impl Classified {
    fn fields(&self) -> Result<Document, StoreError> {
        let mut fields = encode(collection::OBSERVATIONS, self)?;
        fields.remove("_id");
        Ok(fields)
    }

    /// Into its observation, unless that has labels of another picture.
    fn update(&self) -> Result<Update, StoreError> {
        let same = doc! { PICTURE: &self.classified_by.picture_sha256 };
        let filter = doc! { "_id": &self.id, "$or": [unclassified(), same] };
        Ok(Update { filter, change: doc! { "$set": self.fields()? }.into(), upsert: false })
    }

    /// Into its observation, unless that has labels of the same picture: those were put since, by a model
    /// that may be newer. Those of another picture came second.
    fn update_late(&self) -> Result<Update, StoreError> {
        let filter =
            doc! { "_id": &self.id, PICTURE: { "$ne": &self.classified_by.picture_sha256 } };
        Ok(Update { filter, change: doc! { "$set": self.fields()? }.into(), upsert: false })
    }
}

/// Also where somebody has spoilt what tells of the picture: the next labels put it right.
fn unclassified() -> Document {
    doc! { PICTURE: { "$not": { "$type": "string" } } }
}

impl Store {
    /// Puts what was found into its observations, and what has none yet aside.
    pub async fn put_classes(&self, all: &[Waiting]) -> Result<Put, StoreError> {
        let updates = all.iter().map(|one| one.classified.update());
        self.write(collection::OBSERVATIONS, &updates.collect::<Result<Vec<_>, _>>()?).await?;
        let ids = all.iter().map(|one| &one.classified.id);
        let found = self.labelled_pictures(collection::OBSERVATIONS, ids).await?;
        let (mut put, mut aside) = (Put::default(), Vec::new());
        for one in all {
            let Classified { id, classified_by: by, .. } = &one.classified;
            match found.get(id) {
                Some(Some(there)) if *there == by.picture_sha256 => put.stored += 1,
                Some(Some(_)) => put.conflicts += 1,
                // Not there, or it came between the write and the look.
                Some(None) | None => aside.push(one),
            }
        }
        put.conflicts += self.put_aside(&aside).await?;
        put.waiting = all.len() as u64 - put.stored - put.conflicts;
        Ok(put)
    }

    /// Puts aside what has no observation; returns of how many another picture waits already.
    async fn put_aside(&self, aside: &[&Waiting]) -> Result<u64, StoreError> {
        let updates = aside.iter().map(|one| one.update());
        let updates = updates.collect::<Result<Vec<_>, _>>()?;
        self.write(collection::UNCLAIMED_CLASSES, &updates).await?;
        let ids = aside.iter().map(|one| &one.classified.id);
        let found = self.labelled_pictures(collection::UNCLAIMED_CLASSES, ids).await?;
        // What is gone by now has found its observation.
        let is_other = |one: &&&Waiting| {
            let Classified { id, classified_by: by, .. } = &one.classified;
            found.get(id).is_some_and(|there| there.as_ref() != Some(&by.picture_sha256))
        };
        Ok(aside.iter().filter(is_other).count() as u64)
    }

    /// Those of the documents that are there, with the picture that they have labels of.
    async fn labelled_pictures(
        &self,
        collection: &'static str,
        ids: impl Iterator<Item = &String>,
    ) -> Result<HashMap<String, Option<String>>, StoreError> {
        let ids: Vec<String> = ids.cloned().collect();
        let fields = Some(doc! { PICTURE: 1 });
        let found = self.documents_by_ids(collection, &ids, fields).await?;
        // Not as a type: one that somebody has spoilt must hold up nothing.
        let read = |found: Document| {
            let by = found.get_document("classified_by");
            let picture = by.ok().and_then(|by| by.get_str("picture_sha256").ok());
            Some((found.get_str("_id").ok()?.to_owned(), picture.map(str::to_owned)))
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Looks for the observations of a page of those that wait.
    pub async fn settle_classes(
        &self,
        after: Option<&str>,
        page: usize,
        now: DateTime,
    ) -> Result<Settled, StoreError> {
        let Page { waiting, unreadable, next } = self.waiting_classes(after, page).await?;
        let ids = waiting.iter().map(|one| &one.classified.id);
        let found = self.labelled_pictures(collection::OBSERVATIONS, ids).await?;
        let (there, missing): (Vec<_>, Vec<_>) =
            waiting.iter().partition(|one| found.contains_key(&one.classified.id));
        let updates = there.iter().map(|one| one.classified.update_late());
        self.write(collection::OBSERVATIONS, &updates.collect::<Result<Vec<_>, _>>()?).await?;
        let over: Vec<_> = missing.into_iter().filter(|one| one.give_up_at <= now).collect();
        let id = |one: &&Waiting| one.classified.id.clone();
        Ok(Settled {
            stored: self.forget_classes(there.iter().map(id).collect()).await?,
            first_given_up: over.first().map(id),
            given_up: self.forget_classes(over.iter().map(id).collect()).await?,
            unreadable: unreadable.len() as u64,
            first_unreadable: unreadable.first().map(|error| chain(error)),
            next,
        })
    }

    async fn waiting_classes(&self, after: Option<&str>, page: usize) -> Result<Page, StoreError> {
        const COLLECTION: &str = collection::UNCLAIMED_CLASSES;
        let failed = |e| StoreError::Read { collection: COLLECTION, source: Box::new(e) };
        // Texts alone: an id of another kind is nobody's.
        let filter = after.map_or_else(|| doc! { "$gte": "" }, |id| doc! { "$gt": id });
        let waiting = self.database.collection::<Document>(COLLECTION);
        let waiting = waiting.find(doc! { "_id": filter });
        let waiting =
            waiting.sort(doc! { "_id": 1 }).limit(i64::try_from(page).unwrap_or(i64::MAX));
        let found: Vec<Document> =
            waiting.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        let last = found.last().filter(|_| found.len() >= page);
        let next = last.and_then(|last| last.get_str("_id").ok()).map(str::to_owned);
        let mut page = Page { waiting: Vec::new(), unreadable: Vec::new(), next };
        for document in found {
            match decode(COLLECTION, document) {
                Ok(one) => page.waiting.push(one),
                Err(error) => page.unreadable.push(error),
            }
        }
        Ok(page)
    }

    /// Deletes some that wait; returns how many nobody else had deleted.
    async fn forget_classes(&self, ids: Vec<String>) -> Result<u64, StoreError> {
        const COLLECTION: &str = collection::UNCLAIMED_CLASSES;
        if ids.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Bson> = ids.into_iter().map(Bson::from).collect();
        let waiting = self.database.collection::<Document>(COLLECTION);
        let deleted = waiting.delete_many(doc! { "_id": { "$in": ids } }).await;
        let deleted = deleted
            .map_err(|e| StoreError::Write { collection: COLLECTION, source: Box::new(e) })?;
        Ok(deleted.deleted_count)
    }

    /// How many wait, by MongoDB's own estimate.
    pub async fn count_waiting_classes(&self) -> Result<u64, StoreError> {
        const COLLECTION: &str = collection::UNCLAIMED_CLASSES;
        let waiting = self.database.collection::<Document>(COLLECTION);
        let count = waiting.estimated_document_count().await;
        count.map_err(|e| StoreError::Read { collection: COLLECTION, source: Box::new(e) })
    }
}
