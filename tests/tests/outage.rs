//! The broker goes away and comes back: nothing is lost, nothing is doubled, and what is live stays
//! live while the backlog drains.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use picket_tests::drain::Drain;
use picket_tests::faults::{
    LIMIT, end, nothing_is_lost, short_or_long, ten_a_second, ten_a_second_without_pictures,
    wait_for_drained, wait_for_log, wait_for_spooled, wait_for_stored,
};
use picket_tests::fleet::Fleet;

/// How long the outage is. `PICKET_OUTAGE_S` gives it in seconds; in any form the centre's session with
/// the broker, 15 s, is over before the broker is back.
fn outage_s() -> u64 {
    let given = std::env::var("PICKET_OUTAGE_S").ok();
    given.map_or(short_or_long(15, 600), |seconds| seconds.parse().unwrap())
}

/// Live latency p99 in milliseconds, and how many times as fast as real time the backlog drains. The
/// long form is for a machine that has nothing else to do, and asks for what is promised. The short form
/// shows on any machine that live does not stand behind the backlog: that drains slowly, in some seconds,
/// and so many live observations are to be at the broker before the last of it.
const LONG: (i64, f64) = (2000, 10.0);
const SHORT: (i64, f64) = (12_000, 1.0);
const SHORT_SPEED: &str = "backlog_speed = 5";
const LEAST_AMID: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_live_goes_on_while_the_backlog_drains_faster_than_it_came() {
    let outage_s = outage_s();
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    let cameras = ten_a_second("north").unwrap() + &ten_a_second("south").unwrap();
    let agent = fleet.enrol("gate", &cameras).await.unwrap();
    if let Some(speed) = short_or_long(Some(SHORT_SPEED), None) {
        agent.configure("uplink", speed).unwrap();
    }
    let mut process = agent.start().unwrap();
    // What is slow at the start alone is no measure.
    wait_for_stored(&fleet, &agent, &mut process, 40).await.unwrap();
    let warm = Timestamp::now();
    wait_for_stored(&fleet, &agent, &mut process, 100).await.unwrap();

    let owners = owner_epochs(&fleet).await;

    fleet.stack.kill_kafka().unwrap();
    let began = Timestamp::now();
    wait_for_spooled(&agent, &mut process, outage_s * 2 * 10).await.unwrap();
    fleet.stack.start_kafka().await.unwrap();
    wait_for_log(&mut process, "the link is up again", 1).await.unwrap();
    let ended = Timestamp::now();
    wait_for_drained(&agent, &mut process, LIMIT).await.unwrap();
    wait_for_stored(&fleet, &agent, &mut process, 200).await.unwrap();
    end(&mut process).await.unwrap();

    let findings = nothing_is_lost(&fleet, &[&agent]).await.unwrap();
    assert_eq!(findings.accounts.len(), 2, "one epoch of each camera");
    assert_eq!(owner_epochs(&fleet).await, owners, "the centre took partitions over anew");
    let drain = Drain::ask(&fleet.database, warm, (began, ended)).await.unwrap();
    let (records, pictures) = (drain.observations_rate.unwrap(), drain.pictures_rate.unwrap());
    println!(
        "outage {:#}; live before it: {}; after it: {}, to the broker: {}, {} of them before the last \
         of the backlog; drained at {records:.0} times real time, pictures at {pictures:.0}",
        ended - began,
        drain.before,
        drain.live,
        drain.live_to_broker,
        drain.live_amid
    );
    assert!(
        drain.live_amid >= LEAST_AMID,
        "{} live records came amid the backlog",
        drain.live_amid
    );
    let (p99_ms, least_rate) = short_or_long(SHORT, LONG);
    let before = drain.before.ms(99).unwrap();
    // Half of them at least are as live as ever, whatever else the machine does.
    let usual = drain.live_to_broker.ms(50).unwrap();
    assert!(usual < 5000 + before, "live p50 to the broker {usual} ms, p99 {before} ms before it");
    let late = drain.live_to_broker.ms(99).unwrap();
    assert!(late < p99_ms + before, "live p99 to the broker {late} ms, {before} ms before it");
    assert!(records >= least_rate, "observations drain at {records:.1} times real time");
    if short_or_long(false, true) {
        let late = drain.live.ms(99).unwrap();
        assert!(late < p99_ms, "live p99 to the store {late} ms");
        assert!(pictures >= least_rate, "pictures drain at {pictures:.1} times real time");
    }
    fleet.stop().await.unwrap();
}

/// How often each partition was taken over so far.
async fn owner_epochs(fleet: &Fleet) -> BTreeMap<String, i64> {
    let checkpoints = fleet.database.collection::<Document>("checkpoints");
    let of_partitions = doc! { "_id": { "$regex": "^partition/" } };
    let found: Vec<Document> =
        checkpoints.find(of_partitions).await.unwrap().try_collect().await.unwrap();
    let epoch =
        |d: &Document| (d.get_str("_id").unwrap().to_owned(), d.get_i64("owner_epoch").unwrap());
    assert!(!found.is_empty());
    found.iter().map(epoch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_boot_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    let camera = ten_a_second_without_pictures("north").unwrap();
    let agent = fleet.enrol("gate", &camera).await.unwrap();
    fleet.stack.stop_kafka().await.unwrap();
    let mut process = agent.start().unwrap();
    wait_for_spooled(&agent, &mut process, short_or_long(50, 3000)).await.unwrap();
    fleet.stack.start_kafka().await.unwrap();
    wait_for_drained(&agent, &mut process, LIMIT).await.unwrap();
    wait_for_stored(&fleet, &agent, &mut process, 1).await.unwrap();
    end(&mut process).await.unwrap();
    nothing_is_lost(&fleet, &[&agent]).await.unwrap();
    fleet.stop().await.unwrap();
}
