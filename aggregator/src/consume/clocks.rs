//! What a camera knows of its device's clocks. Pure, as all of it is.

use std::collections::BTreeSet;

use picket_wire::observation::{ClockRelation, ClockState};
use picket_wire::{EpochId, ObservationId};

use super::camera::{Camera, Newest};
use crate::store::relations::{Relation, Relations};
use crate::upsert::Time;

impl Camera {
    /// What comes from here on in this epoch goes by it; what is stored is corrected beside the log.
    pub(super) fn take_clock(&mut self, record: &ClockRelation) {
        if let Some(relation) = Relation::of(record) {
            self.clocks.entry(record.id.epoch).or_default().learn(relation);
        }
    }

    /// What is known of an epoch's clocks.
    pub(super) fn relations(&self, epoch: EpochId) -> &Relations {
        self.clocks.get(&epoch).map_or(const { &Relations::NONE }, |clock| &clock.relations)
    }

    /// The epochs that what is said of the camera goes by, whatever comes next.
    pub(super) fn epochs_in_use(&self) -> BTreeSet<EpochId> {
        let newest = self.place.newest.as_ref().and_then(Newest::epoch);
        let open = self.place.open.iter().map(|open| open.epoch);
        self.place.epoch.into_iter().chain(newest).chain(open).collect()
    }

    /// When the newest observation was captured, nanoseconds since 1970. After a new start of the agent
    /// that is in another epoch than the one in which the camera stands.
    pub(super) fn newest_ns(&self) -> Option<i64> {
        let newest = self.place.newest.as_ref()?;
        let clock = newest.clock.unwrap_or(ClockState::Synchronised);
        let relations = newest.epoch().map_or(const { &Relations::NONE }, |e| self.relations(e));
        Time::told(newest.captured_ns, newest.mono_us, clock, relations).ns
    }
}

impl Newest {
    /// The epoch that it is of.
    pub(super) fn epoch(&self) -> Option<EpochId> {
        Some(self.id.parse::<ObservationId>().ok()?.epoch)
    }
}
