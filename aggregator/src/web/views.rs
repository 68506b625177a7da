//! What the API and the live feed say of each thing: the documents' fields that a page needs, times
//! as RFC 3339, nothing that only the aggregator itself reads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mongodb::bson::{DateTime, deserialize_from_document};
use picket_wire::status::{CameraStatus, Status};
use picket_wire::{CameraKey, ObservationId};
use serde::Serialize;

use crate::store::classes::{Class, ClassifiedBy};
use crate::store::documents::{
    CameraDocument, DetectionDocument, DeviceDocument, FrameDocument, ObservationDocument,
    TrackDocument,
};

/// A BSON date as a timestamp; none for one that no calendar has.
pub fn timestamp(date: DateTime) -> Option<Timestamp> {
    Timestamp::from_millisecond(date.timestamp_millis()).ok()
}

fn at(date: Option<DateTime>) -> Option<Timestamp> {
    date.and_then(timestamp)
}

/// State of the clock that an observation's time goes by: the device's own, or the one that corrected
/// it since.
fn told_by(o: &ObservationDocument) -> &str {
    o.corrected.as_ref().map_or(&o.clock, |corrected| &corrected.by_clock)
}

/// A box with its track.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DetectionView {
    /// x, y, width, height; pixels of the captured frame.
    #[serde(rename = "box")]
    pub box_px: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    /// What it is.
    pub class: String,
    /// Id of its track.
    pub track: Option<String>,
}

impl From<&DetectionDocument> for DetectionView {
    fn from(d: &DetectionDocument) -> Self {
        Self { box_px: d.box_px, score: d.score, class: d.class.clone(), track: d.track.clone() }
    }
}

/// A stored picture with what was seen in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PictureView {
    /// Id of the observation, and of its picture.
    pub observation: String,
    /// Where to get the JPEG.
    pub url: String,
    /// Wall time of capture; null when the device's clock was never set.
    pub captured_at: Option<Timestamp>,
    /// When the broker received the observation.
    pub received_at: Option<Timestamp>,
    /// State of the clock that `captured_at` goes by.
    pub clock: String,
    /// Size of the captured frame, which the boxes refer to; the JPEG may be smaller.
    pub frame_width: i32,
    /// The same.
    pub frame_height: i32,
    /// In the order of the message.
    pub detections: Vec<DetectionView>,
}

impl PictureView {
    /// A picture and its observation; none where the id is not one (so no bad id gets into a URL).
    pub fn of(o: &ObservationDocument) -> Option<Self> {
        let id: ObservationId = o.id.parse().ok()?;
        Some(Self {
            url: image_url(&id),
            observation: o.id.clone(),
            captured_at: at(o.captured_at),
            received_at: timestamp(o.ingest.broker_time),
            clock: told_by(o).to_owned(),
            frame_width: o.frame_width,
            frame_height: o.frame_height,
            detections: o.detections.iter().map(Into::into).collect(),
        })
    }
}

/// Path of a picture on this server.
pub fn image_url(id: &ObservationId) -> String {
    format!("/images/{id}.jpg")
}

/// Newest observation of a camera, with or without a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewestView {
    /// Its id.
    pub id: String,
    /// Wall time of capture.
    pub captured_at: Option<Timestamp>,
    /// When the broker received it.
    pub received_at: Option<Timestamp>,
    /// State of the clock that `captured_at` goes by.
    pub clock: String,
    /// From capture to MongoDB, milliseconds; from the broker where the device's clock cannot be
    /// trusted.
    pub lag_ms: Option<i64>,
    /// How many things were seen.
    pub detections: usize,
}

impl From<&ObservationDocument> for NewestView {
    fn from(o: &ObservationDocument) -> Self {
        let stored_ms = o.ingest.stored_at.timestamp_millis();
        let trusted = o.captured_at.filter(|_| told_by(o) == "synchronised");
        let broker_time = o.ingest.broker_time;
        // A clock that is ahead of the broker's tells no time that has passed.
        let begin = trusted.filter(|captured| *captured <= broker_time).unwrap_or(broker_time);
        let begin_ms = begin.timestamp_millis();
        let lag_ms = Some(stored_ms.saturating_sub(begin_ms));
        Self {
            id: o.id.clone(),
            captured_at: at(o.captured_at),
            received_at: timestamp(o.ingest.broker_time),
            clock: told_by(o).to_owned(),
            lag_ms,
            detections: o.detections.len(),
        }
    }
}

