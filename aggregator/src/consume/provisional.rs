//! What was stored provisionally: observations as they are read back, the writes that make them final,
//! and the tracks that others follow. Pure.

use mongodb::bson::{Document, doc};
use picket_wire::EpochId;
use picket_wire::observation::ClockState;
use serde::Deserialize;

use super::runs::Frame;
use crate::store::bulk::Update;
use crate::store::documents::Correction;
use crate::track::Detection;
use crate::upsert::{self, TrackState};

/// A stored observation, as far as it is tracked.
#[derive(Debug, Deserialize)]
pub struct StoredObservation {
    #[serde(rename = "_id")]
    id: String,
    seq: i64,
    mono_us: i64,
    clock: ClockState,
    captured_ns: Option<i64>,
    corrected: Option<Correction>,
    detections: Vec<StoredDetection>,
    #[serde(rename = "final", default)]
    is_final: bool,
    #[serde(default)]
    ingest: StoredIngest,
}

#[derive(Debug, Default, Deserialize)]
struct StoredIngest {
    #[serde(default)]
    again: bool,
}

#[derive(Debug, Deserialize)]
struct StoredDetection {
    #[serde(rename = "box")]
    box_px: [f32; 4],
    score: f32,
    class: String,
    track: Option<String>,
}

impl StoredObservation {
    /// The fields to ask for.
    pub fn fields() -> Document {
        let mut fields = doc! {
            "seq": 1, "mono_us": 1, "clock": 1, "captured_ns": 1, "corrected": 1, "final": 1,
            "ingest.again": 1,
        };
        for field in ["box", "score", "class", "track"] {
            fields.insert(format!("detections.{field}"), 1);
        }
        fields
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its number.
    pub fn seq(&self) -> u64 {
        self.seq.unsigned_abs()
    }

    /// Whether its tracks stay.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The track of each detection.
    pub fn tracks(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.detections.iter().map(|detection| detection.track.as_deref())
    }

    /// What was found, as a tracker takes it.
    pub fn detections(&self) -> Vec<Detection<'_>> {
        let all = self.detections.iter();
        all.map(|d| Detection { box_px: d.box_px, score: d.score, class: &d.class }).collect()
    }

    /// As a tracker takes it, with its detections.
    pub fn frame<'a>(&'a self, detections: &'a [Detection<'a>]) -> Frame<'a> {
        let device_ns = |correction: &Correction| correction.device_captured_ns;
        Frame {
            id: &self.id,
            seq: self.seq.unsigned_abs(),
            mono_us: self.mono_us.unsigned_abs(),
            captured_ns: self.corrected.as_ref().map_or(self.captured_ns, device_ns),
            clock: self.clock,
            detections,
        }
    }

    /// The provisional tracks that others follow, once it has its final ones.
    pub fn replaced(&self, epoch: EpochId, assigned: &[Option<String>]) -> Vec<Replaced> {
        replaced(&self.id, epoch, assigned, |index, track| self.may_have_begun(index, track))
    }

    /// The write that gives its detections their final tracks, if they have others.
    pub fn finalised(&self, assigned: &[Option<String>]) -> Option<Update> {
        let same = self.detections.iter().map(|d| &d.track).eq(assigned);
        (!self.is_final || !same).then(|| retracked(&self.id, assigned))
    }

    /// Whether a provisional track may have begun with a detection. Of a record that was read more than
    /// once nobody knows what was made of it each time.
    fn may_have_begun(&self, index: usize, track: &str) -> bool {
        let stored = self.detections.get(index).and_then(|d| d.track.as_deref());
        self.ingest.again || stored == Some(track)
    }
}

/// The write that gives the detections of a stored observation their final tracks.
pub fn retracked(id: &str, assigned: &[Option<String>]) -> Update {
    let mut fields = doc! { "final": true };
    for (index, track) in assigned.iter().enumerate() {
        fields.insert(format!("detections.{index}.track"), track.clone());
    }
    set(id, fields)
}

/// The write that sets fields of a document.
pub fn set(id: &str, fields: Document) -> Update {
    Update { filter: doc! { "_id": id }, change: doc! { "$set": fields }.into(), upsert: false }
}

/// A provisional track that the final ones do not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Which, if there ever was one.
    pub track: String,
    /// Of which epoch.
    pub epoch: EpochId,
    /// The final track that follows it.
    pub successor: Option<String>,
}

impl Replaced {
    /// The write that points it to its successor. One that there never was is not made.
    pub fn update(&self) -> Update {
        let state = TrackState::Replaced;
        let fields = doc! {
            "state": state.as_str(), "replaced_by": self.successor.clone(), "final": true,
            "rev": upsert::revision(0, state, true),
        };
        Update {
            filter: doc! { "_id": &self.track, "final": false },
            change: doc! { "$set": fields }.into(),
            upsert: false,
        }
    }
}

/// The provisional tracks that others follow: one that began with a detection is followed by the final
/// track of that detection, or by none if it has none. `began` tells of which detections one may have
/// begun.
pub fn replaced(
    id: &str,
    epoch: EpochId,
    assigned: &[Option<String>],
    began: impl Fn(usize, &str) -> bool,
) -> Vec<Replaced> {
    let replaced = |(index, successor): (usize, &Option<String>)| {
        let track = format!("{id}#{index}");
        let is_another = successor.as_ref() != Some(&track) && began(index, &track);
        is_another.then(|| Replaced { track, epoch, successor: successor.clone() })
    };
    assigned.iter().enumerate().filter_map(replaced).collect()
}
