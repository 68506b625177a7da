//! # Store: owns the collections
//!
//! Not a stage: every stage that needs MongoDB asks here.
//!
//! **In.** Documents, as [`documents`] has them.
//!
//! **Out.** Nothing returns before a majority has it in its journal.
//!
//! **Promises.** Observations, tracks and frames are written first, by ids that follow from the log,
//! so that writing them twice is writing them once. Then one transaction moves ledger, cameras and
//! checkpoints. A crash between the two leaves documents that the same batch, read again, finds in
//! place. A former owner of a partition cannot move anything ([`checkpoints`]).
//!
//! **Limits.** Needs a replica set, also of one member. One document has 16 MB: a camera's state and
//! an epoch's ledger stay far below.

pub mod bulk;
pub mod checkpoints;
pub mod classes;
mod client;
pub mod clocks;
pub mod documents;
mod error;
pub mod ledger;
pub mod letters;
mod primary;
pub mod relations;
pub mod schema;
mod settings;

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use metrics::counter;
use mongodb::bson::{self, Bson, Document, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use picket_service::logging::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::metrics::UNREADABLE;
pub use client::Store;
use documents::collection::FRAMES;
pub use error::StoreError;
pub use settings::Settings;

/// Documents that stand for all of their collection.
const SOME: i64 = 20;

/// A value as a document.
pub fn encode(collection: &'static str, value: &impl Serialize) -> Result<Document, StoreError> {
    bson::serialize_to_document(value)
        .map_err(|e| StoreError::Encode { collection, source: Box::new(e) })
}

/// A value as a document in the form in which it is sent.
pub fn encode_raw(
    collection: &'static str,
    value: &impl Serialize,
) -> Result<RawDocumentBuf, StoreError> {
    bson::serialize_to_raw_document_buf(value)
        .map_err(|e| StoreError::Encode { collection, source: Box::new(e) })
}

/// A document as a value.
pub fn decode<T: DeserializeOwned>(
    collection: &'static str,
    document: Document,
) -> Result<T, StoreError> {
    let id = document.get("_id").map(ToString::to_string).unwrap_or_default();
    let read = bson::Deserializer::new(Bson::Document(document));
    serde_path_to_error::deserialize(read).map_err(|e| StoreError::Unreadable {
        collection,
        id,
        field: e.path().to_string(),
        source: Box::new(e.into_inner()),
    })
}

impl Store {
    /// The documents of these ids that exist, whole or with some fields alone.
    pub async fn find_by_ids<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        ids: &[String],
        fields: Option<Document>,
    ) -> Result<Vec<T>, StoreError> {
        let documents = self.documents_by_ids(collection, ids, fields).await?;
        documents.into_iter().map(|document| decode(collection, document)).collect()
    }

    /// The same of those that can be read; the others are named in the log and counted. For what is looked
    /// at and not built upon.
    pub async fn find_readable_by_ids<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        ids: &[String],
        fields: Option<Document>,
    ) -> Result<Vec<T>, StoreError> {
        let documents = self.documents_by_ids(collection, ids, fields).await?;
        let read = |document| match decode(collection, document) {
            Ok(document) => Some(document),
            Err(error) => {
                counter!(UNREADABLE, "collection" => collection).increment(1);
                tracing::warn!(error = chain(&error), "a document of {collection} is passed over");
                None
            }
        };
        Ok(documents.into_iter().filter_map(read).collect())
    }

    async fn documents_by_ids(
        &self,
        collection: &'static str,
        ids: &[String],
        fields: Option<Document>,
    ) -> Result<Vec<Document>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e| StoreError::Read { collection, source: Box::new(e) };
        let target = self.database.collection::<Document>(collection);
        let mut find = target.find(doc! { "_id": { "$in": ids } });
        if let Some(fields) = fields {
            find = find.projection(fields);
        }
        find.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Those of these ids of pictures that have a document: also one that no majority has yet, as
    /// whoever asks removes the pictures of the others.
    pub async fn recorded_pictures(&self, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
        if ids.is_empty() {
            return Ok(BTreeSet::new());
        }
        let failed = |e| StoreError::Read { collection: FRAMES, source: Box::new(e) };
        let frames = self.database.collection::<Document>(FRAMES);
        let find = frames.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
        let found = find.read_concern(ReadConcern::local()).await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let id = |document: Document| document.get_str("_id").map(str::to_owned).ok();
        Ok(found.into_iter().filter_map(id).collect())
    }

    /// Where some of the pictures lie that have a document.
    pub async fn some_picture_paths(&self) -> Result<Vec<String>, StoreError> {
        let failed = |e| StoreError::Read { collection: FRAMES, source: Box::new(e) };
        let frames = self.database.collection::<Document>(FRAMES);
        let find = frames.find(doc! {}).projection(doc! { "path": 1 }).limit(SOME);
        let found: Vec<Document> =
            find.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        let path = |document: Document| document.get_str("path").map(str::to_owned).ok();
        Ok(found.into_iter().filter_map(path).collect())
    }
}
