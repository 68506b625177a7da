//! The uplink's side of the spool: what waits, taken to be sent, and given back or settled.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use picket_wire::Topic;
use picket_wire::status::SpoolStatus;
use rusqlite::Connection;

use super::batch::Settled;
use super::books;
use super::error::SpoolError;
use super::lease::Held;
use super::month::Month;
use super::pictures::Pictures;
use super::record::RowId;
use super::schema;
use super::shared::Shared;
use super::spooled::{Spooled, columns, of_memory, spooled};
use super::stat::oldest_ms;
use super::totals::{self, table};
use super::writer::{self, Command};

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
