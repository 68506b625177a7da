//! What becomes of a damaged database: what can be read of it is brought over, the rest is told.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use picket_edge_agent::spool::{self, Keyring, Settings, Spooled};
use picket_faulty_disk::{FaultyDisk, Keep, PowerCut, Random};
use picket_wire::observation::{Gap, GapOf, Reason};
use picket_wire::{CameraName, CameraRecord, Topic};
use rusqlite::Connection;

use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::{Ledger, record};
use crate::player::Player;
use crate::{LIMIT, scratch};

/// A spool that ended in good order, with all that it owes.
fn full_spool(dir: &Path) -> (Ledger, Vec<Spooled>) {
    let disk = FaultyDisk::under(dir);
    let settings = Settings::default();
    let mut player = Player::start(dir, &settings, TestClock::set(), disk, Ledger::default());
    player.work(60, 9_000, true);
    player.work(40, 2_000, false);
    let (_, ledger) = player.finish();
    let agent = Agent::start(dir, &settings, TestClock::set());
    agent.flush();
    let mut rows = agent.take(Topic::Observations);
    rows.extend(agent.take(Topic::Frames));
    agent.finish();
    (ledger, rows)
}

/// Changes the closed database.
fn execute(dir: &Path, sql: &str) {
    let connection = Connection::open(dir.join("spool.sqlite")).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
}

/// Whether a salvage was begun, so that the database in place is the new one.
fn salvage_was_begun(dir: &Path) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(dir.join("spool.sqlite"), flags).unwrap();
    connection.table_exists(None, "salvage_waiting").unwrap_or(false)
}

fn page_bytes(connection: &Connection) -> u64 {
    connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap()
}

/// Overwrites pages of the closed database.
fn overwrite(dir: &Path, pages: &[u64]) {
    let path = dir.join("spool.sqlite");
    let connection = Connection::open(&path).unwrap();
    let bytes = page_bytes(&connection);
    drop(connection);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for page in pages {
        file.write_all_at(&vec![0xaa; bytes as usize], (page - 1) * bytes).unwrap();
    }
}

fn pages(dir: &Path, sql: &str) -> Vec<u64> {
    let connection = Connection::open(dir.join("spool.sqlite")).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let pages = statement.query_map([], |row| row.get(0)).unwrap();
    pages.collect::<rusqlite::Result<_>>().unwrap()
}

