//! Looking along: what a person gets to know who asks the running agent what a camera sees.
//!
//! A camera has one [`Eyepiece`], and one person at a time looks through it. The detector's thread
//! counts what it does, and once a second of the camera's time makes a picture of it: each frame's
//! would cost more than looking at it, and frames cannot be kept until the end, as their memory is the
//! decoder's. What is handed on is the same as if nobody looked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use picket_wire::observation::Detection;
use serde::{Deserialize, Serialize};

use crate::capture::Planes;
use crate::capture::planes::Range;

/// How far apart pictures are at least.
const APART_US: u64 = 1_000_000;
/// Of the rows this share is measured for brightness: neighbours say the same.
const ROW_STEP: usize = 4;

/// Where somebody may look along at a camera of certain settings. What is seen with others, which may
/// have had fewer masks, is shown to nobody once they were changed.
#[derive(Debug, Default)]
pub struct Eyepiece {
    /// The same for all settings of the camera.
    looks: Arc<Mutex<Looks>>,
    /// How many changes there had been.
    changes: u64,
}

/// Who looks along at a camera, and what was seen.
#[derive(Debug, Default)]
struct Looks {
    begun: u64,
    changes: u64,
    /// With the look's number.
    present: Option<(u64, Glimpse)>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Glimpse {
    /// Frames that the detector looked at.
    pub looked_at: u64,
    /// Of these, with something found.
    pub with_found: u64,
    /// Frames that it was spared because nothing moved in them.
    pub still: u64,
    /// Why the last one that could not be looked at could not.
    pub failed: Option<String>,
    /// The newest that was made a picture of.
    pub shown: Option<Shown>,
    /// Whether the camera got other settings meanwhile: `shown` is of a later frame.
    pub changed: bool,
    shown_us: Option<u64>,
}

/// One frame, as a person sees it.
#[derive(Debug)]
pub struct Shown {
    /// When the detector got it.
    pub at: Instant,
    /// Width and height, pixels.
    pub size_px: (u32, u32),
    /// Mean luma, from 0 for black to 100 for white.
    pub brightness: f32,
    /// The variance of the Laplacian: of one scene greatest where the focus is right.
    pub sharpness: f32,
    /// What was found in it.
    pub found: Vec<Found>,
    /// A JPEG with boxes, and what of it was made unrecognisable; or why there is none.
    pub picture: Result<(Vec<u8>, &'static str), String>,
}

/// A detection, as a person wants to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub class: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// x, y of the upper left corner, width, height; pixels.
    pub box_px: [f32; 4],
}

impl From<&Detection> for Found {
    fn from(Detection { class, score, box_px, .. }: &Detection) -> Self {
        Self { class: class.clone(), score: *score, box_px: *box_px }
    }
}

/// Somebody who looks; let go, nobody does.
#[derive(Debug)]
pub struct Look {
    looks: Arc<Mutex<Looks>>,
    number: u64,
}

impl Eyepiece {
    /// Begins to look; `None` if somebody does already.
    pub fn look(&self) -> Option<Look> {
        let mut looks = lock(&self.looks);
        if looks.present.is_some() {
            return None;
        }
        looks.begun += 1;
        let number = looks.begun;
        looks.present = Some((number, Glimpse::default()));
        Some(Look { looks: Arc::clone(&self.looks), number })
    }

    /// The camera gets other settings: gives the one for these. Through this one nothing is seen any
    /// more, and whoever looks forgets what was: a new mask may cover it.
    pub fn after_change(&self) -> Self {
        let mut looks = lock(&self.looks);
        looks.changes += 1;
        if let Some((_, glimpse)) = &mut looks.present {
            (glimpse.shown, glimpse.shown_us, glimpse.failed) = (None, None, None);
            glimpse.changed = true;
        }
        Self { looks: Arc::clone(&self.looks), changes: looks.changes }
    }

    /// Counts a frame that was looked at; whether a picture of it is wanted.
    pub(super) fn looked_at(&self, now_us: u64, has_found: bool) -> bool {
        self.counted(now_us, |glimpse| {
            glimpse.looked_at += 1;
            glimpse.with_found += u64::from(has_found);
        })
    }

    /// Counts a frame in which nothing moved; whether a picture of it is wanted.
    pub(super) fn passed_by(&self, now_us: u64) -> bool {
        self.counted(now_us, |glimpse| glimpse.still += 1)
    }

    fn counted(&self, now_us: u64, count: impl FnOnce(&mut Glimpse)) -> bool {
        let wanted = self.seen(|glimpse| {
            count(glimpse);
            // A recording that begins again goes back in time.
            let last_us = glimpse.shown_us;
            let wanted = last_us.is_none_or(|last_us| now_us.abs_diff(last_us) >= APART_US);
            if wanted {
                glimpse.shown_us = Some(now_us);
            }
            wanted
        });
        wanted.unwrap_or(false)
    }

    /// Takes note of why a frame could not be looked at.
    pub(super) fn failed(&self, why: String) {
        self.seen(|glimpse| glimpse.failed = Some(why));
    }

    /// Takes the picture that was wanted, if somebody still looks.
    pub(super) fn show(&self, shown: Shown) {
        self.seen(|glimpse| glimpse.shown = Some(shown));
    }

