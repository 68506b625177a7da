//! What must not be seen, made unrecognisable before anything leaves the process.
//!
//! Two steps, each with a type that only this file makes, so that a picture cannot be encoded that
//! did not go through both:
//! - [`Masked`]: the privacy masks are burned in. The detector looks at this picture: what lies behind
//!   a mask is neither published nor found. It is a copy, as the decoder may still need its own
//!   memory; a camera without masks pays nothing.
//! - [`Redacted`]: faces are blurred as well, if that is asked for. Only the encoder takes it.

use std::collections::VecDeque;

use picket_wire::observation::Detection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canvas::Canvas;
use super::outline;
use super::region::{self, Region, Span};
use super::resize::Part;
use super::settings::OutOfRange;
use crate::capture::Planes;
use crate::capture::planes::PlanesError;

/// What must not be seen of a camera's pictures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrivacySettings {
    /// Parts of the picture that are blackened before it is looked at: nothing in them is found, and
    /// nothing of them leaves the process.
    #[serde(default)]
    pub mask: Vec<Region>,
    /// Makes faces unrecognisable in published pictures; not done if unset. `blur = {}` does it with
    /// the defaults. Boxes and landmarks are reported all the same. The model must know `face` or
    /// `person`; all that it finds is blurred. Not together with `publish.best_crop` and
    /// `publish.before_ms`, nor with a `publish.after_ms` beyond `keep_ms`.
    #[serde(default)]
    pub blur: Option<BlurSettings>,
}

/// How faces are made unrecognisable.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlurSettings {
    /// What takes a face's place.
    #[serde(default)]
    pub method: BlurMethod,
    /// Least score from which a face is blurred, 0 to 1; one that is reported is blurred in any case.
    /// Lower than `detect.score_threshold`: a plant that is blurred costs less than a face that is
    /// not.
    #[serde(default = "default_blur_score")]
    pub score_threshold: f32,
    /// How far the blur reaches beyond the box on each side, in shares of its width and height.
    #[serde(default = "default_blur_margin")]
    pub margin: f32,
    /// How long the place of a face stays blurred after it was found last, milliseconds: the detector
    /// loses a face that turns away for some frames.
    #[serde(default = "default_blur_keep_ms")]
    pub keep_ms: u32,
}

fn default_blur_score() -> f32 {
    0.3
}

fn default_blur_margin() -> f32 {
    0.3
}

fn default_blur_keep_ms() -> u32 {
    500
}

impl Default for BlurSettings {
    fn default() -> Self {
        Self {
            method: BlurMethod::default(),
            score_threshold: default_blur_score(),
            margin: default_blur_margin(),
            keep_ms: default_blur_keep_ms(),
        }
    }
}

/// What takes a face's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlurMethod {
    /// At most six by six squares of its mean colours.
    #[default]
    Pixelate,
    /// A black rectangle, of which nothing can be guessed.
    Fill,
}

impl PrivacySettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let refuse = |field, value: String, range| Err(OutOfRange { field, value, range });
        if let Some((value, range)) = region::problem(&self.mask) {
            return refuse("privacy.mask", value, range);
        }
        let Some(blur) = &self.blur else { return Ok(()) };
        if !(blur.score_threshold > 0.0 && blur.score_threshold <= 1.0) {
            let value = blur.score_threshold.to_string();
            return refuse("privacy.blur.score_threshold", value, "above 0 and at most 1");
        }
        if !(0.0..=2.0).contains(&blur.margin) {
            return refuse("privacy.blur.margin", blur.margin.to_string(), "0 to 2");
        }
        if blur.keep_ms > 10_000 {
            return refuse("privacy.blur.keep_ms", blur.keep_ms.to_string(), "at most 10000");
        }
        Ok(())
    }
}

/// A picture in which the masks are burned in.
#[derive(Debug, Clone)]
pub struct Masked {
    planes: Planes,
    masks: bool,
}

impl Masked {
    /// What may be looked at.
    pub fn planes(&self) -> &Planes {
        &self.planes
    }
}

/// A picture that may leave the process.
#[derive(Debug, Clone)]
pub struct Redacted {
    planes: Planes,
    done: &'static str,
}

impl Redacted {
    /// What may be published.
    pub fn planes(&self) -> &Planes {
        &self.planes
    }

