//! When which partitions are looked at, and why: the client does not say all that befalls a log.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::held::Holdings;
use super::membership::PartitionId;
use super::turn::Suspect;

/// For how long after the client found an offset outside its log the partitions are looked through.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// How often it is seen that logs are those that they were.
const MOVED_EVERY: Duration = Duration::from_secs(5);
/// How often it is seen where the logs end of which nothing is read.
const STILL_EVERY: Duration = Duration::from_secs(30);

/// The client has found an offset outside its log, and does not say where.
struct Suspicion {
    until: Instant,
    again_at: Instant,
    /// Partitions of which it was not seen yet that they are sound: they have records in hand, which are
    /// stored first, or the broker did not answer.
    unseen: HashSet<PartitionId>,
}

/// What was looked at, and when.
pub struct Looks {
    moved_at: Instant,
    still_at: Instant,
    suspicion: Option<Suspicion>,
}

impl Looks {
    /// Nothing so far.
    pub fn new(now: Instant) -> Self {
        Self { moved_at: now, still_at: now, suspicion: None }
    }

    /// The client found an offset outside of one of these logs.
    pub fn suspect(&mut self, ids: Vec<PartitionId>, now: Instant) {
        let unseen = ids.into_iter().collect();
        self.suspicion = Some(Suspicion { until: now + SUSPECT_FOR, again_at: now, unseen });
    }

    /// A suspect was found to be sound.
    pub fn acquit(&mut self, id: PartitionId) {
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.unseen.remove(&id);
        }
    }

    /// What is to be looked at now. What has a period of its own comes first, so that suspects whose brokers
    /// do not answer keep nothing else waiting.
    pub fn due(&mut self, held: &mut Holdings, now: Instant) -> Vec<Suspect> {
        // The client reads on where it stands when a topic is made anew.
        let mut due = Vec::new();
        if is_due(&mut self.moved_at, MOVED_EVERY, now) {
            due = held.moved();
        }
        // Nothing else tells of a log that the client has ceased to read, nor how far one goes on that waits
        // for room.
        if due.is_empty() && is_due(&mut self.still_at, STILL_EVERY, now) {
            due = held.still();
        }
        if due.is_empty() {
            due = self.suspects(held, now);
        }
        due
    }

    /// Only partitions without a record in hand: of others the offset that is stored may have left
    /// the log while the one to be read next has not.
    fn suspects(&mut self, held: &Holdings, now: Instant) -> Vec<Suspect> {
        let Some(suspicion) = &mut self.suspicion else { return Vec::new() };
        if now < suspicion.again_at {
            return Vec::new();
        }
        let over = now >= suspicion.until;
        suspicion.again_at = if over { now + MOVED_EVERY } else { now };
        let mut idle = held.idle();
        suspicion.unseen.retain(|id| held.0.contains_key(id));
        idle.retain(|suspect| !over || suspicion.unseen.contains(&suspect.id));
        if over && suspicion.unseen.is_empty() {
            self.suspicion = None;
        }
        idle
    }
}

/// Whether so much time has passed since; it begins anew if so.
fn is_due(since: &mut Instant, every: Duration, now: Instant) -> bool {
    let is_due = now.duration_since(*since) >= every;
    if is_due {
        *since = now;
    }
    is_due
}

#[cfg(test)]
mod tests {
    use picket_wire::Topic;

    use super::*;
    use crate::consume::held::Held;
    use crate::consume::marks::Marks;
    use crate::consume::turn::Why;
    use crate::consume::work::Work;

    const SOUND: PartitionId = (Topic::Frames, 0);
    const SILENT: PartitionId = (Topic::Frames, 1);

    /// These partitions, with nothing in hand.
    fn idle(ids: &[PartitionId]) -> Holdings {
        let at_work = || {
            let work = Work::of(tokio::spawn(std::future::pending()));
            Held::at_work(work, 0, Marks::default(), None)
        };
        Holdings(ids.iter().map(|id| (*id, at_work())).collect())
    }

    fn ids(suspects: Vec<Suspect>) -> Vec<PartitionId> {
        suspects.into_iter().map(|suspect| suspect.id).collect()
    }

    #[tokio::test]
    async fn a_suspect_is_looked_at_until_it_was_seen_to_be_sound() {
        let began = Instant::now();
        let (mut looks, mut held) = (Looks::new(began), idle(&[SOUND, SILENT]));
        looks.still_at = began + SUSPECT_FOR * 10;
        assert!(looks.due(&mut held, began).is_empty());
        looks.suspect(vec![SOUND, SILENT], began);
        assert_eq!(looks.due(&mut held, began).len(), 2);
        looks.acquit(SOUND);
        assert_eq!(looks.due(&mut held, began).len(), 2, "all of them for a while");
        let later = began + SUSPECT_FOR;
        assert_eq!(ids(looks.due(&mut held, later)), [SILENT], "the broker has not answered");
        assert!(looks.due(&mut held, later).is_empty(), "not at once again");
        let later = later + MOVED_EVERY;
        assert_eq!(ids(looks.due(&mut held, later)), [SILENT]);
        looks.acquit(SILENT);
        assert!(looks.due(&mut held, later + MOVED_EVERY).is_empty());
        assert!(looks.suspicion.is_none());
    }

    #[tokio::test]
    async fn suspects_keep_what_stands_still_from_being_looked_at_only_until_its_time() {
        let began = Instant::now();
        let (mut looks, mut held) = (Looks::new(began), idle(&[SILENT]));
        looks.suspect(vec![SILENT], began);
        let why = |suspects: Vec<Suspect>| suspects.into_iter().map(|s| s.why).collect::<Vec<_>>();
        // What was read before is not known the first time.
        assert_eq!(why(looks.due(&mut held, began + STILL_EVERY)), [Why::Suspected]);
        assert_eq!(why(looks.due(&mut held, began + STILL_EVERY * 2)), [Why::Still]);
    }
}
