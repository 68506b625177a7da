//! The bytes of pictures: in segments, which are files beside the database that only grow at their end.
//!
//! A picture in a row would be written twice in an outage, to the log and then to the database. Here it
//! is written once, and synced before the commit of the row that says where it lies, so that a row whose
//! bytes are not there can only be damage. Bytes without a row are left over from a crash or a failed
//! commit, and go with their segment.
//!
//! A segment has the number of its first row as its name, and holds rows up to the next one's name, so
//! that what it still holds is found by number, without an index and without reading all rows.

mod place;
mod reading;
mod space;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::error::SpoolError;
use super::record::RowId;
use super::schema::PAGE_BYTES;
pub use place::Place;
pub use reading::Pictures;
use space::{Use, is_empty, segments_of, usage_of};

/// The folder of the segments, beside the database and named after it.
pub const SUFFIX: &str = "-pictures";

/// A segment that holds as much is followed by another. Larger ones give their space back later, smaller
/// ones are more files.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Segments of an earlier run to look at in one turn of the writer.
const SWEEP_AT_ONCE: usize = 16;

/// The folder of the segments of the database at `path`.
pub fn folder_of(database: &Path) -> PathBuf {
    let mut folder = database.as_os_str().to_owned();
    folder.push(SUFFIX);
    folder.into()
}

/// Bytes that the segments of the database at `path` take on the disk.
pub fn disk_bytes(database: &Path) -> u64 {
    segments_of(&folder_of(database)).map_or(0, |uses| uses.values().map(|u| u.disk_bytes).sum())
}

fn file_of(folder: &Path, segment: RowId) -> PathBuf {
    folder.join(format!("{segment:016x}"))
}

/// A segment that is written to.
#[derive(Debug)]
struct Open {
    segment: RowId,
    file: File,
    /// Up to here there are rows.
    committed: u64,
    end: u64,
    /// Its name is not synced yet.
    is_new: bool,
}

/// The writer's side: one transaction of the database after the other appends, syncs, and is then
/// committed or rolled back.
#[derive(Debug)]
pub struct Segments {
    folder: PathBuf,
    /// All that there are.
    uses: BTreeMap<RowId, Use>,
    open: Option<Open>,
    /// Filled up by the transaction at work.
    filled: Vec<Open>,
    /// Of an earlier run, to be looked at: a crash may have left them without rows.
    to_sweep: VecDeque<RowId>,
    /// Rows below this one may still come over from a damaged database: their bytes stay.
    keep_below: RowId,
    /// The file system gives no space back from within a file.
    no_holes: bool,
    /// Bytes of the disk that all take together.
    disk_bytes: u64,
    /// Of these, what comes back by [`reclaim`](Self::reclaim).
    dead_bytes: u64,
}

impl Segments {
    /// Those of a database. Files with other names than rows before this run can have are nobody's.
    pub fn open(database: &Path, before: &Range<RowId>) -> Result<Self, SpoolError> {
        let folder = folder_of(database);
        let failed = |step, path: &Path| {
            let path = path.to_path_buf();
            move |source| SpoolError::PictureFile { step, path, source }
        };
        if !folder.is_dir() {
            fs::create_dir(&folder).map_err(failed("make", &folder))?;
            let parent = folder.parent().unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(failed("sync", parent))?;
        }
        let mut uses = segments_of(&folder).map_err(failed("read", &folder))?;
        uses.retain(|segment, _| before.contains(segment));
        let to_sweep = uses.keys().copied().collect();
        let (open, filled, no_holes, keep_below) = (None, Vec::new(), false, RowId::MIN);
        let mut segments = Self {
            folder,
            uses,
            open,
            filled,
            to_sweep,
            keep_below,
            no_holes,
            disk_bytes: 0,
            dead_bytes: 0,
        };
        segments.add_up();
        Ok(segments)
    }

    /// Rows of this run must have this number or a higher one, so that each segment's rows are those up
    /// to the next one's name.
    pub fn first_free_id(&self) -> RowId {
        self.uses.last_key_value().map_or(0, |(segment, _)| segment.saturating_add(1))
    }

    /// Pictures of rows below this one stay, whether there is a row or not.
    pub fn keep_below(&mut self, id: RowId) {
        self.keep_below = id;
        self.add_up();
    }

