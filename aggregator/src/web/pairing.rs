//! Brings together the two halves of a live picture. A picture and its observation reach MongoDB
//! through two topics, in either order, perhaps by two instances; a viewer must get them together, or
//! the boxes would lie on another moment's picture. And it must get only what is newer than what it
//! has: a backlog that drains after an outage is not live. Pure.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use picket_wire::{CameraKey, EpochId, ObservationId};

use super::views::PictureView;

/// Halves kept per camera until the other one comes.
const KEPT: usize = 32;

/// Where an observation stands in its camera's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    epoch: EpochId,
    seq: u64,
    /// Only of a clock that can be trusted.
    captured_at: Option<Timestamp>,
}

impl Position {
    /// Of an observation with its clock.
    pub fn of(id: &ObservationId, captured_at: Option<Timestamp>, clock: &str) -> Self {
        let trusted = captured_at.filter(|_| clock == "synchronised");
        Self { epoch: id.epoch, seq: id.seq, captured_at: trusted }
    }

    /// Whether it is that of this observation.
    pub fn is_of(&self, id: &ObservationId) -> bool {
        self.epoch == id.epoch && self.seq == id.seq
    }

    /// Whether this is newer than `other`. Within an epoch `seq` decides. Between epochs a trusted
    /// clock does, since a reflashed box counts its epochs from 1 again; without one, the epoch's
    /// number.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        if self.epoch == other.epoch {
            return self.seq > other.seq;
        }
        match (self.captured_at, other.captured_at) {
            (Some(this), Some(that)) => this > that,
            _ => self.epoch.number >= other.epoch.number,
        }
    }
}

#[derive(Debug, Default)]
struct Halves {
    shown: Option<(ObservationId, Position)>,
    observations: VecDeque<(ObservationId, Position, PictureView)>,
    pictures: VecDeque<ObservationId>,
    /// A picture that came without its observation, not asked for yet.
    wanted: Option<ObservationId>,
}

/// The halves of all cameras.
#[derive(Debug, Default)]
pub struct Pairing {
    cameras: BTreeMap<CameraKey, Halves>,
}

impl Pairing {
    /// What viewers have already.
    pub fn seed(&mut self, picture: &PictureView) {
        let Ok(id) = picture.observation.parse::<ObservationId>() else { return };
        let position = Position::of(&id, picture.captured_at, &picture.clock);
        let halves = self.cameras.entry(id.key.clone()).or_default();
        halves.shown = Some((id, position));
    }

    /// An observation came, new or changed (its tracks are written later when a gap closes). Returns
    /// the picture to show, if there is one now.
    pub fn observation(
        &mut self,
        id: &ObservationId,
        view: PictureView,
        may_have_picture: bool,
    ) -> Option<PictureView> {
        let position = Position::of(id, view.captured_at, &view.clock);
        let halves = self.cameras.entry(id.key.clone()).or_default();
        if let Some((shown, shown_position)) = &halves.shown {
            if shown == id {
                return Some(view);
            }
            if !position.is_newer_than(shown_position) {
                return None;
            }
        }
        if halves.pictures.contains(id) {
            halves.show(id, position);
            return Some(view);
        }
        if may_have_picture {
            halves.observations.retain(|(kept, _, _)| kept != id);
            halves.observations.push_back((id.clone(), position, view));
            if halves.observations.len() > KEPT {
                halves.observations.pop_front();
            }
        }
        None
    }

    /// A picture came. Returns it with its observation, if that is here.
    pub fn picture(&mut self, id: &ObservationId) -> Option<PictureView> {
        let halves = self.cameras.entry(id.key.clone()).or_default();
        if let Some(place) = halves.observations.iter().position(|(kept, _, _)| kept == id) {
            let (_, position, view) = halves.observations.remove(place)?;
            halves.show(id, position);
            return Some(view);
        }
        let is_shown = halves.shown.as_ref().is_some_and(|(shown, _)| shown == id);
        if !is_shown && !halves.pictures.contains(id) {
            halves.pictures.push_back(id.clone());
            if halves.pictures.len() > KEPT {
                halves.pictures.pop_front();
            }
            halves.wanted = Some(id.clone());
        }
        None
    }

    /// Observations to look up, since their picture is here and they are not: they may have come
    /// before the feed began, or so long ago that they are no longer kept. One per camera, each once.
    pub fn take_wanted(&mut self) -> Vec<String> {
        let asked = self.cameras.values_mut().filter_map(|halves| {
            let id = halves.wanted.take()?;
            halves.pictures.contains(&id).then(|| id.to_string())
        });
        asked.collect()
    }
}

