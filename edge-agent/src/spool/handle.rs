//! What wiring, capture and the uplink hold of the spool.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use picket_wire::{CameraKey, CameraName, DeviceName, EpochId};

use super::books::Ledger;
use super::clock::Clock;
use super::error::SpoolError;
use super::reader::SpoolReader;
use super::record::RowId;
use super::settings::Settings;
use super::shared::Shared;
use super::store::Store;
use super::writer::{self, Command, Writer};
use crate::capture::SourcePosition;
use crate::detect::Observed;

/// Longer than any retry of the disk that could still succeed.
const RESERVE_LIMIT: Duration = Duration::from_secs(15);

/// A spool that was opened and whose writer does not run yet.
pub struct Spool {
    store: Store,
    settings: Settings,
}

impl Spool {
    /// Opens the state directory for this agent alone, begins a new epoch, and commits the epoch
    /// record of each camera.
    pub fn open(
        settings: &Settings,
        state_dir: &Path,
        device: &DeviceName,
        cameras: &[CameraName],
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, EpochId), SpoolError> {
        let store = Store::open(settings, state_dir, device, cameras, clock)?;
        let epoch = store.shared.epoch;
        Ok((Self { store, settings: settings.clone() }, epoch))
    }

    /// Starts the writer, which keeps all that comes out of `input`.
    pub fn spawn_writer(self, input: Receiver<Observed>) -> Result<SpoolHandle, SpoolError> {
        let shared = Arc::clone(&self.store.shared);
        // Not bounded by itself: a command is either waited for by its sender, or settles a row of
        // the uplink's window, which is bounded.
        let (commands, commands_rx) = unbounded();
        let (committed_tx, committed) = bounded(1);
        let writer = Writer::new(self.store, self.settings, input, commands_rx, committed_tx);
        let thread = thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer.run())
            .map_err(SpoolError::Thread)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(SpoolHandle { shared, commands, committed, thread })
    }
}

/// The running spool.
#[derive(Clone)]
pub struct SpoolHandle {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    committed: Receiver<()>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl SpoolHandle {
    /// Gives out the next `count` numbers of a camera; they are reserved on disk when this returns.
    pub fn reserve(
        &self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, SpoolError> {
        let camera = camera.clone();
        let command = |reply| Command::Reserve { camera, count, reply };
        writer::ask(&self.commands, RESERVE_LIMIT, command)
    }

    /// Takes cameras in that were not there at the start, or are there again: all of them or none.
    /// Their epoch records are on disk when this returns.
    pub fn add_cameras(&self, cameras: &[CameraName]) -> Result<(), SpoolError> {
        let cameras = cameras.to_vec();
        writer::ask(&self.commands, RESERVE_LIMIT, |reply| Command::AddCameras { cameras, reply })
    }

    /// How far a recording was kept by this or an earlier run.
    pub fn position(&self, camera: &CameraName, fingerprint: &str) -> Option<SourcePosition> {
        let key = CameraKey { device: self.shared.device.clone(), camera: camera.clone() };
        self.shared.recordings.get(&key, fingerprint)
    }

    /// The accounts; capture counts into them.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.shared.ledger)
    }

    /// This start of the agent.
    pub fn epoch(&self) -> EpochId {
        self.shared.epoch
    }

    /// A reader with a connection of its own. One reader sends; others may look.
    pub fn reader(&self) -> Result<SpoolReader, SpoolError> {
        let shared = Arc::clone(&self.shared);
        SpoolReader::open(shared, self.commands.clone(), self.committed.clone())
    }

    /// Share of the cap that is in use, 0 to 1. A recording that can wait should wait above some
    /// 0.9 rather than push out what is older.
    pub fn fill(&self) -> f64 {
        let used = self.shared.used_bytes.load(Ordering::Relaxed);
        used as f64 / self.shared.cap_bytes.max(1) as f64
    }

    /// A count that rises while the writer works; standing still for long means stuck.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// From now on no row below the number that this gives changes any more, so that whoever copies
    /// them carries the bytes that the uplink will send. A gap would else grow under its old id, and
    /// the centre would hold the copy and the row for two that contradict each other.
    pub fn seal(&self) -> RowId {
        let mut held = self.shared.leases.lock();
        held.seal();
        // A commit that lets gaps grow is over before the lock is had.
        self.shared.next_id.load(Ordering::SeqCst)
    }

    /// Waits until all that was sent to the writer before is committed.
    pub fn flush(&self, limit: Duration) -> Result<(), SpoolError> {
        writer::ask(&self.commands, limit, Command::Flush)
    }

    /// Commits all that was sent to the writer, closes the books, and ends the writer. To be called
    /// last, after the uplink has ended: what it settles later is not heard.
    pub fn finish(&self, limit: Duration) -> Result<(), SpoolError> {
        writer::ask(&self.commands, limit, Command::Finish)?;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(SpoolError::WriterGone),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
