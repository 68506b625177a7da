//! How useful the picture of a face is. Pure.
//!
//! Three parts, each brought to 0 to 1; `score` is their geometric mean, so that one bad part spoils
//! it and none is hidden by the others.
//! - **Size**: the shorter side of the box, of 112 pixels, which is what recognition networks take
//!   (ArcFace and its kin).
//! - **Sharpness**: the variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in
//!   brightfield microscopy", ICPR 2000), taken of the box brought to 64x64 pixels, so that faces of
//!   all sizes compare; of 200. A small face is enlarged for that, and has less of it, as it should.
//! - **Pose**, where there are landmarks. Roll is the angle of the eyes' line. Yaw is estimated by
//!   weak perspective: the nose's tip stands out in front of the line of the eyes, by 0.43 of their
//!   distance in the generic head that OpenCV's pose examples use (tip at 0; outer corners 450 apart,
//!   135 behind, their middles at 0.7 of that). Turned by an angle a, the tip moves by its sine and
//!   the eyes' distance shrinks with its cosine, so their quotient is 0.43 tan a. Good for some ten
//!   degrees; it tells a frontal face from a profile, not more.

use picket_wire::observation::{Detection, Quality};

use super::resize::{Part, PlaneResizer};
use crate::capture::planes::Plane;

/// Side at which sharpness is taken, pixels.
const SIDE: usize = 64;
/// What counts as full size, pixels, and as fully sharp.
const FULL_SIZE_PX: f32 = 112.0;
const FULL_SHARPNESS: f32 = 200.0;
/// How far the nose stands out, in distances of the eyes.
const NOSE: f32 = 0.43;
/// Where a face is no longer frontal at all, degrees.
const LARGEST_YAW_DEG: f32 = 75.0;
const LARGEST_ROLL_DEG: f32 = 90.0;

/// Measures; keeps its working memory.
#[derive(Default)]
pub struct Measure {
    resizer: PlaneResizer,
    face: Vec<u8>,
}

impl Measure {
    /// The quality of a detection; `None` if nothing of it lies in the picture.
    pub fn quality(&mut self, luma: Plane<'_>, detection: &Detection) -> Option<Quality> {
        let part = Part::within(detection.box_px, (luma.width, luma.height))?;
        let side = SIDE as u32;
        self.resizer.resize_part(luma, part, (side, side), &mut self.face).ok()?;
        let [_, _, width, height] = detection.box_px;
        let size_px = width.min(height);
        let face = Plane { data: &self.face, stride: SIDE, width: side, height: side };
        let sharpness = sharpness(face);
        let pose = pose(&detection.landmarks);
        let parts = [(size_px / FULL_SIZE_PX).min(1.0), (sharpness / FULL_SHARPNESS).min(1.0)];
        let score = match pose {
            None => (parts[0] * parts[1]).sqrt(),
            Some(pose) => (parts[0] * parts[1] * pose.frontal()).cbrt(),
        };
        Some(Quality {
            score: score.clamp(0.0, 1.0),
            size_px,
            sharpness,
            yaw_deg: pose.map(|pose| pose.yaw_deg),
            roll_deg: pose.map(|pose| pose.roll_deg),
        })
    }
}

/// How a head is held.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pose {
    yaw_deg: f32,
    roll_deg: f32,
}

impl Pose {
    /// 1 for a face that looks at the camera, 0 for a profile.
    fn frontal(self) -> f32 {
        let part = |angle: f32, largest: f32| (1.0 - angle.abs() / largest).max(0.0);
        part(self.yaw_deg, LARGEST_YAW_DEG) * part(self.roll_deg, LARGEST_ROLL_DEG)
    }
}

/// Of the landmarks of a face: right eye, left eye, nose tip and more. The person's right eye stands
/// on the left of an upright picture.
fn pose(landmarks: &[[f32; 2]]) -> Option<Pose> {
    let [right_eye, left_eye, nose, ..] = landmarks else { return None };
    let [dx, dy] = [left_eye[0] - right_eye[0], left_eye[1] - right_eye[1]];
    let distance = dx.hypot(dy);
    if !(distance > 0.0 && distance.is_finite()) {
        return None;
    }
    let middle = [(left_eye[0] + right_eye[0]) / 2.0, (left_eye[1] + right_eye[1]) / 2.0];
    // How far the nose lies along the line of the eyes.
    let along = ((nose[0] - middle[0]) * dx + (nose[1] - middle[1]) * dy) / distance;
    let yaw = (along / distance / NOSE).atan();
    Some(Pose { yaw_deg: yaw.to_degrees(), roll_deg: dy.atan2(dx).to_degrees() })
}

