//! A decoded picture as its planes, in the memory it was decoded into.

use std::fmt;
use std::sync::Arc;

use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

/// How luma and chroma were made from red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601: standard definition, JPEG.
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

/// Which values the planes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// 16 to 235, chroma to 240.
    Limited,
    /// 0 to 255.
    Full,
}

/// One plane.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// Its rows, each `stride` bytes from the next; at least `stride * height` bytes.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Samples in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl<'a> Plane<'a> {
    /// The samples of a row; `index` is below `height`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        &self.data[index * self.stride..][..self.width as usize]
    }
}

/// A picture in YUV with chroma at half of both sizes (I420). Cheap to clone: the memory is shared.
///
/// A frame from GStreamer stays mapped where the decoder wrote it; the decoder cannot use that
/// memory again until the last clone is gone, so nothing may keep frames for long.
#[derive(Clone)]
pub struct Planes {
    memory: Arc<Memory>,
    width: u32,
    height: u32,
    matrix: Matrix,
    range: Range,
}

#[expect(
    clippy::large_enum_variant,
    reason = "lives in an Arc; a box would be one more allocation"
)]
enum Memory {
    Mapped(gst_video::VideoFrame<gst_video::video_frame::Readable>),
    Owned([(Vec<u8>, usize); 3]),
}

/// Planes that do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum PlanesError {
    /// Too few bytes for the size.
    #[error("plane {index} of a {width}x{height} picture holds {bytes} bytes, too few")]
    TooSmall {
        /// 0 for Y, 1 for U, 2 for V.
        index: usize,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// What it holds.
        bytes: usize,
    },
    /// The memory cannot be read.
    #[error("cannot map a decoded frame")]
    Map(#[source] gstreamer::glib::BoolError),
}

fn chroma_px(px: u32) -> u32 {
    px.div_ceil(2)
}

impl Planes {
    /// Maps a decoded frame; nothing is copied.
    pub fn map(
        buffer: gstreamer::Buffer,
        info: &gst_video::VideoInfo,
    ) -> Result<Self, PlanesError> {
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, info).map_err(|_| {
            PlanesError::Map(gstreamer::glib::bool_error!("buffer and caps do not fit"))
        })?;
        let matrix = match info.colorimetry().matrix() {
            gst_video::VideoColorMatrix::Bt709 => Matrix::Bt709,
            _ => Matrix::Bt601,
        };
        let range = match info.colorimetry().range() {
            gst_video::VideoColorRange::Range0_255 => Range::Full,
            _ => Range::Limited,
        };
        let planes = Self {
            width: frame.width(),
            height: frame.height(),
            memory: Arc::new(Memory::Mapped(frame)),
            matrix,
            range,
        };
        planes.checked()
    }

    /// Planes of one's own, each with its stride.
    pub fn from_vecs(
        width: u32,
        height: u32,
        planes: [(Vec<u8>, usize); 3],
        matrix: Matrix,
        range: Range,
    ) -> Result<Self, PlanesError> {
        Self { memory: Arc::new(Memory::Owned(planes)), width, height, matrix, range }.checked()
    }

    /// The same picture in memory of its own.
    pub fn copied(&self) -> Self {
        let planes = [self.y(), self.u(), self.v()].map(|p| (p.data.to_vec(), p.stride));
        Self { memory: Arc::new(Memory::Owned(planes)), ..self.clone() }
    }

    fn checked(self) -> Result<Self, PlanesError> {
        for (index, plane) in [self.y(), self.u(), self.v()].into_iter().enumerate() {
            let fits = plane.stride >= plane.width as usize
                && plane.data.len() >= plane.stride * plane.height as usize;
            if !fits || self.width == 0 || self.height == 0 {
                let (width, height, bytes) = (self.width, self.height, plane.data.len());
                return Err(PlanesError::TooSmall { index, width, height, bytes });
            }
        }
        Ok(self)
    }

    fn plane(&self, index: usize) -> Plane<'_> {
        let (width, height) = match index {
            0 => (self.width, self.height),
            _ => (chroma_px(self.width), chroma_px(self.height)),
        };
        let (data, stride) = match &*self.memory {
            Memory::Mapped(frame) => (
                frame.plane_data(index as u32).unwrap_or_default(),
                usize::try_from(frame.plane_stride()[index]).unwrap_or_default(),
            ),
            Memory::Owned(planes) => (planes[index].0.as_slice(), planes[index].1),
        };
        Plane { data, stride, width, height }
    }

    /// Luma.
    pub fn y(&self) -> Plane<'_> {
        self.plane(0)
    }

    /// Blue-difference chroma.
    pub fn u(&self) -> Plane<'_> {
        self.plane(1)
    }

    /// Red-difference chroma.
    pub fn v(&self) -> Plane<'_> {
        self.plane(2)
    }

    /// Pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// How the planes were made from colours.
    pub fn matrix(&self) -> Matrix {
        self.matrix
    }

    /// Which values they use.
    pub fn range(&self) -> Range {
        self.range
    }
}

impl fmt::Debug for Planes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, matrix, range, .. } = self;
        write!(f, "Planes({width}x{height}, {matrix:?}, {range:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_of_an_odd_size_have_their_chroma_rounded_up() {
        let planes = [(vec![0; 15], 5), (vec![0; 6], 3), (vec![0; 6], 3)];
        let planes = Planes::from_vecs(5, 3, planes, Matrix::Bt601, Range::Full).unwrap();
        assert_eq!((planes.u().width, planes.u().height), (3, 2));
    }

    #[test]
    fn planes_that_are_too_short_are_refused() {
        for short in 0..3 {
            let mut planes = [(vec![0; 16], 4), (vec![0; 4], 2), (vec![0; 4], 2)];
            planes[short].0.pop();
            let refused = Planes::from_vecs(4, 4, planes, Matrix::Bt601, Range::Full);
            assert!(matches!(refused, Err(PlanesError::TooSmall { index, .. }) if index == short));
        }
    }
}
