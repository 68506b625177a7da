//! One camera: what is accounted for, where its tracker stands, and what a record changes.
//!
//! Pure: no clock, no I/O. The same records at the same offsets give the same documents, so that a
//! batch which is read again after a crash rewrites what it wrote before.
//!
//! One tracking run per camera: observations are tracked in the order of epochs (by number, then by
//! the first arrival of the instance) and of `seq`. What comes when the tracker is past it is
//! stored, marked late, and not tracked.

use std::collections::BTreeMap;

use mongodb::bson::Document;
use picket_wire::observation::{
    ClockState, EpochStart, Gap, GapOf, Observation, Reason, Skip, Stamp,
};
use picket_wire::{CameraKey, CameraRecord, EpochId};
use serde::{Deserialize, Serialize};

use crate::store::clocks::EpochClock;
use crate::store::documents::{CentreAccounts, TrackDocument, collection};
use crate::store::ledger::EpochLedger;
use crate::store::{StoreError, encode};
use crate::track::{Detection, ObservationRef, Settings as TrackSettings, TrackSummary, Tracker};
use crate::upsert::{self, CrashGap, Origin, Retention, WallTimes};

/// Most reasons that are counted by name.
const MAX_REASONS: usize = 64;
/// The name under which all others are counted.
pub const OTHER_REASON: &str = "other";

/// Where the tracker of a camera stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// In which epoch.
    pub epoch: EpochId,
    /// The last `seq` that was tracked.
    pub seq: u64,
}

/// The newest observation of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Its id.
    pub id: String,
    /// Its wall time by the device, nanoseconds since 1970.
    pub captured_ns: Option<i64>,
    /// Microseconds since the epoch's start.
    #[serde(default)]
    pub mono_us: u64,
    /// State of the device's clock; null in the state of an older build.
    #[serde(default)]
    pub clock: Option<ClockState>,
}

/// All of a camera's state that is not the tracker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where the tracker stands; null before the first record.
    pub position: Option<Position>,
    /// Instances that came with the position's epoch number, in order of arrival.
    pub instances: Vec<u32>,
    /// The newest observation.
    pub newest: Option<Newest>,
    /// Wall times of the living tracks.
    pub walls: Vec<WallTimes>,
}

/// A document of the same id that is stored already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Of the record's value.
    pub digest: String,
    /// Where it came from.
    pub topic: String,
    /// Where it came from.
    pub partition: i32,
    /// Where it came from.
    pub offset: i64,
}

impl Known {
    /// Of a record that is stored with this batch.
    pub fn new(digest: &str, origin: &Origin) -> Self {
        Self {
            digest: digest.to_owned(),
            topic: origin.topic.clone(),
            partition: origin.partition,
            offset: origin.offset,
        }
    }

    /// Whether it is the document of this very record.
    pub fn is_from(&self, origin: &Origin) -> bool {
        self.offset == origin.offset
            && self.partition == origin.partition
            && self.topic == origin.topic
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is new.
    Stored {
        /// Whether it was too late to be tracked.
        late: bool,
    },
    /// It was there already.
    Duplicate,
    /// Its id was there already, with other bytes.
    Conflict,
}

/// What a batch writes for a camera.
#[derive(Debug, Default)]
pub struct Changes {
    /// New documents for `observations`.
    pub records: Vec<Document>,
    /// Newest version of each changed track.
    pub tracks: BTreeMap<String, TrackDocument>,
    /// Tracks that end without a summary, because their tracker's state is gone.
    pub orphans: Vec<String>,
}

/// One camera.
pub struct Camera {
    pub(super) key: CameraKey,
    pub(super) place: Place,
    pub(super) tracker: Tracker,
    pub(super) accounts: CentreAccounts,
    pub(super) ledgers: BTreeMap<EpochId, EpochLedger>,
    pub(super) clocks: BTreeMap<EpochId, EpochClock>,
    /// Records of this log before this offset are part of the state.
    pub(super) next_offset: i64,
    /// Set where the stored tracker could not be taken over: its tracks end with the next record.
    pub(super) tracker_lost: bool,
    pub(super) dirty: bool,
    settings: TrackSettings,
    retention: Retention,
}

impl Camera {
    /// A camera that was never seen before.
    pub fn new(key: CameraKey, settings: TrackSettings, retention: Retention) -> Self {
        Self {
            key,
            place: Place::default(),
            tracker: Tracker::new(settings.clone()),
            accounts: CentreAccounts::default(),
            ledgers: BTreeMap::new(),
            clocks: BTreeMap::new(),
            next_offset: 0,
            tracker_lost: false,
            dirty: false,
            settings,
            retention,
        }
    }

