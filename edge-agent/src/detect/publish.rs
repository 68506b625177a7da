//! What is published of a camera's frames: the policy, and the moments around a detection. Pure.

use picket_wire::observation::FrameFate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::best_crop::BestCropSettings;
use super::settings::OutOfRange;

/// What is published of a camera's frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishSettings {
    /// Of which frames the picture goes out.
    #[serde(default)]
    pub policy: PublishPolicy,
    /// Width of the pictures, pixels; that of the camera if unset, and never more.
    #[serde(default)]
    pub width_px: Option<u32>,
    /// JPEG quality, 1 to 100.
    #[serde(default = "default_quality")]
    pub quality: u8,
    /// With the policy `with-detections`: the pictures of so many milliseconds before a detection go
    /// out too. Each frame is then encoded, and kept in memory until it is too old.
    #[serde(default)]
    pub before_ms: u32,
    /// Memory for these pictures, bytes; the oldest go first.
    #[serde(default = "default_before_bytes")]
    pub before_bytes: u32,
    /// With the policy `with-detections`: the pictures of so many milliseconds after a detection go
    /// out too. The motion gate lets all of them through.
    #[serde(default)]
    pub after_ms: u32,
    /// Publishes the best crop of a face of each window of time, whatever the policy; not done if
    /// unset. `best_crop = {}` does it with the defaults.
    #[serde(default)]
    pub best_crop: Option<BestCropSettings>,
}

fn default_quality() -> u8 {
    85
}

fn default_before_bytes() -> u32 {
    8 << 20
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self {
            policy: PublishPolicy::default(),
            width_px: None,
            quality: default_quality(),
            before_ms: 0,
            before_bytes: default_before_bytes(),
            after_ms: 0,
            best_crop: None,
        }
    }
}

impl PublishSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let refuse =
            |field, value: u32, range| Err(OutOfRange { field, value: value.to_string(), range });
        if !(1..=100).contains(&self.quality) {
            return refuse("publish.quality", u32::from(self.quality), "1 to 100");
        }
        if let Some(px) = self.width_px.filter(|px| !(16..=16384).contains(px)) {
            return refuse("publish.width_px", px, "16 to 16384");
        }
        if self.before_ms > 60_000 {
            return refuse("publish.before_ms", self.before_ms, "at most 60000");
        }
        if !(65_536..=268_435_456).contains(&self.before_bytes) {
            return refuse("publish.before_bytes", self.before_bytes, "65536 to 268435456");
        }
        if self.after_ms > 3_600_000 {
            return refuse("publish.after_ms", self.after_ms, "at most 3600000");
        }
        let around = if self.before_ms > 0 { self.before_ms } else { self.after_ms };
        if around > 0 && self.policy != PublishPolicy::WithDetections {
            let range = "0, unless publish.policy is `with-detections`";
            return refuse("publish.before_ms, publish.after_ms", around, range);
        }
        self.best_crop.map_or(Ok(()), |best_crop| best_crop.check())
    }
}

/// Of which frames the picture goes out. The observation always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PublishPolicy {
    /// Of every frame.
    All,
    /// Of those in which something was found.
    #[default]
    WithDetections,
    /// Of none.
    ObservationsOnly,
}

/// Decides frame by frame, for one camera.
pub struct Publishing {
    policy: PublishPolicy,
    before_ms: u32,
    after_us: u64,
    /// Until when the pictures after a detection go out.
    after_until_us: Option<u64>,
}

impl Publishing {
    /// By these settings.
    pub fn new(settings: &PublishSettings) -> Self {
        Self {
            policy: settings.policy,
            before_ms: settings.before_ms,
            after_us: u64::from(settings.after_ms) * 1000,
            after_until_us: None,
        }
    }

    /// What becomes of the picture of a frame with so many detections.
    pub fn fate(&mut self, detections: usize, now_us: u64) -> FrameFate {
        match self.policy {
            PublishPolicy::All => FrameFate::Published,
            PublishPolicy::ObservationsOnly => FrameFate::Withheld,
            PublishPolicy::WithDetections if detections > 0 => {
                self.after_until_us = (self.after_us > 0).then(|| now_us + self.after_us);
                FrameFate::Published
            }
            PublishPolicy::WithDetections if self.is_after_detection(now_us) => {
                FrameFate::Published
            }
            PublishPolicy::WithDetections if self.before_ms > 0 => FrameFate::Possible,
            PublishPolicy::WithDetections => FrameFate::Withheld,
        }
    }

    fn is_after_detection(&self, now_us: u64) -> bool {
        self.after_until_us
            .is_some_and(|until_us| now_us <= until_us && now_us + self.after_us >= until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(settings: PublishSettings, detections: &[usize]) -> String {
        let mut publishing = Publishing::new(&settings);
        let frames = (0..).zip(detections);
        let fates = frames.map(|(n, count)| publishing.fate(*count, n * 100_000));
        fates
            .map(|fate| match fate {
                FrameFate::Published => 'p',
                FrameFate::Withheld => '-',
                FrameFate::Possible => '?',
            })
            .collect()
    }

    const SCENE: &[usize] = &[0, 0, 1, 2, 0, 0, 0, 0, 1, 0];

    #[test]
    fn the_policy_says_which_pictures_go_out() {
        let with = |policy| PublishSettings { policy, ..PublishSettings::default() };
        assert_eq!(fates(with(PublishPolicy::All), SCENE), "pppppppppp");
        assert_eq!(fates(with(PublishPolicy::WithDetections), SCENE), "--pp----p-");
        assert_eq!(fates(with(PublishPolicy::ObservationsOnly), SCENE), "----------");
    }

    #[test]
    fn the_moments_after_a_detection_go_out_and_those_before_may() {
        let after = PublishSettings { after_ms: 250, ..PublishSettings::default() };
        assert_eq!(fates(after.clone(), SCENE), "--pppp--pp");
        let around = PublishSettings { before_ms: 500, ..after };
        assert_eq!(fates(around, SCENE), "??pppp??pp");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let settings = PublishSettings::default;
        assert!(settings().check().is_ok());
        let all = PublishPolicy::All;
        let best_crop = Some(BestCropSettings { every_ms: 1, ..BestCropSettings::default() });
        for (change, field) in [
            (PublishSettings { quality: 0, ..settings() }, "publish.quality"),
            (PublishSettings { width_px: Some(2), ..settings() }, "publish.width_px"),
            (PublishSettings { before_ms: 60_001, ..settings() }, "publish.before_ms"),
            (PublishSettings { before_bytes: 10, ..settings() }, "publish.before_bytes"),
            (PublishSettings { after_ms: 3_600_001, ..settings() }, "publish.after_ms"),
            (
                PublishSettings { policy: all, after_ms: 10, ..settings() },
                "publish.before_ms, publish.after_ms",
            ),
            (PublishSettings { best_crop, ..settings() }, "publish.best_crop.every_ms"),
        ] {
            assert_eq!(change.check().unwrap_err().field, field);
        }
    }
}
