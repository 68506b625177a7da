//! Which detection of a frame belongs to which track.
//!
//! The order is ByteTrack's: good detections go to tracks first, lost ones included; then weak
//! detections to the confirmed tracks in view that are left. A weak detection so never takes a track
//! from a good one. ByteTrack lets tentative tracks wait for what the confirmed ones leave; here
//! they compete, which is better on most sequences and more so the fewer frames there are.
//!
//! At few frames a second a fast object is not near its former place, and boxes that do not overlap
//! tell nothing. So the good detections that are still left go to tracks of their size that were seen
//! the last time anybody looked, if the Kalman filter holds such a way for possible (SORT's gate by
//! Mahalanobis distance): far after a second, hardly at all after a thirtieth of one.
//!
//! How well a detection fits a track is in one place, [`Matching::fit`]: a further cue, such as the
//! likeness of two embeddings, would be a further term there.
//!
//! Scores are compared as the `f32` that a detector gives, so that 0.7 reaches a setting of 0.7.
//!
//! Another thing is added. When the camera itself moves (wind, a pan, a vehicle), every object seems to
//! jump the same way at once, and overlap with the predicted places fails for all of them together.
//! BoT-SORT measures that motion in the pictures; the centre has none. But the detections tell it
//! too: the median of how far the matched ones lie from where they were predicted. The places are
//! moved by it and the first step is done again.

use super::assignment::{Pair, best_pairs};
use super::kalman::{LONGEST_COAST_S, Motion, Shift};
use super::rectangle::Rectangle;
use super::tracklet::Tracklet;
use super::{Detection, Settings};

/// With fewer matches the median would be the motion of one object, not of the camera.
const LEAST_MATCHES_FOR_SHIFT: usize = 3;

/// The distance squared that 99 of 100 objects keep to: the quantile of chi-squared for two
/// coordinates.
const WITHIN_REACH: f64 = 9.21;
/// Least likeness of size of two boxes without overlap that may be one object.
const SAME_SIZE: f64 = 0.8;

/// Which detection belongs to which track.
pub(super) struct Association {
    /// For each tracklet its detection.
    pub detection_of: Vec<Option<usize>>,
    /// For each tracklet its motion by now, before what was seen in this frame.
    pub predicted: Vec<Motion>,
    /// How the picture moved, beyond what the tracks' own motion explains.
    pub shift: Shift,
}

impl Association {
    pub fn new(
        settings: &Settings,
        tracklets: &[Tracklet],
        detections: &[Detection],
        mono_us: u64,
    ) -> Self {
        let predicted: Vec<Motion> = tracklets.iter().map(|t| t.predicted(mono_us)).collect();
        let mut matching = Matching {
            settings,
            tracklets,
            detections,
            places: predicted.iter().map(Motion::place).collect(),
            boxes: detections.iter().map(|d| Rectangle::from_px(d.box_px)).collect(),
            detection_of: vec![None; tracklets.len()],
            taken: vec![false; detections.len()],
        };
        matching.good_to_all();
        let shift = matching.shift();
        if shift != Shift::default() {
            matching.start_again_shifted(shift);
            matching.good_to_all();
        }
        matching.weak_to_those_in_view();
        matching.good_to_those_within_reach(&predicted, shift, mono_us);
        Self { detection_of: matching.detection_of, predicted, shift }
    }
}

/// The matching of one frame as it proceeds.
struct Matching<'a> {
    settings: &'a Settings,
    tracklets: &'a [Tracklet],
    detections: &'a [Detection<'a>],
    /// Where the tracklets should be.
    places: Vec<Rectangle>,
    /// Where the detections are.
    boxes: Vec<Rectangle>,
    detection_of: Vec<Option<usize>>,
    taken: Vec<bool>,
}

