//! The two tracking runs of one epoch of a camera. Pure.
//!
//! Tracks end with their epoch, so each epoch is tracked by itself. The `finals` run stands at the end
//! of the epoch's unbroken prefix and moves only in the order of `seq`: what it says is a function of
//! the epoch's records alone, however they came. When an observation comes while something before it is
//! missing, the `live` run is forked from it: it tracks what is new at once, provisionally. It is
//! dropped when `finals` reaches it.
//!
//! `finals` goes on when the missing records come, or are told to be lost, or have been missing for
//! longer than the horizon. What was stored beyond them is then read back ([`Stretch`]).

use picket_wire::observation::{ClockState, Observation, Stamp};
use serde::{Deserialize, Serialize};

use crate::store::ledger::Ranges;
use crate::track::{Detection, ObservationRef, Settings, TrackSummary, Tracker};
use crate::upsert::{self, WallTimes};

/// Most holes of an epoch that are told apart by when they were noticed. Of more, older ones count as
/// noticed with the next younger one: they are waited for longer.
const MOST_HOLES: usize = 256;

/// Most ranges of an epoch that are known to be put aside; what comes beyond is waited for.
const MOST_ASIDE: usize = 4096;

/// An observation, as far as it is tracked.
pub struct Frame<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its number.
    pub seq: u64,
    /// Microseconds since the epoch's start.
    pub mono_us: u64,
    /// Wall time by the device, nanoseconds since 1970.
    pub captured_ns: Option<i64>,
    /// State of the device's clock.
    pub clock: ClockState,
    /// What was found.
    pub detections: &'a [Detection<'a>],
}

impl<'a> Frame<'a> {
    /// Of a record of the log.
    pub fn of(record: &Observation, id: &'a str, detections: &'a [Detection<'a>]) -> Self {
        let Stamp { mono_us, captured_at, clock } = record.stamp;
        let captured_ns = upsert::nanoseconds(captured_at);
        Self { id, seq: record.id.seq, mono_us, captured_ns, clock, detections }
    }
}

/// What was found, as a tracker takes it.
pub fn detections(record: &Observation) -> Vec<Detection<'_>> {
    let all = record.detections.iter();
    all.map(|d| Detection { box_px: d.box_px, score: d.score, class: &d.class }).collect()
}

/// What a run makes of an observation.
#[derive(Debug, Default)]
pub struct Tracked {
    /// For each detection its track.
    pub assigned: Vec<Option<String>>,
    /// Tracks that were seen or ended, as they now are.
    pub tracks: Vec<(TrackSummary, Option<WallTimes>)>,
}

/// A tracker at its place in an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its state.
    pub tracker: Tracker,
    /// The last `seq` that it is past.
    pub until: u64,
    /// Wall times of its living tracks.
    pub walls: Vec<WallTimes>,
}

impl Run {
    /// Before the first observation.
    pub fn new(settings: Settings) -> Self {
        Self { tracker: Tracker::new(settings), until: 0, walls: Vec::new() }
    }

    fn observe(&mut self, frame: &Frame) -> Tracked {
        let observation = ObservationRef { id: frame.id };
        let outcome = self.tracker.observe(observation, frame.mono_us, frame.detections);
        self.until = self.until.max(frame.seq);
        let name = |track: &Option<_>| track.as_ref().map(ToString::to_string);
        let assigned: Vec<Option<String>> = outcome.assigned.iter().map(name).collect();
        for track in assigned.iter().flatten() {
            self.note_wall(track, frame);
        }
        let tracks: Vec<_> = outcome.updated.into_iter().chain(outcome.ended).collect();
        Tracked { assigned, tracks: self.with_walls(tracks) }
    }

    fn note_wall(&mut self, track: &str, frame: &Frame) {
        match self.walls.iter_mut().find(|wall| wall.track == track) {
            Some(wall) => {
                wall.last_ns = frame.captured_ns.or(wall.last_ns);
                wall.last_clock = Some(frame.clock);
            }
            None => self.walls.push(WallTimes {
                track: track.to_owned(),
                first_ns: frame.captured_ns,
                last_ns: frame.captured_ns,
                first_clock: Some(frame.clock),
                last_clock: Some(frame.clock),
            }),
        }
    }

