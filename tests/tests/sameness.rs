//! Whatever happens to the centre while it reads a log, MongoDB then holds what it holds after a run
//! over the same log to which nothing happened, document by document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::store::documents::collection;
use picket_tests::faults::{Bench, Chance, LIMIT, on_bench, short_or_long};
use picket_tests::feed::Feed;
use picket_tests::fleet::{FEW_PARTITIONS, Fleet};
use picket_tests::process::{Process, until};
use picket_tests::sameness::{caught_up, is_as_if_nothing_had_happened, more_stored};
use picket_tests::topics;
use picket_wire::{Topic, header};
use rdkafka::Message;
use rdkafka::message::Headers;

/// How often an aggregator joins or leaves in a storm.
const STORM_EVERY: Duration = Duration::from_secs(5);
/// Most aggregators in a storm.
const MOST: usize = 3;

#[test]
fn a_storm_of_aggregators_that_join_and_leave_and_are_killed_changes_no_document() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let feed = Feed::start(&bench.fleet.stack, "storm", chance.another()).await?;
        more_stored(&bench.fleet, "storm", 100).await?;
        let mut members: Vec<Process> = vec![bench.fleet.start_another_aggregator()?];
        let mut beat = tokio::time::interval(STORM_EVERY);
        beat.tick().await;
        for _ in 0..short_or_long(4, 60) {
            // One that has just begun does not listen to signals yet.
            beat.tick().await;
            let joins = match members.len() {
                0 => true,
                MOST => false,
                _ => chance.below(2) == 0,
            };
            if joins {
                members.push(bench.fleet.start_another_aggregator()?);
            } else {
                let index = chance.below(members.len() as u64) as usize;
                let mut leaving = members.swap_remove(index);
                match chance.below(2) {
                    0 => leaving.kill()?,
                    _ => ensure!(leaving.terminate(LIMIT).await?.success(), leaving.log_tail()),
                }
            }
        }
        beat.tick().await;
        feed.stop().await?;
        for mut member in members {
            member.kill()?;
        }
        is_as_if_nothing_had_happened(bench, &["storm"]).await
    })
    .unwrap();
}

#[test]
fn an_aggregator_that_stood_still_and_finds_others_in_its_place_changes_no_document() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let feed = Feed::start(&bench.fleet.stack, "frozen", chance.another()).await?;
        for _ in 0..short_or_long(2, 10) {
            more_stored(&bench.fleet, "frozen", 100).await?;
            let frozen = Duration::from_secs(short_or_long(0, 60));
            bench.fleet.aggregator.signal("STOP")?;
            let stopped = tokio::time::Instant::now();
            let mut other = bench.fleet.start_another_aggregator()?;
            more_stored(&bench.fleet, "frozen", 300).await?;
            tokio::time::sleep_until(stopped + frozen).await;
            bench.fleet.aggregator.signal("CONT")?;
            more_stored(&bench.fleet, "frozen", 100).await?;
            ensure!(other.terminate(LIMIT).await?.success(), other.log_tail());
        }
        feed.stop().await?;
        is_as_if_nothing_had_happened(bench, &["frozen"]).await
    })
    .unwrap();
}

#[test]
fn a_store_that_was_away_changes_no_document() {
    on_bench(async |bench| {
        let feed = Feed::start(&bench.fleet.stack, "away", Chance::new()?).await?;
        more_stored(&bench.fleet, "away", 100).await?;
        bench.fleet.stack.kill_mongodb()?;
        tokio::time::sleep(Duration::from_secs(short_or_long(10, 600))).await;
        bench.fleet.stack.start_mongodb().await?;
        more_stored(&bench.fleet, "away", 100).await?;
        feed.stop().await?;
        is_as_if_nothing_had_happened(bench, &["away"]).await
    })
    .unwrap();
}

#[test]
fn an_aggregator_that_is_killed_again_and_again_changes_no_document() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let feed = Feed::start(&bench.fleet.stack, "killed", chance.another()).await?;
        for _ in 0..short_or_long(2, 100) {
            more_stored(&bench.fleet, "killed", 60).await?;
            tokio::time::sleep(chance.between_ms(0, 1000)).await;
            bench.fleet.aggregator.kill()?;
            bench.fleet.restart_aggregator().await?;
        }
        feed.stop().await?;
        is_as_if_nothing_had_happened(bench, &["killed"]).await
    })
    .unwrap();
}

