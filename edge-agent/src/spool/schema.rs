//! The database: its tables, its pragmas, its version, and what becomes of a damaged one.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::error::SpoolError;
use super::pictures;
use super::settings::Settings;

/// The database's file in the state directory.
pub const FILE: &str = "spool.sqlite";
/// In the name of a damaged database that was set aside.
const CORRUPT: &str = "corrupt";
/// In its name once all that can be read of it was salvaged.
const REMAINS: &str = "remains";
/// Left by a writer that met damage while running, so that the next start looks closely.
pub const SUSPECT_FILE: &str = "spool.sqlite.suspect";

/// Earlier ones can corrupt a database in WAL mode when a checkpoint and a commit meet (fixed in
/// 3.51.3).
const LEAST_SQLITE: i32 = 3_051_003;
const LEAST_SQLITE_TEXT: &str = "3.51.3";

/// "PkSp": tells a spool from any other database.
const APPLICATION_ID: i32 = 0x506b_5370;
/// Rises with every change of the tables. No release has an earlier one.
const FORMAT: i32 = 3;

/// Bytes per page. Each commit writes some five pages that hold little news (books, totals, the leaves
/// of the tables), so that small ones write least: `make bench-spool` gives 1.19 bytes written for one
/// that is kept with the link up, against 1.38 with 4096 and 1.54 with 8192. With 1024 it is 1.17, but
/// then a row's key need not lie in the page that a scan reads.
pub const PAGE_BYTES: u64 = 2048;

const TABLES: &str = "
CREATE TABLE spool (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    epoch_number   INTEGER NOT NULL,
    records        INTEGER NOT NULL,
    record_bytes   INTEGER NOT NULL,
    pictures       INTEGER NOT NULL,
    picture_bytes  INTEGER NOT NULL,
    month          TEXT,
    month_bytes    INTEGER NOT NULL
) STRICT;
INSERT INTO spool VALUES (1, 0, 0, 0, 0, 0, NULL, 0);

CREATE TABLE records (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL,
    epoch           TEXT NOT NULL,
    first           INTEGER NOT NULL,
    last            INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    bytes           INTEGER NOT NULL,
    committed_at_ms INTEGER,
    synchronised    INTEGER NOT NULL,
    batch_key       INTEGER,
    headers         TEXT NOT NULL,
    value           BLOB NOT NULL
) STRICT;

