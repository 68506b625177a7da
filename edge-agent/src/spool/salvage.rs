//! Brings what can be read of a damaged database into the one that took its place.
//!
//! The database is set aside at a start, and capture begins at once: its accounts come over then, few
//! as they are; its rows come one slice after the other, between the writer's commits. A slice and how
//! far it got are one transaction, so that a crash repeats nothing.
//!
//! A row keeps its bytes and its number. The numbers of this run begin above all that the damaged
//! database could hold, so that what is salvaged is backlog and stays in its order.
//!
//! The books take over what the damaged ones said was spooled, and count it as still on disk; what has
//! not come over at the end was lost. Which frames these were shows as what is missing between the
//! rows of a camera: the centre takes from such a gap only what it does not have.

mod holes;
mod place;
mod wreck;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_wire::observation::{GapOf, Reason};
use picket_wire::{CameraKey, DeviceName, EpochId, Topic};
use rusqlite::{Connection, TransactionBehavior};

use super::books::{self, signed};
use super::encryption::Keyring;
use super::error::SpoolError;
use super::month::Month;
use super::record::{Dropped, RowId, frames};
use super::recordings;
use super::schema;
use super::transaction::{Outline, Transaction, stamp_of};
use holes::Line;
use place::{Place, Waiting};
use wreck::{Found, Kept, Others, Wreck};

/// One slice: little enough that a commit that waits behind it is hardly later.
const SLICE_ROWS: usize = 64;
const SLICE_BYTES: u64 = 1024 * 1024;
/// Looking for the end of a damaged stretch takes some hundred queries.
const SLICE_DAMAGE: u64 = 8;
/// Before a slice is tried again that could not be read or written.
const RETRY: Duration = Duration::from_secs(10);
/// Tries after which what cannot be read is damage, whatever the reason: a minute.
const MOST_TRIES: u32 = 6;

#[derive(Default)]
struct Slice {
    rows: Vec<Kept>,
    lost: Vec<Outline>,
    bytes: u64,
    at_end: bool,
}

/// By camera: frames that the damaged books said were spooled, and that a salvage on its way has not
/// brought over yet. None where there is no salvage.
pub fn frames_to_come(connection: &Connection) -> Result<BTreeMap<CameraKey, u64>, SpoolError> {
    let waiting = place::load_waiting(connection)?;
    Ok(waiting.into_iter().map(|(key, waiting)| (key, waiting.frames)).collect())
}

/// Whether a damaged database waits from which something can be read, or may be once it can be opened.
pub fn any_left(state_dir: &Path) -> bool {
    any_left_but(state_dir, None)
}

fn any_left_but(state_dir: &Path, but: Option<&Path>) -> bool {
    // Whether it opens needs no key.
    let keyring = Arc::new(Keyring::without_masters(state_dir));
    let may_open = |path: &PathBuf| match Wreck::open(path, Arc::clone(&keyring)) {
        Ok(_) => true,
        Err(error) => !error.is_corruption(),
    };
    let mut paths = schema::set_aside_databases(state_dir).into_iter();
    paths.any(|path| Some(path.as_path()) != but && may_open(&path))
}

/// A salvage on its way.
pub struct Salvage {
    wreck: Wreck,
    device: DeviceName,
    place: Place,
    begun_anew: bool,
    waiting: BTreeMap<CameraKey, Waiting>,
    lines: BTreeMap<(CameraKey, EpochId), Line>,
    /// The last `seq` that was committed, where it is known.
    ends: BTreeMap<(CameraKey, EpochId), u64>,
    ready: Option<Slice>,
    /// `waiting`, once the slice that is written now is committed.
    staged: BTreeMap<CameraKey, Waiting>,
    due_at: Instant,
    /// How often in succession the same place could not be read.
    tries: u32,
    rows: u64,
}

