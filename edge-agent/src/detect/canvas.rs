//! Painting on pictures: a copy, as the decoder may still need its own memory. Pure.

use super::region::Span;
use super::resize::Part;
use crate::capture::Planes;
use crate::capture::planes::{PlanesError, Range};

/// Squares across what is pixelated, at most: too few for a face's features, enough to see that it is
/// one.
const SQUARES: u32 = 6;

/// A copy of a picture that can be painted on.
pub struct Canvas<'a> {
    from: &'a Planes,
    /// Y, U, V, with their strides.
    pub planes: [(Vec<u8>, usize); 3],
    black: u8,
}

impl<'a> Canvas<'a> {
    /// Copies a picture.
    pub fn copy(from: &'a Planes) -> Self {
        let planes = [from.y(), from.u(), from.v()].map(|plane| {
            let bytes = plane.stride * plane.height as usize;
            (plane.data[..bytes].to_vec(), plane.stride)
        });
        let black = match from.range() {
            Range::Limited => 16,
            Range::Full => 0,
        };
        Self { from, planes, black }
    }

    /// What was painted, as a picture.
    pub fn finish(self) -> Result<Planes, PlanesError> {
        let from = self.from;
        let (width, height) = (from.width(), from.height());
        Planes::from_vecs(width, height, self.planes, from.matrix(), from.range())
    }

    /// Blackens what the spans of luma and of chroma cover.
    pub fn blacken(&mut self, luma: &[Span], chroma: &[Span]) {
        let [y, u, v] = &mut self.planes;
        for (plane, spans, value) in [(y, luma, self.black), (u, chroma, 128), (v, chroma, 128)] {
            let (data, stride) = plane;
            for (row, columns) in spans {
                data[row * *stride..][columns.clone()].fill(value);
            }
        }
    }

    /// Blackens a part.
    pub fn fill(&mut self, part: Part) {
        let rows = |part: Part| {
            let columns = part.left as usize..(part.left + part.width) as usize;
            (part.top..part.top + part.height).map(move |row| (row as usize, columns.clone()))
        };
        let (luma, chroma): (Vec<Span>, Vec<Span>) =
            (rows(part).collect(), rows(part.of_chroma()).collect());
        self.blacken(&luma, &chroma);
    }

    /// Each square becomes its mean. Chroma's squares lie where luma's do.
    pub fn pixelate(&mut self, part: Part) {
        let side = part.width.max(part.height).div_ceil(SQUARES).next_multiple_of(2).max(2);
        let [y, u, v] = &mut self.planes;
        let half = part.of_chroma();
        for ((data, stride), part, side) in
            [(y, part, side), (u, half, side / 2), (v, half, side / 2)]
        {
            for top in (part.top..part.top + part.height).step_by(side as usize) {
                for left in (part.left..part.left + part.width).step_by(side as usize) {
                    let width = side.min(part.left + part.width - left);
                    let height = side.min(part.top + part.height - top);
                    mean_square(data, *stride, Part { left, top, width, height });
                }
            }
        }
    }
}

fn mean_square(data: &mut [u8], stride: usize, square: Part) {
    let columns = square.left as usize..(square.left + square.width) as usize;
    let rows = square.top as usize..(square.top + square.height) as usize;
    let mut sum = 0u64;
    for row in rows.clone() {
        let samples = &data[row * stride..][columns.clone()];
        sum += samples.iter().map(|sample| u64::from(*sample)).sum::<u64>();
    }
    let mean = (sum / (columns.len() * rows.len()) as u64) as u8;
    for row in rows {
        data[row * stride..][columns.clone()].fill(mean);
    }
}
