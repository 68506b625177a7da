//! With `durability = "offline"`: what a working link carries away in time is never on the disk, and what
//! it does not is.

use std::path::Path;
use std::time::Instant;

use picket_edge_agent::spool::{self, Durability, Outcome, Settings, Spooled};
use picket_faulty_disk::{Call, Failure, Fault, FaultyDisk, File};
use picket_wire::observation::{GapOf, Reason};
use picket_wire::{CameraRecord, Topic};

use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::record;
use crate::{LIMIT, scratch};

fn settings() -> Settings {
    // Longer than a test: what is on the disk earlier is there for another reason.
    Settings {
        durability: Durability::Offline,
        memory_window_ms: 600_000,
        max_pending_bytes: 8 * 1024 * 1024,
        ..Settings::default()
    }
}

fn start(dir: &Path, settings: &Settings) -> Agent {
    let agent = Agent::start(dir, settings, TestClock::set());
    agent.reader.set_link_works(true);
    agent
}

/// Observations that the database has.
fn on_disk(dir: &Path) -> u64 {
    let database = rusqlite::Connection::open(dir.join("spool.sqlite")).unwrap();
    let count = "SELECT count(*) FROM records WHERE kind = 'observation'";
    database.query_row(count, [], |row| row.get(0)).unwrap()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// Takes rows of both topics until there are so many observations.
fn take(agent: &Agent, observations: usize) -> Vec<Spooled> {
    let mut rows = Vec::new();
    let is_observation = |row: &&Spooled| matches!(record(row), Some(CameraRecord::Observation(_)));
    wait("the rows are not offered", || {
        rows.extend(agent.take(Topic::Observations));
        rows.extend(agent.take(Topic::Frames));
        rows.iter().filter(is_observation).count() >= observations
    });
    rows.extend(agent.take(Topic::Frames));
    rows
}

#[test]
fn what_a_working_link_carries_away_in_time_is_never_on_the_disk() {
    let dir = scratch();
    let mut agent = start(dir.path(), &settings());
    let [north, _] = cameras();
    let pictures = dir.path().join("spool.sqlite-pictures");
    for _ in 0..50 {
        assert!(agent.capture(&north, Some(20_000)).is_some());
        let rows = take(&agent, 1);
        agent.settle(&rows, &Outcome::Acknowledged);
    }
    assert_eq!(on_disk(dir.path()), 0);
    wait("the last one is not settled", || agent.reader.is_empty().unwrap());
    agent.flush();
    assert_eq!(on_disk(dir.path()), 0);
    assert_eq!(std::fs::read_dir(pictures).unwrap().count(), 0, "nor was a picture written");
    let books = agent.spool.ledger().books(&north).unwrap();
    assert_eq!((books.captured, books.acknowledged, books.in_memory), (50, 50, 0), "{books:?}");
    agent.finish();
    let after = spool::stat(dir.path()).unwrap().accounts;
    assert!(after.values().any(|account| account.books.acknowledged == 50));
}

#[test]
fn what_is_in_memory_goes_to_the_disk_when_the_link_stops_working_and_keeps_number_and_bytes() {
    let dir = scratch();
    let mut agent = start(dir.path(), &settings());
    let [north, _] = cameras();
    for _ in 0..20 {
        assert!(agent.capture(&north, Some(20_000)).is_some());
    }
    let mut rows = take(&agent, 20);
    assert_eq!(on_disk(dir.path()), 0);
    agent.reader.set_link_works(false);
    wait("nothing is written", || on_disk(dir.path()) == 20);
    agent.reader.give_back(rows.iter().map(|row| row.id));
    let mut again = take(&agent, 20);
    for rows in [&mut rows, &mut again] {
        rows.sort_by_key(|row| row.id);
    }
    assert!(rows == again, "each row once, as it was");
    // Some are acknowledged all the same: a slow link is no broken one.
    agent.settle(&again, &Outcome::Acknowledged);
    agent.flush();
    assert!(agent.reader.is_empty().unwrap());
    agent.finish();
}

#[test]
fn what_waits_in_memory_for_longer_than_its_window_or_weighs_too_much_goes_to_the_disk() {
    let [north, _] = cameras();
    let dir = scratch();
    let mut agent = start(dir.path(), &Settings { memory_window_ms: 1_000, ..settings() });
    let began = Instant::now();
    assert!(agent.capture(&north, None).is_some());
    wait("the window has no end", || on_disk(dir.path()) == 1);
    assert!(began.elapsed().as_millis() >= 1_000, "it was given no time");
    agent.finish();

    let dir = scratch();
    let mut agent = start(dir.path(), &settings());
    for _ in 0..50 {
        assert!(agent.capture(&north, Some(100_000)).is_some());
    }
    wait("memory has no bound", || on_disk(dir.path()) > 30);
    agent.finish();
}

#[test]
fn a_record_in_memory_that_the_broker_refuses_becomes_a_gap() {
    let dir = scratch();
    let mut agent = start(dir.path(), &settings());
    let [north, _] = cameras();
    for _ in 0..3 {
        assert!(agent.capture(&north, Some(5_000)).is_some());
    }
    let rows = take(&agent, 3);
    let (refused, others): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.headers.iter().any(|(_, value)| value.ends_with("/2")));
    assert_eq!(refused.len(), 2, "an observation and its picture");
    agent.settle(&others, &Outcome::Acknowledged);
    agent.settle(&refused, &Outcome::Refused(Reason::REFUSED_BY_BROKER.into()));
    agent.flush();
    let gaps: Vec<_> = take(&agent, 0)
        .iter()
        .filter_map(record)
        .filter_map(|record| match record {
            CameraRecord::Gap(gap) => Some((gap.of, gap.first, gap.last)),
            _ => None,
        })
        .collect();
    assert_eq!(gaps, [(GapOf::Observations, 2, 2), (GapOf::Frames, 2, 2)]);
    let books = agent.spool.ledger().books(&north).unwrap();
    assert_eq!((books.captured, books.acknowledged, books.spooled), (3, 2, 0), "{books:?}");
    agent.finish();
}

