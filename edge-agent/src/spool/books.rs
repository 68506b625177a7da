//! The accounts: every captured frame is in memory, spooled, acknowledged, or dropped for a reason.
//!
//! What stands on disk is written in the transaction that makes it true, so that it balances after
//! any crash: `captured` on disk counts what was committed. Frames that got a `seq` and are not yet
//! committed are counted beside it in memory; a crash takes both the frames and their count, and
//! the next epoch record bounds how many these were.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use picket_wire::observation::{GapOf, Reason};
use picket_wire::status::Books;
use picket_wire::{CameraKey, CameraName, DeviceName, EpochId, Kind};
use rusqlite::{Connection, Row as SqlRow, params};

use super::error::SpoolError;
use super::record::{Dropped, frames};
use super::worth::Weights;

/// One camera's row of `accounts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The newest epoch in which the agent had this camera.
    pub epoch: EpochId,
    /// No `seq` beyond this one was given out in that epoch.
    pub reserved: u64,
    /// Last `seq` committed in that epoch.
    pub last_committed: u64,
    /// `in_memory` is always 0 here.
    pub books: Books,
    /// Bytes of its rows.
    pub weights: Weights,
}

impl Account {
    /// A camera that begins in `epoch`.
    pub fn new(epoch: EpochId) -> Self {
        Self {
            epoch,
            reserved: 0,
            last_committed: 0,
            books: Books::default(),
            weights: Weights::default(),
        }
    }

    /// A row is committed that was in memory.
    pub fn kept(&mut self, kind: Kind, first: u64, last: u64) {
        let count = frames(kind, first, last);
        self.books.captured += count;
        self.books.spooled += count;
        if kind == Kind::Skip {
            self.books.skipped += count;
        }
        if count > 0 {
            self.last_committed = self.last_committed.max(last);
        }
    }

    /// Something that was in memory is dropped.
    pub fn lost_in_memory(&mut self, dropped: &Dropped) {
        if dropped.of == GapOf::Observations {
            self.books.captured += dropped.count;
            self.last_committed = self.last_committed.max(dropped.last);
        }
        self.count_dropped(dropped, dropped.count);
    }

    /// Something that was spooled is dropped. No more than was there, whatever a damaged row says.
    pub fn lost_on_disk(&mut self, dropped: &Dropped) {
        let mut count = dropped.count;
        if dropped.of == GapOf::Observations {
            count = count.min(self.books.spooled);
            self.books.spooled -= count;
        }
        self.count_dropped(dropped, count);
    }

    fn count_dropped(&mut self, dropped: &Dropped, count: u64) {
        let column = match dropped.of {
            GapOf::Observations => &mut self.books.dropped,
            GapOf::Frames | GapOf::Crops => &mut self.books.pictures_dropped,
        };
        *column.entry(dropped.reason.clone()).or_default() += count;
    }

    /// The broker has taken `count` frames; no more than were there, whatever a damaged row says.
    pub fn acknowledged(&mut self, count: u64) {
        let count = count.min(self.books.spooled);
        self.books.spooled -= count;
        self.books.acknowledged += count;
    }
}

/// All accounts on disk.
pub fn load(connection: &Connection) -> Result<BTreeMap<CameraKey, Account>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the accounts", source };
    let mut statement = connection
        .prepare(
            "SELECT key, epoch, reserved, last_committed, captured, skipped, spooled, \
             acknowledged, dropped, pictures_dropped, frame_bytes, crop_bytes, observation_bytes \
             FROM accounts",
        )
        .map_err(read)?;
    let mut rows = statement.query([]).map_err(read)?;
    let mut accounts = BTreeMap::new();
    while let Some(row) = rows.next().map_err(read)? {
        let (key, account) = of_row(row)?;
        accounts.insert(key, account);
    }
    Ok(accounts)
}

fn of_row(row: &SqlRow<'_>) -> Result<(CameraKey, Account), SpoolError> {
    let read = |source| SpoolError::Read { what: "the accounts", source };
    let text = |column| row.get::<_, String>(column).map_err(read);
    let number = |column| row.get::<_, i64>(column).map_err(read).and_then(|n| counted(column, n));
    let books = Books {
        captured: number("captured")?,
        skipped: number("skipped")?,
        in_memory: 0,
        spooled: number("spooled")?,
        acknowledged: number("acknowledged")?,
        dropped: by_reason("dropped", &text("dropped")?)?,
        pictures_dropped: by_reason("pictures_dropped", &text("pictures_dropped")?)?,
    };
    let account = Account {
        epoch: parsed("epoch", &text("epoch")?)?,
        reserved: number("reserved")?,
        last_committed: number("last_committed")?,
        books,
        weights: Weights {
            frames: number("frame_bytes")?,
            crops: number("crop_bytes")?,
            observations: number("observation_bytes")?,
        },
    };
    Ok((parsed("key", &text("key")?)?, account))
}

fn by_reason(what: &'static str, text: &str) -> Result<BTreeMap<Reason, u64>, SpoolError> {
    let counts = serde_json::from_str::<BTreeMap<Reason, u64>>(text).ok();
    let counts = counts.filter(|counts| counts.values().all(|count| *count <= MOST));
    counts.ok_or_else(|| SpoolError::Row { what, value: text.to_owned() })
}

