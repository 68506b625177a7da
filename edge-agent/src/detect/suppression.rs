//! Of boxes of one thing that overlap, the surest. Pure; equal to OpenCV's `NMSBoxes` as
//! `FaceDetectorYN` calls it.

use super::candidate::Candidate;

/// Boxes looked at, of the surest.
pub const TOP_K: usize = 5000;

/// Those that are kept, the surest first. A person in front of a car takes nothing from the car.
///
/// Overlap is taken of boxes cut to whole pixels, as OpenCV does: a difference of a pixel decides
/// nothing that matters, and the result can be compared with an independent one box by box.
pub fn keep(mut candidates: Vec<Candidate>, largest_iou: f32) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(TOP_K);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let whole = whole_pixels(candidate.box_px);
        let apart = |other: &Candidate| {
            other.label != candidate.label || iou(whole, whole_pixels(other.box_px)) <= largest_iou
        };
        if kept.iter().all(apart) {
            kept.push(candidate);
        }
    }
    kept
}

fn whole_pixels(box_px: [f32; 4]) -> [i64; 4] {
    box_px.map(|value| value as i64)
}

/// Intersection over union; 1 for two boxes without area.
fn iou(a: [i64; 4], b: [i64; 4]) -> f32 {
    let area = |[_, _, width, height]: [i64; 4]| (width * height) as f64;
    let side = |from: usize| {
        let end = (a[from] + a[from + 2]).min(b[from] + b[from + 2]);
        (end - a[from].max(b[from])).max(0)
    };
    let both = (side(0) * side(1)) as f64;
    let either = area(a) + area(b) - both;
    if area(a) + area(b) <= 0.0 { 1.0 } else { (both / either) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places of those that are kept.
    fn keep_of(
        boxes: &[[f32; 4]],
        scores: &[f32],
        labels: &[usize],
        largest_iou: f32,
    ) -> Vec<usize> {
        let parts = boxes.iter().zip(scores).zip(labels);
        let candidates: Vec<Candidate> = parts
            .map(|((box_px, score), label)| {
                let (box_px, score, label) = (*box_px, *score, *label);
                Candidate { box_px, score, label, landmarks: None }
            })
            .collect();
        let kept = keep(candidates.clone(), largest_iou);
        let place = |one: &Candidate| candidates.iter().position(|other| other == one).unwrap();
        kept.iter().map(place).collect()
    }

    #[test]
    fn of_two_boxes_on_one_face_the_surer_is_kept() {
        let boxes = [[10.0, 10.0, 40.0, 40.0], [12.0, 11.0, 40.0, 40.0], [200.0, 10.0, 40.0, 40.0]];
        assert_eq!(keep_of(&boxes, &[0.7, 0.9, 0.8], &[0; 3], 0.3), [1, 2]);
    }

    #[test]
    fn boxes_that_overlap_by_just_the_limit_are_both_kept() {
        // 10x10 each, 5 columns shared: 50 / 150.
        let boxes = [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0]];
        assert_eq!(keep_of(&boxes, &[0.9, 0.8], &[0; 2], 1.0 / 3.0 + 1e-6), [0, 1]);
        assert_eq!(keep_of(&boxes, &[0.9, 0.8], &[0; 2], 0.33), [0]);
    }

    #[test]
    fn a_suppressed_box_suppresses_no_other() {
        let boxes = [[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 10.0, 10.0], [8.0, 0.0, 10.0, 10.0]];
        assert_eq!(keep_of(&boxes, &[0.9, 0.8, 0.7], &[0; 3], 0.3), [0, 2]);
    }

    #[test]
    fn of_equally_sure_boxes_the_first_stands_first() {
        let boxes = [[0.0, 0.0, 5.0, 5.0], [50.0, 0.0, 5.0, 5.0], [90.0, 0.0, 5.0, 5.0]];
        assert_eq!(keep_of(&boxes, &[0.5, 0.5, 0.5], &[0; 3], 0.3), [0, 1, 2]);
    }

    #[test]
    fn things_of_two_kinds_may_stand_in_one_place() {
        let boxes = [[0.0, 0.0, 10.0, 10.0]; 3];
        assert_eq!(keep_of(&boxes, &[0.9, 0.8, 0.7], &[1, 0, 1], 0.3), [0, 1]);
    }
}