    /// What was made unrecognisable, as the header `picket-redacted` says it: `none`, `masks`,
    /// `faces`, or `masks+faces`. `faces` is said of a camera whose faces are blurred, also of a
    /// picture without any.
    pub fn done(&self) -> &'static str {
        self.done
    }

    /// The same with the outlines of boxes (x, y, width, height; pixels), which shows no more of the
    /// scene than before.
    pub fn outlined(&self, boxes: &[[f32; 4]]) -> Result<Self, PlanesError> {
        Ok(Self { planes: outline::outlined(&self.planes, boxes)?, done: self.done })
    }
}

/// A picture's size, and what the masks cover of its luma and of its chroma.
type Covered = ((u32, u32), [Vec<Span>; 2]);

/// Burns in and blurs, for one camera. The one way to a picture that may be shown or published:
/// [`mask`](Self::mask), look at what that gives, tell it what was [`found`](Self::found), and
/// [`redact`](Self::redact).
pub struct Redactor {
    masks: Vec<Region>,
    blur: Option<BlurSettings>,
    /// Of pictures of the last size.
    covered: Option<Covered>,
    /// Faces of the last moments, and when they were found.
    faces: VecDeque<(u64, [f32; 4])>,
}

impl Redactor {
    /// By these settings.
    pub fn new(settings: &PrivacySettings) -> Self {
        let PrivacySettings { mask, blur } = settings.clone();
        Self { masks: mask, blur, covered: None, faces: VecDeque::new() }
    }

    /// The least score from which boxes are wanted, at most this one.
    pub fn least_score(&self, reported: f32) -> f32 {
        self.blur.map_or(reported, |blur| blur.score_threshold.min(reported))
    }

    /// Burns the masks in.
    pub fn mask(&mut self, planes: &Planes) -> Result<Masked, PlanesError> {
        if self.masks.is_empty() {
            return Ok(Masked { planes: planes.clone(), masks: false });
        }
        let mut canvas = Canvas::copy(planes);
        let [luma, chroma] = self.covered((planes.width(), planes.height()));
        canvas.blacken(luma, chroma);
        Ok(Masked { planes: canvas.finish()?, masks: true })
    }

    fn covered(&mut self, px: (u32, u32)) -> &[Vec<Span>; 2] {
        if self.covered.as_ref().is_none_or(|(of, _)| *of != px) {
            let size = (px.0 as usize, px.1 as usize);
            let luma: Vec<Span> = self.masks.iter().flat_map(|mask| mask.touched(size)).collect();
            // A sample of chroma colours two by two of luma: it goes if one of them does.
            let half =
                |(row, columns): &Span| (row / 2, columns.start / 2..columns.end.div_ceil(2));
            let chroma = luma.iter().map(half).collect();
            self.covered = Some((px, [luma, chroma]));
        }
        // Set above; an empty one blackens nothing, and there is none.
        const NOTHING: &[Vec<Span>; 2] = &[Vec::new(), Vec::new()];
        self.covered.as_ref().map_or(NOTHING, |(_, spans)| spans)
    }

    /// Takes note of the faces of a frame, those too unsure to be reported included. To be told of
    /// every frame that is looked at, before [`redact`](Self::redact).
    pub fn found(&mut self, candidates: &[Detection], now_us: u64) {
        if self.blur.is_none() {
            return;
        }
        let mut faces = std::mem::take(&mut self.faces);
        faces.retain(|(found_us, _)| self.keeps(*found_us, now_us));
        self.faces = faces;
        self.faces.extend(candidates.iter().map(|face| (now_us, face.box_px)));
    }

    /// The picture as it may be published.
    pub fn redact(&self, masked: &Masked) -> Result<Redacted, PlanesError> {
        self.redact_faces(masked, self.faces.iter().map(|(_, box_px)| *box_px))
    }

    /// The same of a frame that counts for nothing else, with what was found in it: the frames that
    /// are published are blurred as if there had been none.
    pub fn redact_aside(
        &self,
        masked: &Masked,
        candidates: &[Detection],
        now_us: u64,
    ) -> Result<Redacted, PlanesError> {
        let kept = self.faces.iter().filter(|(found_us, _)| self.keeps(*found_us, now_us));
        let kept = kept.map(|(_, box_px)| *box_px);
        self.redact_faces(masked, kept.chain(candidates.iter().map(|face| face.box_px)))
    }