CREATE TABLE pictures (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL,
    epoch           TEXT NOT NULL,
    first           INTEGER NOT NULL,
    last            INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    bytes           INTEGER NOT NULL,
    committed_at_ms INTEGER,
    synchronised    INTEGER NOT NULL,
    batch_key       INTEGER,
    headers         TEXT NOT NULL,
    segment         INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    length          INTEGER NOT NULL,
    checksum        INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    key              TEXT PRIMARY KEY,
    epoch            TEXT NOT NULL,
    reserved         INTEGER NOT NULL,
    last_committed   INTEGER NOT NULL,
    captured         INTEGER NOT NULL,
    skipped          INTEGER NOT NULL,
    spooled          INTEGER NOT NULL,
    acknowledged     INTEGER NOT NULL,
    dropped          TEXT NOT NULL,
    pictures_dropped TEXT NOT NULL,
    frame_bytes       INTEGER NOT NULL,
    crop_bytes        INTEGER NOT NULL,
    observation_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE recordings (
    key           TEXT NOT NULL,
    fingerprint   TEXT NOT NULL,
    media_time_ns INTEGER NOT NULL,
    at_end        INTEGER NOT NULL,
    PRIMARY KEY (key, fingerprint)
) STRICT, WITHOUT ROWID;
";

/// Opens the database for the writer; a damaged one is set aside and a new one begun.
pub fn open_for_writing(state_dir: &Path, settings: &Settings) -> Result<Connection, SpoolError> {
    check_sqlite_version()?;
    let path = state_dir.join(FILE);
    match open(&path, settings).and_then(|connection| look_closely(connection, state_dir)) {
        Err(error) if error.is_corruption() => {
            give_up(state_dir, &error)?;
            open(&path, settings)
        }
        other => other,
    }
}

/// Sets a damaged database aside, and says so. Nobody may have it open.
pub fn give_up(state_dir: &Path, error: &SpoolError) -> Result<(), SpoolError> {
    // Should the power go before all its files are moved, the next start looks closely.
    mark_suspect(state_dir);
    let aside = set_aside(state_dir)?;
    metrics::counter!("picket_agent_spool_corrupt_databases_total").increment(1);
    tracing::error!(target: "spool", error = picket_service::logging::chain(error),
        aside = %aside.display(),
        "the spool is damaged: it was set aside and a new one begun; what can be read of it is brought over");
    Ok(())
}

fn check_sqlite_version() -> Result<(), SpoolError> {
    if rusqlite::version_number() < LEAST_SQLITE {
        let (found, needed) = (rusqlite::version(), LEAST_SQLITE_TEXT);
        return Err(SpoolError::SqliteTooOld { found, needed });
    }
    Ok(())
}

fn open(path: &Path, settings: &Settings) -> Result<Connection, SpoolError> {
    let connection = Connection::open(path)
        .map_err(|source| SpoolError::Open { path: path.to_path_buf(), source })?;
    set_pragmas(&connection, settings)?;
    create_or_check(&connection, path)?;
    Ok(connection)
}

/// Each pragma with what it buys and what it costs.
fn set_pragmas(connection: &Connection, settings: &Settings) -> Result<(), SpoolError> {
    let cap_pages = (settings.max_bytes / PAGE_BYTES).to_string();
    let wal_limit = (settings.checkpoint_bytes * 2).to_string();
    let page_bytes = PAGE_BYTES.to_string();
    let pragmas: [(&'static str, &str); 11] = [
        // An outside tool that writes for a moment does not fail a commit. Costs up to 2 s in
        // which the writer stands still.
        ("busy_timeout", "2000"),
        // See PAGE_BYTES. Has an effect on a new database only.
        ("page_size", &page_bytes),
        // Deleted pages are reused, never given back to the file system: no moving of pages at
        // each commit. Costs a file that stays as large as it once was, up to max_bytes.
        ("auto_vacuum", "NONE"),
        // One fsync per commit, and readers never wait for the writer. Costs a second copy of each
        // page that lives until the next checkpoint.
        ("journal_mode", "WAL"),
        // A commit that returned survives a power cut. Costs an fsync per commit, which is why
        // commits are batches.
        ("synchronous", "FULL"),
        // The writer checkpoints when no commit waits; SQLite's own would stall a commit at a
        // moment of its choosing. Costs code in the writer.
        ("wal_autocheckpoint", "0"),
        // A log that grew under a long reader shrinks again. Costs its blocks being allocated anew.
        ("journal_size_limit", &wal_limit),
        // The cap holds even if the estimate of room is wrong; not stored in the file, so set at
        // each open. Costs a failed commit where it is hit, and then more is evicted.
        ("max_page_count", &cap_pages),
        // Sorting needs no files in a directory that may be full or not writable. Costs memory,
        // little: no query here sorts more than a page.
        ("temp_store", "MEMORY"),
        // Reads go through the page cache of this process: a disk error is an error code and not a
        // SIGBUS. Costs a copy per page.
        ("mmap_size", "0"),
        // Deleted pictures are not overwritten with zeros: half the writes of a drain. Costs that
        // a stolen disk can show them; erasure is by encryption, not here.
        ("secure_delete", "OFF"),
    ];
    for (pragma, value) in pragmas {
        connection
            .pragma_update(None, pragma, value)
            .map_err(|source| SpoolError::Pragma { pragma, source })?;
    }
    // Some file systems give no shared memory: SQLite then stays in another mode without an error,
    // and readers would block the writer.
    let mode = connection
        .pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))
        .map_err(|source| SpoolError::Pragma { pragma: "journal_mode", source })?;
    if mode != "wal" {
        return Err(SpoolError::NoWal { mode });
    }
    Ok(())
}

/// Makes the tables in a new database, or checks that the database is a spool of a known format.
fn create_or_check(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|source| SpoolError::Schema { step: "read", source })?;
    if tables > 0 {
        return check_format(connection, path);
    }
    let script = format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; \
         PRAGMA user_version = {FORMAT}; {TABLES} COMMIT;"
    );
    connection.execute_batch(&script).map_err(|source| SpoolError::Schema { step: "make", source })
}

/// Refuses what is no spool, or one of another format.
fn check_format(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let read = |source| SpoolError::Schema { step: "read", source };
    let integer = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let path = path.to_path_buf();
    if integer("application_id").map_err(read)? != APPLICATION_ID {
        return Err(SpoolError::NotASpool { path });
    }
    let (found, known) = (integer("user_version").map_err(read)?, FORMAT);
    match found.cmp(&known) {
        Ordering::Greater => Err(SpoolError::NewerFormat { path, found, known }),
        Ordering::Less => Err(SpoolError::UnreleasedFormat { path, found, known }),
        Ordering::Equal => Ok(()),
    }
}

