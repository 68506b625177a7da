//! The one thread that writes: it collects, commits, retries, and answers.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, SendError, Sender, TrySendError, bounded, never, select,
};
use picket_service::logging::chain;
use picket_wire::CameraName;

use super::batch::{Batch, Settled};
use super::error::SpoolError;
use super::schema;
use super::settings::{Durability, Settings};
use super::store::Store;
use crate::detect::Observed;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// The loop turns at least this often, so that standing still can be told from having no work.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

type Reply<T> = Sender<Result<T, SpoolError>>;

/// What the rest of the agent asks of the writer.
pub enum Command {
    /// A block of `seq`, durable before it is answered.
    Reserve {
        /// For which camera.
        camera: CameraName,
        /// How many.
        count: u64,
        /// Where the answer goes.
        reply: Reply<RangeInclusive<u64>>,
    },
    /// Cameras that come while the agent runs, all or none.
    AddCameras {
        /// Which.
        cameras: Vec<CameraName>,
        /// Where the answer goes.
        reply: Reply<()>,
    },
    /// Rows that the uplink is done with.
    Settle(Vec<Settled>),
    /// So many bytes went over the link.
    Carried(u64),
    /// Commit all that came before.
    Flush(Reply<()>),
    /// Commit all that came before, close the books, and end.
    Finish(Reply<()>),
}

/// Asks the writer, and waits for its answer.
pub fn ask<T>(
    commands: &Sender<Command>,
    limit: Duration,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, SpoolError> {
    // A rendezvous: an answer that nobody waits for any more fails at the writer, which then keeps
    // what it was about to give out.
    let (reply, answer) = bounded(0);
    commands.send(command(reply)).map_err(|_| SpoolError::WriterGone)?;
    match answer.recv_timeout(limit) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => {
            Err(SpoolError::TimedOut { waited_ms: limit.as_millis() })
        }
        Err(RecvTimeoutError::Disconnected) => Err(SpoolError::WriterGone),
    }
}

/// The disk refuses writes.
struct Failing {
    since: Instant,
    retry_at: Instant,
    wait: Duration,
    problem: String,
    /// Asked for beyond the estimate, which a full database has proved too low.
    extra_pages: u64,
    dropped: u64,
}

/// The writer's thread.
pub struct Writer {
    pub store: Store,
    pub settings: Settings,
    pub input: Receiver<Observed>,
    pub commands: Receiver<Command>,
    /// Says that something new can be read; one word waits at most.
    pub committed: Sender<()>,
    pub batch: Batch,
    failing: Option<Failing>,
    /// Blocks that were reserved for someone who had stopped waiting; one per camera, because it is
    /// given out before another is reserved.
    unclaimed: BTreeMap<CameraName, RangeInclusive<u64>>,
    flushes: Vec<Reply<()>>,
    finish: Option<Reply<()>>,
}

impl Writer {
    /// A writer at rest.
    pub fn new(
        store: Store,
        settings: Settings,
        input: Receiver<Observed>,
        commands: Receiver<Command>,
        committed: Sender<()>,
    ) -> Self {
        let batch = Batch::default();
        let (failing, unclaimed) = (None, BTreeMap::new());
        let (flushes, finish) = (Vec::new(), None);
        Self {
            store,
            settings,
            input,
            commands,
            committed,
            batch,
            failing,
            unclaimed,
            flushes,
            finish,
        }
    }

    /// Runs until it is told to finish, or until nobody is left who could tell it.
    pub fn run(mut self) {
        self.wake_uplink();
        let mut asked = true;
        while asked || !self.batch.is_empty() {
            self.store.shared.turns.fetch_add(1, Ordering::Relaxed);
            asked = self.turn() && asked;
            self.store.look_around();
            metrics::gauge!("picket_agent_spool_memory_bytes").set(self.store.unsaved_bytes as f64);
            if self.is_due() {
                self.commit();
            }
            if self.failing.is_none() && !self.is_due() && self.store.salvage_if_due() {
                self.wake_uplink();
                self.store.checkpoint_if_due();
            }
            if self.answer() {
                return;
            }
        }
        self.end();
    }

