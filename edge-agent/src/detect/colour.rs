//! Luma and chroma to red, green, blue, and from one way of writing them to the other. Pure.

use crate::capture::planes::{Matrix, Range};

/// Fixed point: 1 is 65536.
const ONE: f32 = 65536.0;

/// Shares of red and blue in luma.
fn shares(matrix: Matrix) -> (f32, f32) {
    match matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
    }
}

/// Factors from luma and chroma to red, green and blue, each rounded to 8 bits.
#[derive(Debug, Clone, Copy)]
pub struct ToRgb {
    y_offset: i32,
    y: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl ToRgb {
    /// Of planes made like this.
    pub fn new(matrix: Matrix, range: Range) -> Self {
        let (red, blue) = shares(matrix);
        let green = 1.0 - red - blue;
        let (y_offset, y, chroma) = match range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        let fixed = |factor: f32| (factor * ONE).round() as i32;
        Self {
            y_offset,
            y: fixed(y),
            red_v: fixed(2.0 * (1.0 - red) * chroma),
            green_u: fixed(-2.0 * (1.0 - blue) * blue / green * chroma),
            green_v: fixed(-2.0 * (1.0 - red) * red / green * chroma),
            blue_u: fixed(2.0 * (1.0 - blue) * chroma),
        }
    }

    /// One pixel's red, green, blue.
    pub fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let luma = (i32::from(y) - self.y_offset) * self.y + (1 << 15);
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let byte = |value: i32| (value >> 16).clamp(0, 255) as u8;
        [
            byte(luma + self.red_v * v),
            byte(luma + self.green_u * u + self.green_v * v),
            byte(luma + self.blue_u * u),
        ]
    }
}

/// Rewrites planes as JPEG has them: full range, BT.601.
pub struct ToJpeg {
    luma: [i32; 256],
    chroma: [i32; 256],
    /// What chroma adds to luma, and each chroma keeps and takes from the other.
    cross: Option<Cross>,
}

struct Cross {
    y_u: i32,
    y_v: i32,
    u_u: i32,
    u_v: i32,
    v_u: i32,
    v_v: i32,
}

impl ToJpeg {
    /// Of planes made like this; `None` if they are what JPEG has.
    pub fn new(matrix: Matrix, range: Range) -> Option<Self> {
        if (matrix, range) == (Matrix::Bt601, Range::Full) {
            return None;
        }
        let (mut luma, mut chroma) = ([0; 256], [0; 256]);
        for value in 0..256usize {
            let sample = value as f32;
            (luma[value], chroma[value]) = match range {
                Range::Full => (value as i32 * 65536, (value as i32 - 128) * 65536),
                Range::Limited => (
                    ((sample - 16.0) * 255.0 / 219.0 * ONE).round() as i32,
                    ((sample - 128.0) * 255.0 / 224.0 * ONE).round() as i32,
                ),
            };
        }
        let cross = (matrix == Matrix::Bt709).then(Cross::from_bt709);
        Some(Self { luma, chroma, cross })
    }

    /// Rewrites planes without gaps between their rows, in place.
    pub fn rewrite(&self, width: usize, y: &mut [u8], u: &mut [u8], v: &mut [u8]) {
        let chroma_width = width.div_ceil(2);
        match &self.cross {
            None => y.iter_mut().for_each(|sample| *sample = byte(self.luma[usize::from(*sample)])),
            Some(cross) => {
                for (row, samples) in y.chunks_mut(width).enumerate() {
                    let from = row / 2 * chroma_width;
                    for (column, sample) in samples.iter_mut().enumerate() {
                        let at = from + column / 2;
                        let (cu, cv) = (u[at], v[at]);
                        *sample = byte(self.luma[usize::from(*sample)] + cross.luma(cu, cv, self));
                    }
                }
            }
        }
        for (u, v) in u.iter_mut().zip(v) {
            let (cu, cv) = (self.chroma[usize::from(*u)], self.chroma[usize::from(*v)]);
            let (new_u, new_v) = self.cross.as_ref().map_or((cu, cv), |cross| cross.chroma(cu, cv));
            (*u, *v) = (byte(new_u + (128 << 16)), byte(new_v + (128 << 16)));
        }
    }
}

fn byte(fixed: i32) -> u8 {
    ((fixed + (1 << 15)) >> 16).clamp(0, 255) as u8
}

