//! What can go wrong in the spool: a variant per failed step.

use std::io;
use std::path::PathBuf;

use picket_wire::message::EncodeError;
use picket_wire::{CameraName, Topic};
use rusqlite::ErrorCode;

use super::encryption::KeyError;
use super::record::RowId;
use super::settings::SettingsError;

/// A step of the spool that failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The settings cannot be worked with.
    #[error("the spool's settings are not valid")]
    Settings(#[from] SettingsError),
    /// The state directory cannot be made.
    #[error("cannot make the state directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent works on the same state.
    #[error(
        "another agent already uses the state directory {}: stop it, or give this agent a \
         state directory of its own", path.display()
    )]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The linked SQLite has known faults.
    #[error("SQLite {found} is linked, but {needed} or later is needed")]
    SqliteTooOld {
        /// Linked.
        found: &'static str,
        /// Needed.
        needed: &'static str,
    },
    /// The database cannot be opened.
    #[error("cannot open the spool {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// SQLite refused a pragma, or gave another value than was asked for.
    #[error("cannot set the spool's {pragma}")]
    Pragma {
        /// Which.
        pragma: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file system cannot carry a write-ahead log.
    #[error(
        "the spool's journal is in mode {mode:?}, not \"wal\": put the state directory on a local \
         file system"
    )]
    NoWal {
        /// The mode that SQLite chose.
        mode: String,
    },
    /// The tables cannot be made or read.
    #[error("cannot {step} the spool's tables")]
    Schema {
        /// Make or read.
        step: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// Written by a later agent.
    #[error(
        "the spool {} has format {found}, and this agent reads {known}: install the agent that \
         wrote it, let it drain, then go back", path.display()
    )]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i32,
        /// The newest that this build knows.
        known: i32,
    },
    /// Written before the first release.
    #[error(
        "the spool {} has format {found}, which no release has written, and this agent reads {known}: \
         move it away", path.display()
    )]
    UnreleasedFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i32,
        /// The one that this build reads.
        known: i32,
    },
    /// Some other program's database.
    #[error("{} is an SQLite database, but not a spool: move it away", path.display())]
    NotASpool {
        /// Which file.
        path: PathBuf,
    },
    /// A corrupt database cannot be moved out of the way.
    #[error("cannot set the corrupt spool aside as {}", path.display())]
    SetAside {
        /// The new name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The epoch file cannot be read or written.
    #[error("cannot {step} the epoch file {}", path.display())]
    EpochFile {
        /// Read or write.
        step: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("cannot draw the epoch's instance")]
    Random(#[source] getrandom::Error),
    /// What the spool holds cannot be read.
    #[error("cannot read {what} from the spool")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// A row that this build cannot have written.
    #[error("the spool holds a row that cannot be true: {what} is {value:?}")]
    Row {
        /// Which column.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// One row of a queue does not hold what a row must; those behind it may.
    #[error("row {id} of {topic} cannot be sent: its {what} cannot be read")]
    BadRow {
        /// Of which queue.
        topic: Topic,
        /// Which row.
        id: RowId,
        /// Which column.
        what: &'static str,
    },
    /// One row of a queue lies on damaged pages; those behind it may not.
    #[error("row {id} of {topic} lies on damaged pages")]
    DamagedRow {
        /// Of which queue.
        topic: Topic,
        /// Which row.
        id: RowId,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file of pictures.
    #[error("cannot {step} {}", path.display())]
    PictureFile {
        /// Which step.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key of a row cannot be had; that of those behind it may.
    #[error("row {id} of {topic} cannot be decrypted")]
    Key {
        /// Of which queue.
        topic: Topic,
        /// Which row.
        id: RowId,
        /// Why.
        source: KeyError,
    },
    /// The keys cannot be read, made or destroyed.
    #[error("the spool cannot be encrypted")]
    Encryption(#[source] KeyError),
    /// A step of a commit failed; nothing of the batch was kept.
    #[error("cannot {step} in the spool")]
    Commit {
        /// Which step.
        step: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// The write-ahead log cannot begin anew, and has grown as long as it may.
    #[error(
        "another program reads the spool in one long transaction: its log has {bytes} bytes, and may \
         have {most_bytes}"
    )]
    LogTooLong {
        /// It has.
        bytes: u64,
        /// It may have.
        most_bytes: u64,
    },
    /// A record cannot be written as JSON.
    #[error("cannot encode a record for the spool")]
    Encode(#[source] EncodeError),
    /// A camera that was not named when the spool was opened.
    #[error("the spool was not opened for the camera {camera}")]
    UnknownCamera {
        /// Which.
        camera: CameraName,
    },
    /// A thread cannot be started.
    #[error("cannot start the spool's writer")]
    Thread(#[source] io::Error),
    /// The disk refuses writes at the moment.
    #[error("the spool cannot be written at the moment: {problem}")]
    Failing {
        /// What the last attempt said.
        problem: String,
    },
    /// The writer did not answer in time.
    #[error("the spool's writer did not answer within {waited_ms} ms")]
    TimedOut {
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// The writer has ended.
    #[error("the spool's writer has ended")]
    WriterGone,
}

/// Whether a query gave what these tables cannot hold.
fn is_of_another_shape(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(
        error,
        E::QueryReturnedNoRows
            | E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..)
    )
}

/// What a caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same again, later.
    Retry,
    /// This item cannot be kept; the next one may.
    Discard,
    /// A person is needed.
    Stop,
}

impl SpoolError {
    /// What a caller should do.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Encode(_) | Self::Row { .. } | Self::BadRow { .. } => Advice::Discard,
            Self::Key { source, .. } if source.is_lost() => Advice::Discard,
            Self::Key { source, .. } if source.may_pass() => Advice::Retry,
            // Damage does not go by itself.
            _ if self.is_corruption() => Advice::Stop,
            Self::Read { .. }
            | Self::Commit { .. }
            | Self::PictureFile { .. }
            | Self::LogTooLong { .. }
            | Self::Failing { .. }
            | Self::TimedOut { .. } => Advice::Retry,
            _ => Advice::Stop,
        }
    }

    /// What SQLite says, if it was SQLite.
    fn sqlite_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Open { source, .. }
            | Self::Pragma { source, .. }
            | Self::Schema { source, .. }
            | Self::Read { source, .. }
            | Self::DamagedRow { source, .. }
            | Self::Commit { source, .. } => source.sqlite_error_code(),
            _ => None,
        }
    }

    /// Whether the database itself is damaged.
    pub(super) fn is_corruption(&self) -> bool {
        let damaged = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase];
        self.sqlite_code().is_some_and(|code| damaged.contains(&code))
            || matches!(self, Self::Row { .. } | Self::BadRow { .. })
            || matches!(self, Self::Read { source, .. } if is_of_another_shape(source))
    }

    /// Whether it is about one row, and others can be read.
    pub(super) fn is_of_one_row(&self) -> bool {
        match self {
            // The wrong master key is no matter of one row: with the right one all can be read.
            Self::Key { source, .. } => source.is_lost(),
            Self::BadRow { .. } | Self::DamagedRow { .. } | Self::PictureFile { .. } => true,
            _ => false,
        }
    }

    /// Whether there was no room: at the cap or on the disk.
    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let no_space = |error: &io::Error| matches!(error.kind(), StorageFull | QuotaExceeded);
        self.sqlite_code() == Some(ErrorCode::DiskFull)
            || matches!(self, Self::Encryption(source) if source.is_full())
            || matches!(self, Self::PictureFile { source, .. } if no_space(source))
    }
}
