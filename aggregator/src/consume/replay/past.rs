//! What the centre knows of an epoch that is past.

use picket_wire::{CameraKey, EpochId};

use super::super::stored_runs::restored;
use super::compare::clocks;
use super::report::EpochReport;
use super::walk::Walk;
use super::{Replay, ReplayError};
use crate::store::StoreError;
use crate::store::checkpoints::{RunsCheckpoint, runs_checkpoint_id};
use crate::store::documents::collection;
use crate::store::ledger::{EpochLedger, ledger_id};
use crate::store::relations::Relations;

/// What the centre knows of an epoch.
pub struct Past {
    /// What it has of it.
    ledger: EpochLedger,
    /// What is known of its clocks.
    pub relations: Relations,
    /// Whether all that is stored goes by that.
    pub times_are_settled: bool,
    /// The tracker knows of nothing up to here.
    pub after: u64,
    /// Tracks are final up to here.
    pub until: u64,
    /// All tracks are final, and have ended.
    pub is_over: bool,
    /// The camera has gone on to another one.
    pub is_left: bool,
}

impl Past {
    /// Whether it is as it was before.
    pub fn is_as(&self, before: &Self) -> bool {
        (self.until, self.is_over, self.is_left) == (before.until, before.is_over, before.is_left)
    }

    /// A stretch of which nothing is stored. What the ledger has of it was there once.
    pub fn miss(&self, first: u64, last: u64, walk: &mut Walk, report: &mut EpochReport) {
        let never: u64 =
            self.ledger.accounted.holes_within(first, last).iter().map(|(a, b)| b - a + 1).sum();
        let gone = (last - first + 1).saturating_sub(never);
        if gone > 0 {
            walk.miss();
            let why = format!("{gone} that the ledger has are stored no more: expired, or deleted");
            report.cannot(first, last, why);
        }
    }
}

impl Replay {
    /// What the centre knows of an epoch; none if nothing of it can be compared.
    pub(super) async fn past(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        report: &mut EpochReport,
    ) -> Result<Option<Past>, ReplayError> {
        let id = [ledger_id(key, epoch)];
        let ledgers = self.reader.within("a ledger", self.reader.store.ledgers(&id));
        let ledger = ledgers.await?.pop().map(EpochLedger::from).unwrap_or_default();
        let clock = self.reader.within("clocks", self.reader.store.clocks(&id));
        let (relations, times_are_settled) = clocks(clock.await?.pop());
        let ids = [runs_checkpoint_id(key, epoch)];
        let found =
            self.reader.store.find_by_ids::<RunsCheckpoint>(collection::CHECKPOINTS, &ids, None);
        let checkpoint = match self.reader.within("a checkpoint", found).await {
            Ok(mut found) => found.pop(),
            Err(ReplayError::Store(error @ StoreError::Unreadable { .. })) => {
                report.cannot(1, 0, picket_service::logging::chain(&error));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(checkpoint) = checkpoint else {
            report.cannot(
                1,
                0,
                "there is no checkpoint of its tracking: nobody knows what is final",
            );
            return Ok(None);
        };
        let (runs, discarded) = restored(checkpoint, &self.tracking, 0);
        if let Some(discarded) = discarded {
            let why =
                format!("{}; --config with the settings of that time compares it", discarded.why);
            let why = if discarded.label == "settings" { why } else { discarded.why };
            report.cannot(1, 0, why);
            return Ok(None);
        }
        if let Some(after) = runs.anew_after.filter(|after| *after > 0) {
            let why =
                "a tracker of another version or of other settings, or one whose state was spoilt";
            report.cannot(1, after, why);
        }
        Ok(Some(Past {
            ledger,
            relations,
            times_are_settled,
            after: runs.anew_after.unwrap_or_default(),
            until: runs.finals.until,
            is_over: runs.is_over,
            is_left: runs.superseded_ms.is_some(),
        }))
    }
}
