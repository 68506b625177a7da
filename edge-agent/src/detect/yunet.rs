//! What YuNet's twelve outputs mean. Pure; the arithmetic is that of OpenCV's `FaceDetectorYN`.

/// Pixels from one cell to the next, in each of the three grids.
pub const STRIDES: [u32; 3] = [8, 16, 32];

/// Names of the outputs, by grid: class, object, box, landmarks.
pub const OUTPUTS: [[&str; 4]; 3] = [
    ["cls_8", "obj_8", "bbox_8", "kps_8"],
    ["cls_16", "obj_16", "bbox_16", "kps_16"],
    ["cls_32", "obj_32", "bbox_32", "kps_32"],
];

/// One grid's outputs, cell by cell, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// Pixels from one cell to the next.
    pub stride: u32,
    /// Sureness that it is a face: one per cell.
    pub class: &'a [f32],
    /// Sureness that it is a thing: one per cell.
    pub object: &'a [f32],
    /// Offset of the middle and logarithm of the size, in strides: four per cell.
    pub boxes: &'a [f32],
    /// Offsets of five points, in strides: ten per cell.
    pub landmarks: &'a [f32],
}

/// A face as a grid has it, in pixels of the model's picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// x, y of the upper left corner, width, height.
    pub box_px: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    /// Right eye, left eye, nose tip, right and left corner of the mouth.
    pub landmarks: [[f32; 2]; 5],
}

/// Outputs that do not fit the picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the grid of stride {stride} has {found} values where a picture of {px:?} pixels gives {expected}"
)]
pub struct GridError {
    stride: u32,
    found: usize,
    expected: usize,
    px: (u32, u32),
}

/// The faces of a grid that reach the threshold, for a (filled up) picture of this size.
pub fn decode(
    grid: &Grid<'_>,
    padded_px: (u32, u32),
    score_threshold: f32,
    faces: &mut Vec<Face>,
) -> Result<(), GridError> {
    let (columns, rows) = (padded_px.0 / grid.stride, padded_px.1 / grid.stride);
    let cells = columns as usize * rows as usize;
    let lengths = [
        (grid.class.len(), cells),
        (grid.object.len(), cells),
        (grid.boxes.len(), 4 * cells),
        (grid.landmarks.len(), 10 * cells),
    ];
    if let Some((found, expected)) = lengths.into_iter().find(|(found, needed)| found != needed) {
        return Err(GridError { stride: grid.stride, found, expected, px: padded_px });
    }
    for cell in 0..cells {
        let score = (unit(grid.class[cell]) * unit(grid.object[cell])).sqrt();
        if score < score_threshold {
            continue;
        }
        let (column, row) = ((cell % columns as usize) as f32, (cell / columns as usize) as f32);
        let face = face(grid, cell, column, row, score);
        // Infinite where a broken model gives a size of e^100: no box, and JSON has no word for it.
        if face.box_px.iter().chain(face.landmarks.iter().flatten()).all(|x| x.is_finite()) {
            faces.push(face);
        }
    }
    Ok(())
}

/// Between 0 and 1; what is not a number counts as 0.
#[expect(clippy::manual_clamp, reason = "clamp keeps what is not a number")]
fn unit(value: f32) -> f32 {
    value.max(0.0).min(1.0)
}

fn face(grid: &Grid<'_>, cell: usize, column: f32, row: f32, score: f32) -> Face {
    let stride = grid.stride as f32;
    let raw = &grid.boxes[4 * cell..4 * cell + 4];
    let (middle_x, middle_y) = ((column + raw[0]) * stride, (row + raw[1]) * stride);
    let (width, height) = (raw[2].exp() * stride, raw[3].exp() * stride);
    let points = &grid.landmarks[10 * cell..10 * cell + 10];
    let point = |n: usize| [(points[2 * n] + column) * stride, (points[2 * n + 1] + row) * stride];
    Face {
        box_px: [middle_x - width / 2.0, middle_y - height / 2.0, width, height],
        score,
        landmarks: [point(0), point(1), point(2), point(3), point(4)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid_of_one_face<'a>(class: &'a mut [f32; 8], boxes: &'a mut [f32; 32]) -> Grid<'a> {
        // 4 columns, 2 rows; the face is in column 1 of row 1.
        class[5] = 0.81;
        boxes[20..24].copy_from_slice(&[0.5, 0.25, 0.0, 2f32.ln()]);
        Grid { stride: 32, class, object: &[1.0; 8], boxes, landmarks: &[0.5; 80] }
    }

    #[test]
    fn a_cell_says_where_its_face_is() {
        let (mut class, mut boxes) = ([0.0; 8], [0.0; 32]);
        let grid = grid_of_one_face(&mut class, &mut boxes);
        let mut faces = Vec::new();
        decode(&grid, (128, 64), 0.5, &mut faces).unwrap();
        let [face] = faces.as_slice() else { panic!("{faces:?}") };
        assert_eq!(face.score, 0.9);
        let expected = [48.0 - 16.0, 40.0 - 32.0, 32.0, 64.0];
        for (value, expected) in face.box_px.into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-4, "{:?}", face.box_px);
        }
        assert_eq!(face.landmarks, [[48.0, 48.0]; 5]);
    }

    #[test]
    fn outputs_of_another_size_are_an_error() {
        let (mut class, mut boxes) = ([0.0; 8], [0.0; 32]);
        let grid = grid_of_one_face(&mut class, &mut boxes);
        assert!(decode(&grid, (128, 96), 0.5, &mut Vec::new()).is_err());
    }

    #[test]
    fn numbers_that_are_none_give_no_face() {
        let landmarks = [0.0; 10];
        for (class, boxes) in [
            ([f32::NAN], [0.0; 4]),
            ([1.0], [f32::NAN; 4]),
            ([1.0], [0.0, 0.0, 200.0, 0.0]),
            ([1.0], [f32::NEG_INFINITY, 0.0, 0.0, 0.0]),
        ] {
            let grid = Grid {
                stride: 32,
                class: &class,
                object: &[1.0],
                boxes: &boxes,
                landmarks: &landmarks,
            };
            let mut faces = Vec::new();
            decode(&grid, (32, 32), 0.5, &mut faces).unwrap();
            assert!(faces.is_empty(), "{faces:?}");
        }
    }
}
