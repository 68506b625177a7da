//! What waits in one queue, by camera: numbers of rows, found a little ahead. Pure.
//!
//! Rows of all cameras lie in one table in the order of their commit, and no index tells them apart.
//! So each camera has a cursor of its own, and a look at the table serves every camera whose cursor it
//! passes: cameras that keep pace share one pass over the table, and one that was left behind, because
//! its partition took nothing, is read for by itself when it takes again.

use std::collections::{BTreeMap, VecDeque};

use crate::spool::{Head, RowId};

/// Numbers of rows held per camera: 4 KiB of memory. As many as one look passes, so that an empty
/// shelf takes all that a look finds.
pub const AHEAD: usize = 256;

/// A row that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub id: RowId,
    /// What it weighs.
    pub bytes: u64,
}

/// One camera's.
#[derive(Debug)]
struct Shelf {
    rows: VecDeque<Waiting>,
    /// Every row of this camera before it is on the shelf, was taken from it, or is of the other lane.
    cursor: RowId,
    /// A look passed a row of this camera that had no place: the cursor stands at it or before.
    is_behind: bool,
    /// Bytes that it was given, counted so that the one with the fewest is next.
    served: u64,
}

impl Shelf {
    fn at(cursor: RowId, served: u64) -> Self {
        Self { rows: VecDeque::new(), cursor, is_behind: false, served }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= AHEAD
    }

    /// The first row that was not taken, or where it may stand.
    fn first(&self) -> RowId {
        self.rows.front().map_or(self.cursor, |row| row.id)
    }

    fn rewind(&mut self, to: RowId) {
        if to < self.cursor {
            let behind = self.rows.partition_point(|row| row.id < to);
            self.rows.truncate(behind);
            self.cursor = to;
        }
    }
}

/// One queue.
#[derive(Debug)]
pub struct Shelves {
    by_key: BTreeMap<String, Shelf>,
    /// Cameras that have no shelf have no row before it.
    frontier: RowId,
    /// No row stood here or behind it at the last look; `None` if there may be some now.
    end: Option<RowId>,
    /// What the camera served last had been given by then: one that comes back does not catch up on
    /// what it did not ask for.
    served: u64,
}

impl Shelves {
    /// Empty ones, of rows from `start` on.
    pub fn new(start: RowId) -> Self {
        Self { by_key: BTreeMap::new(), frontier: start, end: None, served: 0 }
    }

    /// There may be more behind the end.
    pub fn more(&mut self) {
        self.end = None;
    }

    /// Whether rows behind `cursor` were not looked at.
    fn goes_on(&self, cursor: RowId) -> bool {
        self.end.is_none_or(|end| cursor < end)
    }

    /// Where to look next: for a camera that has nothing left on its shelf and could send, or for
    /// cameras that nothing is known of. The one farthest behind first: the look serves those that
    /// it passes.
    pub fn look_from(&self, has_room: impl Fn(&str) -> bool) -> Option<RowId> {
        let hungry = |(key, shelf): &(&String, &Shelf)| {
            shelf.rows.is_empty() && self.goes_on(shelf.cursor) && has_room(key)
        };
        let hungry = self.by_key.iter().filter(hungry).map(|(_, shelf)| shelf.cursor).min();
        hungry.or_else(|| self.goes_on(self.frontier).then_some(self.frontier))
    }

    /// Takes in a look at the rows of `from..to`: all of the table in that range, as far as they are
    /// `of_this_lane`. `ends` if there is nothing behind them.
    pub fn take_in(
        &mut self,
        (from, to): (RowId, RowId),
        heads: Vec<Head>,
        ends: bool,
        of_this_lane: impl Fn(&Head) -> bool,
    ) {
        for head in heads.into_iter().filter(of_this_lane) {
            let (frontier, served) = (self.frontier, self.served);
            let shelf = self.by_key.entry(head.key).or_insert_with(|| Shelf::at(frontier, served));
            if (from..=head.id).contains(&shelf.cursor) && !shelf.is_behind {
                if shelf.is_full() {
                    shelf.is_behind = true;
                    continue;
                }
                if shelf.rows.is_empty() {
                    shelf.served = shelf.served.max(served);
                }
                shelf.rows.push_back(Waiting { id: head.id, bytes: head.bytes });
                shelf.cursor = head.id + 1;
            }
        }
        let passed = from..to;
        for shelf in self.by_key.values_mut() {
            if passed.contains(&shelf.cursor) && !shelf.is_behind {
                shelf.cursor = to;
            }
            shelf.is_behind = false;
        }
        if passed.contains(&self.frontier) {
            self.frontier = to;
        }
        if ends {
            self.end = Some(to);
        }
    }

    /// The camera that is next among those that have a row and room for it: the one that was given
    /// the least.
    pub fn next(&self, has_room: impl Fn(&str) -> bool) -> Option<&str> {
        let ready = |(key, shelf): &(&String, &Shelf)| !shelf.rows.is_empty() && has_room(key);
        let next = self.by_key.iter().filter(ready).min_by_key(|(_, shelf)| shelf.served);
        next.map(|(key, _)| key.as_str())
    }

    /// Takes a camera's first row.
    pub fn take(&mut self, key: &str) -> Option<Waiting> {
        let shelf = self.by_key.get_mut(key)?;
        let row = shelf.rows.pop_front()?;
        self.served = self.served.max(shelf.served);
        // At least one: a row that is gone by now counts for the turn that it took.
        shelf.served += row.bytes.max(1);
        Some(row)
    }

    /// Puts a row back that was just taken.
    pub fn put_back(&mut self, key: &str, row: Waiting) {
        if let Some(shelf) = self.by_key.get_mut(key) {
            shelf.rows.push_front(row);
        }
    }

    /// A row that was taken waits again, before those behind it. Those that are on their way are met
    /// a second time, and stepped over when they are taken.
    pub fn again(&mut self, key: &str, id: RowId) {
        let (frontier, served) = (self.frontier, self.served);
        let shelf =
            self.by_key.entry(key.to_owned()).or_insert_with(|| Shelf::at(frontier, served));
        shelf.rewind(id);
    }

    /// There are rows of any camera from `from` on that no look has met.
    pub fn grew(&mut self, from: RowId) {
        self.widen(from);
        self.by_key.values_mut().for_each(|shelf| shelf.rewind(from));
        self.end = None;
    }

    /// The first row of a camera that was not taken, or where it may stand.
    pub fn first_of(&self, key: &str) -> RowId {
        self.by_key.get(key).map_or(self.frontier, Shelf::first)
    }

    /// The cameras that have a shelf.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.by_key.keys()
    }

    /// Where rows of cameras without a shelf may stand.
    pub fn frontier(&self) -> RowId {
        self.frontier
    }

    /// Cameras without a shelf may have a row from `to` on.
    pub fn widen(&mut self, to: RowId) {
        self.frontier = self.frontier.min(to);
    }

    /// Nothing of this camera before `from` belongs here any more.
    pub fn cut(&mut self, key: &str, from: RowId) {
        if let Some(shelf) = self.by_key.get_mut(key) {
            shelf.rows.retain(|row| row.id >= from);
            shelf.cursor = shelf.cursor.max(from);
        }
    }

    /// Begins anew with what stands at `from` and behind it.
    pub fn restart(&mut self, from: RowId) {
        self.by_key.clear();
        (self.frontier, self.end) = (from, None);
    }
}
