//! How large the database may be now: its cap, and what the file system leaves.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::reserve::Reserve;
use super::schema::PAGE_BYTES;
use super::settings::{LEAST_BYTES, Settings};

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Watches over the file system of the state directory.
#[derive(Debug)]
pub struct Room {
    state_dir: PathBuf,
    cap_pages: u64,
    min_free_bytes: u64,
    reserve: Reserve,
    /// The file system took no more bytes when they were last wanted.
    full: bool,
    looked: Option<Instant>,
}

impl Room {
    /// Takes the reserve, if there is space for it.
    pub fn new(state_dir: &Path, settings: &Settings) -> Self {
        let mut room = Self {
            state_dir: state_dir.to_path_buf(),
            cap_pages: settings.max_bytes / PAGE_BYTES,
            min_free_bytes: settings.min_free_bytes,
            reserve: Reserve::new(state_dir, settings.reserve_bytes()),
            full: false,
            looked: None,
        };
        room.take_back();
        room
    }

    /// Most pages that the database may ever take.
    pub fn cap_pages(&self) -> u64 {
        self.cap_pages
    }

    /// Most pages that it may take now, at `page_count`.
    pub fn pages(&self, page_count: u64) -> u64 {
        let available = available_bytes(&self.state_dir);
        let most = match available {
            _ if self.full => page_count,
            Some(available) => {
                let stays = self.min_free_bytes.saturating_add(self.reserve.missing_bytes());
                pages(stays, page_count, available)
            }
            None => u64::MAX,
        };
        most.min(self.cap_pages)
    }

    /// The file system took no more bytes: gives the reserve up, so that there is space to drop what is
    /// old and to say so. The database does not grow until there is space for the reserve again.
    pub fn is_full_now(&mut self) {
        self.looked = Some(Instant::now());
        self.full = true;
        self.reserve.give_up();
    }

    /// Whether the database must not grow.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Takes the reserve back when there is space again, before anything else takes it.
    pub fn take_back(&mut self) {
        let is_well = self.reserve.is_held() && !self.full;
        if is_well || self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        // As much again stays free: taken to the last byte, it would be given up at once.
        let needed = self.reserve.bytes() * 2;
        let available = available_bytes(&self.state_dir);
        match available.map(|available| available.saturating_add(self.reserve.laid_out_bytes())) {
            Some(available) if available < needed => {
                self.reserve.missed(&format!("{available} bytes are free, {needed} are needed"));
            }
            _ => {
                self.reserve.take();
                self.full &= !self.reserve.is_held();
            }
        }
    }
}

/// Most pages under the file system's limit. A database of the least size is always let grow: it is
/// what a spool needs to work at all.
fn pages(min_free_bytes: u64, page_count: u64, available: u64) -> u64 {
    let spare = available.saturating_sub(min_free_bytes) / PAGE_BYTES;
    page_count.saturating_add(spare).max(LEAST_BYTES / PAGE_BYTES)
}

fn available_bytes(state_dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(state_dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_database_grows_into_what_is_free_but_for_the_rest_that_must_stay() {
        let grown = pages(100 * MIB, 50_000, 300 * MIB);
        assert_eq!(grown, 50_000 + 200 * MIB / PAGE_BYTES);
        assert_eq!(pages(100 * MIB, 50_000, 90 * MIB), 50_000);
    }

    #[test]
    fn a_small_database_grows_to_the_least_size_though_little_is_free() {
        assert_eq!(pages(100 * MIB, 10, 50 * MIB), LEAST_BYTES / PAGE_BYTES);
    }

    #[test]
    fn a_database_does_not_grow_on_a_full_file_system_until_the_reserve_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = Room::new(dir.path(), &Settings::default());
        assert!(room.pages(10_000) > 10_000);
        room.is_full_now();
        assert_eq!(room.pages(10_000), 10_000);
        room.looked = None;
        room.take_back();
        assert!(!room.is_full() && room.pages(10_000) > 10_000);
    }
}
