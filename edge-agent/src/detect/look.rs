//! Looking along: what a person gets to know who asks the running agent what a camera sees.
//!
//! A camera has one [`Eyepiece`], and one person at a time looks through it. The detector's thread
//! counts what it does, and once a second of the camera's time makes a picture of it: each frame's
//! would cost more than looking at it, and frames cannot be kept until the end, as their memory is the
//! decoder's. What is handed on is the same as if nobody looked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use picket_wire::observation::Detection;
use serde::{Deserialize, Serialize};

use crate::capture::Planes;
use crate::capture::planes::Range;

/// How far apart pictures are at least.
const APART_US: u64 = 1_000_000;
/// Of the rows this share is measured for brightness: neighbours say the same.
const ROW_STEP: usize = 4;

/// Where somebody may look along.
#[derive(Debug, Default)]
pub struct Eyepiece(Mutex<Option<Glimpse>>);

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
    shown_us: Option<u64>,
}

/// One frame, as a person sees it.
#[derive(Debug)]
pub struct Shown {
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
pub struct Look(Arc<Eyepiece>);

impl Eyepiece {
    /// Begins to look; `None` if somebody does already.
    pub fn look(self: &Arc<Self>) -> Option<Look> {
        let mut glimpse = self.lock();
        if glimpse.is_some() {
            return None;
        }
        *glimpse = Some(Glimpse::default());
        Some(Look(Arc::clone(self)))
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
        let mut glimpse = self.lock();
        let Some(glimpse) = glimpse.as_mut() else { return false };
        count(glimpse);
        // A recording that begins again goes back in time.
        let wanted = glimpse.shown_us.is_none_or(|last_us| now_us.abs_diff(last_us) >= APART_US);
        if wanted {
            glimpse.shown_us = Some(now_us);
        }
        wanted
    }

    /// Takes note of why a frame could not be looked at.
    pub(super) fn failed(&self, why: String) {
        if let Some(glimpse) = self.lock().as_mut() {
            glimpse.failed = Some(why);
        }
    }

    /// Takes the picture that was wanted, if somebody still looks.
    pub(super) fn show(&self, shown: Shown) {
        if let Some(glimpse) = self.lock().as_mut() {
            glimpse.shown = Some(shown);
        }
    }

    /// Held for a few numbers only, never while a picture is made.
    fn lock(&self) -> MutexGuard<'_, Option<Glimpse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// Ends it, and gives what was seen.
    pub fn end(self) -> Glimpse {
        self.0.lock().take().unwrap_or_default()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        *self.0.lock() = None;
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
        let eyepiece = Arc::new(Eyepiece::default());
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
    fn every_frame_is_counted_and_one_a_second_is_wanted_also_when_a_recording_begins_again() {
        let eyepiece = Arc::new(Eyepiece::default());
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
