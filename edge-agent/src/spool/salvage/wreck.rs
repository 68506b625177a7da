//! A damaged database that was set aside, and what can still be read of it, row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picket_wire::{
    CameraKey, CameraRecord, EpochId, Kind, Message, ObservationId, Topic, decode, header,
};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use crate::spool::books::{self, Account};
use crate::spool::encryption::{KeyNumber, Keyring, Stored, bound_to};
use crate::spool::error::SpoolError;
use crate::spool::month::Month;
use crate::spool::pictures::{Pictures, Place};
use crate::spool::record::{Row, RowId};
use crate::spool::recordings::Recordings;
use crate::spool::schema;
use crate::spool::totals::table;
use crate::spool::transaction::Outline;

/// A row that could be read whole.
pub struct Kept {
    pub id: RowId,
    pub committed_at_ms: Option<i64>,
    pub synchronised: bool,
    pub row: Row,
    /// Where its picture lies, of a row of pictures.
    pub place: Option<Place>,
    /// Its value as it lies there, and under which key, if it is encrypted.
    pub encrypted: Option<(KeyNumber, Vec<u8>)>,
    /// The `seq` that it accounts for, if it does.
    pub settles: Option<(u64, u64)>,
    /// An epoch record's word of the epoch before: its last committed `seq`.
    pub ended: Option<(EpochId, u64)>,
}

impl Kept {
    /// The value as it lay in the damaged database.
    pub fn stored(&self) -> Stored<'_> {
        match &self.encrypted {
            None => Stored::plain(&self.row.value),
            Some((number, value)) => Stored { value: value.into(), batch_key: Some(*number) },
        }
    }
}

/// What stands at a place of a queue.
pub enum Found {
    Row(Box<Kept>),
    /// What it was is known, but not what it held.
    Outline(Outline),
    /// A row, or a stretch of pages of which not even the numbers can be read.
    Damage,
    /// Nothing more.
    End,
}

/// What an error says that is not damage by what SQLite calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// It may be gone when it is tried again: no memory, another reader, a bus that hung.
    MayPass,
    /// It stayed, as that of a sector which no longer can be read does.
    AreDamage,
}

impl Others {
    fn is_damage(self, error: &SpoolError) -> bool {
        let too_big =
            |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::TooBig);
        self == Self::AreDamage
            || error.is_corruption()
            // A length that no row has.
            || matches!(error, SpoolError::Read { source, .. } if too_big(source))
    }
}

/// The damaged database, open.
pub struct Wreck {
    connection: Connection,
    /// Where they always were: only the database was set aside.
    pictures: Pictures,
    path: PathBuf,
    keyring: Arc<Keyring>,
}

impl Wreck {
    pub fn open(path: &Path, keyring: Arc<Keyring>) -> Result<Self, SpoolError> {
        let open = |source| SpoolError::Open { path: path.to_path_buf(), source };
        let connection = Connection::open(path).map_err(open)?;
        // Its log belongs to it and is read with it, but a damaged file is not written any more.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(open)?;
        for (pragma, value) in [("query_only", "ON"), ("mmap_size", "0")] {
            connection
                .pragma_update(None, pragma, value)
                .map_err(|source| SpoolError::Pragma { pragma, source })?;
        }
        // What is no database at all shows here.
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .map_err(|source| SpoolError::Read { what: "a damaged database", source })?;
        let pictures = Pictures::of(&path.with_file_name(schema::FILE));
        Ok(Self { connection, pictures, path: path.to_path_buf(), keyring })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn accounts(&self) -> Result<BTreeMap<CameraKey, Account>, SpoolError> {
        books::load(&self.connection)
    }

    pub fn recordings(&self) -> Result<Recordings, SpoolError> {
        Recordings::load(&self.connection)
    }

    pub fn month(&self) -> Result<Month, SpoolError> {
        Month::load(&self.connection)
    }

    /// What stands first in a queue from a number on, and where to go on. Every number below `end`
    /// that the database could hold is looked at in a bounded number of queries. An error is no
    /// damage: the same may be asked again.
    pub fn next(
        &self,
        topic: Topic,
        from: RowId,
        end: RowId,
        others: Others,
    ) -> Result<(Found, RowId), SpoolError> {
        if from >= end {
            return Ok((Found::End, end));
        }
        match self.first_id(topic, from, end) {
            Ok(None) => Ok((Found::End, end)),
            Ok(Some(id)) => Ok((self.at(topic, id, others)?, id + 1)),
            Err(error) if others.is_damage(&error) => {
                Ok((Found::Damage, self.behind_damage(topic, from, end, others)?))
            }
            Err(error) => Err(error),
        }
    }

    fn first_id(&self, topic: Topic, from: RowId, end: RowId) -> Result<Option<RowId>, SpoolError> {
        let sql = format!("SELECT min(id) FROM {} WHERE id >= ?1 AND id < ?2", table(topic));
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([from, end], |row| row.get(0)))
            .map_err(|source| SpoolError::Read { what: "a damaged queue", source })
    }

