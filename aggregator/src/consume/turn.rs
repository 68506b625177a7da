//! A turn: partitions being taken over or handed over, beside the loop that polls.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;

use super::error::PartitionError;
use super::marks::Marks;
use super::membership::PartitionId;
use super::offsets::{Begin, Signs};
use super::opening::{Opened, Opener};
use super::work::Work;
use crate::store::checkpoints::LogMark;

/// Partitions that are taken over at a time.
const AT_ONCE: usize = 16;

/// How a turn ended.
pub enum Turned {
    /// Each was taken over, or was not.
    Opened(Vec<(PartitionId, Result<Opened, PartitionError>)>),
    /// Nobody works on them any more.
    Released(Vec<PartitionId>),
    /// Which are not the log that they were, and which are.
    Looked {
        /// They do not go on where reading does.
        broken: Vec<PartitionId>,
        /// They do, up to here.
        sound: Vec<(PartitionId, Option<LogMark>)>,
    },
}

/// A partition to be looked at.
pub struct Suspect {
    /// Which.
    pub id: PartitionId,
    /// By what it is told from other logs.
    pub marks: Marks,
    /// What is read next, where it is to be seen that the log has it.
    pub next: Option<i64>,
}

impl Suspect {
    /// Whether its log does not go on where reading does; none if the broker does not answer.
    async fn is_broken(&self, opener: &Opener) -> Option<bool> {
        let recreated = opener.is_recreated(self.id, &self.marks).await.ok()?;
        let Some(next) = self.next else { return Some(recreated) };
        let log = opener.watermarks(self.id).await.ok()?;
        let signs = Signs { recreated, ..Signs::default() };
        Some(matches!(Begin::decide(Some(next), log, signs), Begin::Broken { .. }))
    }
}

/// What a turn is about.
enum Errand {
    Open(Vec<PartitionId>),
    Release(Vec<PartitionId>),
    Look,
}

struct Underway {
    errand: Errand,
    task: JoinHandle<Turned>,
}

/// At most one turn.
#[derive(Default)]
pub struct Turn {
    underway: Option<Underway>,
}

impl Turn {
    /// Whether none is under way.
    pub fn is_idle(&self) -> bool {
        self.underway.is_none()
    }

    /// Whether partitions are being handed over, which nothing may interrupt.
    pub fn is_releasing(&self) -> bool {
        matches!(&self.underway, Some(Underway { errand: Errand::Release(_), .. }))
    }

    fn begin(&mut self, errand: Errand, turn: impl Future<Output = Turned> + Send + 'static) {
        self.underway = Some(Underway { errand, task: tokio::spawn(turn) });
    }

    /// Takes partitions over.
    pub fn open(&mut self, opener: &Opener, ids: Vec<PartitionId>) {
        let opener = opener.clone();
        self.begin(Errand::Open(ids.clone()), async move {
            let opened = ids.into_iter().map(|id| {
                let opener = opener.clone();
                async move { (id, opener.open(id).await) }
            });
            Turned::Opened(stream::iter(opened).buffer_unordered(AT_ONCE).collect().await)
        });
    }

    /// Hands partitions over once their work has ended.
    pub fn release(&mut self, ids: Vec<PartitionId>, works: Vec<Work>, limit: Duration) {
        self.begin(Errand::Release(ids.clone()), async move {
            Work::end_all(works, limit).await;
            Turned::Released(ids)
        });
    }

    /// Looks for partitions whose log is no longer the one that it was.
    pub fn look(&mut self, opener: &Opener, suspects: Vec<Suspect>) {
        let opener = opener.clone();
        self.begin(Errand::Look, async move {
            let looked = suspects.into_iter().map(|suspect| {
                let opener = opener.clone();
                async move { (suspect.is_broken(&opener).await, suspect) }
            });
            let looked: Vec<_> = stream::iter(looked).buffer_unordered(AT_ONCE).collect().await;
            let (mut broken, mut sound) = (Vec::new(), Vec::new());
            for (is_broken, suspect) in looked {
                match is_broken {
                    Some(true) => broken.push(suspect.id),
                    Some(false) => sound.push((suspect.id, suspect.marks.read)),
                    None => {}
                }
            }
            Turned::Looked { broken, sound }
        });
    }

    /// The end of the turn under way; never, without one.
    pub async fn done(&mut self) -> Turned {
        let Some(underway) = &mut self.underway else { return std::future::pending().await };
        let turned = (&mut underway.task).await;
        let errand = self.underway.take().map_or(Errand::Look, |underway| underway.errand);
        turned.unwrap_or_else(|e| {
            tracing::error!(error = %e, "a change of partitions did not end");
            errand.after_a_panic()
        })
    }

    /// Ends the turn under way at once; returns the partitions that it was about to take over.
    pub fn abandon(&mut self) -> Vec<PartitionId> {
        let Some(underway) = self.underway.take() else { return Vec::new() };
        underway.task.abort();
        match underway.errand {
            Errand::Open(ids) => ids,
            Errand::Release(_) | Errand::Look => Vec::new(),
        }
    }
}

impl Errand {
    /// What became of it if the turn panicked: nothing was taken over, and what was to be handed
    /// over is, since its workers end by themselves when nobody holds their other end.
    fn after_a_panic(self) -> Turned {
        match self {
            Self::Open(ids) => {
                Turned::Opened(ids.into_iter().map(|id| (id, Err(PartitionError::Died))).collect())
            }
            Self::Release(ids) => Turned::Released(ids),
            Self::Look => Turned::Looked { broken: Vec::new(), sound: Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picket_wire::Topic;

    const ID: PartitionId = (Topic::Frames, 3);

    #[tokio::test]
    async fn a_turn_that_panicked_gives_its_partitions_back() {
        let mut turn = Turn::default();
        turn.begin(Errand::Open(vec![ID]), async { panic!("a fault in the turn") });
        let Turned::Opened(results) = turn.done().await else { panic!("another turn") };
        assert!(matches!(results[..], [(ID, Err(PartitionError::Died))]));
        assert!(turn.is_idle());
        turn.begin(Errand::Release(vec![ID]), async { panic!("a fault in the turn") });
        assert!(matches!(turn.done().await, Turned::Released(ids) if ids == [ID]));
    }

    #[tokio::test]
    async fn taking_over_that_is_abandoned_gives_its_partitions_back() {
        let mut turn = Turn::default();
        turn.begin(Errand::Open(vec![ID]), std::future::pending());
        assert!(!turn.is_releasing());
        assert_eq!(turn.abandon(), [ID]);
        assert!(turn.is_idle());
    }
}
