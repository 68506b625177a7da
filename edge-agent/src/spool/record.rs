//! What the spool keeps: rows, and what was dropped instead of becoming one.

use picket_wire::message::Outgoing;
use picket_wire::observation::{Gap, GapOf, Reason, Stamp};
use picket_wire::{CameraKey, CameraRecord, EpochId, Kind, ObservationId, Picture, Topic};

use super::error::SpoolError;

/// What librdkafka and the broker add to key, headers and value: lengths, the lane's header, the
/// record batch around it.
const ENVELOPE_BYTES: usize = 256;

/// A row's number, unique over both tables and rising with each commit of one run of the agent.
pub type RowId = i64;

/// A record as it goes to disk. Its bytes are fixed here.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it goes: [`Topic::Observations`] or [`Topic::Frames`].
    pub topic: Topic,
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub key: CameraKey,
    /// Of which start of the agent.
    pub epoch: EpochId,
    /// First `seq` it is about.
    pub first: u64,
    /// Last `seq` it is about.
    pub last: u64,
    /// All Kafka headers but the lane, as JSON pairs.
    pub headers: String,
    /// The Kafka value.
    pub value: Vec<u8>,
}

impl Row {
    /// A row of a camera's log.
    pub fn of_record(record: &CameraRecord) -> Result<Self, SpoolError> {
        let id = record.id().clone();
        let run = record.settles().unwrap_or((id.seq, id.seq));
        let kind = record.kind();
        let outgoing = record.encode().map_err(SpoolError::Encode)?;
        Ok(Self::new(outgoing, kind, id, run))
    }

    /// A row of a picture.
    pub fn of_picture(picture: Picture) -> Self {
        let kind = if picture.crop.is_some() { Kind::Crop } else { Kind::Frame };
        let id = picture.id.clone();
        let run = (id.seq, id.seq);
        Self::new(picture.encode(), kind, id, run)
    }

    fn new(outgoing: Outgoing, kind: Kind, id: ObservationId, (first, last): (u64, u64)) -> Self {
        let headers = serde_json::Value::from_iter(
            outgoing.headers.into_iter().map(|(name, value)| vec![name.to_owned(), value]),
        );
        Self {
            topic: outgoing.topic,
            kind,
            key: id.key,
            epoch: id.epoch,
            first,
            last,
            headers: headers.to_string(),
            value: outgoing.value,
        }
    }

    /// What is lost with it.
    pub fn dropped(&self, reason: Reason, stamp: Stamp) -> Dropped {
        let id = ObservationId { key: self.key.clone(), epoch: self.epoch, seq: self.first };
        Dropped::with_row(self.kind, id, self.last, reason, stamp)
    }

    /// Bytes as Kafka counts them, near enough to compare with a topic's limit.
    pub fn message_bytes(&self) -> usize {
        let key = self.key.device.as_str().len() + 1 + self.key.camera.as_str().len();
        key + self.headers.len() + self.value.len() + ENVELOPE_BYTES
    }

    /// Whether its topic can take it.
    pub fn fits_topic(&self) -> bool {
        self.message_bytes() <= self.topic.max_message_bytes() as usize
    }

    /// Bytes that count against memory and are shown as the spool's depth.
    pub fn bytes(&self) -> u64 {
        (self.headers.len() + self.value.len()) as u64
    }
}

/// How many frames a row accounts for: each `seq` once, as an observation or in a skip.
pub fn frames(kind: Kind, first: u64, last: u64) -> u64 {
    match kind {
        Kind::Observation | Kind::Skip => last.saturating_sub(first).saturating_add(1),
        _ => 0,
    }
}

/// Frames or pictures that were dropped; becomes a gap record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Whose.
    pub key: CameraKey,
    /// Of which start of the agent.
    pub epoch: EpochId,
    /// Observations (and their pictures), or pictures alone.
    pub of: GapOf,
    /// Why.
    pub reason: Reason,
    /// First `seq`.
    pub first: u64,
    /// Last `seq`.
    pub last: u64,
    /// How many.
    pub count: u64,
    /// When, by the clocks of `epoch`.
    pub stamp: Stamp,
}

impl Dropped {
    /// One `seq` or run of the frames of a camera.
    pub fn observations(id: ObservationId, last: u64, reason: Reason, stamp: Stamp) -> Self {
        let first = id.seq;
        let count = last.saturating_sub(first) + 1;
        let (key, epoch, of) = (id.key, id.epoch, GapOf::Observations);
        Self { key, epoch, of, reason, first, last, count, stamp }
    }

    /// What is lost with a row of an observation, a skip or a picture.
    pub fn with_row(
        kind: Kind,
        id: ObservationId,
        last: u64,
        reason: Reason,
        stamp: Stamp,
    ) -> Self {
        match kind {
            Kind::Frame => Self::picture(id, reason, stamp),
            Kind::Crop => Self::crop(id, reason, stamp),
            _ => Self::observations(id, last, reason, stamp),
        }
    }

