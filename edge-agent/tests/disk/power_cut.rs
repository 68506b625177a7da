//! The power goes at any moment, and the disk keeps what it likes of what was not synced.

use std::ops::Range;
use std::path::Path;

use picket_edge_agent::spool::{self, Outcome, Settings};
use picket_faulty_disk::{FaultyDisk, Keep, PowerCut, Random, Step};
use picket_wire::Topic;

use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::Ledger;
use crate::player::Player;
use crate::{encrypted, long, scratch};

/// One run of the spool, with every step of the disk.
struct Run {
    settings: Settings,
    steps: Vec<Step>,
    ledger: Ledger,
    pictures_dropped: u64,
}

/// Small enough that the run has checkpoints in it.
fn settings() -> Settings {
    Settings { checkpoint_bytes: 256 * 1024, max_bytes: 16 * 1024 * 1024, ..Settings::default() }
}

/// Two starts of the agent, the first with a clean end and the second without any.
fn run(rounds: usize, picture_bytes: usize, link: bool) -> Run {
    let dir = scratch();
    let disk = FaultyDisk::under(dir.path());
    disk.record();
    let (settings, clock) = (settings(), TestClock::set());
    let mut player = Player::start(dir.path(), &settings, clock.clone(), disk, Ledger::default());
    player.work(rounds, picture_bytes, link);
    let (disk, ledger) = player.finish();
    let mut player = Player::start(dir.path(), &settings, clock, disk, ledger);
    player.work(rounds / 2, picture_bytes, link);
    let (steps, ledger) = (player.disk.steps(), player.ledger.clone());
    let books = player.agent.spool.ledger().all();
    let pictures_dropped = books.values().flat_map(|books| books.pictures_dropped.values()).sum();
    Run { settings, steps, ledger, pictures_dropped }
}

/// Some hours of an encrypted spool, each with a key of its own, of which the first are needless at the
/// end.
fn run_encrypted(hours: usize, picture_bytes: usize) -> Run {
    const HOUR_US: u64 = 60 * 60 * 1_000_000;
    let dir = scratch();
    let disk = FaultyDisk::under(dir.path());
    disk.record();
    let (settings, clock) = (encrypted(settings()), TestClock::set());
    let mut player = Player::start(dir.path(), &settings, clock.clone(), disk, Ledger::default());
    let mut before = Vec::new();
    for _ in 0..hours {
        for round in 0..8 {
            let [north, south] = cameras();
            player.capture_at_last(&north, Some(picture_bytes));
            player.capture_at_last(&south, (round % 3 == 0).then_some(picture_bytes / 2));
            player.flush();
        }
        let rows = [player.take(Topic::Observations), player.take(Topic::Frames)].concat();
        clock.pass(HOUR_US);
        // What was captured an hour ago arrives, and its key is looked for at the next turn.
        player.settle(&std::mem::replace(&mut before, rows), &Outcome::Acknowledged);
        player.flush();
        clock.pass(HOUR_US / 60);
        player.flush();
    }
    let (steps, ledger) = (player.disk.steps(), player.ledger.clone());
    Run { settings, steps, ledger, pictures_dropped: 0 }
}

impl Run {
    /// Cuts the power after `count` steps, opens what the disk kept, and judges it.
    fn cut(&self, cut: &mut PowerCut<'_>, count: usize, keep: Keep, seed: u64) {
        let context = format!("after step {count}, {keep:?} kept, seed {seed}");
        let dir = scratch();
        cut.advance_to(count);
        cut.write_to(dir.path(), keep, &mut Random::new(seed));
        let agent = Agent::start(dir.path(), &self.settings, TestClock::set());
        assert_eq!(spool::stat(dir.path()).unwrap().set_aside, 0, "{context}: set aside");
        check_integrity(dir.path(), &context);
        self.ledger.promised(count).judge(&agent, &context);
    }

    /// Each sync, as the numbers of steps before and behind it.
    fn syncs(&self) -> impl Iterator<Item = usize> {
        let is_sync = |step: &Step| {
            matches!(step, Step::Synced(_) | Step::NamesSynced | Step::SyncedWhole { .. })
        };
        (0..self.steps.len()).filter(move |n| is_sync(&self.steps[*n])).flat_map(|n| [n, n + 1])
    }

    /// Runs of steps in which `file` is written and not yet synced.
    fn writes_of(&self, file: &str) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (n, step) in self.steps.iter().enumerate() {
            if !matches!(step, Step::Written { file: written, .. } if written == file) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == n => run.end = n + 1,
                _ => runs.push(n..n + 1),
            }
        }
        runs
    }
}

fn check_integrity(dir: &Path, context: &str) {
    let connection = rusqlite::Connection::open(dir.join("spool.sqlite")).unwrap();
    let verdict: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{context}");
}

