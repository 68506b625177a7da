//! Sequence numbers, taken from blocks that were reserved on disk before.

use std::ops::RangeInclusive;

use picket_wire::CameraName;

/// Numbers reserved at a time: at 30 frames a second, one write to disk in eight seconds.
pub const BLOCK: u64 = 256;

/// Why no numbers could be reserved.
#[derive(Debug, thiserror::Error)]
#[error("cannot reserve sequence numbers for camera {camera}")]
pub struct ReserveError {
    /// For which camera.
    pub camera: CameraName,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Gives out blocks of sequence numbers that are on disk before it returns, so that no number is ever
/// given out twice in an epoch and a crash leaves a known upper bound. The spool does it.
pub trait ReserveSeq: Send + Sync {
    /// Reserves the next `count` numbers of a camera in this epoch, counting from 1.
    fn reserve(&self, camera: &CameraName, count: u64)
    -> Result<RangeInclusive<u64>, ReserveError>;

    /// Whether there is room to keep more. What can wait, a recording read as fast as possible,
    /// waits without it rather than push out what is older.
    fn has_room(&self) -> bool {
        true
    }
}

/// The numbers a camera has in hand.
#[derive(Debug, Default)]
pub struct SeqBlocks {
    next: u64,
    end: u64,
}

impl SeqBlocks {
    /// The next number.
    pub fn take(
        &mut self,
        camera: &CameraName,
        reserve: &dyn ReserveSeq,
    ) -> Result<u64, ReserveError> {
        if self.next >= self.end {
            let block = reserve.reserve(camera, BLOCK)?;
            (self.next, self.end) = (*block.start(), block.end() + 1);
        }
        let seq = self.next;
        self.next += 1;
        Ok(seq)
    }

    /// Takes back the number given out last, which nobody has seen.
    pub fn put_back(&mut self) {
        self.next = self.next.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Counter(Mutex<Vec<u64>>);

    impl ReserveSeq for Counter {
        fn reserve(&self, _: &CameraName, count: u64) -> Result<RangeInclusive<u64>, ReserveError> {
            let mut blocks = self.0.lock().unwrap();
            let first = blocks.iter().sum::<u64>() + 1;
            blocks.push(count);
            Ok(first..=first + count - 1)
        }
    }

    #[test]
    fn numbers_run_on_from_block_to_block_without_hole_or_repetition() {
        let (counter, camera) = (Counter(Mutex::default()), "a".parse().unwrap());
        let mut blocks = SeqBlocks::default();
        for expected in 1..=BLOCK * 2 + 1 {
            assert_eq!(blocks.take(&camera, &counter).unwrap(), expected);
        }
        assert_eq!(counter.0.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_number_put_back_is_given_out_again() {
        let (counter, camera) = (Counter(Mutex::default()), "a".parse().unwrap());
        let mut blocks = SeqBlocks::default();
        for _ in 0..BLOCK {
            blocks.take(&camera, &counter).unwrap();
        }
        blocks.put_back();
        assert_eq!(blocks.take(&camera, &counter).unwrap(), BLOCK);
    }
}
