//! What waits in memory for the next commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_wire::observation::{FrameFate, Observation, Reason, Skip, Stamp};
use picket_wire::{
    CameraKey, CameraRecord, DeviceName, EpochId, Kind, ObservationId, Picture, Topic,
};

use super::record::{Dropped, Row, RowId, push_dropped};
use super::settings::Settings;
use crate::capture::SourcePosition;
use crate::detect::Observed;

/// Entries of rows that were offered: some hundred bytes each.
const MOST_OFFERED: usize = 8192;
/// How long what needs no commit of its own waits for one.
const LONGEST_COMPANY: Duration = Duration::from_secs(10);

/// One thing to write, in the order in which it came.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A record or a picture.
    Row(Row),
    /// One that was offered to the uplink already.
    Offered(Offered),
    /// What could not become one.
    Dropped(Dropped),
    /// Of a recording: all up to here is kept or counted.
    Position(CameraKey, SourcePosition),
}

impl Entry {
    fn bytes(&self) -> u64 {
        match self {
            Self::Row(row) => row.bytes(),
            Self::Offered(_) | Self::Dropped(_) | Self::Position(..) => 0,
        }
    }

    /// Whether nobody is told of it before it is committed.
    fn is_urgent(&self) -> bool {
        match self {
            Self::Offered(offered) => offered.refused.is_some(),
            Self::Row(_) | Self::Dropped(_) => true,
            Self::Position(..) => false,
        }
    }
}

/// A row that has its number and lies in memory, where the uplink can take it, or took it.
#[derive(Debug, Clone)]
pub struct Offered {
    pub id: RowId,
    pub key: CameraKey,
    pub kind: Kind,
    pub first: u64,
    pub last: u64,
    pub bytes: u64,
    /// Why the broker will never take it.
    pub refused: Option<Reason>,
}

impl Offered {
    /// What is lost with it.
    pub fn dropped(&self, epoch: EpochId, reason: Reason, now: Stamp) -> Dropped {
        let id = ObservationId { key: self.key.clone(), epoch, seq: self.first };
        Dropped::with_row(self.kind, id, self.last, reason, now)
    }
}

/// What became of a row that was handed to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it on disk.
    Acknowledged,
    /// The broker will never take it.
    Refused(Reason),
}

/// A row that the uplink is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which table.
    pub topic: Topic,
    /// Which row of it.
    pub id: RowId,
    /// How it ended.
    pub outcome: Outcome,
}

