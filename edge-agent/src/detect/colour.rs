//! Luma and chroma to red, green, blue, and from one way of writing them to the other. Pure.
//!
//! All in 16 bits: samples times 128, factors times 8192, and of their product the upper half, so
//! that four bits stand behind the point. A processor multiplies eight such numbers at once with
//! what every one of its kind has (SSE2, NEON), and the compiler finds that by itself; of products
//! of 32 bits it makes code several times slower, and tables by sample slower still.

use crate::capture::planes::{Matrix, Plane, Range};

const SAMPLE_BITS: u32 = 7;
const FACTOR_ONE: f32 = 8192.0;
const POINT_BITS: u32 = 4;
/// Half of the last bit that is kept, and what cutting off took from three products on average.
const ROUNDING: i16 = (1 << (POINT_BITS - 1)) + 1;

/// Shares of red and blue in luma.
fn shares(matrix: Matrix) -> (f32, f32) {
    match matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
    }
}

/// Where luma begins, and what luma and chroma are to be multiplied with for full range.
fn scales(range: Range) -> (i16, f32, f32) {
    match range {
        Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
        Range::Full => (0, 1.0, 1.0),
    }
}

/// Every factor here lies between -4 and 4.
fn fixed(factor: f32) -> i16 {
    (factor * FACTOR_ONE).round() as i16
}

fn above(sample: u8, zero: i16) -> i16 {
    (i16::from(sample) - zero) << SAMPLE_BITS
}

fn times(sample: i16, factor: i16) -> i16 {
    ((i32::from(sample) * i32::from(factor)) >> 16) as i16
}

fn whole(sum: i16) -> i16 {
    ((sum + ROUNDING) >> POINT_BITS).clamp(0, 255)
}

/// Factors from luma and chroma to red, green and blue, each rounded to 8 bits.
#[derive(Debug, Clone, Copy)]
pub struct ToRgb {
    black: i16,
    y: i16,
    red_v: i16,
    green_u: i16,
    green_v: i16,
    blue_u: i16,
}

impl ToRgb {
    /// Of planes made like this.
    pub fn new(matrix: Matrix, range: Range) -> Self {
        let (red, blue) = shares(matrix);
        let green = 1.0 - red - blue;
        let (black, luma, chroma) = scales(range);
        Self {
            black,
            y: fixed(luma),
            red_v: fixed(2.0 * (1.0 - red) * chroma),
            green_u: fixed(-2.0 * (1.0 - blue) * blue / green * chroma),
            green_v: fixed(-2.0 * (1.0 - red) * red / green * chroma),
            blue_u: fixed(2.0 * (1.0 - blue) * chroma),
        }
    }

    /// A row of samples of the same length each, as red, green and blue.
    pub fn row(&self, [y, u, v]: [&[u8]; 3], [red, green, blue]: [&mut [f32]; 3]) {
        let out = red.iter_mut().zip(green).zip(blue);
        for (((red, green), blue), ((y, u), v)) in out.zip(y.iter().zip(u).zip(v)) {
            let luma = times(above(*y, self.black), self.y);
            let (u, v) = (above(*u, 128), above(*v, 128));
            *red = f32::from(whole(luma + times(v, self.red_v)));
            *green = f32::from(whole(luma + times(u, self.green_u) + times(v, self.green_v)));
            *blue = f32::from(whole(luma + times(u, self.blue_u)));
        }
    }
}

/// Rewrites planes as JPEG has them: full range, BT.601.
pub struct ToJpeg {
    black: i16,
    y: i16,
    /// What chroma adds to luma: nothing, where the matrix is BT.601 already.
    y_u: i16,
    y_v: i16,
    /// What each chroma keeps, and takes from the other.
    u_u: i16,
    u_v: i16,
    v_u: i16,
    v_v: i16,
}

impl ToJpeg {
    /// Of planes made like this; `None` if they are what JPEG has.
    ///
    /// Both matrices describe the same red, green and blue: one times the inverse of the other.
    pub fn new(matrix: Matrix, range: Range) -> Option<Self> {
        if (matrix, range) == (Matrix::Bt601, Range::Full) {
            return None;
        }
        let (black, luma, chroma) = scales(range);
        let ((red, blue), (red6, blue6)) = (shares(matrix), shares(Matrix::Bt601));
        let (green, green6) = (1.0 - red - blue, 1.0 - red6 - blue6);
        let (red_v, blue_u) = (2.0 * (1.0 - red), 2.0 * (1.0 - blue));
        let (green_u, green_v) = (-blue_u * blue / green, -red_v * red / green);
        let y_u = blue6 * blue_u + green6 * green_u;
        let y_v = red6 * red_v + green6 * green_v;
        let (u_scale, v_scale) = (2.0 * (1.0 - blue6), 2.0 * (1.0 - red6));
        Some(Self {
            black,
            y: fixed(luma),
            y_u: fixed(chroma * y_u),
            y_v: fixed(chroma * y_v),
            u_u: fixed(chroma * (blue_u - y_u) / u_scale),
            u_v: fixed(chroma * -y_v / u_scale),
            v_u: fixed(chroma * -y_u / v_scale),
            v_v: fixed(chroma * (red_v - y_v) / v_scale),
        })
    }

