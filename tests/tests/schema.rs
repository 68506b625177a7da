//! What MongoDB is made to hold documents to, by which version of the aggregator, and what becomes of
//! documents that somebody spoilt: on a real MongoDB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::options::{Collation, IndexOptions};
use mongodb::{Database, IndexModel};
use picket_aggregator::store::documents::{CentreAccounts, LedgerDocument, collection};
use picket_aggregator::store::{Settings, Store, StoreError, encode, schema};
use picket_service::logging::chain;
use picket_tests::faults::{Bench, end, on_bench, ten_a_second_without_pictures, wait_for_stored};
use picket_tests::fleet::{Fleet, get};
use picket_tests::process::{Process, until};

const LIMIT: Duration = Duration::from_secs(120);

/// A database of the test's own, as a user sees it.
async fn store(fleet: &Fleet, database: &str, user: &str) -> Result<Store> {
    let stack = fleet.stack.settings();
    let host = stack.mongodb.uri.split_once("://").unwrap().1;
    let text = format!(
        "hosts = ['{}']\ndatabase = '{database}'\nuser = '{user}'\npassword_file = '{}'\nca_file = '{}'",
        host.split(['/', '?']).next().unwrap(),
        stack.dir.join("mongodb/admin.password").display(),
        stack.mongodb.ca.display(),
    );
    let settings: Settings = toml::from_str(&text)?;
    Ok(Store::connect(&settings).await?)
}

async fn collections(database: &Database) -> Result<Vec<Document>> {
    let found = database.run_cursor_command(doc! { "listCollections": 1 }).await?;
    let mut found: Vec<Document> = found.try_collect().await?;
    found.sort_by_key(|found| found.get_str("name").unwrap_or_default().to_owned());
    Ok(found)
}

async fn indexes(database: &Database, name: &str) -> Result<Vec<IndexModel>> {
    let found = database.collection::<Document>(name).list_indexes().await?;
    Ok(found.try_collect().await?)
}

async fn version(database: &Database) -> Result<Document> {
    let found = database.collection::<Document>(collection::SCHEMA).find_one(doc! {}).await?;
    Ok(found.unwrap())
}

