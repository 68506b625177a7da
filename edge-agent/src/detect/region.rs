//! Parts of a picture, in shares of its width and height, so that another resolution of the camera
//! leaves them where they are. Pure.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most corners of a polygon, and most polygons of a list: what a person draws has fewer, and each
/// costs time on every frame.
const MOST: usize = 64;
/// Least area, as a share of the picture: nine pixels of 1280x720. Nobody draws less on purpose.
const LEAST_AREA: f64 = 1e-5;

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
        // Before its area: that of the two halves of a bow tie is nothing together.
        if crosses_itself(&self.corners()) {
            return Some(
                "a polygon whose edges neither cross nor touch: its corners in their order around it",
            );
        }
        let is_small = self.area() < LEAST_AREA;
        is_small.then_some("a polygon of at least a hundred thousandth of the picture")
    }

    /// As a share of the picture, by the shoelace formula.
    fn area(&self) -> f64 {
        let twice: f64 = self
            .edges()
            .map(|([x1, y1], [x2, y2])| {
                f64::from(x1) * f64::from(y2) - f64::from(x2) * f64::from(y1)
            })
            .sum();
        twice.abs() / 2.0
    }

    /// Its corners, those that stand twice in a row once: some write the first one again at the end.
    fn corners(&self) -> Vec<[f64; 2]> {
        let corners = self.edges().filter(|(from, to)| from != to);
        corners.map(|(from, _)| from.map(f64::from)).collect()
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

    /// Every sample of a plane of this size that it touches, however little: for what must not be seen.
    /// Such a sample is crossed by an edge, or lies wholly within, and then so does its middle.
    pub fn touched(&self, (width, height): (usize, usize)) -> Vec<Span> {
        let (across, down) = (width as f64, height as f64);
        let px = |[x, y]: [f32; 2]| [f64::from(x) * across, f64::from(y) * down];
        let edges: Vec<_> = self.edges().map(|(from, to)| (px(from), px(to))).collect();
        let mut rows = vec![Vec::new(); height];
        for (row, within) in self.spans((width, height)) {
            rows[row].push(within);
        }
        for (row, touched) in rows.iter_mut().enumerate() {
            touched.extend(edges.iter().filter_map(|edge| columns_of(*edge, row, width)));
        }
        let rows = rows.into_iter().map(joined).enumerate();
        rows.flat_map(|(row, spans)| spans.into_iter().map(move |span| (row, span))).collect()
    }
}

/// The columns that an edge crosses within a row.
fn columns_of(
    ([x1, y1], [x2, y2]): ([f64; 2], [f64; 2]),
    row: usize,
    width: usize,
) -> Option<Range<usize>> {
    let (top, bottom) = (row as f64, row as f64 + 1.0);
    if y1.max(y2) <= top || y1.min(y2) >= bottom {
        return None;
    }
    let x_at = |y: f64| x1 + (y - y1) / (y2 - y1) * (x2 - x1);
    let (a, b) = match y1 == y2 {
        true => (x1, x2),
        false => (x_at(y1.clamp(top, bottom)), x_at(y2.clamp(top, bottom))),
    };
    let columns = a.min(b).floor().max(0.0) as usize..(a.max(b).ceil() as usize).min(width);
    (!columns.is_empty()).then_some(columns)
}

/// The same columns without overlaps.
fn joined(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|span| span.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match joined.last_mut().filter(|last| span.start <= last.end) {
            Some(last) => last.end = last.end.max(span.end),
            None => joined.push(span),
        }
    }
    joined
}

/// Whether an edge meets another one elsewhere than at the corner that they share. What lies in such a
/// polygon would not be what was meant: of a bow tie, a mask would leave half of the house visible.
fn crosses_itself(corners: &[[f64; 2]]) -> bool {
    let count = corners.len();
    let edge = |n: usize| (corners[n], corners[(n + 1) % count]);
    (0..count).any(|n| {
        // The next one may not turn back on it.
        let ((from, corner), (_, to)) = (edge(n), edge((n + 1) % count));
        let turns_back = side(from, corner, to) == 0.0 && forward(from, corner, to) < 0.0;
        let apart = |m: usize| m != n && (m + 1) % count != n && (n + 1) % count != m;
        turns_back || (n + 1..count).any(|m| apart(m) && meet(edge(n), edge(m)))
    })
}