    /// Rewrites luma and chroma at half of both sizes; the new rows have no gaps.
    pub fn rewrite(&self, [y, u, v]: [Plane<'_>; 3], [to_y, to_u, to_v]: [&mut Vec<u8>; 3]) {
        for (plane, into) in [(y, &mut *to_y), (u, &mut *to_u), (v, &mut *to_v)] {
            into.resize(plane.width as usize * plane.height as usize, 0);
        }
        let width = y.width as usize;
        let mut from_chroma = vec![0; width.next_multiple_of(2)];
        let chroma_rows = to_u.chunks_exact_mut(u.width as usize);
        let chroma_rows = chroma_rows.zip(to_v.chunks_exact_mut(v.width as usize));
        let luma_rows = to_y.chunks_mut(2 * width);
        for (index, ((to_u, to_v), to_y)) in chroma_rows.zip(luma_rows).enumerate() {
            self.chroma([u.row(index), v.row(index)], [to_u, to_v], &mut from_chroma);
            for (row, to_y) in to_y.chunks_exact_mut(width).enumerate() {
                self.luma(y.row(2 * index + row), &from_chroma, to_y);
            }
        }
    }

    /// The new chroma, and for each of the two luma samples over one of chroma what chroma adds.
    fn chroma(&self, [u, v]: [&[u8]; 2], [to_u, to_v]: [&mut [u8]; 2], to_luma: &mut [i16]) {
        let chroma = u.iter().zip(v);
        let out = to_u.iter_mut().zip(to_v).zip(to_luma.chunks_exact_mut(2));
        for (((to_u, to_v), to_luma), (u, v)) in out.zip(chroma) {
            let (u, v) = (above(*u, 128), above(*v, 128));
            *to_u = whole(times(u, self.u_u) + times(v, self.u_v) + (128 << POINT_BITS)) as u8;
            *to_v = whole(times(u, self.v_u) + times(v, self.v_v) + (128 << POINT_BITS)) as u8;
            to_luma.fill(times(u, self.y_u) + times(v, self.y_v));
        }
    }

    fn luma(&self, y: &[u8], from_chroma: &[i16], to_y: &mut [u8]) {
        for ((y, from_chroma), to_y) in y.iter().zip(from_chroma).zip(to_y) {
            *to_y = whole(times(above(*y, self.black), self.y) + from_chroma) as u8;
        }
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
                let [mut red, mut green, mut blue] = [[0.0]; 3];
                let back = [&mut red[..], &mut green, &mut blue];
                ToRgb::new(matrix, range).row([&[y], &[u], &[v]], back);
                for (back, colour) in [red, green, blue].into_iter().zip(colour) {
                    assert!((back[0] - colour).abs() <= 2.5, "{matrix:?} {range:?}");
                    assert_eq!(back[0].fract(), 0.0);
                }
            }
        }
    }

    #[test]
    fn a_jpeg_shows_the_colours_of_the_frame_whatever_its_matrix_and_range() {
        for (matrix, range) in ways() {
            for colour in COLOURS {
                let [y, u, v] = yuv(colour, matrix, range);
                // Five by three pixels with a gap behind each row.
                let plane = |sample: u8, stride: usize, width, height: u32| {
                    let data = vec![sample; stride * height as usize];
                    (data, stride, width, height)
                };
                let from = [plane(y, 8, 5, 3), plane(u, 4, 3, 2), plane(v, 4, 3, 2)];
                let from = from.each_ref().map(|(data, stride, width, height)| Plane {
                    data,
                    stride: *stride,
                    width: *width,
                    height: *height,
                });
                let Some(to_jpeg) = ToJpeg::new(matrix, range) else {
                    continue;
                };
                let [mut ys, mut us, mut vs] = [const { Vec::new() }; 3];
                to_jpeg.rewrite(from, [&mut ys, &mut us, &mut vs]);
                assert_eq!([ys.len(), us.len(), vs.len()], [15, 6, 6]);
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