impl Salvage {
    /// Begins to salvage the oldest database that was set aside and can be opened, or goes on where
    /// the run before stopped. `epoch` is this run's.
    pub fn begin(
        connection: &Connection,
        state_dir: &Path,
        device: &DeviceName,
        epoch: EpochId,
        keyring: Arc<Keyring>,
    ) -> Result<Option<Self>, SpoolError> {
        let aside = schema::set_aside_databases(state_dir);
        if aside.is_empty() {
            return Ok(None);
        }
        let step = |source| SpoolError::Commit { step: "begin the salvage", source };
        place::make_tables(connection).map_err(step)?;
        let mut left = Vec::new();
        for path in aside {
            match place::remains_of(connection, &path).map_err(step)? {
                // The end before was cut short.
                Some(remains) => put_away(&path, remains),
                None => left.push(path),
            }
        }
        let wreck =
            left.into_iter().find_map(|path| match Wreck::open(&path, Arc::clone(&keyring)) {
                Ok(wreck) => Some(wreck),
                Err(error) => {
                    tracing::error!(target: "spool", aside = %path.display(),
                    error = picket_service::logging::chain(&error),
                    "nothing can be read of a damaged spool");
                    None
                }
            });
        let Some(wreck) = wreck else { return Ok(None) };
        // Each run writes fewer rows than 2^32, and epochs rise: no row there has such a number.
        let end = signed(epoch.number).saturating_mul(1 << 32);
        let mut salvage = Self {
            wreck,
            device: device.clone(),
            // Rows of pictures first: they take little, and until they are here nothing of all that
            // their bytes take can be dropped for what is new.
            place: Place { topic: Topic::Frames, next: 0, end, damage: 0 },
            begun_anew: true,
            waiting: BTreeMap::new(),
            lines: BTreeMap::new(),
            ends: BTreeMap::new(),
            ready: None,
            staged: BTreeMap::new(),
            due_at: Instant::now(),
            tries: 0,
            rows: 0,
        };
        salvage.take_place(connection)?;
        Ok(Some(salvage))
    }

    /// Rows of this run must have this number or a higher one.
    pub fn first_free_id(&self) -> RowId {
        self.place.end
    }

    /// Whether every picture of damaged databases has its row here, as far as it can be read.
    pub fn has_all_pictures(&self, state_dir: &Path) -> bool {
        self.place.topic != Topic::Frames && !any_left_but(state_dir, Some(self.wreck.path()))
    }

    /// Whether what comes next takes little room.
    pub fn is_at_pictures(&self) -> bool {
        self.place.topic == Topic::Frames
    }

    pub fn due_at(&self) -> Instant {
        self.due_at
    }

    /// In one transaction: the tables, and where to begin.
    fn take_place(&mut self, connection: &Connection) -> Result<(), SpoolError> {
        let step = |source| SpoolError::Commit { step: "begin the salvage", source };
        let behaviour = TransactionBehavior::Immediate;
        let guard = rusqlite::Transaction::new_unchecked(connection, behaviour).map_err(step)?;
        match place::load(&guard, self.wreck.path()).map_err(step)? {
            Some(place) => {
                (self.place, self.begun_anew) = (place, false);
                self.waiting = place::load_waiting(&guard)?;
            }
            None => {
                self.take_accounts(&guard)?;
                self.take_month(&guard)?;
            }
        }
        place::store(&guard, self.wreck.path(), &self.place, &self.waiting).map_err(step)?;
        guard.commit().map_err(step)
    }

