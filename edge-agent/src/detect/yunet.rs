//! What YuNet's twelve outputs mean. Pure; the arithmetic is that of OpenCV's `FaceDetectorYN`.

use super::candidate::{Candidate, Output, OutputError, unit};

/// Pixels from one cell to the next, in each of the three grids.
const STRIDES: [u32; 3] = [8, 16, 32];

/// Names of the outputs, by grid: class, object, box, landmarks.
pub const OUTPUTS: [&str; 12] = [
    "cls_8", "obj_8", "bbox_8", "kps_8", //
    "cls_16", "obj_16", "bbox_16", "kps_16", //
    "cls_32", "obj_32", "bbox_32", "kps_32",
];

/// One grid's outputs, cell by cell, row by row.
#[derive(Debug, Clone, Copy)]
struct Grid<'a> {
    /// Pixels from one cell to the next.
    stride: u32,
    columns: u32,
    /// Sureness that it is a face: one per cell.
    class: &'a [f32],
    /// Sureness that it is a thing: one per cell.
    object: &'a [f32],
    /// Offset of the middle and logarithm of the size, in strides: four per cell.
    boxes: &'a [f32],
    /// Offsets of five points, in strides: ten per cell.
    landmarks: &'a [f32],
}

/// The faces that reach a score, of the outputs in the order of [`OUTPUTS`] for a (filled up) picture
/// of this size.
pub fn decode(
    outputs: &[Output<'_>],
    padded_px: (u32, u32),
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let mut faces = Vec::new();
    for (stride, outputs) in STRIDES.into_iter().zip(outputs.chunks_exact(4)) {
        Grid::new(stride, outputs, padded_px)?.decode(least_score, &mut faces);
    }
    Ok(faces)
}

impl<'a> Grid<'a> {
    fn new(
        stride: u32,
        outputs: &[Output<'a>],
        padded_px: (u32, u32),
    ) -> Result<Self, OutputError> {
        let (columns, rows) = (padded_px.0 / stride, padded_px.1 / stride);
        let cells = columns as usize * rows as usize;
        Ok(Self {
            stride,
            columns,
            class: outputs[0].expect(&[1, cells, 1])?,
            object: outputs[1].expect(&[1, cells, 1])?,
            boxes: outputs[2].expect(&[1, cells, 4])?,
            landmarks: outputs[3].expect(&[1, cells, 10])?,
        })
    }

    fn decode(&self, least_score: f32, faces: &mut Vec<Candidate>) {
        for (cell, (class, object)) in self.class.iter().zip(self.object).enumerate() {
            let score = (unit(*class) * unit(*object)).sqrt();
            if score < least_score {
                continue;
            }
            let face = self.face(cell, score);
            if face.is_possible() {
                faces.push(face);
            }
        }
    }

    fn face(&self, cell: usize, score: f32) -> Candidate {
        let columns = self.columns as usize;
        let (column, row) = ((cell % columns) as f32, (cell / columns) as f32);
        let stride = self.stride as f32;
        let raw = &self.boxes[4 * cell..4 * cell + 4];
        let (middle_x, middle_y) = ((column + raw[0]) * stride, (row + raw[1]) * stride);
        let (width, height) = (raw[2].exp() * stride, raw[3].exp() * stride);
        let points = &self.landmarks[10 * cell..10 * cell + 10];
        let point =
            |n: usize| [(points[2 * n] + column) * stride, (points[2 * n + 1] + row) * stride];
        Candidate {
            box_px: [middle_x - width / 2.0, middle_y - height / 2.0, width, height],
            score,
            label: 0,
            landmarks: Some([point(0), point(1), point(2), point(3), point(4)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs<'a>(
        shapes: &'a [[i64; 3]; 4],
        class: &'a [f32],
        object: &'a [f32],
        boxes: &'a [f32],
        landmarks: &'a [f32],
    ) -> Vec<Output<'a>> {
        let values = [class, object, boxes, landmarks];
        let parts = OUTPUTS[8..].iter().zip(shapes).zip(values);
        parts.map(|((name, shape), values)| Output { name, shape, values }).collect()
    }

    fn decode_one(
        class: &[f32],
        object: &[f32],
        boxes: &[f32],
        landmarks: &[f32],
        px: (u32, u32),
    ) -> Result<Vec<Candidate>, OutputError> {
        let cells = class.len() as i64;
        let shapes = [[1, cells, 1], [1, cells, 1], [1, cells, 4], [1, cells, 10]];
        let outputs = outputs(&shapes, class, object, boxes, landmarks);
        let mut faces = Vec::new();
        Grid::new(32, &outputs, px)?.decode(0.5, &mut faces);
        Ok(faces)
    }

    /// 4 columns, 2 rows; the face is in column 1 of row 1.
    fn one_face(px: (u32, u32)) -> Result<Vec<Candidate>, OutputError> {
        let (mut class, mut boxes) = ([0.0; 8], [0.0; 32]);
        class[5] = 0.81;
        boxes[20..24].copy_from_slice(&[0.5, 0.25, 0.0, 2f32.ln()]);
        decode_one(&class, &[1.0; 8], &boxes, &[0.5; 80], px)
    }

    #[test]
    fn a_cell_says_where_its_face_is() {
        let faces = one_face((128, 64)).unwrap();
        let [face] = faces.as_slice() else { panic!("{faces:?}") };
        assert_eq!(face.score, 0.9);
        let expected = [48.0 - 16.0, 40.0 - 32.0, 32.0, 64.0];
        for (value, expected) in face.box_px.into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-4, "{:?}", face.box_px);
        }
        assert_eq!(face.landmarks, Some([[48.0, 48.0]; 5]));
    }

    #[test]
    fn outputs_of_another_size_are_an_error() {
        let error = one_face((128, 96)).unwrap_err().to_string();
        assert!(error.contains("cls_32 has the shape 1 x 8 x 1"), "{error}");
    }

    #[test]
    fn numbers_that_are_none_give_no_face() {
        for (class, boxes) in [
            ([f32::NAN], [0.0; 4]),
            ([1.0], [f32::NAN; 4]),
            ([1.0], [0.0, 0.0, 200.0, 0.0]),
            ([1.0], [f32::NEG_INFINITY, 0.0, 0.0, 0.0]),
        ] {
            let faces = decode_one(&class, &[1.0], &boxes, &[0.0; 10], (32, 32)).unwrap();
            assert!(faces.is_empty(), "{faces:?}");
        }
    }
}