    /// Whether a face that was found at one time is still blurred at another.
    fn keeps(&self, found_us: u64, now_us: u64) -> bool {
        let keep_us = self.blur.map_or(0, |blur| u64::from(blur.keep_ms) * 1000);
        now_us.abs_diff(found_us) <= keep_us
    }

    fn redact_faces(
        &self,
        masked: &Masked,
        faces: impl Iterator<Item = [f32; 4]>,
    ) -> Result<Redacted, PlanesError> {
        let Masked { planes, masks } = masked;
        let Some(blur) = self.blur else {
            let done = if *masks { "masks" } else { "none" };
            return Ok(Redacted { planes: planes.clone(), done });
        };
        let done = if *masks { "masks+faces" } else { "faces" };
        let mut canvas = Canvas::copy(planes);
        for [x, y, width, height] in faces {
            let (by_x, by_y) = (width * blur.margin, height * blur.margin);
            let box_px = [x - by_x, y - by_y, width + 2.0 * by_x, height + 2.0 * by_y];
            // Nothing of a box outside the picture is in it.
            if let Some(part) = Part::within(box_px, (planes.width(), planes.height())) {
                match blur.method {
                    BlurMethod::Pixelate => canvas.pixelate(part.even()),
                    BlurMethod::Fill => canvas.fill(part.even()),
                }
            }
        }
        Ok(Redacted { planes: canvas.finish()?, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::planes::{Matrix, Range};

    /// Noise, of an odd size and with gaps between the rows.
    fn noise() -> Planes {
        let mut seed = 7u32;
        let mut samples = |count: usize| -> Vec<u8> {
            (0..count)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8 | 1
                })
                .collect()
        };
        let planes = [(samples(112 * 61), 112), (samples(60 * 31), 60), (samples(60 * 31), 60)];
        Planes::from_vecs(101, 61, planes, Matrix::Bt601, Range::Limited).unwrap()
    }

    fn luma(planes: &Planes, x: usize, y: usize) -> u8 {
        planes.y().data[y * planes.y().stride + x]
    }

    fn with_mask() -> PrivacySettings {
        let polygon = vec![[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]];
        let mask = vec![Region { name: "window".to_owned(), polygon }];
        PrivacySettings { mask, blur: None }
    }

    fn face(box_px: [f32; 4], score: f32) -> Detection {
        let (class, landmarks) = ("face".to_owned(), Vec::new());
        Detection { box_px, score, class, landmarks, quality: None }
    }

    #[test]
    fn behind_a_mask_nothing_is_left_and_beside_it_everything() {
        let before = noise();
        let masked = Redactor::new(&with_mask()).mask(&before).unwrap();
        let after = masked.planes();
        for y in 0..61 {
            for x in 0..101 {
                // Half of 101 columns and 61 rows: the middle ones are covered in part, and so whole.
                let expected = match x <= 50 && y <= 30 {
                    true => 16,
                    false => luma(&before, x, y),
                };
                assert_eq!(luma(after, x, y), expected, "{x} {y}");
            }
        }
        for (plane, before) in [(after.u(), before.u()), (after.v(), before.v())] {
            for row in 0..31 {
                let [row_after, row_before] =
                    [plane, before].map(|p| &p.data[row * p.stride..][..51]);
                let covered = if row <= 15 { 26 } else { 0 };
                assert!(row_after[..covered].iter().all(|s| *s == 128), "{row}");
                assert_eq!(row_after[covered..], row_before[covered..], "{row}");
            }
        }
        assert_eq!(Redactor::new(&with_mask()).redact(&masked).unwrap().done(), "masks");
    }

    #[test]
    fn a_camera_without_privacy_is_published_as_it_is() {
        let (before, mut redactor) = (noise(), Redactor::new(&PrivacySettings::default()));
        let masked = redactor.mask(&before).unwrap();
        redactor.found(&[face([10.0, 10.0, 20.0, 20.0], 0.9)], 0);
        let redacted = redactor.redact(&masked).unwrap();
        assert_eq!(redacted.planes().y().data, before.y().data);
        assert_eq!(redacted.done(), "none");
    }

    #[test]
    fn of_a_blurred_face_at_most_six_by_six_values_are_left() {
        for (method, most) in [(BlurMethod::Pixelate, 36), (BlurMethod::Fill, 1)] {
            let blur = Some(BlurSettings { method, margin: 0.25, ..BlurSettings::default() });
            let mut redactor = Redactor::new(&PrivacySettings { mask: Vec::new(), blur });
            let masked = redactor.mask(&noise()).unwrap();
            redactor.found(&[face([31.0, 13.0, 40.0, 24.0], 0.3)], 0);
            let redacted = redactor.redact(&masked).unwrap();
            let planes = redacted.planes();
            let mut values: Vec<u8> = Vec::new();
            for y in 7..43 {
                values.extend((21..81).map(|x| luma(planes, x, y)));
            }
            values.sort_unstable();
            values.dedup();
            assert!(values.len() <= most, "{method:?}: {values:?}");
            assert_eq!(luma(planes, 90, 50), luma(&noise(), 90, 50), "beside the face");
            assert_eq!(redacted.done(), "faces");
        }
    }

    #[test]
    fn a_face_that_is_lost_for_a_moment_stays_blurred_and_not_longer() {
        let blur = Some(BlurSettings { method: BlurMethod::Fill, ..BlurSettings::default() });
        let mut redactor = Redactor::new(&PrivacySettings { mask: Vec::new(), blur });
        let masked = redactor.mask(&noise()).unwrap();
        redactor.found(&[face([30.0, 20.0, 20.0, 20.0], 0.8)], 1_000_000);
        for (now_us, blurred) in [(1_500_000, true), (1_500_001, false)] {
            redactor.found(&[], now_us);
            let redacted = redactor.redact(&masked).unwrap();
            assert_eq!(luma(redacted.planes(), 40, 30) == 16, blurred, "{now_us}");
        }
    }

    #[test]
    fn a_face_of_a_frame_aside_is_blurred_in_that_frame_alone() {
        let blur = Some(BlurSettings { method: BlurMethod::Fill, ..BlurSettings::default() });
        let mut redactor = Redactor::new(&PrivacySettings { mask: Vec::new(), blur });
        let masked = redactor.mask(&noise()).unwrap();
        redactor.found(&[face([4.0, 4.0, 10.0, 10.0], 0.8)], 0);
        let black = |redacted: &Redacted| {
            [(8, 8), (40, 30)].map(|(x, y)| luma(redacted.planes(), x, y) == 16)
        };
        let aside = [face([30.0, 20.0, 20.0, 20.0], 0.8)];
        for (now_us, kept) in [(500_000, true), (500_001, false)] {
            let redacted = redactor.redact_aside(&masked, &aside, now_us).unwrap();
            assert_eq!(black(&redacted), [kept, true], "{now_us}");
        }
        redactor.found(&[], 400_000);
        assert_eq!(black(&redactor.redact(&masked).unwrap()), [true, false]);
    }

    #[test]
    fn boxes_are_wanted_from_the_lower_of_the_two_scores() {
        let with = |score_threshold| {
            let blur = BlurSettings { score_threshold, ..BlurSettings::default() };
            Redactor::new(&PrivacySettings { mask: Vec::new(), blur: Some(blur) }).least_score(0.6)
        };
        assert_eq!((with(0.3), with(0.9)), (0.3, 0.6));
        assert_eq!(Redactor::new(&PrivacySettings::default()).least_score(0.6), 0.6);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |blur| PrivacySettings { mask: Vec::new(), blur: Some(blur) };
        let (blur, mut lines) = (BlurSettings::default(), with_mask());
        lines.mask[0].polygon.truncate(2);
        for (settings, field) in [
            (lines, "privacy.mask"),
            (with(BlurSettings { score_threshold: 0.0, ..blur }), "privacy.blur.score_threshold"),
            (with(BlurSettings { margin: f32::NAN, ..blur }), "privacy.blur.margin"),
            (with(BlurSettings { keep_ms: 10_001, ..blur }), "privacy.blur.keep_ms"),
        ] {
            assert_eq!(settings.check().unwrap_err().field, field);
        }
        assert!(with(blur).check().is_ok());
    }
}
