//! One epoch of a camera, tracked again in the order of `seq` by the run that the centre itself uses,
//! with what of it can be compared. Pure.
//!
//! A tracker's state depends on all that came before in its epoch. Where an observation is missing that
//! the centre once had, nobody knows what its tracker made of it, and so what of its tracks was in view.
//! From there on nothing is compared until all of them must have ended: until nothing that could continue
//! a track was found for as long as the tracker keeps one (`track.max_gap_ms`). A tracker that begins there
//! stands where the centre's stood.

use std::collections::{BTreeMap, HashSet};

use super::super::runs::{EpochRuns, Frame};
use crate::track::{Settings, TrackSummary};
use crate::upsert::WallTimes;

/// A track that the tracker makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Its summary.
    pub summary: TrackSummary,
    /// Its wall times by the device.
    pub wall: Option<WallTimes>,
    /// The broker's time of its last observation, milliseconds since 1970.
    pub broker_ms: i64,
    /// The last `seq` that was tracked.
    pub until: u64,
}

/// What becomes of an observation.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// What came before it is not known well enough.
    Unsure,
    /// These are the tracks of its detections.
    Tracked(Vec<Option<String>>),
}

/// What is known of the tracks that were in view.
enum View {
    /// All.
    Known,
    /// Nothing: something is missing. Since then nothing was found that could continue one of them,
    /// microseconds since the epoch's start; none before the next observation.
    Lost(Option<u64>),
}

struct Living {
    made: Made,
    is_wanted: bool,
}

/// The tracking of one epoch, again.
pub struct Walk {
    settings: Settings,
    runs: EpochRuns,
    view: View,
    living: BTreeMap<String, Living>,
    /// Tracks that ended and are to be compared.
    ended: Vec<Made>,
    born: HashSet<String>,
    /// Where a stretch begins in which all is known, and where it ends.
    known: Vec<(u64, u64)>,
    /// Tracks whose end nobody knows.
    cut_off: u64,
}

impl Walk {
    /// Begins after a `seq` with a tracker that knows of nothing before.
    pub fn new(settings: Settings, after: u64) -> Self {
        Self {
            runs: EpochRuns::new(settings.clone()),
            settings,
            view: View::Known,
            living: BTreeMap::new(),
            ended: Vec::new(),
            born: HashSet::new(),
            known: vec![(after.saturating_add(1), after)],
            cut_off: 0,
        }
    }

    /// Something that the centre once tracked is missing before what comes next.
    pub fn miss(&mut self) {
        self.cut_off += self.living.values().filter(|living| living.is_wanted).count() as u64;
        self.living.clear();
        self.runs = EpochRuns::new(self.settings.clone());
        self.view = View::Lost(None);
    }

    /// The next observation. Its tracks are compared if it `is_wanted`.
    pub fn observe(&mut self, frame: &Frame, broker_ms: i64, is_wanted: bool) -> Step {
        if !self.is_sure(frame) {
            return Step::Unsure;
        }
        if let Some(known) = self.known.last_mut() {
            known.1 = frame.seq;
        }
        let tracked = self.runs.track_final(frame);
        for (summary, wall) in tracked.tracks {
            let id = summary.id.to_string();
            let is_seen = !summary.ended;
            if summary.first_observation == frame.id {
                self.born.insert(id.clone());
            }
            let before = self.living.remove(&id);
            let seen_ms = if is_seen { broker_ms } else { 0 };
            let living = Living {
                is_wanted: before.as_ref().is_some_and(|living| living.is_wanted)
                    || is_seen && is_wanted,
                made: Made {
                    broker_ms: before.map_or(seen_ms, |living| living.made.broker_ms.max(seen_ms)),
                    until: frame.seq,
                    summary,
                    wall,
                },
            };
            if is_seen {
                self.living.insert(id, living);
            } else if living.is_wanted {
                self.ended.push(living.made);
            }
        }
        Step::Tracked(tracked.assigned)
    }

    /// Whether the tracker stands where the centre's stood.
    fn is_sure(&mut self, frame: &Frame) -> bool {
        let View::Lost(since_us) = self.view else { return true };
        // Tracks may have been seen a moment before.
        let since_us = since_us.unwrap_or(frame.mono_us);
        let gap_us = self.settings.max_gap_ms.saturating_mul(1000);
        if frame.mono_us.saturating_sub(since_us) > gap_us {
            self.view = View::Known;
            self.known.push((frame.seq, frame.seq));
            return true;
        }
        let could_continue = |score: f32| f64::from(score) >= self.settings.low_score;
        let is_quiet = !frame.detections.iter().any(|d| could_continue(d.score));
        let since_us = if is_quiet { since_us } else { since_us.max(frame.mono_us) };
        self.view = View::Lost(Some(since_us));
        false
    }

