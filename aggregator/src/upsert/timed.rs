//! What makes the time of a stored document right. Pure.
//!
//! Two instances may correct one epoch at once, and one of them may stand still at any point and go on
//! long after, by relations of its clocks that are not all any more. So each document says by how many
//! relations it was last looked at, those that are stored with their right time too, and a write names
//! the number that it goes by: it changes nothing where more were known.

use mongodb::bson::{DateTime, Document, doc};
use picket_wire::observation::ClockState;
use serde::Deserialize;

use super::times::Time;
use super::track::TrackTimes;
use crate::store::bulk::Update;
use crate::store::documents::{Correction, TrackCorrection, collection};
use crate::store::relations::Relations;
use crate::store::{StoreError, encode};

/// A document as far as its time goes.
pub trait Timed: for<'de> Deserialize<'de> {
    /// The field that it is found by.
    const FIELD: &'static str;

    /// What is to be written; nothing if its time is right, and nobody who knows less could think
    /// otherwise.
    fn correction(&self, relations: &Relations) -> Result<Option<Amendment>, StoreError>;
}

/// A write of a time.
#[derive(Debug, PartialEq)]
pub struct Amendment {
    /// The write.
    pub update: Update,
    /// Whether the time becomes another one, or only stays what it is for those who know less.
    pub is_other_time: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Ingested {
    relations: Option<i64>,
}

/// A document beside what its epoch's relations tell of it.
struct Found {
    /// By how many relations it was last looked at.
    by: Option<i64>,
    /// Whether its time is what these relations tell.
    is_right: bool,
    /// Whether they tell it, rather than the device. If they do not, no part of them does.
    is_told: bool,
}

impl Found {
    fn amended(
        &self,
        mut document: Document,
        mut fields: Document,
        relations: &Relations,
    ) -> Option<Amendment> {
        let known = relations.count();
        let others_know_more = self.by.is_some_and(|by| by > known);
        let is_settled = self.is_right && (self.by == Some(known) || !self.is_told);
        if others_know_more || is_settled {
            return None;
        }
        document.insert("ingest.relations", doc! { "$not": { "$gt": known } });
        fields.insert("ingest.relations", known);
        let mut change = doc! { "$set": fields };
        if !self.is_told {
            change.insert("$unset", doc! { "corrected": "" });
        }
        let update = Update { filter: document, change: change.into(), upsert: false };
        Some(Amendment { update, is_other_time: !self.is_right })
    }
}

/// An observation, another record of its log, or a picture.
#[derive(Debug, Deserialize)]
pub struct Record {
    #[serde(rename = "_id")]
    id: String,
    kind: String,
    mono_us: i64,
    clock: ClockState,
    captured_ns: Option<i64>,
    corrected: Option<Correction>,
    #[serde(default)]
    ingest: Ingested,
}

impl Timed for Record {
    const FIELD: &'static str = "mono_us";

    fn correction(&self, relations: &Relations) -> Result<Option<Amendment>, StoreError> {
        // What a clock record says is what others are corrected by.
        if self.kind == "clock" {
            return Ok(None);
        }
        let device_ns = match &self.corrected {
            Some(corrected) => corrected.device_captured_ns,
            None => self.captured_ns,
        };
        let time = Time::told(device_ns, self.mono_us.unsigned_abs(), self.clock, relations);
        let found = Found {
            by: self.ingest.relations,
            is_right: time.ns == self.captured_ns && time.corrected == self.corrected,
            is_told: time.corrected.is_some(),
        };
        Ok(found.amended(doc! { "_id": &self.id }, time.fields(), relations))
    }
}

/// A track.
#[derive(Debug, Deserialize)]
pub struct Track {
    #[serde(rename = "_id")]
    id: String,
    first_mono_us: i64,
    last_mono_us: i64,
    first_clock: Option<ClockState>,
    last_clock: Option<ClockState>,
    first_seen: Option<DateTime>,
    last_seen: Option<DateTime>,
    corrected: Option<TrackCorrection>,
    rev: i64,
    #[serde(default)]
    ingest: Ingested,
}

impl Timed for Track {
    /// A relation tells other times of what comes close before it, or after it until the next: of a long
    /// epoch's tracks these are few by when they were last seen, and nearly all by when they began.
    const FIELD: &'static str = "last_mono_us";

