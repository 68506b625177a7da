//! Parts of a picture, in shares of its width and height, so that another resolution of the camera
//! leaves them where they are. Pure.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most corners of a polygon, and most polygons of a list: what a person draws has fewer, and each
/// costs time on every frame.
const MOST: usize = 64;

/// A part of the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// What it is called in messages to people.
    pub name: String,
    /// Its corners in order, each x and y as shares of the picture's width and height: 0, 0 is the
    /// upper left corner and 1, 1 the lower right one.
    pub polygon: Vec<[f32; 2]>,
}

/// The columns `from..to` of a row.
pub type Span = (usize, Range<usize>);

impl Region {
    /// Why it is no part of a picture.
    pub fn problem(&self) -> Option<&'static str> {
        let share = |value: &f32| (0.0..=1.0).contains(value);
        if !(3..=MOST).contains(&self.polygon.len()) {
            return Some("a polygon of 3 to 64 corners");
        }
        if !self.polygon.iter().flatten().all(share) {
            return Some("corners of two shares each, 0 to 1");
        }
        (self.area() == 0.0).then_some("a polygon that is no line")
    }

    /// Twice the area, by the shoelace formula.
    fn area(&self) -> f32 {
        self.edges().map(|([x1, y1], [x2, y2])| x1 * y2 - x2 * y1).sum::<f32>().abs()
    }

    fn edges(&self) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
        let next = self.polygon.iter().cycle().skip(1);
        self.polygon.iter().copied().zip(next.copied())
    }

    /// Whether a point, in shares, lies in it: an odd number of its edges lie to the left.
    pub fn contains(&self, [x, y]: [f32; 2]) -> bool {
        self.crossings(y).iter().filter(|crossing| **crossing <= x).count() % 2 == 1
    }

    /// Where its edges cross a height, from the left to the right.
    fn crossings(&self, y: f32) -> Vec<f32> {
        let crossed = self.edges().filter(|([_, y1], [_, y2])| (*y1 <= y) != (*y2 <= y));
        let mut crossings: Vec<f32> =
            crossed.map(|([x1, y1], [x2, y2])| x1 + (y - y1) / (y2 - y1) * (x2 - x1)).collect();
        crossings.sort_by(f32::total_cmp);
        crossings
    }

    /// What it covers of a plane of this size: the rows whose middle it crosses, and of each the
    /// columns that it touches.
    pub fn spans(&self, (width, height): (usize, usize)) -> Vec<Span> {
        let mut spans = Vec::new();
        for row in 0..height {
            let crossings = self.crossings((row as f32 + 0.5) / height as f32);
            for pair in crossings.chunks_exact(2) {
                let from = (pair[0] * width as f32).floor().max(0.0) as usize;
                let to = ((pair[1] * width as f32).ceil().max(0.0) as usize).min(width);
                if from < to {
                    spans.push((row, from..to));
                }
            }
        }
        spans
    }
}

/// The first of these regions that is none, by its name, and what it would have to be.
pub fn problem(regions: &[Region]) -> Option<(String, &'static str)> {
    if regions.len() > MOST {
        return Some((format!("{} of them", regions.len()), "at most 64"));
    }
    regions.iter().find_map(|region| Some((region.name.clone(), region.problem()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(polygon: &[[f32; 2]]) -> Region {
        Region { name: "door".to_owned(), polygon: polygon.to_vec() }
    }

    #[test]
    fn a_point_lies_in_a_polygon_or_not_also_where_it_is_not_convex() {
        // An L: the upper right quarter is missing.
        let l = region(&[[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]);
        for (point, inside) in [
            ([0.25, 0.25], true),
            ([0.75, 0.25], false),
            ([0.75, 0.75], true),
            ([0.25, 0.75], true),
            ([1.5, 0.75], false),
        ] {
            assert_eq!(l.contains(point), inside, "{point:?}");
        }
    }

    #[test]
    fn the_spans_of_a_half_cover_half_of_any_size() {
        let half = region(&[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]);
        for (width, height) in [(10, 4), (1280, 720), (7, 3)] {
            let spans = half.spans((width, height));
            assert_eq!(spans.len(), height);
            for (_, columns) in spans {
                assert_eq!(columns, 0..width.div_ceil(2));
            }
        }
    }

    #[test]
    fn spans_and_points_agree() {
        let triangle = region(&[[0.1, 0.1], [0.9, 0.4], [0.3, 0.95]]);
        let size = (200usize, 100usize);
        let spans = triangle.spans(size);
        for row in 0..size.1 {
            for column in 0..size.0 {
                let middle =
                    [(column as f32 + 0.5) / size.0 as f32, (row as f32 + 0.5) / size.1 as f32];
                let covered = spans.iter().any(|(r, c)| *r == row && c.contains(&column));
                // What it touches is covered as well as what it holds.
                assert!(covered || !triangle.contains(middle), "{row} {column}");
            }
        }
    }

    #[test]
    fn what_is_no_part_of_a_picture_is_named() {
        for polygon in [
            vec![[0.0, 0.0], [1.0, 1.0]],
            vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.2]],
            vec![[0.0, 0.0], [1.0, f32::NAN], [1.0, 1.0]],
            vec![[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]],
            vec![[0.0, 0.0]; 65],
        ] {
            assert!(region(&polygon).problem().is_some(), "{polygon:?}");
        }
    }
}
