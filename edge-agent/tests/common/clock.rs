//! A clock for the spool that stands where the test puts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use picket_edge_agent::spool::Clock;
use picket_wire::CameraName;
use picket_wire::observation::{ClockState, Stamp};

/// Both clocks, kept by a time source; each reading is a microsecond later than the one before.
pub struct SteadyClock(AtomicU64);

impl SteadyClock {
    /// At the start of the agent.
    pub fn start() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1)))
    }

    /// Both go on.
    pub fn pass(&self, us: u64) {
        self.0.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Stamp {
        let mono_us = self.0.fetch_add(1, Ordering::SeqCst);
        let wall = 1_800_000_000_000_000 + i64::try_from(mono_us).unwrap();
        let captured_at = Some(jiff::Timestamp::from_microsecond(wall).unwrap());
        Stamp { mono_us, captured_at, clock: ClockState::Synchronised }
    }
    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}
