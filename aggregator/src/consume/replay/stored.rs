//! What is stored, piece by piece, each with a limit of time.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Bson, DateTime, Document, doc};
use picket_service::logging::chain;
use picket_wire::{CameraKey, EpochId};
use tokio::time::timeout;

use super::super::provisional::StoredObservation;
use super::log::Place;
use super::{ANSWER, Range, ReplayError};
use crate::store::checkpoints::camera_checkpoint_id;
use crate::store::documents::collection;
use crate::store::{Store, StoreError, decode};
use crate::upsert;

/// Reads from MongoDB.
pub struct Reader {
    pub store: Store,
}

/// A record of the log, as far as it matters.
pub enum Record {
    /// An observation.
    Observation {
        observation: StoredObservation,
        /// Milliseconds since 1970.
        captured: Option<i64>,
        /// The broker's time, milliseconds since 1970.
        broker_ms: i64,
        /// Where it lay in the log.
        place: Option<Place>,
        is_late: bool,
    },
    /// A run that was not looked at, or is told to be lost.
    Run { first: u64, last: u64 },
    /// Whoever changed it.
    Unreadable { seq: u64, why: String },
}

impl Record {
    /// The `seq` that it settles.
    pub fn run(&self) -> (u64, u64) {
        match self {
            Self::Observation { observation, .. } => (observation.seq(), observation.seq()),
            Self::Run { first, last } => (*first, *last),
            Self::Unreadable { seq, .. } => (*seq, *seq),
        }
    }

    fn read(document: Document) -> Self {
        let number = |name: &str| document.get_i64(name).ok().map(i64::unsigned_abs);
        let seq = number("seq").unwrap_or_default();
        if document.get_str("kind").is_ok_and(|kind| kind != "observation") {
            let first = number("first").unwrap_or(seq);
            return Self::Run { first, last: number("last").unwrap_or(first) };
        }
        let is_late = document.get_bool("late").unwrap_or_default();
        let captured = document.get_datetime("captured_at").ok().map(|at| at.timestamp_millis());
        let ingest = document.get_document("ingest").ok();
        let place = ingest.and_then(place_of);
        let broker_ms = ingest.and_then(|ingest| ingest.get_datetime("broker_time").ok());
        let broker_ms = broker_ms.map_or(0, |at| at.timestamp_millis());
        match decode(collection::OBSERVATIONS, document) {
            Ok(observation) => {
                Self::Observation { observation, captured, broker_ms, place, is_late }
            }
            Err(error) => Self::Unreadable { seq, why: chain(&error) },
        }
    }
}

fn place_of(ingest: &Document) -> Option<Place> {
    let topic = ingest.get_str("topic").ok()?.to_owned();
    let partition = ingest.get_i32("partition").ok()?;
    Some(Place { topic, partition, offset: ingest.get_i64("offset").ok()? })
}

/// Documents, one after the other.
pub struct Documents {
    cursor: Cursor<Document>,
    name: &'static str,
}

impl Documents {
    /// The next one.
    pub async fn next(&mut self) -> Result<Option<Document>, ReplayError> {
        let failed = failed(self.name);
        let next = timeout(ANSWER, self.cursor.try_next()).await;
        Ok(next.map_err(|_| ReplayError::Slow { what: self.name })?.map_err(failed)?)
    }
}

/// Records, in the order of `seq`.
pub struct Records(Documents);

impl Records {
    /// The next one.
    pub async fn next(&mut self) -> Result<Option<Record>, ReplayError> {
        Ok(self.0.next().await?.map(Record::read))
    }
}

fn failed(name: &'static str) -> impl Fn(mongodb::error::Error) -> StoreError {
    move |e| StoreError::Read { collection: name, source: Box::new(e) }
}

fn of_epoch(key: &CameraKey, epoch: EpochId) -> Document {
    doc! {
        "device": key.device.as_str(), "camera": key.camera.as_str(), "epoch": epoch.to_string(),
    }
}

