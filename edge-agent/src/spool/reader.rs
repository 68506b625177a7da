//! The uplink's side of the database, and what `doctor` and `spool stat` look at.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use picket_wire::status::{Books, SpoolStatus};
use picket_wire::{CameraKey, EpochId, Kind, Topic};
use rusqlite::Connection;

use super::batch::Settled;
use super::books;
use super::encryption::{self, KeyError, Keyring, bound_to};
use super::error::SpoolError;
use super::lease::Held;
use super::month::Month;
use super::pictures::{self, Pictures, Place};
use super::record::{Row, RowId};
use super::schema;
use super::shared::Shared;
use super::totals::{self, Totals, table};
use super::writer::{self, Command};

/// A record as it lies in the spool, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Which table.
    pub topic: Topic,
    /// Which row of it.
    pub id: RowId,
    /// The Kafka key.
    pub key: String,
    /// All Kafka headers but the lane.
    pub headers: Vec<(String, String)>,
    /// The Kafka value.
    pub value: Vec<u8>,
}

impl Spooled {
    /// Bytes that it takes in memory, near enough.
    pub fn bytes(&self) -> u64 {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        (self.key.len() + headers + self.value.len()) as u64
    }

    /// Whether it stands for frames or a picture, which a gap record could stand for in its place.
    /// A gap, an epoch or a clock record has no such second: without it the centre waits for ever.
    pub fn is_replaceable(&self) -> bool {
        let kind = self.headers.iter().find(|(name, _)| name == picket_wire::header::KIND);
        let replaceable = [Kind::Observation, Kind::Skip, Kind::Frame, Kind::Crop];
        kind.is_some_and(|(_, text)| replaceable.iter().any(|kind| kind.as_str() == text))
    }

    /// Its id, for a log line.
    pub fn id_text(&self) -> &str {
        let id = self.headers.iter().find(|(name, _)| name == picket_wire::header::ID);
        id.map_or("", |(_, value)| value)
    }
}

/// What tells whose a row is and what it weighs, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which row.
    pub id: RowId,
    /// The Kafka key.
    pub key: String,
    /// Bytes of headers and value.
    pub bytes: u64,
}

/// Rows that a look has passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heads {
    /// In their order.
    pub heads: Vec<Head>,
    /// Whether there is none behind them.
    pub ends: bool,
}

/// How much to read at once; the first row is read whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: u64,
}

/// A connection that reads while the writer writes.
pub struct SpoolReader {
    connection: Connection,
    pictures: Pictures,
    shared: Arc<Shared>,
    commands: Sender<Command>,
    committed: Receiver<()>,
}

impl SpoolReader {
    pub(super) fn open(
        shared: Arc<Shared>,
        commands: Sender<Command>,
        committed: Receiver<()>,
    ) -> Result<Self, SpoolError> {
        let connection = schema::open_for_reading(&shared.state_dir)?;
        let pictures = Pictures::of(&shared.state_dir.join(schema::FILE));
        Ok(Self { connection, pictures, shared, commands, committed })
    }

    /// Takes the oldest rows of a table with a number in `ids` that are not on their way already.
    /// Each stays with the caller until it is settled or given back. A row that cannot be read ends
    /// the batch before it, and is the error of the next call if it comes first there.
    pub fn next_batch(
        &self,
        topic: Topic,
        ids: Range<RowId>,
        limits: Limits,
    ) -> Result<Vec<Spooled>, SpoolError> {
        // Held over the read: what is read was not evicted before, and will not be evicted after.
        let mut held = self.shared.leases.lock();
        let mut batch = Vec::new();
        let read = self.read(topic, ids, limits, &held, &mut batch);
        if let Err(error) = read {
            if error.is_corruption() {
                schema::mark_suspect(&self.shared.state_dir);
            }
            if batch.is_empty() {
                return Err(error);
            }
        }
        batch.iter().for_each(|spooled| held.hand_out(spooled.id));
        Ok(batch)
    }