    /// Whether the ledger already accounts for all that a record settles.
    pub fn is_accounted(&self, record: &CameraRecord) -> bool {
        let Some((first, last)) = record.settles() else { return false };
        self.ledgers
            .get(&record.id().epoch)
            .is_some_and(|l| l.accounted.holes_within(first, last).is_empty())
    }

    /// Takes a record in. The ledgers and clocks of its epoch and of the one it names as previous must
    /// be there; `known` is the stored document of its id, if there is one.
    pub fn take(
        &mut self,
        record: &CameraRecord,
        digest: &str,
        origin: &Origin,
        known: Option<&Known>,
        changes: &mut Changes,
    ) -> Result<Verdict, StoreError> {
        if let Some(verdict) = self.judge(record, digest, origin, known) {
            if verdict == Verdict::Conflict {
                self.refuse(record.id().epoch, picket_wire::dead_letter::IDENTITY_CONFLICT);
            }
            return Ok(verdict);
        }
        if self.tracker_lost {
            self.tracker_lost = false;
            changes.orphans.extend(self.place.walls.drain(..).map(|wall| wall.track));
        }
        let late = match record {
            CameraRecord::Observation(r) => self.take_observation(r, digest, origin, changes)?,
            other => {
                let ingest = origin.ingest(self.retention.observations_days);
                let relations = self.relations(other.id().epoch);
                let document = upsert::other(other, relations, digest, ingest)?;
                match other {
                    CameraRecord::Skip(r) => self.take_skip(r),
                    CameraRecord::Gap(r) => self.take_gap(r),
                    CameraRecord::Epoch(r) => {
                        self.take_epoch(other, r, digest, origin, changes)?;
                    }
                    CameraRecord::Clock(r) => self.take_clock(r),
                    _ => {}
                }
                changes.records.push(document);
                false
            }
        };
        self.dirty = true;
        self.next_offset = origin.offset.saturating_add(1);
        Ok(Verdict::Stored { late })
    }

    /// Duplicate, conflict, or neither. The ledger decides, not the stored document: after a crash
    /// the document may be there while the accounts are not, and it may have expired long before
    /// a resend of its record.
    fn judge(
        &self,
        record: &CameraRecord,
        digest: &str,
        origin: &Origin,
        known: Option<&Known>,
    ) -> Option<Verdict> {
        let accounted = self.is_accounted(record);
        match known {
            Some(known) if known.digest != digest => Some(Verdict::Conflict),
            Some(_) if accounted => Some(Verdict::Duplicate),
            // Written by the batch that is read again now, before its end was reached.
            Some(known) if known.is_from(origin) && origin.offset >= self.next_offset => None,
            Some(_) if record.settles().is_none() => Some(Verdict::Duplicate),
            Some(_) => None,
            None if accounted => Some(Verdict::Duplicate),
            None => None,
        }
    }

    /// Counts a message that is not taken.
    pub fn refuse(&mut self, epoch: EpochId, reason: &str) {
        let ledger = self.ledgers.entry(epoch).or_default();
        ledger.dirty = true;
        for accounts in [&mut ledger.accounts, &mut self.accounts] {
            add_reason(&mut accounts.refused, reason, 1);
        }
        self.dirty = true;
    }

    /// Counts a message that could not be read, under its key: which epoch it is of, nobody knows.
    /// One that is part of the state already, because its log is read anew, is not counted twice.
    pub fn refuse_unread(&mut self, origin: &Origin, reason: &str) {
        if origin.offset < self.next_offset {
            return;
        }
        add_reason(&mut self.accounts.refused, reason, 1);
        self.next_offset = origin.offset.saturating_add(1);
        self.dirty = true;
    }

