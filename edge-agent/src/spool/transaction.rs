//! One transaction of the writer: rows, deletions, gaps and books change together or not at all.

use std::collections::BTreeMap;

use picket_wire::observation::{ClockState, GapOf, Reason, Stamp};
use picket_wire::{CameraKey, EpochId, Kind, Topic};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, ToSql, params};

use super::batch::{Outcome, Settled};
use super::books::{self, Account, MOST, parsed, signed, unsigned};
use super::encryption::{Cipher, Stored};
use super::error::SpoolError;
use super::lease::Held;
use super::month::Month;
use super::pictures::{Place, Segments};
use super::quota::Space;
use super::record::{Dropped, Row, RowId, frames};
use super::schema::PAGE_BYTES;
use super::totals::{Totals, table};
use super::worth::Worth;

/// The newest gap row of each line of each camera: it may grow as long as nobody has seen it.
pub type OpenGaps = BTreeMap<Line, (RowId, Dropped)>;
/// A camera, and what of it was dropped (`GapOf` has no order to be a key by).
pub type Line = (CameraKey, u8);

fn line(dropped: &Dropped) -> Line {
    let of = match dropped.of {
        GapOf::Observations => 0,
        GapOf::Frames => 1,
        GapOf::Crops => 2,
    };
    (dropped.key.clone(), of)
}

/// A row's columns, without its value.
#[derive(Debug)]
pub struct Outline {
    pub id: RowId,
    pub key: CameraKey,
    pub epoch: EpochId,
    pub first: u64,
    pub last: u64,
    pub kind: String,
    pub bytes: u64,
    pub headers: String,
    /// Where its picture lies, of a row of pictures.
    pub place: Option<Place>,
}

impl Outline {
    /// The columns, in the order in which [`Outline::read`] wants them.
    pub fn columns(topic: Topic) -> String {
        let place = Place::columns_of(topic);
        format!("id, key, epoch, first, last, kind, bytes, headers, {place}")
    }

    pub fn read(row: &SqlRow<'_>) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Read { what: "a row", source };
        let number = |column: usize| row.get::<_, i64>(column).map_err(failed);
        // A flipped bit may make it anything: kept within what can be added up, since a record that is
        // whole says better what it is about.
        let count = |column| number(column).map(|number| unsigned(number).min(MOST));
        // A flipped bit leaves text that is none.
        let text = |column: usize, what| {
            let value = row.get_ref(column).map_err(failed)?;
            let value = value.as_str().map(ToOwned::to_owned);
            value.map_err(|_| SpoolError::Row { what, value: "no text".to_owned() })
        };
        Ok(Self {
            id: number(0)?,
            key: parsed("key", &text(1, "key")?)?,
            epoch: parsed("epoch", &text(2, "epoch")?)?,
            first: count(3)?,
            last: count(4)?,
            kind: text(5, "kind")?,
            bytes: count(6)?,
            headers: text(7, "headers")?,
            place: Place::read(row, 8).map_err(failed)?,
        })
    }

    /// Frames that it accounts for.
    pub fn frames(&self) -> u64 {
        let kinds = [Kind::Observation, Kind::Skip];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.kind);
        kind.map_or(0, |kind| frames(kind, self.first, self.last))
    }
}

/// The work on one transaction; what it changes in memory is taken over only after its commit.
pub struct Transaction<'a> {
    pub connection: &'a Connection,
    pub accounts: &'a BTreeMap<CameraKey, Account>,
    pub open_gaps: &'a OpenGaps,
    pub pictures: &'a mut Segments,
    /// Of the rows that it deletes.
    pub freed: Vec<Place>,
    /// Bytes that come back with them.
    pub freed_bytes: u64,
    /// The lease lock, held where rows may be dropped or gaps grow.
    pub held: Option<&'a mut Held>,
    pub epoch: EpochId,
    pub now: Stamp,
    pub changed: BTreeMap<CameraKey, Account>,
    pub new_gaps: OpenGaps,
    pub totals: Totals,
    pub month: Month,
    pub next_id: RowId,
    pub cipher: Cipher<'a>,
    /// Rows that are in memory no more: it writes them, or drops them.
    pub left_memory: Vec<RowId>,
}

