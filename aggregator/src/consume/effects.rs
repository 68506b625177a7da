//! A batch: what was read, and what it does, worked out before anything is written.

use mongodb::bson::{DateTime, RawDocumentBuf};
use object_store::PutPayload;
use picket_wire::{Message, Outgoing, Reject, Topic};
use serde::Deserialize;

use super::camera::Known;
use super::dead_letter::DeadLetter;
use super::kafka::Received;
use crate::store::StoreError;
use crate::store::bulk::Update;
use crate::store::checkpoints::BatchEnd;
use crate::upsert::{self, Origin};

/// Why a record is put aside that can be read and not be stored.
pub const UNSTORABLE: &str = "unstorable";

/// A record, and what it says.
pub struct Entry {
    /// As it came.
    pub record: Received,
    /// Where it came from.
    pub origin: Origin,
    /// SHA-256 of its value, hex.
    pub digest: String,
    /// What it says, or why it says nothing.
    pub message: Result<Message, Reject>,
}

impl Entry {
    /// Reads a record.
    pub fn read(topic: Topic, record: Received, origin: Origin) -> Self {
        let key = record.key.as_deref().unwrap_or_default();
        let message = picket_wire::decode(topic, key, &record.headers, record.body());
        Self { digest: upsert::digest(record.body()), origin, message, record }
    }

    /// Its kind, for metrics.
    pub fn kind(&self) -> &'static str {
        match &self.message {
            Ok(Message::Record { record, .. }) => record.kind().as_str(),
            Ok(Message::Picture { picture, .. }) if picture.crop.is_some() => "crop",
            Ok(Message::Picture { .. }) => "frame",
            Ok(Message::Status(_)) => "status",
            Err(_) => "unreadable",
        }
    }

    /// The record as a dead letter: its id is taken, by other bytes.
    pub fn conflict(self, id: &str) -> DeadLetter {
        DeadLetter {
            detail: format!("{id} is stored already, with another digest than {}", self.digest),
            record: self.record,
            reason: picket_wire::dead_letter::IDENTITY_CONFLICT,
        }
    }

    /// The record as a dead letter: it can be read and not be stored.
    pub fn unstorable(self, error: &StoreError) -> DeadLetter {
        let detail = picket_service::logging::chain(error);
        DeadLetter { record: self.record, reason: UNSTORABLE, detail }
    }
}

/// A picture on its way to the object store.
#[derive(Clone)]
pub struct Image {
    /// Where to.
    pub path: String,
    /// The JPEG. Cheap to clone.
    pub jpeg: PutPayload,
}

/// What a batch does, in the order in which it is done.
#[derive(Default)]
pub struct Effects {
    /// First: put aside what cannot be taken.
    pub dead_letters: Vec<DeadLetter>,
    /// Then: pictures, before the documents that point at them.
    pub images: Vec<Image>,
    /// Then: new documents, whose ids follow from the log, by collection.
    pub inserts: Vec<(&'static str, Vec<RawDocumentBuf>)>,
    /// Then: changes of documents, by collection.
    pub writes: Vec<(&'static str, Vec<Update>)>,
    /// Then: what others are told of tracks.
    pub told: Vec<Outgoing>,
    /// Last, in one transaction: what makes all of this count.
    pub end: BatchEnd,
    /// Records that were stored already.
    pub duplicates: u64,
    /// Observations that were too late to be tracked.
    pub late: u64,
    /// When live observations were captured, milliseconds since 1970.
    pub captured_ms: Vec<i64>,
}

impl Effects {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        let Self { dead_letters, images, inserts, writes, told, end, .. } = self;
        dead_letters.is_empty()
            && told.is_empty()
            && images.is_empty()
            && inserts.iter().all(|(_, documents)| documents.is_empty())
            && writes.iter().all(|(_, updates)| updates.is_empty())
            && end.ledger.is_empty()
            && end.checkpoints.is_empty()
            && end.cameras.is_empty()
            && end.letters.is_empty()
    }
}

/// The fields of a stored document that tell a duplicate from a conflict.
#[derive(Debug, Deserialize)]
pub struct Stored {
    #[serde(rename = "_id")]
    id: String,
    digest: String,
    ingest: Place,
}

#[derive(Debug, Deserialize)]
struct Place {
    topic: String,
    partition: i32,
    offset: i64,
    broker_time: DateTime,
}

impl Stored {
    /// The fields to ask for.
    pub fn fields() -> mongodb::bson::Document {
        mongodb::bson::doc! {
            "digest": 1, "ingest.topic": 1, "ingest.partition": 1, "ingest.offset": 1,
            "ingest.broker_time": 1,
        }
    }

    /// By id.
    pub fn known(self) -> (String, Known) {
        let Place { topic, partition, offset, broker_time } = self.ingest;
        let broker_time_ms = broker_time.timestamp_millis();
        (self.id, Known { digest: self.digest, topic, partition, offset, broker_time_ms })
    }
}
