//! Whether the spool is whole: its pages, its rows, its totals, its books, its epoch.
//!
//! May run beside the agent. SQLite looks at the pages in one reading, and totals and books are
//! compared with the rows in another, so that a commit in between makes no difference; as long as each
//! lasts, the agent's log grows. The values are read once more after that, row by row.

use std::collections::BTreeMap;
use std::path::Path;

use picket_service::logging::chain;
use picket_wire::{CameraKey, Kind, Lane, Message, Topic, decode, header};
use rusqlite::Connection;

use super::encryption::Keyring;
use super::error::SpoolError;
use super::pictures::Pictures;
use super::record::RowId;
use super::spooled::Spooled;
use super::totals::{Totals, table};
use super::transaction::Outline;
use super::{books, epoch, salvage, schema, totals, walk};

/// Problems that are told in words; further ones are counted.
const TOLD: usize = 50;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows that were looked at.
    pub rows: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// How many more problems there are.
    pub further: u64,
    /// What is worth to know and no fault of this spool.
    pub notes: Vec<String>,
}

impl Found {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, problem: String) {
        if self.problems.len() < TOLD {
            self.problems.push(problem);
        } else {
            self.further += 1;
        }
    }
}

/// Looks at the spool of a state directory. An error means that no look could be taken.
pub fn verify(state_dir: &Path, keyring: &Keyring) -> Result<Found, SpoolError> {
    let mut found = Found::default();
    match look(state_dir, keyring, &mut found) {
        Err(error) if error.is_corruption() => found.problem(chain(&error)),
        other => other?,
    }
    if state_dir.join(schema::SUSPECT_FILE).exists() {
        found.notes.push(
            "the agent met damage while it ran, and its next start looks at every page".to_owned(),
        );
    }
    let aside = schema::count_set_aside(state_dir);
    if aside > 0 {
        found.notes.push(format!(
            "{aside} damaged databases were set aside before (spool.sqlite.corrupt-*); they are not \
             looked at"
        ));
    }
    Ok(found)
}

