//! Pictures in a real S3-compatible store: durable before their documents through its death, served,
//! and removed once nothing points at them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use picket_aggregator::config;
use picket_aggregator::store::Store;
use picket_aggregator::upsert::{Images, Settings, Sweeper, Turn, digest};
use picket_service::logging::chain;
use picket_tests::faults::{
    Bench, LIMIT, end, nothing_is_lost, on_bench, short_or_long, ten_a_second, wait_for_drained,
    wait_for_log, wait_for_stored,
};
use picket_tests::fleet::{Agent, Fleet, get_bytes};
use picket_tests::process::{Process, until};
use picket_tests::scratch;
use picket_tests::stack::{BUCKET, SeaweedFs};
use picket_tests::topics::delete_records;
use picket_wire::Topic;
use tokio::sync::{Mutex, OnceCell};

/// Runs a test on the file's bench, whose aggregator has its pictures in the bucket of a SeaweedFS that
/// runs when the test begins.
fn on_a_bucket(test: impl AsyncFnOnce(&mut Bench, &mut SeaweedFs) -> Result<()>) {
    static WEED: OnceCell<Mutex<SeaweedFs>> = OnceCell::const_new();
    let with_weed = async |bench: &mut Bench| {
        let start = async || {
            let pki = bench.fleet.stack.settings().pki_dir();
            anyhow::Ok(Mutex::new(SeaweedFs::start(&scratch::until_exit()?, &pki).await?))
        };
        let mut weed = WEED.get_or_try_init(start).await?.lock().await;
        weed.start_again().await?;
        bench.fleet.pictures = Arc::new(PrefixStore::new(weed.bucket()?, "images"));
        let drop_in = bench.fleet.aggregator_config().with_extension("conf.d").join("images.toml");
        if !drop_in.exists() {
            std::fs::create_dir_all(drop_in.parent().unwrap())?;
            let settings = weed.upsert_settings(&weed.credentials("picket"));
            let settings = settings.replacen('\n', "\norphans_after_s = 10\n", 1);
            std::fs::write(&drop_in, settings)?;
            bench.fleet.aggregator.terminate(LIMIT).await?;
            bench.fleet.restart_aggregator().await?;
        }
        wait_for_log(&mut bench.fleet.aggregator, "pictures go to s3://", 1).await?;
        test(bench, &mut weed).await
    };
    on_bench(with_weed).unwrap();
}

/// The documents of pictures, by path; of one device or of all.
async fn recorded(fleet: &Fleet, of: Document) -> Result<BTreeMap<String, Document>> {
    let frames = fleet.database.collection::<Document>("frames");
    let found: Vec<_> = frames.find(of).await?.try_collect().await?;
    found.into_iter().map(|frame| Ok((frame.get_str("path")?.to_owned(), frame))).collect()
}

/// The paths of all pictures in the bucket.
async fn kept(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let listed: Vec<_> = fleet.pictures.list(None).try_collect().await?;
    let paths = listed.into_iter().map(|object| object.location.to_string());
    Ok(paths.filter(|path| path.ends_with(".jpg")).collect())
}

/// What the page answers when it is asked for a picture.
async fn served(fleet: &mut Fleet, frame: &Document) -> Result<Vec<u8>> {
    let (page, id) = (fleet.page().await?, frame.get_str("_id")?.replace('#', "."));
    get_bytes(&page, &format!("/images/{id}.jpg")).await
}

fn body(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    &answer[head + 4..]
}

