//! What the link is like now, and what passed.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Traffic;

/// What is wrong with the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing: all passes.
    #[default]
    None,
    /// Connections break with RST, and new ones are refused.
    Refuse,
    /// Half-open: connections stay, new ones are let in, and nothing passes; nobody says so.
    Freeze,
    /// So many bits pass each way in a second, over all connections together.
    Slow {
        /// 64 000 is an ISDN line.
        bits_per_s: u64,
    },
    /// Each byte takes so long each way.
    Delay(Duration),
    /// What clients send arrives, and no answer comes back.
    DropResponses,
}

/// What a test asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cue {
    pub fault: Fault,
    /// How often all connections were cut.
    pub cuts: u64,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the broker.
    Up,
    /// To the client.
    Down,
}

/// Shared by all connections, as a modem's line is.
#[derive(Debug, Default)]
pub struct Link {
    connections: AtomicU64,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
    dropped_bytes: AtomicU64,
    /// Until when each way is taken.
    up_taken: Mutex<Option<Instant>>,
    down_taken: Mutex<Option<Instant>>,
}

impl Link {
    pub fn let_in(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub fn carried(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::Up => &self.up_bytes,
            Way::Down => &self.down_bytes,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn dropped(&self, bytes: usize) {
        self.dropped_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// When these bytes have passed, after all that were there before.
    pub fn passed_at(&self, way: Way, bytes: usize, bits_per_s: u64) -> Instant {
        let taken = match way {
            Way::Up => &self.up_taken,
            Way::Down => &self.down_taken,
        };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let time = Duration::from_secs_f64(bytes as f64 * 8.0 / bits_per_s.max(1) as f64);
        let at = taken.unwrap_or(now).max(now) + time;
        *taken = Some(at);
        at
    }

    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: read(&self.connections),
            sent_bytes: read(&self.up_bytes),
            returned_bytes: read(&self.down_bytes),
            dropped_bytes: read(&self.dropped_bytes),
        }
    }
}
