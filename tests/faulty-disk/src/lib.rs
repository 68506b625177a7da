//! # A disk that fails on cue, and that remembers what it was told
//!
//! **In**: the folder of a test. **Out**: a [`FaultyDisk`] over it. All that SQLite does there passes
//! a shim before the real file system (SQLite's own seam, a VFS, made the process's default, so that
//! the product needs no hook), and so do syncs and renames of any other file there. Of files that lie in
//! folders of the folder, one deep, it sees every write: `pwrite`, `ftruncate`, `fdatasync`, `unlink`.
//!
//! It can fail on cue ([`FaultyDisk::fail`]), take its time over a sync ([`FaultyDisk::slow_syncs`]),
//! and write down every step ([`FaultyDisk::record`]). From the steps a [`PowerCut`] makes the folder
//! anew as a disk could hold it had the power gone at any of them: what was synced is there; of what
//! was not, nothing, all, some in any order, or some sectors.
//!
//! **Limits.** A sector of 512 bytes is written whole or not at all, and a synced one never changes: a
//! disk that lies about a sync, or that damages sectors beside the one it writes, is not in it.
//! Memory maps of SQLite are not seen; the spool turns them off. SQLite's `-shm` is left out of a
//! power cut: it is memory, made anew by the first who opens the database. Holes that are punched into
//! files are not seen, nor that a file is emptied as it is opened; a sync of one folder counts for the
//! names of all.

// A test's tool: what cannot happen in it is a failed test.
#![allow(clippy::expect_used, clippy::panic)]

mod calls;
mod disk;
mod power_cut;
mod random;
mod vfs;

pub use disk::{Call, Failure, Fault, FaultyDisk, File, Step};
pub use power_cut::{Keep, PowerCut};
pub use random::Random;
