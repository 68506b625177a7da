//! What a camera's pictures look like: whether they change, and whether they show anything.
//!
//! A camera may go on giving buffers when it sees nothing any more: its sensor hangs, its lens is
//! covered, its encoder repeats the last picture. Two cheap looks at the luma plane find that. Both
//! are suspicions. The noise of a sensor changes some sample in every picture, but an encoder may
//! leave a still scene out altogether, and a night may be black: so it is said, and nothing is done.

use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use picket_wire::status::PictureState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::planes::Planes;

/// How often a picture is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// When a camera's picture is called frozen, unless the settings say otherwise, seconds.
pub(super) const FROZEN_AFTER_S: u32 = 30;
/// When it is called black.
const BLACK_AFTER_S: u32 = 10;
/// Samples across a picture, and down it.
const GRID: (usize, usize) = (64, 48);
/// A black picture may show a clock or a name: this share of its samples may be bright.
const BRIGHT_SHARE: f64 = 0.004;

/// When a camera counts as silent, stuck, frozen or black.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatchSettings {
    /// A camera that gave no frame for so long is opened again, seconds.
    pub stall_after_s: u32,
    /// A camera whose driver did not return for so long is left behind, and opened again beside it,
    /// seconds.
    pub stuck_after_s: u32,
    /// The same picture over and over for so long is called frozen, seconds; 0 never. Unset means 30
    /// for cameras, and never for files and test patterns.
    pub frozen_after_s: Option<u32>,
    /// A black picture for so long is called black, seconds; 0 never. Unset means 10 for cameras, and
    /// never for files and test patterns.
    pub black_after_s: Option<u32>,
    /// Luma up to which a sample is black, 0 to 255. Cameras give 16 for black, and a little more at
    /// night.
    pub black_luma: u8,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            stall_after_s: 15,
            stuck_after_s: 20,
            frozen_after_s: None,
            black_after_s: None,
            black_luma: 24,
        }
    }
}

impl WatchSettings {
    /// The field that cannot work, what it is, and what it may be.
    pub fn check(&self) -> Result<(), (&'static str, u32, &'static str)> {
        let fields = [
            ("watch.stall_after_s", self.stall_after_s, 1),
            ("watch.stuck_after_s", self.stuck_after_s, 5),
            ("watch.frozen_after_s", self.frozen_after_s.unwrap_or(0), 0),
            ("watch.black_after_s", self.black_after_s.unwrap_or(0), 0),
        ];
        for (field, seconds, least) in fields {
            if !(least..=3600).contains(&seconds) {
                let range = match least {
                    0 => "0 to 3600 seconds",
                    1 => "1 to 3600 seconds",
                    _ => "5 to 3600 seconds",
                };
                return Err((field, seconds, range));
            }
        }
        Ok(())
    }
}

/// What a look at a picture gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    signature: u64,
    black: bool,
}

impl Look {
    /// Samples the luma plane.
    pub fn at(planes: &Planes, black_luma: u8) -> Self {
        let luma = planes.y();
        let (width, height) = (luma.width as usize, luma.height as usize);
        let (across, down) = (width.min(GRID.0), height.min(GRID.1));
        let mut hasher = DefaultHasher::new();
        let (mut sum, mut bright) = (0u64, 0usize);
        for row in 0..down {
            let begin = (row * height / down) * luma.stride;
            for column in 0..across {
                let sample = luma.data[begin + column * width / across];
                hasher.write_u8(sample);
                sum += u64::from(sample);
                bright += usize::from(sample > black_luma);
            }
        }
        let samples = across * down;
        let black = sum <= u64::from(black_luma) * samples as u64
            && bright as f64 <= BRIGHT_SHARE * samples as f64;
        Self { signature: hasher.finish(), black }
    }
}

/// Judges the pictures of one camera.
#[derive(Debug)]
pub struct Watch {
    frozen_after: Option<Duration>,
    black_after: Option<Duration>,
    black_luma: u8,
    looked: Option<Instant>,
    /// What the last pictures have in common, and since when.
    same: Option<(u64, Instant)>,
    black_since: Option<Instant>,
    no_signal: bool,
}

impl Watch {
    /// As the settings say; what they leave open depends on whether a camera is behind the source.
    pub fn new(settings: &WatchSettings, is_camera: bool) -> Self {
        let after = |seconds: Option<u32>, usual: u32| {
            let seconds = seconds.unwrap_or(if is_camera { usual } else { 0 });
            (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
        };
        Self {
            frozen_after: after(settings.frozen_after_s, FROZEN_AFTER_S),
            black_after: after(settings.black_after_s, BLACK_AFTER_S),
            black_luma: settings.black_luma,
            looked: None,
            same: None,
            black_since: None,
            no_signal: false,
        }
    }

    /// Takes note of a picture: a look at two of them in a second is enough.
    pub fn picture(&mut self, planes: &Planes, now: Instant) {
        let idle = self.frozen_after.is_none() && self.black_after.is_none();
        let early = self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY);
        if !idle && !early {
            self.looked(Look::at(planes, self.black_luma), now);
        }
    }

    fn looked(&mut self, look: Look, now: Instant) {
        self.looked = Some(now);
        if self.same.is_none_or(|(signature, _)| signature != look.signature) {
            self.same = Some((look.signature, now));
        }
        self.black_since = look.black.then(|| self.black_since.unwrap_or(now));
    }

