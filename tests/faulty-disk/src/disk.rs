//! One folder's disk: what it is to do next, and what it has done.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The folders that are watched; everything else passes through.
static WATCHED: LazyLock<Mutex<HashMap<PathBuf, Weak<Disk>>>> = LazyLock::new(Mutex::default);

/// What a program asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Writing, and cutting to a length.
    Write,
    /// Syncing.
    Sync,
}

/// Which files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Any.
    Any,
    /// The database.
    Database,
    /// Its write-ahead log.
    Log,
    /// Those in folders beside it.
    InFolders,
}

impl File {
    fn is(self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::InFolders => name.contains('/'),
            Self::Log => name.ends_with("-wal"),
            Self::Database => {
                !name.contains('/') && !name.ends_with("-wal") && !name.ends_with("-journal")
            }
        }
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    Full,
    /// `EROFS`: a kernel that has found the file system damaged makes it read-only under its users.
    ReadOnly,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which call.
    pub call: Call,
    /// Of which file.
    pub file: File,
    /// How.
    pub failure: Failure,
    /// So many such calls go well before.
    pub after: u32,
    /// So many fail; `None`: all from then on, until the fault is lifted.
    pub times: Option<u32>,
}

impl Fault {
    /// Every such call fails until the fault is lifted.
    pub fn every(call: Call, file: File, failure: Failure) -> Self {
        Self { call, file, failure, after: 0, times: None }
    }
}

/// Something that a program did to the folder, in the order in which the disk was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file that was not there is there.
    Created(String),
    /// Bytes were written.
    Written {
        /// File in the folder.
        file: String,
        /// From where on.
        at: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file was cut, or stretched with zeros.
    Cut {
        /// File in the folder.
        file: String,
        /// Its length.
        to: usize,
    },
    /// All that was written to a file before is durable.
    Synced(String),
    /// A sync failed. Linux then drops what was not written and calls it clean: no later sync brings it
    /// to the disk, though every read still shows it.
    SyncFailed(String),
    /// All names that were made, changed or removed before are durable.
    NamesSynced,
    /// A file got another's name. What it held, since nobody saw it being written.
    Renamed {
        /// Its name before.
        from: String,
        /// Its name now.
        to: String,
        /// What it held.
        content: Vec<u8>,
    },
    /// What a file held when it was synced, since nobody saw it being written.
    SyncedWhole {
        /// File in the folder.
        file: String,
        /// What it held.
        content: Vec<u8>,
    },
    /// A file was removed.
    Removed(String),
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    hits: u64,
    sync_takes: Duration,
    slow_syncs: u64,
    recording: bool,
    steps: Vec<Step>,
}

/// What the shim tells and asks.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    state: Mutex<State>,
    changed: Condvar,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call fails this time.
    pub fn fails(&self, call: Call, name: &str) -> Option<Failure> {
        let mut state = self.lock();
        let fault = state.fault.as_mut().filter(|f| f.call == call && f.file.is(name))?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        match &mut fault.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        let failure = fault.failure;
        state.hits += 1;
        self.changed.notify_all();
        Some(failure)
    }

    /// Takes as long as a sync is to take; ends early when the disk is mended.
    pub fn take_time(&self) {
        let mut state = self.lock();
        if state.sync_takes.is_zero() {
            return;
        }
        state.slow_syncs += 1;
        self.changed.notify_all();
        let until = Instant::now() + state.sync_takes;
        while !state.sync_takes.is_zero()
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Does `work` and writes the step down where it succeeded, with no other step between.
    pub fn note(&self, work: impl FnOnce() -> bool, step: impl FnOnce() -> Step) {
        let mut state = self.lock();
        if work() && state.recording {
            let step = step();
            state.steps.push(step);
        }
    }
}

/// The disk of the folder that holds `path`, if it is watched, and the file's name in it: with its own
/// folder's where that one lies in the watched one.
pub(crate) fn of(path: &Path) -> Option<(Arc<Disk>, String)> {
    let (name, folder) = (path.file_name()?.to_str()?, path.parent()?);
    if let Some(disk) = watched(folder) {
        return Some((disk, name.to_owned()));
    }
    let disk = watched(folder.parent()?)?;
    Some((disk, format!("{}/{name}", folder.file_name()?.to_str()?)))
}

/// The disk of a folder that is watched, or lies in one that is.
pub(crate) fn of_folder(folder: &Path) -> Option<Arc<Disk>> {
    watched(folder).or_else(|| watched(folder.parent()?).filter(|_| folder.is_dir()))
}

fn watched(folder: &Path) -> Option<Arc<Disk>> {
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.get(folder)?.upgrade()
}

/// The disk under one folder; as it was before when this goes.
#[derive(Debug)]
pub struct FaultyDisk {
    disk: Arc<Disk>,
    folder: PathBuf,
}

impl FaultyDisk {
    /// Puts itself under a folder, for every database that is opened there from now on.
    pub fn under(folder: &Path) -> Self {
        crate::vfs::register();
        crate::calls::link();
        let folder = folder.canonicalize().expect("the folder is there");
        let disk = Arc::new(Disk::default());
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(folder.clone(), Arc::downgrade(&disk));
        Self { disk, folder }
    }

    /// From now on this goes wrong, and nothing else.
    pub fn fail(&self, fault: Fault) {
        self.disk.lock().fault = Some(fault);
    }

    /// From now on each sync of a database or its log takes this long.
    pub fn slow_syncs(&self, each: Duration) {
        self.disk.lock().sync_takes = each;
    }

    /// Nothing goes wrong any more; a sync that takes its time ends.
    pub fn mend(&self) {
        let mut state = self.disk.lock();
        state.fault = None;
        state.sync_takes = Duration::ZERO;
        self.disk.changed.notify_all();
    }

    /// How many calls have failed.
    pub fn hits(&self) -> u64 {
        self.disk.lock().hits
    }

    /// Waits until so many calls have failed; false if they do not within the limit.
    pub fn wait_for_hits(&self, hits: u64, limit: Duration) -> bool {
        self.wait(limit, |state| state.hits >= hits)
    }

    /// Waits until so many syncs were made to take their time.
    pub fn wait_for_slow_syncs(&self, count: u64, limit: Duration) -> bool {
        self.wait(limit, |state| state.slow_syncs >= count)
    }

    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.disk.lock();
        let waited = self.disk.changed.wait_timeout_while(state, limit, |state| !done(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// From now on every step is written down; what is there already counts as synced. Nobody may have
    /// it open.
    pub fn record(&self) {
        let mut steps = Vec::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder can be read") {
                let path = entry.expect("the folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let file = path.strip_prefix(&self.folder).expect("it lies in the folder");
                let file = file.to_str().expect("a name of the test's own").to_owned();
                let content = std::fs::read(&path).expect("a file of the test's own");
                steps.push(Step::SyncedWhole { file, content });
            }
        }
        steps.push(Step::NamesSynced);
        let mut state = self.disk.lock();
        (state.steps, state.recording) = (steps, true);
    }

    /// How many steps were written down. What a program knows to be durable at this moment was made so
    /// by a step before.
    pub fn position(&self) -> usize {
        self.disk.lock().steps.len()
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<Step> {
        self.disk.lock().steps.clone()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.remove(&self.folder);
    }
}
