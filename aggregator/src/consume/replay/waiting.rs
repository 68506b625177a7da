//! Observations of one camera that were read before their turn. Pure.
//!
//! Of each epoch they are asked for in rising order, so what lies before the last one that was asked for
//! is never held: what was sent twice, came too late, or is stored no more.

use std::collections::BTreeMap;

use picket_wire::observation::Observation;
use picket_wire::{EpochId, ObservationId};

/// Those of some epochs.
pub struct Waiting {
    epochs: BTreeMap<EpochId, Turns>,
    bytes: usize,
}

#[derive(Default)]
struct Turns {
    /// The lowest `seq` that may still be asked for.
    next: u64,
    /// By `seq`, with the bytes of each.
    held: BTreeMap<u64, (Observation, usize)>,
}

impl Waiting {
    /// For these epochs, and no others.
    pub fn new(epochs: impl IntoIterator<Item = EpochId>) -> Self {
        let epochs = epochs.into_iter().map(|epoch| (epoch, Turns::default())).collect();
        Self { epochs, bytes: 0 }
    }

    /// Bytes of all that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps an observation until it is asked for, if it may be. Of one that comes twice the first.
    pub fn hold(&mut self, observation: Observation, bytes: usize) {
        let (epoch, seq) = (observation.id.epoch, observation.id.seq);
        let Some(turns) = self.epochs.get_mut(&epoch) else { return };
        if seq < turns.next || turns.held.contains_key(&seq) {
            return;
        }
        self.bytes += bytes;
        turns.held.insert(seq, (observation, bytes));
    }

    /// Whether one is held. Those before it are asked for no more.
    pub fn reach(&mut self, id: &ObservationId) -> bool {
        let Some(turns) = self.epochs.get_mut(&id.epoch) else { return false };
        turns.next = turns.next.max(id.seq);
        while let Some(first) = turns.held.first_entry()
            && *first.key() < turns.next
        {
            self.bytes -= first.remove().1;
        }
        turns.held.contains_key(&id.seq)
    }

    /// One of them. It is asked for no more, nor are those before it.
    pub fn take(&mut self, id: &ObservationId) -> Option<Observation> {
        self.reach(id);
        let turns = self.epochs.get_mut(&id.epoch)?;
        turns.next = turns.next.max(id.seq.saturating_add(1));
        let (observation, bytes) = turns.held.remove(&id.seq)?;
        self.bytes -= bytes;
        Some(observation)
    }

    /// Nothing of an epoch is asked for any more.
    pub fn is_done_with(&mut self, epoch: EpochId) {
        let turns = self.epochs.remove(&epoch).unwrap_or_default();
        self.bytes -= turns.held.values().map(|(_, bytes)| bytes).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::{ClockState, Detector, FrameFate, Stamp};

    use super::*;

    const EPOCH: &str = "1-00000001";

    fn id(epoch: &str, seq: u64) -> ObservationId {
        format!("gate/north/{epoch}/{seq}").parse().unwrap()
    }

    fn seen(epoch: &str, seq: u64) -> Observation {
        Observation {
            id: id(epoch, seq),
            stamp: Stamp { mono_us: seq, captured_at: None, clock: ClockState::Synchronised },
            frame_width: 640,
            frame_height: 360,
            detector: Detector { name: "yunet".to_owned(), model_sha256: String::new() },
            motion_score: None,
            frame: FrameFate::Withheld,
            detections: Vec::new(),
        }
    }

    fn waiting() -> Waiting {
        Waiting::new([EPOCH.parse().unwrap()])
    }

    #[test]
    fn what_comes_before_its_turn_is_held_until_it_is_asked_for_and_no_longer() {
        let mut waiting = waiting();
        for seq in [3, 1, 2] {
            waiting.hold(seen(EPOCH, seq), 10);
        }
        for seq in 1..=3 {
            assert!(waiting.reach(&id(EPOCH, seq)), "{seq}");
            assert_eq!(waiting.take(&id(EPOCH, seq)), Some(seen(EPOCH, seq)));
            assert_eq!(waiting.take(&id(EPOCH, seq)), None, "once");
        }
        assert_eq!(waiting.bytes(), 0);
    }

    #[test]
    fn what_lies_before_the_last_one_asked_for_is_never_held() {
        let mut waiting = waiting();
        // Late, or stored no more: never asked for.
        waiting.hold(seen(EPOCH, 1), 10);
        waiting.hold(seen(EPOCH, 2), 10);
        waiting.hold(seen(EPOCH, 2), 10);
        assert_eq!(waiting.bytes(), 20, "the second copy is not held");
        assert!(waiting.take(&id(EPOCH, 2)).is_some());
        assert_eq!(waiting.bytes(), 0);
        waiting.hold(seen(EPOCH, 2), 10);
        waiting.hold(seen(EPOCH, 1), 10);
        assert_eq!(waiting.bytes(), 0, "sent again");
        // One that is not there is passed as well.
        assert_eq!(waiting.take(&id(EPOCH, 5)), None);
        waiting.hold(seen(EPOCH, 5), 10);
        assert_eq!(waiting.bytes(), 0);
        waiting.hold(seen(EPOCH, 6), 10);
        assert_eq!(waiting.bytes(), 10);
    }

    #[test]
    fn of_epochs_that_nobody_asks_for_nothing_is_held() {
        let mut waiting = waiting();
        waiting.hold(seen("2-00000001", 1), 10);
        assert_eq!(waiting.bytes(), 0);
        waiting.hold(seen(EPOCH, 1), 10);
        waiting.is_done_with(EPOCH.parse().unwrap());
        waiting.hold(seen(EPOCH, 2), 10);
        assert_eq!(waiting.bytes(), 0);
    }
}
