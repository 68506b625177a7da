//! Planes at another size.

use fast_image_resize as fir;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8;

use crate::capture::planes::Plane;

/// A plane that cannot be brought to a size.
#[derive(Debug, thiserror::Error)]
#[error("cannot bring a plane of {from:?} pixels to {to:?}")]
pub struct ResizeError {
    from: (u32, u32),
    to: (u32, u32),
}

/// A plane that is to become smaller than this part of itself is halved first.
const HALVED_BELOW_ONE_IN: u32 = 3;

/// A part of a plane, in whole pixels; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Of its upper left corner.
    pub left: u32,
    /// Of its upper left corner.
    pub top: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl Part {
    /// What a box covers of a picture of this size; `None` if that is nothing.
    pub fn within([x, y, width, height]: [f32; 4], picture_px: (u32, u32)) -> Option<Self> {
        if ![x, y, width, height].iter().all(|value| value.is_finite()) {
            return None;
        }
        let range = |from: f32, length: f32, limit: u32| {
            let start = from.floor().clamp(0.0, limit as f32) as u32;
            let end = (from + length).ceil().clamp(0.0, limit as f32) as u32;
            (start < end).then_some((start, end - start))
        };
        let (left, width) = range(x, width, picture_px.0)?;
        let (top, height) = range(y, height, picture_px.1)?;
        Some(Self { left, top, width, height })
    }

    /// All of a picture.
    pub fn whole((width, height): (u32, u32)) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// The same part of a plane at half of both sizes, which has at least what this one has.
    pub fn of_chroma(self) -> Self {
        let (left, top) = (self.left / 2, self.top / 2);
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        let (width, height) = (right.div_ceil(2) - left, bottom.div_ceil(2) - top);
        Self { left, top, width, height }
    }

    /// Grown to begin at even pixels, where chroma samples begin.
    pub fn even(self) -> Self {
        let (left, top) = (self.left & !1, self.top & !1);
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        Self { left, top, width: right - left, height: bottom - top }
    }
}

/// Brings planes to a size; keeps its working memory from one to the next.
#[derive(Default)]
pub struct PlaneResizer {
    resizer: fir::Resizer,
    halved: Vec<u8>,
    halved_again: Vec<u8>,
}

impl PlaneResizer {
    /// The plane at `width` x `height`, rows without gaps, in `into`.
    ///
    /// Bilinear over the whole area a pixel stands for. Interpolation between the four nearest
    /// samples, as OpenCV's default does, leaves samples out when it makes a picture smaller, and a
    /// small face flickers.
    ///
    /// A plane that is much larger is halved until it is not: the mean of two by two samples takes a
    /// fraction of what a convolution over as many does.
    pub fn resize(
        &mut self,
        plane: Plane<'_>,
        size: (u32, u32),
        into: &mut Vec<u8>,
    ) -> Result<(), ResizeError> {
        let is_much_larger = |plane: &Plane<'_>| {
            plane.width > HALVED_BELOW_ONE_IN * size.0
                && plane.height > HALVED_BELOW_ONE_IN * size.1
        };
        if !is_much_larger(&plane) {
            return convolve(&mut self.resizer, plane, whole(&plane), size, into);
        }
        let mut halved = halve(plane, &mut self.halved);
        while is_much_larger(&halved) {
            let (width, height) = (halved.width / 2, halved.height / 2);
            halve(halved, &mut self.halved_again);
            std::mem::swap(&mut self.halved, &mut self.halved_again);
            halved = tight(&self.halved, width, height);
        }
        convolve(&mut self.resizer, halved, whole(&halved), size, into)
    }

    /// The same with a part of the plane.
    pub fn resize_part(
        &mut self,
        plane: Plane<'_>,
        part: Part,
        size: (u32, u32),
        into: &mut Vec<u8>,
    ) -> Result<(), ResizeError> {
        match part == whole(&plane) {
            true => self.resize(plane, size, into),
            false => convolve(&mut self.resizer, plane, part, size, into),
        }
    }
}

fn whole(plane: &Plane<'_>) -> Part {
    Part::whole((plane.width, plane.height))
}

fn convolve(
    resizer: &mut fir::Resizer,
    plane: Plane<'_>,
    part: Part,
    (width, height): (u32, u32),
    into: &mut Vec<u8>,
) -> Result<(), ResizeError> {
    into.resize(width as usize * height as usize, 0);
    let failed = || ResizeError { from: (part.width, part.height), to: (width, height) };
    let stride = u32::try_from(plane.stride).map_err(|_| failed())?;
    let with_gaps =
        TypedImageRef::<U8>::from_buffer(stride, plane.height, plane.data).map_err(|_| failed())?;
    let from =
        TypedCroppedImage::from_ref(&with_gaps, part.left, part.top, part.width, part.height)
            .map_err(|_| failed())?;
    let mut to = TypedImage::<U8>::from_buffer(width, height, into).map_err(|_| failed())?;
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    resizer.resize_typed(&from, &mut to, &options).map_err(|_| failed())
}