/// A start does not scan: a backlog of 10 GB would take minutes. Only where a writer left word of
/// damage is every page checked.
fn look_closely(connection: Connection, state_dir: &Path) -> Result<Connection, SpoolError> {
    if !state_dir.join(SUSPECT_FILE).exists() {
        return Ok(connection);
    }
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| SpoolError::Schema { step: "check", source })?;
    if verdict != "ok" {
        return Err(SpoolError::Row { what: "quick_check", value: verdict });
    }
    // The mark has served; were it to stay, the next start would only look closely again.
    if let Err(error) = fs::remove_file(state_dir.join(SUSPECT_FILE)) {
        tracing::warn!(target: "spool", %error, "cannot remove {SUSPECT_FILE}");
    }
    Ok(connection)
}

/// Leaves word for the next start that the database met damage.
pub fn mark_suspect(state_dir: &Path) {
    if let Err(error) = fs::write(state_dir.join(SUSPECT_FILE), "") {
        tracing::error!(target: "spool", %error, "cannot leave {SUSPECT_FILE}");
    }
}

/// Moves a damaged database away. Its pictures stay: its rows come over, and say where they lie.
fn set_aside(state_dir: &Path) -> Result<PathBuf, SpoolError> {
    let aside = move_database(&state_dir.join(FILE), free_name(state_dir, CORRUPT))?;
    let _ = fs::remove_file(state_dir.join(SUSPECT_FILE));
    Ok(aside)
}

/// Moves the database away as `spool.sqlite.<word>-<n>`, its log and its pictures with it. Nobody may
/// have it open.
pub fn set_aside_whole(state_dir: &Path, word: &str) -> Result<PathBuf, SpoolError> {
    let (from, to) = (state_dir.join(FILE), free_name(state_dir, word));
    // The pictures first: without a database they would be taken for what a crash has left.
    move_file(&pictures::folder_of(&from), pictures::folder_of(&to))?;
    move_database(&from, to)
}

fn free_name(state_dir: &Path, word: &str) -> PathBuf {
    let name = |n: u32| state_dir.join(format!("{FILE}.{word}-{n}"));
    let is_free = |n: &u32| !name(*n).exists() && !pictures::folder_of(&name(*n)).exists();
    name((1..).find(is_free).unwrap_or(u32::MAX))
}

/// With its log.
fn move_database(from: &Path, to: PathBuf) -> Result<PathBuf, SpoolError> {
    for suffix in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{}{suffix}", from.display()));
        let path = PathBuf::from(format!("{}{suffix}", to.display()));
        move_file(&from, path)?;
    }
    Ok(to)
}

/// One that is not there is well where it is to go.
fn move_file(from: &Path, to: PathBuf) -> Result<(), SpoolError> {
    match fs::rename(from, &to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SpoolError::SetAside { path: to, source: error })
        }
        _ => Ok(()),
    }
}

/// How many databases were set aside and are still there, salvaged or not.
pub fn count_set_aside(state_dir: &Path) -> u64 {
    let count = |word| numbers_of(state_dir, word).len() as u64;
    count(CORRUPT) + count(REMAINS)
}

/// Those that nothing was salvaged from yet, oldest first.
pub fn set_aside_databases(state_dir: &Path) -> Vec<PathBuf> {
    let path = |n| state_dir.join(format!("{FILE}.{CORRUPT}-{n}"));
    numbers_of(state_dir, CORRUPT).into_iter().map(path).collect()
}

/// Gives a database that was salvaged as far as it can be read the name of one that nobody will look at
/// again.
pub fn keep_remains(state_dir: &Path, path: &Path) -> Result<PathBuf, SpoolError> {
    let n = (1..).find(|n| !numbers_of(state_dir, REMAINS).contains(n)).unwrap_or(u32::MAX);
    move_database(path, state_dir.join(format!("{FILE}.{REMAINS}-{n}")))
}

fn numbers_of(state_dir: &Path, word: &str) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir(state_dir) else {
        return BTreeSet::new();
    };
    let number = |name: &str| {
        name.strip_prefix(FILE)?
            .strip_prefix('.')?
            .strip_prefix(word)?
            .strip_prefix('-')?
            .parse()
            .ok()
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| number(&name)).collect()
}

/// Opens the database for reading only; it does not disturb a running agent.
pub fn open_for_reading(state_dir: &Path) -> Result<Connection, SpoolError> {
    let path = state_dir.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)
        .map_err(|source| SpoolError::Open { path: path.clone(), source })?;
    for (pragma, value) in [("busy_timeout", "2000"), ("mmap_size", "0")] {
        connection
            .pragma_update(None, pragma, value)
            .map_err(|source| SpoolError::Pragma { pragma, source })?;
    }
    check_format(&connection, &path)?;
    Ok(connection)
}
