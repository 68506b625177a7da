//! Epochs of made documents, in stores of their own.

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use picket_aggregator::store::clocks::{Due, EpochClock, look_at_pictures};
use picket_aggregator::store::relations::{Relation, Stretch};
use picket_aggregator::store::{Settings, Store, encode_raw};
use picket_tests::fleet::Fleet;
use picket_wire::observation::ClockState;
use picket_wire::{CameraKey, EpochId};

use super::{RIGHT_US, WRONG_US};

/// An observation as a device sent it whose clock was never right.
pub fn stored_unsure(epoch: &str, seq: i64) -> Document {
    let mono_us = seq * 100_000;
    let said_ns = (WRONG_US + mono_us) * 1000;
    doc! {
        "_id": format!("{epoch}/{seq}"), "kind": "observation", "device": "day", "camera": "north",
        "epoch": "1-0a1b2c3d", "seq": seq, "mono_us": mono_us, "clock": "unsynchronised",
        "captured_at": DateTime::from_millis(said_ns / 1_000_000), "captured_ns": said_ns,
    }
}

/// A store in which no other program corrects anything.
pub async fn store(fleet: &Fleet, database: &str) -> Store {
    let stack = fleet.stack.settings();
    let host = stack.mongodb.uri.split_once("://").unwrap().1;
    let text = format!(
        "hosts = ['{}']\ndatabase = '{database}'\nuser = 'admin'\npassword_file = '{}'\nca_file = '{}'",
        host.split(['/', '?']).next().unwrap(),
        stack.dir.join("mongodb/admin.password").display(),
        stack.mongodb.ca.display(),
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    settings.check().unwrap();
    let store = Store::connect(&settings).await.unwrap();
    store.prepare().await.unwrap();
    store
}

/// What tells the time of all before it: first wrongly, and once the second is known, rightly.
pub fn relations() -> [Relation; 2] {
    let clock = ClockState::Synchronised;
    let wrong_us = WRONG_US + 7_000_000;
    [
        Relation { mono_us: 9_000_000, offset_us: wrong_us, clock },
        Relation { mono_us: 8_000_000, offset_us: RIGHT_US, clock },
    ]
}

/// An epoch with a clock whose owner learns of relations.
pub struct Epoch {
    pub id: String,
    pub key: CameraKey,
    epoch: EpochId,
    owner: EpochClock,
}

impl Epoch {
    pub fn new(camera: &str) -> Self {
        let key: CameraKey = camera.parse().unwrap();
        let epoch: EpochId = "1-0a1b2c3d".parse().unwrap();
        Self { id: format!("{key}/{epoch}"), key, epoch, owner: EpochClock::default() }
    }

    /// A document of this epoch at this time, of which nobody knows but the device.
    pub fn unsure(&self, seq: i64) -> Document {
        let mut document = stored_unsure(&self.id, seq);
        document.extend(doc! {
            "device": self.key.device.as_str(),
            "camera": self.key.camera.as_str(),
        });
        document
    }

    pub fn track(&self, seq: i64) -> Document {
        let mono_us = seq * 100_000;
        let said = DateTime::from_millis((WRONG_US + mono_us) / 1000);
        let mut track = self.unsure(seq);
        track.extend(doc! {
            "first_mono_us": mono_us, "last_mono_us": mono_us, "first_seen": said, "last_seen": said,
            "first_clock": "unsynchronised", "last_clock": "unsynchronised", "rev": seq,
        });
        track
    }

    /// As a batch of its partition ends that brought a clock record.
    pub async fn learn(&mut self, store: &Store, relation: Relation) {
        self.owner.learn(relation);
        let update = self.owner.take_update(&self.key, self.epoch).unwrap().unwrap();
        store.write("clocks", &[update]).await.unwrap();
    }

    /// As a batch of pictures ends.
    pub async fn pictures_came(&self, store: &Store, clock: ClockState, from_us: i64, to_us: i64) {
        let stretch = Stretch { from_us, to_us };
        let update = look_at_pictures(&self.key, self.epoch, clock, stretch);
        store.write("clocks", &[update]).await.unwrap();
    }

    /// What is set apart of it.
    pub async fn doing(&self, store: &Store, due: Due) -> Option<Stretch> {
        let clocks = store.clocks(std::slice::from_ref(&self.id)).await.unwrap();
        clocks.first()?.doing(due).map(|doing| doing.stretch)
    }

    pub async fn is_due(&self, store: &Store) -> bool {
        let due = doc! { "_id": &self.id, "due": { "$exists": true } };
        let clocks = store.database().collection::<Document>("clocks");
        clocks.find_one(due).await.unwrap().is_some()
    }

    /// Stores a record as its owner does that knows both relations already.
    pub async fn store_known(&self, store: &Store, collection: &'static str, seq: i64) {
        let right_ns = (RIGHT_US + seq * 100_000) * 1000;
        let right = DateTime::from_millis(right_ns / 1_000_000);
        let mut document = self.track(seq);
        let said = document.get_i64("captured_ns").unwrap();
        document.extend(doc! {
            "captured_at": right, "captured_ns": right_ns, "first_seen": right, "last_seen": right,
            "ingest": { "relations": 2_i64 },
            "corrected": {
                "device_captured_at": DateTime::from_millis(said / 1_000_000),
                "device_captured_ns": said, "by_clock": "synchronised",
                "device_first_seen": DateTime::from_millis(said / 1_000_000),
                "device_last_seen": DateTime::from_millis(said / 1_000_000),
            },
        });
        let document = encode_raw(collection, &document).unwrap();
        store.insert_once(collection, &[document]).await.unwrap();
    }

    /// Its documents, all of which must have their right times.
    pub async fn is_right(&self, store: &Store, wanted: usize, when: &str) {
        for (collection, field) in
            [("observations", "captured_at"), ("frames", "captured_at"), ("tracks", "last_seen")]
        {
            let documents = store.database().collection::<Document>(collection);
            let all = documents.find(doc! { "camera": self.key.camera.as_str() }).await.unwrap();
            let all: Vec<Document> = all.try_collect().await.unwrap();
            assert_eq!(all.len(), wanted, "{collection}");
            for document in all {
                let right_us = RIGHT_US + document.get_i64("seq").unwrap() * 100_000;
                let right = DateTime::from_millis(right_us / 1000);
                let stands = document.get_datetime(field).unwrap();
                assert_eq!(*stands, right, "{when}, {collection}: {document}");
            }
        }
    }
}
