//! The centre's stages on real Kafka and MongoDB: what is stored, once, whatever happens between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::consume::{self, Centre, Membership, topics};
use picket_aggregator::store::checkpoints::LogNote;
use picket_aggregator::store::{self, Store};
use picket_aggregator::track::Settings as TrackSettings;
use picket_aggregator::upsert::{Images, Retention};
use picket_tests::faults::{Chance, short_or_long};
use picket_tests::process::{until, until_every};
use picket_tests::stack::{Stack, StackOptions};
use picket_wire::observation::{
    ClockState, Detection, Detector, EpochStart, FrameFate, Gap, GapOf, Observation, PreviousEpoch,
    Reason, Skip, Stamp,
};
use picket_wire::{CameraRecord, Outgoing, Picture, Topic, TopicNames, dead_letter, header};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const LIMIT: Duration = Duration::from_secs(180);
const RETENTION: Retention = Retention { observations_days: 30, frames_days: 7, tracks_days: 90 };
const PARTITIONS: u32 = 3;

/// Real services, one set for all tests of this file: they use devices of their own, one after the
/// other.
struct Bench {
    stack: Stack,
    dir: PathBuf,
    producer: FutureProducer,
}

async fn bench() -> MutexGuard<'static, Bench> {
    static BENCH: OnceCell<Mutex<Bench>> = OnceCell::const_new();
    let mut bench =
        BENCH.get_or_init(|| async { Mutex::new(Bench::start().await) }).await.lock().await;
    bench.stack.start_what_is_stopped().await.unwrap();
    bench
}

impl Bench {
    async fn start() -> Self {
        let dir = picket_tests::scratch::until_exit().unwrap();
        let stack = StackOptions::with_quick_group();
        let stack = Stack::start(&dir.join("stack"), stack).await.unwrap();
        let admin = &stack.settings().admin;
        let connection = consume::Connection {
            brokers: vec![stack.settings().kafka.bootstrap.clone()],
            ca_file: Some(admin.ca.clone()),
            certificate_file: Some(admin.certificate.clone()),
            key_file: Some(admin.key.clone()),
            allow_plaintext: false,
            sasl: None,
            extra: Default::default(),
        };
        let options =
            topics::Options { topics: TopicNames::default(), partitions: PARTITIONS, replicas: 1 };
        let made = topics::create(&connection, &options).await.unwrap();
        assert!(made.is_as_designed(), "{made}");
        // The broker tells of what was made a moment ago piece by piece.
        until("the topics to be there as they were made", LIMIT, async || {
            let again = topics::create(&connection, &options).await?;
            let is_same = again.topics.iter().all(|(_, o)| *o == topics::Outcome::Unchanged);
            Ok(if is_same { Ok(()) } else { Err(again.to_string()) })
        })
        .await
        .unwrap();
        let many = topics::Options { replicas: 3, ..options.clone() };
        let error = topics::create(&connection, &many).await.unwrap_err();
        assert!(error.to_string().contains("3 replicas: the cluster has 1 brokers"), "{error}");
        let device = stack.device_certificate("demo").await.unwrap();
        let producer = stack
            .settings()
            .kafka_client(Some(&device))
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .create()
            .unwrap();
        Self { stack, dir, producer }
    }

    fn settings(&self) -> consume::Settings {
        let who = &self.stack.settings().aggregator;
        let text = format!(
            "brokers = ['{}']\nca_file = '{}'\ncertificate_file = '{}'\nkey_file = '{}'",
            self.stack.settings().kafka.bootstrap,
            who.ca.display(),
            who.certificate.display(),
            who.key.display()
        );
        let settings: consume::Settings = toml::from_str(&text).unwrap();
        settings.check().unwrap();
        settings
    }

    fn store_settings(&self) -> store::Settings {
        let mongodb = &self.stack.settings().mongodb;
        let host = mongodb.uri.split_once("://").unwrap().1;
        let text = format!(
            "hosts = ['{}']\ndatabase = '{db}'\nuser = '{}'\n\
             password_file = '{}'\nca_file = '{}'",
            host.split(['/', '?']).next().unwrap(),
            mongodb.user,
            mongodb.password_file.display(),
            mongodb.ca.display(),
            db = mongodb.database,
        );
        let settings: store::Settings = toml::from_str(&text).unwrap();
        settings.check().unwrap();
        settings
    }

