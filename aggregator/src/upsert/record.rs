//! Documents of the observations topic.

use mongodb::bson::{Bson, Document, doc};
use picket_wire::observation::{FrameFate, Gap, GapOf, Observation, PreviousEpoch, Reason};
use picket_wire::{CameraKey, CameraRecord, EpochId, ObservationId};

use crate::store::documents::{DetectionDocument, Ingest, ObservationDocument, collection};
use crate::store::relations::Relations;
use crate::store::{StoreError, encode};
use crate::upsert::origin::{date, pixels, signed};
use crate::upsert::times::{Time, by_what_is_known};

/// Why a gap is no more waited for.
const HORIZON: &str = "horizon";
/// Digits of its digest in a gap's id: 64 bits for the few gaps that begin at one `seq`.
const GAP_DIGITS: usize = 16;

/// Id of a record's document. An observation has its own id; the others stand beside it, because
/// they may begin at the same `seq`. Nor does a gap's first `seq` name it: what was dropped before may
/// be told again as part of a longer run (a salvage tells what neither rows nor gaps that it finds
/// account for), and the crops of one observation are dropped one by one. So its digest is part of
/// its id, and no gap is a conflict with another; which `seq` it settles, the ledger decides.
pub fn document_id(record: &CameraRecord, digest: &str) -> String {
    let id = record.id();
    match record {
        CameraRecord::Observation(_) => id.to_string(),
        CameraRecord::Gap(gap) => {
            let digest = digest.get(..GAP_DIGITS).unwrap_or(digest);
            format!("{id}~gap-{}-{digest}", gap_of(gap.of))
        }
        other => format!("{id}~{}", other.kind()),
    }
}

fn gap_of(of: GapOf) -> &'static str {
    match of {
        GapOf::Observations => "observations",
        GapOf::Frames => "frames",
        GapOf::Crops => "crops",
    }
}

/// How an observation was tracked.
#[derive(Debug, Clone, Copy)]
pub struct Tracking<'a> {
    /// The track of each detection; of a late one there are none.
    pub tracks: &'a [Option<String>],
    /// It came too late to be tracked.
    pub late: bool,
    /// Whether this stays so.
    pub is_final: bool,
}

/// An observation as a document. `relations` are those of its epoch's clocks.
pub fn observation(
    record: &Observation,
    relations: &Relations,
    tracking: &Tracking,
    digest: &str,
    ingest: Ingest,
) -> ObservationDocument {
    let time = Time::of(&record.stamp, relations);
    let detections = record.detections.iter().enumerate();
    ObservationDocument {
        id: record.id.to_string(),
        kind: "observation".to_owned(),
        device: record.id.key.device.to_string(),
        camera: record.id.key.camera.to_string(),
        epoch: record.id.epoch.to_string(),
        seq: signed(record.id.seq),
        captured_at: date(time.ns),
        captured_ns: time.ns,
        mono_us: signed(record.stamp.mono_us),
        clock: record.stamp.clock.as_str().to_owned(),
        corrected: time.corrected,
        frame_width: pixels(record.frame_width),
        frame_height: pixels(record.frame_height),
        detector: record.detector.name.clone(),
        model_sha256: record.detector.model_sha256.clone(),
        motion_score: record.motion_score,
        frame: fate(record.frame).to_owned(),
        detections: detections
            .map(|(index, detection)| DetectionDocument {
                box_px: detection.box_px,
                score: detection.score,
                class: detection.class.clone(),
                landmarks: detection.landmarks.clone(),
                quality: detection.quality,
                track: tracking.tracks.get(index).cloned().flatten(),
            })
            .collect(),
        late: tracking.late,
        is_final: tracking.is_final,
        digest: digest.to_owned(),
        classes: None,
        classified_by: None,
        ingest: by_what_is_known(ingest, &[record.stamp.clock], relations),
    }
}

fn fate(frame: FrameFate) -> &'static str {
    match frame {
        FrameFate::Published => "published",
        FrameFate::Withheld => "withheld",
        FrameFate::Possible => "possible",
    }
}

