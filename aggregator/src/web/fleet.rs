//! Reads the fleet from MongoDB: cameras with their newest picture, devices, books.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::Database;
use mongodb::bson::{Document, deserialize_from_document, doc};
use picket_wire::CameraKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::books::{BooksRow, BooksTable};
use super::error::WebError;
use super::views::{CameraView, DeviceView, NewestView, PictureView};
use crate::store::documents::{CameraDocument, DeviceDocument, ObservationDocument, collection};

/// Longest that a request waits for MongoDB: an operator takes an answer for lost after some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Most cameras, and most devices, that one page shows.
pub const MAX_SHOWN: i64 = 2000;

/// The fleet at one moment.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By name.
    pub cameras: Vec<CameraView>,
    /// By name.
    pub devices: Vec<DeviceView>,
    /// By name of the camera.
    pub books: BooksTable,
}

impl Fleet {
    /// The lines of the books.
    pub fn rows(&self) -> Vec<BooksRow> {
        self.books.rows()
    }
}

/// A camera with the observations that its card shows.
#[derive(Debug, Deserialize)]
struct CameraRecord {
    #[serde(flatten)]
    camera: CameraDocument,
    newest: Vec<ObservationDocument>,
    pictured: Vec<ObservationDocument>,
}

/// Waits for MongoDB, within the limit.
pub(super) async fn within_limit<T>(
    what: &'static str,
    answer: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, WebError> {
    match tokio::time::timeout(ANSWER_WITHIN, answer.into_future()).await {
        Ok(result) => result.map_err(|source| WebError::Database { what, source }),
        Err(_) => Err(WebError::DatabaseLate(what)),
    }
}

/// Decodes documents one by one: a single one that this version cannot read is logged and left out,
/// and takes no other from the page.
pub(super) fn readable<T: DeserializeOwned>(
    what: &'static str,
    documents: Vec<Document>,
) -> Vec<T> {
    let read = |document: Document| match deserialize_from_document(document) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(target: "web", what, %error, "a document cannot be read");
            None
        }
    };
    documents.into_iter().filter_map(read).collect()
}

/// Reads the whole fleet.
pub async fn read(database: &Database) -> Result<Fleet, WebError> {
    let cameras = within_limit("cameras", async {
        let cameras = database.collection::<Document>(collection::CAMERAS);
        cameras.aggregate(newest_of_each_camera()).await?.try_collect::<Vec<_>>().await
    });
    let devices = within_limit("devices", async {
        let devices = database.collection::<Document>(collection::DEVICES);
        let by_name = devices.find(doc! {}).sort(doc! { "_id": 1 }).limit(MAX_SHOWN);
        by_name.await?.try_collect::<Vec<_>>().await
    });
    let (cameras, devices) = tokio::try_join!(cameras, devices)?;
    Ok(assemble(readable("camera", cameras), &readable("device", devices)))
}

/// Cameras, each with its newest observation and the observations of its newest pictures: of more
/// than one, since the newest picture may be here before its observation.
fn newest_of_each_camera() -> Vec<Document> {
    vec![
        doc! { "$sort": { "_id": 1 } },
        doc! { "$limit": MAX_SHOWN },
        doc! { "$lookup": {
            "from": collection::FRAMES,
            "let": { "device": "$device", "camera": "$camera" },
            "pipeline": [
                { "$match": { "kind": "frame", "$expr": { "$and": [
                    { "$eq": ["$device", "$$device"] },
                    { "$eq": ["$camera", "$$camera"] },
                ] } } },
                { "$sort": { "captured_at": -1 } },
                { "$limit": 4 },
                { "$project": { "observation": 1 } },
            ],
            "as": "frames",
        } },
        doc! { "$lookup": {
            "from": collection::OBSERVATIONS,
            "localField": "frames.observation",
            "foreignField": "_id",
            "as": "pictured",
        } },
        doc! { "$lookup": {
            "from": collection::OBSERVATIONS,
            "localField": "newest_observation",
            "foreignField": "_id",
            "as": "newest",
        } },
    ]
}

/// Puts the parts together. A camera is shown from the moment that its device or the centre knows it.
fn assemble(records: Vec<CameraRecord>, devices: &[DeviceDocument]) -> Fleet {
    let mut fleet = Fleet::default();
    let mut cameras = BTreeMap::new();
    for record in records {
        let Ok(key) = record.camera.id.parse::<CameraKey>() else { continue };
        fleet.books.set_centre(&key, &record.camera.accounts);
        let mut view = CameraView::of(&record.camera, &key);
        view.newest = record.newest.first().map(NewestView::from);
        let newest_picture = record.pictured.iter().max_by_key(|o| (o.captured_ns, o.seq));
        view.picture = newest_picture.and_then(PictureView::of);
        cameras.insert(key, view);
    }
    for document in devices {
        let mut device = DeviceView::from(document);
        for (key, status) in device.cameras() {
            let as_of = device.status_at.unwrap_or(Timestamp::UNIX_EPOCH);
            fleet.books.set_device(&key, &status.books, as_of);
            let camera = cameras.entry(key.clone()).or_insert_with(|| CameraView::named(&key));
            camera.status = Some(status.clone());
        }
        let own = cameras.values().filter(|camera| camera.device == device.device);
        device.lag_ms = own.filter_map(|c| c.newest.as_ref().and_then(|n| n.lag_ms)).max();
        fleet.devices.push(device);
    }
    fleet.cameras = cameras.into_values().collect();
    fleet
}
