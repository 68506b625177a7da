//! Comparing what is stored with what a run over the same log stores to which nothing happens.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::store::documents::collection;
use picket_wire::{Topic, TopicNames};

use crate::faults::{Bench, LIMIT, short_or_long};
use crate::fleet::Fleet;
use crate::oracle::wrong_tracks;
use crate::process::until;

/// Waits until all that stands in the log is stored, and nothing of it is provisional.
pub async fn caught_up(fleet: &Fleet) -> Result<()> {
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
    until("the centre to have caught up", short_or_long(LIMIT, 4 * LIMIT), async || {
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
    .with_context(|| format!("the aggregator's log:\n{}", fleet.aggregator.log_tail()))
}

/// What is stored of these devices, by collection and id: all but how it came here. Of tracks the final
/// ones, for which provisional ones there were in between depends on what happened.
async fn stored(fleet: &Fleet, devices: &[&str]) -> Result<BTreeMap<String, Document>> {
    let mut all = BTreeMap::new();
    for (name, filter) in [
        (collection::OBSERVATIONS, doc! {}),
        (collection::FRAMES, doc! {}),
        (collection::LEDGER, doc! {}),
        (collection::CAMERAS, doc! {}),
        (collection::TRACKS, doc! { "final": true, "state": { "$ne": "replaced" } }),
    ] {
        let mut filter = filter;
        filter.insert("device", doc! { "$in": devices });
        let target = fleet.database.collection::<Document>(name);
        let found: Vec<Document> = target.find(filter).await?.try_collect().await?;
        for mut document in found {
            document.remove("ingest");
            if name == collection::CAMERAS {
                // The offset of the batch that wrote it, and the broker's time of a record.
                document.remove("rev");
                document.remove("clock_ahead_ms");
            }
            all.insert(format!("{name} {}", document.get_str("_id")?), document);
        }
    }
    Ok(all)
}

/// Compares what is stored of these devices with what a run over the same log stores to which nothing
/// happens. That run takes the place of what was there.
pub async fn is_as_if_nothing_had_happened(bench: &mut Bench, devices: &[&str]) -> Result<()> {
    let fleet = &mut bench.fleet;
    caught_up(fleet).await?;
    let disturbed = stored(fleet, devices).await?;
    let wrong = wrong_tracks(&fleet.database, devices).await?;
    ensure!(wrong.is_empty(), "{} wrong tracks: {}", wrong.len(), wrong[0]);
    fleet.aggregator.terminate(LIMIT).await?;
    for name in fleet.database.list_collection_names().await? {
        fleet.database.collection::<Document>(&name).delete_many(doc! {}).await?;
    }
    fleet.restart_aggregator().await?;
    caught_up(fleet).await?;
    let undisturbed = stored(fleet, devices).await?;
    let observations = undisturbed.keys().filter(|id| id.starts_with(collection::OBSERVATIONS));
    let tracks = undisturbed.keys().filter(|id| id.starts_with(collection::TRACKS));
    let (observations, tracks) = (observations.count(), tracks.count());
    println!(
        "{devices:?}: {} documents, {observations} observations, {tracks} tracks",
        undisturbed.len()
    );
    ensure!(observations >= 300 && tracks > 20, "too little to compare");
    for device in devices {
        let camera = format!("{} {device}/", collection::CAMERAS);
        ensure!(undisturbed.keys().any(|id| id.starts_with(&camera)), "nothing of {device}");
    }
    for (id, document) in &undisturbed {
        let found = disturbed.get(id).with_context(|| format!("{id} is missing"))?;
        ensure!(found == document, "{id} is\n{found}\nand should be\n{document}");
    }
    let more: Vec<_> = disturbed.keys().filter(|id| !undisturbed.contains_key(*id)).collect();
    ensure!(more.is_empty(), "should not be there: {more:?}");
    Ok(())
}

/// Waits until a device has so many more observations.
pub async fn more_stored(fleet: &Fleet, device: &str, more: u64) -> Result<()> {
    let observations = fleet.database.collection::<Document>(collection::OBSERVATIONS);
    let filter = doc! { "device": device };
    let wanted = observations.count_documents(filter.clone()).await? + more;
    until("more observations", LIMIT, async || {
        let seen = observations.count_documents(filter.clone()).await?;
        Ok(if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) })
    })
    .await
}
