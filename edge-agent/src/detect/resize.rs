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

/// Brings planes to a size; keeps its working memory from one to the next.
#[derive(Default)]
pub struct PlaneResizer {
    resizer: fir::Resizer,
}

impl PlaneResizer {
    /// The plane at `width` x `height`, rows without gaps, in `into`.
    ///
    /// Bilinear over the whole area a pixel stands for. Interpolation between the four nearest
    /// samples, as OpenCV's default does, leaves samples out when it makes a picture smaller, and a
    /// small face flickers.
    pub fn resize(
        &mut self,
        plane: Plane<'_>,
        (width, height): (u32, u32),
        into: &mut Vec<u8>,
    ) -> Result<(), ResizeError> {
        into.resize(width as usize * height as usize, 0);
        let failed = || ResizeError { from: (plane.width, plane.height), to: (width, height) };
        let stride = u32::try_from(plane.stride).map_err(|_| failed())?;
        let with_gaps = TypedImageRef::<U8>::from_buffer(stride, plane.height, plane.data)
            .map_err(|_| failed())?;
        let from = TypedCroppedImage::from_ref(&with_gaps, 0, 0, plane.width, plane.height)
            .map_err(|_| failed())?;
        let mut to = TypedImage::<U8>::from_buffer(width, height, into).map_err(|_| failed())?;
        let options = fir::ResizeOptions::new()
            .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
        self.resizer.resize_typed(&from, &mut to, &options).map_err(|_| failed())
    }
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
    fn the_height_follows_the_width() {
        assert_eq!(height_at(320, (1920, 1080)), 180);
        assert_eq!(height_at(320, (640, 359)), 180);
        assert_eq!(height_at(32, (4000, 10)), 1);
    }
}
