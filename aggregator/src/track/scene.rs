//! Made-up scenes for tests: objects that move by rule, seen by a detector with known faults.

use super::Detection;

/// A small generator of numbers (splitmix64), the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From -1 to 1.
    pub fn around_zero(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }
}

/// An object that moves in a straight line.
#[derive(Clone, Copy)]
pub(super) struct Object {
    /// Centre at time 0 and velocity per second.
    pub start_px: [f64; 2],
    pub velocity_px: [f64; 2],
    pub size_px: [f64; 2],
    pub class: &'static str,
}

impl Object {
    pub fn face(start_px: [f64; 2], velocity_px: [f64; 2]) -> Self {
        Self { start_px, velocity_px, size_px: [60.0, 80.0], class: "face" }
    }

    /// What a perfect detector sees of it, moved by `off_px`.
    pub fn seen(&self, seconds: f64, off_px: [f64; 2], score: f32) -> Detection<'static> {
        let [width, height] = self.size_px;
        let x = self.start_px[0] + self.velocity_px[0] * seconds + off_px[0];
        let y = self.start_px[1] + self.velocity_px[1] * seconds + off_px[1];
        let box_px = [x - width / 2.0, y - height / 2.0, width, height].map(|v| v as f32);
        Detection { box_px, score, class: self.class }
    }
}
