//! The shim under a real SQLite.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use picket_faulty_disk::{Call, Failure, Fault, FaultyDisk, File, Keep, PowerCut, Random, Step};
use rusqlite::{Connection, ErrorCode};

fn open(folder: &std::path::Path) -> Connection {
    let connection = Connection::open(folder.join("a.sqlite")).unwrap();
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                   CREATE TABLE IF NOT EXISTS t (x INTEGER)";
    connection.execute_batch(pragmas).unwrap();
    connection
}

fn insert(connection: &Connection, x: i64) -> rusqlite::Result<usize> {
    connection.execute("INSERT INTO t VALUES (?1)", [x])
}

fn rows(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_fault_shows_as_sqlites_own_error_and_goes_when_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::under(dir.path());
    let connection = open(dir.path());
    let faults = [
        (Call::Write, Failure::Full, ErrorCode::DiskFull),
        (Call::Write, Failure::Io, ErrorCode::SystemIoFailure),
        (Call::Sync, Failure::Io, ErrorCode::SystemIoFailure),
    ];
    for (n, (call, failure, code)) in faults.into_iter().enumerate() {
        disk.fail(Fault { times: Some(1), ..Fault::every(call, File::Log, failure) });
        let error = insert(&connection, 1).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(code), "{error}");
        assert_eq!(disk.hits(), n as u64 + 1);
        disk.mend();
        insert(&connection, 1).unwrap();
    }
    assert_eq!(rows(&connection), 3);
}

#[test]
fn a_slow_sync_lasts_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::under(dir.path());
    let connection = open(dir.path());
    disk.slow_syncs(Duration::from_secs(600));
    std::thread::scope(|scope| {
        let commit = scope.spawn(move || insert(&connection, 1));
        assert!(disk.wait_for_slow_syncs(1, Duration::from_secs(60)));
        assert!(!commit.is_finished());
        disk.mend();
        commit.join().unwrap().unwrap();
    });
}

#[test]
fn the_steps_make_the_folder_again_and_a_cut_takes_only_what_was_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::under(dir.path());
    disk.record();
    let connection = open(dir.path());
    let begun = disk.position();
    let mut committed = Vec::new();
    for x in 0..20 {
        insert(&connection, x).unwrap();
        committed.push(disk.position());
    }
    drop(connection);
    let steps = disk.steps();
    assert!(
        steps.iter().any(|step| matches!(step, Step::NamesSynced)),
        "the folder's sync is seen"
    );
    let mut cut = PowerCut::new(&steps);
    for at in begun..=steps.len() {
        cut.advance_to(at);
        for keep in Keep::ALL {
            let again = tempfile::tempdir().unwrap();
            cut.write_to(again.path(), keep, &mut Random::new(at as u64));
            let found = rows(&open(again.path())) as usize;
            let least = committed.iter().filter(|position| **position <= at).count();
            assert!((least..=least + 1).contains(&found), "{at} {keep:?}: {found} of {least}");
        }
    }
}

#[test]
fn a_file_that_is_replaced_by_the_standard_library_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::under(dir.path());
    disk.record();
    let (new, path) = (dir.path().join("epoch.new"), dir.path().join("epoch"));
    std::fs::write(&new, "5").unwrap();
    std::fs::File::open(&new).unwrap().sync_all().unwrap();
    std::fs::rename(&new, &path).unwrap();
    std::fs::File::open(dir.path()).unwrap().sync_all().unwrap();
    let content = b"5".to_vec();
    let expected = [
        Step::NamesSynced,
        Step::SyncedWhole { file: "epoch.new".into(), content: content.clone() },
        Step::Renamed { from: "epoch.new".into(), to: "epoch".into(), content },
        Step::NamesSynced,
    ];
    assert_eq!(disk.steps(), expected);
}
