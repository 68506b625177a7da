//! The one thread that writes: it collects, commits, retries, and answers.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};
use picket_wire::CameraName;

use super::batch::{Batch, Settled};
use super::error::{SpoolError, chain};
use super::schema;
use super::settings::Settings;
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
    /// Rows that the uplink is done with.
    Settle(Vec<Settled>),
    /// Commit all that came before.
    Flush(Reply<()>),
    /// Commit all that came before, close the books, and end.
    Finish(Reply<()>),
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
        let (failing, flushes, finish) = (None, Vec::new(), None);
        Self { store, settings, input, commands, committed, batch, failing, flushes, finish }
    }

    /// Runs until it is told to finish, or until nobody is left who could tell it.
    pub fn run(mut self) {
        self.wake_uplink();
        let mut asked = true;
        while asked || !self.batch.is_empty() {
            self.store.shared.turns.fetch_add(1, Ordering::Relaxed);
            asked = self.turn() && asked;
            if self.is_due() {
                self.commit();
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
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve { camera, count, reply } => {
                // Nobody waits any more if the answer cannot be sent; the block is then lost, which
                // costs numbers and nothing else.
                let _ = reply.send(self.reserve(&camera, count));
            }
            Command::Settle(settled) => self.batch.settle(settled),
            Command::Flush(reply) => {
                self.take_all_input();
                self.flushes.push(reply);
            }
            Command::Finish(reply) => {
                self.take_all_input();
                self.finish = Some(reply);
            }
        }
    }

    fn reserve(
        &mut self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, SpoolError> {
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
        match &mut self.failing {
            Some(failing) if self.batch.bytes() >= self.settings.max_pending_bytes => {
                failing.dropped += 1;
                if failing.dropped == 1 {
                    tracing::error!(target: "spool", problem = failing.problem,
                        "memory is full while the spool cannot be written: what is captured now is \
                         dropped, and will be told as a gap");
                }
                self.batch.refuse(&device, observed, now);
            }
            _ => self.batch.take(&device, observed, now),
        }
    }

    /// How long nothing needs to be done.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let due = match &self.failing {
            Some(failing) => Some(failing.retry_at),
            None if self.is_asked() => Some(now),
            None => self.batch.due_at(&self.settings),
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
                    || self.batch.due_at(&self.settings).is_some_and(|due| due <= now)
                    || self.store.has_clock_news()
            }
        }
    }

    /// Commits the batch, part by part; what could not be committed stays in it.
    fn commit(&mut self) {
        let part_bytes = self.settings.commit_bytes.min(self.settings.max_bytes / 4);
        loop {
            let extra_pages = self.failing.as_ref().map_or(0, |failing| failing.extra_pages);
            let part = self.batch.take_part(part_bytes);
            let began = Instant::now();
            if let Err(error) = self.store.commit(&part, extra_pages) {
                self.batch.put_back(part);
                return self.failed(&error);
            }
            metrics::histogram!("picket_agent_spool_commit_seconds").record(began.elapsed());
            self.recovered();
            self.wake_uplink();
            self.store.checkpoint_if_due();
            if self.batch.is_empty() {
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
        let more_pages = if error.is_full() { 64 } else { 0 };
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
                failing.extra_pages = failing.extra_pages * 2 + more_pages;
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
    } else if error.is_corruption() {
        "restart the agent: it sets the damaged database aside and begins a new one"
    } else {
        "check the disk and the file system of the state directory (read-only? worn out?)"
    }
}
