//! JPEG to the numbers a model takes.

use fast_image_resize as fir;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use picket_onnx::colours::{self, Channels};
use turbojpeg::{Decompressor, Image, PixelFormat};

use super::description::{Fit, Input};

/// Most pixels of a picture: as three bytes each they are in memory whole, one picture at a time.
const MAX_PIXELS: usize = 64 << 20;
/// Against pictures of thousands of progressive scans, which decode for minutes.
const MAX_SCANS: u32 = 100;

/// Why a picture cannot be shown to the model. Another one may be.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The decoder refuses it.
    #[error("it cannot be decoded")]
    Decode(#[source] turbojpeg::Error),
    /// It is larger than any camera's.
    #[error("it has {width}x{height} pixels, more than {MAX_PIXELS} in all")]
    TooLarge {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
    },
    /// It cannot be brought to the model's size.
    #[error("it cannot be brought from {from:?} to {to:?} pixels")]
    Resize {
        /// Width and height.
        from: (u32, u32),
        /// Width and height.
        to: (u32, u32),
    },
}

impl PictureError {
    /// As a word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Decode(_) => "undecodable",
            Self::TooLarge { .. } => "too-large",
            Self::Resize { .. } => "not-resizable",
        }
    }
}

/// How a model wants its picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Width and height.
    pub px: (u32, u32),
    fit: Fit,
    shorter_px: Option<u32>,
    fill: u8,
    channels: Channels,
    factor: [f32; 3],
    offset: [f32; 3],
}

impl Form {
    /// Of a described input of this size.
    pub fn new(input: &Input, px: (u32, u32)) -> Self {
        let Input { fit, shorter_px, fill, channels, scale, mean, std, .. } = *input;
        let (factor, offset) = colours::numbers(scale, mean, std);
        Self { px, fit, shorter_px, fill, channels, factor, offset }
    }

    /// Numbers of one picture.
    pub fn numbers(&self) -> usize {
        3 * self.px.0 as usize * self.px.1 as usize
    }

    /// The size that a whole picture would have.
    fn size(&self, from: (u32, u32)) -> (u32, u32) {
        let ratio = |to: u32, from: u32| f64::from(to) / f64::from(from.max(1));
        let (across, down) = (ratio(self.px.0, from.0), ratio(self.px.1, from.1));
        let by = match self.fit {
            Fit::Stretch => return self.px,
            Fit::Letterbox => across.min(down),
            Fit::Crop => {
                let wanted = self.shorter_px.map(|px| ratio(px, from.0.min(from.1)));
                wanted.unwrap_or(0.0).max(across).max(down)
            }
        };
        let side = |from: u32| (f64::from(from) * by).round() as u32;
        match self.fit {
            Fit::Crop => (side(from.0).max(self.px.0), side(from.1).max(self.px.1)),
            _ => (side(from.0).clamp(1, self.px.0), side(from.1).clamp(1, self.px.1)),
        }
    }

    /// What of a picture is shown, and at which size, which is never larger than the input: what is to be
    /// cut off is never made, so that a picture that is one pixel high costs no more than another.
    fn window(&self, from: (u32, u32)) -> Window {
        let whole = self.size(from);
        let side = |from: u32, whole: u32, px: u32| {
            let shown = whole.min(px);
            let pixel = f64::from(from) / f64::from(whole.max(1));
            let first = f64::from((whole - shown) / 2) * pixel;
            // The resizer refuses what rounding lays beyond the picture's end.
            let beyond = (first + f64::from(shown) * pixel - f64::from(from)).max(0.0);
            (first, f64::from(shown) * pixel - 2.0 * beyond, shown)
        };
        let (left, width, across) = side(from.0, whole.0, self.px.0);
        let (top, height, down) = side(from.1, whole.1, self.px.1);
        Window { left, top, width, height, px: (across, down) }
    }

