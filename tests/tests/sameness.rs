//! Whatever happens to the centre while it reads a log, MongoDB then holds what it holds after a run
//! over the same log to which nothing happened, document by document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::store::documents::collection;
use picket_tests::faults::{Bench, Chance, LIMIT, on_bench_of, short_or_long};
use picket_tests::feed::Feed;
use picket_tests::fleet::Fleet;
use picket_tests::oracle::wrong_tracks;
use picket_tests::process::{Process, until};
use picket_tests::stack::StackOptions;
use picket_wire::{Topic, TopicNames};

/// One that died is missed soon.
const SESSION: Duration = Duration::from_secs(6);
/// How often an aggregator joins or leaves in a storm.
const STORM_EVERY: Duration = Duration::from_secs(5);
/// Most aggregators in a storm.
const MOST: usize = 3;

fn on_a_quick_group(test: impl AsyncFnOnce(&mut Bench) -> Result<()>) {
    on_bench_of(StackOptions { session: SESSION, ..StackOptions::default() }, test).unwrap();
}

/// Waits until all that stands in the log is stored, and nothing of it is provisional.
async fn caught_up(fleet: &Fleet) -> Result<()> {
    let checkpoints = fleet.database.collection::<Document>(collection::CHECKPOINTS);
    let names = TopicNames::new(&fleet.stack.settings().kafka.topic_prefix);
    let mut wanted = Vec::new();
    for topic in Topic::OF_DEVICES {
        for (partition, low, high) in fleet.logs(topic)? {
            if low < high {
                wanted.push((format!("partition/{}/{partition}", names.name(topic)), high));
            }
        }
    }
    until("the centre to have caught up", LIMIT, async || {
        for (id, end) in &wanted {
            let found = checkpoints.find_one(doc! { "_id": id }).await?;
            let at = found.and_then(|checkpoint| checkpoint.get_i64("next_offset").ok());
            if at != Some(*end) {
                return Ok(Err(format!("{id} stands at {at:?} of {end}")));
            }
        }
        let waiting = checkpoints.count_documents(doc! { "waits": true }).await?;
        Ok(if waiting == 0 { Ok(()) } else { Err(format!("{waiting} cameras wait")) })
    })
    .await
}

/// What is stored of a device, by collection and id: all but how it came here. Of tracks the final ones,
/// for which provisional ones there were in between depends on what happened.
async fn stored(fleet: &Fleet, device: &str) -> Result<BTreeMap<String, Document>> {
    let mut all = BTreeMap::new();
    for (name, filter) in [
        (collection::OBSERVATIONS, doc! {}),
        (collection::FRAMES, doc! {}),
        (collection::LEDGER, doc! {}),
        (collection::CAMERAS, doc! {}),
        (collection::TRACKS, doc! { "final": true, "state": { "$ne": "replaced" } }),
    ] {
        let mut filter = filter;
        filter.insert("device", device);
        let target = fleet.database.collection::<Document>(name);
        let found: Vec<Document> = target.find(filter).await?.try_collect().await?;
        for mut document in found {
            document.remove("ingest");
            if name == collection::CAMERAS {
                // The offset of the batch that wrote it.
                document.remove("rev");
            }
            all.insert(format!("{name} {}", document.get_str("_id")?), document);
        }
    }
    Ok(all)
}

/// Compares what is stored of a device with what a run over the same log stores to which nothing happens.
async fn is_as_if_nothing_had_happened(bench: &mut Bench, device: &str) -> Result<()> {
    let fleet = &mut bench.fleet;
    caught_up(fleet).await?;
    let disturbed = stored(fleet, device).await?;
    let wrong = wrong_tracks(&fleet.database, &[device]).await?;
    ensure!(wrong.is_empty(), "{} wrong tracks: {}", wrong.len(), wrong[0]);
    fleet.aggregator.terminate(LIMIT).await?;
    for name in fleet.database.list_collection_names().await? {
        fleet.database.collection::<Document>(&name).delete_many(doc! {}).await?;
    }
    fleet.restart_aggregator().await?;
    caught_up(fleet).await?;
    let undisturbed = stored(fleet, device).await?;
    let observations = undisturbed.keys().filter(|id| id.starts_with(collection::OBSERVATIONS));
    let tracks = undisturbed.keys().filter(|id| id.starts_with(collection::TRACKS));
    let (observations, tracks) = (observations.count(), tracks.count());
    println!(
        "{device}: {} documents, {observations} observations, {tracks} tracks",
        undisturbed.len()
    );
    ensure!(observations > 500 && tracks > 20, "too little to compare");
    for (id, document) in &undisturbed {
        let found = disturbed.get(id).with_context(|| format!("{id} is missing"))?;
        ensure!(found == document, "{id} is\n{found}\nand should be\n{document}");
    }
    let more: Vec<_> = disturbed.keys().filter(|id| !undisturbed.contains_key(*id)).collect();
    ensure!(more.is_empty(), "should not be there: {more:?}");
    Ok(())
}

/// Waits until a device has so many more observations.
async fn more_stored(fleet: &Fleet, device: &str, more: u64) -> Result<()> {
    let observations = fleet.database.collection::<Document>(collection::OBSERVATIONS);
    let filter = doc! { "device": device };
    let wanted = observations.count_documents(filter.clone()).await? + more;
    until("more observations", LIMIT, async || {
        let seen = observations.count_documents(filter.clone()).await?;
        Ok(if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) })
    })
    .await
}

#[test]
fn a_storm_of_aggregators_that_join_and_leave_and_are_killed_changes_no_document() {
    on_a_quick_group(async |bench| {
        let mut chance = Chance::new()?;
        let feed = Feed::start(&bench.fleet.stack, "storm", chance.another()).await?;
        more_stored(&bench.fleet, "storm", 100).await?;
        let mut members: Vec<Process> = vec![bench.fleet.start_another_aggregator()?];
        let mut beat = tokio::time::interval(STORM_EVERY);
        beat.tick().await;
        for _ in 0..short_or_long(4, 60) {
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
            beat.tick().await;
        }
        feed.stop().await?;
        for mut member in members {
            member.kill()?;
        }
        is_as_if_nothing_had_happened(bench, "storm").await
    });
}

#[test]
fn an_aggregator_that_stood_still_and_finds_others_in_its_place_changes_no_document() {
    on_a_quick_group(async |bench| {
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
        is_as_if_nothing_had_happened(bench, "frozen").await
    });
}

#[test]
fn a_store_that_was_away_changes_no_document() {
    on_a_quick_group(async |bench| {
        let feed = Feed::start(&bench.fleet.stack, "away", Chance::new()?).await?;
        more_stored(&bench.fleet, "away", 100).await?;
        bench.fleet.stack.kill_mongodb()?;
        tokio::time::sleep(Duration::from_secs(short_or_long(10, 600))).await;
        bench.fleet.stack.start_mongodb().await?;
        more_stored(&bench.fleet, "away", 100).await?;
        feed.stop().await?;
        is_as_if_nothing_had_happened(bench, "away").await
    });
}
