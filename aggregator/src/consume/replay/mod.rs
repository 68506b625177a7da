//! Tracking of the past, again: whether what is stored is what the tracker makes of the records.
//!
//! A track depends on all that came before in its epoch, so each epoch that overlaps the range is tracked
//! from its beginning, by the run with which the centre itself tracks for good; what is compared is what
//! lies in the range, and the tracks that were seen there, to their ends. The observations come from
//! MongoDB in their order, or their contents from Kafka. What the centre has not made final, has made with
//! another tracker, or has of which the observations are gone, is named and not compared.
//!
//! It reads only: nothing is written or committed, and no group is joined. In memory are one batch of
//! documents, the ids of an epoch's tracks, and of a log what comes before its turn.

mod compare;
mod log;
mod report;
mod stored;
mod walk;

use std::time::Duration;

use jiff::Timestamp;
use picket_wire::{CameraKey, EpochId};

use super::provisional::StoredObservation;
use super::runs::{Frame, detections};
use super::settings::Settings;
use super::stored_runs::{Tracking, restored};
use crate::store::checkpoints::{RunsCheckpoint, runs_checkpoint_id};
use crate::store::documents::collection;
use crate::store::ledger::{EpochLedger, ledger_id};
use crate::store::{Store, StoreError};
use crate::track::Settings as TrackSettings;
use crate::upsert::Retention;
use compare::{Epoch, birth_of, clocks, compare};
pub use log::{Log, LogError};
pub use report::{Difference, EpochReport, Incomparable};
use stored::{Reader, Record};
use walk::{Made, Step, Walk};

/// How long one answer of MongoDB may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Tracks that are compared at a time.
const TRACKS_AT_ONCE: usize = 500;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Why a replay was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// MongoDB.
    #[error("cannot read what is stored")]
    Store(#[from] StoreError),
    /// MongoDB takes too long.
    #[error("MongoDB did not answer within {} s when it was asked for {what}", ANSWER.as_secs())]
    Slow {
        /// For what.
        what: &'static str,
    },
    /// Kafka.
    #[error("cannot read the log")]
    Log(#[from] LogError),
    /// A name that nobody here has.
    #[error("nothing is stored of {wanted}; there is {there}")]
    Unknown {
        /// As asked for.
        wanted: String,
        /// What there is instead.
        there: String,
    },
}

/// When what is compared was captured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
}

/// Reads, tracks and compares.
pub struct Replay {
    reader: Reader,
    tracking: Tracking,
    tracks_days: u32,
}

impl Replay {
    /// With the settings of the centre whose results are compared.
    pub fn new(
        store: Store,
        settings: TrackSettings,
        retention: Retention,
    ) -> Result<Self, ReplayError> {
        let tracking = Tracking::new(settings)?;
        Ok(Self { reader: Reader { store }, tracking, tracks_days: retention.tracks_days })
    }

    /// The cameras of which something is stored: all, those of a device, or one.
    pub async fn cameras(
        &self,
        device: Option<&str>,
        camera: Option<&CameraKey>,
    ) -> Result<Vec<CameraKey>, ReplayError> {
        let all = self.reader.cameras().await?;
        let is_wanted = |key: &&CameraKey| {
            device.is_none_or(|device| key.device.as_str() == device)
                && camera.is_none_or(|camera| *key == camera)
        };
        let found: Vec<CameraKey> = all.iter().filter(is_wanted).cloned().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let wanted = match (camera, device) {
            (Some(camera), _) => format!("the camera {camera}"),
            (None, Some(device)) => format!("the device {device}"),
            (None, None) => "any camera".to_owned(),
        };
        Err(ReplayError::Unknown { wanted, there: listed(&all) })
    }

    /// The epochs of a camera of which something was captured in the range, in their order.
    pub async fn epochs(&self, key: &CameraKey, range: Range) -> Result<Vec<EpochId>, ReplayError> {
        let mut epochs = Vec::new();
        for epoch in self.reader.epochs(key).await? {
            if self.reader.span(key, epoch, range).await?.is_some() {
                epochs.push(epoch);
            }
        }
        Ok(epochs)
    }

    /// The log in which a camera's records lie, as the centre last read it.
    pub async fn log(
        &self,
        settings: &Settings,
        key: &CameraKey,
        epochs: &[EpochId],
    ) -> Result<Option<Log>, ReplayError> {
        let Some(place) = self.reader.log_of(key).await? else { return Ok(None) };
        Ok(Some(Log::open(settings, key.clone(), place, epochs.iter().copied().collect())?))
    }