fn root_of(dir: &Path, table: &str) -> Vec<u64> {
    pages(dir, &format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"))
}

/// Starts, and waits until nothing more is brought over.
fn start_and_salvage(dir: &Path) -> Agent {
    // The start itself meets only what it reads; the mark makes it look closely.
    std::fs::write(dir.join("spool.sqlite.suspect"), "").unwrap();
    let agent = Agent::start(dir, &Settings::default(), TestClock::set());
    wait_for_salvage(dir, &agent);
    agent
}

fn wait_for_salvage(dir: &Path, agent: &Agent) {
    let until = Instant::now() + LIMIT;
    while dir.join("spool.sqlite.corrupt-1").exists() {
        assert!(Instant::now() < until, "the salvage does not end");
        agent.flush();
    }
}

/// What came over: rows of the runs before this one.
fn came_over(agent: &Agent) -> Vec<Spooled> {
    let mut rows = agent.take(Topic::Observations);
    rows.extend(agent.take(Topic::Frames));
    rows.retain(|row| row.id < agent.reader.first_id());
    rows
}

/// What is told as lost by damage.
fn gaps_of_damage(rows: &[Spooled]) -> Vec<Gap> {
    let gap = |record| match record {
        CameraRecord::Gap(gap) if gap.reason == Reason::SPOOL_DAMAGED.into() => Some(gap),
        _ => None,
    };
    rows.iter().filter_map(record).filter_map(gap).collect()
}

fn damaged(agent: &Agent) -> u64 {
    let reason = Reason::from(Reason::SPOOL_DAMAGED);
    let of = |camera: &CameraName| {
        let books = agent.spool.ledger().books(camera).unwrap();
        assert!(books.balanced(), "{books:?}");
        books.dropped.get(&reason).copied().unwrap_or(0)
    };
    cameras().iter().map(of).sum()
}

#[test]
fn rows_behind_damaged_totals_all_come_over_with_their_bytes_and_books() {
    let dir = scratch();
    let (ledger, rows) = full_spool(dir.path());
    let before = spool::stat(dir.path()).unwrap();
    overwrite(dir.path(), &root_of(dir.path(), "spool"));
    let mut agent = start_and_salvage(dir.path());
    assert_eq!(spool::stat(dir.path()).unwrap().set_aside, 0, "nothing is left in it");
    assert!(agent.capture(&cameras()[0], Some(1_000)).is_some(), "capture goes on");
    agent.flush();
    ledger.promised(usize::MAX).judge_rows(&agent, "salvaged");
    assert!(came_over(&agent) == rows);
    assert_eq!(damaged(&agent), 0);
    for (key, account) in before.accounts {
        let books = agent.spool.ledger().books(&key.camera).unwrap();
        let extra = u64::from(key.camera == cameras()[0]);
        assert_eq!(books.captured, account.books.captured + extra, "{key:?}");
        assert_eq!(books.acknowledged, account.books.acknowledged);
    }
}

#[test]
fn rows_on_a_damaged_page_become_a_gap_and_all_others_come_over() {
    let dir = scratch();
    let (_, rows) = full_spool(dir.path());
    let sql =
        "SELECT pageno FROM dbstat WHERE name = 'records' AND pagetype = 'leaf' ORDER BY path";
    let leaves = pages(dir.path(), sql);
    assert!(leaves.len() > 12, "{leaves:?}");
    overwrite(dir.path(), &[leaves[1], leaves[leaves.len() / 2], leaves[leaves.len() / 2 + 1]]);
    let agent = start_and_salvage(dir.path());
    assert!(dir.path().join("spool.sqlite.remains-1").exists());
    let all = agent.take(Topic::Observations);
    let records: Vec<_> = all.iter().filter_map(record).collect();
    let seqs = |gaps: bool| -> BTreeSet<_> {
        let of = |record: &&CameraRecord| matches!(record, CameraRecord::Gap(_)) == gaps;
        let line = |record: &CameraRecord| {
            let id = record.id();
            let (first, last) = record.settles().unwrap_or((1, 0));
            (first..=last).map(|seq| (id.key.clone(), id.epoch, seq)).collect::<Vec<_>>()
        };
        records.iter().filter(of).flat_map(line).collect()
    };
    let (kept, gone) = (seqs(false), seqs(true));
    assert!(kept.is_disjoint(&gone));
    let owed = rows.iter().filter(|row| row.topic == Topic::Observations).filter_map(record);
    let mut lost = 0;
    for record in owed.filter(|record| !matches!(record, CameraRecord::Gap(_))) {
        let (first, last) = record.settles().unwrap_or((1, 0));
        for seq in first..=last {
            let seq = (record.id().key.clone(), record.id().epoch, seq);
            assert!(kept.contains(&seq) || gone.contains(&seq), "{seq:?} is told by nothing");
            lost += u64::from(!kept.contains(&seq));
        }
    }
    assert!(lost > 0);
    assert_eq!(damaged(&agent), lost, "the books know how many");
}

#[test]
fn a_picture_whose_bytes_are_damaged_is_told_and_the_others_come_over() {
    let dir = scratch();
    let (_, rows) = full_spool(dir.path());
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    let place =
        "SELECT format('%016x', segment), position FROM pictures ORDER BY id LIMIT 1 OFFSET 3";
    let (segment, position): (String, u64) =
        connection.query_row(place, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    drop(connection);
    let path = dir.path().join("spool.sqlite-pictures").join(segment);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xaa; 100], position + 100).unwrap();
    overwrite(dir.path(), &root_of(dir.path(), "spool"));
    let agent = start_and_salvage(dir.path());
    let gaps = gaps_of_damage(&agent.take(Topic::Observations));
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].of, gaps[0].count), (GapOf::Frames, 1));
    let owed = rows.iter().filter(|row| row.topic == Topic::Frames).count();
    assert_eq!(agent.take(Topic::Frames).len(), owed - 1);
    assert_eq!(damaged(&agent), 0, "no observation went with it");
}

#[test]
fn rows_come_over_also_where_the_books_cannot_be_read() {
    let dir = scratch();
    let (_, rows) = full_spool(dir.path());
    execute(dir.path(), "UPDATE spool SET month = '9999-12', month_bytes = 777");
    overwrite(dir.path(), &root_of(dir.path(), "accounts"));
    let agent = start_and_salvage(dir.path());
    assert!(came_over(&agent) == rows);
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    let month_bytes: i64 =
        connection.query_row("SELECT month_bytes FROM spool", [], |row| row.get(0)).unwrap();
    assert_eq!(month_bytes, 777, "the month's budget is not had twice");
    let spooled: u64 = agent.spool.ledger().all().values().map(|books| books.spooled).sum();
    let settled = rows.iter().filter_map(record).filter(|r| !matches!(r, CameraRecord::Gap(_)));
    let frames =
        settled.filter_map(|record| record.settles()).map(|(first, last)| last - first + 1);
    assert_eq!(spooled, frames.sum::<u64>());
    assert_eq!(damaged(&agent), 0);
}

