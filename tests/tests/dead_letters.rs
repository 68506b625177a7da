//! Dead letters as a person deals with them, on the real programs: looked at, put back, dropped; and
//! whatever is put back, and however often, is in the books once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;
use mongodb::bson::{Document, doc};
use picket_tests::fleet::Fleet;
use picket_tests::process::{output_within, program, until};
use picket_tests::topics::headers;
use picket_wire::header::{self, Lane};
use picket_wire::observation::{ClockState, Detector, FrameFate, Observation, Stamp};
use picket_wire::{CameraRecord, Outgoing, Picture, Topic, TopicNames, dead_letter};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Header;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(120);
const CAMERA: &str = "gate/front";

fn stamp(seq: u64) -> Stamp {
    let captured_at = Some("2026-01-02T03:04:05Z".parse().unwrap());
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

fn good(seq: u64) -> Outgoing {
    let observation = Observation {
        id: format!("{CAMERA}/1-0a1b2c3d/{seq}").parse().unwrap(),
        stamp: stamp(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: None,
        frame: FrameFate::Withheld,
        detections: vec![],
    };
    CameraRecord::Observation(observation).encode().unwrap()
}

fn newer(seq: u64) -> Outgoing {
    let mut message = good(seq);
    let schema = message.headers.iter_mut().find(|(key, _)| *key == header::SCHEMA).unwrap();
    schema.1 = "picket.observation/9.0".to_owned();
    message
}

/// No JPEG.
fn picture() -> Outgoing {
    let picture = Picture {
        id: format!("{CAMERA}/1-0a1b2c3d/1").parse().unwrap(),
        crop: None,
        stamp: stamp(1),
        width: 640,
        height: 360,
        redacted: "none".to_owned(),
        jpeg: b"GIF89a".to_vec(),
    };
    picture.encode()
}

/// A fleet, and what a test does to it.
struct Bench {
    fleet: Fleet,
    device: FutureProducer,
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        let fleet = Fleet::start(dir).await.unwrap();
        let device = fleet.stack.device_certificate("gate").await.unwrap();
        let device = fleet.stack.settings().kafka_client(Some(&device));
        let device = device.clone().set("partitioner", "murmur2_random").create().unwrap();
        Self { fleet, device }
    }

    fn topic(&self, topic: Topic) -> String {
        TopicNames::new(&self.fleet.stack.settings().kafka.topic_prefix).name(topic)
    }

    async fn send(&self, message: &Outgoing) {
        self.send_with_key(message, message.key.as_bytes()).await;
    }

    async fn send_with_key(&self, message: &Outgoing, key: &[u8]) {
        let headers = headers(message, Lane::Live);
        let topic = self.topic(message.topic);
        let record = FutureRecord::to(&topic).key(key).payload(&message.value).headers(headers);
        self.device.send(record, LIMIT).await.unwrap();
    }

    /// What an aggregator that could not read a message left of it.
    async fn leave_letter(&self, message: &Outgoing, from_topic: &str) {
        let settings = self.fleet.stack.settings();
        let aggregator: FutureProducer =
            settings.kafka_client(Some(&settings.aggregator)).create().unwrap();
        let mut headers = headers(message, Lane::Live);
        for (key, value) in [
            (dead_letter::TOPIC, from_topic),
            (dead_letter::PARTITION, "0"),
            (dead_letter::OFFSET, "7"),
            (dead_letter::REASON, "unknown-major"),
            (dead_letter::DETAIL, "of an older build"),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let topic = self.topic(Topic::DeadLetter);
        let record = FutureRecord::to(&topic).key(&message.key).payload(&message.value);
        aggregator.send(record.headers(headers), LIMIT).await.unwrap();
    }

    async fn stored(&mut self, seq: u64) {
        let id = format!("{CAMERA}/1-0a1b2c3d/{seq}");
        let documents = self.fleet.database.collection::<Document>("observations");
        until(&format!("{id} to be stored"), LIMIT, async || {
            self.fleet.aggregator.expect_running()?;
            let found = documents.find_one(doc! { "_id": &id }).await?;
            Ok(found.map(drop).ok_or_else(|| "not yet".to_owned()))
        })
        .await
        .unwrap();
    }

    /// Waits until the camera's accounts say this.
    async fn accounts(&self, stored: i64, refused: &Document) {
        let cameras = self.fleet.database.collection::<Document>("cameras");
        until("the camera's accounts", LIMIT, async || {
            let camera = cameras.find_one(doc! { "_id": CAMERA }).await?.unwrap_or_default();
            let Ok(accounts) = camera.get_document("accounts") else {
                return Ok(Err(format!("{camera}")));
            };
            let is_so = accounts.get_i64("stored")? == stored
                && accounts.get_document("refused")? == refused;
            Ok(if is_so { Ok(()) } else { Err(accounts.to_string()) })
        })
        .await
        .unwrap();
    }

    async fn letters(&self, count: usize) {
        until(&format!("{count} dead letters"), LIMIT, async || {
            let letters = self.fleet.dead_letters()?;
            Ok(if letters >= count { Ok(()) } else { Err(letters.to_string()) })
        })
        .await
        .unwrap();
        assert_eq!(self.fleet.dead_letters().unwrap(), count);
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("picket-aggregator").unwrap());
        command.arg("dead-letter").args(args);
        command.arg("--config").arg(self.fleet.aggregator_config());
        output_within(&mut command, LIMIT).unwrap()
    }

    /// What a command says that does what it should.
    fn says(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that cannot do what it should.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Puts letters back, as somebody who may write to the devices' topics.
    fn retry(&self, args: &[&str]) -> String {
        let admin = &self.fleet.stack.settings().admin;
        let (certificate, key) = (admin.certificate.to_str().unwrap(), admin.key.to_str().unwrap());
        let who = ["retry", "--certificate-file", certificate, "--key-file", key];
        self.says(&[&who, args].concat())
    }

    /// Place and state of each letter, as programs read it.
    fn list(&self, args: &[&str]) -> Vec<(String, String)> {
        let listed = self.says(&[&["list", "--json", "--limit", "0"], args].concat());
        let line = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("place"), text("state"))
        };
        listed.lines().map(line).collect()
    }

    fn only(&self, args: &[&str]) -> String {
        let listed = self.list(args);
        assert_eq!(listed.len(), 1, "{listed:?}");
        listed[0].0.clone()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        let settings = self.fleet.stack.settings();
        settings.kafka_client(Some(&settings.admin)).create().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_goes_the_normal_path_and_is_in_the_books_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path()).await;
    for message in [good(1), newer(2)] {
        bench.send(&message).await;
    }
    bench.letters(1).await;
    bench.accounts(1, &doc! { "unknown-major": 1_i64 }).await;
    let first = bench.only(&["--open", "--reason", "unknown-major", "--camera", CAMERA]);

    // Its own certificate reads letters, and does not write what devices write.
    let refused = bench.fails(&["retry", &first]);
    assert!(refused.contains("may not write to picket.observations"), "{refused}");
    assert_eq!(bench.list(&[]), [(first.clone(), "open".to_owned())]);

    // Still of a version that nobody reads: put aside anew, and in the books as often as before.
    let said = bench.retry(&[&first]);
    assert!(said.contains("put back on picket.observations/"), "{said}");
    bench.letters(2).await;
    bench.send(&good(3)).await;
    bench.stored(3).await;
    bench.accounts(2, &doc! { "unknown-major": 1_i64 }).await;
    let second = bench.only(&["--open"]);
    assert_ne!(first, second);
    let states = |mut listed: Vec<(String, String)>| {
        listed.sort_by_key(|(place, _)| *place != first);
        listed.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
    };
    assert_eq!(states(bench.list(&["--key", "gate"])), ["retried", "open"]);

    // As by a retry that was killed between the acknowledgement and its mark.
    bench.send(&newer(2)).await;
    bench.send(&good(4)).await;
    bench.stored(4).await;
    bench.letters(2).await;
    bench.accounts(3, &doc! { "unknown-major": 1_i64 }).await;

    // What an older build put aside and this one reads.
    bench.fleet.aggregator.terminate(LIMIT).await.unwrap();
    bench.leave_letter(&good(5), "picket.observations").await;
    let cameras = bench.fleet.database.collection::<Document>("cameras");
    let one_more = doc! { "$inc": { "accounts.refused.unknown-major": 1_i64 } };
    cameras.update_one(doc! { "_id": CAMERA }, one_more).await.unwrap();
    bench.fleet.restart_aggregator().await.unwrap();
    let said = bench.retry(&["--all"]);
    assert!(said.contains("2 put back"), "{said}");
    bench.stored(5).await;
    bench.letters(4).await;
    bench.accounts(4, &doc! { "unknown-major": 1_i64 }).await;
    let stored = bench.list(&[]).into_iter().filter(|(_, state)| state == "stored");
    let [(stored, _)] = stored.collect::<Vec<_>>().try_into().unwrap();
    assert!(bench.retry(&[&stored]).contains("stored already"));
    bench.retry(&["--again", &stored]);
    bench.send(&good(6)).await;
    bench.stored(6).await;
    bench.accounts(5, &doc! { "unknown-major": 1_i64 }).await;
    bench.letters(4).await;

    // An id that is stored with other bytes is refused as often as it comes, and counted once.
    let mut other = good(1);
    other.value = String::from_utf8(other.value).unwrap().replace("640", "641").into_bytes();
    bench.send(&other).await;
    let twice_refused = doc! { "identity-conflict": 1_i64, "unknown-major": 1_i64 };
    bench.accounts(5, &twice_refused).await;
    let said = bench.retry(&["--reason", "identity-conflict"]);
    assert!(said.contains("it will be refused again"), "{said}");
    bench.letters(6).await;
    bench.send(&good(7)).await;
    bench.stored(7).await;
    bench.accounts(6, &twice_refused).await;

    // Dropped is done, and stays refused.
    assert!(bench.retry(&["--since", "1h", "--camera", "gate/side"]).starts_with("0 put back"));
    assert!(bench.says(&["drop", "--all"]).contains("2 dropped"));
    assert_eq!(bench.list(&["--open"]), []);
    bench.accounts(6, &twice_refused).await;

    // A retry that was cut short is ended by force alone, and what comes of it is in the books once.
    let known = bench.fleet.database.collection::<Document>("dead_letters");
    let cut_short = doc! { "$set": { "state": "retrying" }, "$unset": { "to": "", "arrived": "" } };
    known.update_many(doc! { "state": "dropped" }, cut_short).await.unwrap();
    assert!(bench.fails(&["drop", "--all"]).contains("with --force"));
    let said = bench.says(&["drop", "--all", "--force"]);
    assert!(said.contains("if it is on its topic, it is stored all the same"), "{said}");
    assert_eq!(bench.list(&["--open"]), []);
    bench.send(&other).await;
    bench.letters(7).await;
    bench.accounts(6, &twice_refused).await;
    bench.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_any_sort_are_shown_and_what_cannot_be_put_back_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path()).await;
    bench.send(&newer(2)).await;
    bench.send(&picture()).await;
    bench.send_with_key(&good(3), &[0xff, 0xfe]).await;
    let foreign = Outgoing { key: "shed/side".to_owned(), ..good(4) };
    bench.leave_letter(&foreign, "another.observations").await;
    bench.letters(4).await;

    let listed = bench.says(&["list"]);
    assert!(listed.ends_with("4 letters on picket.dead-letter, 4 of them open\n"), "{listed}");
    assert!(listed.contains("0xfffe"), "a key that is no text: {listed}");
    let newest = bench.says(&["list", "--limit", "1"]);
    assert!(newest.contains("; 3 older ones are not shown"), "{newest}");
    assert_eq!(bench.list(&["--since", "2099-01-01T00:00:00Z"]), []);

    let observation = bench.only(&["--reason", "unknown-major", "--since", "1h", "--key", CAMERA]);
    let shown = bench.says(&["show", &observation]);
    for part in ["  picket-schema: picket.observation/9.0\n", "\n  \"frame_width\": 640,\n", "open"]
    {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    let image = bench.only(&["--reason", "not-jpeg"]);
    let file = dir.path().join("value");
    let shown = bench.says(&["show", &image, "--value", file.to_str().unwrap()]);
    assert!(shown.contains("value (6 bytes):\n  0000  47 49 46 38 39 61"), "{shown}");
    assert_eq!(std::fs::read(&file).unwrap(), b"GIF89a");

    let said = bench.fails(&["retry", &bench.only(&["--key", "shed"])]);
    assert!(said.contains("none of the topics that this aggregator reads"), "{said}");
    assert!(bench.fails(&["show", "99/0"]).contains("has the partitions 0 to 5"));
    assert!(bench.fails(&["show", "0/99999"]).contains("ends before offset"));

    // Its topic goes, then what retention leaves of the letters, then the broker.
    bench.fleet.aggregator.terminate(LIMIT).await.unwrap();
    let admin = bench.admin();
    admin.delete_topics(&["picket.frames"], &AdminOptions::new()).await.unwrap();
    until("the topic to be gone", LIMIT, async || {
        let said = String::from_utf8(bench.run(&["retry", &image]).stderr)?;
        let is_gone = said.contains("its topic picket.frames is not there any more");
        Ok(if is_gone { Ok(()) } else { Err(said) })
    })
    .await
    .unwrap();
    expire(&bench, &admin, &observation).await.unwrap();
    let said = bench.fails(&["show", &observation]);
    assert!(
        said.contains("is not there any more: picket.dead-letter keeps letters for a time"),
        "{said}"
    );
    bench.fleet.stack.stop_kafka().await.unwrap();
    let said = bench.fails(&["list"]);
    assert!(said.contains("no broker of") && said.contains("within 10 s"), "{said}");
}

/// Removes all letters of a letter's partition, as retention does.
async fn expire(
    bench: &Bench,
    admin: &AdminClient<DefaultClientContext>,
    place: &str,
) -> Result<()> {
    let partition: i32 = place.split_once('/').unwrap().0.parse()?;
    let topic = bench.topic(Topic::DeadLetter);
    let settings = bench.fleet.stack.settings();
    let consumer: BaseConsumer = settings.kafka_client(Some(&settings.admin)).create()?;
    let (_, high) = consumer.fetch_watermarks(&topic, partition, LIMIT)?;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, partition, Offset::Offset(high))?;
    admin.delete_records(&before, &AdminOptions::new()).await?;
    Ok(())
}
