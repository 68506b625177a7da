//! Plays detection and uplink before and behind a spool, and keeps the ledger.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use picket_edge_agent::spool::{Outcome, Settings, Spooled};
use picket_faulty_disk::FaultyDisk;
use picket_wire::observation::Reason;
use picket_wire::{CameraName, Topic};

use crate::LIMIT;
use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::{Captured, Ledger};

/// Plays detection and uplink, and keeps the ledger.
pub struct Player {
    pub disk: FaultyDisk,
    pub agent: Agent,
    pub ledger: Ledger,
}

impl Player {
    pub fn start(
        dir: &Path,
        settings: &Settings,
        clock: Arc<TestClock>,
        disk: FaultyDisk,
        mut ledger: Ledger,
    ) -> Self {
        let agent = Agent::start(dir, settings, clock);
        ledger.began(disk.position(), agent.epoch);
        Self { disk, agent, ledger }
    }

    /// False if no number could be had.
    pub fn capture(&mut self, camera: &CameraName, picture: Option<usize>) -> bool {
        let Some(id) = self.agent.capture(camera, picture) else { return false };
        let captured = Captured { last: id.seq, id, picture: picture.is_some() };
        self.ledger.captured(self.disk.position(), captured);
        true
    }

    /// As a camera does it, which asks for a number until it gets one.
    pub fn capture_at_last(&mut self, camera: &CameraName, picture: Option<usize>) {
        let until = Instant::now() + LIMIT;
        while !self.capture(camera, picture) {
            assert!(Instant::now() < until, "{camera} gets no number");
            self.flush();
        }
    }

    /// False if no number could be had.
    pub fn skip(&mut self, camera: &CameraName, count: u64) -> bool {
        let Some((id, last)) = self.agent.skip(camera, count) else { return false };
        self.ledger.captured(self.disk.position(), Captured { id, last, picture: false });
        true
    }

    pub fn flush(&mut self) {
        self.agent.flush();
        self.ledger.flushed(self.disk.position());
    }

    pub fn take(&mut self, topic: Topic) -> Vec<Spooled> {
        let rows = self.agent.take(topic);
        self.ledger.given_out(self.disk.position(), &rows);
        rows
    }

    pub fn settle(&mut self, rows: &[Spooled], outcome: &Outcome) {
        self.ledger.asks(self.disk.position(), rows, outcome);
        self.agent.settle(rows, outcome);
    }

    /// Something of everything; without a link, nothing is sent.
    pub fn work(&mut self, rounds: usize, picture_bytes: usize, link: bool) {
        let [north, south] = cameras();
        let refused = Outcome::Refused(Reason::REFUSED_BY_BROKER.into());
        let mut unsent = Vec::new();
        for round in 0..rounds {
            self.capture_at_last(&north, Some(picture_bytes));
            self.capture_at_last(&south, (round % 3 == 0).then_some(picture_bytes / 2));
            if round % 4 == 1 {
                self.skip(&north, 5);
            }
            self.flush();
            if !link {
                continue;
            }
            unsent.extend(self.take(Topic::Observations));
            if round % 2 == 0 {
                unsent.extend(self.take(Topic::Frames));
            }
            if round % 5 == 4 {
                // The last ones are still on their way when the next are captured.
                let rows: Vec<_> = unsent.drain(..unsent.len() / 2).collect();
                let (refuse, acknowledge) = rows.split_at(rows.len().min(1));
                self.settle(refuse, &refused);
                self.settle(acknowledge, &Outcome::Acknowledged);
                self.flush();
            }
        }
    }

    /// Hands rows back that did not reach the broker.
    pub fn give_back(&mut self, rows: &[Spooled]) {
        self.agent.reader.give_back(rows.iter().map(|row| row.id));
    }

    /// A clean end.
    pub fn finish(mut self) -> (FaultyDisk, Ledger) {
        self.flush();
        self.agent.finish();
        (self.disk, self.ledger)
    }
}
