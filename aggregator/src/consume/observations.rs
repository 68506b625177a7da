//! Partitions of the observations topic: ledger, tracker, documents.

mod ending;
mod loading;

use std::collections::HashMap;

use metrics::counter;
use picket_wire::header::{self, Kind, Lane};
use picket_wire::observation::{ClockState, GapOf, Reason};
use picket_wire::{CameraKey, CameraRecord, Message, ObservationId};

use super::camera::{Camera, Changes, Known, OTHER_REASON, Verdict};
use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry, UNSTORABLE};
use super::reading_back::{ReadBack, ReadingBack};
use super::returned::{Refused, Returned};
use super::stored_runs::Tracking;
use crate::metrics::DROPPED;
use crate::store::checkpoints::Claim;
use crate::store::{Store, StoreError};
use crate::track::Settings as TrackSettings;
use crate::upsert::{self, Origin, Retention};

/// How a partition is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// How long what is missing is waited for, milliseconds.
    pub horizon_ms: i64,
    /// Where the log ended when it was taken over: a record before it may have been written by a batch
    /// that did not end, and one from there on by nobody.
    pub reread_until: i64,
    /// The owner epoch since which it is this log.
    pub log_since: i64,
    /// Whether others are told of tracks.
    pub tells: bool,
}

/// The cameras of one partition.
pub struct Observations {
    store: Store,
    claim: Claim,
    tracking: Tracking,
    retention: Retention,
    reading: Reading,
    cameras: HashMap<CameraKey, Camera>,
    /// Whether the cameras are in memory of which time alone may change something.
    has_resumed: bool,
    reading_back: ReadingBack,
    returned: Returned,
}

impl Observations {
    /// No camera is in memory before the first batch.
    pub fn new(
        store: Store,
        claim: Claim,
        settings: TrackSettings,
        retention: Retention,
        reading: Reading,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store,
            claim,
            tracking: Tracking::new(settings)?,
            retention,
            reading,
            cameras: HashMap::new(),
            has_resumed: false,
            reading_back: ReadingBack::default(),
            returned: Returned::default(),
        })
    }

    /// Whether there is something to do without a record.
    pub fn has_work(&self) -> bool {
        !self.has_resumed || self.reading_back.has_work()
    }

    /// Takes in what was read back, then the batch in the order of the log. `last_offset` is that of the
    /// last record before it.
    pub fn apply(
        &mut self,
        entries: Vec<Entry>,
        mut known: HashMap<String, Known>,
        mut last_offset: i64,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut changes = Changes::default();
        self.track_read_back(last_offset, &mut changes);
        let last = entries.last().map(|entry| entry.origin.clone());
        for entry in entries {
            last_offset = entry.origin.offset;
            self.take(entry, &mut known, &mut effects, &mut changes)?;
        }
        // The broker's time has passed for those too of which nothing comes.
        for camera in self.cameras.values_mut().filter(|c| !c.place.open.is_empty()) {
            if let Some(last) = &last {
                camera.give_up_overdue(last, &mut changes);
            }
        }
        self.end(last_offset, changes, &mut effects)?;
        Ok(effects)
    }

    fn track_read_back(&mut self, last_offset: i64, changes: &mut Changes) {
        for ReadBack { key, epoch, stretch, observations } in self.reading_back.take() {
            let Some(camera) = self.cameras.get_mut(&key) else { continue };
            let origin = Origin {
                topic: self.claim.topic.clone(),
                partition: self.claim.partition,
                offset: last_offset,
                broker_time_ms: camera.place.seen_ms,
                stored_at_ms: jiff::Timestamp::now().as_millisecond(),
            };
            camera.read_back((epoch, stretch), &observations, &origin, changes);
        }
    }

    fn take(
        &mut self,
        entry: Entry,
        known: &mut HashMap<String, Known>,
        effects: &mut Effects,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let (lane, record) = match &entry.message {
            Ok(Message::Record { lane, record }) => (*lane, record),
            Ok(_) => return Ok(()),
            Err(reject) => {
                let reject = reject.clone();
                if let Some(camera) = camera_of(&entry).and_then(|key| self.cameras.get_mut(&key)) {
                    let reason = reject.code();
                    match self.returned.is_refused(&entry, camera, reason, effects)? {
                        Refused::New => {
                            camera.refuse_unread(&entry.origin, reason);
                            if let Some(id) =
                                observation_of(&entry).filter(|id| id.key == camera.key)
                            {
                                camera.pass_aside(&id, &entry.origin, changes);
                            }
                        }
                        Refused::Again => {
                            effects.duplicates += 1;
                            return Ok(());
                        }
                    }
                }
                effects.dead_letters.push(DeadLetter::unreadable(entry.record, &reject));
                return Ok(());
            }
        };
        let Some(camera) = self.cameras.get_mut(&record.id().key) else { return Ok(()) };
        let id = upsert::document_id(record, &entry.digest);
        let verdict = camera.take(record, &entry.digest, &entry.origin, known.get(&id), changes);
        match verdict {
            Ok(Verdict::Stored { late }) => {
                self.returned.is_taken(&entry, camera, effects)?;
                effects.late += u64::from(late);
                if let (Lane::Live, CameraRecord::Observation(observation)) = (lane, record) {
                    camera.compare_clocks(observation, &entry.origin);
                }
                count_drops(record);
                effects.captured_ms.extend(captured_live_ms(lane, record));
                known.insert(id, Known::new(&entry.digest, &entry.origin));
            }
            Ok(Verdict::Duplicate) => {
                self.returned.is_taken(&entry, camera, effects)?;
                effects.duplicates += 1;
            }
            Ok(Verdict::Conflict) => {
                // It is counted by now.
                let reason = picket_wire::dead_letter::IDENTITY_CONFLICT;
                match self.returned.is_refused(&entry, camera, reason, effects)? {
                    Refused::New => effects.dead_letters.push(entry.conflict(&id)),
                    Refused::Again => {
                        camera.take_back(Some(record.id().epoch), reason);
                        effects.duplicates += 1;
                    }
                }
            }
            Err(error) => match self.returned.is_refused(&entry, camera, UNSTORABLE, effects)? {
                Refused::New => {
                    camera.refuse_unread(&entry.origin, UNSTORABLE);
                    if let CameraRecord::Observation(observation) = record {
                        camera.pass_aside(&observation.id, &entry.origin, changes);
                    }
                    effects.dead_letters.push(entry.unstorable(&error));
                }
                Refused::Again => effects.duplicates += 1,
            },
        }
        Ok(())
    }
}