#[test]
fn several_aggregators_that_start_at_once_make_one_schema_and_a_further_start_changes_nothing() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "at-once", "admin").await?;
        let starts = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.prepare().await })
        });
        for start in futures_util::future::join_all(starts.collect::<Vec<_>>()).await {
            start??;
        }
        let made = collections(store.database()).await?;
        let names: Vec<_> = made.iter().map(|made| made.get_str("name").unwrap()).collect();
        for name in schema::collections() {
            ensure!(names.contains(&name), "{name} is not among {names:?}");
        }
        for made in &made {
            let options = made.get_document("options")?;
            ensure!(options.get_document("validator")?.contains_key("$jsonSchema"), "{made}");
        }
        ensure!(version(store.database()).await?.get_i64("version")? == schema::SCHEMA_VERSION);
        // Who may only read and write does for a start that changes nothing.
        let admin = store.database().client().database("admin");
        let password = std::fs::read_to_string(
            bench.fleet.stack.settings().dir.join("mongodb/admin.password"),
        )?;
        let role = doc! { "role": "readWrite", "db": "at-once" };
        let create = doc! { "createUser": "writer", "pwd": password, "roles": [role] };
        admin.run_command(create).await?;
        let writer = self::store(&bench.fleet, "at-once", "writer").await?;
        writer.prepare().await?;
        ensure!(collections(store.database()).await? == made);

        // And not for one that has something to change.
        let loosen = doc! { "collMod": "tracks", "validator": {}, "validationLevel": "off" };
        store.database().run_command(loosen).await?;
        let error = writer.prepare().await.unwrap_err();
        let said = chain(&error).to_string();
        ensure!(matches!(error, StoreError::NoRight { .. }), "{said}");
        for part in ["collMod", "tracks", "dbAdmin"] {
            ensure!(said.contains(part), "{part} in {said}");
        }
        store.prepare().await?;
        ensure!(collections(store.database()).await? == made, "as it was");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_an_older_build_made_is_changed_and_what_was_made_by_hand_stays() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "older", "admin").await?;
        let database = store.database();
        // As a build left it that knew no validators and expired otherwise.
        let expires =
            mongodb::options::IndexOptions::builder().expire_after(Duration::from_secs(60));
        let expiry = IndexModel::builder().keys(doc! { "ingest.expire_at": 1 });
        let tracks = database.collection::<Document>("tracks");
        tracks.create_index(expiry.options(expires.build()).build()).await?;
        let named = |name: &str| IndexOptions::builder().name(name.to_owned()).build();
        for keys in [doc! { "class": 1.0 }, doc! { "first_seen": -1.0, "_id": -1.0 }] {
            let name = format!("by-hand-{}", keys.len());
            let index = IndexModel::builder().keys(keys).options(named(&name)).build();
            tracks.create_index(index).await?;
        }
        tracks.insert_one(doc! { "_id": "an old one", "rev": "spoilt" }).await?;
        store.prepare().await?;
        let found = indexes(database, "tracks").await?;
        let options = |index: &IndexModel| index.options.clone().unwrap();
        let expiry = found.iter().find(|i| i.keys == doc! { "ingest.expire_at": 1 }).unwrap();
        ensure!(options(expiry).expire_after == Some(Duration::ZERO), "{expiry:?}");
        for name in ["by-hand-1", "by-hand-2"] {
            ensure!(
                found.iter().any(|index| options(index).name.as_deref() == Some(name)),
                "{name}"
            );
        }
        let same = found.iter().filter(|index| index.keys.contains_key("first_seen"));
        ensure!(same.filter(|index| index.keys.len() == 2).count() == 1, "none twice: {found:?}");
        // What was not valid before may be changed all the same.
        tracks.update_one(doc! { "_id": "an old one" }, doc! { "$set": { "seen": true } }).await?;

        // One that refuses documents is named, whatever its name; one that queries do not use stays beside.
        let observations = database.collection::<Document>("observations");
        let keys = || doc! { "device": 1, "camera": 1, "epoch": 1, "seq": 1 };
        let of_seq = || IndexModel::builder().keys(keys());
        observations.drop_index("device_1_camera_1_epoch_1_seq_1").await?;
        let unique = IndexOptions::builder().name("one-each".to_owned()).unique(true).build();
        observations.create_index(of_seq().options(unique).build()).await?;
        let error = store.prepare().await.unwrap_err();
        let said = chain(&error).to_string();
        ensure!(matches!(error, StoreError::UniqueIndex { .. }), "{said}");
        for part in ["one-each", "observations", "dropIndex"] {
            ensure!(said.contains(part), "{part} in {said}");
        }
        observations.drop_index("one-each").await?;
        let german = Collation::builder().locale("de").build();
        let german = IndexOptions::builder().name("german".to_owned()).collation(german).build();
        observations.create_index(of_seq().options(german).build()).await?;
        store.prepare().await?;
        let found = indexes(database, "observations").await?;
        ensure!(found.iter().filter(|index| index.keys == keys()).count() == 2, "{found:?}");

        // In the way of one that is asked for by its name.
        let clocks = database.collection::<Document>("clocks");
        clocks.drop_index("due").await?;
        let other = IndexModel::builder().keys(doc! { "any": 1 }).options(named("due")).build();
        clocks.create_index(other).await?;
        let error = store.prepare().await.unwrap_err();
        let said = chain(&error).to_string();
        ensure!(matches!(error, StoreError::IndexInTheWay { .. }), "{said}");
        ensure!(said.contains("clocks") && said.contains("dropIndex"), "{said}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn books_that_are_spoilt_by_hand_are_refused_and_what_devices_sent_never_is() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "spoilt", "admin").await?;
        store.prepare().await?;
        let database = store.database();
        let ledger = LedgerDocument {
            id: "gate/north/1-00000001".to_owned(),
            device: "gate".to_owned(),
            camera: "north".to_owned(),
            accounted: vec![[1, 7]],
            given_up: Vec::new(),
            accounts: CentreAccounts::default(),
        };
        let ledgers = database.collection::<Document>("ledger");
        ledgers.insert_one(encode("ledger", &ledger)?).await?;
        for spoilt in [
            doc! { "$set": { "accounted": "all of them" } },
            doc! { "$set": { "accounted": [[1_i64, "7"]] } },
            doc! { "$unset": { "accounts.dropped": "" } },
            doc! { "$set": { "accounts.dropped.spool-full": 1.5 } },
        ] {
            let refused = ledgers.update_one(doc! {}, spoilt.clone()).await;
            let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(error.contains("121") || error.contains("validation"), "{spoilt}: {error:?}");
        }
        // From a shell, small numbers are of 32 bits; and fields of one's own are nobody's concern.
        let noted = doc! { "$set": { "accounts.stored": 3, "note": "looked at" } };
        ledgers.update_one(doc! {}, noted).await?;
        for name in ["observations", "tracks", "frames", "devices", "dead_letters"] {
            let documents = database.collection::<Document>(name);
            documents.insert_one(doc! { "_id": "spoilt", "kind": 5 }).await?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_older_aggregator_ends_and_names_both_versions_and_a_newer_one_takes_over() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "newer", "admin").await?;
        store.prepare_as(schema::SCHEMA_VERSION + 1, "9.8.7").await?;
        let error = store.prepare().await.unwrap_err();
        ensure!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
        let own = version(store.database()).await?;
        ensure!(own.get_str("by")? == "9.8.7", "it stays as it is: {own}");

        // The same of the program itself.
        let fleet = &mut bench.fleet;
        let schemas = fleet.database.collection::<Document>(collection::SCHEMA);
        let (ours, newer) = (schema::SCHEMA_VERSION, schema::SCHEMA_VERSION + 1);
        let raise = |to: i64| doc! { "$set": { "version": to, "by": "9.8.7" } };
        fleet.aggregator.terminate(LIMIT).await?;
        let config = fleet.aggregator_config();
        let log = config.with_file_name("older.log");
        let arguments = ["run", "--config", config.to_str().unwrap()];
        schemas.update_one(doc! {}, raise(newer)).await?;
        let ended = async {
            let mut older = Process::start("picket-aggregator", &arguments, &log)?;
            let status = older.ended(LIMIT).await?;
            anyhow::Ok((status, older.log()))
        };
        let ended = ended.await;
        // The bench is the other tests' too, whatever came of it.
        schemas.update_one(doc! {}, raise(ours)).await?;
        fleet.restart_aggregator().await?;
        let (status, log) = ended?;
        ensure!(status.code() == Some(1), "{status}: {log}");
        let versions = [newer, ours].map(|version| format!("schema version {version}"));
        for part in versions.iter().map(String::as_str).chain(["9.8.7", "store.database"]) {
            ensure!(log.contains(part), "{part} in {log}");
        }
        Ok(())
    })
    .unwrap();
}