impl Reader {
    /// An answer of the store, within its time.
    pub async fn within<T>(
        &self,
        what: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ReplayError> {
        let answer = timeout(ANSWER, answer).await;
        Ok(answer.map_err(|_| ReplayError::Slow { what })??)
    }

    async fn find(
        &self,
        name: &'static str,
        filter: Document,
        sort: Document,
        fields: Document,
    ) -> Result<Documents, ReplayError> {
        let target = self.store.database().collection::<Document>(name);
        let cursor =
            async { target.find(filter).sort(sort).projection(fields).await.map_err(failed(name)) };
        Ok(Documents { cursor: self.within(name, cursor).await?, name })
    }

    async fn one(
        &self,
        name: &'static str,
        filter: Document,
        sort: Document,
        fields: Document,
    ) -> Result<Option<Document>, ReplayError> {
        let target = self.store.database().collection::<Document>(name);
        let found = async {
            target.find_one(filter).sort(sort).projection(fields).await.map_err(failed(name))
        };
        self.within(name, found).await
    }

    /// All cameras, in the order of their names.
    pub async fn cameras(&self) -> Result<Vec<CameraKey>, ReplayError> {
        let (id, name) = (doc! { "_id": 1 }, collection::CAMERAS);
        let mut found = self.find(name, doc! {}, id.clone(), id).await?;
        let mut keys = Vec::new();
        while let Some(document) = found.next().await? {
            keys.extend(document.get_str("_id").ok().and_then(|id| id.parse::<CameraKey>().ok()));
        }
        Ok(keys)
    }

    /// All epochs of a camera, in their order.
    pub async fn epochs(&self, key: &CameraKey) -> Result<Vec<EpochId>, ReplayError> {
        let filter = doc! { "device": key.device.as_str(), "camera": key.camera.as_str() };
        let mut found = self.find(collection::LEDGER, filter, doc! {}, doc! { "_id": 1 }).await?;
        let mut epochs = Vec::new();
        while let Some(document) = found.next().await? {
            let epoch = document.get_str("_id").ok().and_then(|id| id.rsplit_once('/'));
            epochs.extend(epoch.and_then(|(_, epoch)| epoch.parse::<EpochId>().ok()));
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The first and the last `seq` of an epoch that were captured in the range; none if none were. All
    /// of it where there is no range.
    pub async fn span(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        range: Range,
    ) -> Result<Option<(u64, u64)>, ReplayError> {
        let Range { from, to } = range;
        if from.is_none() && to.is_none() {
            return Ok(Some((0, u64::MAX)));
        }
        let date = |at: jiff::Timestamp| DateTime::from_millis(at.as_millisecond());
        let mut captured = doc! {};
        captured.extend(from.map(|from| ("$gte".to_owned(), Bson::from(date(from)))));
        captured.extend(to.map(|to| ("$lt".to_owned(), Bson::from(date(to)))));
        let mut filter = of_epoch(key, epoch);
        filter.extend(doc! { "kind": "observation", "captured_at": captured });
        let mut ends = [None, None];
        for (end, way) in ends.iter_mut().zip([1, -1]) {
            let sort = doc! { "device": way, "camera": way, "epoch": way, "seq": way };
            let fields = doc! { "seq": 1 };
            let found = self.one(collection::OBSERVATIONS, filter.clone(), sort, fields).await?;
            *end = found.and_then(|found| found.get_i64("seq").ok()).map(i64::unsigned_abs);
        }
        Ok(ends[0].zip(ends[1]))
    }

    /// The partition in which a camera's records lie.
    pub async fn log_of(&self, key: &CameraKey) -> Result<Option<(String, i32)>, ReplayError> {
        let filter = doc! { "_id": camera_checkpoint_id(&key.to_string()) };
        let fields = doc! { "topic": 1, "partition": 1 };
        let found = self.one(collection::CHECKPOINTS, filter, doc! {}, fields).await?;
        let place = |found: Document| {
            Some((found.get_str("topic").ok()?.to_owned(), found.get_i32("partition").ok()?))
        };
        Ok(found.and_then(place))
    }

    /// What settles the `seq` of an epoch after one, up to and with another.
    pub async fn records(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        (after, until): (u64, u64),
    ) -> Result<Records, ReplayError> {
        let mut filter = of_epoch(key, epoch);
        filter.extend(doc! {
            "kind": { "$in": ["observation", "skip", "gap"] },
            // Of gaps only those that settle something.
            "of": { "$in": [null, "observations"] },
            "seq": { "$gt": upsert::signed(after), "$lte": upsert::signed(until) },
        });
        let sort = doc! { "device": 1, "camera": 1, "epoch": 1, "seq": 1 };
        let mut fields = StoredObservation::fields();
        for field in ["kind", "late", "captured_at", "first", "last"] {
            fields.insert(field, 1);
        }
        for field in ["broker_time", "topic", "partition", "offset"] {
            fields.insert(format!("ingest.{field}"), 1);
        }
        Ok(Records(self.find(collection::OBSERVATIONS, filter, sort, fields).await?))
    }

    /// How many observations are stored beyond a `seq`.
    pub async fn beyond(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        until: u64,
    ) -> Result<u64, ReplayError> {
        let mut filter = of_epoch(key, epoch);
        filter.extend(doc! {
            "kind": "observation", "late": false, "seq": { "$gt": upsert::signed(until) },
        });
        let name = collection::OBSERVATIONS;
        let target = self.store.database().collection::<Document>(name);
        let counted = async { target.count_documents(filter).await.map_err(failed(name)) };
        self.within(name, counted).await
    }

    /// Stored tracks, by id.
    pub async fn tracks(&self, ids: &[String]) -> Result<HashMap<String, Document>, ReplayError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let filter = doc! { "_id": { "$in": ids } };
        let mut found = self.find(collection::TRACKS, filter, doc! {}, doc! {}).await?;
        let mut tracks = HashMap::new();
        while let Some(document) = found.next().await? {
            let id = document.get_str("_id").unwrap_or_default().to_owned();
            tracks.insert(id, document);
        }
        Ok(tracks)
    }

    /// The tracks of an epoch that were not replaced.
    pub async fn all_tracks(
        &self,
        key: &CameraKey,
        epoch: EpochId,
    ) -> Result<Documents, ReplayError> {
        let mut filter = of_epoch(key, epoch);
        filter.insert("state", doc! { "$ne": upsert::TrackState::Replaced.as_str() });
        let fields = doc! { "_id": 1, "final": 1 };
        self.find(collection::TRACKS, filter, doc! {}, fields).await
    }
}