    /// The lowest number behind a damaged stretch, near enough: leaps until a number can be read, then
    /// halves the last leap.
    fn behind_damage(
        &self,
        topic: Topic,
        from: RowId,
        end: RowId,
        others: Others,
    ) -> Result<RowId, SpoolError> {
        let reads = |id| match self.first_id(topic, id, end) {
            Err(error) if others.is_damage(&error) => Ok(false),
            other => other.map(|_| true),
        };
        let (mut damaged, mut leap): (RowId, RowId) = (from, 1);
        let mut whole = loop {
            let probe = damaged.saturating_add(leap);
            if probe >= end {
                return Ok(end);
            }
            if reads(probe)? {
                break probe;
            }
            (damaged, leap) = (probe, leap.saturating_mul(2));
        };
        while whole - damaged > 1 {
            let middle = damaged + (whole - damaged) / 2;
            match reads(middle)? {
                true => whole = middle,
                false => damaged = middle,
            }
        }
        Ok(whole)
    }

    fn at(&self, topic: Topic, id: RowId, others: Others) -> Result<Found, SpoolError> {
        match self.row(topic, id) {
            Ok(Some(kept)) => return Ok(Found::Row(Box::new(kept))),
            Err(error) if !others.is_damage(&error) => return Err(error),
            Ok(None) | Err(_) => {}
        }
        match self.outline(topic, id) {
            Ok(Some(outline)) if is_borne_out(&outline) => Ok(Found::Outline(outline)),
            Err(error) if !others.is_damage(&error) => Err(error),
            Ok(_) | Err(_) => Ok(Found::Damage),
        }
    }

    fn outline(&self, topic: Topic, id: RowId) -> Result<Option<Outline>, SpoolError> {
        let read = |source| SpoolError::Read { what: "a damaged row", source };
        let sql = format!("SELECT {} FROM {} WHERE id = ?1", Outline::columns(topic), table(topic));
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let outline = statement.query_row([id], |row| Ok(Outline::read(row)));
        outline.optional().map_err(read)?.transpose()
    }