/// A camera. Everything but the name may be missing: it is shown from the moment its device names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CameraView {
    /// `<device>/<camera>`.
    pub key: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// Epoch in which it stands.
    pub epoch: Option<String>,
    /// Up to this `seq` every id of the epoch is stored or told to be lost, and every track is final.
    pub complete_until: Option<i64>,
    /// Since when something has been missing, in any epoch.
    pub waiting_since: Option<Timestamp>,
    /// By how much the device's clock is ahead of the broker's, milliseconds; below zero it is behind.
    pub clock_ahead_ms: Option<i64>,
    /// Newest observation that was stored.
    pub newest: Option<NewestView>,
    /// Newest picture that was stored.
    pub picture: Option<PictureView>,
    /// What its device last said of it.
    pub status: Option<CameraStatus>,
}

impl CameraView {
    /// A camera of which nothing is known but its name.
    pub fn named(key: &CameraKey) -> Self {
        Self {
            key: key.to_string(),
            device: key.device.to_string(),
            camera: key.camera.to_string(),
            epoch: None,
            complete_until: None,
            waiting_since: None,
            clock_ahead_ms: None,
            newest: None,
            picture: None,
            status: None,
        }
    }

    /// A camera as the centre has it.
    pub fn of(document: &CameraDocument, key: &CameraKey) -> Self {
        Self {
            epoch: document.epoch.clone(),
            complete_until: Some(document.complete_until),
            waiting_since: at(document.waiting_since),
            clock_ahead_ms: document.clock_ahead_ms,
            ..Self::named(key)
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceView {
    /// Its name.
    pub device: String,
    /// When the broker received its newest status.
    pub status_at: Option<Timestamp>,
    /// The status; null when it cannot be read, and `problem` says why.
    pub status: Option<Status>,
    /// Why the status cannot be read.
    pub problem: Option<String>,
    /// Longest way from capture to MongoDB among its cameras' newest observations, milliseconds.
    pub lag_ms: Option<i64>,
}

impl From<&DeviceDocument> for DeviceView {
    fn from(d: &DeviceDocument) -> Self {
        let (status, problem) = match deserialize_from_document::<Status>(d.status.clone()) {
            Ok(status) => (Some(status), None),
            Err(e) => (None, Some(format!("its status cannot be read: {e}"))),
        };
        let status_at = timestamp(d.ingest.broker_time);
        Self { device: d.id.clone(), status_at, status, problem, lag_ms: None }
    }
}

impl DeviceView {
    /// Its cameras' statuses by `<device>/<camera>`.
    pub fn cameras(&self) -> BTreeMap<CameraKey, &CameraStatus> {
        let Some(status) = &self.status else { return BTreeMap::new() };
        let key = |camera: &picket_wire::CameraName| CameraKey {
            device: status.device.clone(),
            camera: camera.clone(),
        };
        status.cameras.iter().map(|(name, camera)| (key(name), camera)).collect()
    }
}

/// A track.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrackView {
    /// Track id.
    pub id: String,
    /// `<device>/<camera>`.
    pub camera: String,
    /// What it is.
    pub class: String,
    /// First seen.
    pub first_seen: Option<Timestamp>,
    /// Last seen.
    pub last_seen: Option<Timestamp>,
    /// Whether these were corrected by the device's clock records.
    pub corrected: bool,
    /// From first to last seen by the device's monotonic clock, milliseconds.
    pub duration_ms: i64,
    /// Observation of birth.
    pub first_observation: String,
    /// Last observation.
    pub last_observation: String,
    /// How many observations it was found in.
    pub observations: i64,
    /// Highest score of its detections.
    pub best_score: f32,
    /// `active`, `ended`, or `replaced`: a provisional track that the final ones do not have.
    pub state: String,
    /// Whether it stays what it is: a track that is not was made while something before it was missing.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The final track that follows a replaced one.
    pub replaced_by: Option<String>,
}

impl From<&TrackDocument> for TrackView {
    fn from(t: &TrackDocument) -> Self {
        Self {
            id: t.id.clone(),
            camera: format!("{}/{}", t.device, t.camera),
            class: t.class.clone(),
            first_seen: at(t.first_seen),
            last_seen: at(t.last_seen),
            corrected: t.corrected.is_some(),
            duration_ms: t.last_mono_us.saturating_sub(t.first_mono_us) / 1000,
            first_observation: t.first_observation.clone(),
            last_observation: t.last_observation.clone(),
            observations: t.observations,
            best_score: t.best_score,
            state: t.state.clone(),
            is_final: t.is_final,
            replaced_by: t.replaced_by.clone(),
        }
    }
}

/// An observation in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObservationView {
    /// Its id.
    pub id: String,
    /// `<device>/<camera>`.
    pub camera: String,
    /// Wall time of capture.
    pub captured_at: Option<Timestamp>,
    /// Microseconds since the epoch's start.
    pub mono_us: i64,
    /// State of the device's clock when it was captured.
    pub clock: String,
    /// Whether `captured_at` was corrected by the device's clock records.
    pub corrected: bool,
    /// Wall time of capture as the device said it.
    pub device_captured_at: Option<Timestamp>,
    /// Size of the captured frame.
    pub frame_width: i32,
    /// The same.
    pub frame_height: i32,
    /// Model that looked.
    pub detector: String,
    /// 0 to 1.
    pub motion_score: Option<f32>,
    /// `published`, `withheld` or `possible`.
    pub frame: String,
    /// In the order of the message.
    pub detections: Vec<DetectionView>,
    /// What a second look at its frame found, the surest first; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<Class>>,
    /// What gave it these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classified_by: Option<ClassifiedBy>,
    /// Came too late to be tracked.
    pub late: bool,
    /// Whether its detections keep their tracks.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// When the broker received it.
    pub received_at: Option<Timestamp>,
    /// When it was written.
    pub stored_at: Option<Timestamp>,
    /// The stored picture, where one was asked for and is there.
    pub picture: Option<StoredPicture>,
}

impl From<&ObservationDocument> for ObservationView {
    fn from(o: &ObservationDocument) -> Self {
        Self {
            id: o.id.clone(),
            camera: format!("{}/{}", o.device, o.camera),
            captured_at: at(o.captured_at),
            mono_us: o.mono_us,
            clock: o.clock.clone(),
            corrected: o.corrected.is_some(),
            device_captured_at: match &o.corrected {
                Some(corrected) => at(corrected.device_captured_at),
                None => at(o.captured_at),
            },
            frame_width: o.frame_width,
            frame_height: o.frame_height,
            detector: o.detector.clone(),
            motion_score: o.motion_score,
            frame: o.frame.clone(),
            detections: o.detections.iter().map(Into::into).collect(),
            classes: o.classes.clone(),
            classified_by: o.classified_by.clone(),
            late: o.late,
            is_final: o.is_final,
            received_at: timestamp(o.ingest.broker_time),
            stored_at: timestamp(o.ingest.stored_at),
            picture: None,
        }
    }
}

/// A stored picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredPicture {
    /// Where to get the JPEG.
    pub url: String,
    /// Pixels of the JPEG.
    pub width: i32,
    /// The same.
    pub height: i32,
    /// Its bytes.
    pub bytes: i64,
    /// What was made unrecognisable, `none` if nothing.
    pub redacted: String,
    /// SHA-256, hex.
    pub sha256: String,
}

impl StoredPicture {
    /// A picture's document.
    pub fn of(f: &FrameDocument, id: &ObservationId) -> Self {
        Self {
            url: image_url(id),
            width: f.width,
            height: f.height,
            bytes: f.bytes,
            redacted: f.redacted.clone(),
            sha256: f.digest.clone(),
        }
    }
}