/// The partitions that an aggregator owns, and how often each was taken over.
async fn owned(fleet: &Fleet, name: &str) -> Result<BTreeMap<String, i64>> {
    let checkpoints = fleet.database.collection::<Document>(collection::CHECKPOINTS);
    let found = checkpoints.find(doc! { "owner": name }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    let entry = |d: &Document| Ok((d.get_str("_id")?.to_owned(), d.get_i64("owner_epoch")?));
    found.iter().map(entry).collect()
}

/// Waits until a static member has taken over a partition anew.
async fn takes_over(fleet: &Fleet, name: &str, member: &mut Process) -> Result<()> {
    let before = owned(fleet, name).await?;
    until("the static member to take over a partition", LIMIT, async || {
        if let Some(status) = member.exited()? {
            let log = member.log_tail();
            ensure!(log.contains("consume.static_member"), "{status}:\n{log}");
            // As a service manager does.
            *member = fleet.start_static_member(name)?;
        }
        let now = owned(fleet, name).await?;
        let is_new = now.iter().any(|(id, epoch)| before.get(id) < Some(epoch));
        Ok(if is_new { Ok(()) } else { Err(format!("{now:?}")) })
    })
    .await
}

#[test]
fn a_static_member_that_is_killed_goes_on_once_its_name_is_free_and_changes_no_document() {
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let feed = Feed::start(&fleet.stack, "static", Chance::new()?).await?;
        let name = "centre-1";
        let mut member = fleet.start_static_member(name)?;
        takes_over(fleet, name, &mut member).await?;
        for _ in 0..short_or_long(1, 20) {
            more_stored(fleet, "static", 100).await?;
            member.kill()?;
            member = fleet.start_static_member(name)?;
            takes_over(fleet, name, &mut member).await?;
        }
        more_stored(fleet, "static", 100).await?;
        feed.stop().await?;
        ensure!(member.terminate(LIMIT).await?.success(), member.log_tail());
        is_as_if_nothing_had_happened(bench, &["static"]).await
    })
    .unwrap();
}

/// Topics of which the centre keeps what it has read.
const RECORDS: [Topic; 2] = [Topic::Observations, Topic::Frames];

/// Waits until it was seen of each log that a device's cameras write to, and told in MongoDB, that it is
/// the same one.
async fn logs_are_marked(fleet: &Fleet, device: &str) -> Result<()> {
    let checkpoints = fleet.database.collection::<Document>(collection::CHECKPOINTS);
    let cameras = doc! { "_id": { "$regex": format!("^camera/{device}/") } };
    let mut logs = BTreeSet::new();
    let mut found = checkpoints.find(cameras).await?;
    while let Some(camera) = found.try_next().await? {
        let (topic, partition) = (camera.get_str("topic")?, camera.get_i32("partition")?);
        logs.insert(format!("partition/{topic}/{partition}"));
    }
    let logs: Vec<_> = logs.into_iter().collect();
    until("marks of all logs", LIMIT, async || {
        let marked = doc! { "_id": { "$in": &logs }, "mark": { "$ne": null } };
        let marked = checkpoints.count_documents(marked).await? as usize;
        Ok(if marked == logs.len() { Ok(()) } else { Err(format!("{marked} of {logs:?}")) })
    })
    .await
}

/// Has the topics hold others' records and then what they held, in other topics of the same names or at
/// another cluster: so what was not read stands where all was read.
async fn held_elsewhere(
    bench: &mut Bench,
    [device, more]: [&str; 2],
    elsewhere: impl AsyncFnOnce(&mut Fleet) -> Result<()>,
) -> Result<()> {
    let mut chance = Chance::new()?;
    let feed = Feed::start(&bench.fleet.stack, device, chance.another()).await?;
    more_stored(&bench.fleet, device, 300).await?;
    logs_are_marked(&bench.fleet, device).await?;
    feed.stop().await?;
    caught_up(&bench.fleet).await?;
    let held = RECORDS.map(|topic| bench.fleet.messages(topic));
    elsewhere(&mut bench.fleet).await?;
    let mut feed = Feed::start(&bench.fleet.stack, more, chance.another()).await?;
    feed.sent(60).await?;
    feed.stop().await?;
    for messages in held {
        topics::write_back(&bench.fleet, &messages?).await?;
    }
    Ok(())
}

