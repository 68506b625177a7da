//! # Spool: kept on disk until acknowledged
//!
//! **In**: [`Observed`](crate::detect::Observed), per camera in `seq` order; from the uplink, which
//! rows it is done with. **Out**: rows to send, by the uplink's [`SpoolReader`]; blocks of `seq` and
//! positions of recordings, to capture; the [`Ledger`], to everyone.
//!
//! **Promises**
//! - *Crash*: what [`SpoolReader::next_batch`] gives out was committed with an fsync before, unless
//!   `durability` is `offline` and the link works: then it is kept in memory for a bounded time, and
//!   reaches the disk only if it is not acknowledged by then. Books,
//!   gap records and positions of recordings change in the transaction that makes them true. What
//!   had a `seq` and was not committed (at most `commit_interval_ms` and a commit's length) is lost;
//!   the next start's epoch record says so: its `reserved` bounds it, its `last_committed` is where
//!   it begins. After a clean end the two are equal.
//! - *Order*: rows of a camera are numbered in `seq` order. A gap record stands where it was
//!   noticed, behind rows that it is older than.
//! - *Duplicates*: a row is deleted only after the broker has acknowledged it; one that was
//!   acknowledged when the power went is sent again, byte for byte the same.
//! - *Loss*: nothing is dropped without a count and a gap record, both in one transaction. The
//!   exceptions are a picture that a crash takes from memory after its observation was sent, and
//!   damage: what cannot be read of a database that was set aside (the rest comes over, see
//!   [`salvage`]), and a row of which not even the camera can be read; both are errors in the log.
//!
//! **Limits**: the database and the pictures' files take `max_bytes` together, and do not grow where
//! `min_free_bytes` of their file system are not free; pictures of frames go before crops, and those
//! before observations, oldest first, of the camera that holds most, never what is on its way. When the
//! file system is full all the same, a reserve (`spool.reserve`) is given up so that what is old can
//! go. Memory: one batch, and `max_pending_bytes` while the disk refuses writes. A gap, epoch or clock
//! record is never evicted, nor dropped when it is refused; adjoining gaps become one until they are
//! sent, so that they stay few. The database does not shrink; the pictures' files go.
//!
//! # On disk
//!
//! In the state directory: `spool.sqlite` with its `-wal` and `-shm`, `epoch` (the counter once
//! more), `lock`, `spool.sqlite.corrupt-<n>` for each damaged database that was set aside, under the
//! name of `remains-<n>` once all was brought over that can be read of it (it goes where that is all),
//! and `spool.sqlite.former-<n>` for each of another device (`reset-identity`), with
//! `spool.sqlite.former-<n>-pictures` and `spool.keys.former-<n>`; `spool.keys`, a file for each batch
//! key, where values are encrypted (see [`encryption`]). All
//! tables are `STRICT`; format 3 (`user_version`), `application_id` 0x506b5370. A reader opens it
//! with `mode=ro` at any time.
//!
//! | table | row | columns |
//! |---|---|---|
//! | `records` | one message of the observations topic | `id`, `key` (`<device>/<camera>`), `epoch` (`<n>-<hex>`), `first`, `last` (the `seq` it is about), `kind` (as `picket-kind`), `bytes` (headers and value), `committed_at_ms` (Unix; null without a clock), `synchronised` (whether a time source kept that clock), `batch_key` (what the value is encrypted by; null if it is not), `headers` (JSON pairs, without the lane), `value` |
//! | `pictures` | one message of the frames topic | the same, but in place of `value` where it lies: `segment`, `position`, `length`, and its `checksum` (CRC-32) |
//! | `accounts` | one camera | `key`, newest `epoch`, its `reserved` and `last_committed`, `captured`, `skipped`, `spooled`, `acknowledged`, `dropped` and `pictures_dropped` (JSON: reason to count), `frame_bytes`, `crop_bytes`, `observation_bytes` of its rows |
//! | `recordings` | one recording of one camera | `key`, `fingerprint`, `media_time_ns`, `at_end` |
//! | `spool` | one, `id` 1 | `epoch_number`, and the totals `records`, `record_bytes`, `pictures`, `picture_bytes`; the `month` of the site (`2026-11`) and the `month_bytes` that went over the link in it |
//! | `salvage`, `salvage_waiting` | after damage only: one database, one camera | how far the salvage got; frames that the damaged books said were spooled and that have not come over |
//!
//! `spool.sqlite-pictures/` has the pictures' values, end to end, in segments of some 8 MiB: files with
//! sixteen hexadecimal digits as their names, the number of their first row.
//!
//! `id` rises over both tables with each commit. The `seq` of a camera that are still spooled:
//! `SELECT epoch, first, last FROM records WHERE key = ? AND kind IN ('observation', 'skip')`.
//!
//! Whoever looks from outside ([`list`], [`export`], [`verify`], [`stat`]) opens the database for
//! reading, beside the agent or without it, and changes nothing. What is to be carried by hand is
//! copied into a file whose format stands in `carried`; before that the agent is asked to let its
//! gap records stand ([`SpoolHandle::seal`]).
//!
//! Two tables rather than one with a topic column: each queue is then a scan by row number, with no
//! second index to write. There
//! is no index on `key` either, though the uplink reads by camera: it would put a page more per camera
//! into each commit (by a trial with 100 KB pictures 4 % more bytes written for one camera, and 14 %
//! more where only records are kept), where looking past the rows of others reads one page for several.

mod age;
mod batch;
mod books;
mod carried;
mod clock;
mod encryption;
mod entries;
mod epoch;
mod error;
mod eviction;
mod export;
mod former;
mod handle;
mod lease;
mod list;
mod lock;
mod log;
mod making_room;
mod month;
mod offering;
mod pictures;
mod quota;
mod reader;
mod record;
mod recordings;
mod reserve;
mod room;
mod salvage;
mod schema;
mod settings;
mod shared;
mod spooled;
mod stat;
mod store;
mod totals;
mod transaction;
mod unsaved;
mod upkeep;
mod verify;
mod walk;
mod worth;
mod writer;

pub use batch::{Outcome, Settled};
pub use books::Ledger;
pub use carried::{CarriedError, CarriedReader, CarriedWriter, Count};
pub use clock::Clock;
pub use encryption::{
    EncryptionError, EncryptionSettings, KeyError, Keyring, in_words as encryption_in_words,
};
pub use error::{Advice, SpoolError};
pub use export::{ExportError, Exported, export};
pub use former::{Former, set_aside_former};
pub use handle::{Spool, SpoolHandle};
pub use list::{Chosen, Group, list};
pub use lock::StateLock;
pub use reader::{Head, Heads, Limits, SpoolReader};
pub use record::RowId;
pub use settings::{Durability, Settings, SettingsError};
pub use spooled::Spooled;
pub use stat::{AccountStat, Stat, stat};
pub use totals::Totals;
pub use verify::{Found, verify};
