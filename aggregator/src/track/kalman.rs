//! Where a box will be: a Kalman filter over centre and size.
//!
//! The centre moves at a constant velocity that drifts (white noise acceleration); the size has no
//! velocity and only drifts, because a size that is extrapolated while an object is half hidden grows
//! or shrinks to nothing (BoT-SORT stops it for lost tracks; leaving it out altogether scores the
//! same). The four quantities share no noise, so the usual filter of eight states falls apart into
//! two of two states and two of one, each a handful of multiplications.
//!
//! The state is the one *at the last match*: a frame without a match tells nothing about motion, so a
//! prediction is a pure function of that state and of the time since, and neither the frame rate nor
//! the number of misses enters it.
//!
//! Only `+ - * /` are used, which IEEE 754 fixes to the last bit, so that an x86 and an Arm machine
//! agree when one takes over the other's cameras.

use serde::{Deserialize, Serialize};

use super::rectangle::Rectangle;

// All noise is a share of the box's height, so that a face of 20 px and one of 200 px which do the
// same thing have the same motion. The values are those of DeepSORT and ByteTrack (1/20 and 1/160
// of the height per frame at 30 frames a second), turned into rates per second.

/// Standard deviation of a detector's box at a score of 1, in heights.
const MEASUREMENT: f64 = 1.0 / 20.0;
/// How many times the variance of a detector's box grows as its score falls from 1 to 0: a weak
/// detection (half hidden, blurred) sits less well on its object. NSA and StrongSORT have the same
/// idea; theirs falls to no noise at all at a score of 1.
const NOISE_OF_WEAK: f64 = 5.0;
/// Variance that position and size gain, in square heights per second.
const POSITION_DRIFT: f64 = 30.0 * MEASUREMENT * MEASUREMENT;
/// Variance that the velocity (heights per second) gains per second.
const VELOCITY_DRIFT: f64 = 30.0 * (30.0 / 160.0) * (30.0 / 160.0);
/// Standard deviation of the velocity at birth, when nothing is known of it, in heights per second.
const FIRST_VELOCITY: f64 = 10.0 * 30.0 / 160.0;
/// A velocity says nothing about later than this, so that a box does not leave the frame while
/// nobody looks.
pub(super) const LONGEST_COAST_S: f64 = 2.0;

/// Variance of a detector's box of this score, in square heights.
fn measurement_variance(score: f32) -> f64 {
    let weakness = 1.0 - f64::from(score).clamp(0.0, 1.0);
    square(MEASUREMENT) * (1.0 + NOISE_OF_WEAK * weakness)
}

/// A quantity without a rate of change, and its variance. Serialised as bits, as [`Axis`] is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[i64; 2]", into = "[i64; 2]")]
struct Level {
    value: f64,
    variance: f64,
}

impl From<Level> for [i64; 2] {
    fn from(level: Level) -> Self {
        [level.value, level.variance].map(|number| number.to_bits().cast_signed())
    }
}

impl From<[i64; 2]> for Level {
    fn from(bits: [i64; 2]) -> Self {
        let [value, variance] = bits.map(|number| f64::from_bits(number.cast_unsigned()));
        Self { value, variance }
    }
}

impl Level {
    fn new(value: f64, height: f64) -> Self {
        Self { value, variance: square(2.0 * MEASUREMENT * height) }
    }

    fn predicted(self, seconds: f64, height: f64) -> Self {
        Self { variance: self.variance + seconds * POSITION_DRIFT * square(height), ..self }
    }

    fn corrected(self, measured: f64, noise: f64) -> Self {
        let gain = self.variance / (self.variance + noise);
        let value = self.value + gain * (measured - self.value);
        Self { value, variance: (1.0 - gain) * self.variance }
    }
}

/// A quantity and its rate of change, with their covariance.
///
/// Serialised as the bits of its numbers: not every reader of decimal text gives back the last bit
/// (serde_json does not by default), and a restored tracker must go on as if never stopped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[i64; 5]", into = "[i64; 5]")]
struct Axis {
    value: f64,
    rate: f64,
    value_variance: f64,
    covariance: f64,
    rate_variance: f64,
}

impl From<Axis> for [i64; 5] {
    fn from(axis: Axis) -> Self {
        let Axis { value, rate, value_variance, covariance, rate_variance } = axis;
        [value, rate, value_variance, covariance, rate_variance]
            .map(|number| number.to_bits().cast_signed())
    }
}

impl From<[i64; 5]> for Axis {
    fn from(bits: [i64; 5]) -> Self {
        let [value, rate, value_variance, covariance, rate_variance] =
            bits.map(|number| f64::from_bits(number.cast_unsigned()));
        Self { value, rate, value_variance, covariance, rate_variance }
    }
}

impl Axis {
    fn new(value: f64, height: f64) -> Self {
        Self {
            value,
            rate: 0.0,
            value_variance: square(2.0 * MEASUREMENT * height),
            covariance: 0.0,
            rate_variance: square(FIRST_VELOCITY * height),
        }
    }

