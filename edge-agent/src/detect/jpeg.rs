//! Planes to JPEG, without a way over red, green and blue.

use turbojpeg::{Compressor, Subsamp, YuvPlanesImage};

use super::colour::ToJpeg;
use super::privacy::Redacted;
use super::resize::{Part, PlaneResizer, ResizeError, height_at};
use crate::capture::planes::Plane;

/// A picture as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jpeg {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Why there is no JPEG.
#[derive(Debug, thiserror::Error)]
pub enum JpegError {
    /// The encoder does not start.
    #[error("cannot start the JPEG encoder")]
    Start(#[source] turbojpeg::Error),
    /// The planes cannot be brought to the published size.
    #[error("cannot resize the frame for its JPEG")]
    Resize(#[source] ResizeError),
    /// The encoder refuses.
    #[error("cannot encode a JPEG of {width}x{height} pixels")]
    Encode {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Why.
        source: turbojpeg::Error,
    },
}

/// Encodes; keeps its working memory from one frame to the next.
pub struct Encoder {
    compressor: Compressor,
    resizer: PlaneResizer,
    resized: [Vec<u8>; 3],
    rewritten: [Vec<u8>; 3],
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Result<Self, JpegError> {
        Ok(Self {
            compressor: Compressor::new().map_err(JpegError::Start)?,
            resizer: PlaneResizer::default(),
            resized: Default::default(),
            rewritten: Default::default(),
        })
    }

    /// The picture as a JPEG of at most this width, and of this quality, 1 to 100.
    pub fn encode(
        &mut self,
        picture: &Redacted,
        width_px: Option<u32>,
        quality: u8,
    ) -> Result<Jpeg, JpegError> {
        let planes = picture.planes();
        let whole = Part::whole((planes.width(), planes.height()));
        self.encode_part(picture, whole, width_px, quality)
    }

    /// The same with a part of it, which begins at even pixels.
    ///
    /// Planes that are already what JPEG has are encoded where they lie.
    pub fn encode_part(
        &mut self,
        picture: &Redacted,
        part: Part,
        width_px: Option<u32>,
        quality: u8,
    ) -> Result<Jpeg, JpegError> {
        let planes = picture.planes();
        let width = width_px.unwrap_or(part.width).min(part.width);
        let size = (width, height_at(width, (part.width, part.height)));
        let mut parts = [planes.y(), planes.u(), planes.v()];
        if size != (planes.width(), planes.height()) {
            let chroma = (size.0.div_ceil(2), size.1.div_ceil(2));
            let (sizes, half) = ([size, chroma, chroma], part.of_chroma());
            let tasks = parts.iter().zip([part, half, half]).zip(sizes).zip(&mut self.resized);
            for (((plane, part), to), into) in tasks {
                self.resizer.resize_part(*plane, part, to, into).map_err(JpegError::Resize)?;
            }
            parts = without_gaps(size, chroma, &self.resized);
        }
        let is_even = size.0.is_multiple_of(2) && size.1.is_multiple_of(2);
        let to_jpeg = ToJpeg::new(planes.matrix(), planes.range());
        if to_jpeg.is_some() || !is_even {
            let [y, u, v] = &mut self.rewritten;
            match to_jpeg {
                Some(to_jpeg) => to_jpeg.rewrite(parts, [y, u, v]),
                None => copy(parts, [y, u, v]),
            }
            make_even((size.0 as usize, size.1 as usize), y);
            let chroma = (size.0.div_ceil(2), size.1.div_ceil(2));
            parts = without_gaps((2 * chroma.0, 2 * chroma.1), chroma, &self.rewritten);
        }
        let encoded = compress(&mut self.compressor, size, parts, quality);
        let (width, height) = size;
        let bytes = encoded.map_err(|source| JpegError::Encode { width, height, source })?;
        Ok(Jpeg { width, height, bytes })
    }
}

fn copy(planes: [Plane<'_>; 3], into: [&mut Vec<u8>; 3]) {
    for (plane, into) in planes.into_iter().zip(into) {
        into.clear();
        (0..plane.height as usize).for_each(|row| into.extend_from_slice(plane.row(row)));
    }
}

/// Repeats the last column and row of a luma plane of odd size: the encoder reads two by two, and
/// refuses a plane that ends in the middle.
fn make_even((width, height): (usize, usize), y: &mut Vec<u8>) {
    if width % 2 == 1 {
        let rows = y.chunks(width).flat_map(|row| row.iter().chain(row.last()));
        *y = rows.copied().collect();
    }
    if height % 2 == 1 {
        let row = width.next_multiple_of(2);
        y.extend_from_within(y.len() - row..);
    }
}

/// Planes of these sizes without gaps between their rows.
fn without_gaps<'a>(
    luma: (u32, u32),
    chroma: (u32, u32),
    [y, u, v]: &'a [Vec<u8>; 3],
) -> [Plane<'a>; 3] {
    let plane = |data: &'a [u8], (width, height): (u32, u32)| Plane {
        data,
        stride: width as usize,
        width,
        height,
    };
    [plane(y, luma), plane(u, chroma), plane(v, chroma)]
}

fn compress(
    compressor: &mut Compressor,
    (width, height): (u32, u32),
    [y, u, v]: [Plane<'_>; 3],
    quality: u8,
) -> Result<Vec<u8>, turbojpeg::Error> {
    compressor.set_quality(i32::from(quality))?;
    let image = YuvPlanesImage {
        y_plane: y.data,
        u_plane: u.data,
        v_plane: v.data,
        width: width as usize,
        height: height as usize,
        y_stride: y.stride,
        u_stride: u.stride,
        v_stride: v.stride,
        subsamp: Subsamp::Sub2x2,
    };
    compressor.compress_yuv_planes_to_vec(&image)
}