/// On which side of the line from `a` to `b` a point lies, by its sign; 0 on it.
fn side(a: [f64; 2], b: [f64; 2], point: [f64; 2]) -> f64 {
    (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
}

/// Whether the way from `b` to a point goes on as that from `a` to `b`, by its sign.
fn forward(a: [f64; 2], b: [f64; 2], point: [f64; 2]) -> f64 {
    (b[0] - a[0]) * (point[0] - b[0]) + (b[1] - a[1]) * (point[1] - b[1])
}

/// Whether two edges have a point in common.
fn meet((a, b): ([f64; 2], [f64; 2]), (c, d): ([f64; 2], [f64; 2])) -> bool {
    let apart = |axis: usize| {
        a[axis].max(b[axis]) < c[axis].min(d[axis]) || c[axis].max(d[axis]) < a[axis].min(b[axis])
    };
    let parted = |by: ([f64; 2], [f64; 2]), p, q| side(by.0, by.1, p) * side(by.0, by.1, q) > 0.0;
    !apart(0) && !apart(1) && !parted((a, b), c, d) && !parted((c, d), a, b)
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
            vec![[0.5, 0.5]; 4],
            vec![[0.1, 0.1], [0.101, 0.1], [0.101, 0.101]],
        ] {
            assert!(region(&polygon).problem().is_some(), "{polygon:?}");
        }
    }

    #[test]
    fn a_polygon_whose_edges_cross_or_touch_is_refused_with_what_would_be_right() {
        for polygon in [
            // Bow ties, the second one with halves alike; one with a corner at the crossing; a star.
            vec![[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.5]],
            vec![[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
            vec![[0.0, 0.0], [0.5, 0.5], [1.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.0, 0.8]],
            vec![[0.5, 0.0], [0.8, 1.0], [0.0, 0.4], [1.0, 0.4], [0.2, 1.0]],
            // A corner on an edge, and a thorn.
            vec![[0.0, 0.0], [1.0, 0.0], [0.5, 1.0], [0.5, 0.0], [0.2, 0.9]],
            vec![[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.5, 1.0]],
        ] {
            let problem = region(&polygon).problem().unwrap();
            assert!(problem.contains("neither cross nor touch"), "{polygon:?}: {problem}");
        }
    }

    #[test]
    fn a_polygon_may_be_bent_go_either_way_round_and_end_where_it_began() {
        let l = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]];
        let reversed: Vec<[f32; 2]> = l.iter().rev().copied().collect();
        let closed: Vec<[f32; 2]> = l.iter().chain(&l[..1]).copied().collect();
        let on_a_line = vec![[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 1.0]];
        for polygon in [l.to_vec(), reversed, closed, on_a_line] {
            assert_eq!(region(&polygon).problem(), None, "{polygon:?}");
        }
    }

    #[test]
    fn every_sample_that_holds_a_point_of_the_polygon_is_touched() {
        // Thin, slanted, and with a tip that reaches over a fraction of a row.
        let (width, height) = (37usize, 23usize);
        for polygon in [
            vec![[0.1, 0.12], [0.93, 0.41], [0.31, 0.95]],
            vec![[0.02, 0.501], [0.98, 0.506], [0.98, 0.509], [0.02, 0.505]],
            vec![[0.3, 0.2], [0.31, 0.99], [0.32, 0.2], [0.9, 0.21], [0.5, 0.1]],
        ] {
            let region = region(&polygon);
            let touched = region.touched((width, height));
            let mut seen = std::collections::BTreeSet::new();
            // An independent measure: a fine grid of points.
            let fine = 16;
            for y in 0..height * fine {
                for x in 0..width * fine {
                    let share = |n: usize, of: usize| (n as f32 + 0.5) / (of * fine) as f32;
                    if region.contains([share(x, width), share(y, height)]) {
                        seen.insert((y / fine, x / fine));
                    }
                }
            }
            for (row, column) in &seen {
                let is_in = touched.iter().any(|(r, c)| r == row && c.contains(column));
                assert!(is_in, "{polygon:?}: {row} {column}");
            }
            // And not much besides: what an edge grazes between two points of the grid.
            let all: usize = touched.iter().map(|(_, columns)| columns.len()).sum();
            assert!(all <= seen.len() + seen.len() / 10 + 2, "{all} {}", seen.len());
        }
    }

    #[test]
    fn a_polygon_that_ends_between_two_samples_touches_none_beyond() {
        let half = region(&[[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]);
        let rows: Vec<Span> = (0..4).map(|row| (row, 0..5)).collect();
        assert_eq!(half.touched((10, 8)), rows);
    }
}