#[test]
fn a_flipped_bit_in_a_number_books_no_frame_that_there_never_was() {
    let dir = scratch();
    let (_, rows) = full_spool(dir.path());
    let before = spool::stat(dir.path()).unwrap();
    let seen = "kind = 'observation' ORDER BY id LIMIT 1 OFFSET";
    let [whole, damaged_too] =
        [5, 10].map(|nth| format!("(SELECT id FROM records WHERE {seen} {nth})"));
    let flip = "UPDATE records SET last = last | (1 << 50)";
    execute(dir.path(), &format!("{flip} WHERE id = {whole}"));
    execute(dir.path(), &format!("{flip}, value = x'00' WHERE id = {damaged_too}"));
    overwrite(dir.path(), &root_of(dir.path(), "spool"));
    let agent = start_and_salvage(dir.path());
    let mut came = agent.take(Topic::Observations);
    came.extend(agent.take(Topic::Frames));
    let missing: Vec<_> = rows.iter().filter(|row| !came.contains(row)).collect();
    assert_eq!(missing.len(), 1, "one record is damaged, of the other only a column");
    let lost = record(missing[0]).unwrap();
    let gaps = gaps_of_damage(&came);
    let tells = |gap: &Gap| {
        let same = (&gap.id.key, gap.id.epoch) == (&lost.id().key, lost.id().epoch);
        same && (gap.first..=gap.last).contains(&lost.id().seq)
    };
    assert!(gaps.iter().any(tells), "{gaps:?}");
    assert_eq!(damaged(&agent), 1);
    for (key, account) in before.accounts {
        let books = agent.spool.ledger().books(&key.camera).unwrap();
        assert_eq!(books.captured, account.books.captured, "{key:?}");
    }
}

#[test]
fn a_power_cut_during_the_salvage_brings_no_row_over_twice_and_loses_none() {
    let dir = scratch();
    let (_, rows) = full_spool(dir.path());
    overwrite(dir.path(), &root_of(dir.path(), "spool"));
    std::fs::write(dir.path().join("spool.sqlite.suspect"), "").unwrap();
    let disk = FaultyDisk::under(dir.path());
    disk.record();
    let begin = disk.position();
    let agent = Agent::start(dir.path(), &Settings::default(), TestClock::set());
    let books = agent.spool.ledger().all();
    wait_for_salvage(dir.path(), &agent);
    let steps = disk.steps();
    drop(agent);
    let mut random = Random::new(11);
    let mut cut = PowerCut::new(&steps);
    let mut met_on_its_way = false;
    for count in (begin..=steps.len()).step_by(1 + steps.len() / 12) {
        cut.advance_to(count);
        let again = scratch();
        cut.write_to(again.path(), Keep::Some, &mut random);
        // Before the new database is whole there is nothing to verify.
        if let Ok(found) = spool::verify(again.path(), &Keyring::without_masters(again.path()))
            && salvage_was_begun(again.path())
        {
            assert!(found.is_whole(), "after step {count}: {found:?}");
            met_on_its_way |= found.notes.iter().any(|note| note.contains("still to come"));
        }
        let agent = Agent::start(again.path(), &Settings::default(), TestClock::set());
        wait_for_salvage(again.path(), &agent);
        let mut came = came_over(&agent);
        // Epoch records of starts that the power ended.
        came.retain(|row| {
            rows.contains(row) || !matches!(record(row), Some(CameraRecord::Epoch(_)))
        });
        came.retain(|row| {
            !matches!(record(row), Some(CameraRecord::Clock(_))) || rows.contains(row)
        });
        assert!(came == rows, "after step {count} of {}", steps.len());
        for (camera, books) in &books {
            let now = agent.spool.ledger().books(camera).unwrap();
            assert_eq!(now.captured, books.captured, "after step {count}: {now:?}");
            assert!(now.balanced() && now.dropped == books.dropped, "after step {count}: {now:?}");
        }
    }
    assert!(met_on_its_way, "no cut met the salvage on its way");
}
