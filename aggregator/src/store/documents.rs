//! The documents of each collection. Times stand twice: a BSON date for people (milliseconds) and
//! an int64 of nanoseconds since 1970 beside it. What may differ between two runs over the same log
//! stands in `ingest` alone.

use std::collections::BTreeMap;

use mongodb::bson::{DateTime, Document};
use picket_wire::observation::Quality;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classes::{Class, ClassifiedBy};
use super::schema::Date;

/// Names of the collections.
pub mod collection {
    /// Observations, and the other records of the same log (told apart by `kind`).
    pub const OBSERVATIONS: &str = "observations";
    /// One summary per track.
    pub const TRACKS: &str = "tracks";
    /// One document per stored picture.
    pub const FRAMES: &str = "frames";
    /// One document per device: its newest status.
    pub const DEVICES: &str = "devices";
    /// One document per camera: its newest observation and frame, its accounts.
    pub const CAMERAS: &str = "cameras";
    /// Where to resume.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// Which `seq` are accounted for.
    pub const LEDGER: &str = "ledger";
    /// What each epoch's clock records say.
    pub const CLOCKS: &str = "clocks";
    /// What became of dead letters that somebody dealt with.
    pub const DEAD_LETTERS: &str = "dead_letters";
    /// What a second look found in frames whose observation is not there yet.
    pub const UNCLAIMED_CLASSES: &str = "unclaimed_classes";
    /// Which form the documents have.
    pub const SCHEMA: &str = "schema";
}

/// How a document came here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ingest {
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// When the broker appended the record.
    #[schemars(with = "Date")]
    pub broker_time: DateTime,
    /// When the aggregator wrote the document.
    #[schemars(with = "Date")]
    pub stored_at: DateTime,
    /// When MongoDB may delete it: broker time + retention.
    #[schemars(with = "Date")]
    pub expire_at: DateTime,
    /// How many relations of the epoch's clocks were known when the document's wall times were last
    /// looked at; absent if none was, or the device knew the time. Who knows fewer changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relations: Option<i64>,
    /// Whether the record was read again while something before it was missing, because its batch had
    /// not come to its end; absent if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<bool>,
}

/// What the device said of a time that follows from its clock records instead, because its clock was
/// not kept by a time source when the record was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Correction {
    /// Wall time by the device; null where its clock was never set.
    #[schemars(with = "Option<Date>")]
    pub device_captured_at: Option<DateTime>,
    /// The same in nanoseconds since 1970.
    pub device_captured_ns: Option<i64>,
    /// State of the device's clock when it told the relation that the time follows from.
    pub by_clock: String,
}

/// The same of a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrackCorrection {
    /// First seen, by the device.
    #[schemars(with = "Option<Date>")]
    pub device_first_seen: Option<DateTime>,
    /// Last seen, by the device.
    #[schemars(with = "Option<Date>")]
    pub device_last_seen: Option<DateTime>,
}

/// A detection, with the track it belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectionDocument {
    /// x, y, width, height; pixels of the captured frame.
    #[serde(rename = "box")]
    pub box_px: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    /// What it is.
    pub class: String,
    /// x, y in pixels of the captured frame.
    pub landmarks: Vec<[f32; 2]>,
    /// How useful its picture is.
    pub quality: Option<Quality>,
    /// Id of its track.
    pub track: Option<String>,
}

/// An observation. `_id` is the observation's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservationDocument {
    /// `<device>/<camera>/<epoch>-<instance>/<seq>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// Always `observation`; the other records of the log have their own kind, and an `_id` of
    /// `<id>~<kind>` (`~skip`, `~epoch`, `~clock`), or of `<id>~gap-observations-<digest>`,
    /// `~gap-frames-<digest>`, `~gap-crops-<digest>`: several gaps may begin at one `seq`.
    pub kind: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// `<epoch>-<instance>`.
    pub epoch: String,
    /// Number of the frame in its epoch.
    pub seq: i64,
    /// Wall time of capture.
    #[schemars(with = "Option<Date>")]
    pub captured_at: Option<DateTime>,
    /// The same in nanoseconds since 1970.
    pub captured_ns: Option<i64>,
    /// Microseconds since the epoch's start.
    pub mono_us: i64,
    /// State of the device's wall clock when it was captured.
    pub clock: String,
    /// Present where the wall time is not what the device said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Correction>,
    /// Pixels.
    pub frame_width: i32,
    /// Pixels.
    pub frame_height: i32,
    /// Name of the model.
    pub detector: String,
    /// Its SHA-256, hex.
    pub model_sha256: String,
    /// 0 to 1.
    pub motion_score: Option<f32>,
    /// `published`, `withheld` or `possible`.
    pub frame: String,
    /// In the order of the message.
    pub detections: Vec<DetectionDocument>,
    /// Came too late to be tracked.
    pub late: bool,
    /// Whether its detections keep their tracks: false while something before it is missing.
    #[serde(rename = "final", default)]
    pub is_final: bool,
    /// SHA-256 of the message's value, hex: the same id with another digest is a conflict.
    pub digest: String,
    /// What a second look at its frame found, the surest first; absent where there was none. It follows
    /// from the frame and a model, not from the log of observations: comparisons leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<Class>>,
    /// What gave it these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classified_by: Option<ClassifiedBy>,
    /// How it came here.
    pub ingest: Ingest,
}