impl Cross {
    /// Both ways describe the same red, green and blue: one matrix times the inverse of the other.
    fn from_bt709() -> Self {
        let ((red7, blue7), (red6, blue6)) = (shares(Matrix::Bt709), shares(Matrix::Bt601));
        let (green7, green6) = (1.0 - red7 - blue7, 1.0 - red6 - blue6);
        let (red_v, blue_u) = (2.0 * (1.0 - red7), 2.0 * (1.0 - blue7));
        let (green_u, green_v) = (-blue_u * blue7 / green7, -red_v * red7 / green7);
        let y_u = blue6 * blue_u + green6 * green_u;
        let y_v = red6 * red_v + green6 * green_v;
        let (u_scale, v_scale) = (2.0 * (1.0 - blue6), 2.0 * (1.0 - red6));
        // 10 bits here, on values that have 16: their products fit 32 bits.
        let fixed = |factor: f32| (factor * 1024.0).round() as i32;
        Self {
            y_u: fixed(y_u),
            y_v: fixed(y_v),
            u_u: fixed((blue_u - y_u) / u_scale),
            u_v: fixed(-y_v / u_scale),
            v_u: fixed(-y_u / v_scale),
            v_v: fixed((red_v - y_v) / v_scale),
        }
    }

    fn luma(&self, u: u8, v: u8, tables: &ToJpeg) -> i32 {
        let (u, v) = (tables.chroma[usize::from(u)] >> 10, tables.chroma[usize::from(v)] >> 10);
        u * self.y_u + v * self.y_v
    }

    fn chroma(&self, u: i32, v: i32) -> (i32, i32) {
        let (u, v) = (u >> 10, v >> 10);
        (u * self.u_u + v * self.u_v, u * self.v_u + v * self.v_v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURS: [[f32; 3]; 8] = [
        [0.0, 0.0, 0.0],
        [255.0, 255.0, 255.0],
        [200.0, 30.0, 40.0],
        [20.0, 180.0, 60.0],
        [30.0, 40.0, 220.0],
        [128.0, 128.0, 128.0],
        [230.0, 190.0, 160.0],
        [60.0, 40.0, 30.0],
    ];

    /// The definition, in floating point: an independent way to the same numbers.
    fn yuv([r, g, b]: [f32; 3], matrix: Matrix, range: Range) -> [u8; 3] {
        let (kr, kb) = shares(matrix);
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (u, v) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
        let (y, c) = match range {
            Range::Full => (y, 1.0),
            Range::Limited => (16.0 + y * 219.0 / 255.0, 224.0 / 255.0),
        };
        [y, u * c + 128.0, v * c + 128.0].map(|x| x.round() as u8)
    }

    fn ways() -> impl Iterator<Item = (Matrix, Range)> {
        [Matrix::Bt601, Matrix::Bt709]
            .into_iter()
            .flat_map(|m| [Range::Limited, Range::Full].map(|r| (m, r)))
    }

    #[test]
    fn colours_come_back_from_their_planes() {
        for (matrix, range) in ways() {
            for colour in COLOURS {
                let [y, u, v] = yuv(colour, matrix, range);
                let back = ToRgb::new(matrix, range).rgb(y, u, v);
                for (back, colour) in back.into_iter().zip(colour) {
                    assert!((f32::from(back) - colour).abs() <= 2.5, "{matrix:?} {range:?}");
                }
            }
        }
    }

    #[test]
    fn a_jpeg_shows_the_colours_of_the_frame_whatever_its_matrix_and_range() {
        for (matrix, range) in ways() {
            for colour in COLOURS {
                let [y, u, v] = yuv(colour, matrix, range);
                let (mut ys, mut us, mut vs) = (vec![y; 15], vec![u; 6], vec![v; 6]);
                if let Some(to_jpeg) = ToJpeg::new(matrix, range) {
                    to_jpeg.rewrite(5, &mut ys, &mut us, &mut vs);
                }
                let expected = yuv(colour, Matrix::Bt601, Range::Full);
                for (plane, expected) in [&ys, &us, &vs].into_iter().zip(expected) {
                    for sample in plane {
                        let error = i32::from(*sample) - i32::from(expected);
                        assert!(error.abs() <= 2, "{matrix:?} {range:?} {colour:?} {error}");
                    }
                }
            }
        }
    }
}
