//! What the writer shows to the rest of the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use picket_wire::{DeviceName, EpochId};

use super::books::Ledger;
use super::encryption::Keyring;
use super::lease::Leases;
use super::record::RowId;
use super::recordings::Recordings;

/// What the writer shows to the rest of the agent.
pub struct Shared {
    pub state_dir: PathBuf,
    pub device: DeviceName,
    pub cap_bytes: u64,
    pub epoch: EpochId,
    pub ledger: Arc<Ledger>,
    pub leases: Leases,
    pub recordings: Recordings,
    pub keyring: Arc<Keyring>,
    /// Rows of this run of the agent have this number or a higher one.
    pub first_id: RowId,
    /// Rows that come in from now on have this number or a higher one.
    pub next_id: AtomicI64,
    /// Of records and pictures: the first row that was salvaged since the uplink last asked, or
    /// `RowId::MAX`.
    pub salvaged: [AtomicI64; 2],
    /// Bytes in use, of `cap_bytes`.
    pub used_bytes: AtomicU64,
    /// Bytes that went over the link in this month.
    pub month_bytes: AtomicU64,
    /// Whether the clock tells which month this is.
    pub month_is_known: AtomicBool,
    /// Most bytes that may go in a month; the largest number where there is no budget.
    pub month_budget_bytes: AtomicU64,
    /// Whether what is sent is acknowledged, as far as the uplink knows.
    pub link_works: AtomicBool,
    /// Rises with each turn of the writer: standing still means stuck.
    pub turns: AtomicU64,
}

impl Shared {
    /// Whether more went over the link in this month, or the last known one, than the budget allows.
    pub fn is_over_budget(&self) -> bool {
        let budget = self.month_budget_bytes.load(Ordering::SeqCst);
        self.month_bytes.load(Ordering::SeqCst) >= budget
    }

    /// Whether pictures are dropped for that: not as long as the month may be over.
    pub fn leaves_pictures_out(&self) -> bool {
        self.is_over_budget() && self.month_is_known.load(Ordering::SeqCst)
    }
}
