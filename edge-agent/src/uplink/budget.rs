//! The month's bytes: how many went, and what is left out when they are used up.

use picket_service::logging::chain;
use picket_wire::observation::Reason;

use super::sender::Sender;
use crate::spool::{Outcome, Settled, Spooled};

/// Pictures that are left out of the spool before reports are heard again.
const PER_TURN: u32 = 64;

impl Sender {
    /// Tells the spool, which counts by month.
    pub(super) fn carried(&self, bytes: u64) {
        metrics::counter!("picket_agent_uplink_carried_bytes_total").increment(bytes);
        if let Err(error) = self.reader.carried(bytes) {
            tracing::warn!(target: "uplink", bytes, error = chain(&error),
                "what went over the link is not counted");
        }
    }

    /// Past the month's bytes only observations go. While the clock is not set nobody knows whether that
    /// month is over: pictures wait until then, since one that is dropped is gone.
    pub(super) fn look_at_budget(&mut self) {
        self.left_out_in_turn = 0;
        let over_budget = self.reader.is_over_budget();
        self.holds_pictures = over_budget && !self.reader.leaves_pictures_out();
        if over_budget == self.over_budget {
            return;
        }
        self.over_budget = over_budget;
        metrics::gauge!("picket_agent_uplink_over_budget").set(if over_budget { 1.0 } else { 0.0 });
        let budget_bytes = self.settings.monthly_budget_bytes;
        if over_budget {
            tracing::warn!(target: "uplink", budget_bytes,
                "the month's bytes are used up: pictures are left out until it ends, and wait as long \
                 as no clock tells whether it has");
        } else {
            tracing::warn!(target: "uplink", budget_bytes, "a new month: pictures go again");
        }
    }

    /// A picture that was spooled before the month's bytes were used up. Kept for the next month, a
    /// backlog of pictures would use up that one as well.
    /// False when enough of them went in this turn.
    pub(super) fn leave_out(&mut self, picture: &Spooled) -> bool {
        let (topic, id) = (picture.topic, picture.id);
        let outcome = Outcome::Refused(Reason::BUDGET.into());
        self.settled.push(Settled { topic, id, outcome });
        self.left_out_in_turn += 1;
        self.left_out_in_turn < PER_TURN
    }
}
