//! The motion gate: whether a frame is worth the detector's time. Pure; it sees luma and media times.
//!
//! The picture is reduced to cells, each the mean of some 8x8 pixels, which takes most of a sensor's
//! noise. A frame is compared with the one that was *looked at last*, not with the one before it:
//! what moves too slowly to be seen from one frame to the next adds up until it is seen.
//!
//! A frame is looked at when enough cells have changed, for some seconds after a detection or a
//! motion, and from time to time regardless. So a face that was found is looked at in every frame as
//! long as it is found, however still it keeps; the gate saves the work on scenes without faces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cells::{Cells, ONE, factor};
use super::region::{self, Region};
use super::settings::OutOfRange;
use crate::capture::planes::{Plane, Range};

/// Which frames the detector looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MotionSettings {
    /// Whether frames in which nothing moves are left out, and accounted for as skipped. Unset: yes
    /// for cameras and for videos at their own pace, no for a recording that is read with
    /// `pace = "none"`, of which nothing is to be skipped.
    #[serde(default)]
    pub gate: Option<bool>,
    /// How long at most nothing is looked at, milliseconds. A face that appears without any motion is
    /// found after this time at the latest.
    #[serde(default = "default_look_every_ms")]
    pub look_every_ms: u32,
    /// How long every frame is looked at after a detection or a motion, milliseconds.
    #[serde(default = "default_keep_looking_ms")]
    pub keep_looking_ms: u32,
    /// By how many of 256 steps of brightness a cell must change to count as moved. Less is more
    /// sensitive; below some 6, the noise of a camera at night counts as motion.
    #[serde(default = "default_change_luma")]
    pub change_luma: u8,
    /// Which share of the picture, less what is ignored, must have moved. The smallest face that is
    /// found at `detect.input_width_px = 320` fills 0.0017 of a 16:9 picture.
    #[serde(default = "default_area_share")]
    pub area_share: f32,
    /// Parts of the picture whose motion does not count: trees, a road, the clock in the picture.
    /// Faces in them are still found when a frame is looked at.
    #[serde(default)]
    pub ignore: Vec<Region>,
}

fn default_look_every_ms() -> u32 {
    1000
}

fn default_keep_looking_ms() -> u32 {
    3000
}

fn default_change_luma() -> u8 {
    12
}

fn default_area_share() -> f32 {
    0.001
}

impl Default for MotionSettings {
    fn default() -> Self {
        Self {
            gate: None,
            look_every_ms: default_look_every_ms(),
            keep_looking_ms: default_keep_looking_ms(),
            change_luma: default_change_luma(),
            area_share: default_area_share(),
            ignore: Vec::new(),
        }
    }
}

impl MotionSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let refuse = |field, value: String, range| Err(OutOfRange { field, value, range });
        if !(100..=3_600_000).contains(&self.look_every_ms) {
            let value = self.look_every_ms.to_string();
            return refuse("motion.look_every_ms", value, "100 to 3600000");
        }
        if self.keep_looking_ms > 3_600_000 {
            let value = self.keep_looking_ms.to_string();
            return refuse("motion.keep_looking_ms", value, "at most 3600000");
        }
        if self.change_luma == 0 {
            return refuse("motion.change_luma", "0".to_owned(), "1 to 255");
        }
        if !(self.area_share > 0.0 && self.area_share <= 1.0) {
            let value = self.area_share.to_string();
            return refuse("motion.area_share", value, "above 0 and at most 1");
        }
        match region::problem(&self.ignore) {
            Some((value, range)) => refuse("motion.ignore", value, range),
            None => Ok(()),
        }
    }
}

/// What the gate says of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    /// Whether it is to be looked at.
    pub looks: bool,
    /// Share of the picture that has changed since the last look, 0 to 1.
    pub score: f32,
}

