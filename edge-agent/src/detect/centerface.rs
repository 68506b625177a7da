//! What CenterFace's four outputs mean. Pure; checked against the Python code that ships the model.

use super::candidate::{Candidate, Output, OutputError, unit};

/// Names of the outputs: sureness, size, offset, landmarks. Numbers, as the exporter left them.
pub const OUTPUTS: [&str; 4] = ["537", "538", "539", "540"];

/// Pixels from one cell to the next.
const STRIDE: u32 = 4;

/// The outputs, each a stack of maps of one number per cell.
struct Maps<'a> {
    columns: usize,
    cells: usize,
    score: &'a [f32],
    /// Logarithm of height and width, in strides.
    size: &'a [f32],
    /// Of the middle, down and right, in strides.
    offset: &'a [f32],
    /// Of five points, down and right, in heights and widths of the box.
    landmarks: &'a [f32],
}

/// The faces that reach a score, of the outputs in the order of [`OUTPUTS`] for a (filled up) picture
/// of this size.
pub fn decode(
    outputs: &[Output<'_>],
    padded_px: (u32, u32),
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let (columns, rows) = ((padded_px.0 / STRIDE) as usize, (padded_px.1 / STRIDE) as usize);
    let maps = Maps {
        columns,
        cells: columns * rows,
        score: outputs[0].expect(&[1, 1, rows, columns])?,
        size: outputs[1].expect(&[1, 2, rows, columns])?,
        offset: outputs[2].expect(&[1, 2, rows, columns])?,
        landmarks: outputs[3].expect(&[1, 10, rows, columns])?,
    };
    let sure = maps.score.iter().map(|score| unit(*score)).enumerate();
    let sure = sure.filter(|(_, score)| *score >= least_score);
    Ok(sure.map(|(cell, score)| maps.face(cell, score)).filter(Candidate::is_possible).collect())
}

impl Maps<'_> {
    /// The reference cuts a box at the left and upper edge by moving it, with its landmarks. A face that
    /// is half outside stays where it is here, as YuNet's does.
    fn face(&self, cell: usize, score: f32) -> Candidate {
        let (column, row) = ((cell % self.columns) as f32, (cell / self.columns) as f32);
        let stride = STRIDE as f32;
        let of = |maps: &[f32], map: usize| maps[map * self.cells + cell];
        let (height, width) = (of(self.size, 0).exp() * stride, of(self.size, 1).exp() * stride);
        let x = (column + of(self.offset, 1) + 0.5) * stride - width / 2.0;
        let y = (row + of(self.offset, 0) + 0.5) * stride - height / 2.0;
        let point = |n: usize| {
            [of(self.landmarks, 2 * n + 1) * width + x, of(self.landmarks, 2 * n) * height + y]
        };
        Candidate {
            box_px: [x, y, width, height],
            score,
            label: 0,
            landmarks: Some([point(0), point(1), point(2), point(3), point(4)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: [i64; 4] = [1, 2, 2, 10];

    /// 3 columns, 2 rows; the face is in column 1 of row 1.
    fn decode_with(
        score: f32,
        size: [f32; 2],
        px: (u32, u32),
    ) -> Result<Vec<Candidate>, OutputError> {
        let mut values = MAPS.map(|maps| vec![0.0f32; 6 * maps as usize]);
        let at = 4;
        values[0][at] = score;
        (values[1][at], values[1][6 + at]) = (size[0], size[1]);
        (values[2][at], values[2][6 + at]) = (0.25, -0.25);
        for point in 0..5 {
            values[3][12 * point + at] = 0.5;
            values[3][12 * point + 6 + at] = 0.1 * point as f32;
        }
        let shapes = MAPS.map(|maps| [1, maps, 2, 3]);
        let parts = OUTPUTS.iter().zip(&shapes).zip(&values);
        let outputs: Vec<Output<'_>> =
            parts.map(|((name, shape), values)| Output { name, shape, values }).collect();
        decode(&outputs, px, 0.5)
    }

    #[test]
    fn a_cell_says_where_its_face_is() {
        let faces = decode_with(0.9, [2f32.ln(), 1f32.ln()], (12, 8)).unwrap();
        let [face] = faces.as_slice() else { panic!("{faces:?}") };
        // Middle at column 1 - 0.25 + 0.5, row 1 + 0.25 + 0.5; 4 wide, 8 high.
        for (value, expected) in face.box_px.into_iter().zip([5.0 - 2.0, 7.0 - 4.0, 4.0, 8.0]) {
            assert!((value - expected).abs() < 1e-4, "{:?}", face.box_px);
        }
        for (n, [x, y]) in face.landmarks.unwrap().into_iter().enumerate() {
            assert!(
                (x - (3.0 + 0.4 * n as f32)).abs() < 1e-4 && (y - 7.0).abs() < 1e-4,
                "{n} {x} {y}"
            );
        }
    }

    #[test]
    fn outputs_of_another_size_are_an_error() {
        let error = decode_with(0.9, [0.0, 0.0], (16, 8)).unwrap_err().to_string();
        assert!(
            error.contains("537 has the shape 1 x 1 x 2 x 3, and must have 1 x 1 x 2 x 4"),
            "{error}"
        );
    }

    #[test]
    fn numbers_that_are_none_give_no_face() {
        for (score, size) in [(f32::NAN, [0.0; 2]), (1.0, [f32::NAN; 2]), (1.0, [200.0, 0.0])] {
            assert_eq!(decode_with(score, size, (12, 8)).unwrap(), []);
        }
    }
}
