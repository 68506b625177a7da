//! One object as it is followed.

use serde::{Deserialize, Serialize};

use super::kalman::{Motion, Shift};
use super::rectangle::Rectangle;
use super::{Detection, Settings, TrackId, TrackSummary};

/// One object as it is followed. Its size does not grow with its age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tracklet {
    id: TrackId,
    class: String,
    first_mono_us: u64,
    last_mono_us: u64,
    first_observation: String,
    last_observation: String,
    observations: u64,
    best_score: f32,
    last_box_px: [f32; 4],
    /// When it was first looked for in vain since it was last seen.
    missed_since_us: Option<u64>,
    /// Its motion when it was last seen.
    motion: Motion,
}

impl Tracklet {
    pub fn born(observation: &str, index: usize, mono_us: u64, detection: &Detection) -> Self {
        Self {
            id: TrackId::new(observation, index),
            class: detection.class.to_owned(),
            first_mono_us: mono_us,
            last_mono_us: mono_us,
            first_observation: observation.to_owned(),
            last_observation: observation.to_owned(),
            observations: 1,
            best_score: detection.score,
            last_box_px: detection.box_px,
            missed_since_us: None,
            motion: Motion::new(Rectangle::from_px(detection.box_px)),
        }
    }

    /// It was found again. `predicted` is its motion at that time, before it was found.
    pub fn seen(
        &mut self,
        observation: &str,
        mono_us: u64,
        detection: &Detection,
        predicted: Motion,
    ) {
        self.last_mono_us = mono_us;
        observation.clone_into(&mut self.last_observation);
        self.observations += 1;
        self.best_score = self.best_score.max(detection.score);
        self.last_box_px = detection.box_px;
        self.missed_since_us = None;
        self.motion = predicted.corrected(Rectangle::from_px(detection.box_px), detection.score);
    }

    /// It was looked for in vain, in a picture that moved by `shift`.
    pub fn missed(&mut self, mono_us: u64, shift: Shift) {
        self.missed_since_us.get_or_insert(mono_us);
        self.motion = self.motion.shifted(shift);
    }

    /// Its motion by now, if it was not seen since.
    pub fn predicted(&self, mono_us: u64) -> Motion {
        self.motion.predicted(self.unseen_s(mono_us))
    }

    /// For how long it has not been seen.
    pub fn unseen_s(&self, mono_us: u64) -> f64 {
        mono_us.saturating_sub(self.last_mono_us) as f64 / 1e6
    }

    pub fn id(&self) -> &TrackId {
        &self.id
    }

    pub fn class(&self) -> &str {
        &self.class
    }

    pub fn is_confirmed(&self, settings: &Settings) -> bool {
        self.observations >= u64::from(settings.confirm_observations)
    }

    /// Since when it has been looked for in vain.
    pub fn missed_since_us(&self) -> Option<u64> {
        self.missed_since_us
    }

    /// Whether it has been out of sight for too long to be found again.
    pub fn is_over(&self, settings: &Settings, mono_us: u64) -> bool {
        let older = |since_us: u64, limit_ms: u64| {
            mono_us.saturating_sub(since_us) > limit_ms.saturating_mul(1000)
        };
        older(self.last_mono_us, settings.max_gap_ms)
            || self.missed_since_us.is_some_and(|since_us| older(since_us, settings.max_lost_ms))
    }

    pub fn summary(&self, ended: bool) -> TrackSummary {
        TrackSummary {
            id: self.id.clone(),
            class: self.class.clone(),
            first_mono_us: self.first_mono_us,
            last_mono_us: self.last_mono_us,
            first_observation: self.first_observation.clone(),
            last_observation: self.last_observation.clone(),
            observations: self.observations,
            best_score: self.best_score,
            last_box_px: self.last_box_px,
            ended,
        }
    }
}
