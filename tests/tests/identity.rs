//! A spool that is lost, a box that is reflashed, and two agents that run as one device: no id is ever
//! used twice for different bytes, and who runs twice is named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;

use picket_tests::faults::{
    Bench, LIMIT, end, nothing_is_lost, on_bench, ten_a_second_without_pictures, wait_for_stored,
};
use picket_tests::fleet::{self, Agent};
use picket_tests::process::until;
use picket_tests::topics;

/// Runs the agent for some records, to an end in order.
async fn runs(bench: &Bench, agent: &Agent) {
    let mut process = agent.start().unwrap();
    wait_for_stored(&bench.fleet, agent, &mut process, 15).await.unwrap();
    end(&mut process).await.unwrap();
}

/// The epochs of a device at the centre, of which all is there; no id has two values on the topic.
async fn epochs(bench: &Bench, agent: &Agent) -> BTreeSet<String> {
    let findings = nothing_is_lost(&bench.fleet, &[agent]).await.unwrap();
    for (id, values) in topics::values_by_id(&bench.fleet, agent).unwrap() {
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{id:?} has other bytes");
    }
    findings.of(agent).map(|(epoch, _)| epoch.rsplit_once('/').unwrap().1.to_owned()).collect()
}

fn numbers(epochs: &BTreeSet<String>) -> Vec<&str> {
    epochs.iter().map(|epoch| epoch.split_once('-').unwrap().0).collect()
}

#[test]
fn after_its_spool_is_lost_an_agent_goes_on_in_a_new_epoch_and_repeats_no_id() {
    on_bench(async |bench| {
        let camera = ten_a_second_without_pictures("north")?;
        let agent = bench.fleet.enrol("spool-lost", &camera).await?;
        runs(bench, &agent).await;
        for file in fs::read_dir(agent.state())? {
            let path = file?.path();
            if path.to_string_lossy().contains("spool.sqlite") {
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        runs(bench, &agent).await;
        assert_eq!(numbers(&epochs(bench, &agent).await), ["1", "2"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_box_that_is_reflashed_begins_at_the_first_epoch_again_and_repeats_no_id() {
    on_bench(async |bench| {
        let camera = ten_a_second_without_pictures("north")?;
        let agent = bench.fleet.enrol("reflashed", &camera).await?;
        runs(bench, &agent).await;
        fs::remove_dir_all(agent.state())?;
        runs(bench, &agent).await;
        assert_eq!(numbers(&epochs(bench, &agent).await), ["1", "1"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn two_agents_with_one_identity_repeat_no_id_and_the_centre_names_them() {
    on_bench(async |bench| {
        let camera = ten_a_second_without_pictures("north")?;
        let agent = bench.fleet.enrol("twins", &camera).await?;
        runs(bench, &agent).await;
        let copy = agent.copied()?;
        let (mut one, mut other) = (agent.start()?, copy.start()?);
        until("the centre to name the two agents", LIMIT, async || {
            one.expect_running()?;
            other.expect_running()?;
            bench.fleet.aggregator.expect_running()?;
            let log = bench.fleet.aggregator.log();
            let said = log.lines().find(|line| line.contains("two agents run as device twins"));
            Ok(said.map(str::to_owned).ok_or_else(|| "not named".to_owned()))
        })
        .await?;
        end(&mut one).await?;
        end(&mut other).await?;
        let page = bench.fleet.page().await?;
        let metrics = fleet::get(&page, "/metrics").await?;
        let counted = metrics.lines().find(|line| line.contains("consume_twin_heartbeats_total "));
        assert!(counted.is_some(), "{metrics}");
        fleet::settled(&bench.fleet, &[&agent, &copy], LIMIT).await?;
        assert_eq!(numbers(&epochs(bench, &agent).await), ["1", "2", "2"]);
        Ok(())
    })
    .unwrap();
}
