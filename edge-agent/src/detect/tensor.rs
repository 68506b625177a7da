//! Planes to the numbers a model takes.

use picket_onnx::colours;

use super::colour::ToRgb;
use super::description::{Channels, InputDescription, Place};
use super::resize::{PlaneResizer, ResizeError, height_at};
use crate::capture::Planes;

/// How a model wants its picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Width and height, if the model fixes them.
    pub fixed_px: Option<(u32, u32)>,
    /// Width of the picture where the model does not fix it, at most.
    pub width_px: u32,
    /// Height and width are filled up to multiples of this where the model does not fix them.
    pub stride_px: u32,
    /// Order of the colours.
    pub channels: Channels,
    /// Where the picture lies in a larger input.
    pub place: Place,
    /// Grey of what the picture does not cover.
    pub fill: u8,
    /// A colour goes in as colour * `factor` + `offset`, in the order of `channels`.
    pub factor: [f32; 3],
    /// See `factor`.
    pub offset: [f32; 3],
}

impl Form {
    /// Of a described input, which the model fixes to a size or not.
    pub fn new(input: &InputDescription, fixed_px: Option<(u32, u32)>, width_px: u32) -> Self {
        let InputDescription { channels, scale, mean, std, fill, place, stride, .. } = *input;
        let (factor, offset) = colours::numbers(scale, mean, std);
        Self { fixed_px, width_px, stride_px: stride, channels, place, fill, factor, offset }
    }

    /// Sizes of the picture and of the whole input, for a frame of this size. A size that the model
    /// fixes is made use of, so that a smaller frame is enlarged to it; otherwise it is left as it is.
    fn sizes(&self, frame_px: (u32, u32)) -> ((u32, u32), (u32, u32)) {
        let Some(input) = self.fixed_px else {
            let width = frame_px.0.min(self.width_px);
            let picture = (width, height_at(width, frame_px));
            let pad = |px: u32| px.next_multiple_of(self.stride_px);
            return (picture, (pad(picture.0), pad(picture.1)));
        };
        let ratio = |input: u32, frame: u32| f64::from(input) / f64::from(frame.max(1));
        let ratio = ratio(input.0, frame_px.0).min(ratio(input.1, frame_px.1));
        let side = |frame: u32, input: u32| {
            ((f64::from(frame) * ratio).round() as u32).clamp(1, input.max(1))
        };
        ((side(frame_px.0, input.0), side(frame_px.1, input.1)), input)
    }
}

