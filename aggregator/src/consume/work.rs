//! Workers: starting one for a partition, and ending it.

use std::sync::Arc;
use std::time::Duration;

use picket_wire::Topic;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::error::PartitionError;
use super::frames::Frames;
use super::inbox::{Inbox, Sender};
use super::membership::PartitionId;
use super::observations::{Observations, Reading};
use super::opening::Opened;
use super::partition::{Lane, Report, Shared, Worker};
use super::twins::Twins;
use crate::store::checkpoints::LogMark;
use crate::track::Settings as TrackSettings;
use crate::upsert::Retention;

/// The work on a partition, under way.
pub struct Work {
    /// Records go there.
    pub sender: Sender,
    /// Tells it at which place it was seen that the log is the same one.
    pub mark: watch::Sender<Option<LogMark>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Work {
    /// Whether nobody works on it any more.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it at once. A batch in hand is not brought to its end; whoever reads it again finds it
    /// undone or done in part, and both come to the same.
    pub fn abandon(self) {
        self.task.abort();
    }

    /// Lets all bring the batch in hand to its end, and abandons those that take too long.
    pub async fn end_all(works: Vec<Self>, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        for work in &works {
            work.stop.send_replace(true);
        }
        for mut work in works {
            if tokio::time::timeout_at(deadline, &mut work.task).await.is_err() {
                tracing::warn!("a batch was not stored in time; its next owner reads it again");
                work.task.abort();
            }
        }
    }
}

/// Starts workers.
pub struct Works {
    /// What they share.
    pub shared: Arc<Shared>,
    /// How to track.
    pub tracker: TrackSettings,
    /// How long to keep.
    pub retention: Retention,
    /// Where they report.
    pub reports: mpsc::UnboundedSender<Report>,
}

impl Works {
    /// How long a worker may take to end.
    pub fn release_limit(&self) -> Duration {
        Duration::from_secs(self.shared.settings.release_s)
    }

    /// Memory for records that wait, of all partitions together.
    pub fn queue_bytes(&self) -> usize {
        self.shared.settings.queue_mib.saturating_mul(1024 * 1024)
    }

    /// Starts the worker of a partition.
    pub fn start(
        &self,
        id: PartitionId,
        opened: Opened,
        (sender, inbox): (Sender, Inbox),
    ) -> Result<Work, PartitionError> {
        let Opened { owner, offset: next_offset, log_end, marks, log_since, proof } = opened;
        let store = self.shared.store.clone();
        let lane = match id.0 {
            Topic::Observations => {
                let tracker = self.tracker.clone();
                let settings = &self.shared.settings;
                let reading = Reading {
                    horizon_ms: settings.horizon_ms(),
                    reread_until: log_end,
                    log_since,
                    tells: settings.publish_tracks,
                };
                let claim = owner.claim.clone();
                let lane = Observations::new(store, claim, tracker, self.retention, reading);
                Lane::Observations(Box::new(lane.map_err(PartitionError::Apply)?))
            }
            Topic::Frames => Lane::Frames(Frames::new(store, self.retention)),
            Topic::Status | Topic::Tracks | Topic::DeadLetter => Lane::Status(Twins::default()),
        };
        let (stop, stopped) = watch::channel(false);
        let shared = self.shared.clone();
        let reports = self.reports.clone();
        let (mark, marked) = watch::channel(marks.seen);
        let worker =
            Worker { id, owner, lane, inbox, next_offset, shared, reports, proof, mark: marked };
        Ok(Work { sender, mark, stop, task: tokio::spawn(worker.run(stopped)) })
    }
}

#[cfg(test)]
impl Work {
    /// A task that nobody gives records to.
    pub fn of(task: JoinHandle<()>) -> Self {
        use super::inbox::{Share, inbox};
        Self {
            mark: watch::channel(None).0,
            sender: inbox(Share::new(1000.into())).0,
            stop: watch::channel(false).0,
            task,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::held::{Held, Holdings};
    use crate::consume::marks::Marks;

    #[tokio::test]
    async fn a_worker_that_panicked_is_found_and_one_at_work_is_not() {
        let at_work = |task| Held::at_work(Work::of(task), 0, Marks::default(), None);
        let (dead, alive) = ((Topic::Frames, 0), (Topic::Frames, 1));
        let mut held = Holdings::default();
        held.0.insert(dead, at_work(tokio::spawn(async { panic!("a fault in the worker") })));
        held.0.insert(alive, at_work(tokio::spawn(std::future::pending())));
        while held.without_worker().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(held.without_worker(), [dead]);
    }
}