impl Matching<'_> {
    fn good_to_all(&mut self) {
        let settings = self.settings;
        self.step(
            |_| true,
            |score| score >= settings.high_score as f32,
            |fit, score| fit * score - settings.min_overlap,
        );
    }

    fn weak_to_those_in_view(&mut self) {
        let settings = self.settings;
        self.step(
            |tracklet| tracklet.is_confirmed(settings) && tracklet.missed_since_us().is_none(),
            |score| score >= settings.low_score as f32 && score < settings.high_score as f32,
            |fit, _| fit - settings.min_overlap_low,
        );
    }

    fn good_to_those_within_reach(&mut self, predicted: &[Motion], shift: Shift, mono_us: u64) {
        let good = self.settings.high_score as f32;
        let left: Vec<usize> = (0..self.detections.len())
            .filter(|&d| !self.taken[d] && self.detections[d].score >= good)
            .collect();
        let mut pairs = Vec::new();
        for (t, tracklet) in self.tracklets.iter().enumerate() {
            if self.detection_of[t].is_some()
                || tracklet.missed_since_us().is_some()
                || tracklet.unseen_s(mono_us) > LONGEST_COAST_S
            {
                continue;
            }
            let motion = predicted[t].shifted(shift);
            for &d in &left {
                let Detection { score, class, .. } = self.detections[d];
                let distance = motion.distance_squared(self.boxes[d], score);
                if distance < WITHIN_REACH
                    && motion.place().likeness_of_size(self.boxes[d]) >= SAME_SIZE
                    && tracklet.class() == class
                {
                    pairs.push(Pair { row: t, column: d, gain: 1.0 - distance / WITHIN_REACH });
                }
            }
        }
        self.take(&pairs);
    }

    /// Matches those that are still free and wanted, so that the sum of `gain(fit, score)` is
    /// greatest. What gains nothing, or is of another class, is not matched.
    fn step(
        &mut self,
        wants_tracklet: impl Fn(&Tracklet) -> bool,
        wants_score: impl Fn(f32) -> bool,
        gain: impl Fn(f64, f64) -> f64,
    ) {
        let wanted: Vec<(usize, f64)> = (0..self.detections.len())
            .filter(|&d| !self.taken[d] && wants_score(self.detections[d].score))
            .map(|d| (d, f64::from(self.detections[d].score)))
            .collect();
        let mut pairs = Vec::new();
        for (t, tracklet) in self.tracklets.iter().enumerate() {
            if self.detection_of[t].is_some() || !wants_tracklet(tracklet) {
                continue;
            }
            for &(d, score) in &wanted {
                let fit = self.fit(t, d);
                let gain = gain(fit, score);
                if fit > 0.0 && gain > 0.0 && tracklet.class() == self.detections[d].class {
                    pairs.push(Pair { row: t, column: d, gain });
                }
            }
        }
        self.take(&pairs);
    }

    /// Matches the best of these pairs.
    fn take(&mut self, pairs: &[Pair]) {
        for (t, d) in best_pairs(self.tracklets.len(), self.detections.len(), pairs) {
            self.detection_of[t] = Some(d);
            self.taken[d] = true;
        }
    }

    /// How well a detection fits a track, 0 (not at all, never matched) to 1.
    fn fit(&self, t: usize, d: usize) -> f64 {
        self.places[t].likeness(self.boxes[d])
    }

    /// How far the matched detections lie from where they were predicted, in the median.
    fn shift(&self) -> Shift {
        let matches: Vec<(Rectangle, Rectangle)> = self
            .detection_of
            .iter()
            .zip(&self.places)
            .filter_map(|(d, &place)| Some((place, self.boxes[(*d)?])))
            .collect();
        if matches.len() < LEAST_MATCHES_FOR_SHIFT {
            return Shift::default();
        }
        Shift {
            x: median(matches.iter().map(|(place, seen)| seen.x - place.x).collect()),
            y: median(matches.iter().map(|(place, seen)| seen.y - place.y).collect()),
        }
    }

    fn start_again_shifted(&mut self, shift: Shift) {
        for place in &mut self.places {
            place.x += shift.x;
            place.y += shift.y;
        }
        self.detection_of.fill(None);
        self.taken.fill(false);
    }
}

/// Of at least one number.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 {
        numbers[middle]
    } else {
        (numbers[middle - 1] + numbers[middle]) / 2.0
    }
}