    async fn store(&self) -> Store {
        let store = Store::connect(&self.store_settings()).await.unwrap();
        store.prepare().await.unwrap();
        store
    }

    fn spawn(&self, store: &Store, settings: consume::Settings) -> Centre {
        let images = Images::in_directory(&self.dir.join("images")).unwrap();
        let tracker = TrackSettings::default();
        Centre::spawn(settings, tracker, RETENTION, store.clone(), images).unwrap()
    }

    async fn centre(&self, store: &Store) -> Centre {
        let centre = self.spawn(store, self.settings());
        let mut membership = centre.membership();
        let all = PARTITIONS as usize * 3;
        let complete = membership.wait_for(|m| m.partitions.len() == all);
        tokio::time::timeout(LIMIT, complete).await.unwrap().unwrap();
        centre
    }

    async fn send(&self, message: Outgoing) -> (i32, i64) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if message.topic != Topic::Status {
            headers = headers.insert(Header { key: header::LANE, value: Some("live") });
        }
        let name = TopicNames::default().name(message.topic);
        let record = FutureRecord::to(&name);
        let record = record.key(&message.key).headers(headers).payload(&message.value);
        let delivery = self.producer.send(record, LIMIT).await.unwrap();
        (delivery.partition, delivery.offset)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        let settings = self.stack.settings();
        settings.kafka_client(Some(&settings.admin)).create().unwrap()
    }
}