/// The next transaction.
#[derive(Debug, Default)]
pub struct Batch {
    pub entries: VecDeque<Entry>,
    pub settled: Vec<Settled>,
    /// What went over the link.
    pub carried_bytes: u64,
    /// What went over it lately, and since when: no reason for a commit as yet.
    carried_lately: u64,
    carried_since: Option<Instant>,
    /// The month's budget is used up: pictures are left out.
    pub without_pictures: bool,
    /// Those that were left out and not told yet, and since when.
    left_out: Vec<Dropped>,
    left_out_since: Option<Instant>,
    bytes: u64,
    /// Since when entries wait.
    since: Option<Instant>,
    /// Since when `settled` or `carried_bytes` wait.
    settled_since: Option<Instant>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.settled.is_empty() && self.carried_bytes == 0
    }

    /// Since when something settled waits.
    pub fn settled_since(&self) -> Option<Instant> {
        self.settled_since
    }

    /// Bytes of the rows in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it must be committed, if there is anything in it.
    pub fn due_at(&self, settings: &Settings) -> Option<Instant> {
        let full = self.entries.len() + self.settled.len() >= settings.commit_records as usize
            || self.bytes >= settings.commit_bytes;
        let wait = if full { 0 } else { settings.commit_interval_ms };
        let since = [self.since, self.settled_since].into_iter().flatten().min();
        since.map(|since| since + Duration::from_millis(wait))
    }

    /// When the entries must be committed while the link works and their rows are offered.
    pub fn offered_due_at(&self, settings: &Settings, unsaved_bytes: u64) -> Option<Instant> {
        let is_urgent = self.entries.iter().any(Entry::is_urgent);
        let is_full =
            self.entries.len() >= MOST_OFFERED || unsaved_bytes >= settings.max_pending_bytes / 2;
        let wait = match (is_full, is_urgent) {
            (true, _) => 0,
            (_, true) => settings.commit_interval_ms,
            _ => settings.memory_window_ms,
        };
        self.since.map(|since| since + Duration::from_millis(wait))
    }

    /// When what is settled must be committed, which takes no row to the disk that the link is about to
    /// carry away.
    pub fn settled_due_at(&self, settings: &Settings) -> Option<Instant> {
        let full = self.settled.len() >= settings.commit_records as usize;
        let wait = if full { 0 } else { settings.commit_interval_ms };
        self.settled_since.map(|since| since + Duration::from_millis(wait))
    }

    /// Makes rows that wait offered ones, numbered from `first` on, and gives them.
    pub fn offer(&mut self, first: RowId) -> Vec<Arc<Row>> {
        let behind = self.entries.iter().rposition(|entry| matches!(entry, Entry::Offered(_)));
        let mut rows = Vec::new();
        for entry in self.entries.iter_mut().skip(behind.map_or(0, |at| at + 1)) {
            let Entry::Row(row) = entry else { continue };
            let (key, kind, first_seq, last) = (row.key.clone(), row.kind, row.first, row.last);
            let (id, bytes) = (first + rows.len() as RowId, row.bytes());
            let offered = Offered { id, key, kind, first: first_seq, last, bytes, refused: None };
            if let Entry::Row(row) = std::mem::replace(entry, Entry::Offered(offered)) {
                self.bytes = self.bytes.saturating_sub(bytes);
                rows.push(Arc::new(row));
            }
        }
        rows
    }

    /// The uplink is done with a row that was offered.
    pub fn settle_offered(&mut self, settled: Settled) {
        let Outcome::Refused(reason) = settled.outcome else { return };
        for entry in &mut self.entries {
            match entry {
                Entry::Offered(offered) if offered.id == settled.id => {
                    offered.refused = Some(reason);
                    return;
                }
                _ => {}
            }
        }
    }

    /// Takes off a first part of some `max_bytes`, and all that is settled. A batch that grew while
    /// the disk refused writes may be larger than the whole spool: part by part, each makes room
    /// for itself.
    pub fn take_part(&mut self, max_bytes: u64, is_unsaved: impl Fn(RowId) -> bool) -> Self {
        let mut part = self.take_settled();
        part.since = self.since;
        let mut offered_bytes = 0;
        while part.bytes + offered_bytes < max_bytes
            && let Some(entry) = self.entries.pop_front()
        {
            if let Entry::Offered(offered) = &entry
                && is_unsaved(offered.id)
            {
                offered_bytes += offered.bytes;
            }
            part.bytes += entry.bytes();
            part.entries.push_back(entry);
        }
        self.bytes = self.bytes.saturating_sub(part.bytes);
        if self.entries.is_empty() {
            self.since = None;
        }
        part
    }

    /// Takes off what is settled, and no entry.
    pub fn take_settled(&mut self) -> Self {
        let mut part = Self { settled_since: self.settled_since.take(), ..Self::default() };
        std::mem::swap(&mut part.settled, &mut self.settled);
        part.carried_bytes = std::mem::take(&mut self.carried_bytes);
        part.carried_bytes += std::mem::take(&mut self.carried_lately);
        self.carried_since = None;
        part
    }

    /// Puts a part back that could not be committed.
    pub fn put_back(&mut self, mut part: Self) {
        part.entries.append(&mut self.entries);
        part.settled.append(&mut self.settled);
        self.entries = part.entries;
        self.settled = part.settled;
        self.carried_bytes += part.carried_bytes;
        self.bytes += part.bytes;
        self.since = part.since.or(self.since);
        self.settled_since = part.settled_since.or(self.settled_since);
    }

    pub fn settle(&mut self, settled: Vec<Settled>) {
        self.settled_since.get_or_insert_with(Instant::now);
        self.settled.extend(settled);
    }

    /// Takes in what detection hands on. `now` stamps the gaps that come of it.
    pub fn take(&mut self, device: &DeviceName, observed: Observed, now: Stamp) {
        match observed {
            Observed::Observation { observation, picture, picture_lost, position } => {
                let key = observation.id.key.clone();
                self.observation(observation, picture, picture_lost, now);
                self.position(key, position);
            }
            Observed::Picture(picture) => self.picture(picture, now),
            Observed::Skipped(skip) => self.skip(skip, now),
            Observed::Missed { id, reason } => self.missed(id, reason, now),
            Observed::Ended { camera, position } => {
                self.position(CameraKey { device: device.clone(), camera }, position);
            }
        }
    }

    /// Counts what detection hands on as dropped, for want of a disk to write it to.
    pub fn refuse(&mut self, device: &DeviceName, observed: Observed, now: Stamp) {
        let reason = || Reason::from(Reason::SPOOL_FAILED);
        match observed {
            Observed::Observation { observation, position, .. } => {
                let (key, seq) = (observation.id.key.clone(), observation.id.seq);
                self.drop_run(Dropped::observations(observation.id, seq, reason(), now));
                self.position(key, position);
            }
            Observed::Picture(picture) => self.drop_run(dropped_picture(&picture, reason(), now)),
            Observed::Skipped(skip) => {
                self.drop_run(Dropped::observations(skip.id, skip.last, reason(), now));
            }
            Observed::Missed { id, reason } => self.missed(id, reason, now),
            Observed::Ended { camera, position } => {
                self.position(CameraKey { device: device.clone(), camera }, position);
            }
        }
    }

    fn observation(
        &mut self,
        mut observation: Observation,
        picture: Option<Picture>,
        picture_lost: Option<Reason>,
        now: Stamp,
    ) {
        if self.without_pictures && picture.is_some() {
            observation.frame = FrameFate::Withheld;
        }
        let id = observation.id.clone();
        match fitting_row(CameraRecord::Observation(observation)) {
            Ok(row) => self.row(row),
            Err(reason) => {
                // Its picture goes with it: a gap of observations takes the pictures too.
                return self.drop_run(Dropped::observations(id.clone(), id.seq, reason, now));
            }
        }
        match (picture_lost, picture) {
            (Some(reason), _) => self.drop_run(Dropped::picture(id, reason, now)),
            (None, Some(picture)) => self.picture(picture, now),
            (None, None) => {}
        }
    }

    fn picture(&mut self, picture: Picture, now: Stamp) {
        if self.without_pictures {
            let left_out = dropped_picture(&picture, Reason::BUDGET.into(), now);
            push_dropped(&mut self.left_out, left_out);
            self.left_out_since.get_or_insert_with(Instant::now);
            return;
        }
        let too_large = dropped_picture(&picture, Reason::TOO_LARGE.into(), now);
        let row = Row::of_picture(picture);
        if row.fits_topic() { self.row(row) } else { self.drop_run(too_large) }
    }

    /// Counts what went over the link.
    pub fn carried(&mut self, bytes: u64) {
        self.carried_lately += bytes;
        self.carried_since.get_or_insert_with(Instant::now);
    }

    /// Makes what waits for company a reason for a commit: now, or at a time if it has waited long
    /// enough by then.
    pub fn collect(&mut self, at: Option<Instant>) {
        let is_due = |since: &Instant| {
            at.is_none_or(|at| at.saturating_duration_since(*since) >= LONGEST_COMPANY)
        };
        if self.carried_since.take_if(|since| is_due(since)).is_some() {
            self.carried_bytes += std::mem::take(&mut self.carried_lately);
            self.settled_since.get_or_insert_with(Instant::now);
        }
        if self.left_out_since.take_if(|since| is_due(since)).is_some() {
            self.tell_left_out();
        }
    }

    /// Makes gaps of what was left out. One gap for each picture would weigh as much as the observations, which are
    /// all that the link is to carry then. A crash takes the count of these seconds with it; the
    /// observations say by themselves that their pictures were not kept.
    fn tell_left_out(&mut self) {
        for dropped in std::mem::take(&mut self.left_out) {
            self.push(Entry::Dropped(dropped));
        }
    }

    fn skip(&mut self, skip: Skip, now: Stamp) {
        let (id, last) = (skip.id.clone(), skip.last);
        match fitting_row(CameraRecord::Skip(skip)) {
            Ok(row) => self.row(row),
            Err(reason) => self.drop_run(Dropped::observations(id, last, reason, now)),
        }
    }

    /// A time in which nothing was captured: a gap of its own reason, whatever the disk does.
    fn missed(&mut self, id: ObservationId, reason: Reason, now: Stamp) {
        let seq = id.seq;
        self.drop_run(Dropped::observations(id, seq, reason, now));
    }

    fn row(&mut self, row: Row) {
        self.bytes += row.bytes();
        self.push(Entry::Row(row));
    }

    fn position(&mut self, key: CameraKey, position: Option<SourcePosition>) {
        let Some(position) = position else { return };
        // While nothing can be written, positions of one recording overtake each other.
        if let Some(Entry::Position(last_key, last)) = self.entries.back_mut()
            && *last_key == key
            && last.fingerprint == position.fingerprint
        {
            *last = position;
            return;
        }
        self.push(Entry::Position(key, position));
    }

    /// Runs grow in place, so that a disk that stays away does not fill the memory with gaps.
    fn drop_run(&mut self, dropped: Dropped) {
        let newest = self
            .entries
            .iter_mut()
            .rev()
            .take_while(|entry| !matches!(entry, Entry::Row(_) | Entry::Offered(_)));
        for entry in newest {
            if let Entry::Dropped(run) = entry
                && run.absorb(&dropped)
            {
                return;
            }
        }
        self.push(Entry::Dropped(dropped));
    }

    fn push(&mut self, entry: Entry) {
        self.since.get_or_insert_with(Instant::now);
        self.entries.push_back(entry);
    }
}

