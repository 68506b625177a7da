//! Follows each object of a camera from frame to frame.
//!
//! The method is that of ByteTrack (two-stage association with places predicted by a Kalman filter),
//! with Hybrid-SORT's likeness of boxes, noise that depends on the score, a gate by time where boxes no
//! longer overlap, and camera motion told from the detections; rebuilt on time in place of frame counts
//! so that it works at any frame rate, also one that varies or pauses. docs/tracking.md has the sources, the formulas and what each part gave.
//!
//! # In
//! The frames of one camera and epoch that were looked at, in order of `seq`, each with its
//! detections, also if there are none (a miss). Frames that nobody looked at are not passed in:
//! they say nothing, and the time they took shows in `mono_us`.
//!
//! # Out
//! For each detection the id of its track, and the summaries of the tracks that were seen or ended.
//!
//! A track that starts is reported at once, and its id is given to the detection it starts with:
//! detections are stored as they come, and an id found out one frame later would have to be written
//! back into a document that is already stored. The price is that a false detection has a track of
//! its own; readers tell it by `observations` being 1. A detection has no track if its score is
//! too low to start one and none is near, or if it doubles another one that has a track.
//!
//! # Promises
//! * Pure: no clock, randomness or I/O, and only arithmetic that is the same on every machine. The
//!   same frames give the same tracks; a tracker restored from its serialised state continues as
//!   if it had never stopped, to the last bit.
//! * Each id in `assigned` names one object of one class, is given to at most one detection of a
//!   frame, and comes exactly once in `ended` (or from [`Tracker::finish`]), never to return.
//! * No input makes it panic; a time that does not move forward counts as no time having passed.
//!
//! # Limits
//! At most `max_tracks` tracks, each of fixed size: memory and checkpoint are bounded whatever
//! comes in. Time per frame is linear in tracks times detections, and cubic only within a crowd
//! in which everything overlaps everything, or is within reach of it.

mod assignment;
mod association;
mod kalman;
mod rectangle;
#[cfg(test)]
mod scene;
mod settings;
#[cfg(test)]
mod tests;
mod tracklet;
#[cfg(test)]
mod walkers;

use std::fmt;

use serde::{Deserialize, Serialize};

use association::Association;
use rectangle::Rectangle;
pub use settings::Settings;
use tracklet::Tracklet;

/// Changes whenever the same frames may give other tracks, or the state has another form. A state
/// of another version must not be continued.
pub const TRACKER_VERSION: u32 = 2;

/// What was found in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection<'a> {
    /// Left, top, width, height.
    pub box_px: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    pub class: &'a str,
}

/// The observation that the detections belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservationRef<'a> {
    pub id: &'a str,
}

/// The id of the observation in which the track was born, `#`, and the index of its detection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrackId(String);

impl TrackId {
    fn new(observation: &str, index: usize) -> Self {
        Self(format!("{observation}#{index}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<TrackId> for String {
    fn from(id: TrackId) -> Self {
        id.0
    }
}

/// What is known of a track. Of bounded size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackSummary {
    pub id: TrackId,
    pub class: String,
    /// When it was first seen.
    pub first_mono_us: u64,
    /// When it was last seen.
    pub last_mono_us: u64,
    /// The observation in which it was first seen.
    pub first_observation: String,
    /// The observation in which it was last seen.
    pub last_observation: String,
    /// In how many observations it was seen.
    pub observations: u64,
    pub best_score: f32,
    /// Where it was last seen: left, top, width, height.
    pub last_box_px: [f32; 4],
    /// It will not be seen again.
    pub ended: bool,
}

/// What a frame changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// For each detection, in their order, the id of its track, if it has one.
    pub assigned: Vec<Option<TrackId>>,
    /// The tracks that ended. None of them is in `assigned` or `updated`.
    pub ended: Vec<TrackSummary>,
    /// The tracks in `assigned`, as they now are.
    pub updated: Vec<TrackSummary>,
}

/// The tracks of one camera within one epoch. Its serialised form is its whole state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    settings: Settings,
    last_mono_us: u64,
    /// In order of birth, which settles ties.
    tracklets: Vec<Tracklet>,
}

impl Tracker {
    pub fn new(settings: Settings) -> Self {
        Self { settings, last_mono_us: 0, tracklets: Vec::new() }
    }