    /// The damaged accounts, where this database has none yet. What cannot be read begins at nothing.
    fn take_accounts(&mut self, connection: &Connection) -> Result<(), SpoolError> {
        let step = |source| SpoolError::Commit { step: "salvage the accounts", source };
        let mut accounts = match self.wreck.accounts() {
            Ok(accounts) if books::load(connection)?.is_empty() => accounts,
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "the books of the damaged spool cannot be read: they begin anew");
                return Ok(());
            }
        };
        accounts.retain(|key, account| key.device == self.device && account.books.balanced());
        for (key, account) in accounts {
            let waiting = Waiting {
                epoch: account.epoch,
                last_committed: account.last_committed,
                frames: account.books.spooled,
            };
            self.waiting.insert(key.clone(), waiting);
            let account = books::Account { weights: Default::default(), ..account };
            books::store(connection, &key, &account).map_err(step)?;
        }
        if let Ok(positions) = self.wreck.recordings() {
            recordings::store(connection, &positions.all()).map_err(step)?;
        }
        Ok(())
    }

    /// What went over the link in this month, where this database has not counted yet: the budget is
    /// not had twice.
    fn take_month(&self, connection: &Connection) -> Result<(), SpoolError> {
        let step = |source| SpoolError::Commit { step: "salvage the month", source };
        if Month::load(connection)? != Month::default() {
            return Ok(());
        }
        match self.wreck.month() {
            Ok(month) => month.store(connection).map_err(step),
            Err(error) => {
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "what the month's budget has left cannot be read: it begins anew");
                Ok(())
            }
        }
    }

    /// Reads the next slice, if none waits to be written, and tells the bytes that its rows will take in
    /// the database: pictures stay where they lie.
    pub fn read(&mut self) -> Result<Vec<u64>, SpoolError> {
        if self.ready.is_none() {
            self.ready = Some(self.read_slice()?);
        }
        let rows = self.ready.iter().flat_map(|slice| &slice.rows);
        let bytes = |kept: &Kept| match kept.place {
            Some(_) => kept.row.headers.len() as u64,
            None => kept.row.bytes(),
        };
        Ok(rows.map(bytes).collect())
    }

    /// An error only where nothing was read before it.
    fn read_slice(&mut self) -> Result<Slice, SpoolError> {
        let mut slice = Slice::default();
        let damage_before = self.place.damage;
        while slice.rows.len() < SLICE_ROWS
            && slice.bytes < SLICE_BYTES
            && self.place.damage - damage_before < SLICE_DAMAGE
        {
            let others = match self.tries < MOST_TRIES {
                true => Others::MayPass,
                false => Others::AreDamage,
            };
            let Place { topic, next, end, .. } = self.place;
            let found = match self.wreck.next(topic, next, end, others) {
                Ok((found, next)) => {
                    (self.place.next, self.tries) = (next, 0);
                    found
                }
                Err(error) if slice.rows.is_empty() && slice.lost.is_empty() => {
                    self.tries += 1;
                    return Err(error);
                }
                // Met again, and told, by the next slice.
                Err(_) => break,
            };
            match found {
                Found::Row(kept) if kept.row.key.device == self.device => {
                    if let Some((epoch, last)) = kept.ended {
                        self.ends.insert((kept.row.key.clone(), epoch), last);
                    }
                    if let Some(run) = kept.settles {
                        self.note(&kept.row.key, kept.row.epoch, run, &kept.row.headers);
                    }
                    slice.bytes += kept.row.bytes();
                    slice.rows.push(*kept);
                }
                Found::Row(_) | Found::Damage => self.place.damage += 1,
                Found::Outline(outline) => {
                    self.place.damage += 1;
                    if outline.frames() > 0 {
                        let run = (outline.first, outline.last);
                        self.note(&outline.key, outline.epoch, run, &outline.headers);
                    }
                    slice.lost.extend((outline.key.device == self.device).then_some(outline));
                }
                Found::End if self.place.topic == Topic::Frames => {
                    (self.place.topic, self.place.next) = (Topic::Observations, 0);
                }
                Found::End => {
                    slice.at_end = true;
                    break;
                }
            }
        }
        Ok(slice)
    }

    /// Keeps in mind which `seq` of a line are told by what came over.
    fn note(&mut self, key: &CameraKey, epoch: EpochId, run: (u64, u64), headers: &str) {
        let next = self.begun_anew.then_some(1);
        let line = self.lines.entry((key.clone(), epoch)).or_insert_with(|| Line::new(next));
        line.told(run);
        headers.clone_into(&mut line.headers);
    }

    /// Writes the slice that waits; true at the end. What it changes in memory is taken over with
    /// [`went_on`](Self::went_on), after the commit.
    pub fn write(&mut self, tx: &mut Transaction<'_>) -> Result<bool, SpoolError> {
        let Some(slice) = &self.ready else { return Ok(false) };
        let mut waiting = self.waiting.clone();
        for kept in &slice.rows {
            let row = &kept.row;
            let time = (kept.committed_at_ms, kept.synchronised);
            if tx.put_back(kept.id, time, row, &kept.stored(), kept.place)? {
                came_over(tx, &mut waiting, &row.key, frames(row.kind, row.first, row.last));
            }
        }
        for outline in &slice.lost {
            if let Some(dropped) = tx.dropped(outline, Reason::SPOOL_DAMAGED.into()) {
                came_over(tx, &mut waiting, &outline.key, outline.frames());
                tx.account(&outline.key).lost_on_disk(&dropped);
                tx.gap(&dropped)?;
            }
        }
        if slice.at_end {
            self.tell_lost(tx, &waiting)?;
            place::end(tx.connection, self.wreck.path(), self.remains(&waiting))
        } else {
            place::store(tx.connection, self.wreck.path(), &self.place, &waiting)
        }
        .map_err(|source| SpoolError::Commit { step: "note how far the salvage got", source })?;
        let at_end = slice.at_end;
        self.staged = waiting;
        Ok(at_end)
    }

    /// Whether something is in it that did not come over.
    fn remains(&self, waiting: &BTreeMap<CameraKey, Waiting>) -> bool {
        self.place.damage > 0 || waiting.values().any(|waiting| waiting.frames > 0)
    }

    /// At the end: what has not come over is lost, and the centre is told which frames can be meant.
    fn tell_lost(
        &self,
        tx: &mut Transaction<'_>,
        waiting: &BTreeMap<CameraKey, Waiting>,
    ) -> Result<(), SpoolError> {
        if !self.remains(waiting) {
            return Ok(());
        }
        for (key, waiting) in waiting.iter().filter(|(_, waiting)| waiting.frames > 0) {
            let books = &mut tx.account(key).books;
            books.spooled = books.spooled.saturating_sub(waiting.frames);
            *books.dropped.entry(Reason::SPOOL_DAMAGED.into()).or_default() += waiting.frames;
        }
        // Where the books tell of no lost frame, what is missing was acknowledged before.
        let lost = |key: &CameraKey| waiting.get(key).is_none_or(|waiting| waiting.frames > 0);
        let newest = waiting.iter().map(|(key, w)| ((key.clone(), w.epoch), w.last_committed));
        let ends: BTreeMap<_, _> = self.ends.clone().into_iter().chain(newest).collect();
        for ((key, epoch), last) in ends.iter().filter(|((key, _), _)| lost(key)) {
            let line = self.lines.get(&(key.clone(), *epoch));
            let next = line.and_then(|line| line.next).or(self.begun_anew.then_some(1));
            if let Some(next) = next.filter(|next| next <= last) {
                let headers = line.map_or("", |line| line.headers.as_str());
                tx.gap(&lost_run(tx, key, *epoch, headers, (next, *last)))?;
            }
        }
        for ((key, epoch), line) in self.lines.iter().filter(|((key, _), _)| lost(key)) {
            for hole in &line.holes {
                tx.gap(&lost_run(tx, key, *epoch, &line.headers, *hole))?;
            }
        }
        Ok(())
    }

    /// After a slice was committed. Gives the first row of each queue that came with it, or
    /// `RowId::MAX`.
    pub fn went_on(&mut self) -> [RowId; 2] {
        let slice = self.ready.take().unwrap_or_default();
        let rows = slice.rows.len() as u64;
        self.waiting = std::mem::take(&mut self.staged);
        self.rows += rows;
        metrics::counter!("picket_agent_spool_salvaged_rows_total").increment(rows);
        self.due_at = Instant::now();
        Topic::OF_CAMERAS.map(|topic| {
            let of_it = slice.rows.iter().filter(|kept| kept.row.topic == topic);
            of_it.map(|kept| kept.id).min().unwrap_or(RowId::MAX)
        })
    }

    /// After a slice could not be written, or has no room.
    pub fn try_later(&mut self) {
        self.due_at = Instant::now() + RETRY;
    }

    /// The end: says what came of it, and keeps the damaged file only where something is still in it.
    pub fn finish(self) {
        let lost_frames: u64 = self.waiting.values().map(|waiting| waiting.frames).sum();
        let (rows, damaged, path) = (self.rows, self.place.damage, self.wreck.path().to_path_buf());
        let remains = self.remains(&self.waiting);
        metrics::counter!("picket_agent_spool_unreadable_rows_total").increment(damaged);
        if remains {
            tracing::error!(target: "spool", rows, damaged, lost_frames,
                "the damaged spool was salvaged as far as it can be read; the rest is lost");
        } else {
            tracing::warn!(target: "spool", rows, "all rows of the damaged spool were salvaged");
        }
        drop(self.wreck);
        put_away(&path, remains);
    }
}