    /// Waits for one thing and takes it; false when no command can come any more.
    fn turn(&mut self) -> bool {
        let wait = self.wait();
        select! {
            recv(self.commands) -> command => match command {
                Ok(command) => self.obey(command),
                Err(_) => {
                    self.take_all_input();
                    self.batch.collect(None);
                    self.commands = never();
                    return false;
                }
            },
            recv(self.input) -> observed => match observed {
                Ok(observed) => self.take(observed),
                // Detection has ended; commands still come.
                Err(_) => self.input = never(),
            },
            default(wait) => {}
        }
        self.batch.collect(Some(Instant::now()));
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve { camera, count, reply } => {
                let answer = reply.send(self.reserve(&camera, count));
                // Nobody waits any more: no record would ever account for these numbers, so they
                // are the next ones to be given out.
                if let Err(SendError(Ok(block))) = answer {
                    self.unclaimed.insert(camera, block);
                }
            }
            Command::AddCameras { cameras, reply } => {
                let added = match &self.failing {
                    Some(failing) => Err(SpoolError::Failing { problem: failing.problem.clone() }),
                    None => self.store.add_cameras(&cameras),
                };
                // What nobody waits for any more is there the next time somebody asks.
                let _ = reply.send(added);
            }
            Command::Settle(settled) => {
                let on_disk = self.store.settle_unsaved(&mut self.batch, settled);
                if !on_disk.is_empty() {
                    self.batch.settle(on_disk);
                }
            }
            Command::Carried(bytes) => self.batch.carried(bytes),
            Command::Flush(reply) => {
                self.take_all_input();
                self.batch.collect(None);
                self.flushes.push(reply);
            }
            Command::Finish(reply) => {
                self.take_all_input();
                self.batch.collect(None);
                self.finish = Some(reply);
            }
        }
    }

    fn reserve(
        &mut self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, SpoolError> {
        // Durable already, whatever the disk does now. It may be another count than this caller's.
        if let Some(block) = self.unclaimed.remove(camera) {
            return Ok(block);
        }
        match &self.failing {
            // Asking a failing disk for each frame would keep the writer from its retries.
            Some(failing) => Err(SpoolError::Failing { problem: failing.problem.clone() }),
            None => self.store.reserve(camera, count),
        }
    }

    fn take_all_input(&mut self) {
        while let Ok(observed) = self.input.try_recv() {
            self.take(observed);
            if self.is_due() {
                self.commit();
            }
        }
    }

    fn take(&mut self, observed: Observed) {
        let device = self.store.shared.device.clone();
        let now = self.store.now();
        let too_much = self.in_memory_bytes() >= self.settings.max_pending_bytes;
        match &mut self.failing {
            Some(failing) if too_much => {
                failing.dropped += 1;
                if failing.dropped == 1 {
                    tracing::error!(target: "spool", problem = failing.problem,
                        "memory is full while the spool cannot be written: what is captured now is \
                         dropped, and will be told as a gap");
                }
                self.batch.refuse(&device, observed, now);
            }
            _ => {
                self.batch.without_pictures = self.store.shared.leaves_pictures_out();
                self.batch.take(&device, observed, now);
                if self.offers() {
                    match self.store.offer(&mut self.batch) {
                        Ok(()) => self.wake_uplink(),
                        // They are not offered before they are committed, which meets the same.
                        Err(error) => tracing::debug!(target: "spool", error = chain(&error)),
                    }
                }
            }
        }
    }

    /// Whether rows are offered to the uplink before they are committed.
    fn offers(&self) -> bool {
        self.settings.durability == Durability::Offline
            && self.store.shared.link_works.load(Ordering::SeqCst)
    }

    fn batch_due_at(&self) -> Option<Instant> {
        if !self.offers() {
            return self.batch.due_at(&self.settings);
        }
        let settled = self.batch.settled_due_at(&self.settings);
        [self.entries_due_at(), settled].into_iter().flatten().min()
    }

    fn entries_due_at(&self) -> Option<Instant> {
        self.batch.offered_due_at(&self.settings, self.store.unsaved_bytes)
    }

    /// Whether only what is settled is to be committed now.
    fn is_for_settled(&self) -> bool {
        let rows_wait = self.entries_due_at().is_none_or(|due| due > Instant::now());
        self.offers() && rows_wait && !self.is_asked() && self.batch.settled_since().is_some()
    }

    fn in_memory_bytes(&self) -> u64 {
        self.batch.bytes() + self.store.unsaved_bytes
    }

    /// How long nothing needs to be done.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let due = match &self.failing {
            Some(failing) => Some(failing.retry_at),
            None if self.is_asked() => Some(now),
            None => [self.batch_due_at(), self.store.salvage_due_at()].into_iter().flatten().min(),
        };
        due.map_or(LONGEST_WAIT, |due| due.saturating_duration_since(now)).min(LONGEST_WAIT)
    }

    fn is_asked(&self) -> bool {
        !self.flushes.is_empty() || self.finish.is_some()
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        match &self.failing {
            Some(failing) => failing.retry_at <= now,
            None => {
                (self.is_asked() && !self.batch.is_empty())
                    || self.batch_due_at().is_some_and(|due| due <= now)
                    || self.store.has_clock_news()
                    || self.store.has_old()
            }
        }
    }

    /// Commits the batch, part by part; what could not be committed stays in it.
    fn commit(&mut self) {
        let part_bytes = self.settings.commit_bytes.min(self.settings.max_bytes / 4);
        loop {
            let extra_pages = self.failing.as_ref().map_or(0, |failing| failing.extra_pages);
            let only_settled = self.is_for_settled();
            let part = match only_settled {
                true => self.batch.take_settled(),
                false => self.store.take_part(&mut self.batch, part_bytes),
            };
            let began = Instant::now();
            if let Err(error) = self.store.commit(&part, extra_pages) {
                self.batch.put_back(part);
                return self.failed(&error);
            }
            metrics::histogram!("picket_agent_spool_commit_seconds").record(began.elapsed());
            self.recovered();
            self.wake_uplink();
            self.store.checkpoint_if_due();
            if self.batch.is_empty() || only_settled {
                return;
            }
        }
    }

    fn recovered(&mut self) {
        if let Some(failing) = self.failing.take() {
            metrics::gauge!("picket_agent_spool_failing").set(0.0);
            tracing::warn!(target: "spool", after_ms = failing.since.elapsed().as_millis() as u64,
                dropped = failing.dropped, "the spool can be written again");
        }
    }

    fn failed(&mut self, error: &SpoolError) {
        metrics::counter!("picket_agent_spool_failed_commits_total").increment(1);
        metrics::gauge!("picket_agent_spool_failing").set(1.0);
        let (problem, now) = (chain(error), Instant::now());
        if error.is_corruption() {
            schema::mark_suspect(&self.store.shared.state_dir);
        }
        let near_cap = self.store.is_near_cap();
        let more_pages = if error.is_full() && near_cap { 256 } else { 0 };
        // Near the cap it may be either; if making room did not help, it was the file system.
        if error.is_full() && (!near_cap || self.failing.is_some()) {
            self.store.file_system_is_full();
        }
        let most_pages = self.store.cap_pages() / 8;
        match &mut self.failing {
            None => {
                tracing::warn!(target: "spool", problem, remedy = remedy(error),
                    "the spool cannot be written: what is captured waits in memory");
                self.failing = Some(Failing {
                    since: now,
                    retry_at: now + FIRST_RETRY,
                    wait: FIRST_RETRY,
                    problem,
                    extra_pages: more_pages,
                    dropped: 0,
                });
            }
            Some(failing) => {
                failing.wait = (failing.wait * 2).min(LAST_RETRY);
                failing.retry_at = now + failing.wait;
                failing.problem = problem;
                failing.extra_pages = (failing.extra_pages * 2 + more_pages).min(most_pages);
            }
        }
    }

    /// Answers those who wait for a commit; true when that was the last thing to do.
    fn answer(&mut self) -> bool {
        if !self.batch.is_empty() || !self.is_asked() {
            return false;
        }
        for reply in self.flushes.drain(..) {
            let _ = reply.send(Ok(()));
        }
        let Some(reply) = self.finish.take() else {
            return false;
        };
        let _ = reply.send(self.store.close());
        true
    }

    /// Everyone who could ask has gone without saying `Finish`.
    fn end(&mut self) {
        if let Err(error) = self.store.close() {
            tracing::warn!(target: "spool", error = chain(&error), "the books were not closed");
        }
    }

    fn wake_uplink(&self) {
        match self.committed.try_send(()) {
            // A word already waits, or nobody listens: both are well.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

/// What would make it right, as far as the error tells.
fn remedy(error: &SpoolError) -> &'static str {
    if error.is_full() {
        "free space on the file system of the state directory, or raise spool.max_bytes"
    } else if matches!(error, SpoolError::LogTooLong { .. }) {
        "end the program that has spool.sqlite open (`fuser` names it)"
    } else if error.is_corruption() {
        "restart the agent: it sets the damaged database aside and begins a new one"
    } else {
        "check the disk and the file system of the state directory (read-only? worn out?)"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam_channel::unbounded;
    use picket_wire::observation::{ClockState, Stamp};

    use super::*;
    use crate::spool::Clock;

    struct Unset;

    impl Clock for Unset {
        fn now(&self) -> Stamp {
            Stamp { mono_us: 1, captured_at: None, clock: ClockState::Unset }
        }
        fn stamps(&self, _: &CameraName) -> bool {
            true
        }
    }

    #[test]
    fn block_that_nobody_waited_for_is_given_out_first_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let north: CameraName = "north".parse().unwrap();
        let (device, cameras) = ("gate".parse().unwrap(), [north.clone()]);
        let store = Store::open(&settings, dir.path(), &device, &cameras, Arc::new(Unset)).unwrap();
        let (_input, input) = unbounded();
        let (_commands, commands) = unbounded();
        let (committed, _committed) = bounded(1);
        let mut writer = Writer::new(store, settings, input, commands, committed);
        let mut ask = |waits: bool| {
            let (reply, answer) = bounded(0);
            let answer = waits.then_some(answer);
            let asker = std::thread::spawn(move || answer.map(|answer| answer.recv().unwrap()));
            if !waits {
                // The receiver is gone before the writer answers.
                asker.join().unwrap();
                writer.obey(Command::Reserve { camera: north.clone(), count: 256, reply });
                return None;
            }
            writer.obey(Command::Reserve { camera: north.clone(), count: 256, reply });
            asker.join().unwrap().map(Result::unwrap)
        };
        assert_eq!(ask(true), Some(1..=256));
        assert_eq!(ask(false), None);
        assert_eq!(ask(false), None);
        assert_eq!(ask(true), Some(257..=512));
        assert_eq!(ask(true), Some(513..=768));
    }
}