    /// With their wall times; those of tracks that have ended are forgotten.
    fn with_walls(&mut self, tracks: Vec<TrackSummary>) -> Vec<(TrackSummary, Option<WallTimes>)> {
        let mut all = Vec::with_capacity(tracks.len());
        for summary in tracks {
            let at = self.walls.iter().position(|wall| wall.track == summary.id.as_str());
            let wall = match at {
                Some(at) if summary.ended => Some(self.walls.swap_remove(at)),
                at => at.map(|at| self.walls[at].clone()),
            };
            all.push((summary, wall));
        }
        all
    }

    /// Ends all tracks.
    pub fn finish(&mut self) -> Vec<(TrackSummary, Option<WallTimes>)> {
        let ended = self.tracker.finish();
        self.with_walls(ended)
    }

    /// The tracks that have not ended.
    pub fn living(&mut self) -> Vec<(TrackSummary, Option<WallTimes>)> {
        let living = self.tracker.living();
        self.with_walls(living)
    }
}

/// The end of a hole, and when it was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noticed {
    /// What is missing lies before this `seq`.
    pub before: u64,
    /// The broker's time when that came, milliseconds since 1970.
    pub at_ms: i64,
}

/// How an observation stands to what was tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was given up: what comes after it may be tracked already.
    Late,
    /// It is the next one.
    Next,
    /// Something before it is missing, or has not been read back yet.
    Ahead,
}

/// What is to be read back next: observations after a `seq`, up to and with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Tracked already.
    pub after: u64,
    /// Nothing up to here is missing.
    pub until: u64,
}

/// The runs of one epoch of one camera.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochRuns {
    /// At the end of the unbroken prefix.
    pub finals: Run,
    /// At the newest observation, while something before it is missing.
    pub live: Option<Run>,
    /// Holes, in the order of `seq`.
    pub holes: Vec<Noticed>,
    /// What was put aside as a dead letter: not accounted for, and not waited for.
    pub aside: Ranges,
    /// Its own record came.
    pub has_begun: bool,
    /// The last `seq` that the epoch can have, once the next one has told.
    pub end: Option<u64>,
    /// The broker's time when the camera went on to another epoch, milliseconds since 1970.
    pub superseded_ms: Option<i64>,
    /// All of its tracks are final.
    pub is_over: bool,
    /// The `seq` after which the tracker began anew, because the state of the one before could not be
    /// taken over.
    pub anew_after: Option<u64>,
    /// Whether it differs from what is stored.
    pub dirty: bool,
}

impl EpochRuns {
    /// Before the first record.
    pub fn new(settings: Settings) -> Self {
        Self {
            finals: Run::new(settings),
            live: None,
            holes: Vec::new(),
            aside: Ranges::default(),
            has_begun: false,
            end: None,
            superseded_ms: None,
            is_over: false,
            anew_after: None,
            dirty: false,
        }
    }

    /// Goes on after this `seq` without knowing of anything before.
    pub fn begin_anew(&mut self, after: u64) {
        (self.finals.until, self.anew_after) = (after, Some(after));
    }

    /// How an observation stands that is not accounted for. Which ones are late follows from the log:
    /// not from how far reading back has come.
    pub fn standing(&self, seq: u64, given_up_ms: i64) -> Standing {
        let is_given_up = || self.missing_since(seq).is_some_and(|at_ms| at_ms <= given_up_ms);
        match self.finals.until {
            until if self.is_over || seq <= until || self.aside.contains(seq) || is_given_up() => {
                Standing::Late
            }
            until if seq == until + 1 => Standing::Next,
            _ => Standing::Ahead,
        }
    }

    /// Since when a `seq` that is not accounted for has been missed.
    fn missing_since(&self, seq: u64) -> Option<i64> {
        let hole = self.holes.iter().find(|hole| seq < hole.before);
        hole.map(|hole| hole.at_ms).or(self.superseded_ms)
    }

    /// Since when anything has been waited for.
    pub fn waiting_since(&self) -> Option<i64> {
        let since = self.holes.first().map(|hole| hole.at_ms).or(self.superseded_ms);
        since.filter(|_| !self.is_over)
    }

    /// Tracks the next observation, for good.
    pub fn track_final(&mut self, frame: &Frame) -> Tracked {
        self.dirty = true;
        self.finals.observe(frame)
    }

    /// Tracks one that is ahead, provisionally, unless live is past it.
    pub fn track_live(&mut self, frame: &Frame) -> Tracked {
        self.dirty = true;
        let live = self.live.get_or_insert_with(|| self.finals.clone());
        if frame.seq <= live.until {
            return Tracked::default();
        }
        live.observe(frame)
    }