    /// Looks at the next rows of a table, those on their way among them, and takes none. All of a
    /// row that is read lies in one page, so that looking past another camera's pictures is cheap.
    /// What cannot be read cuts the look short before it, and is the error of the next one.
    pub fn heads(
        &self,
        topic: Topic,
        ids: Range<RowId>,
        limit: usize,
    ) -> Result<Heads, SpoolError> {
        let mut heads = Vec::new();
        // Held over both: a row that leaves the memory in between would be in neither.
        let held = self.shared.leases.lock();
        let from_disk = self.read_heads(topic, ids.clone(), limit, &mut heads);
        if from_disk.is_ok() {
            for (id, row) in held.unsaved().range(topic, ids).take(limit) {
                heads.push(Head { id, key: row.key.to_string(), bytes: row.bytes() });
            }
            heads.sort_by_key(|head| head.id);
            // One that was committed just now is still in memory too.
            heads.dedup_by_key(|head| head.id);
        }
        let ends = from_disk.is_ok() && heads.len() < limit;
        heads.truncate(limit);
        match from_disk {
            Err(error) => {
                if error.is_corruption() {
                    schema::mark_suspect(&self.shared.state_dir);
                }
                if heads.is_empty() { Err(error) } else { Ok(Heads { heads, ends }) }
            }
            Ok(()) => Ok(Heads { heads, ends }),
        }
    }

