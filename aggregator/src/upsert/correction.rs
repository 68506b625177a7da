//! Corrects what is stored, once its epoch's clocks tell when it was captured.
//!
//! Beside the log and not in it: a box that ran for a day without a time source has a million records
//! at the centre, and the other cameras of its partition must not wait for them. What is due stands in
//! the store until it is done, so that a crash or another owner costs no more than beginning anew;
//! whoever does it, and however often, writes the same.

use futures_util::TryStreamExt;
use metrics::counter;
use mongodb::bson::{Bson, DateTime, Document, doc};
use picket_service::logging::chain;
use picket_wire::observation::ClockState;
use serde::Deserialize;

use super::times::Time;
use super::track::TrackTimes;
use crate::metrics::TIMES_CORRECTED;
use crate::store::bulk::Update;
use crate::store::clocks::{ClockDocument, Relations, Stretch};
use crate::store::documents::{Correction, TrackCorrection, collection};
use crate::store::{Store, StoreError, decode, encode};

/// Documents that are looked at, and written, at a time.
const PAGE: i64 = 1000;

/// Works off what is due.
pub struct Corrector {
    store: Store,
}

/// A document as far as its time goes.
trait Timed: for<'de> Deserialize<'de> {
    /// The field that it is found by.
    const FIELD: &'static str;

    /// What makes its time right; nothing if it is.
    fn correction(&self, relations: &Relations) -> Result<Option<Update>, StoreError>;
}

/// An observation, another record of its log, or a picture.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "_id")]
    id: String,
    kind: String,
    mono_us: i64,
    clock: ClockState,
    captured_ns: Option<i64>,
    corrected: Option<Correction>,
}

impl Timed for Record {
    const FIELD: &'static str = "mono_us";

    fn correction(&self, relations: &Relations) -> Result<Option<Update>, StoreError> {
        // What a clock record says is what others are corrected by.
        if self.kind == "clock" {
            return Ok(None);
        }
        let device_ns = match &self.corrected {
            Some(corrected) => corrected.device_captured_ns,
            None => self.captured_ns,
        };
        let time = Time::told(device_ns, self.mono_us.unsigned_abs(), self.clock, relations);
        if time.ns == self.captured_ns && time.corrected == self.corrected {
            return Ok(None);
        }
        Ok(Some(Update {
            filter: doc! { "_id": &self.id },
            change: doc! { "$set": time.fields() }.into(),
            upsert: false,
        }))
    }
}

#[derive(Debug, Deserialize)]
struct Track {
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
}

impl Timed for Track {
    const FIELD: &'static str = "first_mono_us";

    fn correction(&self, relations: &Relations) -> Result<Option<Update>, StoreError> {
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
        if seen == (self.first_seen, self.last_seen) && corrected == self.corrected {
            return Ok(None);
        }
        let mut fields = doc! { "first_seen": seen.0, "last_seen": seen.1 };
        if let Some(corrected) = corrected {
            fields.insert("corrected", encode(collection::TRACKS, &corrected)?);
        }
        Ok(Some(Update {
            // A newer version was written by the camera's owner, who knows these relations.
            filter: doc! { "_id": &self.id, "rev": self.rev },
            change: doc! { "$set": fields }.into(),
            upsert: false,
        }))
    }
}

impl Corrector {
    /// Of everything in a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Works off what is due now; returns how many documents were corrected.
    pub async fn turn(&self) -> Result<u64, StoreError> {
        let mut corrected = 0;
        for clock in self.store.due_clocks().await? {
            let Some(due) = clock.due else { continue };
            let epoch =
                Epoch { relations: clock.relations.iter().copied().collect(), clock: &clock };
            let stretch = doc! { "$gte": due.from_us, "$lte": due.to_us };
            let records = doc! { "clock": { "$gt": "synchronised" }, "mono_us": stretch };
            let (observations, frames) = (collection::OBSERVATIONS, collection::FRAMES);
            let here = self.correct::<Record>(observations, &epoch, records.clone()).await?
                + self.correct::<Record>(frames, &epoch, records).await?
                + self.correct::<Track>(collection::TRACKS, &epoch, tracks(due)).await?;
            self.store.settle_clock(&clock).await?;
            if here > 0 {
                let epoch = &clock.id;
                tracing::info!(epoch, documents = here, "times of {epoch} are right by its clock");
            }
            corrected += here;
        }
        Ok(corrected)
    }

    async fn correct<T: Timed>(
        &self,
        name: &'static str,
        epoch: &Epoch<'_>,
        which: Document,
    ) -> Result<u64, StoreError> {
        let mut corrected = 0;
        let mut after = None;
        loop {
            let page = self.page(name, T::FIELD, epoch.filter(&which, T::FIELD, after)).await?;
            let mut updates = Vec::new();
            for document in &page {
                // One that this build cannot read keeps no other from its right time.
                match decode::<T>(name, document.clone()) {
                    Ok(document) => updates.extend(document.correction(&epoch.relations)?),
                    Err(e) => tracing::warn!("a time stays as it is: {}", chain(&e)),
                }
            }
            let count = updates.len() as u64;
            self.store.write(name, updates).await?;
            counter!(TIMES_CORRECTED, "collection" => name).increment(count);
            corrected += count;
            let last = page.last().filter(|_| page.len() as i64 == PAGE);
            let Some(last) = last else { return Ok(corrected) };
            after = Some((last.get(T::FIELD).cloned(), last.get("_id").cloned()));
        }
    }

    async fn page(
        &self,
        name: &'static str,
        field: &str,
        filter: Document,
    ) -> Result<Vec<Document>, StoreError> {
        let failed = |e| StoreError::Read { collection: name, source: Box::new(e) };
        let documents = self.store.database().collection::<Document>(name);
        let fields = doc! {
            "kind": 1, "rev": 1, "clock": 1, "mono_us": 1, "captured_ns": 1, "corrected": 1,
            "first_clock": 1, "first_mono_us": 1, "first_seen": 1,
            "last_clock": 1, "last_mono_us": 1, "last_seen": 1,
        };
        let found = documents.find(filter).sort(doc! { field: 1, "_id": 1 }).limit(PAGE);
        found.projection(fields).await.map_err(failed)?.try_collect().await.map_err(failed)
    }
}

/// An epoch of which something is due.
struct Epoch<'a> {
    clock: &'a ClockDocument,
    relations: Relations,
}

impl Epoch<'_> {
    /// The next page of its documents.
    fn filter(
        &self,
        which: &Document,
        field: &str,
        after: Option<(Option<Bson>, Option<Bson>)>,
    ) -> Document {
        let ClockDocument { device, camera, epoch, .. } = self.clock;
        let here = doc! { "device": device, "camera": camera, "epoch": epoch };
        let mut all = vec![here, which.clone()];
        if let Some((place, id)) = after {
            all.push(doc! { "$or": [
                { field: { "$gt": place.clone() } },
                { field: place, "_id": { "$gt": id } },
            ] });
        }
        doc! { "$and": all }
    }
}

/// Tracks of which a part lies in a stretch, and whose times the device did not know.
fn tracks(due: Stretch) -> Document {
    let unsure = doc! { "$gt": "synchronised" };
    doc! {
        "first_mono_us": { "$lte": due.to_us },
        "last_mono_us": { "$gte": due.from_us },
        "$or": [{ "first_clock": unsure.clone() }, { "last_clock": unsure }],
    }
}
