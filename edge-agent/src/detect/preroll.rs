//! The pictures of the last moments before a detection, encoded, within a time and a size.

use std::collections::VecDeque;

use picket_wire::Picture;

/// One camera's pictures that a detection may still publish.
pub struct Preroll {
    before_us: u64,
    most_bytes: usize,
    pictures: VecDeque<Picture>,
    bytes: usize,
}

impl Preroll {
    /// Of the last `before_ms`, as far as they fit.
    pub fn new(before_ms: u32, most_bytes: usize) -> Self {
        let before_us = u64::from(before_ms) * 1000;
        Self { before_us, most_bytes, pictures: VecDeque::new(), bytes: 0 }
    }

    /// Keeps a picture. Gives the number of those that went before their time for want of room.
    pub fn keep(&mut self, picture: Picture) -> usize {
        self.forget_old(picture.stamp.mono_us);
        self.bytes += picture.jpeg.len();
        self.pictures.push_back(picture);
        let before = self.pictures.len();
        while self.bytes > self.most_bytes && self.pop() {}
        before - self.pictures.len()
    }

    /// Those that lie within the time before `now_us`, the oldest first; none is left.
    pub fn take(&mut self, now_us: u64) -> impl Iterator<Item = Picture> {
        self.forget_old(now_us);
        self.bytes = 0;
        std::mem::take(&mut self.pictures).into_iter()
    }

    fn forget_old(&mut self, now_us: u64) {
        let before_us = self.before_us;
        let is_old = |picture: &Picture| now_us.abs_diff(picture.stamp.mono_us) > before_us;
        while self.pictures.front().is_some_and(is_old) && self.pop() {}
    }

    fn pop(&mut self) -> bool {
        let gone = self.pictures.pop_front();
        self.bytes -= gone.as_ref().map_or(0, |picture| picture.jpeg.len());
        gone.is_some()
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::{ClockState, Stamp};

    use super::*;

    fn picture(seq: u64, bytes: usize) -> Picture {
        let mono_us = seq * 100_000;
        Picture {
            id: format!("box/cam/1-00000001/{seq}").parse().unwrap(),
            crop: None,
            stamp: Stamp { mono_us, captured_at: None, clock: ClockState::Unset },
            width: 64,
            height: 48,
            redacted: "none".to_owned(),
            jpeg: vec![0; bytes],
        }
    }

    fn taken(preroll: &mut Preroll, now: u64) -> Vec<u64> {
        preroll.take(now * 100_000).map(|picture| picture.id.seq).collect()
    }

    #[test]
    fn what_is_older_than_the_time_asked_for_is_not_published() {
        let mut preroll = Preroll::new(500, 1 << 20);
        assert!((1..=20).all(|seq| preroll.keep(picture(seq, 100)) == 0));
        assert_eq!(taken(&mut preroll, 21), [16, 17, 18, 19, 20]);
        assert!(taken(&mut preroll, 21).is_empty());
        preroll.keep(picture(30, 100));
        assert!(taken(&mut preroll, 40).is_empty());
    }

    #[test]
    fn it_never_holds_more_bytes_than_it_may() {
        let mut preroll = Preroll::new(10_000, 1000);
        let gone: usize = (1..=20).map(|seq| preroll.keep(picture(seq, 300))).sum();
        assert_eq!((gone, preroll.bytes), (17, 900));
        assert_eq!(taken(&mut preroll, 21), [18, 19, 20]);
        assert_eq!(preroll.bytes, 0);
        assert_eq!(preroll.keep(picture(22, 1001)), 1, "one that never fits");
        assert_eq!(preroll.bytes, 0);
    }
}
