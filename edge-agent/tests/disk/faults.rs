//! The disk fails under a running spool, and is well again.

use std::path::Path;
use std::time::{Duration, Instant};

use picket_edge_agent::spool::{self, Outcome, Settings, SpoolError};
use picket_faulty_disk::{Call, Failure, Fault, FaultyDisk, File, Keep, PowerCut, Random};
use picket_wire::Topic;
use tempfile::TempDir;

use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::Ledger;
use crate::player::Player;
use crate::{LIMIT, long, scratch};

fn settings() -> Settings {
    Settings { checkpoint_bytes: 256 * 1024, max_bytes: 16 * 1024 * 1024, ..Settings::default() }
}

fn start(dir: &TempDir) -> Player {
    let disk = FaultyDisk::under(dir.path());
    Player::start(dir.path(), &settings(), TestClock::set(), disk, Ledger::default())
}

/// The end of each of these tests: the agent ends, starts again, and owes nothing.
fn settle_accounts(player: Player, dir: &Path) {
    let (disk, ledger) = player.finish();
    drop(disk);
    let agent = Agent::start(dir, &settings(), TestClock::set());
    ledger.promised(usize::MAX).judge(&agent, "after a clean end");
    assert_eq!(spool::stat(dir).unwrap().set_aside, 0);
}

/// Frames that come while the disk refuses: they have numbers, and wait in memory.
fn capture_some(player: &mut Player) -> u64 {
    let [north, south] = cameras();
    let before = in_memory(player);
    while player.capture(&north, Some(5_000)) {
        // Only what is reserved: a camera waits for more as long as the disk refuses.
        assert!(in_memory(player) < 1_000, "numbers are given out while the disk refuses");
    }
    player.capture(&south, None);
    in_memory(player) - before
}

fn in_memory(player: &Player) -> u64 {
    player.agent.spool.ledger().all().values().map(|books| books.in_memory).sum()
}

#[test]
fn an_error_on_any_write_or_sync_costs_nothing_once_the_disk_is_well_again() {
    let faults = [
        (Call::Write, File::Log, Failure::Io),
        (Call::Write, File::Log, Failure::Full),
        (Call::Write, File::Any, Failure::ReadOnly),
        (Call::Sync, File::Log, Failure::Io),
        (Call::Write, File::InFolders, Failure::Io),
        (Call::Write, File::InFolders, Failure::Full),
        (Call::Sync, File::InFolders, Failure::Io),
    ];
    for (call, file, failure) in faults {
        let dir = scratch();
        let mut player = start(&dir);
        player.work(10, 20_000, true);
        let hits = player.disk.hits();
        player.disk.fail(Fault::every(call, file, failure));
        let picture = (file == File::InFolders).then_some(5_000);
        assert!(player.capture(&cameras()[0], picture), "a number was reserved before");
        assert!(player.disk.wait_for_hits(hits + 1, LIMIT), "{call:?} {failure:?} was not met");
        capture_some(&mut player);
        let refused = player.agent.spool.reserve(&cameras()[0], 1);
        assert!(matches!(refused, Err(SpoolError::Failing { .. })), "{refused:?}");
        assert!(in_memory(&player) > 0, "{call:?} {failure:?}");
        // What is on disk can still be sent meanwhile.
        let rows = player.take(Topic::Observations);
        player.settle(&rows, &Outcome::Acknowledged);
        player.disk.mend();
        player.flush();
        assert_eq!(in_memory(&player), 0);
        settle_accounts(player, dir.path());
    }
}