#[test]
fn a_crash_takes_only_what_was_in_memory_and_the_next_start_tells_its_bound() {
    let dir = scratch();
    let mut agent = start(dir.path(), &settings());
    let [north, _] = cameras();
    for _ in 0..6 {
        assert!(agent.capture(&north, None).is_some());
    }
    agent.flush();
    for _ in 0..6 {
        assert!(agent.capture(&north, None).is_some());
    }
    take(&agent, 12);
    // What a crash leaves is what the disk has now.
    let left = scratch();
    for file in ["spool.sqlite", "spool.sqlite-wal", "epoch"] {
        std::fs::copy(dir.path().join(file), left.path().join(file)).unwrap();
    }
    agent.finish();
    let agent = start(left.path(), &settings());
    let rows = take(&agent, 6);
    let starts: Vec<_> = rows.iter().filter_map(record).collect();
    let told = starts.iter().find_map(|record| match record {
        CameraRecord::Epoch(start) if start.id.key.camera == north => start.previous.clone(),
        _ => None,
    });
    let told = told.expect("the epoch record tells of the epoch before");
    assert_eq!(told.last_committed, 6);
    assert!((12..=32).contains(&told.reserved), "{told:?}");
}

#[test]
fn a_disk_that_refuses_writes_does_not_keep_a_working_link_from_what_is_captured() {
    let dir = scratch();
    let disk = FaultyDisk::under(dir.path());
    let settings = Settings { memory_window_ms: 1_000, ..settings() };
    let mut agent = start(dir.path(), &settings);
    let [north, _] = cameras();
    assert!(agent.capture(&north, None).is_some());
    take(&agent, 1);
    disk.fail(Fault::every(Call::Write, File::Log, Failure::Io));
    assert!(disk.wait_for_hits(1, LIMIT), "nothing was written");
    assert!(agent.capture(&north, None).is_some());
    let rows = take(&agent, 1);
    agent.settle(&rows, &Outcome::Acknowledged);
    disk.mend();
    agent.flush();
    let books = agent.spool.ledger().books(&north).unwrap();
    assert_eq!((books.captured, books.acknowledged), (2, 1), "{books:?}");
    agent.finish();
}