/// A model's picture: three colours, one after the other, each row by row.
pub struct Tensor {
    /// Width and height of the picture in it.
    pub picture_px: (u32, u32),
    /// Width and height with the filling.
    pub padded_px: (u32, u32),
    /// Columns to the left of the picture and rows above it.
    pub corner_px: (u32, u32),
    /// `3 * height * width` of `padded_px`.
    pub data: Vec<f32>,
    form: Form,
    resizer: PlaneResizer,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Tensor {
    /// An empty one of this form.
    pub fn new(form: Form) -> Self {
        let (picture_px, padded_px, corner_px) = ((0, 0), (0, 0), (0, 0));
        let (data, y, u, v) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let resizer = PlaneResizer::default();
        Self { picture_px, padded_px, corner_px, data, form, resizer, y, u, v }
    }

    /// Fills it with a frame.
    ///
    /// Each plane is resized before the colours are computed: a third of the work for a frame with
    /// chroma at half size, and less the larger the frame.
    pub fn fill(&mut self, planes: &Planes) -> Result<(), ResizeError> {
        self.make_room((planes.width(), planes.height()));
        self.resizer.resize(planes.y(), self.picture_px, &mut self.y)?;
        self.resizer.resize(planes.u(), self.picture_px, &mut self.u)?;
        self.resizer.resize(planes.v(), self.picture_px, &mut self.v)?;
        self.write(ToRgb::new(planes.matrix(), planes.range()));
        Ok(())
    }

    /// Grey for a picture of another size; what the last one wrote would stand in the filling.
    pub fn make_room(&mut self, frame_px: (u32, u32)) {
        let (picture, padded) = self.form.sizes(frame_px);
        if (self.picture_px, self.padded_px) == (picture, padded) {
            return;
        }
        (self.picture_px, self.padded_px) = (picture, padded);
        self.corner_px = match self.form.place {
            Place::UpperLeft => (0, 0),
            Place::Centre => ((padded.0 - picture.0) / 2, (padded.1 - picture.1) / 2),
        };
        let area = padded.0 as usize * padded.1 as usize;
        self.data.clear();
        for (factor, offset) in self.form.factor.into_iter().zip(self.form.offset) {
            let fill = f32::from(self.form.fill) * factor + offset;
            self.data.resize(self.data.len() + area, fill);
        }
    }

    fn write(&mut self, to_rgb: ToRgb) {
        let width = self.picture_px.0 as usize;
        let range = self.ranges();
        let area = self.padded_px.0 as usize * self.padded_px.1 as usize;
        let (first, rest) = self.data.split_at_mut(area);
        let (second, third) = rest.split_at_mut(area);
        let rows = self.y.chunks_exact(width).zip(self.u.chunks_exact(width));
        for (((y, u), v), at) in rows.zip(self.v.chunks_exact(width)).zip(range) {
            let (first, second) = (&mut first[at.clone()], &mut second[at.clone()]);
            let third = &mut third[at];
            let out = match self.form.channels {
                Channels::Rgb => [&mut *first, &mut *second, &mut *third],
                Channels::Bgr => [&mut *third, &mut *second, &mut *first],
            };
            to_rgb.row([y, u, v], out);
            let numbers = self.form.factor.into_iter().zip(self.form.offset);
            for (row, (factor, offset)) in [first, second, third].into_iter().zip(numbers) {
                // YuNet, the usual model, takes the colours as they are.
                if (factor, offset) != (1.0, 0.0) {
                    row.iter_mut().for_each(|colour| *colour = *colour * factor + offset);
                }
            }
        }
    }

    /// Where the picture's rows lie in each colour.
    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (width, height) = (self.picture_px.0 as usize, self.picture_px.1 as usize);
        let (left, top) = (self.corner_px.0 as usize, self.corner_px.1 as usize);
        let padded_width = self.padded_px.0 as usize;
        (0..height).map(move |row| {
            let at = (top + row) * padded_width + left;
            at..at + width
        })
    }