/// Summary of a track; bounded in size. `_id` is the track's id: the observation of birth, `#`, the
/// index of the detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrackDocument {
    /// Track id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// `<epoch>-<instance>`.
    pub epoch: String,
    /// What it is.
    pub class: String,
    /// First seen, wall time.
    #[schemars(with = "Option<Date>")]
    pub first_seen: Option<DateTime>,
    /// First seen, microseconds since the epoch's start.
    pub first_mono_us: i64,
    /// Last seen, wall time.
    #[schemars(with = "Option<Date>")]
    pub last_seen: Option<DateTime>,
    /// Last seen, microseconds since the epoch's start.
    pub last_mono_us: i64,
    /// State of the device's wall clock when it was first seen.
    #[serde(default)]
    pub first_clock: Option<String>,
    /// State of the device's wall clock when it was last seen.
    #[serde(default)]
    pub last_clock: Option<String>,
    /// Present where the wall times are not what the device said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<TrackCorrection>,
    /// Observation of birth.
    pub first_observation: String,
    /// Last observation.
    pub last_observation: String,
    /// How many observations it was found in.
    pub observations: i64,
    /// Highest score of its detections.
    pub best_score: f32,
    /// Last box: x, y, width, height in pixels of the captured frame.
    pub last_box: [f32; 4],
    /// `active`, `ended`, or `replaced`: a provisional track that the final ones do not have.
    pub state: String,
    /// Whether it is of a run over all that came before it: no crash, outage or order of arrival makes
    /// it another one. What is not may be replaced.
    #[serde(rename = "final", default)]
    pub is_final: bool,
    /// The final track of the detection with which a replaced one began; null if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// Number of this version (`upsert::revision`); the higher one stands. It follows from `observations`,
    /// `state` and `final`: a provisional version never takes the place of a final one.
    pub rev: i64,
    /// How it came here.
    pub ingest: Ingest,
}

impl TrackDocument {
    /// Of two versions the one with the higher of these stands. With one `rev` they differ in what was
    /// known of the clocks: a former owner that wakes up knows less than the corrections by now.
    pub const ORDER: [&str; 2] = ["rev", "ingest.relations"];
}

/// A stored picture. `_id` is the id of its observation, or `<observation>#<index>` for a crop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameDocument {
    /// Picture id.
    #[serde(rename = "_id")]
    pub id: String,
    /// `frame` or `crop`.
    pub kind: String,
    /// Id of its observation.
    pub observation: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// Wall time of capture.
    #[schemars(with = "Option<Date>")]
    pub captured_at: Option<DateTime>,
    /// The same in nanoseconds since 1970.
    pub captured_ns: Option<i64>,
    /// `<epoch>-<instance>`.
    #[serde(default)]
    pub epoch: String,
    /// Microseconds since the epoch's start.
    pub mono_us: i64,
    /// State of the device's wall clock when it was captured.
    #[serde(default)]
    pub clock: String,
    /// Present where the wall time is not what the device said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Correction>,
    /// Pixels of the picture.
    pub width: i32,
    /// Pixels of the picture.
    pub height: i32,
    /// What was made unrecognisable, `none` if nothing.
    pub redacted: String,
    /// Path in the object store.
    pub path: String,
    /// Bytes of the JPEG.
    pub bytes: i64,
    /// SHA-256 of the JPEG, hex.
    pub digest: String,
    /// How it came here.
    pub ingest: Ingest,
}

/// The newest status of a device. `_id` is the device's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceDocument {
    /// Device.
    #[serde(rename = "_id")]
    pub id: String,
    /// The status message's body, as it came (`picket_wire::status::Status`).
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub status: Document,
    /// How it came here; the higher `broker_time` stands.
    pub ingest: Ingest,
}

/// A camera as the centre sees it. `_id` is `<device>/<camera>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraDocument {
    /// `<device>/<camera>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// Id of the newest observation that was stored.
    pub newest_observation: Option<String>,
    /// Its wall time.
    #[schemars(with = "Option<Date>")]
    pub newest_captured_at: Option<DateTime>,
    /// Epoch in which it stands.
    pub epoch: Option<String>,
    /// Highest `seq` of the epoch up to which every id is stored or told to be lost, and every track is
    /// final.
    pub complete_until: i64,
    /// Since when something has been missing, in any epoch, by the broker's time.
    #[schemars(with = "Option<Date>")]
    pub waiting_since: Option<DateTime>,
    /// By how much the device's clock was ahead of the broker's at the newest observation that was sent
    /// as it was captured, milliseconds. Below zero it was behind, or the observation was on its way. Null
    /// where the device told no time.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// What the centre has of this camera, over all epochs.
    pub accounts: CentreAccounts,
    /// Offset of the record that caused this version. It begins anew with the topic.
    pub rev: i64,
}

/// What the centre has of a camera, in frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CentreAccounts {
    /// Stored observations.
    pub stored: i64,
    /// Of the stored, those that came after they had been given up or put aside: no track has them.
    #[serde(default)]
    pub late: i64,
    /// In skip records.
    pub skipped: i64,
    /// In gap records of observations, by reason.
    pub dropped: BTreeMap<String, i64>,
    /// In gap records of frames and of crops, by reason.
    pub pictures_dropped: BTreeMap<String, i64>,
    /// Not taken: unreadable, in conflict; by reason.
    pub refused: BTreeMap<String, i64>,
    /// Missing for longer than `consume.horizon_hours`, and nobody has told why: given up, unless they
    /// come after all.
    #[serde(default)]
    pub given_up: i64,
}

/// Which `seq` of one epoch of one camera are accounted for. `_id` is
/// `<device>/<camera>/<epoch>-<instance>`. Kept for ever: it is what makes a resend harmless.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerDocument {
    /// Epoch of a camera.
    #[serde(rename = "_id")]
    pub id: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// Ranges of `seq`, both ends included, sorted, apart from each other.
    pub accounted: Vec<[i64; 2]>,
    /// The same of what was given up, and is not accounted for.
    #[serde(default)]
    pub given_up: Vec<[i64; 2]>,
    /// Totals of this epoch.
    pub accounts: CentreAccounts,
}