/// A picture that could not be kept, whole or a part.
fn dropped_picture(picture: &Picture, reason: Reason, now: Stamp) -> Dropped {
    let id = picture.id.clone();
    match picture.crop {
        None => Dropped::picture(id, reason, now),
        Some(_) => Dropped::crop(id, reason, now),
    }
}

/// The record as a row that the centre will take, or the reason why it cannot be one.
fn fitting_row(record: CameraRecord) -> Result<Row, Reason> {
    if let CameraRecord::Observation(observation) = &record
        && let Err(error) = observation.check()
    {
        tracing::error!(target: "spool", id = %observation.id, %error,
            "the detector gave numbers that cannot be true: the observation is dropped");
        return Err(Reason::DETECTOR_FAILED.into());
    }
    match Row::of_record(&record) {
        Ok(row) if row.fits_topic() => Ok(row),
        Ok(row) => {
            tracing::error!(target: "spool", id = %record.id(), bytes = row.message_bytes(),
                limit = row.topic.max_message_bytes(),
                "a record is larger than its topic takes: it is dropped");
            Err(Reason::TOO_LARGE.into())
        }
        Err(error) => {
            tracing::error!(target: "spool", id = %record.id(),
                error = picket_service::logging::chain(&error), "a record is dropped");
            Err(Reason::ENCODE_FAILED.into())
        }
    }
}
