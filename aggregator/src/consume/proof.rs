//! How long ago it was seen that nobody else owns a partition.

use std::time::{Duration, Instant, SystemTime};

/// For how long documents are written without asking again. A batch that takes longer, because this
/// process stood still or MongoDB was away, asks before it writes on. What a former owner writes in this
/// time is what its next owner writes too, but for what the latter has made final since; only the end of
/// a batch is strict.
const STANDS: Duration = Duration::from_secs(2);

/// That nobody else owned a partition when this was made.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    at: Instant,
    // The other clock stands still while the machine sleeps.
    by_the_wall: SystemTime,
}

impl Proof {
    /// Of a question that is asked from now on.
    pub fn of_what_follows() -> Self {
        Self { at: Instant::now(), by_the_wall: SystemTime::now() }
    }

    /// Whether it is too old to write by. It also is after the time of day went back.
    pub fn is_stale(&self) -> bool {
        let by_the_wall = self.by_the_wall.elapsed();
        self.at.elapsed() > STANDS || by_the_wall.map_or(true, |elapsed| elapsed > STANDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_stale_by_either_clock() {
        let fresh = Proof::of_what_follows();
        assert!(!fresh.is_stale());
        let ago = STANDS + Duration::from_secs(1);
        let asleep = Proof { by_the_wall: fresh.by_the_wall - ago, ..fresh };
        assert!(asleep.is_stale());
        let set_back = Proof { by_the_wall: fresh.by_the_wall + ago, ..fresh };
        assert!(set_back.is_stale());
        if let Some(at) = fresh.at.checked_sub(ago) {
            assert!(Proof { at, ..fresh }.is_stale());
        }
    }
}
