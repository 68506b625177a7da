//! What wiring holds of the uplink.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender as ChannelSender, bounded, unbounded};
use picket_service::renewed::Watch;
use picket_wire::message::Outgoing;
use picket_wire::status::LinkStatus;
use picket_wire::{DeviceName, TopicNames};

use super::bulk::BulkLimit;
use super::ceiling::Ceiling;
use super::link::Link;
use super::pairs::{Pace, Pairs};
use super::queues::Queues;
use super::sender::{Command, Sender};
use super::settings::{MAX_DRAIN_MS, Settings, SettingsError};
use super::speed::BacklogSpeed;
use super::troubles::Troubles;
use super::window::Window;
use crate::spool::SpoolReader;

/// The last reports of a producer that is given up, and the thread's own end.
const GRACE: Duration = Duration::from_secs(5);
/// How long [`UplinkHandle::drain`] takes at most, whatever the settings and the broker.
pub const LONGEST_DRAIN: Duration =
    Duration::from_millis(MAX_DRAIN_MS).saturating_add(GRACE).saturating_add(GRACE);

/// Why the uplink does not run.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The settings.
    #[error("the uplink's settings are not valid")]
    Settings(#[from] SettingsError),
    /// The thread.
    #[error("cannot start the uplink's thread")]
    Thread(#[source] io::Error),
    /// A cut would be the end of the connection.
    #[error(
        "the files of the uplink have changed and are not in use: after a drill it would connect with \
         them, good or not; put right ones in their place first"
    )]
    FilesRefused,
    /// It has ended, or does not end.
    #[error("the uplink does not answer")]
    Gone,
}

/// What the uplink shows.
pub(super) struct Shared {
    pub status: Mutex<LinkStatus>,
    pub turns: AtomicU64,
    /// Whether changed files are not in use, or not yet.
    pub files_wait: AtomicBool,
}

/// What a drain left in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Records and pictures.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The uplink; see the module.
pub struct Uplink;

/// The running uplink.
#[derive(Clone)]
pub struct UplinkHandle {
    commands: ChannelSender<Command>,
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Uplink {
    /// Starts sending what the spool holds. No broker has to be there.
    pub fn spawn(
        settings: &Settings,
        device: &DeviceName,
        reader: SpoolReader,
    ) -> Result<UplinkHandle, UplinkError> {
        let files = settings.check()?;
        let (commands_tx, commands) = bounded(16);
        // Bounded by the window: each message in it is reported once, beside complaints about
        // connections, which the reconnect back-off keeps rare.
        let (reports_tx, reports) = unbounded();
        let problem = Some("connecting".to_owned());
        let status = LinkStatus { up: false, problem, certificate_days_left: None };
        let shared = Arc::new(Shared {
            status: Mutex::new(status),
            turns: AtomicU64::new(0),
            files_wait: AtomicBool::new(false),
        });
        reader.set_monthly_budget(settings.monthly_budget_bytes);
        let sender = Sender {
            client_id: format!("picket-{device}"),
            names: TopicNames::new(settings.topic_prefix.clone()),
            commands,
            reports,
            reports_tx,
            pairs: Pairs::default(),
            pace: Pace::default(),
            watch: Watch::new(files.digest, Instant::now()),
            files,
            turned_away: None,
            files_problem: None,
            queues: Queues::new(settings.backlog_one_in, reader.first_id()),
            window: Window::new(settings.max_in_flight_records, settings.max_in_flight_bytes),
            over_budget: false,
            holds_pictures: false,
            left_out_in_turn: 0,
            bulk: BulkLimit::new(settings.max_in_flight_bytes * 3 / 4, Instant::now()),
            backlog_speed: BacklogSpeed::new(settings.backlog_speed),
            ceiling: Ceiling::new(settings.max_bytes_per_second, Instant::now()),
            link: Link::new(Duration::from_millis(settings.stall_ms), Instant::now()),
            troubles: Troubles::default(),
            silent: None,
            silent_keys: BTreeSet::new(),
            suspects: VecDeque::new(),
            alone: None,
            status: None,
            refusal_told: None,
            settled: Vec::new(),
            searching: false,
            drain: None,
            certificate_looked_at: None,
            dates_problem: None,
            cut_until: None,
            shared: Arc::clone(&shared),
            settings: settings.clone(),
            reader,
        };
        let thread = thread::Builder::new()
            .name("uplink".to_owned())
            .spawn(move || sender.run())
            .map_err(UplinkError::Thread)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(UplinkHandle { commands: commands_tx, shared, thread })
    }
}

impl UplinkHandle {
    /// Sends a heartbeat, when it can be; one that was not yet sent is replaced.
    pub fn send_status(&self, status: Outgoing) {
        // A full channel means that the uplink is behind; the next heartbeat is the better one.
        let _ = self.commands.try_send(Command::Status(status));
    }

    /// Drops all connections and makes none for so long, unless [`restore`](Self::restore) comes
    /// before. The uplink has the time itself: nobody has to live to end it. Refused while changed
    /// files are not in use: what it then connects with is what lies there.
    pub fn cut(&self, time: Duration) -> Result<(), UplinkError> {
        if self.shared.files_wait.load(Ordering::Relaxed) {
            return Err(UplinkError::FilesRefused);
        }
        let sent = self.commands.send_timeout(Command::Cut(time), GRACE);
        sent.map_err(|_| UplinkError::Gone)
    }

    /// Ends a cut, if there is one.
    pub fn restore(&self) {
        // One that is behind for so long, or has ended, restores by itself.
        let _ = self.commands.send_timeout(Command::Restore, GRACE);
    }

    /// Up or down, and why.
    pub fn status(&self) -> LinkStatus {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A count that rises while the uplink works, also during an outage; standing still means stuck.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Sends what the spool holds until it is empty or `limit` has passed, then ends the uplink.
    /// What is left stays in the spool. To be called after [`flush`](crate::spool::SpoolHandle::flush)
    /// and before [`finish`](crate::spool::SpoolHandle::finish).
    pub fn drain(&self, limit: Duration) -> Result<Drained, UplinkError> {
        let (reply, answer) = bounded(1);
        let until = Instant::now() + limit;
        self.commands
            .send_timeout(Command::Drain { until, reply }, GRACE)
            .map_err(|_| UplinkError::Gone)?;
        let drained = answer.recv_timeout(limit + GRACE).map_err(|_| UplinkError::Gone)?;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(UplinkError::Gone),
            Some(Ok(())) | None => Ok(drained),
        }
    }
}
