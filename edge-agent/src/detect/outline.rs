//! Boxes drawn onto a copy of a picture, for a person to look at. Pure.

use super::canvas::Canvas;
use crate::capture::Planes;
use crate::capture::planes::PlanesError;

/// Bright green in luma and chroma.
const GREEN: [u8; 3] = [200, 60, 50];

/// The picture with the outline of each box (x, y, width, height; pixels), as wide as can be seen at
/// its size.
pub fn outlined(planes: &Planes, boxes: &[[f32; 4]]) -> Result<Planes, PlanesError> {
    let width_px = (planes.width() / 320).max(1) * 2;
    let mut canvas = Canvas::copy(planes);
    for (index, (samples, stride)) in canvas.planes.iter_mut().enumerate() {
        let half = if index == 0 { 1 } else { 2 };
        let size = (planes.width().div_ceil(half), planes.height().div_ceil(half));
        for box_px in boxes {
            let line = (width_px / half) as usize;
            outline(samples, *stride, size, box_px.map(|px| px / half as f32), line, GREEN[index]);
        }
    }
    canvas.finish()
}

/// Inside the box, so that boxes at the picture's edge are seen whole.
fn outline(
    samples: &mut [u8],
    stride: usize,
    (width, height): (u32, u32),
    [x, y, box_width, box_height]: [f32; 4],
    line: usize,
    value: u8,
) {
    // A box may stand out of its picture; the conversion of a negative number gives 0.
    let within = |px: f32, size: u32| (px.round() as usize).min(size as usize);
    let (left, right) = (within(x, width), within(x + box_width, width));
    let (top, bottom) = (within(y, height), within(y + box_height, height));
    for row in top..bottom {
        let at_edge = row < top + line || row + line >= bottom;
        // A box without width has its right side left of its left one.
        let Some(samples) = samples.get_mut(row * stride + left..row * stride + right) else {
            continue;
        };
        if at_edge {
            samples.fill(value);
            continue;
        }
        let line = line.min(samples.len());
        let after = samples.len() - line;
        samples[..line].fill(value);
        samples[after..].fill(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::planes::{Matrix, Range};

    fn drawn(box_px: [f32; 4]) -> Vec<String> {
        let plane = |width: usize, height: usize| (vec![0; width * height], width);
        let planes = [plane(16, 10), plane(8, 5), plane(8, 5)];
        let planes = Planes::from_vecs(16, 10, planes, Matrix::Bt601, Range::Full).unwrap();
        let drawn = outlined(&planes, &[box_px]).unwrap();
        let y = drawn.y();
        let rows = y.data.chunks(y.stride).map(|row| {
            row.iter().map(|&sample| if sample == GREEN[0] { '#' } else { '.' }).collect()
        });
        rows.collect()
    }

    #[test]
    fn the_outline_lies_inside_the_box_and_leaves_the_face_free() {
        assert_eq!(
            drawn([2.0, 1.0, 8.0, 7.0]),
            [
                "................",
                "..########......",
                "..########......",
                "..##....##......",
                "..##....##......",
                "..##....##......",
                "..########......",
                "..########......",
                "................",
                "................",
            ]
        );
    }

    #[test]
    fn a_box_that_stands_out_of_the_picture_is_drawn_as_far_as_there_is_one() {
        let rows = drawn([-4.0, 6.0, 100.0, 100.0]);
        assert_eq!(rows[5], "................");
        assert!(rows[6..].iter().all(|row| row == "################"), "{rows:?}");
        assert!(drawn([40.0, 40.0, 5.0, 5.0]).iter().all(|row| !row.contains('#')));
    }
}
