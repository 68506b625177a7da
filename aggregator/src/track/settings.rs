//! The tracker's settings. None depends on the camera: scores are the detector's, overlaps are
//! shares, times are milliseconds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A checkpoint holds up to two trackers of a camera in one MongoDB document of at most 16 MB.
const MOST_TRACKS: usize = 5000;

/// How detections are followed from frame to frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Detections with at least this score (0 to 1) are the first to be matched with tracks, and
    /// may bring a lost track back.
    pub high_score: f64,
    /// Detections with a score from here up to `high_score` (a face half hidden, a blurred frame)
    /// only continue a track that is in view. Those below are ignored.
    pub low_score: f64,
    /// A detection with at least this score that matches no track starts a new one. Not below
    /// `high_score`.
    pub birth_score: f64,
    /// Least likeness (0 to 1) of a detection and the place predicted for a track, times the
    /// detection's score, for the two to match. Likeness is the intersection over union of the boxes
    /// times that of their heights alone.
    pub min_overlap: f64,
    /// The same for detections below `high_score`, where the score does not count.
    pub min_overlap_low: f64,
    /// A detection that overlaps another one of its class by more than this (intersection over
    /// union, 0 to 1) starts no track if the other one has a track: it is taken for the same
    /// object, found twice. 1 turns this off.
    pub max_birth_overlap: f64,
    /// A track that was seen fewer times than this is tentative: it ends when it is missed once.
    pub confirm_observations: u32,
    /// How long a track that is looked for in vain is kept, from the first miss on, in
    /// milliseconds.
    pub max_lost_ms: u64,
    /// How long a track is kept that nobody looks for (motion gate, outage of the camera), in
    /// milliseconds since it was seen. Not below `max_lost_ms`.
    pub max_gap_ms: u64,
    /// Most tracks kept at one time, lost ones included. If there are more, the one that has been
    /// lost for the longest time ends; if none is lost, no track starts.
    pub max_tracks: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            high_score: 0.6,
            low_score: 0.05,
            birth_score: 0.7,
            min_overlap: 0.2,
            min_overlap_low: 0.5,
            max_birth_overlap: 0.6,
            confirm_observations: 2,
            max_lost_ms: 1500,
            max_gap_ms: 10_000,
            max_tracks: 500,
        }
    }
}

impl Settings {
    /// Says which setting makes no sense, by itself or beside another one.
    pub fn validate(&self) -> Result<(), String> {
        for (name, share) in [
            ("high_score", self.high_score),
            ("low_score", self.low_score),
            ("birth_score", self.birth_score),
            ("min_overlap", self.min_overlap),
            ("min_overlap_low", self.min_overlap_low),
            ("max_birth_overlap", self.max_birth_overlap),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} must be from 0 to 1, not {share}"));
            }
        }
        if self.low_score > self.high_score {
            return Err("low_score must not be above high_score".to_owned());
        }
        if self.birth_score < self.high_score {
            return Err("birth_score must not be below high_score".to_owned());
        }
        if self.max_gap_ms < self.max_lost_ms {
            return Err("max_gap_ms must not be below max_lost_ms".to_owned());
        }
        if !(1..=MOST_TRACKS).contains(&self.max_tracks) {
            return Err(format!("max_tracks must be from 1 to {MOST_TRACKS}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn each_setting_out_of_range_is_refused_by_name() {
        type Spoil = fn(&mut Settings);
        let wrong: [(&str, Spoil); 8] = [
            ("high_score", |s| s.high_score = 1.5),
            ("low_score", |s| s.low_score = f64::NAN),
            ("low_score", |s| s.low_score = 0.65),
            ("birth_score", |s| s.birth_score = 0.5),
            ("min_overlap", |s| s.min_overlap = -0.1),
            ("max_gap_ms", |s| s.max_gap_ms = 0),
            ("max_tracks", |s| s.max_tracks = 0),
            ("max_tracks", |s| s.max_tracks = usize::MAX),
        ];
        for (name, spoil) in wrong {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let said = settings.validate().unwrap_err();
            assert!(said.starts_with(name), "{name}: {said}");
        }
    }

    #[test]
    fn an_unknown_setting_is_an_error() {
        assert!(serde_json::from_str::<Settings>(r#"{"max_lost": 3}"#).is_err());
    }
}
