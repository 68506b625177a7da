//! Three real brokers, each record on all of them, and acknowledged once two have it: what it costs
//! when one or two of them go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use picket_tests::faults::{
    LIMIT, end, nothing_is_lost, short_or_long, spooled, ten_a_second_without_pictures,
    wait_for_drained, wait_for_spooled, wait_for_stored,
};
use picket_tests::fleet::{Agent, Fleet};
use picket_tests::oracle::open_spool;
use picket_tests::process::{Process, until};
use picket_tests::stack::StackOptions;
use picket_wire::{Topic, TopicNames};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell};

/// One for each broker to lead.
const PARTITIONS: &str = "3";
/// Of the broker that is the controller too, and so stays.
const CONTROLLER: i32 = 1;
const BROKERS: usize = 3;
/// Two cameras whose records lie in different partitions, so that one of them at least is led by a
/// broker that may go.
const CAMERAS: [&str; 2] = ["north", "south"];

/// Runs a test on the file's fleet, which begins with all brokers at work.
fn on_three_brokers(test: impl AsyncFnOnce(&mut Fleet) -> Result<()>) {
    static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(Runtime::new);
    static FLEET: OnceCell<Mutex<Fleet>> = OnceCell::const_new();
    let runtime = RUNTIME.as_ref().unwrap();
    runtime.block_on(async {
        let start = async || {
            let options = StackOptions { brokers: 3, ..StackOptions::default() };
            let topics = ["--replicas", "3", "--partitions", PARTITIONS];
            let dir = picket_tests::scratch::until_exit()?;
            anyhow::Ok(Mutex::new(Fleet::start_on(&dir, options, &topics).await?))
        };
        let mut fleet = FLEET.get_or_try_init(start).await.unwrap().lock().await;
        fleet.start_what_is_stopped().await.unwrap();
        whole(&fleet).await.unwrap();
        test(&mut fleet).await.unwrap();
    });
}

/// A partition of the observations' topic, as the brokers have it.
struct Place {
    partition: i32,
    leader: i32,
    in_sync: usize,
}

fn places(fleet: &Fleet) -> Result<Vec<Place>> {
    let settings = fleet.stack.settings();
    let client: BaseConsumer = settings.kafka_client(Some(&settings.admin)).create()?;
    let name = TopicNames::new(&settings.kafka.topic_prefix).name(Topic::Observations);
    let metadata = client.fetch_metadata(Some(&name), Duration::from_secs(10))?;
    let topic = metadata.topics().first().context("no topic")?;
    let place = |p: &rdkafka::metadata::MetadataPartition| Place {
        partition: p.id(),
        leader: p.leader(),
        in_sync: p.isr().len(),
    };
    Ok(topic.partitions().iter().map(place).collect())
}

