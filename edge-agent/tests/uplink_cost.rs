//! What the uplink costs on a slow link. Alone in its process: it counts the processor time of
//! librdkafka's threads, which it knows by their names.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::uplink::{BROKER, cluster, settings, start};

/// Processor time so far of the threads that talk to brokers.
fn busy() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let ticks = stats.filter_map(|stat| {
        let (name, fields) = stat.split_once(") ")?;
        let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        // Behind the name, utime and stime are the 12th and 13th.
        name.contains("(rdk:broker").then(|| fields[11] + fields[12])
    });
    // Linux counts in hundredths of a second, whatever its own tick is.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[test]
fn a_slow_acknowledgement_is_waited_for_without_turning() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=1);
    agent.wait("the link is up", |agent| agent.books().acknowledged == 1);
    mock.broker_round_trip_time(BROKER, Duration::from_millis(800)).unwrap();
    let (began, busy_before) = (Instant::now(), busy());
    for seq in 2..=60 {
        agent.capture(seq..=seq);
    }
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 60);
    let (took, busy) = (began.elapsed(), busy() - busy_before);
    println!("busy for {busy:?} of {took:?}");
    assert!(took > Duration::from_millis(800), "the link was not slow: {took:?}");
    assert!(busy < took / 10, "librdkafka turned for {busy:?} of {took:?}");
    agent.end();
}