    /// Adds to what is seen, if somebody looks and the settings are still these.
    fn seen<T>(&self, add: impl FnOnce(&mut Glimpse) -> T) -> Option<T> {
        let mut looks = lock(&self.looks);
        let is_current = looks.changes == self.changes;
        looks.present.as_mut().filter(|_| is_current).map(|(_, glimpse)| add(glimpse))
    }
}

/// Held for a few numbers only, never while a picture is made.
fn lock(looks: &Mutex<Looks>) -> MutexGuard<'_, Looks> {
    looks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Look {
    /// Ends it, and gives what was seen.
    pub fn end(self) -> Glimpse {
        self.take().unwrap_or_default()
    }

    /// Its own only: once it is taken, the next look may have begun.
    fn take(&self) -> Option<Glimpse> {
        let mut looks = lock(&self.looks);
        looks.present.take_if(|(number, _)| *number == self.number).map(|(_, glimpse)| glimpse)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Mean luma, from 0 for black to 100 for white.
pub(super) fn brightness(planes: &Planes) -> f32 {
    let luma = planes.y();
    let (mut sum, mut samples) = (0u64, 0u64);
    for row in (0..luma.height as usize).step_by(ROW_STEP).map(|index| luma.row(index)) {
        sum += row.iter().map(|&sample| u64::from(sample)).sum::<u64>();
        samples += row.len() as u64;
    }
    let mean = sum as f32 / samples.max(1) as f32;
    let (black, white) = match planes.range() {
        Range::Limited => (16.0, 235.0),
        Range::Full => (0.0, 255.0),
    };
    ((mean - black) / (white - black) * 100.0).clamp(0.0, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::planes::Matrix;

    #[test]
    fn one_looks_at_a_time_and_whoever_goes_makes_room() {
        let eyepiece = Eyepiece::default();
        assert!(!eyepiece.looked_at(0, true), "nobody wants a picture");
        let look = eyepiece.look().unwrap();
        assert!(eyepiece.look().is_none());
        assert!(eyepiece.looked_at(0, true));
        drop(look);
        assert!(!eyepiece.looked_at(1_000_000, true), "nobody wants a picture any more");
        let glimpse = eyepiece.look().unwrap().end();
        assert_eq!(glimpse.looked_at, 0, "of another's look");
        assert!(eyepiece.look().is_some());
    }

    #[test]
    fn a_look_that_ends_leaves_the_next_one_alone() {
        let eyepiece = Eyepiece::default();
        let first = eyepiece.look().unwrap();
        // What its end does first; then it is let go.
        first.take().unwrap();
        let next = eyepiece.look().unwrap();
        drop(first);
        assert!(eyepiece.look().is_none(), "the next one has lost its place");
        assert!(eyepiece.passed_by(0));
        assert_eq!(next.end().still, 1);
    }

    #[test]
    fn a_change_of_the_camera_takes_back_what_was_shown_and_nothing_of_before_follows() {
        let shown = |brightness| {
            let (found, picture) = (Vec::new(), Err("none".to_owned()));
            Shown {
                at: Instant::now(),
                size_px: (64, 48),
                brightness,
                sharpness: 0.0,
                found,
                picture,
            }
        };
        let before = Eyepiece::default();
        let look = before.look().unwrap();
        assert!(before.looked_at(0, true));
        before.show(shown(1.0));
        let between = before.after_change();
        let after = between.after_change();
        for old in [&before, &between] {
            // Also a picture that was being made.
            old.show(shown(2.0));
            old.failed("no masks".to_owned());
            assert!(!old.looked_at(5_000_000, true) && !old.passed_by(6_000_000));
        }
        let glimpse = look.end();
        assert!(glimpse.changed && glimpse.shown.is_none(), "{glimpse:?}");
        assert_eq!((glimpse.looked_at, glimpse.failed), (1, None));

        let look = before.look().unwrap();
        assert!(after.looked_at(0, true), "nothing is shown of the new settings");
        after.show(shown(3.0));
        let glimpse = look.end();
        assert_eq!((glimpse.shown.unwrap().brightness, glimpse.changed), (3.0, false));
    }

    #[test]
    fn every_frame_is_counted_and_one_a_second_is_wanted_also_when_a_recording_begins_again() {
        let eyepiece = Eyepiece::default();
        let look = eyepiece.look().unwrap();
        let times_us = [5_000_000, 5_500_000, 6_000_000, 6_900_000, 7_000_000, 0, 500_000];
        let wanted = times_us.map(|now_us| match now_us {
            6_000_000 | 6_900_000 => eyepiece.passed_by(now_us),
            _ => eyepiece.looked_at(now_us, now_us > 6_000_000),
        });
        assert_eq!(wanted, [true, false, true, false, true, true, false]);
        let glimpse = look.end();
        assert_eq!((glimpse.looked_at, glimpse.with_found, glimpse.still), (5, 1, 2));
    }

    #[test]
    fn brightness_goes_from_black_to_white_in_either_range() {
        for (range, luma, expected) in [
            (Range::Limited, 16, 0.0),
            (Range::Limited, 235, 100.0),
            (Range::Full, 0, 0.0),
            (Range::Full, 255, 100.0),
            (Range::Full, 51, 20.0),
        ] {
            // Wider than its rows are: what lies between them is no picture.
            let row: Vec<u8> = (0..80).map(|x| if x < 64 { luma } else { 255 }).collect();
            let grey = (vec![128; 32 * 24], 32);
            let planes = [(row.repeat(48), 80), grey.clone(), grey];
            let planes = Planes::from_vecs(64, 48, planes, Matrix::Bt601, range).unwrap();
            let got = brightness(&planes);
            assert!((got - expected).abs() < 0.01, "{range:?} {luma}: {got}");
        }
    }
}