    /// Takes in a frame that was looked at. An empty list is a miss for each track.
    pub fn observe(
        &mut self,
        observation: ObservationRef,
        mono_us: u64,
        detections: &[Detection],
    ) -> Outcome {
        let now_us = mono_us.max(self.last_mono_us);
        self.last_mono_us = now_us;
        let mut outcome = Outcome { assigned: vec![None; detections.len()], ..Outcome::default() };
        self.end_where(&mut outcome, |t, settings| t.is_over(settings, now_us));
        self.follow(observation.id, now_us, detections, &mut outcome);
        self.end_where(&mut outcome, |t, settings| {
            t.missed_since_us().is_some() && !t.is_confirmed(settings)
        });
        self.start(observation.id, now_us, detections, &mut outcome);
        outcome
    }

    /// The tracks that have not ended, in order of birth.
    pub fn living(&self) -> Vec<TrackSummary> {
        self.tracklets.iter().map(|t| t.summary(false)).collect()
    }

    /// Ends all tracks, because the epoch ends.
    pub fn finish(&mut self) -> Vec<TrackSummary> {
        self.tracklets.drain(..).map(|t| t.summary(true)).collect()
    }

    fn end_where(&mut self, outcome: &mut Outcome, is_over: impl Fn(&Tracklet, &Settings) -> bool) {
        let over = self.tracklets.extract_if(.., |t| is_over(t, &self.settings));
        outcome.ended.extend(over.map(|t| t.summary(true)));
    }

    /// Gives the detections to the tracks that there are.
    fn follow(
        &mut self,
        observation: &str,
        now_us: u64,
        detections: &[Detection],
        outcome: &mut Outcome,
    ) {
        let association = Association::new(&self.settings, &self.tracklets, detections, now_us);
        for (t, tracklet) in self.tracklets.iter_mut().enumerate() {
            let Some(d) = association.detection_of[t] else {
                tracklet.missed(now_us, association.shift);
                continue;
            };
            tracklet.seen(observation, now_us, &detections[d], association.predicted[t]);
            outcome.assigned[d] = Some(tracklet.id().clone());
            outcome.updated.push(tracklet.summary(false));
        }
    }

    /// Starts tracks with the good detections that are left, the best first.
    fn start(
        &mut self,
        observation: &str,
        now_us: u64,
        detections: &[Detection],
        outcome: &mut Outcome,
    ) {
        let mut left: Vec<usize> = (0..detections.len())
            .filter(|&d| outcome.assigned[d].is_none())
            .filter(|&d| detections[d].score >= self.settings.birth_score as f32)
            .collect();
        // A stable sort: among equals the first in the list comes first.
        left.sort_by(|&a, &b| detections[b].score.total_cmp(&detections[a].score));
        for d in left {
            if self.doubles_another(d, detections, &outcome.assigned) || !self.make_room(outcome) {
                continue;
            }
            let tracklet = Tracklet::born(observation, d, now_us, &detections[d]);
            outcome.assigned[d] = Some(tracklet.id().clone());
            outcome.updated.push(tracklet.summary(false));
            self.tracklets.push(tracklet);
        }
    }

    /// Whether the same object was found twice and has a track by the other detection.
    fn doubles_another(
        &self,
        d: usize,
        detections: &[Detection],
        assigned: &[Option<TrackId>],
    ) -> bool {
        let this = Rectangle::from_px(detections[d].box_px);
        detections.iter().zip(assigned).any(|(other, track)| {
            track.is_some()
                && other.class == detections[d].class
                && this.overlap(Rectangle::from_px(other.box_px)) > self.settings.max_birth_overlap
        })
    }

    /// Whether there is room for one more track, for which the one lost the longest may have to end.
    fn make_room(&mut self, outcome: &mut Outcome) -> bool {
        if self.tracklets.len() < self.settings.max_tracks {
            return true;
        }
        let lost = self.tracklets.iter().enumerate();
        let lost = lost.filter_map(|(t, tracklet)| Some((tracklet.missed_since_us()?, t)));
        let Some((_, longest)) = lost.min() else {
            return false;
        };
        outcome.ended.push(self.tracklets.remove(longest).summary(true));
        true
    }
}