    /// The picture of a frame.
    pub fn picture(id: ObservationId, reason: Reason, stamp: Stamp) -> Self {
        Self::one(id, GapOf::Frames, reason, stamp)
    }

    /// A crop of a frame.
    pub fn crop(id: ObservationId, reason: Reason, stamp: Stamp) -> Self {
        Self::one(id, GapOf::Crops, reason, stamp)
    }

    fn one(id: ObservationId, of: GapOf, reason: Reason, stamp: Stamp) -> Self {
        let (first, last) = (id.seq, id.seq);
        Self { key: id.key, epoch: id.epoch, of, reason, first, last, count: 1, stamp }
    }

    /// Takes `next` in, if the two make one gap. Of observations each `seq` between first and last
    /// is gone, so `next` must follow at once; of pictures the count says how many are.
    pub fn absorb(&mut self, next: &Self) -> bool {
        let same = self.key == next.key
            && self.epoch == next.epoch
            && self.of == next.of
            && self.reason == next.reason;
        let follows = match self.of {
            GapOf::Observations => next.first == self.last + 1,
            GapOf::Frames | GapOf::Crops => next.first > self.last,
        };
        if same && follows {
            self.last = next.last;
            self.count += next.count;
        }
        same && follows
    }

    /// The gap record.
    pub fn gap_row(&self) -> Result<Row, SpoolError> {
        let id = ObservationId { key: self.key.clone(), epoch: self.epoch, seq: self.first };
        let gap = Gap {
            id,
            stamp: self.stamp,
            first: self.first,
            last: self.last,
            count: self.count,
            reason: self.reason.clone(),
            of: self.of,
        };
        let mut row = Row::of_record(&CameraRecord::Gap(gap))?;
        (row.first, row.last) = (self.first, self.last);
        Ok(row)
    }
}

/// Runs of dropped items, in the order in which they were dropped, as few as can be.
pub fn push_dropped(runs: &mut Vec<Dropped>, next: Dropped) {
    let same_line = |run: &&mut Dropped| run.key == next.key && run.of == next.of;
    let newest = runs.iter_mut().rev().find(same_line);
    if !newest.is_some_and(|run| run.absorb(&next)) {
        runs.push(next);
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::ClockState;

    use super::*;

    fn dropped(of: GapOf, first: u64, last: u64) -> Dropped {
        let id: ObservationId = format!("gate/north/1-0a1b2c3d/{first}").parse().unwrap();
        let stamp = Stamp { mono_us: 5, captured_at: None, clock: ClockState::Unset };
        let mut dropped = Dropped::observations(id, last, Reason::SPOOL_FULL.into(), stamp);
        dropped.of = of;
        dropped
    }

    #[test]
    fn a_gap_of_observations_takes_in_only_what_follows_at_once() {
        let mut runs = Vec::new();
        for (first, last) in [(1, 1), (2, 4), (6, 6)] {
            push_dropped(&mut runs, dropped(GapOf::Observations, first, last));
        }
        let spans: Vec<_> = runs.iter().map(|r| (r.first, r.last, r.count)).collect();
        assert_eq!(spans, [(1, 4, 4), (6, 6, 1)]);
    }

    #[test]
    fn a_gap_of_pictures_counts_those_between_first_and_last() {
        let mut runs = Vec::new();
        for seq in [1, 5, 9] {
            push_dropped(&mut runs, dropped(GapOf::Frames, seq, seq));
        }
        assert_eq!((runs.len(), runs[0].first, runs[0].last, runs[0].count), (1, 1, 9, 3));
    }

    #[test]
    fn a_frame_and_a_crop_of_one_seq_are_two_gaps() {
        let mut runs = Vec::new();
        push_dropped(&mut runs, dropped(GapOf::Frames, 5, 5));
        push_dropped(&mut runs, dropped(GapOf::Crops, 5, 5));
        push_dropped(&mut runs, dropped(GapOf::Frames, 7, 7));
        let spans: Vec<_> = runs.iter().map(|r| (r.of, r.first, r.last, r.count)).collect();
        assert_eq!(spans, [(GapOf::Frames, 5, 7, 2), (GapOf::Crops, 5, 5, 1)]);
    }

    #[test]
    fn a_gap_row_holds_together_as_a_message() {
        let row = dropped(GapOf::Observations, 7, 9).gap_row().unwrap();
        assert_eq!((row.kind, row.first, row.last), (Kind::Gap, 7, 9));
        assert!(row.fits_topic());
        assert_eq!(frames(row.kind, row.first, row.last), 0);
    }
}
