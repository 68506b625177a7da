//! Planes to the numbers a model takes.

use super::colour::ToRgb;
use super::resize::{PlaneResizer, ResizeError, height_at};
use crate::capture::Planes;

/// YuNet halves its input five times.
const MULTIPLE_PX: u32 = 32;

/// A model's picture: blue, green and red, one after the other, each row by row, 0 to 255; filled up
/// with zeros to the right and below, as OpenCV does.
#[derive(Default)]
pub struct Tensor {
    /// Width and height of the picture in it.
    pub picture_px: (u32, u32),
    /// Width and height with the filling.
    pub padded_px: (u32, u32),
    /// `3 * height * width` of `padded_px`.
    pub data: Vec<f32>,
    resizer: PlaneResizer,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

fn pad(px: u32) -> u32 {
    px.next_multiple_of(MULTIPLE_PX)
}

impl Tensor {
    /// Fills it with a frame, brought to this width at most.
    ///
    /// Each plane is resized before the colours are computed: a third of the work for a frame with
    /// chroma at half size, and less the larger the frame.
    pub fn fill(&mut self, planes: &Planes, width_px: u32) -> Result<(), ResizeError> {
        let width = planes.width().min(width_px);
        let height = height_at(width, (planes.width(), planes.height()));
        self.make_room((width, height));
        self.resizer.resize(planes.y(), self.picture_px, &mut self.y)?;
        self.resizer.resize(planes.u(), self.picture_px, &mut self.u)?;
        self.resizer.resize(planes.v(), self.picture_px, &mut self.v)?;
        self.write(ToRgb::new(planes.matrix(), planes.range()));
        Ok(())
    }

    /// Zeros for a picture of another size; what the last one wrote would stand in the filling.
    fn make_room(&mut self, picture_px: (u32, u32)) {
        if self.picture_px != picture_px {
            self.picture_px = picture_px;
            self.padded_px = (pad(picture_px.0), pad(picture_px.1));
            self.data.clear();
            self.data.resize(3 * self.padded_px.0 as usize * self.padded_px.1 as usize, 0.0);
        }
    }

    fn write(&mut self, to_rgb: ToRgb) {
        let width = self.picture_px.0 as usize;
        let padded_width = self.padded_px.0 as usize;
        let area = padded_width * self.padded_px.1 as usize;
        let (blue, rest) = self.data.split_at_mut(area);
        let (green, red) = rest.split_at_mut(area);
        let rows = self.y.chunks_exact(width).zip(self.u.chunks_exact(width));
        let rows = rows.zip(self.v.chunks_exact(width)).enumerate();
        for (row, ((y, u), v)) in rows {
            let at = row * padded_width..row * padded_width + width;
            let out = blue[at.clone()].iter_mut().zip(&mut green[at.clone()]).zip(&mut red[at]);
            for (((blue, green), red), ((y, u), v)) in out.zip(y.iter().zip(u).zip(v)) {
                let [r, g, b] = to_rgb.rgb(*y, *u, *v);
                (*blue, *green, *red) = (f32::from(b), f32::from(g), f32::from(r));
            }
        }
    }

    /// The picture in it as red, green, blue bytes: just what the model sees, without the filling.
    pub fn rgb(&self) -> Vec<u8> {
        let (width, height) = (self.picture_px.0 as usize, self.picture_px.1 as usize);
        let padded_width = self.padded_px.0 as usize;
        let area = padded_width * self.padded_px.1 as usize;
        let mut rgb = Vec::with_capacity(3 * width * height);
        for row in 0..height {
            for at in row * padded_width..row * padded_width + width {
                rgb.extend([2 * area + at, area + at, at].map(|at| self.data[at] as u8));
            }
        }
        rgb
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

    #[test]
    fn the_picture_is_filled_up_with_zeros_to_the_right_and_below() {
        let mut tensor = Tensor::default();
        tensor.fill(&grey(1000, 500), 100).unwrap();
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
        let mut tensor = Tensor::default();
        tensor.fill(&grey(640, 640), 320).unwrap();
        tensor.fill(&grey(40, 20), 320).unwrap();
        assert_eq!((tensor.picture_px, tensor.padded_px), ((40, 20), (64, 32)));
        assert_eq!(tensor.data.iter().filter(|value| **value > 0.0).count(), 3 * 40 * 20);
        // The same room, another picture: 33 and 64 are both filled up to 64.
        tensor.fill(&grey(64, 32), 320).unwrap();
        tensor.fill(&grey(33, 32), 320).unwrap();
        assert_eq!(tensor.data.iter().filter(|value| **value > 0.0).count(), 3 * 33 * 32);
    }
}
