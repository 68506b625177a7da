//! What a decoder finds, before overlaps are resolved. Pure.

/// Largest coordinate that is handed on, pixels of the model's picture: a hundred times the largest
/// picture. What lies beyond comes from a broken model, and the wire would refuse it.
const LARGEST_PX: f32 = 500_000.0;

/// A thing that a model may have found, in pixels of the model's picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// x, y of the upper left corner, width, height.
    pub box_px: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    /// Which of the model's labels.
    pub label: usize,
    /// Of a face: right eye, left eye, nose tip, right and left corner of the mouth.
    pub landmarks: Option<[[f32; 2]; 5]>,
}

impl Candidate {
    /// Whether all its numbers are ones that a picture can have. Infinite where a broken model gives a
    /// size of e^100: no box, and JSON has no word for it.
    pub fn is_possible(&self) -> bool {
        let points = self.landmarks.iter().flatten().flatten();
        self.box_px.iter().chain(points).all(|value| value.abs() <= LARGEST_PX)
            && self.box_px[2] >= 0.0
            && self.box_px[3] >= 0.0
    }
}

/// Between 0 and 1; what is not a number counts as 0.
#[expect(clippy::manual_clamp, reason = "clamp keeps what is not a number")]
pub fn unit(value: f32) -> f32 {
    value.max(0.0).min(1.0)
}

/// One output of a model.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions.
    pub shape: &'a [i64],
    /// Its numbers, the last dimension's side by side.
    pub values: &'a [f32],
}

/// An output that its decoder cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// It has other dimensions.
    #[error("the output {name} has the shape {found}, and must have {expected}")]
    Shape {
        /// Which.
        name: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// It names a label that the description lacks.
    #[error(
        "the output {name} names label {label}, counted from 0; the description lists {labels}"
    )]
    Label {
        /// Which.
        name: String,
        /// What it names.
        label: String,
        /// How many there are.
        labels: usize,
    },
}

impl<'a> Output<'a> {
    /// Its numbers, if it has these dimensions.
    pub fn expect(&self, shape: &[usize]) -> Result<&'a [f32], OutputError> {
        let fits = self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(have, want)| usize::try_from(*have) == Ok(*want));
        match fits {
            true => Ok(self.values),
            false => Err(self.misshapen(by(shape))),
        }
    }

    /// The error that it has another shape than it must have.
    pub fn misshapen(&self, expected: String) -> OutputError {
        OutputError::Shape { name: self.name.to_owned(), found: by(self.shape), expected }
    }
}

fn by<T: ToString>(shape: &[T]) -> String {
    shape.iter().map(T::to_string).collect::<Vec<_>>().join(" x ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_of_another_shape_is_refused_with_both() {
        let values = [0.0; 8];
        let output = Output { name: "cls", shape: &[1, 8, 1], values: &values };
        assert_eq!(output.expect(&[1, 8, 1]).unwrap().len(), 8);
        for shape in [&[1, 8][..], &[1, 4, 2], &[1, 8, 1, 1]] {
            output.expect(shape).unwrap_err();
        }
        let error = output.expect(&[1, 4, 2]).unwrap_err().to_string();
        assert_eq!(error, "the output cls has the shape 1 x 8 x 1, and must have 1 x 4 x 2");
    }

    #[test]
    fn numbers_that_no_picture_has_are_no_candidate() {
        let possible =
            |box_px| Candidate { box_px, score: 1.0, label: 0, landmarks: None }.is_possible();
        assert!(possible([-5.0, 3.0, 0.0, 9.0]));
        for wrong in [f32::NAN, f32::INFINITY, 1e9, -1.0] {
            assert!(!possible([0.0, 0.0, wrong, 1.0]), "{wrong}");
        }
    }
}