fn status(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn agent_that_delivers(fleet: &Fleet, name: &str) -> Result<(Agent, Process)> {
    let agent = fleet.enrol(name, &ten_a_second("north")?).await?;
    let mut process = agent.start()?;
    wait_for_stored(fleet, &agent, &mut process, 20).await?;
    Ok((agent, process))
}

#[test]
fn a_store_that_is_killed_in_mid_run_costs_no_picture_and_doubles_none() {
    on_a_bucket(async |bench, weed| {
        let fleet = &mut bench.fleet;
        let (agent, mut process) = agent_that_delivers(fleet, "gate").await?;
        let own = doc! { "device": "gate" };
        until("pictures", LIMIT, async || {
            let count = recorded(fleet, own.clone()).await?.len();
            Ok(if count >= 20 { Ok(()) } else { Err(format!("{count}")) })
        })
        .await?;
        let before = recorded(fleet, own.clone()).await?;
        let first = before.values().next().unwrap().clone();
        for _ in 0..short_or_long(1, 10) {
            weed.kill()?;
            let said = "does not answer: start it, or correct upsert.s3.endpoint";
            let times = fleet.aggregator.log().matches(said).count();
            wait_for_log(&mut fleet.aggregator, said, times + 1).await?;
            ensure!(status(&served(fleet, &first).await?) == "503");
            // What has no picture goes on.
            wait_for_stored(fleet, &agent, &mut process, 20).await?;
            weed.start_again().await?;
            wait_for_stored(fleet, &agent, &mut process, 20).await?;
        }
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        nothing_is_lost(fleet, &[&agent]).await?;
        let all = recorded(fleet, own).await?;
        ensure!(all.len() > before.len(), "{} pictures", all.len());
        for (path, frame) in &all {
            let picture = fleet.pictures.get(&ObjectPath::from(path.as_str())).await?;
            let bytes = picture.bytes().await?;
            ensure!(digest(&bytes) == frame.get_str("digest")?, "{path} is another picture");
        }
        let answer = served(fleet, &first).await?;
        ensure!(digest(body(&answer)) == first.get_str("digest")?, "{answer:?}");
        fleet.aggregator.expect_running()?;
        ensure!(!fleet.aggregator.log().contains("ERROR"), "{}", fleet.aggregator.log());
        Ok(())
    });
}

/// Those of a device's pictures that have no document.
async fn without_documents(fleet: &Fleet, agent: &Agent) -> Result<Vec<String>> {
    let (kept, recorded) = (kept(fleet).await?, recorded(fleet, doc! {}).await?);
    let is_own = |path: &String| path.starts_with(&agent.prefix());
    Ok(kept.into_iter().filter(|path| is_own(path) && !recorded.contains_key(path)).collect())
}

#[test]
fn a_picture_that_waits_for_its_document_is_no_orphan_to_another_aggregator() {
    on_a_bucket(async |bench, _| {
        let fleet = &mut bench.fleet;
        let frames = fleet.database.collection::<Document>("frames");
        // A second document of the device is refused, and tried again.
        let options = IndexOptions::builder()
            .unique(true)
            .name("one-alone".to_owned())
            .partial_filter_expression(doc! { "device": "barn" })
            .build();
        let index = IndexModel::builder().keys(doc! { "device": 1 }).options(options).build();
        frames.create_index(index).await?;
        let (agent, mut process) = agent_that_delivers(fleet, "barn").await?;
        let mut waits = Vec::new();
        until("a picture that waits", LIMIT, async || {
            waits = without_documents(fleet, &agent).await?;
            Ok(if waits.is_empty() { Err("none".to_owned()) } else { Ok(()) })
        })
        .await?;
        let changed = async |path: &str| {
            let object = fleet.pictures.head(&ObjectPath::from(path)).await?;
            anyhow::Ok(object.last_modified)
        };
        let first = changed(&waits[0]).await?;
        until("it to be older than an orphan, and young", LIMIT, async || {
            let age = (changed(&waits[0]).await? - first).num_seconds();
            Ok(if age > 10 { Ok(()) } else { Err(format!("{age} s")) })
        })
        .await?;
        let settings = config::load(&fleet.aggregator_config())?.settings;
        let (images, store) =
            (Images::open(&settings.upsert)?, Store::open(&settings.store).await?);
        let mut sweeper = Sweeper::new(images, store, settings.upsert.retention());
        while sweeper.turn().await? == Turn::More {}
        let kept = kept(fleet).await?;
        ensure!(waits.iter().all(|path| kept.contains(path)), "of {waits:?} some are gone");

        frames.drop_index("one-alone").await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        nothing_is_lost(fleet, &[&agent]).await?;
        Ok(())
    });
}

/// Has MongoDB refuse documents of pictures, and nothing else, or take them again.
async fn refuse_documents(fleet: &Fleet, refuse: bool) -> Result<()> {
    let settings = &fleet.stack.settings().mongodb;
    let uri = std::fs::read_to_string(&settings.admin_uri_file)?;
    let database = Client::with_uri_str(uri.trim()).await?.database(&settings.database);
    let (validator, action) = match refuse {
        true => (doc! { "never": { "$exists": true } }, "error"),
        // Whoever starts next makes it what it was.
        false => (doc! {}, "warn"),
    };
    let change = doc! { "collMod": "frames", "validator": validator, "validationAction": action };
    database.run_command(change).await?;
    Ok(())
}

#[test]
fn pictures_that_a_killed_aggregator_left_without_documents_go_and_nothing_else_does() {
    on_a_bucket(async |bench, _| {
        let fleet = &mut bench.fleet;
        let (agent, mut process) = agent_that_delivers(fleet, "hall").await?;
        // Between a picture and its document: it can be written and that cannot.
        refuse_documents(fleet, true).await?;
        until("pictures without documents", LIMIT, async || {
            process.expect_running()?;
            let orphans = without_documents(fleet, &agent).await?.len();
            Ok(if orphans > 0 { Ok(()) } else { Err("none".to_owned()) })
        })
        .await?;
        fleet.aggregator.kill()?;
        refuse_documents(fleet, false).await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        // Nobody reads their records again, as after an outage that was longer than the broker keeps.
        delete_records(fleet, Topic::Frames).await?;
        // And of some the time of their documents is over.
        let mut documented = recorded(fleet, doc! {}).await?;
        let expired: Vec<_> = documented.keys().take(5).cloned().collect();
        let frames = fleet.database.collection::<Document>("frames");
        frames.delete_many(doc! { "path": { "$in": &expired } }).await?;
        documented.retain(|path, _| !expired.contains(path));
        let others = ["holiday.jpg", "hall/north/notes.txt"].map(ObjectPath::from);
        for other in &others {
            fleet.pictures.put(other, "not a picture of ours".into()).await?;
        }

        let before = kept(fleet).await?;
        let is_wanted = |path: &&String| documented.contains_key(*path) || *path == "holiday.jpg";
        let wanted: BTreeSet<_> = before.iter().filter(is_wanted).cloned().collect();
        let left_over = before.len() - wanted.len();
        ensure!(left_over > expired.len(), "{left_over} pictures are left over");
        fleet.restart_aggregator().await?;
        until("what nothing points at to be gone", LIMIT, async || {
            fleet.aggregator.expect_running()?;
            let kept = kept(fleet).await?;
            let more: Vec<_> = kept.difference(&wanted).take(3).collect();
            Ok(if more.is_empty() { Ok(()) } else { Err(format!("{more:?} are there")) })
        })
        .await?;
        wait_for_log(&mut fleet.aggregator, "removed pictures without documents", 1).await?;
        ensure!(kept(fleet).await? == wanted, "more is gone than what nothing points at");
        fleet.pictures.head(&others[1]).await?;
        let page = fleet.page().await?;
        let metrics = String::from_utf8(get_bytes(&page, "/metrics").await?)?;
        let counted = format!(
            "picket_aggregator_upsert_pictures_removed_total{{why=\"orphan\"}} {left_over}\n"
        );
        ensure!(metrics.contains(&counted), "{counted} is not in {metrics}");

        // To another database all of them would look like that.
        let owner = ObjectPath::from(".picket-database");
        let own = fleet.pictures.get(&owner).await?.bytes().await?;
        fleet.pictures.put(&owner, "another database's\n".into()).await?;
        let settings = config::load(&fleet.aggregator_config())?.settings;
        let (images, store) =
            (Images::open(&settings.upsert)?, Store::open(&settings.store).await?);
        ensure!(own.starts_with(store.database_id().await?.as_bytes()), "{own:?}");
        let mut sweeper = Sweeper::new(images, store, settings.upsert.retention());
        let error = sweeper.turn().await.err().context("it removes another database's")?;
        ensure!(error.to_string().contains("upsert.images_url"), "{error}");
        fleet.pictures.put(&owner, own.into()).await?;
        Ok(())
    });
}

#[test]
fn a_document_whose_picture_is_gone_is_told_as_such() {
    on_a_bucket(async |bench, _| {
        let fleet = &mut bench.fleet;
        let (_, mut process) = agent_that_delivers(fleet, "yard").await?;
        let mut frame = None;
        until("a picture", LIMIT, async || {
            frame = recorded(fleet, doc! { "device": "yard" }).await?.into_values().next();
            Ok(frame.as_ref().map(drop).ok_or_else(|| "none".to_owned()))
        })
        .await?;
        end(&mut process).await?;
        let frame = frame.context("a picture")?;
        fleet.pictures.delete(&ObjectPath::from(frame.get_str("path")?)).await?;
        let answer = served(fleet, &frame).await?;
        ensure!(status(&answer) == "410", "{}", String::from_utf8_lossy(&answer));
        let said = String::from_utf8_lossy(body(&answer));
        ensure!(
            said.contains("the picture is recorded, and no longer in the object store"),
            "{said}"
        );
        Ok(())
    });
}

/// What is said of a store with these settings.
async fn refusal(settings: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct File {
        upsert: Settings,
    }
    let File { upsert } = toml::from_str(settings)?;
    let asked = match Images::open(&upsert) {
        Ok(images) => images.check().await,
        Err(error) => Err(error),
    };
    Ok(chain(&asked.err().with_context(|| format!("{settings} works"))?))
}

#[test]
fn a_store_that_refuses_is_told_by_the_field_that_is_wrong_and_what_to_do() {
    on_a_bucket(async |_, weed| {
        let folder = tempfile::tempdir()?;
        let key = |id: &str, secret: &str| {
            let text = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
            let file = folder.path().join(format!("{id}.key"));
            std::fs::write(&file, text).map(|()| file)
        };
        let other = picket_pki::Authority::init(folder.path(), 30)?.certificate();
        let of = |user: &str| weed.upsert_settings(&weed.credentials(user));
        let with = |file: &Path| weed.upsert_settings(file);
        let bucket = format!("s3://{BUCKET}/");
        let ca_line = |settings: &str| {
            settings.lines().find(|line| line.starts_with("ca_file")).unwrap().to_owned()
        };
        let picket = of("picket");
        for (settings, said) in [
            (with(&key("picket", "s3cr")?), "upsert.s3.credentials_file"),
            (with(&key("nobody", "s3cr")?), "upsert.s3.credentials_file"),
            (with(&folder.path().join("none")), "upsert.s3.credentials_file"),
            (of("all-buckets").replace(&bucket, "s3://missing/"), "there is no bucket missing"),
            (picket.replace(&bucket, "s3://missing/"), "lacks a right to the bucket missing"),
            (
                picket.replace(&ca_line(&picket), &format!("ca_file = {other:?}")),
                "upsert.s3.ca_file must hold the authority",
            ),
            (picket.replace(&ca_line(&picket), "ca_file = '/none'"), "upsert.s3.ca_file, /none"),
            (picket.replace(&weed.endpoint(), "https://127.0.0.1:1"), "upsert.s3.endpoint"),
        ] {
            let refusal = refusal(&settings).await?;
            ensure!(refusal.contains(said), "{said:?} is not in {refusal}");
            ensure!(!refusal.contains("s3cr"), "{refusal}");
        }
        Ok(())
    });
}
