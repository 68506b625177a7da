//! The wall clock jumps, or is not set.

use picket_edge_agent::spool::{Settings, Spooled};
use picket_faulty_disk::FaultyDisk;
use picket_wire::{CameraRecord, Topic};

use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::{Ledger, record};
use crate::player::Player;
use crate::scratch;

const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// The camera's numbers in the order of their rows.
fn order(rows: &[Spooled]) -> Vec<u64> {
    let of_north = |record: &CameraRecord| record.id().key.camera == cameras()[0];
    let records = rows.iter().filter_map(record).filter(of_north);
    records.filter_map(|record| record.settles()).map(|(first, _)| first).collect()
}

#[test]
fn a_clock_that_jumps_a_day_either_way_changes_no_order_and_drops_nothing() {
    for jumps in [[DAY_US, -DAY_US], [-DAY_US, DAY_US], [400 * DAY_US, -800 * DAY_US]] {
        let dir = scratch();
        let (settings, clock) = (Settings::default(), TestClock::set());
        let disk = FaultyDisk::under(dir.path());
        let mut player =
            Player::start(dir.path(), &settings, clock.clone(), disk, Ledger::default());
        player.work(5, 5_000, false);
        for jump in jumps {
            clock.jump(jump);
            player.work(5, 5_000, false);
        }
        let (disk, ledger) = player.finish();
        drop(disk);
        let agent = Agent::start(dir.path(), &settings, clock);
        for books in agent.spool.ledger().all().values() {
            assert!(books.dropped.is_empty() && books.pictures_dropped.is_empty(), "{books:?}");
        }
        let rows = agent.take(Topic::Observations);
        let numbers = order(&rows);
        assert!(numbers.len() >= 15 && numbers.is_sorted(), "{numbers:?}");
        let clocks = rows.iter().filter_map(record);
        let clocks = clocks.filter(|record| matches!(record, CameraRecord::Clock(_))).count();
        assert!(clocks >= 3 * cameras().len(), "each jump is told: {clocks}");
        agent.reader.give_back(rows.iter().map(|row| row.id));
        ledger.promised(usize::MAX).judge(&agent, &format!("{jumps:?}"));
    }
}

#[test]
fn a_box_without_a_clock_keeps_its_order_and_tells_the_time_once_it_is_known() {
    let dir = scratch();
    let (settings, clock) = (Settings::default(), TestClock::unset());
    let disk = FaultyDisk::under(dir.path());
    let mut player = Player::start(dir.path(), &settings, clock.clone(), disk, Ledger::default());
    player.work(5, 5_000, false);
    clock.pass(DAY_US as u64);
    player.work(5, 5_000, false);
    clock.find_time();
    player.work(1, 5_000, false);
    let rows = player.agent.take(Topic::Observations);
    let numbers = order(&rows);
    assert!(numbers.len() >= 11 && numbers.is_sorted(), "{numbers:?}");
    let told: Vec<_> = rows
        .iter()
        .filter_map(record)
        .filter(|record| matches!(record, CameraRecord::Clock(_)))
        .map(|record| record.stamp().captured_at)
        .collect();
    assert_eq!(told.len(), cameras().len(), "once for each camera");
    assert!(told.iter().all(Option::is_some), "{told:?}");
    player.agent.reader.give_back(rows.iter().map(|row| row.id));
    let (disk, ledger) = player.finish();
    drop(disk);
    let agent = Agent::start(dir.path(), &settings, TestClock::unset());
    ledger.promised(usize::MAX).judge(&agent, "without a clock again");
}