fn stamp(seq: u64) -> Stamp {
    let captured_at = Some(format!("2026-01-02T03:04:{:02}Z", seq % 60).parse().unwrap());
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

fn seen(camera: &str, seq: u64) -> CameraRecord {
    let x = 100.0 + seq as f32;
    CameraRecord::Observation(Observation {
        id: format!("{camera}/{seq}").parse().unwrap(),
        stamp: stamp(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: Some(0.1),
        frame: FrameFate::Withheld,
        detections: vec![Detection {
            box_px: [x, 100.0, 80.0, 90.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: vec![[x, 110.0]],
            quality: None,
        }],
    })
}

fn skip(camera: &str, first: u64, last: u64) -> CameraRecord {
    CameraRecord::Skip(Skip {
        id: format!("{camera}/{first}").parse().unwrap(),
        stamp: stamp(first),
        first,
        last,
        reason: Reason::try_from("no-motion".to_owned()).unwrap(),
    })
}

fn gap(camera: &str, first: u64, last: u64) -> CameraRecord {
    CameraRecord::Gap(Gap {
        id: format!("{camera}/{first}").parse().unwrap(),
        stamp: stamp(last),
        first,
        last,
        count: last - first + 1,
        reason: Reason::SPOOL_FULL.into(),
        of: GapOf::Observations,
    })
}

async fn count(store: &Store, collection: &str, filter: Document) -> u64 {
    let target = store.database().collection::<Document>(collection);
    target.count_documents(filter).await.unwrap()
}

async fn one(store: &Store, collection: &str, id: &str) -> Option<Document> {
    let target = store.database().collection::<Document>(collection);
    target.find_one(doc! { "_id": id }).await.unwrap()
}

/// Waits until a camera's document says that everything up to `seq` is accounted for.
async fn complete(store: &Store, camera: &str, seq: i64) -> Document {
    until("the camera's accounts", LIMIT, async || {
        let found = one(store, "cameras", camera).await;
        Ok(match found {
            Some(found) if found.get_i64("complete_until")? >= seq => Ok(found),
            other => Err(format!("{other:?}")),
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn every_frame_is_stored_skipped_or_dropped_and_the_track_is_one() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "whole/front/1-0a1b2c3d";
    for seq in 1..=20 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    bench.send(skip(epoch, 21, 25).encode().unwrap()).await;
    bench.send(gap(epoch, 26, 28).encode().unwrap()).await;
    for seq in 29..=30 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let camera = complete(&store, "whole/front", 30).await;
    let accounts = camera.get_document("accounts").unwrap();
    assert_eq!(accounts.get_i64("stored").unwrap(), 22);
    assert_eq!(accounts.get_i64("skipped").unwrap(), 5);
    assert_eq!(accounts.get_document("dropped").unwrap(), &doc! { "spool-full": 3_i64 });
    assert_eq!(camera.get_str("newest_observation").unwrap(), format!("{epoch}/30"));
    let of_camera = doc! { "device": "whole", "kind": "observation" };
    assert_eq!(count(&store, "observations", of_camera).await, 22);
    assert_eq!(count(&store, "tracks", doc! { "device": "whole" }).await, 1);
    let track = one(&store, "tracks", &format!("{epoch}/1#0")).await.unwrap();
    assert_eq!(track.get_i64("observations").unwrap(), 22);
    assert_eq!(track.get_str("state").unwrap(), "active");
    let last = one(&store, "observations", &format!("{epoch}/30")).await.unwrap();
    let detection = last.get_array("detections").unwrap()[0].as_document().unwrap();
    assert_eq!(detection.get_str("track").unwrap(), format!("{epoch}/1#0"));
    assert_eq!(track.get_datetime("last_seen").unwrap(), last.get_datetime("captured_at").unwrap());
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn a_resend_adds_nothing_and_other_bytes_under_the_same_id_are_put_aside() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "twice/front/1-0a1b2c3d";
    for seq in [1, 2, 3, 2, 1] {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    complete(&store, "twice/front", 3).await;
    let mut forged = seen(epoch, 2);
    if let CameraRecord::Observation(o) = &mut forged {
        o.detections.clear();
    }
    let (partition, offset) = bench.send(forged.encode().unwrap()).await;
    bench.send(seen(epoch, 1).encode().unwrap()).await;
    bench.send(seen(epoch, 4).encode().unwrap()).await;
    let camera = complete(&store, "twice/front", 4).await;
    let accounts = camera.get_document("accounts").unwrap();
    assert_eq!(accounts.get_i64("stored").unwrap(), 4);
    assert_eq!(accounts.get_document("refused").unwrap(), &doc! { "identity-conflict": 1_i64 });
    assert_eq!(count(&store, "observations", doc! { "device": "twice" }).await, 4);
    let letters = dead_letters(&bench, "twice/front");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0][dead_letter::REASON], dead_letter::IDENTITY_CONFLICT);
    assert_eq!(letters[0][dead_letter::PARTITION], partition.to_string());
    assert_eq!(letters[0][dead_letter::OFFSET], offset.to_string());
    centre.stop().await.unwrap();
}

/// Headers of the dead letters of a key.
fn dead_letters(bench: &Bench, key: &str) -> Vec<std::collections::HashMap<String, String>> {
    let settings = bench.stack.settings();
    let consumer: BaseConsumer = settings
        .kafka_client(Some(&settings.admin))
        .set("group.id", "picket-look")
        .create()
        .unwrap();
    let topic = TopicNames::default().name(Topic::DeadLetter);
    let mut list = TopicPartitionList::new();
    let mut waiting = 0;
    for partition in 0..PARTITIONS as i32 {
        let (low, high) = consumer.fetch_watermarks(&topic, partition, LIMIT).unwrap();
        waiting += high - low;
        list.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    for _ in 0..waiting {
        let message = consumer.poll(LIMIT).unwrap().unwrap();
        if message.key() == Some(key.as_bytes()) {
            let headers = message.headers().unwrap().iter();
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap()).into_owned();
            found.push(headers.map(|h| (h.key.to_owned(), text(h.value))).collect());
        }
    }
    found
}

#[tokio::test]
async fn tracks_end_with_their_epoch_and_a_crash_is_a_gap_with_an_upper_bound() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let (first, second) = ("crash/front/1-0a1b2c3d", "crash/front/2-11111111");
    for seq in 1..=5 {
        bench.send(seen(first, seq).encode().unwrap()).await;
    }
    let start = CameraRecord::Epoch(EpochStart {
        id: format!("{second}/0").parse().unwrap(),
        stamp: stamp(0),
        previous: Some(PreviousEpoch {
            epoch: "1-0a1b2c3d".parse().unwrap(),
            last_committed: 5,
            reserved: 100,
        }),
        agent_version: "0.1.0".to_owned(),
    });
    bench.send(start.encode().unwrap()).await;
    // What comes from before the new epoch is stored, and not tracked.
    bench.send(seen(second, 1).encode().unwrap()).await;
    until("the second epoch's accounts", LIMIT, async || {
        let found = one(&store, "cameras", "crash/front").await;
        Ok(match found {
            Some(found) if second.ends_with(found.get_str("epoch")?) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await
    .unwrap();
    complete(&store, "crash/front", 1).await;
    let old = one(&store, "tracks", &format!("{first}/1#0")).await.unwrap();
    assert_eq!(old.get_str("state").unwrap(), "ended");
    let gap = one(&store, "observations", &format!("{first}/6~gap-crash")).await.unwrap();
    assert_eq!((gap.get_i64("first").unwrap(), gap.get_i64("last").unwrap()), (6, 100));
    assert!(gap.get_bool("upper_bound").unwrap());
    let ledger = one(&store, "ledger", first).await.unwrap();
    assert_eq!(ledger.get_array("accounted").unwrap().len(), 1);
    let ledger = ledger.get_document("accounts").unwrap();
    assert_eq!(ledger.get_document("dropped").unwrap(), &doc! { "crash": 95_i64 });
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn a_picture_lies_on_disk_when_its_document_is_there_and_poison_moves_on() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let picture = |seq: u64, jpeg: Vec<u8>| {
        let picture = Picture {
            id: format!("lens/front/1-0a1b2c3d/{seq}").parse().unwrap(),
            crop: None,
            stamp: stamp(seq),
            width: 640,
            height: 360,
            redacted: "none".to_owned(),
            jpeg,
        };
        picture.encode()
    };
    bench.send(picture(1, vec![0xff, 0xd8, 0xff, 0xd9])).await;
    bench.send(picture(2, b"not a picture".to_vec())).await;
    bench.send(picture(1, vec![0xff, 0xd8, 0xff, 0xd9])).await;
    bench.send(picture(1, vec![0xff, 0xd8, 0xff, 0xd8])).await;
    bench.send(picture(3, vec![0xff, 0xd8, 0xff, 0xd9])).await;
    let id = "lens/front/1-0a1b2c3d/3";
    let document = until("the last picture", LIMIT, async || {
        Ok(one(&store, "frames", id).await.ok_or("not there".to_owned()))
    })
    .await
    .unwrap();
    let path = bench.dir.join("images").join(document.get_str("path").unwrap());
    assert_eq!(std::fs::read(path).unwrap(), [0xff, 0xd8, 0xff, 0xd9]);
    assert_eq!(count(&store, "frames", doc! { "device": "lens" }).await, 2);
    let mut reasons: Vec<_> = dead_letters(&bench, "lens/front")
        .into_iter()
        .map(|l| l[dead_letter::REASON].clone())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["identity-conflict", "not-jpeg"]);
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn an_observation_that_cannot_be_read_is_booked_under_its_camera() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "unread/front/1-0a1b2c3d";
    let unread = Outgoing { value: b"{".to_vec(), ..seen(epoch, 1).encode().unwrap() };
    bench.send(unread).await;
    bench.send(skip(epoch, 1, 1).encode().unwrap()).await;
    bench.send(seen(epoch, 2).encode().unwrap()).await;
    let camera = complete(&store, "unread/front", 2).await;
    let refused = camera.get_document("accounts").unwrap().get_document("refused").unwrap();
    let reason = dead_letters(&bench, "unread/front")[0][dead_letter::REASON].clone();
    assert_eq!(refused, &doc! { reason: 1_i64 });
    centre.stop().await.unwrap();
}

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
    // As if the batch had been written and its end had not: all checkpoints stand at the beginning.
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let of_partitions = doc! { "_id": { "$regex": "^partition/" } };
    checkpoints.update_many(of_partitions, doc! { "$unset": { "next_offset": 1 } }).await.unwrap();
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
        ("checkpoints", doc! { "_id": "camera/half/front" }),
    ] {
        store.database().collection::<Document>(collection).delete_many(filter).await.unwrap();
    }
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let of_partitions = doc! { "_id": { "$regex": "^partition/" } };
    checkpoints.update_many(of_partitions, doc! { "$unset": { "next_offset": 1 } }).await.unwrap();
    let centre = bench.centre(&store).await;
    complete(&store, "half/front", 40).await;
    centre.stop().await.unwrap();
    assert_eq!(stored(&store, "half").await, before);
}

#[tokio::test]
async fn a_former_owner_that_wakes_up_changes_nothing() {
    use picket_aggregator::store::StoreError;
    use picket_aggregator::store::bulk::Update;
    use picket_aggregator::store::checkpoints::BatchEnd;
    let bench = bench().await;
    let store = bench.store().await;
    let (mut old, _) = store.claim("picket.test", 0, "a").await.unwrap();
    let ledger = |offset: i64| {
        let accounts = doc! {
            "stored": 0_i64, "skipped": 0_i64, "dropped": {}, "pictures_dropped": {}, "refused": {},
        };
        doc! {
            "device": "fence", "camera": "a", "accounted": [[1_i64, 1_i64]], "accounts": accounts,
            "offset": offset,
        }
    };
    let end = |offset| BatchEnd {
        next_offset: offset,
        ledger: vec![Update::set("fence/a/1-0a1b2c3d", ledger(offset))],
        ..BatchEnd::default()
    };
    store.end_batch(&mut old, &end(10)).await.unwrap();
    let (mut new, checkpoint) = store.claim("picket.test", 0, "b").await.unwrap();
    assert_eq!(checkpoint.next_offset, Some(10));
    let error = store.end_batch(&mut old, &end(20)).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let error = store.prove(&old.claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let note = LogNote { cluster: "elsewhere", next_offset: 0, broken: None, is_another: true };
    let error = store.note_log(&old.claim, note).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    store.prove(&new.claim).await.unwrap();
    let ledger = one(&store, "ledger", "fence/a/1-0a1b2c3d").await.unwrap();
    assert_eq!(ledger.get_i64("offset").unwrap(), 10);
    store.end_batch(&mut new, &end(30)).await.unwrap();
}

#[tokio::test]
async fn records_that_expired_unread_are_a_named_state_and_reading_goes_on() {
    let bench = bench().await;
    let store = bench.store().await;
    let epoch = "expired/front/1-0a1b2c3d";
    let centre = bench.centre(&store).await;
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "expired/front", 1).await;
    centre.stop().await.unwrap();
    let (_, lost) = bench.send(seen(epoch, 2).encode().unwrap()).await;
    bench.send(seen(epoch, 3).encode().unwrap()).await;
    let topic = TopicNames::default().name(Topic::Observations);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, partition, Offset::Offset(lost + 1)).unwrap();
    bench.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    let centre = bench.centre(&store).await;
    let id = format!("{epoch}/3");
    until("the record behind the hole", LIMIT, async || {
        Ok(one(&store, "observations", &id).await.ok_or("not there".to_owned()))
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
    let id = format!("partition/{topic}/{partition}");
    let checkpoint = one(&store, "checkpoints", &id).await.unwrap();
    let hole = checkpoint.get_array("broken").unwrap()[0].as_document().unwrap();
    assert_eq!(hole.get_str("state").unwrap(), "log-out-of-range");
    assert_eq!(hole.get_i64("from_offset").unwrap(), lost);
    assert_eq!(hole.get_i64("to_offset").unwrap(), lost + 1);
    let ledger = one(&store, "ledger", epoch).await.unwrap();
    assert_eq!(ledger.get_array("accounted").unwrap().len(), 2, "the hole stays open");
}

#[tokio::test]
async fn records_that_expire_before_the_first_of_their_partition_is_stored_are_a_named_state_too() {
    let bench = bench().await;
    let store = bench.store().await;
    bench.centre(&store).await.stop().await.unwrap();
    let topic = TopicNames::default().name(Topic::Status);
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let empty = doc! { "topic": &topic, "next_offset": 0_i64 };
    let empty = checkpoints.find_one(empty).await.unwrap().unwrap();
    let partition = empty.get_i32("partition").unwrap();
    let record = FutureRecord::<str, str>::to(&topic).partition(partition).payload("unread");
    assert_eq!(bench.producer.send(record, LIMIT).await.unwrap().offset, 0);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, partition, Offset::Offset(1)).unwrap();
    bench.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    let centre = bench.centre(&store).await;
    let id = empty.get_str("_id").unwrap();
    let checkpoint = until("the hole to be noted", LIMIT, async || {
        let checkpoint = one(&store, "checkpoints", id).await.unwrap();
        let is_noted = checkpoint.get_array("broken").is_ok();
        Ok(if is_noted { Ok(checkpoint) } else { Err(checkpoint.to_string()) })
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
    let hole = checkpoint.get_array("broken").unwrap()[0].as_document().unwrap();
    assert_eq!(hole.get_str("state").unwrap(), "log-out-of-range");
    assert_eq!(hole.get_i64("from_offset").unwrap(), 0);
    assert_eq!(hole.get_i64("to_offset").unwrap(), 1);
}

#[tokio::test]
async fn two_centres_share_the_partitions_and_one_takes_over_from_the_other() {
    let bench = bench().await;
    let store = bench.store().await;
    let first = bench.centre(&store).await;
    let second = bench.spawn(&store, bench.settings());
    let all = PARTITIONS as usize * 3;
    let (mut a, mut b) = (first.membership(), second.membership());
    let shared = async {
        b.wait_for(|m| !m.partitions.is_empty()).await.unwrap();
        a.wait_for(|m| m.partitions.len() < all).await.unwrap();
    };
    tokio::time::timeout(LIMIT, shared).await.unwrap();
    let epochs: Vec<_> = (0..6).map(|n| format!("move/cam{n}/1-0a1b2c3d")).collect();
    for seq in 1..=10 {
        for epoch in &epochs {
            bench.send(seen(epoch, seq).encode().unwrap()).await;
        }
    }
    first.stop().await.unwrap();
    for seq in 11..=20 {
        for epoch in &epochs {
            bench.send(seen(epoch, seq).encode().unwrap()).await;
        }
    }
    let whole = b.wait_for(|m| m.partitions.len() == all);
    tokio::time::timeout(LIMIT, whole).await.unwrap().unwrap();
    for n in 0..6 {
        let camera = complete(&store, &format!("move/cam{n}"), 20).await;
        assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 20);
    }
    assert_eq!(count(&store, "observations", doc! { "device": "move" }).await, 120);
    assert_eq!(count(&store, "tracks", doc! { "device": "move" }).await, 6);
    second.stop().await.unwrap();
}

/// Who owns each partition, and since which epoch of owners.
async fn owners(store: &Store) -> BTreeMap<String, (String, i64)> {
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let found = checkpoints.find(doc! { "_id": { "$regex": "^partition/" } }).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let text = |d: &Document, field: &str| d.get_str(field).unwrap().to_owned();
    let owner = |d: &Document| (text(d, "owner"), d.get_i64("owner_epoch").unwrap());
    found.iter().map(|document| (text(document, "_id"), owner(document))).collect()
}

#[tokio::test]
async fn a_static_member_that_starts_again_finds_its_partitions_and_its_name_is_nobody_elses() {
    let bench = bench().await;
    let store = bench.store().await;
    let named = |name: &str| {
        let member = Some(name.to_owned());
        bench.spawn(&store, consume::Settings { static_member: member, ..bench.settings() })
    };
    let all = PARTITIONS as usize * 3;
    let (a, b) = (named("centre-a"), named("centre-b"));
    let mut memberships = [a.membership(), b.membership()];
    until("both to have a part, and the partitions an owner", LIMIT, async || {
        let counts = memberships.each_mut().map(|m| m.borrow_and_update().partitions.len());
        let owned = owners(&store).await.into_values().filter(|(o, _)| o.starts_with("centre-"));
        let done = !counts.contains(&0) && counts[0] + counts[1] == all && owned.count() == all;
        Ok(if done { Ok(()) } else { Err(format!("{counts:?}")) })
    })
    .await
    .unwrap();

    let mut namesake = named("centre-a");
    let error = tokio::time::timeout(LIMIT, namesake.ended()).await.unwrap().unwrap_err();
    let said = picket_service::logging::chain(&error).to_string();
    assert!(said.contains("consume.static_member") && said.contains("centre-a"), "{said}");

    let before = owners(&store).await;
    let parts = [&a, &b].map(|centre| centre.membership().borrow().clone());
    let mut other = b.membership();
    let others = parts[1].partitions.clone();
    let other_has_more = tokio::spawn(async move {
        let more = |m: &Membership| m.partitions.keys().any(|id| !others.contains_key(id));
        // Until it is gone.
        other.wait_for(more).await.is_ok()
    });
    a.stop().await.unwrap();
    let again = named("centre-a");
    let mut membership = again.membership();
    let back = membership.wait_for(|m| m.partitions.keys().eq(parts[0].partitions.keys()));
    tokio::time::timeout(LIMIT, back).await.unwrap().unwrap();
    until("its partitions to be taken over", LIMIT, async || {
        let after = owners(&store).await;
        let is_taken = |(id, (owner, epoch)): (&String, &(String, i64))| match owner.as_str() {
            "centre-a" => after[id].0 == *owner && after[id].1 > *epoch,
            _ => after[id] == (owner.clone(), *epoch),
        };
        let is_as_it_was = before.iter().all(is_taken);
        Ok(if is_as_it_was { Ok(()) } else { Err(format!("{before:?} {after:?}")) })
    })
    .await
    .unwrap();
    again.stop().await.unwrap();
    b.stop().await.unwrap();
    assert!(!other_has_more.await.unwrap(), "one of them went to the other meanwhile");
}

#[tokio::test]
async fn nothing_is_lost_while_mongodb_is_away() {
    let mut bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "away/front/1-0a1b2c3d";
    bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "away/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    for seq in 2..=300 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    bench.stack.start_mongodb().await.unwrap();
    let camera = complete(&store, "away/front", 300).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 300);
    assert_eq!(count(&store, "observations", doc! { "device": "away" }).await, 300);
    until("polling to go on", LIMIT, async || {
        let age = centre.progress().age();
        Ok(if age < Duration::from_secs(5) { Ok(()) } else { Err(format!("{age:?}")) })
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn a_partition_that_another_claimed_in_passing_is_taken_over_again() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "fenced/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "fenced/front", 1).await;
    let topic = TopicNames::default().name(Topic::Observations);
    store.claim(&topic, partition, "passer-by").await.unwrap();
    for seq in 2..=20 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let camera = complete(&store, "fenced/front", 20).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 20);
    assert_eq!(count(&store, "observations", doc! { "device": "fenced" }).await, 20);
    assert_eq!(count(&store, "tracks", doc! { "device": "fenced" }).await, 1);
    centre.stop().await.unwrap();
}

/// What the client has paused it keeps paused, whoever reads next.
#[tokio::test]
async fn a_partition_that_another_claimed_while_reading_waited_for_room_is_read_on() {
    let bench = bench().await;
    let store = bench.store().await;
    let settings = consume::Settings { queue_mib: 1, ..bench.settings() };
    let centre = bench.spawn(&store, settings);
    let epoch = "fenced-full/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "fenced-full/front", 1).await;
    // A claim that does not come to its end: no batch does meanwhile.
    let topic = TopicNames::default().name(Topic::Observations);
    let mut session = store.database().client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let partition = doc! { "_id": format!("partition/{topic}/{partition}") };
    let claim = doc! { "$inc": { "owner_epoch": 1_i64 }, "$set": { "owner": "passer-by" } };
    let checkpoints = store.database().collection::<Document>("checkpoints");
    checkpoints.update_one(partition, claim).session(&mut session).await.unwrap();
    for seq in 2..=900 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let mut membership = centre.membership();
    let paused = membership.wait_for(|m| m.partitions.values().any(|state| state.paused));
    tokio::time::timeout(LIMIT, paused).await.unwrap().unwrap();
    session.commit_transaction().await.unwrap();
    let camera = complete(&store, "fenced-full/front", 900).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 900);
    assert_eq!(count(&store, "observations", doc! { "device": "fenced-full" }).await, 900);
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn records_that_expire_under_a_reader_that_waits_are_a_named_state_too() {
    let mut bench = bench().await;
    let store = bench.store().await;
    let images = Images::in_directory(&bench.dir.join("images")).unwrap();
    // So little memory that reading pauses long before the end of the log.
    let settings = consume::Settings { queue_mib: 1, ..bench.settings() };
    let tracker = TrackSettings::default();
    let centre = Centre::spawn(settings, tracker, RETENTION, store.clone(), images).unwrap();
    let epoch = "waits/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "waits/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    let mut last = 0;
    for seq in 2..=900 {
        (_, last) = bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let mut membership = centre.membership();
    let paused = membership.wait_for(|m| m.partitions.values().any(|state| state.paused));
    tokio::time::timeout(LIMIT, paused).await.unwrap().unwrap();
    let topic = TopicNames::default().name(Topic::Observations);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, partition, Offset::Offset(last)).unwrap();
    bench.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    bench.stack.start_mongodb().await.unwrap();
    let id = format!("{epoch}/900");
    until("the record behind the hole", LIMIT, async || {
        Ok(one(&store, "observations", &id).await.ok_or("not there".to_owned()))
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
    let id = format!("partition/{topic}/{partition}");
    let checkpoint = one(&store, "checkpoints", &id).await.unwrap();
    let holes = checkpoint.get_array("broken").unwrap();
    let hole = holes.last().unwrap().as_document().unwrap();
    assert_eq!(hole.get_i64("to_offset").unwrap(), last);
}

#[tokio::test]
async fn of_a_device_the_newest_heartbeat_stands() {
    use picket_wire::status::{CameraState, CameraStatus, LinkStatus, SpoolStatus, Status};
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let status = |uptime_s: u64| Status {
        device: "beat".parse().unwrap(),
        epoch: "1-0a1b2c3d".parse().unwrap(),
        stamp: stamp(uptime_s),
        agent_version: "0.1.0".to_owned(),
        config_sha256: "00".repeat(32),
        config_problem: None,
        model: None,
        uptime_s,
        link: LinkStatus { up: true, problem: None, certificate_days_left: Some(90) },
        spool: SpoolStatus::default(),
        // A name with a dot is a field name that MongoDB must take as it is.
        cameras: [(
            "gate.north".parse().unwrap(),
            CameraStatus {
                state: CameraState::Running,
                problem: None,
                fps: 10.0,
                decoder: Some("$decoder".to_owned()),
                decoder_reason: None,
                degraded: None,
                picture: None,
                last_frame_age_ms: Some(20),
                books: picket_wire::status::Books::default(),
            },
        )]
        .into(),
        temperature_c: None,
        disk_free_bytes: None,
    };
    for uptime_s in 1..=5 {
        bench.send(status(uptime_s).encode().unwrap()).await;
    }
    let device = until("the newest heartbeat", LIMIT, async || {
        Ok(match one(&store, "devices", "beat").await {
            Some(d) if d.get_document("status")?.get_i64("uptime_s")? == 5 => Ok(d),
            other => Err(format!("{other:?}")),
        })
    })
    .await
    .unwrap();
    let cameras = device.get_document("status").unwrap().get_document("cameras").unwrap();
    let camera = cameras.get_document("gate.north").unwrap();
    assert_eq!(camera.get_str("decoder").unwrap(), "$decoder");
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn a_centre_ends_in_time_while_mongodb_is_away_and_loses_nothing() {
    let mut bench = bench().await;
    let store = bench.store().await;
    let images = Images::in_directory(&bench.dir.join("images")).unwrap();
    let spawn = |settings: consume::Settings| {
        let tracker = TrackSettings::default();
        Centre::spawn(settings, tracker, RETENTION, store.clone(), images.clone()).unwrap()
    };
    let hasty = consume::Settings { release_s: 2, ..bench.settings() };
    let working = bench.centre(&store).await;
    working.stop().await.unwrap();
    let working = spawn(hasty.clone());
    let mut membership = working.membership();
    let all = PARTITIONS as usize * 3;
    let has_all = membership.wait_for(|m| m.partitions.len() == all);
    tokio::time::timeout(LIMIT, has_all).await.unwrap().unwrap();
    let epoch = "ends/front/1-0a1b2c3d";
    bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "ends/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    for seq in 2..=10 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    // Once with a batch in hand that cannot be written ...
    tokio::time::timeout(LIMIT, working.stop()).await.unwrap().unwrap();
    // ... and once with partitions in hand that cannot be taken over.
    let opening = spawn(hasty.clone());
    let mut membership = opening.membership();
    let joined = membership.wait_for(|m| m.joined);
    tokio::time::timeout(LIMIT, joined).await.unwrap().unwrap();
    tokio::time::timeout(LIMIT, opening.stop()).await.unwrap().unwrap();
    bench.stack.start_mongodb().await.unwrap();
    let centre = bench.centre(&store).await;
    let camera = complete(&store, "ends/front", 10).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 10);
    assert_eq!(count(&store, "observations", doc! { "device": "ends" }).await, 10);
    centre.stop().await.unwrap();
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
