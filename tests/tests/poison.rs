//! Messages that nobody can read: each goes to the dead letters whole, with its reason, and the
//! partition moves on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use picket_tests::fleet::{self, Fleet};
use picket_tests::oracle;
use picket_tests::process::{output_within, program, until};
use picket_tests::topics::headers;
use picket_wire::header::{self, Lane};
use picket_wire::observation::{ClockState, Detector, FrameFate, Observation, Stamp};
use picket_wire::status::{LinkStatus, SpoolStatus, Status};
use picket_wire::{CameraRecord, Outgoing, Picture, Topic, TopicNames, dead_letter};
use rdkafka::Message;
use rdkafka::message::Headers;
use rdkafka::producer::{FutureProducer, FutureRecord};

const LIMIT: Duration = Duration::from_secs(180);

fn stamp(seq: u64) -> Stamp {
    let captured_at = Some("2026-01-02T03:04:05Z".parse().unwrap());
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

fn good(seq: u64) -> Outgoing {
    let observation = Observation {
        id: format!("gate/front/1-0a1b2c3d/{seq}").parse().unwrap(),
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

fn good_picture(seq: u64) -> Outgoing {
    let picture = Picture {
        id: format!("gate/front/1-0a1b2c3d/{seq}").parse().unwrap(),
        crop: None,
        stamp: stamp(seq),
        width: 640,
        height: 360,
        redacted: "none".to_owned(),
        jpeg: vec![0xff, 0xd8, 0xff, 0xd9],
    };
    picture.encode()
}

fn good_status() -> Outgoing {
    let status = Status {
        device: "gate".parse().unwrap(),
        epoch: "1-0a1b2c3d".parse().unwrap(),
        stamp: stamp(1),
        agent_version: "0.1.0".to_owned(),
        config_sha256: "00".repeat(32),
        config_problem: None,
        model: None,
        uptime_s: 1,
        link: LinkStatus { up: true, problem: None, certificate_days_left: None },
        spool: SpoolStatus::default(),
        cameras: BTreeMap::new(),
        temperature_c: None,
        disk_free_bytes: None,
    };
    status.encode().unwrap()
}

fn with_header(mut message: Outgoing, name: &str, value: &str) -> Outgoing {
    message.headers.iter_mut().find(|(key, _)| *key == name).unwrap().1 = value.to_owned();
    message
}

fn without_header(mut message: Outgoing, name: &str) -> Outgoing {
    message.headers.retain(|(key, _)| *key != name);
    message
}

fn with_key(mut message: Outgoing, key: &str) -> Outgoing {
    message.key = key.to_owned();
    message
}

fn with_value(mut message: Outgoing, value: &[u8]) -> Outgoing {
    message.value = value.to_vec();
    message
}

fn with_text(message: Outgoing, from: &str, to: &str) -> Outgoing {
    let text = String::from_utf8(message.value.clone()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    with_value(message, text.replace(from, to).as_bytes())
}

fn box_text(values: &str) -> String {
    format!("\"detections\":[{{\"box\":{values},\"score\":0.9,\"class\":\"face\"}}]")
}

async fn send(producer: &FutureProducer, topic: &str, message: &Outgoing) {
    let headers = headers(message, Lane::Live);
    let record = FutureRecord::to(topic).key(&message.key).payload(&message.value).headers(headers);
    producer.send(record, LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_on_each_topic_becomes_a_dead_letter_and_the_partition_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    let device = fleet.stack.device_certificate("gate").await.unwrap();
    let settings = fleet.stack.settings();
    let producer: FutureProducer =
        settings.kafka_client(Some(&device)).set("partitioner", "murmur2_random").create().unwrap();
    let names = TopicNames::new(&settings.kafka.topic_prefix);
    let (observations, frames, status) =
        (names.name(Topic::Observations), names.name(Topic::Frames), names.name(Topic::Status));

    let poison = [
        (&observations, "empty", with_value(good(2), b"")),
        (&observations, "body-invalid", with_value(good(2), &[0xde, 0xad, 0xbe, 0xef])),
        (&observations, "body-invalid", with_text(good(2), "640", "1e999")),
        (
            &observations,
            "body-invalid",
            with_text(good(2), "\"detections\":[]", &box_text("[NaN,0,1,1]")),
        ),
        (
            &observations,
            "out-of-range",
            with_text(good(2), "\"detections\":[]", &box_text("[1e30,0,1,1]")),
        ),
        (
            &observations,
            "unknown-major",
            with_header(good(2), header::SCHEMA, "picket.observation/9.0"),
        ),
        (&observations, "header-missing", without_header(good(2), header::MONO_US)),
        (&observations, "disagree", with_header(good(2), header::DEVICE, "shed")),
        (&frames, "empty", with_value(good_picture(2), b"")),
        (&frames, "not-jpeg", with_value(good_picture(2), b"GIF89a")),
        (&frames, "header-missing", without_header(good_picture(2), header::WIDTH)),
        (&frames, "header-invalid", with_header(good_picture(2), header::HEIGHT, "99999999999")),
        (
            &frames,
            "unknown-major",
            with_header(good_picture(2), header::SCHEMA, "picket.frame/9.0"),
        ),
        (&frames, "disagree", with_key(good_picture(2), "gate/side")),
        (&observations, "disagree", with_key(good(2), "shed/front")),
        (&observations, "disagree", with_text(good(2), "gate/front", "shed/front")),
        (&status, "empty", with_value(good_status(), b"")),
        (&status, "body-invalid", with_value(good_status(), &[0xde, 0xad, 0xbe, 0xef])),
        (&status, "body-invalid", with_text(good_status(), "\"uptime_s\":1", "\"uptime_s\":1e999")),
        (&status, "unknown-major", with_header(good_status(), header::SCHEMA, "picket.status/9.0")),
        (&status, "disagree", with_key(good_status(), "shed")),
        (&status, "header-missing", without_header(good_status(), header::KIND)),
        (&status, "wrong-topic", good(2)),
    ];
    for (topic, _, message) in &poison {
        send(&producer, topic, message).await;
    }
    send(&producer, &observations, &good(1)).await;
    send(&producer, &frames, &good_picture(1)).await;
    send(&producer, &status, &good_status()).await;

    let observation = "gate/front/1-0a1b2c3d/1";
    for (collection, id) in
        [("observations", observation), ("frames", observation), ("devices", "gate")]
    {
        until("what follows the poison", LIMIT, async || {
            fleet.aggregator.expect_running()?;
            let documents = fleet.database.collection::<Document>(collection);
            let found = documents.find_one(doc! { "_id": id }).await?;
            Ok(found.ok_or_else(|| format!("nothing in {collection}")))
        })
        .await
        .unwrap();
    }
    let letters = until("all dead letters", LIMIT, async || {
        let letters = fleet.messages(Topic::DeadLetter)?;
        Ok(if letters.len() >= poison.len() {
            Ok(letters)
        } else {
            Err(format!("{}", letters.len()))
        })
    })
    .await
    .unwrap();
    assert_eq!(letters.len(), poison.len());
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for letter in &letters {
        let reason = header_of(letter, dead_letter::REASON);
        let from = header_of(letter, dead_letter::TOPIC);
        let whole = poison.iter().any(|(topic, code, message)| {
            **topic == from
                && *code == reason
                && letter.payload().unwrap_or_default() == message.value
        });
        assert!(whole, "a letter that is none of the poison: {reason} from {from}");
        *found.entry(reason).or_default() += 1;
    }
    let page = fleet.page().await.unwrap();
    let metrics = fleet::get(&page, "/metrics").await.unwrap();
    for reason in found.keys() {
        let counted = metrics.lines().any(|line| {
            line.starts_with("picket_aggregator_") && line.contains(&format!("reason=\"{reason}\""))
        });
        assert!(counted, "{reason} is not counted:\n{metrics}");
    }
    let stored = fleet.database.collection::<Document>("observations");
    assert_eq!(stored.count_documents(doc! { "kind": "observation" }).await.unwrap(), 1);
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_unpacks_to_more_than_a_dead_letter_may_have_is_cut_and_its_camera_goes_on()
{
    const BYTES: usize = 5 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    let device = fleet.stack.device_certificate("gate").await.unwrap();
    let settings = fleet.stack.settings();
    let producer: FutureProducer = settings
        .kafka_client(Some(&device))
        .set("partitioner", "murmur2_random")
        .set("compression.type", "zstd")
        .set("message.max.bytes", (8 << 20).to_string())
        .create()
        .unwrap();
    let topic = TopicNames::new(&settings.kafka.topic_prefix).name(Topic::Observations);
    // Of one camera, so in one partition.
    send(&producer, &topic, &with_value(good(1), &vec![0; BYTES])).await;
    send(&producer, &topic, &good(2)).await;
    until("what follows it", LIMIT, async || {
        fleet.aggregator.expect_running()?;
        let documents = fleet.database.collection::<Document>("observations");
        let found = documents.find_one(doc! { "_id": "gate/front/1-0a1b2c3d/2" }).await?;
        Ok(found.ok_or_else(|| fleet.aggregator.log_tail()))
    })
    .await
    .unwrap();
    let letters = fleet.messages(Topic::DeadLetter).unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(header_of(letter, dead_letter::REASON), "too-large");
    assert_eq!(header_of(letter, dead_letter::VALUE_BYTES), BYTES.to_string());
    let digest = picket_aggregator::upsert::digest(&vec![0; BYTES]);
    assert_eq!(header_of(letter, dead_letter::VALUE_SHA256), digest);
    assert!(header_of(letter, header::SCHEMA).starts_with("picket.observation/"));
    let left = letter.payload().unwrap();
    assert!((4 << 20..BYTES).contains(&left.len()), "{}", left.len());

    let place = format!("{}/{}", letter.partition(), letter.offset());
    let run = |what: &str| {
        let mut command = Command::new(program("picket-aggregator").unwrap());
        command.args(["dead-letter", what, &place, "--config"]).arg(fleet.aggregator_config());
        output_within(&mut command, LIMIT).unwrap()
    };
    let shown = String::from_utf8(run("show").stdout).unwrap();
    assert!(shown.contains("\ncut: ") && shown.contains(&digest), "{shown}");
    let refused = run("retry");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("it is cut"), "{said}");
    assert!(run("drop").status.success(), "nothing had been written of a retry");
    fleet.stop().await.unwrap();
}

/// A header's text; empty if there is none.
fn header_of(message: &impl Message, name: &str) -> String {
    let headers = message.headers().unwrap();
    let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    String::from_utf8(found.unwrap_or_default().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_other_bytes_is_a_conflict_and_the_same_bytes_are_a_resend() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    let device = fleet.stack.device_certificate("gate").await.unwrap();
    let settings = fleet.stack.settings();
    let producer: FutureProducer = settings.kafka_client(Some(&device)).create().unwrap();
    let topic = TopicNames::new(&settings.kafka.topic_prefix).name(Topic::Observations);
    for message in [good(1), good(1), with_text(good(1), "640", "641"), good(2)] {
        send(&producer, &topic, &message).await;
    }
    until("the last observation", LIMIT, async || {
        fleet.aggregator.expect_running()?;
        let documents = fleet.database.collection::<Document>("observations");
        let found = documents.find_one(doc! { "_id": "gate/front/1-0a1b2c3d/2" }).await?;
        Ok(found.ok_or_else(|| "not yet".to_owned()))
    })
    .await
    .unwrap();
    let documents = fleet.database.collection::<Document>("observations");
    let first = documents.find_one(doc! { "_id": "gate/front/1-0a1b2c3d/1" }).await.unwrap();
    assert_eq!(first.unwrap().get_i32("frame_width").unwrap(), 640, "the first one stands");
    let letters = fleet.messages(Topic::DeadLetter).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(header_of(&letters[0], dead_letter::REASON), dead_letter::IDENTITY_CONFLICT);
    until("the books of two observations", LIMIT, async || {
        let findings = oracle::ask(&fleet.database, &["gate"], &[], &fleet.pictures).await?;
        let stored: Vec<_> =
            findings.accounts.values().map(|account| account.stored.len()).collect();
        let is_so = findings.violations.is_empty() && stored == [2];
        Ok(if is_so { Ok(()) } else { Err(format!("{findings:?}")) })
    })
    .await
    .unwrap();
    fleet.stop().await.unwrap();
}
