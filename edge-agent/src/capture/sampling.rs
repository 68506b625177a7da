//! Which frames are captured. Pure: it sees media times only.

use super::settings::Sampling;

/// Decides frame by frame, in the order of the stream.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    /// Frames still to pass over, for every n-th.
    to_pass: u32,
    /// The last slot of 1/fps seconds that got its frame.
    last_slot: Option<u64>,
}

impl Sampler {
    /// Takes the first frame it sees.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, to_pass: 0, last_slot: None }
    }

    /// Goes on behind a frame that was taken, so that an interrupted recording gives the same frames
    /// as an unbroken one.
    pub fn after(sampling: Sampling, media_time_ns: u64) -> Self {
        let mut sampler = Self::new(sampling);
        sampler.takes(media_time_ns);
        sampler
    }

    /// Whether this frame is captured.
    ///
    /// A rate is kept by slots of 1/fps seconds, the first frame of each being taken. The other way,
    /// to wait 1/fps after each taken frame, drifts to a lower rate on a source whose own rate is no
    /// multiple, and depends on where reading began.
    pub fn takes(&mut self, media_time_ns: u64) -> bool {
        match self.sampling {
            Sampling::Every(n) => {
                if self.to_pass > 0 {
                    self.to_pass -= 1;
                    return false;
                }
                self.to_pass = n.saturating_sub(1);
                true
            }
            Sampling::Fps(fps) => {
                // A frame's time is rounded to nanoseconds, so that at 10 fps the frame of slot 3 may
                // stand at 299999999: the slack keeps it in its slot.
                let slot = ((media_time_ns + 1_000) as f64 * fps / 1e9) as u64;
                let takes = self.last_slot != Some(slot);
                self.last_slot = Some(slot);
                takes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut sampler: Sampler, frames: impl Iterator<Item = u64>, fps: u64) -> Vec<u64> {
        frames.filter(|frame| sampler.takes(frame * 1_000_000_000 / fps)).collect()
    }

    #[test]
    fn every_third_frame_begins_with_the_first() {
        assert_eq!(taken(Sampler::new(Sampling::Every(3)), 0..10, 30), [0, 3, 6, 9]);
    }

    #[test]
    fn a_rate_is_kept_on_a_source_that_is_no_multiple_of_it() {
        assert_eq!(taken(Sampler::new(Sampling::Fps(10.0)), 0..250, 25).len(), 100);
        assert_eq!(taken(Sampler::new(Sampling::Fps(12.0)), 0..300, 30).len(), 120);
    }

    #[test]
    fn a_rate_above_the_source_takes_each_frame_once() {
        assert_eq!(taken(Sampler::new(Sampling::Fps(100.0)), 0..30, 30).len(), 30);
        assert_eq!(taken(Sampler::new(Sampling::Fps(30.0)), 0..30, 30).len(), 30);
    }

    #[test]
    fn an_interrupted_recording_gives_the_same_frames_as_an_unbroken_one() {
        for sampling in [Sampling::Every(4), Sampling::Fps(7.0)] {
            let whole = taken(Sampler::new(sampling), 0..100, 30);
            for (position, last) in whole.iter().enumerate() {
                let resumed = Sampler::after(sampling, last * 1_000_000_000 / 30);
                assert_eq!(taken(resumed, last + 1..100, 30), whole[position + 1..]);
            }
        }
    }
}