/// Any other record as a document: what they all have, and what its kind adds.
pub fn other(
    record: &CameraRecord,
    relations: &Relations,
    digest: &str,
    ingest: Ingest,
) -> Result<Document, StoreError> {
    let stamp = record.stamp();
    let relations = match record {
        // What it says of the clocks is what others are corrected by.
        CameraRecord::Clock(_) => const { &Relations::NONE },
        _ => relations,
    };
    let time = Time::of(stamp, relations);
    let ingest = by_what_is_known(ingest, &[stamp.clock], relations);
    let mut document = place(record.id());
    document.insert("_id", document_id(record, digest));
    document.insert("kind", record.kind().as_str());
    document.extend(time.fields());
    document.insert("mono_us", signed(stamp.mono_us));
    document.insert("clock", stamp.clock.as_str());
    document.extend(own_fields(record));
    document.insert("digest", digest);
    document.insert("ingest", encode(collection::OBSERVATIONS, &ingest)?);
    Ok(document)
}

fn place(id: &ObservationId) -> Document {
    doc! {
        "device": id.key.device.as_str(),
        "camera": id.key.camera.as_str(),
        "epoch": id.epoch.to_string(),
        "seq": signed(id.seq),
    }
}

fn own_fields(record: &CameraRecord) -> Document {
    match record {
        CameraRecord::Skip(r) => doc! {
            "first": signed(r.first),
            "last": signed(r.last),
            "count": signed(r.last - r.first + 1),
            "reason": r.reason.as_str(),
        },
        CameraRecord::Gap(r) => gap_fields(r),
        CameraRecord::Epoch(r) => doc! {
            "agent_version": r.agent_version.as_str(),
            "previous": r.previous.as_ref().map_or(Bson::Null, |p| previous(p).into()),
        },
        CameraRecord::Certificate(r) => doc! { "chain_pem": r.chain_pem.clone() },
        CameraRecord::Observation(_) | CameraRecord::Clock(_) => Document::new(),
    }
}

fn gap_fields(gap: &Gap) -> Document {
    doc! {
        "first": signed(gap.first),
        "last": signed(gap.last),
        "count": signed(gap.count),
        "reason": gap.reason.as_str(),
        "of": gap_of(gap.of),
    }
}

fn previous(previous: &PreviousEpoch) -> Document {
    doc! {
        "epoch": previous.epoch.to_string(),
        "last_committed": signed(previous.last_committed),
        "reserved": signed(previous.reserved),
    }
}

/// A run of an epoch that the centre takes for lost, though no gap record names it: nothing accounts
/// for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRun {
    /// Of which epoch.
    pub epoch: EpochId,
    /// The first `seq`.
    pub first: u64,
    /// The last `seq`.
    pub last: u64,
}

/// The gap that an epoch record implies, as a document in the epoch that it concerns: what a crash took
/// is at most these. Its bounds are an upper bound, so it has an id of its own and says so.
pub fn crash_gap(
    record: &CameraRecord,
    lost: LostRun,
    digest: &str,
    ingest: &Ingest,
) -> Result<Document, StoreError> {
    let mut document = lost_run(&record.id().key, lost, Reason::CRASH);
    document.insert("upper_bound", true);
    document.insert("noticed_by", record.id().to_string());
    document.insert("digest", digest);
    document.insert("ingest", encode(collection::OBSERVATIONS, ingest)?);
    Ok(document)
}

/// What was missing for longer than the horizon, as a document. It may still come, and is late then.
pub fn given_up(key: &CameraKey, lost: LostRun, ingest: &Ingest) -> Result<Document, StoreError> {
    let mut document = lost_run(key, lost, HORIZON);
    document.insert("ingest", encode(collection::OBSERVATIONS, ingest)?);
    Ok(document)
}

fn lost_run(key: &CameraKey, lost: LostRun, reason: &str) -> Document {
    let LostRun { epoch, first, last } = lost;
    let id = ObservationId { key: key.clone(), epoch, seq: first };
    let mut document = place(&id);
    document.insert("_id", format!("{id}~gap-{reason}"));
    document.insert("kind", "gap");
    document.insert("first", signed(first));
    document.insert("last", signed(last));
    document.insert("count", signed(last - first + 1));
    document.insert("reason", reason);
    document.insert("of", gap_of(GapOf::Observations));
    document
}