    /// To be called after any change of what they take.
    fn add_up(&mut self) {
        self.disk_bytes = self.uses.values().map(|of| of.disk_bytes).sum();
        let dead =
            self.uses.range(self.keep_below..).map(|(_, of)| of.dead_bytes.min(of.disk_bytes));
        self.dead_bytes = if self.no_holes { 0 } else { dead.sum() };
    }

    /// Bytes of the disk that come back when the row of a picture was deleted by the transaction at work.
    pub fn comes_back(&self, connection: &Connection, place: &Place) -> u64 {
        let Some(of) = self.uses.get(&place.segment) else { return 0 };
        if place.segment < self.keep_below {
            return 0;
        }
        if !self.no_holes {
            return place.length;
        }
        let rows = place.segment..self.end_of(place.segment);
        let is_gone = !self.is_open(place.segment) && is_empty(connection, rows).unwrap_or(false);
        if is_gone { of.disk_bytes } else { 0 }
    }

    fn is_open(&self, segment: RowId) -> bool {
        self.open.as_ref().is_some_and(|open| open.segment == segment)
    }

    /// Appends the bytes of a row's picture.
    pub fn append(&mut self, row: RowId, bytes: &[u8]) -> Result<Place, SpoolError> {
        if let Some(full) = self.open.take_if(|open| open.end >= SEGMENT_BYTES) {
            self.filled.push(full);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(row)?,
        };
        let written = open.file.write_all_at(bytes, open.end);
        let place = Place::of(bytes, open.segment, open.end);
        open.end += place.length;
        let path = file_of(&self.folder, open.segment);
        self.open = Some(open);
        written.map_err(|source| SpoolError::PictureFile { step: "write", path, source })?;
        Ok(place)
    }

    /// A number that is there already was begun by a transaction that failed: nothing points to it.
    fn begin(&mut self, segment: RowId) -> Result<Open, SpoolError> {
        let path = file_of(&self.folder, segment);
        let file = File::create(&path).map_err(|source| SpoolError::PictureFile {
            step: "make",
            path,
            source,
        })?;
        self.uses.insert(segment, Use::default());
        Ok(Open { segment, file, committed: 0, end: 0, is_new: true })
    }