/// The variance of the Laplacian; 0 for a picture that is too small to have one.
pub(super) fn sharpness(luma: Plane<'_>) -> f32 {
    let (width, height) = (luma.width as usize, luma.height as usize);
    if width < 3 || height < 3 {
        return 0.0;
    }
    // Whole numbers: a large picture has too many samples for the digits of an `f32`.
    let (mut sum, mut squares) = (0i64, 0i64);
    for y in 1..height - 1 {
        let [above, row, below] = [luma.row(y - 1), luma.row(y), luma.row(y + 1)];
        for x in 1..width - 1 {
            let at = |row: &[u8], x: usize| i64::from(row[x]);
            let around = at(row, x - 1) + at(row, x + 1) + at(above, x) + at(below, x);
            let value = around - 4 * at(row, x);
            sum += value;
            squares += value * value;
        }
    }
    let count = ((width - 2) * (height - 2)) as f64;
    (squares as f64 / count - (sum as f64 / count).powi(2)).max(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generic head, turned and tilted, seen from afar: right eye, left eye, nose.
    fn landmarks(yaw_deg: f32, roll_deg: f32) -> Vec<[f32; 2]> {
        let (yaw, roll) = (yaw_deg.to_radians(), roll_deg.to_radians());
        let points = [[-157.5f32, -170.0, 0.0], [157.5, -170.0, 0.0], [0.0, 0.0, 135.0]];
        let seen = points.map(|[x, y, z]| {
            let x = x * yaw.cos() + z * yaw.sin();
            [x * roll.cos() - y * roll.sin() + 900.0, x * roll.sin() + y * roll.cos() + 700.0]
        });
        seen.to_vec()
    }

    #[test]
    fn the_pose_of_a_head_is_found_again() {
        for yaw_deg in [-60.0, -20.0, 0.0, 35.0] {
            for roll_deg in [-40.0, 0.0, 15.0] {
                let pose = pose(&landmarks(yaw_deg, roll_deg)).unwrap();
                assert!((pose.roll_deg - roll_deg).abs() < 0.5, "{yaw_deg} {roll_deg} {pose:?}");
                assert!((pose.yaw_deg - yaw_deg).abs() < 1.0, "{yaw_deg} {roll_deg} {pose:?}");
            }
        }
        assert_eq!(pose(&[]), None);
        assert_eq!(pose(&[[5.0, 5.0], [5.0, 5.0], [6.0, 6.0]]), None);
    }

    fn measure(picture: impl Fn(usize, usize) -> u8, landmarks: Vec<[f32; 2]>) -> Quality {
        let (width, height) = (320, 240);
        let data: Vec<u8> = (0..width * height).map(|at| picture(at % width, at / width)).collect();
        let luma = Plane { data: &data, stride: width, width: 320, height: 240 };
        let detection = Detection {
            box_px: [100.0, 60.0, 80.0, 96.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks,
            quality: None,
        };
        Measure::default().quality(luma, &detection).unwrap()
    }

    fn stripes(period: usize) -> impl Fn(usize, usize) -> u8 {
        move |x, _| (127.0 + 80.0 * (x as f32 * std::f32::consts::TAU / period as f32).sin()) as u8
    }

    #[test]
    fn a_sharper_picture_has_the_higher_quality() {
        let (sharp, soft) = (measure(stripes(8), vec![]), measure(stripes(40), vec![]));
        assert!(sharp.sharpness > 10.0 * soft.sharpness, "{sharp:?} {soft:?}");
        assert!(sharp.score > soft.score);
        assert_eq!(measure(|_, _| 100, vec![]).score, 0.0);
    }

    #[test]
    fn a_frontal_face_has_the_higher_quality() {
        let quality = |yaw, roll| measure(stripes(12), landmarks(yaw, roll)).score;
        assert!(quality(0.0, 0.0) > quality(30.0, 0.0));
        assert!(quality(30.0, 0.0) > quality(-60.0, 0.0));
        assert!(quality(0.0, 0.0) > quality(0.0, 40.0));
    }

    #[test]
    fn a_box_outside_the_picture_has_no_quality_and_one_across_its_edge_has() {
        let data = vec![90; 64 * 64];
        let luma = Plane { data: &data, stride: 64, width: 64, height: 64 };
        let of = |box_px| {
            let (class, landmarks) = ("face".to_owned(), Vec::new());
            let detection = Detection { box_px, score: 0.5, class, landmarks, quality: None };
            Measure::default().quality(luma, &detection)
        };
        assert!(of([70.0, 10.0, 20.0, 20.0]).is_none());
        assert!(of([10.0, -40.0, 20.0, 20.0]).is_none());
        assert!(of([-10.0, -10.0, 30.0, 30.0]).is_some());
        assert!(of([f32::NAN, 0.0, 5.0, 5.0]).is_none());
    }
}