/// The mean of each two by two samples; an odd last column or row is left out.
fn halve<'a>(plane: Plane<'_>, into: &'a mut Vec<u8>) -> Plane<'a> {
    let (width, height) = (plane.width / 2, plane.height / 2);
    into.resize(width as usize * height as usize, 0);
    for (index, out) in into.chunks_exact_mut(width as usize).enumerate() {
        let above = plane.row(2 * index).chunks_exact(2);
        let below = plane.row(2 * index + 1).chunks_exact(2);
        for (out, (above, below)) in out.iter_mut().zip(above.zip(below)) {
            let sum = [above[0], above[1], below[0], below[1]].map(u16::from).iter().sum::<u16>();
            *out = ((sum + 2) >> 2) as u8;
        }
    }
    tight(into, width, height)
}

fn tight(data: &[u8], width: u32, height: u32) -> Plane<'_> {
    Plane { data, stride: width as usize, width, height }
}

/// The height that keeps the shape of a picture at another width.
pub fn height_at(width: u32, (from_width, from_height): (u32, u32)) -> u32 {
    let height = f64::from(from_height) * f64::from(width) / f64::from(from_width.max(1));
    (height.round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lies_within_its_picture_whatever_the_box() {
        let part =
            |box_px| Part::within(box_px, (100, 50)).map(|p| (p.left, p.top, p.width, p.height));
        assert_eq!(part([10.4, 5.0, 20.0, 10.5]), Some((10, 5, 21, 11)));
        assert_eq!(part([-10.0, 40.0, 20.0, 90.0]), Some((0, 40, 10, 10)));
        assert_eq!(part([100.0, 0.0, 20.0, 10.0]), None);
        assert_eq!(part([0.0, 0.0, f32::INFINITY, 10.0]), None);
        let odd = Part { left: 11, top: 7, width: 4, height: 4 };
        assert_eq!(odd.even(), Part { left: 10, top: 6, width: 5, height: 5 });
        assert_eq!(odd.of_chroma(), Part { left: 5, top: 3, width: 3, height: 3 });
    }

    #[test]
    fn a_part_of_a_plane_is_what_lies_there() {
        let data: Vec<u8> = (0..64).map(|at| if at % 8 >= 4 { 200 } else { 10 }).collect();
        let plane = Plane { data: &data, stride: 8, width: 8, height: 8 };
        let part = Part { left: 5, top: 2, width: 3, height: 6 };
        let mut resized = Vec::new();
        PlaneResizer::default().resize_part(plane, part, (6, 6), &mut resized).unwrap();
        assert_eq!(resized, vec![200; 36]);
    }

    #[test]
    fn what_lies_between_the_rows_is_not_part_of_the_picture() {
        // Rows of 4 samples with 4 bytes of rubbish behind each.
        let data: Vec<u8> = [[100u8, 100, 100, 100, 255, 0, 255, 0]; 4].concat();
        let plane = Plane { data: &data, stride: 8, width: 4, height: 4 };
        for size in [(2, 2), (4, 4), (7, 9)] {
            let mut resized = Vec::new();
            PlaneResizer::default().resize(plane, size, &mut resized).unwrap();
            assert_eq!(resized, vec![100; (size.0 * size.1) as usize], "{size:?}");
        }
    }

    #[test]
    fn a_plane_that_is_much_larger_becomes_what_a_convolution_over_all_of_it_gives() {
        let (width, height) = (1920u32, 1080u32);
        // Waves of many lengths: the shorter ones must be gone, the longer ones stay.
        let sample = |x: u32, y: u32| {
            let wave = |length: f32| ((x as f32 + 0.7 * y as f32) / length).sin();
            (128.0 + 40.0 * wave(60.0) + 30.0 * wave(15.0) + 20.0 * wave(1.5)) as u8
        };
        let data: Vec<u8> =
            (0..height).flat_map(|y| (0..width).map(move |x| sample(x, y))).collect();
        let plane = tight(&data, width, height);
        let (mut quick, mut whole) = (Vec::new(), Vec::new());
        PlaneResizer::default().resize(plane, (320, 180), &mut quick).unwrap();
        convolve(
            &mut fir::Resizer::new(),
            plane,
            Part::whole((plane.width, plane.height)),
            (320, 180),
            &mut whole,
        )
        .unwrap();
        let errors = quick.iter().zip(&whole).map(|(quick, whole)| quick.abs_diff(*whole));
        assert!(errors.clone().max() <= Some(8), "{:?}", errors.clone().max());
        let mean = errors.map(f64::from).sum::<f64>() / quick.len() as f64;
        assert!(mean < 2.0, "{mean}");
    }

    #[test]
    fn the_height_follows_the_width() {
        assert_eq!(height_at(320, (1920, 1080)), 180);
        assert_eq!(height_at(320, (640, 359)), 180);
        assert_eq!(height_at(32, (4000, 10)), 1);
    }
}
