//! The best crop of each window of time. The agent follows nobody from frame to frame, so it is the
//! best of the camera, not one of each person.

use std::time::{Duration, Instant};

use picket_wire::Picture;
use picket_wire::observation::{Detection, Quality};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resize::Part;
use super::settings::OutOfRange;

/// How the best crop of each window is published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestCropSettings {
    /// Length of a window, milliseconds. It begins with a detection.
    #[serde(default = "default_every_ms")]
    pub every_ms: u32,
    /// How far the crop reaches beyond the box on each side, in shares of its width and height.
    #[serde(default = "default_margin")]
    pub margin: f32,
    /// Least quality of a face whose crop is published, 0 to 1.
    #[serde(default)]
    pub least_quality: f32,
    /// Width of the crop, pixels; that of the frame's pixels if unset, and never more.
    #[serde(default)]
    pub width_px: Option<u32>,
}

fn default_every_ms() -> u32 {
    10_000
}

fn default_margin() -> f32 {
    0.3
}

impl Default for BestCropSettings {
    fn default() -> Self {
        Self {
            every_ms: default_every_ms(),
            margin: default_margin(),
            least_quality: 0.0,
            width_px: None,
        }
    }
}

impl BestCropSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let refuse = |field, value: String, range| Err(OutOfRange { field, value, range });
        if !(1000..=3_600_000).contains(&self.every_ms) {
            let value = self.every_ms.to_string();
            return refuse("publish.best_crop.every_ms", value, "1000 to 3600000");
        }
        if !(0.0..=2.0).contains(&self.margin) {
            return refuse("publish.best_crop.margin", self.margin.to_string(), "0 to 2");
        }
        if !(0.0..=1.0).contains(&self.least_quality) {
            let value = self.least_quality.to_string();
            return refuse("publish.best_crop.least_quality", value, "0 to 1");
        }
        match self.width_px.filter(|px| !(16..=16384).contains(px)) {
            Some(px) => refuse("publish.best_crop.width_px", px.to_string(), "16 to 16384"),
            None => Ok(()),
        }
    }
}

/// One camera's window.
pub struct BestCrop {
    settings: BestCropSettings,
    window: Option<Window>,
}

struct Window {
    began_us: u64,
    since: Instant,
    quality: f32,
    crop: Picture,
}

impl BestCrop {
    /// No window is open before the first detection.
    pub fn new(settings: BestCropSettings) -> Self {
        Self { settings, window: None }
    }

    /// Width of the crop, if one is asked for.
    pub fn width_px(&self) -> Option<u32> {
        self.settings.width_px
    }

    /// The crop of a window that is over at this time of the frames.
    pub fn over(&mut self, now_us: u64) -> Option<Picture> {
        let window_us = u64::from(self.settings.every_ms) * 1000;
        let is_over = |window: &Window| now_us.abs_diff(window.began_us) >= window_us;
        if self.window.as_ref().is_some_and(is_over) { self.close() } else { None }
    }

    /// The same by the clock, for a camera that fell silent.
    pub fn over_by_clock(&mut self, now: Instant) -> Option<Picture> {
        let window = Duration::from_millis(u64::from(self.settings.every_ms));
        let is_over = |open: &Window| now.saturating_duration_since(open.since) >= window;
        if self.window.as_ref().is_some_and(is_over) { self.close() } else { None }
    }

    /// The crop of the window, which is closed; `None` if there is none.
    pub fn close(&mut self) -> Option<Picture> {
        self.window.take().map(|window| window.crop)
    }

    /// Whether a window is open.
    pub fn is_open(&self) -> bool {
        self.window.is_some()
    }

