//! What was begun and not brought to its end.

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::consume::{self, Centre};
use picket_aggregator::store::{self, Store};
use picket_aggregator::track::Settings as TrackSettings;
use picket_aggregator::upsert::Images;
use picket_tests::faults::{Chance, short_or_long};
use picket_tests::process::until_every;

use super::bench::{LIMIT, RETENTION, bench, complete, count, one};
use super::records::seen;

/// Everything that is stored of a device, `ingest` aside.
async fn stored(store: &Store, device: &str) -> Vec<Document> {
    let mut all = Vec::new();
    for collection in ["observations", "tracks", "ledger"] {
        let target = store.database().collection::<Document>(collection);
        let find = target.find(doc! { "device": device }).sort(doc! { "_id": 1 });
        let found: Vec<Document> = find.await.unwrap().try_collect().await.unwrap();
        all.extend(found.into_iter().map(|mut document| {
            document.remove("ingest");
            document
        }));
    }
    all
}

/// All checkpoints stand at the beginning of their logs.
async fn begin_anew(store: &Store) {
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let of_partitions = doc! { "_id": { "$regex": "^partition/" } };
    checkpoints.update_many(of_partitions, doc! { "$unset": { "next_offset": 1 } }).await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_read_anew_changes_nothing() {
    let bench = bench().await;
    let store = bench.store().await;
    let epoch = "again/front/1-0a1b2c3d";
    let centre = bench.centre(&store).await;
    for seq in 1..=50 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    complete(&store, "again/front", 50).await;
    centre.stop().await.unwrap();
    let before = stored(&store, "again").await;
    let camera = one(&store, "cameras", "again/front").await.unwrap();
    // As if the batch had been written and its end had not.
    begin_anew(&store).await;
    let centre = bench.centre(&store).await;
    bench.send(seen(epoch, 51).encode().unwrap()).await;
    let after = complete(&store, "again/front", 51).await;
    centre.stop().await.unwrap();
    let accounts = |d: &Document| d.get_document("accounts").unwrap().get_i64("stored").unwrap();
    assert_eq!(accounts(&after), accounts(&camera) + 1);
    assert_eq!(stored(&store, "again").await.len(), before.len() + 1);
}

#[tokio::test]
async fn batches_that_were_written_and_not_ended_come_to_the_same() {
    let bench = bench().await;
    let store = bench.store().await;
    let epoch = "half/front/1-0a1b2c3d";
    let centre = bench.centre(&store).await;
    for seq in 1..=40 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    complete(&store, "half/front", 40).await;
    centre.stop().await.unwrap();
    let before = stored(&store, "half").await;
    // Documents stay, accounts and checkpoints are gone: a crash before the first batch's end.
    for (collection, filter) in [
        ("ledger", doc! { "device": "half" }),
        ("cameras", doc! { "device": "half" }),
        ("checkpoints", doc! { "_id": { "$regex": "^(camera|runs)/half/front" } }),
    ] {
        store.database().collection::<Document>(collection).delete_many(filter).await.unwrap();
    }
    begin_anew(&store).await;
    let centre = bench.centre(&store).await;
    complete(&store, "half/front", 40).await;
    centre.stop().await.unwrap();
    assert_eq!(stored(&store, "half").await, before);
}

/// Starts a centre in a runtime of its own, and lets go of that once so many of the observations are
/// stored: whatever was waited for is never heard of again.
fn die_at_work(settings: consume::Settings, store: store::Settings, images: Images, least: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::connect(&store).await.unwrap();
        let tracker = TrackSettings::default();
        let _centre = Centre::spawn(settings, tracker, RETENTION, store.clone(), images).unwrap();
        until_every("the moment to die", LIMIT, Duration::from_millis(5), async || {
            let seen = count(&store, "observations", both()).await;
            Ok(if seen >= least { Ok(()) } else { Err(format!("{seen} of {least}")) })
        })
        .await
        .unwrap();
    });
    runtime.shutdown_background();
}

/// The observations of the two devices of the test below.
fn both() -> Document {
    doc! { "kind": "observation", "device": { "$in": ["calm", "storm"] } }
}

#[tokio::test]
async fn a_centre_that_dies_at_any_point_comes_to_the_same_documents() {
    let bench = bench().await;
    let store = bench.store().await;
    let images = Images::in_directory(&bench.dir.join("images")).unwrap();
    for seq in 1..=1500 {
        let mut deliveries = Vec::new();
        for device in ["calm", "storm"] {
            let record = seen(&format!("{device}/front/1-0a1b2c3d"), seq);
            deliveries.push(bench.send(record.encode().unwrap()));
        }
        futures_util::future::join_all(deliveries).await;
    }
    // Small batches: many places to die at.
    let settings = consume::Settings { batch_records: 7, release_s: 1, ..bench.settings() };
    let deaths = short_or_long(4, 20);
    let mut chance = Chance::new().unwrap();
    let mut stored_at_death = Vec::new();
    for n in 0..deaths {
        let part = 2400 / deaths;
        let least = 1 + part * n + chance.below(part);
        let (settings, images) = (settings.clone(), images.clone());
        let dying = bench.store_settings();
        let dying = move || die_at_work(settings, dying, images, least);
        tokio::task::spawn_blocking(dying).await.unwrap();
        stored_at_death.push(count(&store, "observations", both()).await);
    }
    println!("dead with {stored_at_death:?} of 3000 stored");
    let at_work = stored_at_death.iter().filter(|stored| **stored < 3000).count();
    assert!(at_work >= 2, "nobody died at work: {stored_at_death:?}");
    let centre = bench.centre(&store).await;
    complete(&store, "calm/front", 1500).await;
    complete(&store, "storm/front", 1500).await;
    centre.stop().await.unwrap();
    let epochs = |device: &str| format!("{device}/front/1-0a1b2c3d");
    for device in ["calm", "storm"] {
        let found = stored(&store, device).await;
        assert_eq!(found.len(), 1500 + 1 + 1, "observations, a track, a ledger");
        let track = one(&store, "tracks", &format!("{}/1#0", epochs(device))).await.unwrap();
        assert_eq!(track.get_i64("observations").unwrap(), 1500);
        assert_eq!(track.get_str("last_observation").unwrap(), format!("{}/1500", epochs(device)));
        for document in &found {
            let Ok(detections) = document.get_array("detections") else { continue };
            let detection = detections[0].as_document().unwrap();
            assert_eq!(detection.get_str("track").unwrap(), format!("{}/1#0", epochs(device)));
            assert!(!document.get_bool("late").unwrap());
        }
        let camera = one(&store, "cameras", &format!("{device}/front")).await.unwrap();
        let accounts = camera.get_document("accounts").unwrap();
        assert_eq!(accounts.get_i64("stored").unwrap(), 1500);
    }
}