impl Transaction<'_> {
    /// The account of a camera, to be changed.
    pub fn account(&mut self, key: &CameraKey) -> &mut Account {
        let known = || self.accounts.get(key).cloned().unwrap_or(Account::new(self.epoch));
        self.changed.entry(key.clone()).or_insert_with(known)
    }

    /// Writes a row, its value as the config wants it on disk.
    pub fn insert(&mut self, row: &Row) -> Result<RowId, SpoolError> {
        let id = self.next_id;
        self.insert_as(id, row)?;
        self.next_id += 1;
        Ok(id)
    }

    /// Writes a row that was offered with its number.
    pub fn insert_as(&mut self, id: RowId, row: &Row) -> Result<(), SpoolError> {
        let at_ms = self.now.captured_at.map(|at| at.as_millisecond());
        let synchronised = self.now.clock == ClockState::Synchronised;
        let stored = self.cipher.stored(row).map_err(SpoolError::Encryption)?;
        let place = match row.topic {
            Topic::Frames => Some(self.pictures.append(id, &stored.value)?),
            _ => None,
        };
        self.write("INSERT", id, (at_ms, synchronised), row, &stored, place).map(|_| ())
    }

    /// Writes a row that was in another database with its number and time there, and its value as it was
    /// stored there; false if there is one with that number. Its picture stays where it lies.
    pub fn put_back(
        &mut self,
        id: RowId,
        time: (Option<i64>, bool),
        row: &Row,
        stored: &Stored<'_>,
        place: Option<Place>,
    ) -> Result<bool, SpoolError> {
        self.write("INSERT OR IGNORE", id, time, row, stored, place)
    }

    /// What there will be once this is committed.
    pub fn space(&self, most_pages: u64) -> Result<Space, SpoolError> {
        let pictures = self.pictures.live_pages().saturating_sub(self.freed_bytes / PAGE_BYTES);
        Space::under(most_pages, self.connection, pictures)
    }

    fn write(
        &mut self,
        verb: &str,
        id: RowId,
        (at_ms, synchronised): (Option<i64>, bool),
        row: &Row,
        stored: &Stored<'_>,
        place: Option<Place>,
    ) -> Result<bool, SpoolError> {
        let (key, epoch, bytes) = (row.key.to_string(), row.epoch.to_string(), signed(row.bytes()));
        let (first, last, kind) = (signed(row.first), signed(row.last), row.kind.as_str());
        let place = place.map(|place| place.values());
        let mut values: Vec<&dyn ToSql> = vec![
            &id,
            &key,
            &epoch,
            &first,
            &last,
            &kind,
            &bytes,
            &at_ms,
            &synchronised,
            &stored.batch_key,
            &row.headers,
        ];
        match &place {
            Some(place) => values.extend(place.iter().map(|value| value as &dyn ToSql)),
            None => values.push(&stored.value),
        }
        let marks = vec!["?"; values.len()].join(", ");
        let sql = format!("{verb} INTO {} VALUES ({marks})", table(row.topic));
        let count = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.execute(values.as_slice()))
            .map_err(|source| SpoolError::Commit { step: "write a row", source })?;
        if count == 0 {
            return Ok(false);
        }
        self.totals.add(row.topic, row.bytes());
        if let Some(worth) = Worth::of(row.kind.as_str()) {
            self.account(&row.key).weights.add(worth, row.bytes());
        }
        Ok(true)
    }

    /// Deletes a row; `None` if it is not there.
    pub fn delete(&mut self, topic: Topic, id: RowId) -> Result<Option<Outline>, SpoolError> {
        let sql = format!(
            "DELETE FROM {} WHERE id = ?1 RETURNING {}",
            table(topic),
            Outline::columns(topic)
        );
        let outline = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_row([id], |row| Ok(Outline::read(row))).optional()
            })
            .map_err(|source| SpoolError::Commit { step: "delete a row", source })?
            .transpose()?;
        if let Some(outline) = &outline {
            self.totals.subtract(topic, outline.bytes);
            if let Some(place) = outline.place {
                self.freed_bytes += self.pictures.comes_back(self.connection, &place);
                self.freed.push(place);
            }
            if let Some(worth) = Worth::of(&outline.kind) {
                self.account(&outline.key).weights.subtract(worth, outline.bytes);
            }
        }
        Ok(outline)
    }

    /// Deletes a row whose columns cannot be true. Whose it was cannot be read any more, so no account
    /// can tell of it.
    pub fn delete_damaged(
        &mut self,
        topic: Topic,
        id: RowId,
        error: &SpoolError,
    ) -> Result<(), SpoolError> {
        self.connection
            .execute(&format!("DELETE FROM {} WHERE id = ?1", table(topic)), [id])
            .map_err(|source| SpoolError::Commit { step: "delete a damaged row", source })?;
        tracing::error!(target: "spool", row = id, %error,
            "a damaged row is deleted without a gap record");
        self.totals.subtract(topic, 0);
        Ok(())
    }

    /// Writes the gap of what was dropped; the books are the caller's. It takes the place of the
    /// gap before it where the two make one and nobody has seen that one.
    pub fn gap(&mut self, dropped: &Dropped) -> Result<(), SpoolError> {
        let line = line(dropped);
        let mut gap = dropped.clone();
        let before = self.new_gaps.get(&line).or_else(|| self.open_gaps.get(&line));
        if let Some((id, mut run)) = before.cloned()
            && run.absorb(dropped)
            && self.held.as_mut().is_some_and(|held| held.take_gap(id))
        {
            self.delete(Topic::Observations, id)?;
            gap = run;
        }
        let id = self.insert(&gap.gap_row()?)?;
        if let Some(held) = self.held.as_mut() {
            held.note_gap(id);
        }
        self.new_gaps.insert(line, (id, gap));
        Ok(())
    }

    /// Deletes a row that the uplink is done with, and books how it ended.
    pub fn settle(&mut self, settled: &Settled) -> Result<(), SpoolError> {
        if settled.outcome != Outcome::Acknowledged && !self.may_go(settled)? {
            tracing::error!(target: "spool", row = settled.id,
                "a gap, epoch or clock record was refused: it stays, since nothing could stand for it");
            return Ok(());
        }
        let row = match self.delete(settled.topic, settled.id) {
            Err(error @ SpoolError::Row { .. }) => {
                return self.delete_damaged(settled.topic, settled.id, &error);
            }
            other => other?,
        };
        // Not there: it was settled before, and the uplink was told so too late.
        let Some(row) = row else {
            return Ok(());
        };
        match &settled.outcome {
            Outcome::Acknowledged => self.account(&row.key).acknowledged(row.frames()),
            Outcome::Refused(reason) => {
                if let Some(dropped) = self.dropped(&row, reason.clone()) {
                    self.account(&row.key).lost_on_disk(&dropped);
                    self.gap(&dropped)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a row that is refused may be dropped: the `seq` that a gap, epoch or clock record
    /// settles would else stay open at the centre for ever.
    fn may_go(&self, settled: &Settled) -> Result<bool, SpoolError> {
        let sql = format!("SELECT kind FROM {} WHERE id = ?1", table(settled.topic));
        let may_go = |row: &SqlRow<'_>| {
            // One that damage has made unreadable is none of those that stay.
            let text = row.get_ref(0)?.as_str().unwrap_or_default();
            Ok(Worth::of(text).is_some() || Kind::ALL.iter().all(|kind| kind.as_str() != text))
        };
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([settled.id], may_go).optional())
            .map(|found| found.unwrap_or(true))
            .map_err(|source| SpoolError::Read { what: "a refused row", source })
    }

    /// What is dropped with a row. A gap, an epoch or a clock record settles no frame: `None`.
    pub fn dropped(&self, row: &Outline, reason: Reason) -> Option<Dropped> {
        let (of, count) = match (row.kind.as_str(), row.frames()) {
            (kind, _) if kind == Kind::Frame.as_str() => (GapOf::Frames, 1),
            (kind, _) if kind == Kind::Crop.as_str() => (GapOf::Crops, 1),
            (_, 0) => return None,
            (_, frames) => (GapOf::Observations, frames),
        };
        // `mono_us` counts from the start of an epoch: a gap in an earlier one can only be stamped
        // by that epoch's own records.
        let own = (row.epoch != self.epoch).then(|| stamp_of(&row.headers)).flatten();
        let stamp = own.unwrap_or(self.now);
        let (key, epoch, first, last) = (row.key.clone(), row.epoch, row.first, row.last);
        Some(Dropped { key, epoch, of, reason, first, last, count, stamp })
    }

    /// Writes the books and totals; the last step before the commit.
    pub fn close(&mut self) -> Result<(), SpoolError> {
        let step = "write the books";
        for (key, account) in &self.changed {
            books::store(self.connection, key, account)
                .map_err(|source| SpoolError::Commit { step, source })?;
        }
        let t = self.totals;
        let totals = [t.records, t.record_bytes, t.pictures, t.picture_bytes].map(signed);
        self.connection
            .prepare_cached(
                "UPDATE spool SET epoch_number = ?1, records = ?2, record_bytes = ?3, \
                 pictures = ?4, picture_bytes = ?5",
            )
            .and_then(|mut statement| {
                let [records, record_bytes, pictures, picture_bytes] = totals;
                let epoch = signed(self.epoch.number);
                statement.execute(params![epoch, records, record_bytes, pictures, picture_bytes])
            })
            .map_err(|source| SpoolError::Commit { step, source })?;
        let month = self.month.store(self.connection);
        month.map_err(|source| SpoolError::Commit { step, source })
    }
}

/// A row's times, as its headers have them.
pub fn stamp_of(headers: &str) -> Option<Stamp> {
    use picket_wire::header;
    use picket_wire::observation::ClockState::{Synchronised, Unset, Unsynchronised};
    let pairs: Vec<(String, String)> = serde_json::from_str(headers).ok()?;
    let get = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let states = [Synchronised, Unsynchronised, Unset];
    let clock = get(header::CLOCK)?;
    Some(Stamp {
        mono_us: get(header::MONO_US)?.parse().ok()?,
        captured_at: get(header::CAPTURED_AT)?.parse().ok(),
        clock: states.into_iter().find(|state| state.as_str() == clock)?,
    })
}