/// A sample of the aggregator's metrics.
async fn metric(fleet: &mut Fleet, name: &str) -> Result<f64> {
    let page = fleet.page().await?;
    let answer = get(&page, "/metrics").await?;
    let line = answer.lines().find(|line| line.starts_with(name));
    Ok(line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, value)| value.parse().unwrap()))
}

async fn wait_for_metric(fleet: &mut Fleet, name: &str) -> Result<()> {
    until(name, LIMIT, async || {
        fleet.aggregator.expect_running()?;
        let value = metric(fleet, name).await?;
        Ok(if value > 0.0 { Ok(()) } else { Err("nothing counted".to_owned()) })
    })
    .await
}

/// Which documents MongoDB itself does not take for valid.
async fn invalid(database: &Database) -> Result<Vec<Document>> {
    let mut invalid = Vec::new();
    for name in schema::collections() {
        let validator = schema::validator(name).unwrap();
        let filter = doc! { "$nor": [mongodb::bson::serialize_to_document(&validator)?] };
        let found = database.collection::<Document>(name).find(filter).limit(1).await?;
        invalid.extend(found.try_collect::<Vec<_>>().await?);
    }
    Ok(invalid)
}

/// Where a device's camera lies, as the id of its partition's checkpoint.
async fn partition(fleet: &Fleet, device: &str) -> Result<String> {
    let checkpoints = fleet.database.collection::<Document>("checkpoints");
    let found = checkpoints.find_one(doc! { "_id": format!("camera/{device}/north") }).await?;
    let found = found.unwrap();
    Ok(format!("partition/{}/{}", found.get_str("topic")?, found.get_i32("partition")?))
}

