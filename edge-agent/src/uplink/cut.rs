//! The link is cut on purpose, for a drill: connections are dropped, and none is made until the time
//! is over or somebody says so. The time is kept here, by the thread that would send: whatever becomes
//! of who asked for it, the link comes back.

use std::time::{Duration, Instant};

use super::sender::Sender;

impl Sender {
    /// Drops all connections, and what is on its way with them: each record comes back as not
    /// delivered, and may have been taken all the same, as when a cable is pulled.
    pub(super) fn cut(&mut self, time: Duration, now: Instant) {
        self.cut_until = Some(now + time);
        metrics::gauge!("picket_agent_uplink_cut").set(1.0);
        self.pairs.drop_all(self.window.next_ticket(), now);
        let change = self.link.broke(format!("cut by a drill for {} s", time.as_secs()), now);
        self.tell(change);
        self.show();
    }

    /// Ends it when its time is over. Until then an acknowledgement that was still under way does not
    /// make the link count as up. False as long as nothing may be connected.
    pub(super) fn look_at_cut(&mut self, now: Instant) -> bool {
        match self.cut_until {
            None => return true,
            Some(until) if until <= now => self.restore(now),
            Some(_) if self.link.is_up() => {
                let change = self.link.broke("cut by a drill".to_owned(), now);
                self.tell(change);
            }
            Some(_) => {}
        }
        self.cut_until.is_none()
    }

    /// Ends it; the first thing that is sent tries the way.
    pub(super) fn restore(&mut self, now: Instant) {
        if self.cut_until.take().is_some() {
            metrics::gauge!("picket_agent_uplink_cut").set(0.0);
            self.link.begin_anew();
            let change = self.link.broke("connecting again after a drill".to_owned(), now);
            self.tell(change);
            self.show();
        }
    }
}
