//! Boxes in pixels and how much two of them overlap. Plain arithmetic only (`+ - * /`), so that
//! every machine computes the same bits.

/// Far beyond any frame. A detector that breaks is held to it, so that no sum becomes infinite.
const LIMIT_PX: f64 = 1e9;
/// The wire allows boxes of zero or negative size; noise and overlap are shares of the size.
const LEAST_SIZE_PX: f64 = 1.0;

/// A box by its centre and its size, which is never below one pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rectangle {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rectangle {
    pub fn new(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { x, y, width: width.max(LEAST_SIZE_PX), height: height.max(LEAST_SIZE_PX) }
    }

    /// From the wire's `[left, top, width, height]`.
    pub fn from_px(box_px: [f32; 4]) -> Self {
        let [left, top, width, height] = box_px.map(|v| f64::from(v).clamp(-LIMIT_PX, LIMIT_PX));
        Self::new(left + width / 2.0, top + height / 2.0, width, height)
    }

    /// Intersection over union times that of the heights alone, 0 to 1 (Hybrid-SORT's height
    /// modulated IoU): people who pass each other overlap as boxes, but stand at other depths and
    /// so at other heights in the picture.
    pub fn likeness(self, other: Self) -> f64 {
        let down = shared(self.y, self.height, other.y, other.height);
        if down <= 0.0 {
            return 0.0;
        }
        self.overlap(other) * (down / (self.height + other.height - down))
    }

    /// The smaller width over the larger, or the same of the heights if that is less.
    pub fn likeness_of_size(self, other: Self) -> f64 {
        let share = |a: f64, b: f64| a.min(b) / a.max(b);
        share(self.width, other.width).min(share(self.height, other.height))
    }

    /// Intersection over union, 0 to 1.
    pub fn overlap(self, other: Self) -> f64 {
        let across = shared(self.x, self.width, other.x, other.width);
        let down = shared(self.y, self.height, other.y, other.height);
        if across <= 0.0 || down <= 0.0 {
            return 0.0;
        }
        let common = across * down;
        common / (self.width * self.height + other.width * other.height - common)
    }
}

/// The length that two spans share, each given by its centre and size; 0 or less if they are apart.
fn shared(a: f64, a_size: f64, b: f64, b_size: f64) -> f64 {
    let low = (a - a_size / 2.0).max(b - b_size / 2.0);
    let high = (a + a_size / 2.0).min(b + b_size / 2.0);
    high - low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_the_shared_area_over_the_covered_area() {
        let a = Rectangle::from_px([0.0, 0.0, 10.0, 10.0]);
        assert_eq!(a.overlap(a), 1.0);
        assert_eq!(a.overlap(Rectangle::from_px([5.0, 0.0, 10.0, 10.0])), 50.0 / 150.0);
        assert_eq!(a.overlap(Rectangle::from_px([10.0, 0.0, 10.0, 10.0])), 0.0);
        assert_eq!(a.overlap(Rectangle::from_px([2.0, 2.0, 5.0, 4.0])), 0.2);
    }

    #[test]
    fn likeness_is_the_overlap_times_the_share_of_the_heights() {
        let a = Rectangle::from_px([0.0, 0.0, 10.0, 10.0]);
        assert_eq!(a.likeness(a), 1.0);
        // A step aside changes nothing of the heights, a step down does.
        assert_eq!(a.likeness(Rectangle::from_px([5.0, 0.0, 10.0, 10.0])), 50.0 / 150.0);
        assert_eq!(a.likeness(Rectangle::from_px([0.0, 5.0, 10.0, 10.0])), 50.0 / 150.0 / 3.0);
        assert_eq!(a.likeness(Rectangle::from_px([0.0, 10.0, 10.0, 10.0])), 0.0);
    }

    #[test]
    fn boxes_of_no_size_and_beyond_all_limits_overlap_within_0_and_1() {
        let odd = [0.0, -5.0, 1.0, f32::MAX, f32::MIN, f32::INFINITY, f32::MIN_POSITIVE];
        let boxes: Vec<Rectangle> = odd
            .iter()
            .flat_map(|&place| odd.iter().map(move |&size| [place, place, size, size]))
            .map(Rectangle::from_px)
            .collect();
        for &a in &boxes {
            for &b in &boxes {
                assert!((0.0..=1.0).contains(&a.overlap(b)), "{a:?} {b:?}");
                assert!((0.0..=1.0).contains(&a.likeness(b)), "{a:?} {b:?}");
            }
        }
    }
}