impl Halves {
    fn show(&mut self, id: &ObservationId, position: Position) {
        self.shown = Some((id.clone(), position));
        self.observations.retain(|(_, kept, _)| kept.is_newer_than(&position));
        // A picture without its observation has no clock to compare by, so those of other epochs
        // stay until they are pushed out.
        self.pictures.retain(|p| p.epoch != id.epoch || p.seq > id.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: &str, seq: u64) -> ObservationId {
        format!("gate/north/{epoch}/{seq}").parse().unwrap()
    }

    fn view(id: &ObservationId, captured_s: i64, clock: &str) -> PictureView {
        PictureView {
            observation: id.to_string(),
            url: String::new(),
            captured_at: Timestamp::from_second(captured_s).ok(),
            received_at: None,
            clock: clock.to_owned(),
            frame_width: 640,
            frame_height: 360,
            detections: Vec::new(),
        }
    }

    const A: &str = "3-0000000a";

    /// Both halves of one observation; true if it was shown.
    fn both(pairing: &mut Pairing, id: &ObservationId, captured_s: i64, clock: &str) -> bool {
        let early = pairing.observation(id, view(id, captured_s, clock), true);
        assert_eq!(early, None);
        pairing.picture(id).is_some()
    }

    #[test]
    fn a_picture_is_shown_once_both_halves_are_there_in_either_order() {
        let mut pairing = Pairing::default();
        let (first, second) = (id(A, 1), id(A, 2));
        assert_eq!(pairing.observation(&first, view(&first, 1, "synchronised"), true), None);
        assert!(pairing.picture(&first).is_some());
        assert_eq!(pairing.picture(&second), None);
        assert!(pairing.observation(&second, view(&second, 2, "synchronised"), true).is_some());
    }

    #[test]
    fn an_older_one_never_replaces_a_newer_one() {
        let mut pairing = Pairing::default();
        assert!(both(&mut pairing, &id(A, 9), 9, "synchronised"));
        let backlog = id(A, 4);
        assert_eq!(pairing.picture(&backlog), None);
        assert_eq!(pairing.observation(&backlog, view(&backlog, 4, "synchronised"), true), None);
    }

    #[test]
    fn what_the_viewers_have_already_is_not_replaced_by_an_older_one() {
        let mut pairing = Pairing::default();
        pairing.seed(&view(&id(A, 9), 9, "synchronised"));
        let old = id(A, 8);
        assert_eq!(pairing.observation(&old, view(&old, 8, "synchronised"), true), None);
        assert_eq!(pairing.picture(&old), None);
    }

    #[test]
    fn a_reflashed_box_that_counts_from_one_again_is_shown() {
        let mut pairing = Pairing::default();
        assert!(both(&mut pairing, &id("12-0000000a", 900), 100, "synchronised"));
        assert!(both(&mut pairing, &id("1-0000000b", 1), 101, "synchronised"));
    }

    #[test]
    fn without_a_trusted_clock_the_later_epoch_is_newer() {
        let mut pairing = Pairing::default();
        assert!(both(&mut pairing, &id("12-0000000a", 900), 100, "synchronised"));
        assert!(both(&mut pairing, &id("13-0000000b", 1), 5, "unsynchronised"));
    }

    #[test]
    fn the_shown_observation_is_sent_again_when_its_tracks_change() {
        let mut pairing = Pairing::default();
        let shown = id(A, 1);
        assert!(both(&mut pairing, &shown, 1, "synchronised"));
        assert!(pairing.observation(&shown, view(&shown, 1, "synchronised"), true).is_some());
    }

    #[test]
    fn a_picture_without_observation_is_asked_for_once() {
        let mut pairing = Pairing::default();
        pairing.picture(&id(A, 1));
        pairing.picture(&id(A, 2));
        assert_eq!(pairing.take_wanted(), [id(A, 2).to_string()]);
        assert!(pairing.take_wanted().is_empty());
    }

    #[test]
    fn memory_stays_bounded_when_the_other_half_never_comes() {
        let mut pairing = Pairing::default();
        for seq in 1..1000 {
            let (lone, other) = (id(A, seq), id("4-0000000b", seq));
            pairing.observation(&lone, view(&lone, 1, "unset"), true);
            pairing.picture(&other);
        }
        let halves = pairing.cameras.values().next().unwrap();
        assert_eq!((halves.observations.len(), halves.pictures.len()), (KEPT, KEPT));
    }
}