    /// The picture in it as red, green, blue bytes: just what the model sees, without the filling.
    pub fn rgb(&self) -> Vec<u8> {
        let area = self.padded_px.0 as usize * self.padded_px.1 as usize;
        let Form { factor, offset, .. } = &self.form;
        let order = match self.form.channels {
            Channels::Rgb => [0, 1, 2],
            Channels::Bgr => [2, 1, 0],
        };
        let byte = |channel: usize, at: usize| {
            let value = self.data[channel * area + at];
            ((value - offset[channel]) / factor[channel]).round() as u8
        };
        self.ranges().flatten().flat_map(|at| order.map(|channel| byte(channel, at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::planes::{Matrix, Range};

    fn grey(width: u32, height: u32) -> Planes {
        let (w, h) = (width as usize, height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let planes = [(vec![200; w * h], w), (vec![128; cw * ch], cw), (vec![128; cw * ch], cw)];
        Planes::from_vecs(width, height, planes, Matrix::Bt601, Range::Full).unwrap()
    }

    fn black_around(width_px: u32) -> Form {
        let input =
            InputDescription { fill: 0, place: Place::UpperLeft, ..InputDescription::default() };
        Form::new(&input, None, width_px)
    }

    #[test]
    fn the_picture_is_filled_up_to_the_right_and_below() {
        let mut tensor = Tensor::new(black_around(100));
        tensor.fill(&grey(1000, 500)).unwrap();
        assert_eq!((tensor.picture_px, tensor.padded_px), ((100, 50), (128, 64)));
        for (at, value) in tensor.data.iter().enumerate() {
            let (x, y) = (at % 128, at / 128 % 64);
            let expected = if x < 100 && y < 50 { 200.0 } else { 0.0 };
            assert_eq!(*value, expected, "{x} {y}");
        }
        assert_eq!(tensor.rgb(), vec![200; 100 * 50 * 3]);
    }

    #[test]
    fn a_smaller_frame_is_not_enlarged_and_leaves_nothing_of_a_larger_one() {
        let mut tensor = Tensor::new(black_around(320));
        tensor.fill(&grey(640, 640)).unwrap();
        tensor.fill(&grey(40, 20)).unwrap();
        assert_eq!((tensor.picture_px, tensor.padded_px), ((40, 20), (64, 32)));
        assert_eq!(tensor.data.iter().filter(|value| **value > 0.0).count(), 3 * 40 * 20);
        // The same room, another picture: 33 and 64 are both filled up to 64.
        tensor.fill(&grey(64, 32)).unwrap();
        tensor.fill(&grey(33, 32)).unwrap();
        assert_eq!(tensor.data.iter().filter(|value| **value > 0.0).count(), 3 * 33 * 32);
    }

    #[test]
    fn a_fixed_size_is_filled_from_the_middle_in_the_shape_of_the_frame() {
        let form = Form::new(&InputDescription::default(), Some((64, 64)), 320);
        let mut tensor = Tensor::new(form);
        for frame in [(1280, 720), (32, 18)] {
            tensor.fill(&grey(frame.0, frame.1)).unwrap();
            assert_eq!((tensor.picture_px, tensor.padded_px), ((64, 36), (64, 64)));
            assert_eq!(tensor.corner_px, (0, 14));
            for (at, value) in tensor.data.iter().enumerate() {
                let row = at / 64 % 64;
                let expected = if (14..50).contains(&row) { 200.0 } else { 114.0 };
                assert_eq!(*value, expected, "{at}");
            }
            assert_eq!(tensor.rgb(), vec![200; 64 * 36 * 3]);
        }
        tensor.fill(&grey(10, 1000)).unwrap();
        assert_eq!((tensor.picture_px, tensor.corner_px), ((1, 64), (31, 0)));
    }

    #[test]
    fn colours_go_in_scaled_and_in_the_order_that_is_described() {
        // BT.601, full range: red.
        let planes = [(vec![76; 4], 2), (vec![85; 1], 1), (vec![255; 1], 1)];
        let red = Planes::from_vecs(2, 2, planes, Matrix::Bt601, Range::Full).unwrap();
        let scale = 1.0 / 255.0;
        let (mean, std) = ([0.5, 0.25, 0.125], [0.5, 1.0, 2.0]);
        for (channels, expected) in [
            (Channels::Rgb, [(1.0 - 0.5) / 0.5, -0.25, -0.125 / 2.0]),
            (Channels::Bgr, [-0.5 / 0.5, -0.25, (1.0 - 0.125) / 2.0]),
        ] {
            let input = InputDescription { channels, scale, mean, std, ..Default::default() };
            let mut tensor = Tensor::new(Form::new(&input, Some((2, 2)), 320));
            tensor.fill(&red).unwrap();
            for (pixels, expected) in tensor.data.chunks(4).zip(expected) {
                let close = pixels.iter().all(|value| (value - expected).abs() < 0.01);
                assert!(close, "{channels:?} {pixels:?} {expected}");
            }
            let rgb = tensor.rgb();
            assert!(rgb.chunks(3).all(|p| p[0] >= 253 && p[1] <= 2 && p[2] <= 2), "{rgb:?}");
        }
    }
}