    /// Writes what is shown (rows without gaps, red, green, blue), in the middle of the input, as the
    /// model takes it.
    fn write(&self, rgb: &[u8], size: (u32, u32), out: &mut [f32]) {
        let (width, height) = (self.px.0 as usize, self.px.1 as usize);
        let columns = size.0 as usize;
        let (left, top) = ((width - columns) / 2, (height - size.1 as usize) / 2);
        for (channel, plane) in out.chunks_exact_mut(width * height).enumerate() {
            let (factor, offset) = (self.factor[channel], self.offset[channel]);
            let colour = match self.channels {
                Channels::Rgb => channel,
                Channels::Bgr => 2 - channel,
            };
            plane.fill(f32::from(self.fill) * factor + offset);
            for (row, pixels) in rgb.chunks_exact(3 * columns).enumerate() {
                let at = (top + row) * width + left;
                let pixels = pixels.chunks_exact(3);
                for (out, pixel) in plane[at..at + columns].iter_mut().zip(pixels) {
                    *out = f32::from(pixel[colour]) * factor + offset;
                }
            }
        }
    }
}

/// The part of a picture that is shown, in its pixels, and the size that it is brought to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    px: (u32, u32),
}

/// Decodes pictures for a model; keeps its working memory from one to the next.
pub struct Preparer {
    form: Form,
    decompressor: Decompressor,
    resizer: fir::Resizer,
    decoded: Vec<u8>,
    resized: Vec<u8>,
}

impl Preparer {
    /// For pictures of this form.
    pub fn new(form: Form) -> Result<Self, turbojpeg::Error> {
        let (decompressor, resizer) = (decompressor()?, fir::Resizer::new());
        let (decoded, resized) = (Vec::new(), Vec::new());
        Ok(Self { form, decompressor, resizer, decoded, resized })
    }

    /// How pictures become.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Brings a JPEG into `out`, which has room for one picture.
    ///
    /// Bilinear over the whole area a pixel stands for, as Pillow's: interpolation between the four
    /// nearest pixels leaves pixels out when it makes a picture smaller.
    pub fn prepare(&mut self, jpeg: &[u8], out: &mut [f32]) -> Result<(), PictureError> {
        let from = match self.decode(jpeg) {
            Ok(from) => from,
            Err(error) => {
                // One that has failed may fail at the next picture too.
                self.decompressor = decompressor().map_err(PictureError::Decode)?;
                return Err(error);
            }
        };
        let window = self.form.window(from);
        let to = window.px;
        let failed = || PictureError::Resize { from, to };
        self.resized.resize(3 * to.0 as usize * to.1 as usize, 0);
        let source = TypedImageRef::<U8x3>::from_buffer(from.0, from.1, &self.decoded);
        let source = source.map_err(|_| failed())?;
        let target = TypedImage::<U8x3>::from_buffer(to.0, to.1, &mut self.resized);
        let mut target = target.map_err(|_| failed())?;
        let options = fir::ResizeOptions::new()
            .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
            .crop(window.left, window.top, window.width, window.height);
        let resized = self.resizer.resize_typed(&source, &mut target, &options);
        resized.map_err(|_| failed())?;
        self.form.write(&self.resized, to, out);
        Ok(())
    }

    /// Into `decoded`; gives width and height.
    fn decode(&mut self, jpeg: &[u8]) -> Result<(u32, u32), PictureError> {
        let header = self.decompressor.read_header(jpeg).map_err(PictureError::Decode)?;
        let (width, height) = (header.width, header.height);
        if width.saturating_mul(height) > MAX_PIXELS {
            return Err(PictureError::TooLarge { width, height });
        }
        self.decoded.resize(3 * width * height, 0);
        let (pitch, format) = (3 * width, PixelFormat::RGB);
        let into = Image { pixels: self.decoded.as_mut_slice(), width, pitch, height, format };
        self.decompressor.decompress(jpeg, into).map_err(PictureError::Decode)?;
        // JPEG's sides have 16 bits.
        Ok((width as u32, height as u32))
    }
}

