//! The second look at frames, on real Kafka, MongoDB and ONNX Runtime, by a real model: whatever comes
//! first, twice or in the middle of a crash, each frame's observation has the labels that Python finds, and
//! nothing else of it is changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, deserialize_from_document, doc};
use picket_aggregator::config;
use picket_aggregator::store::Store;
use picket_aggregator::store::classes::{Class, Classified, ClassifiedBy, Put, Settled, Waiting};
use picket_aggregator::store::documents::ObservationDocument;
use picket_tests::checkout;
use picket_tests::fleet::{FEW_PARTITIONS, Fleet, address, get};
use picket_tests::process::{Process, until};
use picket_tests::stack::StackOptions;
use picket_tests::topics::headers;
use picket_wire::header::{self, Lane};
use picket_wire::observation::{ClockState, Detection, Detector, FrameFate, Observation, Stamp};
use picket_wire::{CameraRecord, Outgoing, Picture, TopicNames};
use rdkafka::producer::{FutureProducer, FutureRecord};

const LIMIT: Duration = Duration::from_secs(120);
/// Frames of one phase: one of each picture, of a camera each.
const FRAMES: u64 = 8;
const EARLY: RangeInclusive<u64> = 1..=FRAMES;
const LATE: RangeInclusive<u64> = FRAMES + 1..=2 * FRAMES;
const SHARED: RangeInclusive<u64> = 2 * FRAMES + 1..=3 * FRAMES;
/// A frame whose observation never comes.
const LOST: u64 = 90;
/// Of labels that wait, which nobody can read.
const SPOILT: &str = "a-hand-slipped";
/// How far Pillow's decoder and resizer may be from Picket's, in confidence: they were 0.00003 apart, and
/// with red and blue exchanged 0.00017.
const TOLERANCE: f32 = 0.0001;
const TOP: usize = 3;

fn folder() -> PathBuf {
    checkout::repository().join("tests/classifier")
}

