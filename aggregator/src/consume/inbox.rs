//! Records on their way from the client to the worker of their partition.
//!
//! The queue itself has no bound: what bounds it is that reading of the partition pauses while it
//! holds more than its share. A bounded channel would make the reader wait for one partition, and
//! with it all others and the group's heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::kafka::Received;

/// Most records that wait, whatever their size.
const MAX_RECORDS: usize = 4000;

/// Most bytes that wait in each queue. It changes with the number of queues.
pub type Share = Arc<AtomicUsize>;

#[derive(Debug, Default)]
struct Level {
    records: AtomicUsize,
    bytes: AtomicUsize,
    paused: AtomicBool,
    share: Share,
}

impl Level {
    /// Whether so few wait that reading may go on.
    fn has_drained(&self) -> bool {
        let max_bytes = self.share.load(Ordering::Relaxed);
        self.records.load(Ordering::Acquire) <= MAX_RECORDS / 4
            && self.bytes.load(Ordering::Acquire) <= max_bytes / 4
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::UnboundedSender<Received>,
    level: Arc<Level>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Inbox {
    queue: mpsc::UnboundedReceiver<Received>,
    level: Arc<Level>,
}

/// A queue that holds about its share.
pub fn inbox(share: Share) -> (Sender, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let level = Arc::new(Level { share, ..Level::default() });
    let inbox = Inbox { queue: receiver, level: level.clone() };
    (Sender { queue: sender, level }, inbox)
}

impl Sender {
    /// Hands over a record. True if reading must pause now. A record for a worker that has ended is
    /// dropped: its offset has not advanced, the next owner reads it again.
    pub fn send(&self, record: Received) -> bool {
        let bytes = record.bytes();
        let records = self.level.records.fetch_add(1, Ordering::AcqRel) + 1;
        let bytes = self.level.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if self.queue.send(record).is_err() {
            return false;
        }
        let full = records >= MAX_RECORDS || bytes >= self.level.share.load(Ordering::Relaxed);
        full && !self.level.paused.swap(true, Ordering::AcqRel)
    }

    /// Whether reading may go on, and if so, takes note that it does.
    pub fn take_drained(&self) -> bool {
        self.level.has_drained() && self.level.paused.swap(false, Ordering::AcqRel)
    }
}

impl Inbox {
    /// The next record; none once the reader has let go.
    pub async fn recv(&mut self) -> Option<Received> {
        let record = self.queue.recv().await?;
        self.level.records.fetch_sub(1, Ordering::AcqRel);
        self.level.bytes.fetch_sub(record.bytes(), Ordering::AcqRel);
        Some(record)
    }

    /// Whether the reader waits for room and there is room.
    pub fn has_drained(&self) -> bool {
        self.level.paused.load(Ordering::Acquire) && self.level.has_drained()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> Received {
        Received {
            offset: 0,
            broker_time_ms: 0,
            key: None,
            headers: Vec::new(),
            value: Some(vec![0; bytes]),
        }
    }

    #[tokio::test]
    async fn reading_pauses_once_when_full_and_goes_on_once_when_drained() {
        let (sender, mut inbox) = inbox(Share::new(10_000.into()));
        assert!(!sender.send(record(1000)));
        assert!(sender.send(record(9000)));
        assert!(!sender.send(record(9000)), "it is paused already");
        assert!(!sender.take_drained());
        for _ in 0..3 {
            inbox.recv().await.unwrap();
        }
        assert!(inbox.has_drained());
        assert!(sender.take_drained());
        assert!(!sender.take_drained());
    }

    #[test]
    fn a_share_that_shrinks_holds_for_queues_that_are_there_too() {
        let share = Share::new(10_000.into());
        let (sender, _inbox) = inbox(share.clone());
        assert!(!sender.send(record(1000)));
        share.store(1000, Ordering::Relaxed);
        assert!(sender.send(record(1)));
    }
}