/// As many of them as the form of the test has time for, in their order.
fn sample<T: Clone>(all: &[T], count: usize, random: &mut Random) -> Vec<T> {
    if long() {
        return all.to_vec();
    }
    // One from each stretch, so that every part of the run is in it.
    let stretch = all.len().div_ceil(count).max(1);
    all.chunks(stretch).map(|part| part[random.below(part.len())].clone()).collect()
}

#[test]
fn a_power_cut_at_any_sync_leaves_the_key_of_each_record_that_was_promised() {
    let run = run_encrypted(6, 5_000);
    let is_of_key = |step: &Step, made: bool| match step {
        Step::Renamed { to, .. } => made && to.starts_with("spool.keys/"),
        Step::Removed(file) => !made && file.starts_with("spool.keys/"),
        _ => false,
    };
    let count = |made| run.steps.iter().filter(|step| is_of_key(step, made)).count();
    let (made, destroyed) = (count(true), count(false));
    assert!(made >= 6 && destroyed > 0, "{made} keys were made, {destroyed} destroyed");
    let mut random = Random::new(7);
    let edges: Vec<_> = run.syncs().collect();
    let mut cut = PowerCut::new(&run.steps);
    for count in sample(&edges, 40, &mut random) {
        for keep in Keep::ALL {
            run.cut(&mut cut, count, keep, random.number());
        }
    }
}

#[test]
fn a_power_cut_at_any_sync_loses_nothing_that_was_promised() {
    let run = run(40, 9_000, true);
    let mut random = Random::new(1);
    let edges: Vec<_> = run.syncs().collect();
    assert!(edges.len() > 200, "{} edges", edges.len());
    let mut cut = PowerCut::new(&run.steps);
    for count in sample(&edges, 40, &mut random) {
        for keep in Keep::ALL {
            run.cut(&mut cut, count, keep, random.number());
        }
    }
}

#[test]
fn a_torn_page_in_the_log_costs_only_the_commit_that_it_belongs_to() {
    let run = run(20, 30_000, true);
    let mut random = Random::new(2);
    let commits = run.writes_of("spool.sqlite-wal");
    assert!(commits.len() > 30, "{} commits", commits.len());
    let mut cut = PowerCut::new(&run.steps);
    for commit in sample(&commits, 40, &mut random) {
        let count = commit.start + 1 + random.below(commit.len());
        for keep in [Keep::Beginning, Keep::Sectors] {
            run.cut(&mut cut, count, keep, random.number());
        }
    }
}

#[test]
fn a_checkpoint_that_is_cut_short_and_tears_pages_of_the_database_loses_nothing() {
    let run = run(40, 30_000, true);
    let mut random = Random::new(3);
    let writes = run.writes_of("spool.sqlite");
    let checkpoints: Vec<_> = writes.into_iter().filter(|run| run.len() > 3).collect();
    assert!(checkpoints.len() > 3, "{} checkpoints", checkpoints.len());
    let mut cut = PowerCut::new(&run.steps);
    for checkpoint in checkpoints {
        let counts: Vec<_> = checkpoint.collect();
        for count in sample(&counts, 5, &mut random) {
            for keep in [Keep::Nothing, Keep::Some, Keep::Sectors] {
                run.cut(&mut cut, count, keep, random.number());
            }
        }
    }
}

#[test]
fn a_power_cut_while_a_full_spool_evicts_leaves_no_frame_without_a_row_or_a_gap() {
    let run = run(24, 700_000, false);
    assert!(run.pictures_dropped > 3, "nothing was evicted");
    let mut random = Random::new(4);
    let edges: Vec<_> = run.syncs().filter(|n| *n > run.steps.len() / 2).collect();
    let mut cut = PowerCut::new(&run.steps);
    for count in sample(&edges, 10, &mut random) {
        for keep in [Keep::Nothing, Keep::Sectors] {
            run.cut(&mut cut, count, keep, random.number());
        }
    }
}

#[test]
fn a_power_cut_never_repeats_an_epoch_even_where_the_database_is_lost_with_it() {
    let run = run(4, 1_000, true);
    let mut random = Random::new(5);
    let edges: Vec<_> = run.syncs().collect();
    let mut cut = PowerCut::new(&run.steps);
    for count in sample(&edges, 40, &mut random) {
        for keep in Keep::ALL {
            let dir = scratch();
            cut.advance_to(count);
            cut.write_to(dir.path(), keep, &mut random);
            for file in ["spool.sqlite", "spool.sqlite-wal"] {
                let _ = std::fs::remove_file(dir.path().join(file));
            }
            let agent = Agent::start(dir.path(), &settings(), TestClock::set());
            let newest = run.ledger.promised(count).newest_epoch();
            assert!(agent.epoch.number > newest, "step {count}, {keep:?}: {} again", agent.epoch);
        }
    }
}
