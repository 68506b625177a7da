//! A turn: partitions being taken over or handed over, beside the loop that polls.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use picket_service::logging::chain;
use tokio::task::JoinHandle;

use super::error::PartitionError;
use super::marks::Marks;
use super::membership::PartitionId;
use super::offsets::{Begin, Signs};
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
    /// Which are not the log that they were, and which are.
    Looked {
        /// They do not go on where reading does.
        broken: Vec<PartitionId>,
        /// They do.
        sound: Vec<Sound>,
    },
}

/// Why a partition is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The client found an offset outside of some log.
    Suspected,
    /// Something was read of it.
    Moved,
    /// Nothing was read of it for a while.
    Still,
}

/// A partition to be looked at.
pub struct Suspect {
    /// Which.
    pub id: PartitionId,
    /// Why.
    pub why: Why,
    /// By what it is told from other logs.
    pub marks: Marks,
    /// What is read next, where nothing is in hand: the log must have it.
    pub next: Option<i64>,
}

/// A partition whose log goes on where reading does, as far as it was looked at.
pub struct Sound {
    /// As it was looked at.
    pub suspect: Suspect,
    /// Where the log ends, unless it was looked at because it moves.
    pub log_end: Option<i64>,
}

/// What came of a look.
enum Seen {
    Broken(PartitionId),
    Sound(Sound),
}

impl Suspect {
    async fn look(self, opener: &Opener) -> Result<Seen, PartitionError> {
        // Of one that stands still that is not what is asked.
        if self.why != Why::Still && opener.is_recreated(self.id, &self.marks).await? {
            return Ok(Seen::Broken(self.id));
        }
        if self.why == Why::Moved {
            return Ok(Seen::Sound(Sound { suspect: self, log_end: None }));
        }
        let log = opener.watermarks(self.id).await?;
        Ok(match Begin::decide(self.next, log, Signs::default()) {
            Begin::Broken { .. } => Seen::Broken(self.id),
            Begin::At(_) => Seen::Sound(Sound { suspect: self, log_end: Some(log.high) }),
        })
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
                async move { suspect.look(&opener).await }
            });
            let looked: Vec<_> = stream::iter(looked).buffer_unordered(AT_ONCE).collect().await;
            let (mut broken, mut sound) = (Vec::new(), Vec::new());
            for seen in looked {
                match seen {
                    Ok(Seen::Broken(id)) => broken.push(id),
                    Ok(Seen::Sound(one)) => sound.push(one),
                    Err(e) => tracing::debug!(error = chain(&e), "a log could not be looked at"),
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

    /// Ends a look at once, if one is under way: what it would have seen is looked for again.
    pub fn abandon_look(&mut self) {
        if let Some(look) = self.underway.take_if(|turn| matches!(turn.errand, Errand::Look)) {
            look.task.abort();
        }
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
