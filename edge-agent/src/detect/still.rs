//! The run of frames that were not looked at because nothing moved in them.

use std::time::{Duration, Instant};

use picket_wire::observation::{Reason, Skip};

use crate::capture::Frame;

/// Longest time that a run stands for: the centre waits for it before it goes on with the tracks.
const LONGEST: Duration = Duration::from_secs(1);

/// The run, while it is open.
#[derive(Default)]
pub struct StillRun(Option<(Skip, Instant)>);

impl StillRun {
    /// Takes a frame in; the run if that closes it.
    ///
    /// The frames' own time closes it, so that a recording gives the same records however fast it
    /// is read.
    pub fn add(&mut self, frame: Frame) -> Option<Skip> {
        let (seq, now_us) = (frame.id.seq, frame.stamp.mono_us);
        let (run, _) = self.0.get_or_insert_with(|| {
            let reason = Reason::from(Reason::NO_MOTION);
            let (id, stamp) = (frame.id, frame.stamp);
            (Skip { id, stamp, first: seq, last: seq, reason }, Instant::now())
        });
        run.last = seq;
        let age = Duration::from_micros(now_us.saturating_sub(run.stamp.mono_us));
        if age >= LONGEST { self.close() } else { None }
    }

    /// The run, closed; `None` if there is none.
    pub fn close(&mut self) -> Option<Skip> {
        self.0.take().map(|(run, _)| run)
    }

    /// The run, closed, if it has been open for longer than it may: of a camera that fell silent.
    pub fn close_old(&mut self, now: Instant) -> Option<Skip> {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= LONGEST;
        if self.0.as_ref().is_some_and(|(_, since)| is_old(*since)) { self.close() } else { None }
    }

    /// Whether there is a run.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::{ClockState, Stamp};

    use super::*;
    use crate::capture::Planes;
    use crate::capture::planes::{Matrix, Range};

    fn frame(seq: u64) -> Frame {
        let planes = [(vec![0; 4], 2), (vec![0], 1), (vec![0], 1)];
        Frame {
            id: format!("box/cam/1-00000001/{seq}").parse().unwrap(),
            stamp: Stamp { mono_us: seq * 100_000, captured_at: None, clock: ClockState::Unset },
            planes: Planes::from_vecs(2, 2, planes, Matrix::Bt601, Range::Full).unwrap(),
            position: None,
        }
    }

    #[test]
    fn a_run_is_closed_after_a_second_of_the_frames_time_and_nothing_of_it_is_left_out() {
        let mut run = StillRun::default();
        let closed: Vec<(u64, u64)> =
            (1..=30).filter_map(|seq| run.add(frame(seq))).map(|s| (s.first, s.last)).collect();
        assert_eq!(closed, [(1, 11), (12, 22)]);
        assert_eq!(run.close().map(|s| (s.first, s.last)), Some((23, 30)));
        assert!(!run.is_open());
    }

    #[test]
    fn the_run_of_a_camera_that_fell_silent_is_closed_by_the_clock() {
        let (mut run, began) = (StillRun::default(), Instant::now());
        run.add(frame(7));
        assert!(run.close_old(began).is_none());
        let closed = run.close_old(Instant::now() + LONGEST).unwrap();
        assert_eq!((closed.first, closed.last), (7, 7));
        assert!(run.close_old(Instant::now() + LONGEST).is_none());
    }
}