    /// The driver says whether anything is connected to the camera's input.
    pub fn signal(&mut self, there: bool) {
        self.no_signal = !there;
    }

    /// The source was opened again: nothing is known of its pictures.
    pub fn begin_anew(&mut self) {
        (self.looked, self.same, self.black_since, self.no_signal) = (None, None, None, false);
    }

    /// What they look like now; `None` if that is not judged, or nothing was seen yet.
    pub fn state(&self) -> Option<PictureState> {
        if self.no_signal {
            return Some(PictureState::NoSignal);
        }
        // From the first such picture to the last: of the time since, they say nothing.
        let looked = self.looked?;
        let longer = |since: Option<Instant>, limit: Option<Duration>| {
            since.zip(limit).is_some_and(|(since, limit)| looked.duration_since(since) >= limit)
        };
        // A black picture is often the same one too; what it shows says more than that.
        if longer(self.black_since, self.black_after) {
            return Some(PictureState::Black);
        }
        if longer(self.same.map(|(_, since)| since), self.frozen_after) {
            return Some(PictureState::Frozen);
        }
        Some(PictureState::Changing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::planes::{Matrix, Range};
    use super::*;

    fn picture(luma: impl Fn(usize) -> u8) -> Planes {
        let y = (0..128 * 96).map(luma).collect();
        let chroma = || (vec![128; 64 * 48], 64);
        let planes = [(y, 128), chroma(), chroma()];
        Planes::from_vecs(128, 96, planes, Matrix::Bt601, Range::Limited).unwrap()
    }

    fn watch() -> Watch {
        Watch::new(&WatchSettings::default(), true)
    }

    fn second(start: Instant, n: u64) -> Instant {
        start + Duration::from_secs(n)
    }

    #[test]
    fn the_same_picture_over_and_over_is_called_frozen_until_another_comes() {
        let (mut watch, start) = (watch(), Instant::now());
        let still = picture(|n| (n % 200) as u8);
        assert_eq!(watch.state(), None, "nothing was seen");
        for n in 0..=40 {
            watch.picture(&still, second(start, n));
            let expected = if n < 30 { PictureState::Changing } else { PictureState::Frozen };
            assert_eq!(watch.state(), Some(expected), "second {n}");
        }
        watch.picture(&picture(|n| (n % 199) as u8), second(start, 41));
        assert_eq!(watch.state(), Some(PictureState::Changing));
    }

    #[test]
    fn of_the_time_after_the_last_picture_nothing_is_said() {
        let (mut watch, start) = (watch(), Instant::now());
        let dark = picture(|_| 17);
        watch.picture(&dark, start);
        assert_eq!(watch.state(), Some(PictureState::Changing));
        watch.picture(&dark, second(start, 50));
        assert_eq!(watch.state(), Some(PictureState::Black));
    }

    #[test]
    fn a_camera_whose_pictures_differ_by_noise_is_not_frozen() {
        let (mut watch, start) = (watch(), Instant::now());
        for n in 0..100 {
            // One bit of every hundredth pixel.
            let noisy = picture(|pixel| 80 + u8::from((pixel as u64 + n * 7).is_multiple_of(100)));
            watch.picture(&noisy, second(start, n));
            assert_eq!(watch.state(), Some(PictureState::Changing), "second {n}");
        }
    }

    #[test]
    fn a_black_picture_is_called_black_also_with_a_clock_in_its_corner() {
        for (bright, expected) in [(0, PictureState::Black), (20, PictureState::Black)] {
            let (mut watch, start) = (watch(), Instant::now());
            let dark = picture(|n| if n < bright { 235 } else { 17 });
            (0..=10).for_each(|n| watch.picture(&dark, second(start, n)));
            assert_eq!(watch.state(), Some(expected), "{bright}");
        }
        let (mut watch, start) = (watch(), Instant::now());
        let dim = picture(|n| if n % 3 == 0 { 60 } else { 17 });
        (0..=10).for_each(|n| watch.picture(&dim, second(start, n)));
        assert_eq!(watch.state(), Some(PictureState::Changing));
    }

    #[test]
    fn a_lost_signal_stands_above_what_the_pictures_show() {
        let (mut watch, start) = (watch(), Instant::now());
        watch.picture(&picture(|_| 80), start);
        watch.signal(false);
        assert_eq!(watch.state(), Some(PictureState::NoSignal));
        watch.signal(true);
        assert_eq!(watch.state(), Some(PictureState::Changing));
    }

    #[test]
    fn files_and_patterns_are_judged_only_when_asked() {
        let asked = WatchSettings { frozen_after_s: Some(5), ..WatchSettings::default() };
        let start = Instant::now();
        for (settings, expected) in
            [(WatchSettings::default(), None), (asked, Some(PictureState::Frozen))]
        {
            let mut watch = Watch::new(&settings, false);
            (0..=9).for_each(|n| watch.picture(&picture(|_| 80), second(start, n)));
            assert_eq!(watch.state(), expected);
        }
    }

    #[test]
    fn limits_that_cannot_work_are_refused_by_name() {
        let short = WatchSettings { stuck_after_s: 1, ..WatchSettings::default() };
        assert_eq!(short.check().unwrap_err().0, "watch.stuck_after_s");
        assert_eq!(WatchSettings::default().check(), Ok(()));
    }
}