/// One camera's gate.
pub struct Gate {
    settings: MotionSettings,
    cells: Cells,
    /// The cells of the frame that was looked at last, and which of them count.
    reference: Vec<u8>,
    counts: Vec<bool>,
    looked_at_us: Option<u64>,
    keep_until_us: u64,
    /// How long every frame is looked at after a detection, and until when.
    after_found_us: u64,
    found_until_us: Option<u64>,
}

impl Gate {
    /// A gate that has seen nothing. The frames of so many milliseconds after a detection are to be
    /// published: so they are looked at, also if that is longer than the settings say.
    pub fn new(settings: MotionSettings, after_ms: u32) -> Self {
        Self {
            after_found_us: u64::from(after_ms.max(settings.keep_looking_ms)) * 1000,
            found_until_us: None,
            settings,
            cells: Cells::default(),
            reference: Vec::new(),
            counts: Vec::new(),
            looked_at_us: None,
            keep_until_us: 0,
        }
    }

    /// Judges the next frame. One that is to be looked at becomes what the next ones are compared
    /// with.
    pub fn judge(&mut self, luma: Plane<'_>, range: Range, now_us: u64) -> Motion {
        let score = if self.cells.fill(luma) {
            self.count_cells();
            1.0
        } else {
            self.changed(range)
        };
        let moved = score >= self.settings.area_share;
        if moved {
            self.keep_looking(now_us);
        }
        // A time before the last look is that of a source that began anew.
        let due = self.looked_at_us.is_none_or(|last_us| {
            now_us < last_us || now_us - last_us >= u64::from(self.settings.look_every_ms) * 1000
        });
        let looks = moved || due || now_us <= self.keep_until_us || self.is_after_found(now_us);
        if looks {
            self.looked_at_us = Some(now_us);
            self.reference.clone_from(&self.cells.levels);
        }
        Motion { looks, score }
    }

    /// Something was found in the frame of this time.
    pub fn found(&mut self, now_us: u64) {
        self.found_until_us = Some(now_us + self.after_found_us);
    }

    fn is_after_found(&self, now_us: u64) -> bool {
        let within = |until_us| now_us <= until_us && now_us + self.after_found_us >= until_us;
        self.found_until_us.is_some_and(within)
    }

    fn keep_looking(&mut self, now_us: u64) {
        self.keep_until_us = now_us + u64::from(self.settings.keep_looking_ms) * 1000;
    }

    /// Which cells count, of a picture of a new size.
    fn count_cells(&mut self) {
        self.counts.clear();
        self.counts.resize(self.cells.levels.len(), true);
        let columns = self.cells.columns;
        let rows = self.cells.levels.len() / columns.max(1);
        for region in &self.settings.ignore {
            for (row, span) in region.spans((columns, rows)) {
                self.counts[row * columns + span.start..row * columns + span.end].fill(false);
            }
        }
    }