    /// Tracks that are done, to be compared.
    pub fn take_ended(&mut self) -> Vec<Made> {
        std::mem::take(&mut self.ended)
    }

    /// How many of them there are.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Whether a track lives on that is to be compared.
    pub fn has_wanted(&self) -> bool {
        self.living.values().any(|living| living.is_wanted)
    }

    /// Ends all tracks, as the centre does with an epoch that is over; or leaves them as they are.
    pub fn finish(&mut self, is_over: bool) {
        if is_over {
            for (summary, wall) in self.runs.finals.finish() {
                if let Some(living) = self.living.get_mut(summary.id.as_str()) {
                    (living.made.summary, living.made.wall) = (summary, wall);
                }
            }
        }
        let until = self.known.last().map_or(0, |(_, last)| *last);
        let living = std::mem::take(&mut self.living).into_values();
        let wanted = living.filter(|living| living.is_wanted);
        self.ended.extend(wanted.map(|living| Made { until, ..living.made }));
    }

    /// Whether a track was made.
    pub fn has_made(&self, track: &str) -> bool {
        self.born.contains(track)
    }

    /// Whether all tracks that began with an observation are known.
    pub fn knows(&self, seq: u64) -> bool {
        let after = self.known.partition_point(|(first, _)| *first <= seq);
        after > 0 && self.known[after - 1].1 >= seq
    }

    /// Tracks that were made and whose end nobody knows.
    pub fn cut_off(&self) -> u64 {
        self.cut_off
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::ClockState;

    use super::*;
    use crate::track::Detection;

    const STEP_US: u64 = 100_000;

    /// A face that stands still, or none.
    fn observe(walk: &mut Walk, seq: u64, mono_us: u64, score: Option<f32>) -> Step {
        let class = "face";
        let face = score.map(|score| Detection { box_px: [10.0, 10.0, 80.0, 90.0], score, class });
        let detections = Vec::from_iter(face);
        let id = format!("gate/north/1-00000001/{seq}");
        let clock = ClockState::Synchronised;
        let frame =
            Frame { id: &id, seq, mono_us, captured_ns: None, clock, detections: &detections };
        walk.observe(&frame, seq as i64, true)
    }

    fn track_of(step: Step) -> Option<String> {
        match step {
            Step::Tracked(mut tracks) => tracks.pop().flatten(),
            Step::Unsure => None,
        }
    }

    #[test]
    fn a_track_is_made_as_the_centre_makes_it_and_told_once_it_has_ended() {
        let mut walk = Walk::new(Settings::default(), 0);
        for seq in 1..=5 {
            let track = track_of(observe(&mut walk, seq, seq * STEP_US, Some(0.9)));
            assert_eq!(track.as_deref(), Some("gate/north/1-00000001/1#0"));
        }
        assert!(walk.has_wanted() && walk.take_ended().is_empty());
        observe(&mut walk, 6, 6 * STEP_US, None);
        observe(&mut walk, 7, 90 * STEP_US, None);
        let ended = walk.take_ended();
        assert_eq!((ended[0].summary.observations, ended[0].broker_ms), (5, 5));
        assert!(ended[0].summary.ended && !walk.has_wanted());
        assert!(walk.has_made("gate/north/1-00000001/1#0") && walk.knows(7) && !walk.knows(8));
    }

    #[test]
    fn what_lives_at_the_end_ends_with_its_epoch_or_goes_on() {
        for is_over in [true, false] {
            let mut walk = Walk::new(Settings::default(), 0);
            observe(&mut walk, 1, STEP_US, Some(0.9));
            walk.finish(is_over);
            assert_eq!(walk.take_ended()[0].summary.ended, is_over);
        }
    }

    #[test]
    fn after_something_is_missing_nothing_is_compared_until_what_was_in_view_must_have_ended() {
        let settings = Settings::default();
        let gap = settings.max_gap_ms * 1000 / STEP_US;
        let mut walk = Walk::new(settings, 0);
        observe(&mut walk, 1, STEP_US, Some(0.9));
        walk.miss();
        assert_eq!(walk.cut_off(), 1);
        // As long as anything that could continue a track is found, it may be the one from before.
        for seq in 3..=gap + 50 {
            let score = (seq <= 50).then_some(0.3);
            let step = observe(&mut walk, seq, seq * STEP_US, score);
            assert_eq!(step, Step::Unsure, "{seq}");
        }
        let first = gap + 51;
        let track = track_of(observe(&mut walk, first, first * STEP_US, Some(0.9)));
        assert_eq!(track, Some(format!("gate/north/1-00000001/{first}#0")));
        assert!(walk.knows(1) && !walk.knows(2) && !walk.knows(50) && walk.knows(first));
    }
}
