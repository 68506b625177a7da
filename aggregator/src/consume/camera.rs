//! One camera: what is accounted for, where its tracker stands, and what a record changes.
//!
//! Pure: no clock, no I/O. The same records at the same offsets give the same documents, so that a
//! batch which is read again after a crash rewrites what it wrote before.
//!
//! Each epoch has tracking runs of its own ([`super::runs`]); what a camera does with them stands in
//! [`super::tracking`].

use std::collections::BTreeMap;

use metrics::counter;
use mongodb::bson::RawDocumentBuf;
use picket_wire::observation::{ClockState, EpochStart, Gap, GapOf, Observation, Reason, Skip};
use picket_wire::{CameraKey, CameraRecord, EpochId};
use serde::{Deserialize, Serialize};

use super::provisional::Replaced;
use super::runs::{EpochRuns, Standing};
use super::tracking::Open;
use crate::metrics::{DROPPED, GIVEN_UP};
use crate::store::bulk::Update;
use crate::store::clocks::EpochClock;
use crate::store::documents::{CentreAccounts, TrackDocument, collection};
use crate::store::ledger::EpochLedger;
use crate::store::{StoreError, encode_raw};
use crate::track::Settings as TrackSettings;
use crate::upsert::{self, LostRun, Origin, Retention, Tracking};

/// Most reasons that are counted by name.
const MAX_REASONS: usize = 64;
/// The name under which all others are counted.
pub const OTHER_REASON: &str = "other";

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

/// All of a camera's state that is not an epoch's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The newest epoch; null before the first record.
    pub epoch: Option<EpochId>,
    /// The newest observation.
    pub newest: Option<Newest>,
    /// Epochs in which something is missing.
    pub open: Vec<Open>,
    /// The broker's time of the last record, milliseconds since 1970.
    pub seen_ms: i64,
    /// By how much the device's clock was ahead of the broker's when the newest observation came that
    /// was sent as it was captured.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
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
    /// When the broker appended it, milliseconds since 1970.
    pub broker_time_ms: i64,
}

impl Known {
    /// Of a record that is stored with this batch.
    pub fn new(digest: &str, origin: &Origin) -> Self {
        Self {
            digest: digest.to_owned(),
            topic: origin.topic.clone(),
            partition: origin.partition,
            offset: origin.offset,
            broker_time_ms: origin.broker_time_ms,
        }
    }