/// More frames, or bytes of them, than any box has had, and few enough for their sums.
pub const MOST: u64 = 1 << 53;

/// A column that counts something.
pub fn counted(what: &'static str, number: i64) -> Result<u64, SpoolError> {
    let count = u64::try_from(number).ok().filter(|count| *count <= MOST);
    count.ok_or_else(|| SpoolError::Row { what, value: number.to_string() })
}

/// A column that holds one of the wire's texts.
pub fn parsed<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, SpoolError> {
    text.parse().map_err(|_| SpoolError::Row { what, value: text.to_owned() })
}

/// SQLite's integers are signed; none of ours reaches the sign, and one that did would be shown
/// as the largest rather than as a negative one.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The way back of [`signed`].
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Writes an account, within the transaction that made it so.
pub fn store(connection: &Connection, key: &CameraKey, account: &Account) -> rusqlite::Result<()> {
    let (books, weights) = (&account.books, &account.weights);
    let json = |map: &BTreeMap<Reason, u64>| {
        serde_json::to_string(map).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO accounts VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)",
        )?
        .execute(params![
            key.to_string(),
            account.epoch.to_string(),
            signed(account.reserved),
            signed(account.last_committed),
            signed(books.captured),
            signed(books.skipped),
            signed(books.spooled),
            signed(books.acknowledged),
            json(&books.dropped)?,
            json(&books.pictures_dropped)?,
            signed(weights.frames),
            signed(weights.crops),
            signed(weights.observations),
        ])?;
    Ok(())
}

/// The accounts as the whole agent shares them. Capture counts in, the spool's writer settles.
#[derive(Debug)]
pub struct Ledger {
    device: DeviceName,
    given_out: RwLock<BTreeMap<CameraName, AtomicU64>>,
    committed: Mutex<Committed>,
}

#[derive(Debug, Default)]
struct Committed {
    accounts: BTreeMap<CameraKey, Account>,
    /// Per camera: how much `captured` on disk has risen in this run.
    settled: BTreeMap<CameraKey, u64>,
}

impl Ledger {
    pub(super) fn new(
        device: DeviceName,
        cameras: &[CameraName],
        accounts: BTreeMap<CameraKey, Account>,
    ) -> Self {
        let given_out = cameras.iter().map(|name| (name.clone(), AtomicU64::new(0))).collect();
        let committed = Mutex::new(Committed { accounts, settled: BTreeMap::new() });
        Self { device, given_out: RwLock::new(given_out), committed }
    }

    /// A camera comes while the agent runs, or came back.
    pub(super) fn add(&self, camera: &CameraName) {
        // Nothing panics while it is held.
        let mut given_out = self.given_out.write().unwrap_or_else(PoisonError::into_inner);
        given_out.entry(camera.clone()).or_default();
    }

    /// Counts `count` more `seq` of a camera as given out. Wiring calls it with each heartbeat and
    /// once more when the cameras have ended, so that it may be behind what the writer has already
    /// settled: `in_memory` is then 0 for a moment, never less, and the books balance all the same.
    /// Before [`close`](super::store::Store::close) it must be up to date, since it is the bound that
    /// a clean end leaves.
    pub fn captured(&self, camera: &CameraName, count: u64) {
        let given_out = self.given_out.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(given_out) = given_out.get(camera) {
            given_out.fetch_add(count, Ordering::SeqCst);
        }
    }

    /// Last `seq` of this epoch that was given out.
    pub fn given_out(&self, camera: &CameraName) -> u64 {
        let given_out = self.given_out.read().unwrap_or_else(PoisonError::into_inner);
        given_out.get(camera).map_or(0, |count| count.load(Ordering::SeqCst))
    }

    /// A camera's books, as of now; `None` for a camera that the spool does not know.
    pub fn books(&self, camera: &CameraName) -> Option<Books> {
        let key = CameraKey { device: self.device.clone(), camera: camera.clone() };
        let committed = self.lock();
        let account = committed.accounts.get(&key)?;
        let settled = committed.settled.get(&key).copied().unwrap_or(0);
        // Read after `settled`, which it can only be ahead of.
        let in_memory = self.given_out(camera).saturating_sub(settled);
        let mut books = account.books.clone();
        books.in_memory = in_memory;
        books.captured += in_memory;
        Some(books)
    }

    /// The books of every camera of this start of the agent.
    pub fn all(&self) -> BTreeMap<CameraName, Books> {
        let given_out = self.given_out.read().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> = given_out.keys().cloned().collect();
        drop(given_out);
        names.into_iter().filter_map(|name| Some((name.clone(), self.books(&name)?))).collect()
    }

    /// Takes over what a transaction has made true.
    pub(super) fn settle(&self, changed: &BTreeMap<CameraKey, Account>) {
        let mut committed = self.lock();
        for (key, account) in changed {
            let before = committed.accounts.insert(key.clone(), account.clone());
            let before = before.map_or(0, |account| account.books.captured);
            let risen = account.books.captured.saturating_sub(before);
            *committed.settled.entry(key.clone()).or_default() += risen;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Committed> {
        // A panic elsewhere leaves whole accounts here: each is replaced in one assignment.
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