    fn read_heads(
        &self,
        topic: Topic,
        ids: Range<RowId>,
        limit: usize,
        heads: &mut Vec<Head>,
    ) -> Result<(), SpoolError> {
        let read = |source| SpoolError::Read { what: "rows that wait", source };
        let sql = format!(
            "SELECT id, key, bytes FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id",
            table(topic)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let mut rows = statement.query([ids.start, ids.end]).map_err(read)?;
        let mut from = ids.start;
        while heads.len() < limit {
            let next = rows.next().map_err(|source| self.at_row(topic, from..ids.end, source));
            let Some(row) = next? else { break };
            let id = row.get(0).map_err(read)?;
            let bad = |what| SpoolError::BadRow { topic, id, what };
            let key = row.get(1).map_err(|_| bad("key"))?;
            let bytes = row.get(2).map_err(|_| bad("bytes"))?;
            let bytes = books::counted("bytes", bytes).map_err(|_| bad("bytes"))?;
            heads.push(Head { id, key, bytes });
            from = id + 1;
        }
        Ok(())
    }

    /// Rows of the database, and between them those that are not on the disk yet.
    fn read(
        &self,
        topic: Topic,
        ids: Range<RowId>,
        limits: Limits,
        held: &Held,
        batch: &mut Vec<Spooled>,
    ) -> Result<(), SpoolError> {
        let mut bytes = 0;
        let mut unsaved = held.unsaved().range(topic, ids.clone()).peekable();
        let mut from = ids.start;
        let read = |source| SpoolError::Read { what: "rows to send", source };
        let sql = format!(
            "SELECT {} FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id",
            columns(topic),
            table(topic)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let mut rows = statement.query([ids.start, ids.end]).map_err(read)?;
        let mut at_end = false;
        while batch.len() < limits.rows && bytes < limits.bytes && !at_end {
            let next = rows.next().map_err(|source| self.at_row(topic, from..ids.end, source));
            let row = next?;
            let id = row.map(|row| row.get(0)).transpose().map_err(read)?;
            while let Some((id, row)) =
                unsaved.next_if(|(other, _)| id.is_none_or(|id| *other < id))
                && batch.len() < limits.rows
                && bytes < limits.bytes
            {
                if !held.is_in_flight(id) {
                    let spooled = of_memory(id, row)?;
                    bytes += spooled.bytes();
                    batch.push(spooled);
                }
            }
            let Some((id, row)) = id.zip(row) else {
                at_end = true;
                continue;
            };
            // One that was committed just now is still in memory too.
            let _ = unsaved.next_if(|(other, _)| *other == id);
            from = id + 1;
            // SQLite reads a column's pages when it is asked for: stepping over a row costs little.
            if !held.is_in_flight(id) && batch.len() < limits.rows && bytes < limits.bytes {
                let spooled = spooled(topic, id, row, &self.pictures, &self.shared.keyring)?;
                bytes += spooled.bytes();
                batch.push(spooled);
            }
        }
        Ok(())
    }

    /// The error with the row that it is about: numbers lie on other pages than values, so that
    /// they can often still be read.
    fn at_row(&self, topic: Topic, ids: Range<RowId>, source: rusqlite::Error) -> SpoolError {
        let error = SpoolError::Read { what: "rows to send", source };
        let sql = format!("SELECT min(id) FROM {} WHERE id >= ?1 AND id < ?2", table(topic));
        let id = || {
            let row = [ids.start, ids.end];
            self.connection.query_row(&sql, row, |row| row.get::<_, Option<RowId>>(0)).ok()?
        };
        match (error.is_corruption().then(id).flatten(), error) {
            (Some(id), SpoolError::Read { source, .. }) => {
                SpoolError::DamagedRow { topic, id, source }
            }
            (_, error) => error,
        }
    }

    /// Gives rows back that were not delivered; they will be read again.
    pub fn give_back(&self, ids: impl IntoIterator<Item = RowId>) {
        let mut held = self.shared.leases.lock();
        ids.into_iter().for_each(|id| held.give_back(id));
    }

    /// The broker has these, or will never take them: their rows go with the next commit. A row
    /// that was acknowledged and not yet deleted when the power goes is sent again, with the same
    /// bytes, and the centre knows it by its id.
    pub fn settle(&self, settled: Vec<Settled>) -> Result<(), SpoolError> {
        if settled.is_empty() {
            return Ok(());
        }
        self.commands.send(Command::Settle(settled)).map_err(|_| SpoolError::WriterGone)
    }

    /// Waits until all that was settled before is committed.
    pub fn flush(&self, limit: Duration) -> Result<(), SpoolError> {
        writer::ask(&self.commands, limit, Command::Flush)
    }

    /// Says that something was committed since it was last asked.
    pub fn committed(&self) -> &Receiver<()> {
        &self.committed
    }

    /// So many bytes went over the link. They are kept with the next commit.
    pub fn carried(&self, bytes: u64) -> Result<(), SpoolError> {
        self.commands.send(Command::Carried(bytes)).map_err(|_| SpoolError::WriterGone)
    }

    /// Tells whether what is sent is acknowledged at the moment.
    pub fn set_link_works(&self, works: bool) {
        self.shared.link_works.store(works, Ordering::SeqCst);
    }

    /// Sets the bytes that may go over the link in a month.
    pub fn set_monthly_budget(&self, bytes: Option<u64>) {
        self.shared.month_budget_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Whether they have gone, as far as anybody knows.
    pub fn is_over_budget(&self) -> bool {
        self.shared.is_over_budget()
    }

    /// Whether pictures are left out for that until the month ends: not while no clock tells whether
    /// it has.
    pub fn leaves_pictures_out(&self) -> bool {
        self.shared.leaves_pictures_out()
    }

    /// Of each queue to which rows of a damaged database came since the last call: the first of them.
    pub fn salvaged(&self) -> Vec<(Topic, RowId)> {
        let topics = Topic::OF_CAMERAS.into_iter();
        let firsts =
            self.shared.salvaged.iter().map(|first| first.swap(RowId::MAX, Ordering::SeqCst));
        topics.zip(firsts).filter(|(_, first)| *first != RowId::MAX).collect()
    }

    /// The number of the first row of this run of the agent.
    pub fn first_id(&self) -> RowId {
        self.shared.first_id
    }

    /// The number of the next row that comes in.
    pub fn next_id(&self) -> RowId {
        self.shared.next_id.load(Ordering::SeqCst)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> Result<bool, SpoolError> {
        let held = self.shared.leases.lock();
        let (_, totals) = totals::load(&self.connection)?;
        Ok(totals.records == 0 && totals.pictures == 0 && held.unsaved().is_empty())
    }

    /// Whether a row with a lower number is left.
    pub fn has_any_below(&self, id: RowId) -> Result<bool, SpoolError> {
        let held = self.shared.leases.lock();
        let in_memory = Topic::OF_CAMERAS
            .into_iter()
            .any(|topic| held.unsaved().range(topic, RowId::MIN..id).next().is_some());
        if in_memory {
            return Ok(true);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM records WHERE id < ?1)
            OR EXISTS (SELECT 1 FROM pictures WHERE id < ?1)";
        let found = self.connection.prepare_cached(sql);
        found
            .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
            .map_err(|source| SpoolError::Read { what: "the oldest rows", source })
    }

    /// What is kept, for the heartbeat. `now_ms` is wall time, if it is known.
    pub fn status(&self, now_ms: Option<i64>) -> Result<SpoolStatus, SpoolError> {
        let (_, totals) = totals::load(&self.connection)?;
        let oldest = oldest_ms(&self.connection)?;
        let month = Month::load(&self.connection)?;
        let budget = self.shared.month_budget_bytes.load(Ordering::SeqCst);
        Ok(SpoolStatus {
            month: month.name,
            month_bytes: month.bytes,
            month_budget_bytes: (budget != u64::MAX).then_some(budget),
            records: totals.records + totals.pictures,
            bytes: totals.record_bytes + totals.picture_bytes,
            cap_bytes: self.shared.cap_bytes,
            oldest_age_ms: now_ms
                .zip(oldest)
                .map(|(now, then)| books::unsigned(now.saturating_sub(then))),
        })
    }
}

/// The columns that [`spooled`] wants, in their order.
pub(super) fn columns(topic: Topic) -> String {
    let kept = if topic == Topic::Frames { Place::COLUMNS } else { "value" };
    format!("id, key, headers, batch_key, {kept}")
}

/// A row of [`columns`], and its picture, decrypted if it has to be.
pub(super) fn spooled(
    topic: Topic,
    id: RowId,
    row: &rusqlite::Row<'_>,
    pictures: &Pictures,
    keyring: &Keyring,
) -> Result<Spooled, SpoolError> {
    let bad = |what| SpoolError::BadRow { topic, id, what };
    let header_text: String = row.get(2).map_err(|_| bad("headers"))?;
    let headers = serde_json::from_str(&header_text).map_err(|_| bad("headers"))?;
    let key: String = row.get(1).map_err(|_| bad("key"))?;
    let value = match topic {
        Topic::Frames => {
            let place = Place::read(row, 4).ok().flatten().ok_or_else(|| bad("place"))?;
            pictures.read(id, place)?
        }
        _ => row.get(4).map_err(|_| bad("value"))?,
    };
    let value = match row.get(3).map_err(|_| bad("batch_key"))? {
        None => value,
        Some(number) => {
            let bound_to = bound_to(topic, &key, &header_text);
            keyring.decrypt(number, &bound_to, &value).map_err(|source| match source {
                KeyError::DoesNotOpen { .. } => bad("encrypted value"),
                source => SpoolError::Key { topic, id, source },
            })?
        }
    };
    Ok(Spooled { topic, id, key, headers, value })
}

/// A row that is not on the disk yet.
fn of_memory(id: RowId, row: &Row) -> Result<Spooled, SpoolError> {
    let topic = row.topic;
    let headers = serde_json::from_str(&row.headers).map_err(|_| SpoolError::BadRow {
        topic,
        id,
        what: "headers",
    })?;
    Ok(Spooled { topic, id, key: row.key.to_string(), headers, value: row.value.clone() })
}

/// Wall time of the oldest row, in milliseconds; none if the clock was not set then.
fn oldest_ms(connection: &Connection) -> Result<Option<i64>, SpoolError> {
    let read = |source| SpoolError::Read { what: "the oldest row", source };
    let sql = "SELECT min(at) FROM (
        SELECT (SELECT committed_at_ms FROM records ORDER BY id LIMIT 1) AS at UNION ALL
        SELECT (SELECT committed_at_ms FROM pictures ORDER BY id LIMIT 1))";
    connection.query_row(sql, [], |row| row.get(0)).map_err(read)
}

/// What a spool holds, read without disturbing its agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Stat {
    /// Rows and bytes.
    pub totals: Totals,
    /// Wall time of the oldest row, Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// Bytes that the database, its log and the pictures take of the disk.
    pub file_bytes: u64,
    /// Damaged databases that were set aside.
    pub set_aside: u64,
    /// Keys that encrypted records wait under.
    pub batch_keys: usize,
    /// By camera: newest epoch, last committed `seq`, bound, and books.
    pub accounts: BTreeMap<CameraKey, AccountStat>,
}

/// One camera's part.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountStat {
    /// The newest epoch.
    pub epoch: EpochId,
    /// Last `seq` committed in it.
    pub last_committed: u64,
    /// No `seq` beyond this was given out in it.
    pub reserved: u64,
    /// As on disk.
    pub books: Books,
}

/// Reads the spool of a state directory, whether its agent runs or not.
pub fn stat(state_dir: &Path) -> Result<Stat, SpoolError> {
    let connection = schema::open_for_reading(state_dir)?;
    let (_, totals) = totals::load(&connection)?;
    let size = |suffix: &str| {
        let path = state_dir.join(format!("{}{suffix}", schema::FILE));
        std::fs::metadata(path).map_or(0, |meta| meta.len())
    };
    let accounts = books::load(&connection)?.into_iter().map(|(key, account)| {
        let (last_committed, reserved) = (account.last_committed, account.reserved);
        let epoch = account.epoch;
        (key, AccountStat { epoch, last_committed, reserved, books: account.books })
    });
    Ok(Stat {
        totals,
        oldest_ms: oldest_ms(&connection)?,
        file_bytes: size("") + size("-wal") + pictures::disk_bytes(&state_dir.join(schema::FILE)),
        set_aside: schema::count_set_aside(state_dir),
        batch_keys: encryption::count(state_dir),
        accounts: accounts.collect(),
    })
}