/// By the names of the pictures: what Python found, the surest first.
fn expected() -> BTreeMap<String, Vec<Class>> {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn stamp(seq: u64) -> Stamp {
    let captured_at = Some("2026-01-02T03:04:05Z".parse().unwrap());
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

/// Each has a camera of its own, so that they lie in several partitions.
fn id(seq: u64) -> String {
    format!("gate/c{}/1-0a1b2c3d/{seq}", seq % FRAMES)
}

fn observation(seq: u64) -> Outgoing {
    let detection = Detection {
        box_px: [10.0, 20.0, 30.0, 40.0],
        score: 0.9,
        class: "face".to_owned(),
        landmarks: vec![],
        quality: None,
    };
    let observation = Observation {
        id: id(seq).parse().unwrap(),
        stamp: stamp(seq),
        frame_width: 420,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: None,
        frame: FrameFate::Published,
        detections: vec![detection],
    };
    CameraRecord::Observation(observation).encode().unwrap()
}

fn frame_of(seq: u64, jpeg: Vec<u8>) -> Picture {
    let (id, redacted) = (id(seq).parse().unwrap(), "none".to_owned());
    Picture { id, crop: None, stamp: stamp(seq), width: 420, height: 360, redacted, jpeg }
}

/// The pictures in the order of their names, round and round.
fn picture(seq: u64) -> (String, Vec<u8>) {
    let names: Vec<String> = expected().into_keys().collect();
    let name = names[usize::try_from(seq).unwrap() % names.len()].clone();
    let jpeg = std::fs::read(folder().join(&name)).unwrap();
    (name, jpeg)
}

fn frame(seq: u64) -> Outgoing {
    frame_of(seq, picture(seq).1).encode()
}

struct Bench {
    fleet: Fleet,
    device: FutureProducer,
    dir: PathBuf,
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        let stack = StackOptions::with_quick_group();
        let fleet = Fleet::start_on(dir, stack, &FEW_PARTITIONS).await.unwrap();
        let device = fleet.stack.device_certificate("gate").await.unwrap();
        let device = fleet.stack.settings().kafka_client(Some(&device));
        let device = device.clone().set("partitioner", "murmur2_random").create().unwrap();
        let mut config = std::fs::read_to_string(fleet.aggregator_config()).unwrap();
        let runtime = format!("runtime/{}/libonnxruntime.so", std::env::consts::ARCH);
        config += &format!(
            "[classify]\nmodel = {:?}\nmodel_description = {:?}\nruntime_library = {:?}\ntop = {TOP}\n\
             batch_pictures = 4\nlisten = '127.0.0.1:0'\n",
            checkout::fetched("models/orientation.onnx").unwrap(),
            folder().join("orientation.toml"),
            checkout::fetched(&runtime).unwrap(),
        );
        std::fs::write(dir.join("classify.toml"), config).unwrap();
        Self { fleet, device, dir: dir.to_owned() }
    }

    fn classifier(&self, name: &str) -> Process {
        let config = self.dir.join("classify.toml");
        let args = ["classify", "--config", config.to_str().unwrap()];
        let log = self.dir.join(format!("classify-{name}.log"));
        Process::start("picket-aggregator", &args, &log).unwrap()
    }

    async fn send(&self, message: &Outgoing) {
        let headers = headers(message, Lane::Live);
        let names = TopicNames::new(&self.fleet.stack.settings().kafka.topic_prefix);
        let topic = names.name(message.topic);
        let record = FutureRecord::to(&topic).key(&message.key).payload(&message.value);
        self.device.send(record.headers(headers), LIMIT).await.unwrap();
    }

    async fn send_all(&self, seqs: impl Iterator<Item = u64>, message: impl Fn(u64) -> Outgoing) {
        for seq in seqs {
            self.send(&message(seq)).await;
        }
    }

    /// What there is of observations, by id.
    async fn observations(&self) -> BTreeMap<String, Document> {
        let documents = self.fleet.database.collection::<Document>("observations");
        let found = documents.find(doc! {}).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
        found.into_iter().map(|d| (d.get_str("_id").unwrap().to_owned(), d)).collect()
    }

    async fn waiting(&self) -> Vec<String> {
        let waiting = self.fleet.database.collection::<Document>("unclaimed_classes");
        let found =
            waiting.find(doc! { "_id": { "$ne": SPOILT } }).sort(doc! { "_id": 1 }).await.unwrap();
        let found: Vec<Document> = found.try_collect().await.unwrap();
        found.iter().map(|document| document.get_str("_id").unwrap().to_owned()).collect()
    }

    async fn wait_for_observations(&mut self, seqs: impl Iterator<Item = u64> + Clone) {
        until("the observations", LIMIT, async || {
            self.fleet.aggregator.expect_running()?;
            let there = self.observations().await;
            let missing = seqs.clone().map(id).filter(|id| !there.contains_key(id)).count();
            Ok(if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) })
        })
        .await
        .unwrap();
    }

    async fn wait_for_labels(&self, seqs: impl Iterator<Item = u64> + Clone, by: &mut [Process]) {
        until("labels in all observations", LIMIT, async || {
            by.iter_mut().try_for_each(Process::expect_running)?;
            let there = self.observations().await;
            let has = |id: &String| there.get(id).is_some_and(|d| d.contains_key("classes"));
            let missing: Vec<_> = seqs.clone().map(id).filter(|id| !has(id)).collect();
            Ok(if missing.is_empty() { Ok(()) } else { Err(format!("none in {missing:?}")) })
        })
        .await
        .unwrap();
    }

    async fn wait_for_waiting(&self, wanted: Vec<String>, by: &mut Process) {
        until("labels that wait for these observations", LIMIT, async || {
            by.expect_running()?;
            let waiting = self.waiting().await;
            Ok(if waiting == wanted { Ok(()) } else { Err(format!("{waiting:?}")) })
        })
        .await
        .unwrap();
    }
}

/// The document as it would be without a second look.
fn without_labels(mut document: Document) -> Document {
    document.remove("classes");
    document.remove("classified_by");
    document
}

/// Sum of a metric over all its labels, or those that hold these words.
async fn metric(process: &mut Process, name: &str, words: &str) -> f64 {
    let endpoint = address(process, "operations endpoint at ").await.unwrap();
    let page = get(&endpoint, "/metrics").await.unwrap();
    let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(words));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn check_labels(observations: &BTreeMap<String, Document>, seq: u64) {
    let model = "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2";
    let (name, jpeg) = picture(seq);
    let document = observations[&id(seq)].clone();
    let read: ObservationDocument = deserialize_from_document(document).unwrap();
    let (classes, by) = (read.classes.unwrap(), read.classified_by.unwrap());
    let found: Vec<(&str, f32)> = classes.iter().map(|c| (&*c.label, c.confidence)).collect();
    let wanted: BTreeMap<String, f32> =
        expected()[&name].iter().map(|class| (class.label.clone(), class.confidence)).collect();
    // `picture-0-90.jpg` is turned by 90 degrees: known, whatever a model says.
    let turned = name.trim_end_matches(".jpg").rsplit('-').next().unwrap();
    assert_eq!(found[0].0, turned, "{name}: {found:?}");
    assert_eq!(found.len(), TOP, "{name}: {found:?}");
    assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "{name}: {found:?}");
    for (label, confidence) in &found {
        let wanted = wanted[*label];
        assert!((confidence - wanted).abs() < TOLERANCE, "{name}: {found:?}, Python: {wanted}");
    }
    assert_eq!((by.model.as_str(), by.model_sha256.as_str()), ("orientation", model));
    assert_eq!(by.picture_sha256, picket_aggregator::upsert::digest(&jpeg));
}