    /// Which of these detections is better than what the window has: its index, its quality, and
    /// what is to be cut out of a frame of this size.
    pub fn better(
        &self,
        detections: &[Detection],
        frame_px: (u32, u32),
    ) -> Option<(usize, f32, Part)> {
        let score = |detection: &Detection| detection.quality.map(|Quality { score, .. }| score);
        let scores = detections.iter().enumerate().filter_map(|(n, d)| Some((n, score(d)?)));
        // The first of equals: the surest.
        let (index, quality) = scores.min_by(|(_, a), (_, b)| b.total_cmp(a))?;
        let known = self.window.as_ref().map(|window| window.quality);
        if quality < self.settings.least_quality || known.is_some_and(|known| known >= quality) {
            return None;
        }
        let [x, y, width, height] = detections.get(index)?.box_px;
        let (by_x, by_y) = (width * self.settings.margin, height * self.settings.margin);
        let box_px = [x - by_x, y - by_y, width + 2.0 * by_x, height + 2.0 * by_y];
        Some((index, quality, Part::within(box_px, frame_px)?.even()))
    }

    /// Keeps a crop that is better than the one before.
    pub fn keep(&mut self, crop: Picture, quality: f32) {
        let (began_us, since) = match &self.window {
            Some(window) => (window.began_us, window.since),
            None => (crop.stamp.mono_us, Instant::now()),
        };
        self.window = Some(Window { began_us, since, quality, crop });
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::{ClockState, Stamp};

    use super::*;

    fn detection(score: f32) -> Detection {
        let quality =
            Quality { score, size_px: 20.0, sharpness: 1.0, yaw_deg: None, roll_deg: None };
        Detection {
            box_px: [51.0, 41.0, 20.0, 30.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: Some(quality),
        }
    }

    fn crop(seq: u64) -> Picture {
        let mono_us = seq * 1_000_000;
        Picture {
            id: format!("box/cam/1-00000001/{seq}").parse().unwrap(),
            crop: Some(0),
            stamp: Stamp { mono_us, captured_at: None, clock: ClockState::Unset },
            width: 20,
            height: 30,
            redacted: "none".to_owned(),
            jpeg: Vec::new(),
        }
    }

    #[test]
    fn each_window_gives_its_best_face_once() {
        let mut best = BestCrop::new(BestCropSettings::default());
        let mut published = Vec::new();
        for (second, quality) in (1..).zip([0.3, 0.8, 0.5, 0.8, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4])
        {
            published.extend(best.over(second * 1_000_000).map(|picture| picture.id.seq));
            if let Some((_, quality, _)) = best.better(&[detection(quality)], (640, 480)) {
                best.keep(crop(second), quality);
            }
        }
        published.extend(best.close().map(|picture| picture.id.seq));
        assert_eq!(published, [2, 11]);
        assert!(!best.is_open());
    }

    #[test]
    fn the_best_of_a_frame_is_cut_out_with_its_margin_within_the_frame() {
        let best = BestCrop::new(BestCropSettings { margin: 0.5, ..BestCropSettings::default() });
        let faces = [detection(0.4), detection(0.6), detection(0.6)];
        let (index, quality, part) = best.better(&faces, (75, 480)).unwrap();
        assert_eq!((index, quality), (1, 0.6));
        assert_eq!(part, Part { left: 40, top: 26, width: 35, height: 60 });
        assert!(best.better(&[], (640, 480)).is_none());
    }

    #[test]
    fn a_face_below_the_least_quality_opens_no_window() {
        let settings = BestCropSettings { least_quality: 0.5, ..BestCropSettings::default() };
        assert!(BestCrop::new(settings).better(&[detection(0.4)], (640, 480)).is_none());
    }

    #[test]
    fn the_window_of_a_camera_that_fell_silent_ends_by_the_clock() {
        let mut best = BestCrop::new(BestCropSettings::default());
        best.keep(crop(1), 0.5);
        assert!(best.over_by_clock(Instant::now()).is_none());
        let later = Instant::now() + Duration::from_secs(10);
        assert_eq!(best.over_by_clock(later).map(|picture| picture.id.seq), Some(1));
    }
}