#[test]
fn a_spoilt_ledger_stops_its_partition_alone_and_a_newer_checkpoint_ends_tracks_and_both_are_told()
{
    on_bench(async |bench: &mut Bench| {
        let fleet = &mut bench.fleet;
        let camera = ten_a_second_without_pictures("north")?;
        let (agent, other) =
            (fleet.enrol("spoilt", &camera).await?, fleet.enrol("other", &camera).await?);
        let (mut process, mut other_process) = (agent.start()?, other.start()?);
        wait_for_stored(fleet, &agent, &mut process, 10).await?;
        wait_for_stored(fleet, &other, &mut other_process, 10).await?;
        let place = partition(fleet, "spoilt").await?;
        ensure!(place != partition(fleet, "other").await?, "give one of the devices another name");
        let invalid = invalid(&fleet.database).await?;
        ensure!(invalid.is_empty(), "the programs themselves stored {invalid:?}");
        fleet.aggregator.terminate(LIMIT).await?;
        let documents = |name: &str| fleet.database.collection::<Document>(name);
        let ledger = documents("ledger").find_one(doc! { "device": "spoilt" }).await?.unwrap();
        let id = ledger.get_str("_id")?.to_owned();
        let spoil = async |name: &str, id: &str, change: Document| {
            let documents = documents(name);
            let spoilt = documents.update_one(doc! { "_id": id }, change);
            let spoilt = spoilt.bypass_document_validation(true).await?;
            ensure!(spoilt.modified_count == 1, "{id} in {name}");
            anyhow::Ok(())
        };
        spoil("ledger", &id, doc! { "$set": { "accounted": "by hand" } }).await?;
        let newer = doc! { "$set": { "tracker_version": 99_i64 } };
        spoil("checkpoints", &format!("runs/{id}"), newer).await?;
        // And an observation, which is looked at again when the log is read anew.
        spoil("observations", &format!("{id}/1"), doc! { "$unset": { "digest": "" } }).await?;
        spoil("checkpoints", &place, doc! { "$unset": { "next_offset": "" } }).await?;
        let (ranges, ledgers) = (ledger.get("accounted").unwrap().clone(), documents("ledger"));
        fleet.restart_aggregator().await?;

        let stopped = "picket_aggregator_consume_partitions_stopped_total{why=\"unreadable\"}";
        wait_for_metric(fleet, stopped).await?;
        let log = fleet.aggregator.log();
        ensure!(log.contains(&id) && log.contains("ledger") && log.contains("accounted"), "{log}");
        wait_for_stored(fleet, &other, &mut other_process, 5).await?;

        let repair = doc! { "$set": { "accounted": ranges } };
        ledgers.update_one(doc! { "_id": &id }, repair).await?;
        wait_for_stored(fleet, &agent, &mut process, 20).await?;
        let discarded = "picket_aggregator_track_states_discarded_total{why=\"newer-version\"}";
        wait_for_metric(fleet, discarded).await?;
        ensure!(fleet.aggregator.log().contains("version 99"), "{}", fleet.aggregator.log_tail());
        let unreadable =
            "picket_aggregator_store_documents_unreadable_total{collection=\"observations\"}";
        wait_for_metric(fleet, unreadable).await?;
        end(&mut other_process).await?;
        end(&mut process).await
    })
    .unwrap();
}