/// Which observation a record is that cannot be read, by its headers.
fn observation_of(entry: &Entry) -> Option<ObservationId> {
    let header = |name: &str| {
        let (_, value) = entry.record.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    };
    let is_observation = header(header::KIND)? == Kind::Observation.as_str();
    is_observation.then(|| header(header::ID)?.parse().ok()).flatten()
}

/// Whose a record is: of one that cannot be read, its key says so, if even that can be read.
fn camera_of(entry: &Entry) -> Option<CameraKey> {
    match &entry.message {
        Ok(Message::Record { record, .. }) => Some(record.id().key.clone()),
        Ok(_) => None,
        Err(_) => std::str::from_utf8(entry.record.key.as_deref()?).ok()?.parse().ok(),
    }
}

fn count_drops(record: &CameraRecord) {
    if let CameraRecord::Gap(gap) = record {
        // Somebody wanted nothing captured: no loss.
        if [Reason::PAUSED, Reason::SCHEDULE].contains(&gap.reason.as_str()) {
            return;
        }
        let of = match gap.of {
            GapOf::Observations => "observations",
            GapOf::Frames | GapOf::Crops => "pictures",
        };
        let reason = label(gap.reason.as_str());
        counter!(DROPPED, "of" => of, "reason" => reason).increment(gap.count);
    }
}

/// A reason as a label: a device may send any word, and a metric keeps each label for ever.
fn label(reason: &str) -> &'static str {
    let known = [
        Reason::BUDGET,
        Reason::CRASH,
        Reason::DETECTOR_BUSY,
        Reason::DETECTOR_FAILED,
        Reason::SPOOL_FULL,
        Reason::SPOOL_EXPIRED,
        Reason::SPOOL_DAMAGED,
        Reason::SPOOL_KEY_LOST,
        Reason::SPOOL_FAILED,
        Reason::TOO_LARGE,
        Reason::REFUSED_BY_BROKER,
        Reason::ENCODE_FAILED,
        Reason::REDACT_FAILED,
    ];
    known.into_iter().find(|known| *known == reason).unwrap_or(OTHER_REASON)
}

fn captured_live_ms(lane: Lane, record: &CameraRecord) -> Option<i64> {
    let CameraRecord::Observation(observation) = record else { return None };
    let stamp = &observation.stamp;
    let trusted = lane == Lane::Live && stamp.clock == ClockState::Synchronised;
    stamp.captured_at.filter(|_| trusted).map(|at| at.as_millisecond())
}