    /// Before the database commits: all that was appended is on the disk when it returns.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let mut names = false;
        for open in self.filled.iter_mut().chain(&mut self.open) {
            if open.end == open.committed && !open.is_new {
                continue;
            }
            let path = file_of(&self.folder, open.segment);
            open.file.sync_data().map_err(|source| SpoolError::PictureFile {
                step: "sync",
                path,
                source,
            })?;
            names |= open.is_new;
        }
        if names {
            let path = self.folder.clone();
            File::open(&path)
                .and_then(|folder| folder.sync_all())
                .map_err(|source| SpoolError::PictureFile { step: "sync", path, source })?;
        }
        Ok(())
    }

    /// After the database committed; `freed` are the places of rows that it deleted. Segments of which
    /// nothing is left are removed.
    pub fn committed(&mut self, connection: &Connection, freed: &[Place]) {
        let mut touched: BTreeSet<_> = freed.iter().map(|place| place.segment).collect();
        for open in self.filled.iter_mut().chain(&mut self.open) {
            (open.committed, open.is_new) = (open.end, false);
            self.uses.entry(open.segment).or_default().disk_bytes =
                usage_of(&open.file).unwrap_or(open.end);
        }
        touched.extend(self.filled.drain(..).map(|open| open.segment));
        for place in freed {
            if let Some(of) = self.uses.get_mut(&place.segment) {
                of.dead_bytes = of.dead_bytes.saturating_add(place.length);
            }
        }
        touched.into_iter().for_each(|segment| self.remove_if_empty(connection, segment));
        self.add_up();
    }

    /// After the transaction failed. What it appended goes, and what follows gets a segment of its own:
    /// after a failed sync a file may hold other bytes on the disk than it shows.
    pub fn roll_back(&mut self) {
        for open in self.filled.drain(..).chain(self.open.take()) {
            if open.end == open.committed && !open.is_new {
                self.open = Some(open);
                continue;
            }
            let is_empty = open.committed == 0;
            let path = file_of(&self.folder, open.segment);
            let undone = match is_empty {
                true => fs::remove_file(&path),
                false => open.file.set_len(open.committed),
            };
            // What stays is counted, and goes with the segment.
            if let Err(error) = undone {
                tracing::debug!(target: "spool", file = %path.display(), %error, "not undone");
            }
            if is_empty && !path.exists() {
                self.uses.remove(&open.segment);
                continue;
            }
            let disk_bytes = usage_of(&open.file).unwrap_or(open.end);
            self.uses.insert(open.segment, Use { disk_bytes, dead_bytes: 0, unknown: true });
            self.to_sweep.push_back(open.segment);
        }
        self.add_up();
    }

    /// Pages' worth of the disk that they take.
    pub fn disk_pages(&self) -> u64 {
        self.disk_bytes.div_ceil(PAGE_BYTES)
    }

    /// The same without what can be given back at once, as far as it is known.
    pub fn live_pages(&self) -> u64 {
        self.disk_bytes.saturating_sub(self.dead_bytes).div_ceil(PAGE_BYTES)
    }

    /// Gives the file system back what no row points to, until `pages` came back or there is no more.
    pub fn reclaim(&mut self, connection: &Connection, pages: u64) {
        let before = self.disk_bytes;
        let may_shrink = |(segment, of): (&RowId, &Use)| of.may_shrink().then_some(*segment);
        let segments: Vec<_> = self.uses.range(self.keep_below..).filter_map(may_shrink).collect();
        for segment in segments {
            if before.saturating_sub(self.disk_bytes) / PAGE_BYTES >= pages || self.no_holes {
                break;
            }
            self.reclaim_of(connection, segment);
        }
        self.add_up();
    }

    /// One that cannot be made smaller does not stop the others.
    fn reclaim_of(&mut self, connection: &Connection, segment: RowId) {
        let path = file_of(&self.folder, segment);
        let Some(of) = self.uses.get(&segment).copied() else { return };
        let now = match space::punch(connection, &path, segment, self.end_of(segment)) {
            Ok(now) => now,
            Err(SpoolError::PictureFile { source, .. })
                if source.kind() == io::ErrorKind::Unsupported =>
            {
                self.no_holes = true;
                tracing::warn!(target: "spool", file = %path.display(),
                    "this file system gives no space back from within a file: that of pictures comes \
                     back some {SEGMENT_BYTES} bytes at a time");
                return;
            }
            Err(error) => {
                tracing::warn!(target: "spool", error = picket_service::logging::chain(&error),
                    "what is gone of a segment of pictures cannot be given back");
                Use { dead_bytes: 0, unknown: false, ..of }
            }
        };
        self.disk_bytes = (self.disk_bytes + now.disk_bytes).saturating_sub(of.disk_bytes);
        self.uses.insert(segment, now);
    }

    /// Looks at some segments of an earlier run; to be called now and then.
    pub fn sweep(&mut self, connection: &Connection) {
        if self.keep_below > RowId::MIN {
            return;
        }
        for _ in 0..SWEEP_AT_ONCE {
            let Some(segment) = self.to_sweep.pop_front() else { return };
            self.remove_if_empty(connection, segment);
        }
        self.add_up();
    }

    /// All rows of damaged databases have come over: what is left without a row may go.
    pub fn keep_no_more(&mut self) {
        if self.keep_below == RowId::MIN {
            return;
        }
        let before = std::mem::replace(&mut self.keep_below, RowId::MIN);
        self.to_sweep = self.uses.range(..before).map(|(segment, _)| *segment).collect();
        self.add_up();
    }

    /// The first number that is not in a segment.
    fn end_of(&self, segment: RowId) -> RowId {
        self.uses.range(segment.saturating_add(1)..).next().map_or(RowId::MAX, |(next, _)| *next)
    }

    fn remove_if_empty(&mut self, connection: &Connection, segment: RowId) {
        if self.is_open(segment) || segment < self.keep_below || !self.uses.contains_key(&segment) {
            return;
        }
        let path = file_of(&self.folder, segment);
        let removed = match is_empty(connection, segment..self.end_of(segment)) {
            Ok(false) => return,
            Ok(true) => fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error.to_string()),
            }),
            Err(error) => Err(error.to_string()),
        };
        match removed {
            Ok(()) => {
                self.uses.remove(&segment);
            }
            // Tried again at the next start.
            Err(error) => tracing::warn!(target: "spool", file = %path.display(), error,
                "a segment without pictures cannot be removed"),
        }
    }
}