    fn correction(&self, relations: &Relations) -> Result<Option<Amendment>, StoreError> {
        let (first, last) = match &self.corrected {
            Some(corrected) => (corrected.device_first_seen, corrected.device_last_seen),
            None => (self.first_seen, self.last_seen),
        };
        let ns = |date: Option<DateTime>| date?.timestamp_millis().checked_mul(1_000_000);
        let device = (ns(first), ns(last));
        let mono_us = (self.first_mono_us.unsigned_abs(), self.last_mono_us.unsigned_abs());
        let clocks = (self.first_clock, self.last_clock);
        let times = TrackTimes::told(device, mono_us, clocks, relations);
        let seen = (super::date(times.first.ns), super::date(times.last.ns));
        let corrected = times.correction(device);
        let found = Found {
            by: self.ingest.relations,
            is_right: seen == (self.first_seen, self.last_seen) && corrected == self.corrected,
            is_told: corrected.is_some(),
        };
        let mut fields = doc! { "first_seen": seen.0, "last_seen": seen.1 };
        if let Some(corrected) = corrected {
            fields.insert("corrected", encode(collection::TRACKS, &corrected)?);
        }
        // A newer version was written by the camera's owner, who knows these relations.
        let document = doc! { "_id": &self.id, "rev": self.rev };
        Ok(found.amended(document, fields, relations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::decode;
    use crate::store::relations::Relation;

    #[test]
    fn a_time_that_its_clock_tells_no_more_is_the_devices_again_and_is_then_right() {
        let at = |offset_us| -> Relations {
            let clock = ClockState::Synchronised;
            [Relation { mono_us: 9_000_000, offset_us, clock }].into_iter().collect()
        };
        let said = DateTime::from_millis(1_708_300_800_000);
        let document = doc! {
            "_id": "gate/north/1-0a1b2c3d/5", "kind": "frame", "mono_us": 5_000_000_i64,
            "clock": "unsynchronised", "captured_ns": 1_708_300_800_000_000_000_i64,
        };
        let track = doc! {
            "_id": "gate/north/1-0a1b2c3d/5#0", "rev": 7_i64,
            "first_mono_us": 5_000_000_i64, "last_mono_us": 5_000_000_i64,
            "first_clock": "unsynchronised", "last_clock": "unsynchronised",
            "first_seen": said, "last_seen": said,
        };
        // Another one that comes later, and of a year that nothing counts in nanoseconds.
        let (told, beyond) = (at(1_777_627_800_000_000), at(32_503_680_000_000_000));
        is_undone::<Record>(document, &told, &beyond);
        is_undone::<Track>(track, &told, &beyond);
    }

    fn is_undone<T: Timed>(document: Document, told: &Relations, beyond: &Relations) {
        let corrected = amended::<T>(document.clone(), told).unwrap();
        assert!(corrected.contains_key("corrected"), "{corrected}");
        let mut undone = amended::<T>(corrected, beyond).unwrap();
        assert_eq!(amended::<T>(undone.clone(), beyond), None, "{undone}");
        undone.remove("ingest");
        let seen = |document: &Document| {
            ["captured_ns", "first_seen", "last_seen", "corrected"]
                .map(|field| document.get(field).cloned())
        };
        assert_eq!(seen(&undone), seen(&document));
    }

    /// The document after its amendment, if it has one.
    fn amended<T: Timed>(mut document: Document, relations: &Relations) -> Option<Document> {
        let found: T = decode("frames", document.clone()).unwrap();
        let change = found.correction(relations).unwrap()?.update.change;
        let change = change.as_document().unwrap();
        for (field, value) in change.get_document("$set").unwrap() {
            match field.split_once('.') {
                Some((outer, inner)) => document.insert(outer, doc! { inner: value }),
                None => document.insert(field, value),
            };
        }
        for field in change.get_document("$unset").into_iter().flat_map(Document::keys) {
            document.remove(field);
        }
        Some(document)
    }
}