/// Waits until the brokers say this of all partitions.
async fn wait_for_places(
    fleet: &Fleet,
    what: &str,
    is_so: impl Fn(&[Place]) -> bool,
) -> Result<()> {
    until(what, LIMIT, async || {
        // A broker that goes answers nobody.
        let seen = match places(fleet) {
            Ok(places) if is_so(&places) => return Ok(Ok(())),
            Ok(places) => {
                let one = |p: &Place| {
                    format!("{} led by {}, {} in sync", p.partition, p.leader, p.in_sync)
                };
                places.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Err(e) => e.to_string(),
        };
        Ok(Err(seen))
    })
    .await
}

/// All brokers are at work, and each leads a partition.
async fn whole(fleet: &Fleet) -> Result<()> {
    let all = |places: &[Place]| {
        let leaders: BTreeSet<i32> = places.iter().map(|p| p.leader).collect();
        places.iter().all(|p| p.in_sync == BROKERS) && leaders.len() == BROKERS
    };
    wait_for_places(fleet, "each record on all brokers, and each of them to lead", all).await
}

/// An agent with two cameras at work.
async fn at_work(fleet: &Fleet, device: &str) -> Result<(Agent, Process)> {
    let cameras: Vec<_> =
        CAMERAS.iter().map(|name| ten_a_second_without_pictures(name)).collect::<Result<_>>()?;
    let agent = fleet.enrol(device, &cameras.concat()).await?;
    let mut process = agent.start()?;
    wait_for_stored(fleet, &agent, &mut process, 20).await?;
    Ok((agent, process))
}

/// A broker that leads a partition of this agent's, and is not the controller.
async fn leader(fleet: &Fleet, agent: &Agent) -> Result<(i32, BTreeSet<i32>)> {
    let observations = fleet.database.collection::<Document>("observations");
    let used = observations.distinct("ingest.partition", doc! { "device": &agent.device }).await?;
    let used: BTreeSet<i32> = used.iter().filter_map(mongodb::bson::Bson::as_i32).collect();
    ensure!(used.len() == CAMERAS.len(), "the cameras share a partition: {used:?}");
    let places = places(fleet)?;
    let led = |p: &&Place| used.contains(&p.partition) && p.leader != CONTROLLER;
    let leader = places.iter().find(led).context("the controller leads all partitions")?.leader;
    let its = places.iter().filter(|p| p.leader == leader).map(|p| p.partition).collect();
    Ok((leader, its))
}

/// How many frames of a device the brokers have acknowledged, by its own books.
fn acknowledged(agent: &Agent) -> Result<u64> {
    let spool = open_spool(&agent.spool())?;
    Ok(spool.query_row("SELECT sum(acknowledged) FROM accounts", [], |row| row.get(0))?)
}

async fn settles(fleet: &Fleet, agent: &Agent, process: &mut Process) -> Result<()> {
    wait_for_drained(agent, process, LIMIT).await?;
    wait_for_stored(fleet, agent, process, 20).await?;
    end(process).await?;
    nothing_is_lost(fleet, &[agent]).await?;
    Ok(())
}

#[test]
fn a_leader_that_goes_in_order_or_is_killed_under_load_loses_nothing_and_doubles_nothing() {
    on_three_brokers(async |fleet: &mut Fleet| {
        let (agent, mut process) = at_work(fleet, "leader").await?;
        for round in 0..short_or_long(2, 8) {
            let (leader, its) = leader(fleet, &agent).await?;
            match round % 2 {
                0 => fleet.stack.stop_broker(leader).await?,
                _ => fleet.stack.kill_broker(leader)?,
            }
            let led_by_others = |places: &[Place]| {
                let others = |p: &Place| p.leader > 0 && p.leader != leader;
                places.iter().filter(|p| its.contains(&p.partition)).all(others)
            };
            wait_for_places(fleet, "others to lead", led_by_others).await?;
            wait_for_stored(fleet, &agent, &mut process, 20).await?;
            fleet.stack.start_broker(leader).await?;
            whole(fleet).await?;
        }
        // The topic may have a record twice then, with the same bytes; the store has it once.
        settles(fleet, &agent, &mut process).await
    });
}

#[test]
fn while_two_of_three_brokers_are_away_nothing_is_acknowledged_and_afterwards_all_is_there_once() {
    on_three_brokers(async |fleet: &mut Fleet| {
        let (agent, mut process) = at_work(fleet, "few").await?;
        for node in [2, 3] {
            fleet.stack.kill_broker(node)?;
        }
        let alone = |places: &[Place]| places.iter().all(|p| p.in_sync < 2);
        wait_for_places(fleet, "too few replicas", alone).await?;
        let waiting = spooled(&agent)?;
        wait_for_spooled(&agent, &mut process, waiting + 20).await?;
        let before = acknowledged(&agent)?;
        let waiting = spooled(&agent)?;
        wait_for_spooled(&agent, &mut process, waiting + short_or_long(40, 1200)).await?;
        assert_eq!(acknowledged(&agent)?, before, "one broker alone acknowledged");
        for node in [2, 3] {
            fleet.stack.start_broker(node).await?;
        }
        settles(fleet, &agent, &mut process).await
    });
}