    /// Takes back that a message was refused: it has come again, and is counted as what it is now.
    /// Of what could be read the epoch counts it too.
    pub fn take_back(&mut self, epoch: Option<EpochId>, reason: &str) {
        if let Some(ledger) = epoch.and_then(|epoch| self.ledgers.get_mut(&epoch)) {
            ledger.dirty |= remove_reason(&mut ledger.accounts.refused, reason);
        }
        self.dirty |= remove_reason(&mut self.accounts.refused, reason);
    }

    /// Accounts for a run. Comes after whatever of the record can fail: a record that is put aside
    /// accounts for nothing.
    fn settle(
        &mut self,
        epoch: EpochId,
        run: (u64, u64),
        count: impl Fn(&mut CentreAccounts, i64),
    ) {
        let ledger = self.ledgers.entry(epoch).or_default();
        let new = ledger.accounted.insert(run.0, run.1);
        if new > 0 {
            ledger.dirty = true;
            let new = i64::try_from(new).unwrap_or(i64::MAX);
            count(&mut ledger.accounts, new);
            count(&mut self.accounts, new);
        }
    }

    fn take_skip(&mut self, skip: &Skip) {
        self.settle(skip.id.epoch, (skip.first, skip.last), |a, n| add(&mut a.skipped, n));
    }

    fn take_gap(&mut self, gap: &Gap) {
        let reason = gap.reason.as_str();
        if gap.of == GapOf::Observations {
            self.settle(gap.id.epoch, (gap.first, gap.last), |a, n| {
                add_reason(&mut a.dropped, reason, n);
            });
            return;
        }
        let ledger = self.ledgers.entry(gap.id.epoch).or_default();
        ledger.dirty = true;
        let count = i64::try_from(gap.count).unwrap_or(i64::MAX);
        for accounts in [&mut ledger.accounts, &mut self.accounts] {
            add_reason(&mut accounts.pictures_dropped, reason, count);
        }
    }

    fn take_epoch(
        &mut self,
        record: &CameraRecord,
        start: &EpochStart,
        digest: &str,
        origin: &Origin,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        if let Some(previous) = &start.previous {
            let (first, last) = (previous.last_committed.saturating_add(1), previous.reserved);
            let ledger = self.ledgers.get(&previous.epoch);
            let holes =
                ledger.map_or(vec![(first, last)], |l| l.accounted.holes_within(first, last));
            // One for each run, so that none is told twice that came out of order before the crash.
            for (first, last) in holes.into_iter().filter(|(first, last)| first <= last) {
                let gap = CrashGap { epoch: previous.epoch, first, last };
                let ingest = origin.ingest(self.retention.observations_days);
                changes.records.push(upsert::crash_gap(record, gap, digest, &ingest)?);
            }
            self.settle(previous.epoch, (first, last), |a, n| {
                add_reason(&mut a.dropped, Reason::CRASH, n);
            });
        }
        if !self.is_past(start.id.epoch, 0) {
            self.enter(start.id.epoch, origin, changes);
        }
        Ok(())
    }

    fn take_observation(
        &mut self,
        record: &Observation,
        digest: &str,
        origin: &Origin,
        changes: &mut Changes,
    ) -> Result<bool, StoreError> {
        let (epoch, seq) = (record.id.epoch, record.id.seq);
        let late = self.is_past(epoch, seq);
        let tracks = if late {
            Vec::new()
        } else {
            self.enter(epoch, origin, changes);
            self.place.position = Some(Position { epoch, seq });
            self.track(record, origin, changes)
        };
        let ingest = origin.ingest(self.retention.observations_days);
        let relations = self.relations(epoch);
        let document = upsert::observation(record, relations, &tracks, late, digest, ingest);
        changes.records.push(encode(collection::OBSERVATIONS, &document)?);
        self.settle(epoch, (seq, seq), |a, n| add(&mut a.stored, n));
        Ok(late)
    }

    /// Whether the tracker already stands at or beyond a place.
    fn is_past(&self, epoch: EpochId, seq: u64) -> bool {
        let Some(at) = self.place.position else { return false };
        if epoch.number != at.epoch.number {
            return epoch.number < at.epoch.number;
        }
        if epoch == at.epoch {
            return seq <= at.seq;
        }
        self.place.instances.contains(&epoch.instance)
    }