    fn predicted(self, seconds: f64, height: f64) -> Self {
        let t = seconds;
        let velocity_drift = VELOCITY_DRIFT * square(height);
        Self {
            value: self.value + self.rate * t.min(LONGEST_COAST_S),
            rate: self.rate,
            value_variance: self.value_variance
                + 2.0 * t * self.covariance
                + t * t * self.rate_variance
                + t * POSITION_DRIFT * square(height)
                + t * t * t * velocity_drift / 3.0,
            covariance: self.covariance + t * self.rate_variance + t * t * velocity_drift / 2.0,
            rate_variance: self.rate_variance + t * velocity_drift,
        }
    }

    fn corrected(self, measured: f64, noise: f64) -> Self {
        let total = self.value_variance + noise;
        let (gain, rate_gain) = (self.value_variance / total, self.covariance / total);
        let surprise = measured - self.value;
        Self {
            value: self.value + gain * surprise,
            rate: self.rate + rate_gain * surprise,
            value_variance: (1.0 - gain) * self.value_variance,
            covariance: (1.0 - gain) * self.covariance,
            rate_variance: self.rate_variance - rate_gain * self.covariance,
        }
    }
}

fn square(x: f64) -> f64 {
    x * x
}

/// The motion of one box.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Motion {
    x: Axis,
    y: Axis,
    width: Level,
    height: Level,
}

impl Motion {
    /// Of a box seen for the first time.
    pub fn new(seen: Rectangle) -> Self {
        let height = seen.height;
        Self {
            x: Axis::new(seen.x, height),
            y: Axis::new(seen.y, height),
            width: Level::new(seen.width, height),
            height: Level::new(seen.height, height),
        }
    }

    /// The motion some time later, nothing having been seen since.
    pub fn predicted(&self, seconds: f64) -> Self {
        let height = self.place().height;
        Self {
            x: self.x.predicted(seconds, height),
            y: self.y.predicted(seconds, height),
            width: self.width.predicted(seconds, height),
            height: self.height.predicted(seconds, height),
        }
    }

    /// The motion once the box was seen there with this score.
    pub fn corrected(&self, seen: Rectangle, score: f32) -> Self {
        let noise = measurement_variance(score) * square(self.place().height);
        Self {
            x: self.x.corrected(seen.x, noise),
            y: self.y.corrected(seen.y, noise),
            width: self.width.corrected(seen.width, noise),
            height: self.height.corrected(seen.height, noise),
        }
    }

    /// The motion in a picture that has shifted by so many pixels.
    pub fn shifted(mut self, by: Shift) -> Self {
        self.x.value += by.x;
        self.y.value += by.y;
        self
    }

    /// How far the centre of this box is from the expected one: the square of the distance in
    /// standard deviations of the two (Mahalanobis).
    pub fn distance_squared(&self, seen: Rectangle, score: f32) -> f64 {
        let noise = measurement_variance(score) * square(self.place().height);
        let of = |axis: Axis, seen: f64| square(seen - axis.value) / (axis.value_variance + noise);
        of(self.x, seen.x) + of(self.y, seen.y)
    }

    pub fn place(&self) -> Rectangle {
        Rectangle::new(self.x.value, self.y.value, self.width.value, self.height.value)
    }
}

/// How far the whole picture moved, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shift {
    pub x: f64,
    pub y: f64,
}

#[cfg(test)]
mod tests {
    use super::super::scene::Dice;
    use super::*;

    /// The textbook filter of six states, full matrices and all, to check the four small ones.
    struct Textbook {
        state: [f64; 6],
        covariance: [[f64; 6]; 6],
    }

    impl Textbook {
        fn new(seen: [f64; 4]) -> Self {
            let mut covariance = [[0.0; 6]; 6];
            for (i, row) in covariance.iter_mut().enumerate() {
                let share = if i < 4 { 2.0 * MEASUREMENT } else { FIRST_VELOCITY };
                row[i] = square(share * seen[3]);
            }
            Self { state: std::array::from_fn(|i| if i < 4 { seen[i] } else { 0.0 }), covariance }
        }