    /// Whether it is the document of this very record. In a topic that was made anew another one may
    /// stand at the same offset.
    pub fn is_from(&self, origin: &Origin) -> bool {
        self.offset == origin.offset
            && self.broker_time_ms == origin.broker_time_ms
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
    pub records: Vec<RawDocumentBuf>,
    /// Newest version of each changed track.
    pub tracks: BTreeMap<String, TrackDocument>,
    /// Tracks that end without a summary, because their tracker's state is gone.
    pub orphans: Vec<String>,
    /// Provisional tracks that are pointed to their successors.
    pub replaced: Vec<Replaced>,
    /// Stored observations that get other tracks.
    pub retracked: Vec<Update>,
}

/// One camera.
#[derive(Clone)]
pub struct Camera {
    pub(super) key: CameraKey,
    pub(super) place: Place,
    pub(super) accounts: CentreAccounts,
    pub(super) ledgers: BTreeMap<EpochId, EpochLedger>,
    pub(super) clocks: BTreeMap<EpochId, EpochClock>,
    pub(super) runs: BTreeMap<EpochId, EpochRuns>,
    /// Records of this log before this offset are part of the state.
    pub(super) next_offset: i64,
    /// Tracks of trackers whose stored state could not be taken over: they end with the next record.
    pub(super) orphans: Vec<String>,
    pub(super) dirty: bool,
    pub(super) settings: TrackSettings,
    pub(super) retention: Retention,
    /// How long what is missing is waited for, milliseconds.
    pub(super) horizon_ms: i64,
    /// What others were told last: up to where an epoch is complete, and since when the camera has waited.
    pub(super) told: BTreeMap<EpochId, (u64, Option<i64>)>,
}

impl Camera {
    /// A camera that was never seen before.
    pub fn new(
        key: CameraKey,
        settings: TrackSettings,
        retention: Retention,
        horizon_ms: i64,
    ) -> Self {
        Self {
            key,
            place: Place::default(),
            accounts: CentreAccounts::default(),
            ledgers: BTreeMap::new(),
            clocks: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_offset: 0,
            orphans: Vec::new(),
            dirty: false,
            settings,
            retention,
            horizon_ms,
            told: BTreeMap::new(),
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
        changes.orphans.append(&mut self.orphans);
        self.place.seen_ms = self.place.seen_ms.max(origin.broker_time_ms);
        self.give_up_overdue(origin, changes);
        let late = match record {
            CameraRecord::Observation(r) => {
                self.take_observation(r, digest, known.is_some(), origin, changes)?
            }
            other => {
                let ingest = origin.ingest(self.retention.observations_days);
                let relations = self.relations(other.id().epoch);
                let document = upsert::other(other, relations, digest, ingest)?;
                let document = encode_raw(collection::OBSERVATIONS, &document)?;
                match other {
                    CameraRecord::Skip(r) => self.take_skip(r, origin, changes),
                    CameraRecord::Gap(r) => self.take_gap(r, origin, changes),
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
        is_observed: bool,
        (origin, changes): (&Origin, &mut Changes),
        count: impl Fn(&mut CentreAccounts, i64),
    ) {
        let ledger = self.ledgers.entry(epoch).or_default();
        let top = ledger.accounted.last().unwrap_or_default();
        // What of it is stored already may have to be tracked.
        let holes = ledger.accounted.holes_within(run.0, run.1);
        let new = ledger.accounted.insert(run.0, run.1);
        if new == 0 {
            return;
        }
        ledger.dirty = true;
        let new = i64::try_from(new).unwrap_or(i64::MAX);
        let back = i64::try_from(ledger.given_up.remove(run.0, run.1)).unwrap_or(i64::MAX);
        for accounts in [&mut ledger.accounts, &mut self.accounts] {
            count(accounts, new);
            accounts.given_up = accounts.given_up.saturating_sub(back).max(0);
        }
        let new = || EpochRuns::new(self.settings.clone());
        let runs = self.runs.entry(epoch).or_insert_with(new);
        runs.notice(run.0, top, &ledger.accounted, origin.broker_time_ms);
        if !is_observed {
            holes.into_iter().for_each(|(first, last)| runs.pass(first, last));
        }
        self.bound_ledger(epoch);
        self.move_on(epoch, origin, changes);
    }

    /// Whatever never comes or is refused, a ledger stays far below what a document may have: of too many
    /// holes the oldest is closed. It stays counted, as given up or refused; what comes of it after all
    /// counts as known.
    fn bound_ledger(&mut self, epoch: EpochId) {
        let oldest = |camera: &Self| camera.ledgers.get(&epoch)?.excess_hole();
        while let Some((first, last)) = oldest(self) {
            // What it is past was counted when it was given up or refused.
            let pending = first.max(self.runs_of(epoch).finals.until.saturating_add(1));
            if pending <= last {
                self.count_given_up(epoch, (pending, last));
            }
            let ledger = self.ledgers.entry(epoch).or_default();
            ledger.accounted.insert(first, last);
            ledger.given_up.remove(first, last);
            self.runs_of(epoch).pass(first, last);
        }
    }

    fn take_skip(&mut self, skip: &Skip, origin: &Origin, changes: &mut Changes) {
        let (epoch, run) = (skip.id.epoch, (skip.first, skip.last));
        self.settle(epoch, run, false, (origin, changes), |a, n| add(&mut a.skipped, n));
    }

    fn take_gap(&mut self, gap: &Gap, origin: &Origin, changes: &mut Changes) {
        let reason = gap.reason.as_str();
        if gap.of == GapOf::Observations {
            let (epoch, run) = (gap.id.epoch, (gap.first, gap.last));
            self.settle(epoch, run, false, (origin, changes), |a, n| {
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
                let gap = LostRun { epoch: previous.epoch, first, last };
                let ingest = origin.ingest(self.retention.observations_days);
                let gap = upsert::crash_gap(record, gap, digest, &ingest)?;
                changes.records.push(encode_raw(collection::OBSERVATIONS, &gap)?);
                counter!(DROPPED, "of" => "observations", "reason" => Reason::CRASH)
                    .increment(last - first + 1);
            }
            self.settle(previous.epoch, (first, last), false, (origin, changes), |a, n| {
                add_reason(&mut a.dropped, Reason::CRASH, n);
            });
            let end = previous.last_committed.max(previous.reserved);
            self.end_epoch(previous.epoch, end, origin, changes);
        }
        self.begin_epoch(start, origin, changes);
        Ok(())
    }

    fn take_observation(
        &mut self,
        record: &Observation,
        digest: &str,
        is_known: bool,
        origin: &Origin,
        changes: &mut Changes,
    ) -> Result<bool, StoreError> {
        let (epoch, seq) = (record.id.epoch, record.id.seq);
        let (tracks, standing) = self.observe(record, is_known, origin, changes);
        let ingest = origin.ingest(self.retention.observations_days);
        let relations = self.relations(epoch);
        let late = standing == Standing::Late;
        let tracking = Tracking { tracks: &tracks, late, is_final: standing != Standing::Ahead };
        let document = upsert::observation(record, relations, &tracking, digest, ingest);
        changes.records.push(encode_raw(collection::OBSERVATIONS, &document)?);
        self.settle(epoch, (seq, seq), true, (origin, changes), |a, n| {
            add(&mut a.stored, n);
            if late {
                add(&mut a.late, n);
            }
        });
        Ok(late)
    }

    /// Counts what is not waited for any more, but for what was refused: that is counted as such.
    pub(super) fn count_given_up(&mut self, epoch: EpochId, (first, last): (u64, u64)) {
        let runs = self.runs.get(&epoch);
        let missing = runs.map_or(vec![(first, last)], |r| r.aside.holes_within(first, last));
        let ledger = self.ledgers.entry(epoch).or_default();
        let new =
            missing.into_iter().map(|(first, last)| ledger.given_up.insert(first, last)).sum();
        ledger.dirty = true;
        counter!(GIVEN_UP).increment(new);
        let new = i64::try_from(new).unwrap_or(i64::MAX);
        for accounts in [&mut ledger.accounts, &mut self.accounts] {
            add(&mut accounts.given_up, new);
        }
        self.dirty = true;
    }

    /// Compares the device's clock with the broker's, by an observation that was sent as it was captured.
    pub fn compare_clocks(&mut self, observation: &Observation, origin: &Origin) {
        let captured = observation.stamp.captured_at.map(|at| at.as_millisecond());
        self.place.clock_ahead_ms = captured.map(|ms| ms.saturating_sub(origin.broker_time_ms));
        self.dirty = true;
    }

    /// Up to which `seq` of the newest epoch all is accounted for and tracks are final.
    pub fn complete_until(&self) -> u64 {
        let runs = self.place.epoch.and_then(|epoch| self.runs.get(&epoch));
        runs.map_or(0, |runs| runs.finals.until)
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