    /// Share of the cells that count which have changed.
    fn changed(&self, range: Range) -> f32 {
        let (black, white) = match range {
            Range::Limited => (16, 235),
            Range::Full => (0, 255),
        };
        let pairs = self.cells.levels.iter().zip(&self.reference).zip(&self.counts);
        // Cameras also give what lies beyond either end of the range.
        let level = |luma: &u8| u32::from(*luma).saturating_sub(black).min(white - black);
        let pairs = pairs.filter(|(_, counts)| **counts);
        let pairs = pairs.map(|((now, then), _)| (level(now), level(then)));
        let factor = factor(pairs.clone(), white - black);
        let (mut all, mut changed) = (0u32, 0u32);
        for (now, then) in pairs {
            let expected = (then * factor / ONE).min(white - black);
            all += 1;
            changed += u32::from(now.abs_diff(expected) >= u32::from(self.settings.change_luma));
        }
        changed as f32 / all.max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 180;
    /// Ten frames a second.
    const FRAME_US: u64 = 100_000;

    /// A street with shades from 40 to 200, and what is painted over it.
    struct Scene {
        luma: Vec<u8>,
        seed: u32,
    }

    impl Scene {
        fn new() -> Self {
            let shade = |at: usize| 40 + (at % WIDTH / 2) as u8;
            Self { luma: (0..WIDTH * HEIGHT).map(shade).collect(), seed: 1 }
        }

        fn paint(mut self, x: usize, y: usize, side: usize, level: u8) -> Self {
            for row in y..y + side {
                self.luma[row * WIDTH + x..row * WIDTH + x + side].fill(level);
            }
            self
        }

        fn brighter(mut self, factor: f32) -> Self {
            for pixel in &mut self.luma {
                *pixel = (16.0 + (f32::from(*pixel) - 16.0) * factor).clamp(16.0, 235.0) as u8;
            }
            self
        }

        /// Up to 10 steps either way, another way in each frame.
        fn noisy(mut self, frame: u32) -> Self {
            self.seed = frame.wrapping_mul(747_796_405) | 1;
            for pixel in &mut self.luma {
                self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *pixel = pixel.saturating_add_signed((self.seed >> 24) as i8 / 12);
            }
            self
        }

        fn judge(&self, gate: &mut Gate, now_us: u64) -> Motion {
            let plane = Plane {
                data: &self.luma,
                stride: WIDTH,
                width: WIDTH as u32,
                height: HEIGHT as u32,
            };
            gate.judge(plane, Range::Limited, now_us)
        }
    }

    /// A gate that looks once a second, has seen the empty scene at 0, and keeps looking no longer.
    fn gate() -> Gate {
        let settings = MotionSettings { keep_looking_ms: 0, ..MotionSettings::default() };
        let mut gate = Gate::new(settings, 0);
        assert!(Scene::new().judge(&mut gate, 0).looks, "the first frame");
        gate
    }

    #[test]
    fn what_is_brighter_than_white_or_darker_than_black_stands_still_as_well() {
        let scene = || Scene::new().paint(40, 40, 60, 255).paint(200, 40, 60, 0);
        let mut gate = gate();
        assert!(scene().judge(&mut gate, FRAME_US).looks, "it came");
        let after = scene().judge(&mut gate, 2 * FRAME_US);
        assert_eq!(after, Motion { looks: false, score: 0.0 });
    }

    #[test]
    fn a_still_scene_is_looked_at_once_a_second_whatever_the_noise() {
        let mut gate = gate();
        let looks: Vec<u64> = (1..=100)
            .filter(|n| Scene::new().noisy(*n as u32).judge(&mut gate, n * FRAME_US).looks)
            .collect();
        assert_eq!(looks, (10..=100).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn the_smallest_face_that_can_be_found_is_seen_when_it_comes_and_when_it_goes() {
        let mut gate = gate();
        let face = |x| Scene::new().paint(x, 80, 10, 150);
        assert!(face(61).judge(&mut gate, FRAME_US).looks);
        assert!(!face(61).judge(&mut gate, 2 * FRAME_US).looks, "it stands still");
        assert!(face(75).judge(&mut gate, 3 * FRAME_US).looks);
        assert!(Scene::new().judge(&mut gate, 4 * FRAME_US).looks);
    }

    #[test]
    fn what_moves_too_slowly_to_be_seen_between_two_frames_adds_up() {
        let mut gate = gate();
        let at = |n: u64| Scene::new().paint(60 + n as usize, 80, 12, 60);
        at(0).judge(&mut gate, 1);
        let looks: Vec<u64> =
            (1..=8).filter(|n| at(*n).judge(&mut gate, n * FRAME_US).looks).collect();
        assert!(!looks.contains(&1), "{looks:?}");
        assert!(!looks.is_empty(), "{looks:?}");
    }

    #[test]
    fn a_camera_that_adapts_its_exposure_moves_nothing() {
        for factor in [0.6, 0.8, 1.1, 1.5, 2.5] {
            let motion = Scene::new().brighter(factor).judge(&mut gate(), FRAME_US);
            assert!(!motion.looks, "{factor}: {motion:?}");
        }
    }

    #[test]
    fn a_face_is_seen_also_while_the_exposure_changes() {
        for factor in [0.6, 0.8, 1.1, 1.5] {
            let scene = Scene::new().paint(60, 80, 14, 180).brighter(factor);
            assert!(scene.judge(&mut gate(), FRAME_US).looks, "{factor}");
        }
    }

    #[test]
    fn a_light_that_is_switched_on_in_half_of_the_picture_is_motion() {
        let mut scene = Scene::new();
        for row in scene.luma.chunks_mut(WIDTH) {
            row[..WIDTH / 3].iter_mut().for_each(|pixel| *pixel = pixel.saturating_add(60));
        }
        assert!(scene.judge(&mut gate(), FRAME_US).looks);
    }

    #[test]
    fn motion_in_an_ignored_part_does_not_count_and_beside_it_does() {
        let polygon = vec![[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
        let ignore = vec![Region { name: "tree".to_owned(), polygon }];
        let mut gate = Gate::new(
            MotionSettings { keep_looking_ms: 0, ignore, ..MotionSettings::default() },
            0,
        );
        Scene::new().judge(&mut gate, 0);
        let motion = Scene::new().paint(20, 20, 100, 250).judge(&mut gate, FRAME_US);
        assert_eq!(motion, Motion { looks: false, score: 0.0 });
        assert!(Scene::new().paint(250, 100, 20, 20).judge(&mut gate, 2 * FRAME_US).looks);
    }

    #[test]
    fn every_frame_whose_picture_goes_out_after_a_detection_is_looked_at() {
        let settings = MotionSettings {
            look_every_ms: 60_000,
            keep_looking_ms: 1000,
            ..MotionSettings::default()
        };
        let mut gate = Gate::new(settings, 5000);
        Scene::new().judge(&mut gate, 0);
        gate.found(0);
        // A motion meanwhile keeps the gate open for a second, and does not shorten that.
        assert!(Scene::new().paint(60, 80, 40, 200).judge(&mut gate, FRAME_US).looks);
        let looks: Vec<u64> = (3..=100)
            .filter(|n| Scene::new().paint(60, 80, 40, 200).judge(&mut gate, n * FRAME_US).looks)
            .collect();
        assert_eq!(looks, (3..=50).collect::<Vec<_>>());
    }

    #[test]
    fn every_frame_is_looked_at_for_some_seconds_after_a_detection() {
        let settings = MotionSettings { keep_looking_ms: 500, ..MotionSettings::default() };
        let mut gate = Gate::new(settings, 0);
        Scene::new().judge(&mut gate, 0);
        gate.found(2 * FRAME_US);
        let looks: Vec<u64> =
            (1..=20).filter(|n| Scene::new().judge(&mut gate, n * FRAME_US).looks).collect();
        assert_eq!(looks, [1, 2, 3, 4, 5, 6, 7, 17]);
    }

    #[test]
    fn a_picture_of_another_size_is_looked_at() {
        let mut gate = gate();
        let data = [120; 64 * 48];
        let plane = Plane { data: &data, stride: 64, width: 64, height: 48 };
        assert!(gate.judge(plane, Range::Limited, FRAME_US).looks);
        assert!(!gate.judge(plane, Range::Limited, 2 * FRAME_US).looks);
    }

    #[test]
    fn a_source_whose_time_begins_anew_is_looked_at() {
        let mut gate = gate();
        Scene::new().judge(&mut gate, 1_000_000_000);
        assert!(Scene::new().judge(&mut gate, FRAME_US).looks);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let settings = MotionSettings::default;
        assert!(settings().check().is_ok());
        for (change, field) in [
            (MotionSettings { look_every_ms: 99, ..settings() }, "motion.look_every_ms"),
            (MotionSettings { change_luma: 0, ..settings() }, "motion.change_luma"),
            (MotionSettings { area_share: f32::NAN, ..settings() }, "motion.area_share"),
            (
                MotionSettings {
                    ignore: vec![Region { name: "x".into(), polygon: vec![] }],
                    ..settings()
                },
                "motion.ignore",
            ),
        ] {
            assert_eq!(change.check().unwrap_err().field, field);
        }
    }
}