        fn predict(&mut self, t: f64) {
            let h = self.state[3];
            let f: [[f64; 6]; 6] = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    if i == j {
                        1.0
                    } else if j == i + 4 {
                        t
                    } else {
                        0.0
                    }
                })
            });
            self.state = std::array::from_fn(|i| (0..6).map(|j| f[i][j] * self.state[j]).sum());
            let mut next = [[0.0; 6]; 6];
            for i in 0..6 {
                for j in 0..6 {
                    for k in 0..6 {
                        for l in 0..6 {
                            next[i][j] += f[i][k] * self.covariance[k][l] * f[j][l];
                        }
                    }
                }
            }
            for (i, row) in next.iter_mut().enumerate().take(4) {
                row[i] += POSITION_DRIFT * h * h * t;
            }
            for i in 0..2 {
                let drift = VELOCITY_DRIFT * h * h;
                next[i][i] += drift * t * t * t / 3.0;
                next[i][i + 4] += drift * t * t / 2.0;
                next[i + 4][i] += drift * t * t / 2.0;
                next[i + 4][i + 4] += drift * t;
            }
            self.covariance = next;
        }

        /// One measured quantity at a time, which is the same as all at once for independent noise.
        fn correct(&mut self, seen: [f64; 4], score: f32) {
            let noise = measurement_variance(score) * square(self.state[3]);
            for (i, measured) in seen.into_iter().enumerate() {
                let total = self.covariance[i][i] + noise;
                let gain: [f64; 6] = std::array::from_fn(|j| self.covariance[j][i] / total);
                let surprise = measured - self.state[i];
                let row = self.covariance[i];
                for (j, gain) in gain.into_iter().enumerate() {
                    self.state[j] += gain * surprise;
                    for (k, of_row) in row.iter().enumerate() {
                        self.covariance[j][k] -= gain * of_row;
                    }
                }
            }
        }
    }

    #[test]
    fn four_small_filters_equal_the_textbook_filter() {
        let mut dice = Dice::new(3);
        let seen = |dice: &mut Dice, i: f64| {
            [100.0 + 3.0 * i, 50.0 - i, 40.0, 90.0].map(|v| v + 4.0 * dice.unit())
        };
        let first = seen(&mut dice, 0.0);
        let mut textbook = Textbook::new(first);
        let rectangle = |[x, y, w, h]: [f64; 4]| Rectangle::new(x, y, w, h);
        let mut motion = Motion::new(rectangle(first));
        for i in 1..50 {
            let t = 0.02 + 0.5 * dice.unit();
            textbook.predict(t);
            motion = motion.predicted(t);
            let now = seen(&mut dice, f64::from(i));
            let score = dice.unit() as f32;
            textbook.correct(now, score);
            motion = motion.corrected(rectangle(now), score);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + b.abs());
            for (i, level) in [(2, motion.width), (3, motion.height)] {
                assert!(close(level.value, textbook.state[i]));
                assert!(close(level.variance, textbook.covariance[i][i]));
            }
            for (i, axis) in [(0, motion.x), (1, motion.y)] {
                assert!(close(axis.value, textbook.state[i]));
                assert!(close(axis.rate, textbook.state[i + 4]));
                assert!(close(axis.value_variance, textbook.covariance[i][i]));
                assert!(close(axis.covariance, textbook.covariance[i][i + 4]));
                assert!(close(axis.rate_variance, textbook.covariance[i + 4][i + 4]));
            }
        }
    }

    #[test]
    fn a_steady_motion_is_predicted_after_a_few_frames() {
        let at = |t: f64| Rectangle::new(100.0 + 60.0 * t, 200.0 - 30.0 * t, 40.0, 50.0);
        let mut motion = Motion::new(at(0.0));
        for i in 1..=30 {
            motion = motion.predicted(0.1).corrected(at(f64::from(i) * 0.1), 0.9);
        }
        let ahead = motion.predicted(1.0).place();
        assert!(
            (ahead.x - at(4.0).x).abs() < 1.0 && (ahead.y - at(4.0).y).abs() < 1.0,
            "{ahead:?}"
        );
    }

    #[test]
    fn a_box_does_not_coast_on_for_ever() {
        let motion = Motion::new(Rectangle::new(0.0, 0.0, 10.0, 10.0))
            .predicted(1.0)
            .corrected(Rectangle::new(20.0, 0.0, 10.0, 10.0), 0.9);
        assert_eq!(motion.predicted(LONGEST_COAST_S).place(), motion.predicted(1e12).place());
    }

    #[test]
    fn a_weak_detection_moves_a_box_less_than_a_good_one() {
        let at = |x| Rectangle::new(x, 0.0, 10.0, 10.0);
        let later = Motion::new(at(0.0)).predicted(0.1);
        let [weak, good] = [0.2, 0.9].map(|score| later.corrected(at(4.0), score).place().x);
        assert!(0.0 < weak && weak < good && good < 4.0, "{weak} {good}");
    }

    #[test]
    fn the_reach_of_an_unknown_velocity_grows_with_time() {
        let born = Motion::new(Rectangle::new(0.0, 0.0, 10.0, 10.0));
        let seen = Rectangle::new(20.0, 0.0, 10.0, 10.0);
        let far = |seconds| born.predicted(seconds).distance_squared(seen, 0.9);
        assert!(far(0.04) > 50.0 && far(1.0) < 2.0, "{} {}", far(0.04), far(1.0));
    }

    #[test]
    fn the_bits_survive_json() {
        let motion =
            Motion::new(Rectangle::new(0.1 + 0.2, 1.0 / 3.0, 1e-300, 1e300)).predicted(0.1);
        let text = serde_json::to_string(&motion).unwrap();
        assert_eq!(serde_json::from_str::<Motion>(&text).unwrap(), motion);
    }
}
