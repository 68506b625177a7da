//! One of two cameras is away and comes back: its tracks are those of a run without the outage, and the
//! other one waits for nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use anyhow::Result;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{DateTime, Document, doc};
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, nothing_is_lost, on_bench, short_or_long, stored, ten_a_second,
    ten_a_second_without_pictures, wait_for_drained, wait_for_spooled, wait_for_stored,
};
use picket_tests::fleet::{Agent, Fleet};
use picket_tests::process::{Process, until};
use picket_tests::proxy::Fault;

/// How long one camera is away, in observations at ten a second.
const AWAY: (u64, u64) = (100, 6000);
/// The backlog stands beside what is live for some seconds.
const SLOW_BACKLOG: &str = "backlog_speed = 2";

/// An agent behind the proxy, and one that is not; both deliver.
async fn two(bench: &Bench, name: &str, uplink: &str) -> Result<[(Agent, Process); 2]> {
    let camera = ten_a_second_without_pictures("north")?;
    let away = bench.fleet.enrol_behind_proxy(&format!("{name}-away"), &camera).await?;
    away.configure("uplink", &format!("stall_ms = 3000\n{uplink}"))?;
    let other = bench.fleet.enrol(&format!("{name}-other"), &ten_a_second("north")?).await?;
    let (mut away_process, mut other_process) = (away.start()?, other.start()?);
    wait_for_stored(&bench.fleet, &away, &mut away_process, 20).await?;
    wait_for_stored(&bench.fleet, &other, &mut other_process, 20).await?;
    Ok([(away, away_process), (other, other_process)])
}

/// The camera as the centre has it.
async fn camera(fleet: &Fleet, agent: &Agent) -> Result<Document> {
    let cameras = fleet.database.collection::<Document>("cameras");
    let found = cameras.find_one(doc! { "device": &agent.device }).await?;
    found.ok_or_else(|| anyhow::anyhow!("the centre does not know the camera"))
}

/// Waits until what is live of a camera stands at the centre while what was captured before is missing.
async fn wait_for_provisional(fleet: &Fleet, agent: &Agent) -> Result<()> {
    until("provisional tracks", LIMIT, async || {
        let camera = camera(fleet, agent).await?;
        let provisional = doc! { "device": &agent.device, "kind": "observation", "final": false };
        let observations = fleet.database.collection::<Document>("observations");
        let count = observations.count_documents(provisional).await?;
        let waits = camera.get_datetime("waiting_since").is_ok();
        Ok(if waits && count > 0 { Ok(()) } else { Err(format!("{count}: {camera}")) })
    })
    .await
}

/// From capture to store, milliseconds, sorted, of what a device captured between these.
async fn latencies_ms(fleet: &Fleet, agent: &Agent, from: Timestamp, to: Timestamp) -> Vec<i64> {
    let date = |at: Timestamp| DateTime::from_millis(at.as_millisecond());
    let filter = doc! {
        "kind": "observation", "device": &agent.device,
        "captured_at": { "$gte": date(from), "$lt": date(to) },
    };
    let observations = fleet.database.collection::<Document>("observations");
    let found: Vec<_> = observations.find(filter).await.unwrap().try_collect().await.unwrap();
    let latency = |document: &Document| {
        let stored = document.get_document("ingest").unwrap().get_datetime("stored_at").unwrap();
        let captured = document.get_datetime("captured_at").unwrap();
        stored.timestamp_millis() - captured.timestamp_millis()
    };
    let mut latencies: Vec<_> = found.iter().map(latency).collect();
    latencies.sort_unstable();
    latencies
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn a_camera_that_was_away_gets_the_tracks_of_a_run_without_the_outage_and_no_other_waits() {
    on_bench(async |bench| {
        let before = Timestamp::now();
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "whole", SLOW_BACKLOG).await?;
        let began = Timestamp::now();
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        let missing_from = camera(&bench.fleet, &away).await?.get_i64("complete_until")?;
        wait_for_drained(&away, &mut process, LIMIT).await?;
        let ended = Timestamp::now();
        end(&mut process).await?;
        end(&mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await?;
        let camera = camera(&bench.fleet, &away).await?;
        assert!(camera.get_datetime("waiting_since").is_err(), "{camera}");
        let complete = camera.get_i64("complete_until")?;
        assert!(complete > missing_from + 50, "{missing_from} to {complete}");

        let calm = latencies_ms(&bench.fleet, &other, before, began).await;
        let amid = latencies_ms(&bench.fleet, &other, began, ended).await;
        let (usual, late) = (percentile(&calm, 90), percentile(&amid, 90));
        println!("the other camera, p90 in ms: {usual} before, {late} meanwhile");
        assert!(late < 2 * usual + 1000, "the other camera waited: {late} ms, {usual} before");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_centre_that_is_killed_while_it_reads_back_comes_to_the_same_tracks() {
    on_bench(async |bench| {
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "killed", SLOW_BACKLOG).await?;
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        let mut chance = Chance::new()?;
        for _ in 0..short_or_long(2, 30) {
            let so_far = stored(&bench.fleet, &away).await?;
            wait_for_stored(&bench.fleet, &away, &mut process, so_far + chance.below(20)).await?;
            bench.fleet.aggregator.kill()?;
            bench.fleet.restart_aggregator().await?;
        }
        wait_for_drained(&away, &mut process, LIMIT).await?;
        end(&mut process).await?;
        end(&mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_link_that_flaps_makes_no_other_tracks() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "flapping", "backlog_speed = 5").await?;
        let flaps = short_or_long(6, 50);
        let lasting: Vec<_> = (0..flaps * 2).map(|_| chance.between_ms(200, 2500)).collect();
        bench.proxy.flap(flaps, &lasting).await;
        wait_for_drained(&away, &mut process, LIMIT).await?;
        end(&mut process).await?;
        end(&mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await?;
        Ok(())
    })
    .unwrap();
}