fn decompressor() -> Result<Decompressor, turbojpeg::Error> {
    let mut decompressor = Decompressor::new()?;
    decompressor.set_scan_limit(MAX_SCANS)?;
    Ok(decompressor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fit: Fit, px: (u32, u32), shorter_px: Option<u32>) -> Form {
        let input = Input { fit, shorter_px, fill: 9, ..Input::default() };
        Form::new(&input, px)
    }

    #[test]
    fn a_picture_is_brought_to_the_size_that_its_fit_asks_for() {
        for (fit, shorter, from, to) in [
            (Fit::Stretch, None, (640, 360), (224, 224)),
            (Fit::Letterbox, None, (640, 320), (224, 112)),
            (Fit::Crop, None, (640, 320), (448, 224)),
            (Fit::Crop, Some(256), (640, 320), (512, 256)),
            // Smaller than the input needs it.
            (Fit::Crop, Some(100), (320, 640), (224, 448)),
            (Fit::Letterbox, None, (4000, 1), (224, 1)),
        ] {
            assert_eq!(
                form(fit, (224, 224), shorter).size(from),
                to,
                "{fit:?} {shorter:?} {from:?}"
            );
        }
    }

    #[test]
    fn the_middle_is_shown_and_no_more_of_it_is_made_than_the_input_holds() {
        let crop = |shorter, from| form(Fit::Crop, (224, 224), shorter).window(from);
        let (left, width) = (112.0 / 448.0 * 640.0, 320.0);
        let middle = Window { left, top: 0.0, width, height: 320.0, px: (224, 224) };
        assert_eq!(crop(None, (640, 320)), middle);
        let smaller = crop(Some(256), (640, 320));
        assert_eq!((smaller.top, smaller.height), (16.0 / 256.0 * 320.0, 280.0));
        let thin = crop(None, (16_000, 1));
        assert!(thin.px == (224, 224) && thin.width == 1.0 && thin.height == 1.0, "{thin:?}");
        let whole = form(Fit::Letterbox, (224, 224), None).window((640, 320));
        assert!(whole.px == (224, 112) && whole.width == 640.0 && whole.left == 0.0, "{whole:?}");
    }

    #[test]
    fn what_is_shown_never_lies_beyond_the_picture() {
        for (fit, shorter) in [(Fit::Crop, None), (Fit::Crop, Some(256)), (Fit::Letterbox, None)] {
            let form = form(fit, (224, 192), shorter);
            for from in (1..3000).map(|side| (side, 3000 - side)) {
                let Window { left, top, width, height, px } = form.window(from);
                let inside = |first: f64, length: f64, side: u32| {
                    first >= 0.0 && length > 0.0 && first + length <= f64::from(side)
                };
                assert!(inside(left, width, from.0) && inside(top, height, from.1), "{from:?}");
                assert!((1..=224).contains(&px.0) && (1..=192).contains(&px.1), "{from:?} {px:?}");
            }
        }
    }

    #[test]
    fn what_a_picture_does_not_cover_is_filled() {
        let pixel = |x: u8, y: u8| [10 * x + y, 100, 200];
        let picture = [pixel(0, 0), pixel(1, 0), pixel(0, 1), pixel(1, 1)].concat();
        let mut out = vec![0.0; 4 * 2 * 3];
        form(Fit::Letterbox, (4, 2), None).write(&picture, (2, 2), &mut out);
        assert_eq!(out[..8], [9.0, 0.0, 10.0, 9.0, 9.0, 1.0, 11.0, 9.0]);
        assert_eq!(out[9..11], [100.0; 2]);
    }

    #[test]
    fn colours_go_in_in_the_models_order_with_its_mean_and_scale() {
        let (mean, std) = ([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]);
        let input = Input { channels: Channels::Bgr, scale: 0.5, mean, std, ..Input::default() };
        let mut out = [0.0; 3];
        Form::new(&input, (1, 1)).write(&[2, 8, 20], (1, 1), &mut out);
        assert_eq!(out, [(10.0 - 1.0) / 1.0, (4.0 - 2.0) / 2.0, (1.0 - 3.0) / 4.0]);
    }

    #[test]
    fn what_is_no_picture_is_refused_and_the_next_one_is_taken() {
        let mut preparer = Preparer::new(form(Fit::Stretch, (4, 4), None)).unwrap();
        let mut out = [0.0; 48];
        let grey = vec![100u8; 3 * 16 * 16];
        let image = Image {
            pixels: grey.as_slice(),
            width: 16,
            pitch: 48,
            height: 16,
            format: PixelFormat::RGB,
        };
        let jpeg = turbojpeg::compress(image, 95, turbojpeg::Subsamp::Sub2x2).unwrap();
        for broken in [&b"\xff\xd8\xff\xd9"[..], &jpeg[..jpeg.len() / 2], b""] {
            let error = preparer.prepare(broken, &mut out).unwrap_err();
            assert_eq!(error.reason(), "undecodable", "{error}");
        }
        preparer.prepare(&jpeg, &mut out).unwrap();
        assert!(out.iter().all(|value| (value - 100.0).abs() <= 1.0), "{out:?}");
    }
}