    /// Moves the tracker to an epoch, unless it stands there; tracks end with their epoch.
    fn enter(&mut self, epoch: EpochId, origin: &Origin, changes: &mut Changes) {
        let before = self.place.position.map(|at| at.epoch);
        if before == Some(epoch) {
            return;
        }
        if let Some(before) = before {
            let ended = self.tracker.finish();
            self.note_tracks(ended, before, origin, changes);
            self.place.walls.clear();
        }
        // A tracker's clock is its epoch's, which begins anew.
        self.tracker = Tracker::new(self.settings.clone());
        if before.is_none_or(|before| before.number != epoch.number) {
            self.place.instances.clear();
        }
        self.place.instances.push(epoch.instance);
        self.place.position = Some(Position { epoch, seq: 0 });
    }

    fn track(
        &mut self,
        record: &Observation,
        origin: &Origin,
        changes: &mut Changes,
    ) -> Vec<Option<String>> {
        let id = record.id.to_string();
        let captured_ns = upsert::nanoseconds(record.stamp.captured_at);
        let detections: Vec<_> = record
            .detections
            .iter()
            .map(|d| Detection { box_px: d.box_px, score: d.score, class: &d.class })
            .collect();
        let outcome =
            self.tracker.observe(ObservationRef { id: &id }, record.stamp.mono_us, &detections);
        let assigned: Vec<_> =
            outcome.assigned.iter().map(|track| track.as_ref().map(ToString::to_string)).collect();
        for track in assigned.iter().flatten() {
            self.note_wall(track, captured_ns, record.stamp.clock);
        }
        let Stamp { mono_us, clock, .. } = record.stamp;
        self.place.newest = Some(Newest { id, captured_ns, mono_us, clock: Some(clock) });
        let epoch = record.id.epoch;
        let ended: Vec<_> = outcome.ended.iter().map(|t| t.id.to_string()).collect();
        self.note_tracks(outcome.updated, epoch, origin, changes);
        self.note_tracks(outcome.ended, epoch, origin, changes);
        self.place.walls.retain(|wall| !ended.contains(&wall.track));
        assigned
    }

    fn note_wall(&mut self, track: &str, captured_ns: Option<i64>, clock: ClockState) {
        match self.place.walls.iter_mut().find(|wall| wall.track == track) {
            Some(wall) => {
                wall.last_ns = captured_ns.or(wall.last_ns);
                wall.last_clock = Some(clock);
            }
            None => self.place.walls.push(WallTimes {
                track: track.to_owned(),
                first_ns: captured_ns,
                last_ns: captured_ns,
                first_clock: Some(clock),
                last_clock: Some(clock),
            }),
        }
    }

    fn note_tracks(
        &self,
        summaries: Vec<TrackSummary>,
        epoch: EpochId,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        for summary in summaries {
            let wall = self.place.walls.iter().find(|w| w.track == summary.id.as_str());
            let ingest = origin.ingest(self.retention.tracks_days);
            let relations = self.relations(epoch);
            let document = upsert::track(&summary, &self.key, epoch, wall, relations, ingest);
            changes.tracks.insert(document.id.clone(), document);
        }
    }

    /// Up to which `seq` of the tracker's epoch nothing is missing.
    pub fn complete_until(&self) -> u64 {
        let ledger = self.place.position.and_then(|at| self.ledgers.get(&at.epoch));
        ledger.map_or(0, |ledger| ledger.accounted.complete_until())
    }
}

/// Counts stop at their end: what devices claim to have dropped can be any number, in every epoch.
fn add(count: &mut i64, n: i64) {
    *count = count.saturating_add(n);
}

/// Reasons come from devices, as any word. The documents that hold them must not grow without end.
fn add_reason(counts: &mut BTreeMap<String, i64>, reason: &str, n: i64) {
    let known = counts.len() < MAX_REASONS || counts.contains_key(reason);
    let reason = if known { reason } else { OTHER_REASON };
    add(counts.entry(reason.to_owned()).or_default(), n);
}

/// Takes one away, and the reason with the last one; false if there is none.
fn remove_reason(counts: &mut BTreeMap<String, i64>, reason: &str) -> bool {
    let Some(count) = counts.get_mut(reason) else { return false };
    *count = count.saturating_sub(1);
    if *count <= 0 {
        counts.remove(reason);
    }
    true
}

#[cfg(test)]
#[path = "camera_tests.rs"]
mod tests;