    /// Tracks an epoch again. Without a log, by the stored observations themselves.
    pub async fn epoch(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        range: Range,
        mut log: Option<&mut Log>,
    ) -> Result<EpochReport, ReplayError> {
        let mut report = EpochReport {
            camera: key.to_string(),
            epoch: epoch.to_string(),
            ..EpochReport::default()
        };
        let Some(span) = self.reader.span(key, epoch, range).await? else { return Ok(report) };
        let Some(past) = self.past(key, epoch, &mut report).await? else { return Ok(report) };
        let this = Epoch {
            key,
            epoch,
            relations: &past.relations,
            times_are_settled: past.times_are_settled,
            is_leaving: past.is_leaving,
        };
        let mut walk = Walk::new(self.tracking.settings.clone(), past.after);
        let mut explained = past.after;
        let mut records = self.reader.records(key, epoch, (past.after, past.until)).await?;
        let mut is_whole = true;
        while let Some(record) = records.next().await? {
            let (first, last) = record.run();
            if first > explained.saturating_add(1) {
                past.miss(explained + 1, first - 1, &mut walk, &mut report);
            }
            explained = explained.max(last);
            if let Record::Observation { observation, captured, broker_ms, is_late } = record {
                if first > span.1 && !walk.has_wanted() {
                    is_whole = false;
                    break;
                }
                if is_late {
                    report.late += 1;
                    continue;
                }
                let is_wanted = range.holds(captured);
                let step = match log.as_deref_mut() {
                    None => {
                        let found = observation.detections();
                        Some(walk.observe(&observation.frame(&found), broker_ms, is_wanted))
                    }
                    Some(log) => {
                        from_log(log, &observation, broker_ms, is_wanted, &mut walk, &mut report)?
                    }
                };
                note(step, &observation, is_wanted, &mut report);
            } else if let Record::Unreadable { seq, why } = record {
                walk.miss();
                report.cannot(seq, seq, why);
            }
            if walk.ended() >= TRACKS_AT_ONCE {
                self.compare_tracks(&this, walk.take_ended(), &mut report).await?;
            }
        }
        if is_whole {
            if past.until > explained {
                past.miss(explained + 1, past.until, &mut walk, &mut report);
            }
            walk.finish(past.is_over);
        }
        self.compare_tracks(&this, walk.take_ended(), &mut report).await?;
        self.compare_others(&this, &walk, span, &mut report).await?;
        report.tracks_not_compared += walk.cut_off();
        report.provisional = self.reader.beyond(key, epoch, past.until).await?;
        Ok(report)
    }

