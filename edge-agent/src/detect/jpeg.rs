//! Planes to JPEG, without a way over red, green and blue.

use turbojpeg::{Compressor, Subsamp, YuvPlanesImage};

use super::colour::ToJpeg;
use super::resize::{PlaneResizer, ResizeError, height_at};
use super::settings::PublishSettings;
use crate::capture::Planes;
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
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Result<Self, JpegError> {
        Ok(Self {
            compressor: Compressor::new().map_err(JpegError::Start)?,
            resizer: PlaneResizer::default(),
            y: Vec::new(),
            u: Vec::new(),
            v: Vec::new(),
        })
    }

    /// The frame as a JPEG of the published size and quality.
    ///
    /// Planes that are already what JPEG has are encoded where they lie.
    pub fn encode(
        &mut self,
        planes: &Planes,
        publish: &PublishSettings,
    ) -> Result<Jpeg, JpegError> {
        let width = publish.width_px.unwrap_or(planes.width()).min(planes.width());
        let height = height_at(width, (planes.width(), planes.height()));
        let to_jpeg = ToJpeg::new(planes.matrix(), planes.range());
        let even = width.is_multiple_of(2) && height.is_multiple_of(2);
        let encoded = if width == planes.width() && even && to_jpeg.is_none() {
            let (y, u, v) = (planes.y(), planes.u(), planes.v());
            compress(&mut self.compressor, (width, height), [y, u, v], publish.quality)
        } else {
            self.rewrite(planes, (width, height), to_jpeg).map_err(JpegError::Resize)?;
            make_even((width as usize, height as usize), &mut self.y);
            let planes = without_gaps((width, height), [&self.y, &self.u, &self.v]);
            compress(&mut self.compressor, (width, height), planes, publish.quality)
        };
        let bytes = encoded.map_err(|source| JpegError::Encode { width, height, source })?;
        Ok(Jpeg { width, height, bytes })
    }

    fn rewrite(
        &mut self,
        planes: &Planes,
        (width, height): (u32, u32),
        to_jpeg: Option<ToJpeg>,
    ) -> Result<(), ResizeError> {
        let chroma = (width.div_ceil(2), height.div_ceil(2));
        self.resizer.resize(planes.y(), (width, height), &mut self.y)?;
        self.resizer.resize(planes.u(), chroma, &mut self.u)?;
        self.resizer.resize(planes.v(), chroma, &mut self.v)?;
        if let Some(to_jpeg) = to_jpeg {
            to_jpeg.rewrite(width as usize, &mut self.y, &mut self.u, &mut self.v);
        }
        Ok(())
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

/// Planes without gaps between their rows, the luma filled up to an even size.
fn without_gaps<'a>((width, height): (u32, u32), [y, u, v]: [&'a [u8]; 3]) -> [Plane<'a>; 3] {
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let plane =
        |data: &'a [u8], width: u32, height| Plane { data, stride: width as usize, width, height };
    [
        plane(y, 2 * chroma_width, 2 * chroma_height),
        plane(u, chroma_width, chroma_height),
        plane(v, chroma_width, chroma_height),
    ]
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
