//! What a camera knows of its device's clocks. Pure, as all of it is.

use picket_wire::EpochId;
use picket_wire::observation::{ClockRelation, ClockState};

use super::camera::Camera;
use crate::store::clocks::{Relation, Relations};
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

    /// When the newest observation was captured, nanoseconds since 1970.
    pub(super) fn newest_ns(&self) -> Option<i64> {
        let (newest, at) = (self.place.newest.as_ref()?, self.place.position?);
        let clock = newest.clock.unwrap_or(ClockState::Synchronised);
        let relations = self.relations(at.epoch);
        Time::told(newest.captured_ns, newest.mono_us, clock, relations).ns
    }
}