/// Waits until each observation that the log holds is stored: an aggregator that reads from the midst of
/// another log comes to its end as well.
async fn all_are_stored(fleet: &Fleet) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for message in fleet.messages(Topic::Observations)? {
        let headers = message.headers().context("a message without headers")?;
        let text = |name| headers.iter().find(|h| h.key == name).and_then(|h| h.value);
        if text(header::KIND) == Some(b"observation") {
            wanted
                .insert(String::from_utf8_lossy(text(header::ID).unwrap_or_default()).into_owned());
        }
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let observations = fleet.database.collection::<Document>(collection::OBSERVATIONS);
    until("all that the log holds to be stored", LIMIT, async || {
        let stored = observations.count_documents(doc! { "_id": { "$in": &wanted } }).await?;
        let (stored, wanted) = (stored as usize, wanted.len());
        Ok(if stored == wanted { Ok(()) } else { Err(format!("{stored} of {wanted}")) })
    })
    .await
    .with_context(|| format!("the aggregator's log:\n{}", fleet.aggregator.log_tail()))
}

/// The states of which logs were found to be broken.
async fn broken(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let checkpoints = fleet.database.collection::<Document>(collection::CHECKPOINTS);
    let found = checkpoints.distinct("broken.state", doc! {}).await?;
    Ok(found.iter().filter_map(|state| state.as_str().map(str::to_owned)).collect())
}

#[test]
fn topics_that_are_made_anew_under_a_running_aggregator_are_read_whole_and_change_no_document() {
    on_bench(async |bench| {
        let devices = ["under", "under-more"];
        held_elsewhere(bench, devices, async |fleet| {
            // So short that the group does not miss it: it reads on where it stood, in another log.
            fleet.aggregator.signal("STOP")?;
            topics::delete(fleet, &RECORDS).await?;
            fleet.create_topics(&FEW_PARTITIONS).await
        })
        .await?;
        bench.fleet.aggregator.signal("CONT")?;
        all_are_stored(&bench.fleet).await?;
        ensure!(!broken(&bench.fleet).await?.is_empty(), "nobody noticed");
        is_as_if_nothing_had_happened(bench, &devices).await
    })
    .unwrap();
}

#[test]
fn topics_that_were_made_anew_while_no_aggregator_ran_are_told_by_their_times() {
    on_bench(async |bench| {
        let devices = ["anew", "anew-more"];
        held_elsewhere(bench, devices, async |fleet| {
            ensure!(fleet.aggregator.terminate(LIMIT).await?.success());
            topics::delete(fleet, &RECORDS).await?;
            fleet.create_topics(&FEW_PARTITIONS).await
        })
        .await?;
        bench.fleet.restart_aggregator().await?;
        caught_up(&bench.fleet).await?;
        let broken = broken(&bench.fleet).await?;
        ensure!(broken.contains("topic-recreated"), "{broken:?}");
        is_as_if_nothing_had_happened(bench, &devices).await
    })
    .unwrap();
}

#[test]
fn a_cluster_that_is_another_one_is_told_by_its_id_and_read_whole() {
    on_bench(async |bench| {
        let devices = ["moved", "moved-more"];
        held_elsewhere(bench, devices, async |fleet| {
            fleet.stack.start_another_cluster().await?;
            fleet.create_topics(&FEW_PARTITIONS).await
        })
        .await?;
        caught_up(&bench.fleet).await?;
        let broken = broken(&bench.fleet).await?;
        ensure!(broken.contains("other-cluster"), "{broken:?}");
        is_as_if_nothing_had_happened(bench, &devices).await
    })
    .unwrap();
}
