//! A turn: partitions being taken over or handed over, beside the loop that polls.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;

use super::error::PartitionError;
use super::membership::PartitionId;
use super::offsets::Begin;
use super::opening::{Opened, Opener};
use super::work::Work;

/// Partitions that are taken over at a time.
const AT_ONCE: usize = 16;

/// How a turn ended.
pub enum Turned {
    /// Each was taken over, or was not.
    Opened(Vec<(PartitionId, Result<Opened, PartitionError>)>),
    /// Nobody works on them any more.
    Released(Vec<PartitionId>),
    /// What comes next in them lies outside their log.
    Suspects(Vec<PartitionId>),
}

/// At most one turn.
#[derive(Default)]
pub struct Turn {
    task: Option<JoinHandle<Turned>>,
}

impl Turn {
    /// Whether none is under way.
    pub fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    /// Takes partitions over.
    pub fn open(&mut self, opener: &Opener, ids: Vec<PartitionId>) {
        let opener = opener.clone();
        self.task = Some(tokio::spawn(async move {
            let opened = ids.into_iter().map(|id| {
                let opener = opener.clone();
                async move { (id, opener.open(id).await) }
            });
            Turned::Opened(stream::iter(opened).buffer_unordered(AT_ONCE).collect().await)
        }));
    }

    /// Hands partitions over once their work has ended.
    pub fn release(&mut self, ids: Vec<PartitionId>, works: Vec<Work>, limit: Duration) {
        self.task = Some(tokio::spawn(async move {
            Work::end_all(works, limit).await;
            Turned::Released(ids)
        }));
    }

    /// Looks for partitions whose next offset lies outside their log. The client says that there is
    /// one, and not which.
    pub fn look_for_out_of_range(&mut self, opener: &Opener, offsets: Vec<(PartitionId, i64)>) {
        let opener = opener.clone();
        self.task = Some(tokio::spawn(async move {
            let looked = offsets.into_iter().map(|(id, offset)| {
                let opener = opener.clone();
                async move {
                    let log = opener.watermarks(id).await.ok()?;
                    let begin = Begin::decide(Some(offset), log);
                    matches!(begin, Begin::OutOfRange { .. }).then_some(id)
                }
            });
            let found: Vec<_> = stream::iter(looked).buffer_unordered(AT_ONCE).collect().await;
            Turned::Suspects(found.into_iter().flatten().collect())
        }));
    }

    /// The end of the turn under way; never, without one.
    pub async fn done(&mut self) -> Turned {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let turned = task.await;
        self.task = None;
        match turned {
            Ok(turned) => turned,
            Err(e) => {
                // A turn that panicked: the group is not answered, misses this instance, and the
                // partitions come again.
                tracing::error!(error = %e, "a change of partitions did not end");
                Turned::Suspects(Vec::new())
            }
        }
    }

    /// Ends the turn under way at once.
    pub fn abandon(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