    /// A record came that begins at `first`; `top` is the last that was accounted for before.
    pub fn notice(&mut self, first: u64, top: u64, accounted: &Ranges, at_ms: i64) {
        let next = self.finals.until.saturating_add(1);
        if first <= next {
            return;
        }
        let is_new = first > top.saturating_add(1);
        let is_forgotten = || {
            let is_missing = !accounted.holes_within(next, first - 1).is_empty();
            is_missing && self.missing_since(next).is_none()
        };
        if is_new || is_forgotten() {
            self.dirty = true;
            let at = self.holes.partition_point(|hole| hole.before < first);
            self.holes.insert(at, Noticed { before: first, at_ms });
            if self.holes.len() > MOST_HOLES {
                self.holes.remove(0);
            }
        }
    }

    /// Nobody looked at these, or they are lost: where they are next, there is nothing to track.
    pub fn pass(&mut self, first: u64, last: u64) {
        let until = self.finals.until;
        if first <= until.saturating_add(1) && last > until {
            self.finals.until = last;
            self.dirty = true;
        }
    }

    /// One that was put aside.
    pub fn set_aside(&mut self, seq: u64) {
        if !self.is_over && seq > self.finals.until && self.aside.as_slice().len() < MOST_ASIDE {
            self.dirty |= self.aside.insert(seq, seq) > 0;
        }
    }

    /// What is stored and not tracked yet though nothing before it is missing.
    pub fn behind(&self, accounted: &Ranges) -> Option<Stretch> {
        let after = self.finals.until;
        let until = accounted.end_of_run(after.checked_add(1)?)?;
        (!self.is_over).then_some(Stretch { after, until })
    }

    /// Goes on past what was put aside, forgets holes that are behind, and drops live where it has
    /// nothing more to tell: then the tracks that are alive are returned.
    pub fn move_on(&mut self, accounted: &Ranges) -> Vec<(TrackSummary, Option<WallTimes>)> {
        if let Some(until) = self.finals.until.checked_add(1).and_then(|n| self.aside.end_of_run(n))
        {
            (self.finals.until, self.dirty) = (until, true);
        }
        let until = self.finals.until;
        self.dirty |= self.aside.forget_until(until);
        let before = self.holes.len();
        self.holes.retain(|hole| hole.before > until.saturating_add(1));
        self.dirty |= self.holes.len() != before;
        let is_reached = self.live.as_ref().is_some_and(|live| live.until <= until);
        if !is_reached || self.behind(accounted).is_some() {
            return Vec::new();
        }
        (self.live, self.dirty) = (None, true);
        self.finals.living()
    }

    /// Gives up what has been missing since before `given_up_ms`, up to what has to be read back next;
    /// returns it. Of an epoch that nothing more is expected of, that may be its end.
    pub fn give_up(&mut self, accounted: &Ranges, given_up_ms: i64) -> Option<(u64, u64)> {
        let first = self.finals.until.checked_add(1)?;
        let is_given_up = self.missing_since(first).is_some_and(|at_ms| at_ms <= given_up_ms);
        if self.is_over || !is_given_up || self.behind(accounted).is_some() {
            return None;
        }
        let Some(beyond) = accounted.next_from(first) else {
            let end = self.end.unwrap_or(self.finals.until);
            (self.end, self.dirty) = (Some(self.finals.until), true);
            return (end >= first).then_some((first, end));
        };
        (self.finals.until, self.dirty) = (beyond - 1, true);
        Some((first, beyond - 1))
    }

    /// Nothing that is missing is waited for any more.
    pub fn hasten(&mut self) {
        self.holes.iter_mut().for_each(|hole| hole.at_ms = i64::MIN);
        (self.superseded_ms, self.dirty) = (Some(i64::MIN), true);
    }

    /// Whether all that the epoch can have is tracked, and all that it has beyond that: a copied card
    /// may have gone on.
    pub fn is_complete(&self, accounted: &Ranges) -> bool {
        let top = accounted.last().unwrap_or_default();
        !self.is_over && self.end.is_some_and(|end| self.finals.until >= end.max(top))
    }

    /// Ends all tracks, because the epoch is complete.
    pub fn finish(&mut self) -> Vec<(TrackSummary, Option<WallTimes>)> {
        (self.live, self.is_over, self.dirty) = (None, true, true);
        self.holes.clear();
        self.aside = Ranges::default();
        self.finals.finish()
    }

    /// The camera has gone on to another epoch.
    pub fn supersede(&mut self, at_ms: i64) {
        if self.superseded_ms.is_none() {
            (self.superseded_ms, self.dirty) = (Some(at_ms), true);
        }
    }
}