/// Frames before their observations, among them some that get no labels: labels wait, and nothing is begun
/// where an observation belongs.
async fn frames_come_first(bench: &mut Bench, by: &mut Process) {
    let waiting = bench.fleet.database.collection::<Document>("unclaimed_classes");
    waiting.insert_one(doc! { "_id": SPOILT, "give_up_at": "soon" }).await.unwrap();
    let mut crop = frame_of(1, picture(1).1);
    crop.crop = Some(0);
    let mut headless = frame(91);
    headless.headers.retain(|(name, _)| *name != header::WIDTH);
    let broken = frame_of(92, vec![0xff, 0xd8, 0xff, 0xd9]);
    for message in [crop.encode(), headless, broken.encode(), frame(LOST)] {
        bench.send(&message).await;
    }
    bench.send_all(EARLY, frame).await;
    let mut wanted: Vec<String> = EARLY.chain([LOST]).map(id).collect();
    wanted.sort();
    bench.wait_for_waiting(wanted, by).await;
    assert_eq!(bench.observations().await, BTreeMap::new());
    for (reason, count) in [("crop", 1.0), ("header-missing", 1.0), ("undecodable", 1.0)] {
        let name = "picket_aggregator_classify_skipped_total";
        let found = metric(by, name, &format!("reason=\"{reason}\"")).await;
        assert!((found - count).abs() < f64::EPSILON, "{reason}: {found}");
    }
    bench.send_all(EARLY, observation).await;
    bench.wait_for_observations(EARLY).await;
    bench.wait_for_labels(EARLY, std::slice::from_mut(by)).await;
    bench.wait_for_waiting(vec![id(LOST)], by).await;
}

/// Observations before their frames, in the middle of an outage of MongoDB; and a classifier that has labels
/// at hand, and nowhere to write them, is killed. Gives what there was before
/// the frames, and who goes on.
async fn a_crash_in_the_middle(
    bench: &mut Bench,
    mut by: Process,
) -> (BTreeMap<String, Document>, [Process; 2]) {
    bench.send_all(LATE, observation).await;
    bench.wait_for_observations(LATE).await;
    let before = bench.observations().await;
    bench.fleet.stack.kill_mongodb().unwrap();
    bench.send_all(LATE, frame).await;
    until("a write that is repeated", LIMIT, async || {
        by.expect_running()?;
        let said = by.log().contains("write: repeated until it succeeds");
        Ok(if said { Ok(()) } else { Err(by.log_tail()) })
    })
    .await
    .unwrap();
    by.kill().unwrap();
    let mut both = [bench.classifier("second"), bench.classifier("third")];
    bench.fleet.stack.start_mongodb().await.unwrap();
    bench.wait_for_labels(LATE, &mut both).await;
    (before, both)
}

/// Two classifiers share the partitions, and what comes then, with all former frames once more.
async fn two_share(bench: &mut Bench, both: &mut [Process; 2]) {
    until("two classifiers with partitions each", LIMIT, async || {
        let mut partitions = [0.0; 2];
        for (classifier, partitions) in both.iter_mut().zip(&mut partitions) {
            *partitions = metric(classifier, "picket_aggregator_classify_partitions", "").await;
        }
        let shared = partitions.iter().all(|has| *has > 0.0)
            && (partitions.iter().sum::<f64>() - 6.0).abs() < f64::EPSILON;
        Ok(if shared { Ok(()) } else { Err(format!("{partitions:?}")) })
    })
    .await
    .unwrap();
    bench.send_all(EARLY.chain(LATE), frame).await;
    for seq in SHARED {
        bench.send(&frame(seq)).await;
        bench.send(&observation(seq)).await;
    }
    bench.wait_for_observations(SHARED).await;
    bench.wait_for_labels(SHARED, both).await;
    for classifier in both {
        let done = metric(classifier, "picket_aggregator_classify_messages_total", "").await;
        assert!(done > 0.0, "one classifier did all the work");
        assert!(classifier.terminate(LIMIT).await.unwrap().success(), "{}", classifier.log_tail());
    }
}