/// Removes a damaged database, or keeps what remains under another name.
fn put_away(path: &Path, remains: bool) {
    if !remains {
        return remove(path);
    }
    let state_dir = path.parent().unwrap_or(Path::new("."));
    match schema::keep_remains(state_dir, path) {
        Ok(aside) => tracing::info!(target: "spool", aside = %aside.display(),
            "what remains of the damaged spool is kept"),
        Err(error) => tracing::error!(target: "spool",
            error = picket_service::logging::chain(&error),
            "what remains of the damaged spool keeps its name"),
    }
}

/// Frames that the books counted already, or that they learn of now.
fn came_over(
    tx: &mut Transaction<'_>,
    waiting: &mut BTreeMap<CameraKey, Waiting>,
    key: &CameraKey,
    frames: u64,
) {
    let known = waiting.get_mut(key).map_or(0, |waiting| {
        let known = waiting.frames.min(frames);
        waiting.frames -= known;
        known
    });
    let books = &mut tx.account(key).books;
    books.captured += frames - known;
    books.spooled += frames - known;
}

/// A run that no row stands for, stamped by the last row before it.
fn lost_run(
    tx: &Transaction<'_>,
    key: &CameraKey,
    epoch: EpochId,
    headers: &str,
    (first, last): (u64, u64),
) -> Dropped {
    let stamp = stamp_of(headers).unwrap_or(tx.now);
    let (of, reason) = (GapOf::Observations, Reason::SPOOL_DAMAGED.into());
    Dropped { key: key.clone(), epoch, of, reason, first, last, count: last - first + 1, stamp }
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{suffix}", path.display()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(target: "spool", %error, file = %path.display(), "cannot remove");
            }
            _ => {}
        }
    }
}