    /// The row, if the centre would take it: a flipped bit shows in no checksum of SQLite's.
    fn row(&self, topic: Topic, id: RowId) -> Result<Option<Kept>, SpoolError> {
        let read = |source| SpoolError::Read { what: "a damaged row", source };
        let Some(outline) = self.outline(topic, id)? else { return Ok(None) };
        let value = if topic == Topic::Frames { "NULL" } else { "value" };
        let sql = format!(
            "SELECT committed_at_ms, synchronised, batch_key, {value} FROM {} WHERE id = ?1",
            table(topic)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(read)?;
        let columns = |row: &rusqlite::Row<'_>| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        };
        let columns = statement.query_row([id], columns).optional().map_err(read)?;
        let Some((committed_at_ms, synchronised, number, value)) = columns else {
            return Ok(None);
        };
        let place = outline.place;
        let value = match (place, value) {
            (Some(place), _) => self.pictures.read(id, place)?,
            (None, Some(value)) => value,
            (None, None) => return Ok(None),
        };
        let (value, encrypted) = match number {
            None => (value, None),
            Some(number) => match self.decrypt(topic, &outline, number, &value)? {
                Some(plain) => (plain, Some((number, value))),
                None => return Ok(None),
            },
        };
        let Some(message) = message(topic, &outline, &value) else { return Ok(None) };
        let Some((kind, of, (first, last))) = told(&message) else { return Ok(None) };
        let (key, epoch, headers) = (of.key, of.epoch, outline.headers);
        let row = Row { topic, kind, key, epoch, first, last, headers, value };
        if row.bytes() != outline.bytes {
            return Ok(None);
        }
        let (settles, ended) = match message {
            Message::Record { record: CameraRecord::Epoch(start), .. } => {
                (None, start.previous.map(|previous| (previous.epoch, previous.last_committed)))
            }
            Message::Record { record, .. } => (record.settles(), None),
            _ => (None, None),
        };
        Ok(Some(Kept { id, committed_at_ms, synchronised, row, place, encrypted, settles, ended }))
    }

    /// None if it is damaged, or its key is lost.
    fn decrypt(
        &self,
        topic: Topic,
        of: &Outline,
        number: KeyNumber,
        value: &[u8],
    ) -> Result<Option<Vec<u8>>, SpoolError> {
        let bound_to = bound_to(topic, &of.key.to_string(), &of.headers);
        match self.keyring.decrypt(number, &bound_to, value) {
            Ok(value) => Ok(Some(value)),
            Err(source) if source.may_pass() => Err(SpoolError::Key { topic, id: of.id, source }),
            Err(_) => Ok(None),
        }
    }
}

/// What a record says of itself. The columns beside it are made from it anew: a bit that flipped in one
/// of them harms nothing.
fn told(message: &Message) -> Option<(Kind, ObservationId, (u64, u64))> {
    let (kind, id, run) = match message {
        Message::Record { record: CameraRecord::Gap(gap), .. } => {
            (Kind::Gap, &gap.id, Some((gap.first, gap.last)))
        }
        Message::Record { record, .. } => (record.kind(), record.id(), record.settles()),
        Message::Picture { picture, .. } => {
            let kind = if picture.crop.is_some() { Kind::Crop } else { Kind::Frame };
            (kind, &picture.id, None)
        }
        Message::Status(_) => return None,
    };
    Some((kind, id.clone(), run.unwrap_or((id.seq, id.seq))))
}

/// Whether the columns of a row of which the rest is damaged may be believed: where its headers say the
/// same. They do not have the end of a skip; what that stood for shows as a hole.
fn is_borne_out(outline: &Outline) -> bool {
    let Ok(headers) = serde_json::from_str::<Vec<(String, String)>>(&outline.headers) else {
        return false;
    };
    let get = |name| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let kinds = [Kind::Observation, Kind::Frame, Kind::Crop];
    let is_one = kinds.iter().any(|kind| kind.as_str() == outline.kind);
    let id =
        get(header::ID).map(|id| id.split_once('#').map_or(id, |(observation, _)| observation));
    let (key, epoch, seq) = (outline.key.clone(), outline.epoch, outline.first);
    is_one
        && outline.first == outline.last
        && get(header::KIND) == Some(outline.kind.as_str())
        && id.and_then(|id| id.parse().ok()) == Some(ObservationId { key, epoch, seq })
}

/// What the centre would read of it; none where key, headers and body do not agree.
fn message(topic: Topic, outline: &Outline, value: &[u8]) -> Option<Message> {
    let headers: Vec<(String, String)> = serde_json::from_str(&outline.headers).ok()?;
    let lane = (header::LANE.to_owned(), b"backlog".to_vec());
    let headers: Vec<_> =
        headers.into_iter().map(|(n, v)| (n, v.into_bytes())).chain([lane]).collect();
    decode(topic, outline.key.to_string().as_bytes(), &headers, value).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_wire::Picture;
    use picket_wire::observation::{ClockState, Reason, Skip, Stamp};
    use rusqlite::params;
    use tempfile::TempDir;

    use super::*;
    use crate::spool::pictures::Segments;
    use crate::spool::settings::Settings;

    const STAMP: Stamp = Stamp { mono_us: 5, captured_at: None, clock: ClockState::Unset };

    fn picture() -> Row {
        let jpeg = vec![0xff, 0xd8, 0xff, 0xe0];
        let id = "gate/north/1-0a1b2c3d/7".parse().unwrap();
        let (width, height, redacted) = (64, 32, "none".to_owned());
        Row::of_picture(Picture { id, crop: Some(1), stamp: STAMP, width, height, redacted, jpeg })
    }

    fn skip() -> Row {
        let id = "gate/north/1-0a1b2c3d/4".parse().unwrap();
        let reason = Reason::NO_MOTION.into();
        let skip = Skip { id, stamp: STAMP, first: 4, last: 9, reason };
        Row::of_record(&CameraRecord::Skip(skip)).unwrap()
    }

    /// A closed database with one row, number 1, and what `damage` makes of it.
    fn wreck(row: &Row, damage: &str) -> (TempDir, Wreck) {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open_for_writing(dir.path(), &Settings::default()).unwrap();
        connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
        let sql = |kept: &str| {
            let table = table(row.topic);
            format!(
                "INSERT INTO {table} VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, NULL, 0, NULL, ?7, {kept})"
            )
        };
        let (key, epoch, kind) = (row.key.to_string(), row.epoch.to_string(), row.kind.as_str());
        let (first, last, bytes) = (row.first as i64, row.last as i64, row.bytes() as i64);
        let (headers, value) = (&row.headers, &row.value);
        if row.topic == Topic::Frames {
            let mut pictures = Segments::open(&dir.path().join(schema::FILE), &(1..9)).unwrap();
            let [segment, position, length, checksum] = pictures.append(1, value).unwrap().values();
            let values = params![
                key, epoch, first, last, kind, bytes, headers, segment, position, length, checksum
            ];
            connection.execute(&sql("?8, ?9, ?10, ?11"), values).unwrap();
        } else {
            let values = params![key, epoch, first, last, kind, bytes, headers, value];
            connection.execute(&sql("?8"), values).unwrap();
        }
        connection.execute_batch(damage).unwrap();
        drop(connection);
        let keyring = Arc::new(Keyring::without_masters(dir.path()));
        let wreck = Wreck::open(&dir.path().join(schema::FILE), keyring).unwrap();
        wreck.connection.busy_timeout(Duration::ZERO).unwrap();
        (dir, wreck)
    }

    fn found(row: &Row, damage: &str) -> Found {
        let (_dir, wreck) = wreck(row, damage);
        wreck.next(row.topic, 0, 100, Others::MayPass).unwrap().0
    }

    #[test]
    fn columns_that_a_bit_flipped_in_are_made_anew_from_a_record_that_is_whole() {
        for (row, column) in [
            (skip(), "last = 1125899906842624"),
            (skip(), "first = 5"),
            (skip(), "epoch = '9-0a1b2c3d'"),
            (skip(), "kind = 'skiq'"),
            (picture(), "last = 8"),
        ] {
            let found = found(&row, &format!("UPDATE {} SET {column}", table(row.topic)));
            let Found::Row(kept) = found else { panic!("{column}: it is whole") };
            assert_eq!(kept.row, row, "{column}");
        }
    }

    #[test]
    fn columns_of_a_damaged_record_are_believed_where_its_headers_say_the_same() {
        let damaged = |row: &Row, also: &str| {
            let value = if row.topic == Topic::Frames { "checksum = 7" } else { "value = x'00'" };
            found(row, &format!("UPDATE {} SET {value}{also}", table(row.topic)))
        };
        let Found::Outline(outline) = damaged(&picture(), "") else { panic!("no outline") };
        assert_eq!((outline.first, outline.last, outline.kind.as_str()), (7, 7, "crop"));
        for also in [
            ", last = 1125899906842624",
            ", first = 3, last = 3",
            ", key = 'gate/nosth'",
            ", epoch = '2-0a1b2c3d'",
            ", kind = 'frame'",
            ", headers = '[]'",
        ] {
            assert!(matches!(damaged(&picture(), also), Found::Damage), "{also}");
        }
        assert!(matches!(damaged(&skip(), ""), Found::Damage), "nothing bears its end out");
    }

    #[test]
    fn what_may_pass_is_no_damage_until_it_has_stayed() {
        let (dir, wreck) = wreck(&skip(), "");
        let other = Connection::open(dir.path().join(schema::FILE)).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let next = |others| wreck.next(Topic::Observations, 0, 100, others);
        let error = next(Others::MayPass).err().expect("it is locked");
        assert!(!error.is_corruption(), "{error}");
        assert!(matches!(next(Others::AreDamage), Ok((Found::Damage, 100))));
        drop(other);
        assert!(matches!(next(Others::MayPass), Ok((Found::Row(_), 2))));
    }
}