    /// What the centre knows of an epoch; none if nothing of it can be compared.
    async fn past(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        report: &mut EpochReport,
    ) -> Result<Option<Past>, ReplayError> {
        let id = [ledger_id(key, epoch)];
        let ledgers = self.reader.within("a ledger", self.reader.store.ledgers(&id));
        let ledger = ledgers.await?.pop().map(EpochLedger::from).unwrap_or_default();
        let clock = self.reader.within("clocks", self.reader.store.clocks(&id));
        let (relations, times_are_settled) = clocks(clock.await?.pop());
        let ids = [runs_checkpoint_id(key, epoch)];
        let found =
            self.reader.store.find_by_ids::<RunsCheckpoint>(collection::CHECKPOINTS, &ids, None);
        let checkpoint = match self.reader.within("a checkpoint", found).await {
            Ok(mut found) => found.pop(),
            Err(ReplayError::Store(error @ StoreError::Unreadable { .. })) => {
                report.cannot(1, 0, picket_service::logging::chain(&error));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(checkpoint) = checkpoint else {
            report.cannot(
                1,
                0,
                "there is no checkpoint of its tracking: nobody knows what is final",
            );
            return Ok(None);
        };
        let (runs, discarded) = restored(checkpoint, &self.tracking, 0);
        if let Some(discarded) = discarded {
            let why =
                format!("{}; --config with the settings of that time compares it", discarded.why);
            let why = if discarded.label == "settings" { why } else { discarded.why };
            report.cannot(1, 0, why);
            return Ok(None);
        }
        if let Some(after) = runs.anew_after.filter(|after| *after > 0) {
            let why =
                "a tracker of another version or of other settings, or one whose state was spoilt";
            report.cannot(1, after, why);
        }
        Ok(Some(Past {
            ledger,
            relations,
            times_are_settled,
            after: runs.anew_after.unwrap_or_default(),
            until: runs.finals.until,
            is_over: runs.is_over,
            is_leaving: runs.superseded_ms.is_some() && !runs.is_over,
        }))
    }

    async fn compare_tracks(
        &self,
        epoch: &Epoch<'_>,
        made: Vec<Made>,
        report: &mut EpochReport,
    ) -> Result<(), ReplayError> {
        let ids: Vec<String> = made.iter().map(|made| made.summary.id.to_string()).collect();
        let mut stored = self.reader.tracks(&ids).await?;
        let now_ms = Timestamp::now().as_millisecond();
        for made in made {
            let id = made.summary.id.to_string();
            let Some(stored) = stored.remove(&id) else {
                let kept_ms = i64::from(self.tracks_days) * DAY_MS;
                if made.broker_ms.saturating_add(kept_ms) < now_ms {
                    report.tracks_not_compared += 1;
                    continue;
                }
                report.tracks += 1;
                let replayed = format!("a track of {} observations", made.summary.observations);
                report.differs(vec![missing(id, "nothing".to_owned(), replayed)]);
                continue;
            };
            let (differences, goes_on) = compare(epoch, &made, &stored)?;
            report.tracks += 1;
            report.going_on += u64::from(goes_on);
            report.differs(differences);
        }
        Ok(())
    }

    /// Stored tracks that no tracker makes.
    async fn compare_others(
        &self,
        epoch: &Epoch<'_>,
        walk: &Walk,
        span: (u64, u64),
        report: &mut EpochReport,
    ) -> Result<(), ReplayError> {
        let mut stored = self.reader.all_tracks(epoch.key, epoch.epoch).await?;
        while let Some(document) = stored.next().await? {
            let id = document.get_str("_id").unwrap_or_default();
            let seq = birth_of(id).unwrap_or_default();
            let is_known = walk.knows(seq) && (span.0..=span.1).contains(&seq);
            if !is_known || walk.has_made(id) {
                continue;
            }
            if document.get_bool("final").unwrap_or_default() {
                report.tracks += 1;
                let is = "a track".to_owned();
                report.differs(vec![missing(id.to_owned(), is, "nothing".to_owned())]);
            } else {
                report.tracks_not_compared += 1;
            }
        }
        Ok(())
    }
}

impl Range {
    /// Whether something is compared. What has no time is in no range but that without an end.
    pub fn holds(&self, captured_ms: Option<i64>) -> bool {
        let (from, to) =
            (self.from.map(Timestamp::as_millisecond), self.to.map(Timestamp::as_millisecond));
        match captured_ms {
            None => from.is_none() && to.is_none(),
            Some(at) => from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to),
        }
    }
}

/// What the centre knows of an epoch.
struct Past {
    ledger: EpochLedger,
    relations: crate::store::relations::Relations,
    times_are_settled: bool,
    /// The tracker knows of nothing up to here.
    after: u64,
    /// Tracks are final up to here.
    until: u64,
    is_over: bool,
    is_leaving: bool,
}

impl Past {
    /// A stretch of which nothing is stored. What the ledger has of it was there once.
    fn miss(&self, first: u64, last: u64, walk: &mut Walk, report: &mut EpochReport) {
        let never: u64 =
            self.ledger.accounted.holes_within(first, last).iter().map(|(a, b)| b - a + 1).sum();
        let gone = (last - first + 1).saturating_sub(never);
        if gone > 0 {
            walk.miss();
            let why = format!("{gone} that the ledger has are stored no more: expired, or deleted");
            report.cannot(first, last, why);
        }
    }
}

/// Tracks what the log holds of an observation, if it does.
fn from_log(
    log: &mut Log,
    stored: &StoredObservation,
    broker_ms: i64,
    is_wanted: bool,
    walk: &mut Walk,
    report: &mut EpochReport,
) -> Result<Option<Step>, ReplayError> {
    let id = stored.id();
    let record = match id.parse() {
        Ok(id) => log.take(&id)?,
        Err(_) => None,
    };
    let Some(record) = record else {
        walk.miss();
        report.cannot(stored.seq(), stored.seq(), format!("not in the log {}", log.extent()));
        return Ok(None);
    };
    let (logged, found) = (detections(&record), stored.detections());
    let (frame, other) = (Frame::of(&record, id, &logged), stored.frame(&found));
    if is_wanted && (frame.mono_us != other.mono_us || frame.detections != other.detections) {
        report.differs(vec![Difference {
            of: "observation",
            id: id.to_owned(),
            field: if frame.mono_us == other.mono_us { "detections" } else { "mono_us" }.to_owned(),
            stored: format!("{} us, {:?}", other.mono_us, other.detections),
            replayed: format!("{} us, {:?} in the log", frame.mono_us, frame.detections),
        }]);
    }
    Ok(Some(walk.observe(&frame, broker_ms, is_wanted)))
}

/// Compares the tracks of an observation's detections.
fn note(step: Option<Step>, stored: &StoredObservation, is_wanted: bool, report: &mut EpochReport) {
    let Some(Step::Tracked(tracks)) = step else { return };
    report.observations += 1;
    if !is_wanted {
        return;
    }
    report.observations_compared += 1;
    let difference = |field: String, stored_as: String, replayed: String| Difference {
        of: "observation",
        id: stored.id().to_owned(),
        field,
        stored: stored_as,
        replayed,
    };
    let mut differences = Vec::new();
    if !stored.is_final() {
        differences.push(difference("final".to_owned(), "false".to_owned(), "true".to_owned()));
    }
    let text = |track: Option<&str>| track.unwrap_or("none").to_owned();
    for (index, (is, must)) in stored.tracks().zip(&tracks).enumerate() {
        if is != must.as_deref() {
            let field = format!("detections.{index}.track");
            differences.push(difference(field, text(is), text(must.as_deref())));
        }
    }
    report.differs(differences);
}

fn missing(id: String, stored: String, replayed: String) -> Difference {
    Difference { of: "track", id, field: "document".to_owned(), stored, replayed }
}

/// Some of many names.
fn listed(keys: &[CameraKey]) -> String {
    const MOST: usize = 20;
    let names: Vec<String> = keys.iter().take(MOST).map(ToString::to_string).collect();
    match keys.len() {
        0 => "no camera at all".to_owned(),
        n if n > MOST => format!("{} and {} more", names.join(", "), n - MOST),
        _ => names.join(", "),
    }
}
