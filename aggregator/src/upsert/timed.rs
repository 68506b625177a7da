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
        let change = doc! { "$set": fields }.into();
        let update = Update { filter: document, change, upsert: false };
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