#[test]
fn an_error_in_a_checkpoint_stops_no_commit_and_loses_nothing() {
    for (call, failure) in
        [(Call::Write, Failure::Io), (Call::Write, Failure::Full), (Call::Sync, Failure::Io)]
    {
        let dir = scratch();
        let mut player = start(&dir);
        player.disk.fail(Fault::every(call, File::Database, failure));
        player.work(40, 20_000, true);
        assert!(player.disk.hits() > 0, "no checkpoint met {call:?} {failure:?}");
        player.disk.mend();
        player.work(40, 20_000, true);
        settle_accounts(player, dir.path());
    }
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_a_later_one() {
    for file in [File::Log, File::Database, File::InFolders] {
        let dir = scratch();
        let disk = FaultyDisk::under(dir.path());
        disk.record();
        let (settings, clock) = (settings(), TestClock::set());
        let mut player = Player::start(dir.path(), &settings, clock, disk, Ledger::default());
        for after in 0..if long() { 12 } else { 4 } {
            let fault = Fault::every(Call::Sync, file, Failure::Io);
            player.disk.fail(Fault { after, times: Some(2), ..fault });
            player.work(16, 20_000, true);
        }
        assert!(player.disk.hits() > 2, "{file:?}");
        let (steps, ledger) = (player.disk.steps(), player.ledger.clone());
        drop(player);
        let mut random = Random::new(7);
        let mut cut = PowerCut::new(&steps);
        let stride = if long() { 1 } else { 1 + steps.len() / 30 };
        for count in (0..=steps.len()).step_by(stride) {
            cut.advance_to(count);
            let again = scratch();
            cut.write_to(again.path(), Keep::Nothing, &mut random);
            let agent = Agent::start(again.path(), &settings, TestClock::set());
            ledger.promised(count).judge(&agent, &format!("{file:?}, after step {count}"));
        }
    }
}

#[test]
fn a_sync_of_five_seconds_delays_commits_and_loses_nothing() {
    let dir = scratch();
    let mut player = start(&dir);
    let [north, _] = cameras();
    player.work(5, 5_000, true);
    player.disk.slow_syncs(Duration::from_secs(5));
    let began = Instant::now();
    assert!(player.capture(&north, Some(5_000)));
    assert!(player.disk.wait_for_slow_syncs(1, LIMIT));
    // Capture and uplink go on while the writer waits for the disk.
    while player.agent.numbers_left(&north) > 0 {
        assert!(player.capture(&north, None));
    }
    player.take(Topic::Observations);
    player.flush();
    assert!(began.elapsed() >= Duration::from_secs(5), "no sync took its time");
    player.disk.mend();
    settle_accounts(player, dir.path());
}

#[test]
fn a_spool_on_a_read_only_disk_does_not_start_and_is_not_set_aside() {
    let dir = scratch();
    let mut player = start(&dir);
    player.work(5, 5_000, true);
    let (disk, ledger) = player.finish();
    disk.fail(Fault::every(Call::Write, File::Any, Failure::ReadOnly));
    let error = Agent::try_start(dir.path(), &settings(), TestClock::set()).err().unwrap();
    assert_ne!(error.advice(), spool::Advice::Discard, "{error}");
    disk.mend();
    let agent = Agent::start(dir.path(), &settings(), TestClock::set());
    ledger.promised(usize::MAX).judge(&agent, "writable again");
    assert_eq!(spool::stat(dir.path()).unwrap().set_aside, 0);
}

#[test]
fn a_reader_that_pins_the_log_lets_it_grow_to_its_bound_and_nothing_is_lost_unsaid() {
    let dir = scratch();
    let settings =
        Settings { commit_bytes: 256 * 1024, max_pending_bytes: 1024 * 1024, ..settings() };
    let disk = FaultyDisk::under(dir.path());
    let mut player =
        Player::start(dir.path(), &settings, TestClock::set(), disk, Ledger::default());
    player.work(5, 5_000, true);
    let pin = rusqlite::Connection::open(dir.path().join("spool.sqlite")).unwrap();
    pin.execute_batch("BEGIN; SELECT count(*) FROM records").unwrap();
    let until = Instant::now() + LIMIT;
    let [north, _] = cameras();
    let refuses = |player: &Player| {
        matches!(player.agent.spool.reserve(&north, 1), Err(SpoolError::Failing { .. }))
    };
    while !refuses(&player) {
        assert!(Instant::now() < until, "the log grows without bound");
        let _ = player.capture(&north, Some(100_000));
    }
    let log = || std::fs::metadata(dir.path().join("spool.sqlite-wal")).unwrap().len();
    let bound = settings.max_bytes / 8;
    assert!((bound..bound + 2 * 1024 * 1024).contains(&log()), "{} bytes", log());
    let at_bound = log();
    while player.agent.numbers_left(&north) > 0 {
        assert!(player.capture(&north, Some(100_000)));
    }
    pin.execute_batch("ROLLBACK").unwrap();
    player.flush();
    assert_eq!(in_memory(&player), 0);
    player.work(20, 20_000, true);
    assert!(log() < at_bound, "the log did not shrink: {} bytes", log());
    settle_accounts(player, dir.path());
}