/// What is written twice, of another picture, by another model, or in vain.
async fn what_stands(bench: &Bench) {
    let settings = config::load(&bench.dir.join("classify.toml")).unwrap().settings;
    let store = Store::connect(&settings.store).await.unwrap();
    let now = DateTime::now();
    let later = DateTime::from_millis(now.timestamp_millis() + 8 * 24 * 60 * 60 * 1000);
    let found = |seq: u64, model: &str, picture: &str| {
        let classes = vec![Class { label: model.to_owned(), confidence: 1.0 }];
        let classified_by = ClassifiedBy {
            model: model.to_owned(),
            model_sha256: String::new(),
            picture_sha256: picture.to_owned(),
        };
        let classified = Classified { id: id(seq), classes, classified_by };
        vec![Waiting::new(classified, later.timestamp_millis())]
    };
    let settle = async |now: DateTime| {
        let mut settled = store.settle_classes(None, 10, now).await.unwrap();
        let said = settled.first_unreadable.take().unwrap();
        assert!(said.contains(SPOILT) && settled.unreadable == 1, "{said}");
        Settled { unreadable: 0, ..settled }
    };
    let label = async || {
        let documents = bench.observations().await;
        let read: ObservationDocument =
            deserialize_from_document(documents[&id(1)].clone()).unwrap();
        read.classes.unwrap()[0].label.clone()
    };
    let (own, first) = (picket_aggregator::upsert::digest(&picture(1).1), label().await);
    let (stored, waiting) =
        (Put { stored: 1, ..Put::default() }, Put { waiting: 1, ..Put::default() });
    let conflict = Put { conflicts: 1, ..Put::default() };
    let put = async |found: Vec<Waiting>| store.put_classes(&found).await.unwrap();
    assert_eq!(put(found(1, "newer", "of another picture")).await, conflict);
    assert_eq!(label().await, first);
    assert_eq!(put(found(1, "newer", &own)).await, stored);
    assert_eq!(label().await, "newer");
    // What somebody has spoilt is put right.
    let observations = bench.fleet.database.collection::<Document>("observations");
    let spoil = doc! { "$set": { "classified_by": "a hand slipped" } };
    observations.update_one(doc! { "_id": id(1) }, spoil).await.unwrap();
    assert_eq!(put(found(1, "again", &own)).await, stored);
    assert_eq!(label().await, "again");
    // What waits came first, and of that a newer model's takes the place.
    let unclaimed = bench.fleet.database.collection::<Waiting>("unclaimed_classes");
    unclaimed.insert_many(found(1, "first", "of the first picture")).await.unwrap();
    assert_eq!(settle(now).await, Settled { stored: 1, ..Settled::default() });
    assert_eq!(label().await, "first");
    let lost = picket_aggregator::upsert::digest(&picture(LOST).1);
    assert_eq!(put(found(LOST, "newer", "of another picture")).await, conflict);
    assert_eq!(put(found(LOST, "newer", &lost)).await, waiting);
    let there = unclaimed.find_one(doc! { "_id": id(LOST) }).await.unwrap().unwrap();
    assert_eq!(there.classified.classes[0].label, "newer");
    // A week's wait is not over, and then it is.
    assert_eq!(settle(now).await, Settled::default());
    let first_given_up = Some(id(LOST));
    assert_eq!(settle(later).await, Settled { given_up: 1, first_given_up, ..Settled::default() });
    assert_eq!(bench.waiting().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_frame_gets_its_labels_whatever_comes_first_twice_or_in_the_middle_of_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path()).await;
    let mut first = bench.classifier("first");
    frames_come_first(&mut bench, &mut first).await;
    let (before, mut both) = a_crash_in_the_middle(&mut bench, first).await;
    two_share(&mut bench, &mut both).await;

    let after = bench.observations().await;
    for seq in 1..=3 * FRAMES {
        check_labels(&after, seq);
    }
    // Nothing else of a document is touched, and none is there that nobody sent.
    let keys = |id: &String| -> Vec<String> {
        without_labels(after[id].clone()).keys().cloned().collect()
    };
    let like = keys(&id(FRAMES + 1));
    for (id, document) in &after {
        let untouched = before.get(id).map(|before| without_labels(before.clone()));
        let stripped = without_labels(document.clone());
        assert!(untouched.is_none_or(|before| before == stripped), "{id}: {stripped}");
        assert_eq!(keys(id), like, "{id}");
    }
    let sent: Vec<String> = (1..=3 * FRAMES).map(id).collect();
    assert!(after.keys().all(|id| sent.contains(id)), "{:?}", after.keys());
    assert_eq!(bench.waiting().await, [id(LOST)]);
    let page = bench.fleet.page().await.unwrap();
    let shown = get(&page, &format!("/api/observations/{}", id(1))).await.unwrap();
    assert!(shown.contains("\"classified_by\":{\"model\":\"orientation\""), "{shown}");
    what_stands(&bench).await;
    bench.fleet.stop().await.unwrap();
}