fn look(state_dir: &Path, keyring: &Keyring, found: &mut Found) -> Result<(), SpoolError> {
    let connection = schema::open_for_reading(state_dir)?;
    pages(&connection, found)?;
    let below = accounts(&connection, state_dir, found)?;
    let pictures = Pictures::of(&state_dir.join(schema::FILE));
    for topic in Topic::OF_CAMERAS {
        walk::rows(&connection, &pictures, keyring, topic, RowId::MIN..below, |id, row| {
            found.rows += 1;
            match row.map(|row| what_is_wrong(&connection, topic, &row)) {
                Ok(None) => {}
                Ok(Some(what)) => found.problem(format!("row {id} of {topic}: {what}")),
                Err(error) if error.is_corruption() || error.is_of_one_row() => {
                    found.problem(chain(&error));
                }
                // All but the values can be looked at without the master key.
                Err(error @ SpoolError::Key { .. }) => found.problem(chain(&error)),
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn pages(connection: &Connection, found: &mut Found) -> Result<(), SpoolError> {
    let read = |source| SpoolError::Read { what: "quick_check", source };
    // There is no index of which the longer integrity_check would say more.
    let mut check = connection.prepare("PRAGMA quick_check(20)").map_err(read)?;
    let mut lines = check.query([]).map_err(read)?;
    while let Some(line) = lines.next().map_err(read)? {
        let line: String = line.get(0).map_err(read)?;
        if line != "ok" {
            found.problem(format!("SQLite says: {line}"));
        }
    }
    Ok(())
}

/// What the rows come to.
#[derive(Default)]
struct Sums {
    totals: Totals,
    /// By camera: frames that its rows account for, or that come over from a damaged database.
    frames: BTreeMap<CameraKey, u64>,
    /// By camera: the highest `seq` of its newest epoch that a row accounts for.
    newest: BTreeMap<CameraKey, u64>,
    last_id: RowId,
}

/// Compares totals, books and epoch with the rows. Gives the number behind the newest row.
fn accounts(
    connection: &Connection,
    state_dir: &Path,
    found: &mut Found,
) -> Result<RowId, SpoolError> {
    let read = |source| SpoolError::Read { what: "one state of the spool", source };
    // Deferred: the first query takes the state that all others see; dropped without a commit.
    let _one_state = connection.unchecked_transaction().map_err(read)?;
    let (epoch_number, told) = totals::load(connection)?;
    let accounts = books::load(connection)?;
    let mut sums = Sums { frames: salvage::frames_to_come(connection)?, ..Sums::default() };
    let to_come: u64 = sums.frames.values().sum();
    if to_come > 0 {
        found.notes.push(format!(
            "{to_come} frames are still to come from a damaged database, while the agent runs"
        ));
    }
    for topic in Topic::OF_CAMERAS {
        walk::outlines(connection, topic, |waiting| match waiting {
            Ok(waiting) => {
                let row = &waiting.outline;
                sums.totals.add(topic, row.bytes);
                sums.last_id = sums.last_id.max(row.id);
                *sums.frames.entry(row.key.clone()).or_default() += row.frames();
                let account = accounts.get(&row.key);
                if row.frames() > 0 && account.is_some_and(|account| account.epoch == row.epoch) {
                    let newest = sums.newest.entry(row.key.clone()).or_default();
                    *newest = row.last.max(*newest);
                }
                if row.epoch.number > epoch_number {
                    found.problem(format!(
                        "row {} of {topic} is of epoch {}, and the spool has only begun \
                         {epoch_number}",
                        row.id, row.epoch
                    ));
                }
            }
            Err(error) => found.problem(format!("a row of {topic}: {}", chain(&error))),
        })?;
    }
    if told != sums.totals {
        found.problem(format!("the totals say {told:?}, and the rows come to {:?}", sums.totals));
    }
    compare_books(&accounts, &sums, found);
    match epoch::noted(state_dir) {
        None => found.problem("the epoch file is not there or holds no number".to_owned()),
        Some(noted) if noted < epoch_number => found.problem(format!(
            "the epoch file says {noted}, and the database {epoch_number}: should the database be \
             lost, numbers would be used again"
        )),
        Some(_) => {}
    }
    Ok(sums.last_id.saturating_add(1))
}

fn compare_books(accounts: &BTreeMap<CameraKey, books::Account>, sums: &Sums, found: &mut Found) {
    for (key, account) in accounts {
        let books = &account.books;
        let spooled = sums.frames.get(key).copied().unwrap_or(0);
        if books.spooled != spooled {
            found.problem(format!(
                "camera {key}: the books say that {} frames are spooled, and its rows account for \
                 {spooled}",
                books.spooled
            ));
        }
        if !books.balanced() {
            found.problem(format!("camera {key}: the books do not balance: {books:?}"));
        }
        let newest = sums.newest.get(key).copied().unwrap_or(0);
        if newest > account.last_committed {
            found.problem(format!(
                "camera {key}: there is a row up to seq {newest} in epoch {}, and the books know \
                 none beyond {}",
                account.epoch, account.last_committed
            ));
        }
    }
    for key in sums.frames.keys().filter(|key| !accounts.contains_key(*key)) {
        found.problem(format!("camera {key} has rows and no account"));
    }
}

/// Why the centre would not take a row, or whoever counts rows would be misled by its columns.
fn what_is_wrong(connection: &Connection, topic: Topic, row: &Spooled) -> Option<String> {
    let mut headers: Vec<_> =
        row.headers.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes())).collect();
    headers.push((header::LANE.to_owned(), Lane::Backlog.as_str().into()));
    let (kind, epoch, run) = match decode(topic, row.key.as_bytes(), &headers, &row.value) {
        Ok(Message::Record { record, .. }) => {
            let id = record.id().clone();
            let gap = matches!(record.kind(), Kind::Gap);
            (record.kind(), id.epoch, record.settles().or((!gap).then_some((id.seq, id.seq))))
        }
        Ok(Message::Picture { picture, .. }) => {
            let kind = if picture.crop.is_some() { Kind::Crop } else { Kind::Frame };
            (kind, picture.id.epoch, Some((picture.id.seq, picture.id.seq)))
        }
        Ok(Message::Status(_)) => return Some("it is a status, which no spool keeps".to_owned()),
        Err(reject) => return Some(reject.to_string()),
    };
    let sql = format!("SELECT {} FROM {} WHERE id = ?1", Outline::columns(topic), table(topic));
    let outline = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_row([row.id], |row| Ok(Outline::read(row))));
    // Gone meanwhile, or told before by the reading of all outlines.
    let Ok(Ok(outline)) = outline else { return None };
    let value = outline.headers.len() as u64 + row.value.len() as u64;
    let differs = |what: &str| Some(format!("its column {what} is not what its record says"));
    if outline.kind != kind.as_str() {
        differs("kind")
    } else if outline.epoch != epoch {
        differs("epoch")
    } else if outline.bytes != value {
        differs("bytes")
    } else if run.is_some_and(|run| run != (outline.first, outline.last)) {
        differs("first or last")
    } else {
        None
    }
}
