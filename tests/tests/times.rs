//! What was captured before the clock was set gets its right time at the centre once it is known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use picket_tests::clock::Clock;
use picket_tests::faults::{
    Bench, LIMIT, end, nothing_is_lost, on_bench, short_or_long, spooled, stored, ten_a_second,
    wait_for_stored,
};
use picket_tests::fleet::{Fleet, get};
use picket_tests::process::until;
use picket_wire::observation::{
    ClockRelation, ClockState, Detection, Detector, FrameFate, Observation, Stamp,
};
use picket_wire::{CameraRecord, Outgoing, Picture, TopicNames, header};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

const HOUR: Duration = Duration::from_secs(3600);

async fn documents(fleet: &Fleet, collection: &str, device: &str) -> Vec<Document> {
    let documents = fleet.database.collection::<Document>(collection);
    let of_device = documents.find(doc! { "device": device });
    of_device.sort(doc! { "_id": 1 }).await.unwrap().try_collect().await.unwrap()
}

fn says(document: &Document, field: &str, word: &str) -> bool {
    document.get_str(field).is_ok_and(|said| said == word)
}

/// Milliseconds from capture to the broker by a document's own time.
fn way_ms(document: &Document) -> i64 {
    let captured = document.get_datetime("captured_at").unwrap().timestamp_millis();
    let broker = document.get_document("ingest").unwrap().get_datetime("broker_time").unwrap();
    broker.timestamp_millis() - captured
}

/// Documents of a collection whose own clock was in this state, clock records left out.
fn of_clock<'a>(documents: &'a [Document], state: &str) -> Vec<&'a Document> {
    let is_so = |d: &&Document| says(d, "clock", state) && !says(d, "kind", "clock");
    documents.iter().filter(is_so).collect()
}

/// Waits until no document of a device has a time that its clock records tell better.
async fn wait_for_corrected(fleet: &Fleet, device: &str) {
    let unsure = doc! {
        "device": device, "kind": { "$ne": "clock" },
        "clock": { "$gt": "synchronised" }, "corrected": { "$exists": false },
    };
    let due = doc! { "device": device, "due": { "$exists": true } };
    until("all times to be right", LIMIT, async || {
        let mut left = Vec::new();
        for (name, filter) in [("observations", &unsure), ("frames", &unsure), ("clocks", &due)] {
            let documents = fleet.database.collection::<Document>(name);
            left.push(documents.count_documents(filter.clone()).await?);
        }
        Ok(if left.iter().all(|count| *count == 0) { Ok(()) } else { Err(format!("{left:?}")) })
    })
    .await
    .unwrap();
}

#[test]
fn what_was_captured_before_the_clock_was_set_gets_its_right_time_at_the_centre() {
    on_bench(async |bench: &mut Bench| {
        let fleet = &mut bench.fleet;
        let dir = tempfile::tempdir()?;
        let clock = Clock::right(dir.path())?;
        let agent = fleet.enrol("unset", &ten_a_second("north")?).await?;
        // The battery clock is empty: this is in the seventies.
        clock.fall_behind(56 * 365 * 24 * HOUR)?;
        let mut process = agent.start_by(&clock)?;
        let wait = short_or_long(20, 600);
        until("records without a time", LIMIT, async || {
            let (spooled, stored) = (spooled(&agent), stored(fleet, &agent).await?);
            let so_far = spooled.as_ref().map_or(0, |spooled| *spooled) + stored;
            Ok(if so_far >= wait { Ok(()) } else { Err(format!("{spooled:?}, {stored}")) })
        })
        .await?;
        // Somebody sets it by hand, and is twenty hours wrong.
        clock.fall_behind(20 * HOUR)?;
        wait_for_stored(fleet, &agent, &mut process, wait).await?;
        let wrong = documents(fleet, "observations", "unset").await;
        let wrong = of_clock(&wrong, "unsynchronised");
        assert!(wrong.iter().all(|d| way_ms(d) > 19 * 3_600_000), "stored with the wrong time");
        assert!(!wrong.is_empty());

        clock.find_time()?;
        wait_for_stored(fleet, &agent, &mut process, wait).await?;
        end(&mut process).await?;
        nothing_is_lost(fleet, &[&agent]).await?;
        wait_for_corrected(fleet, "unset").await;

        let observations = documents(fleet, "observations", "unset").await;
        let frames = documents(fleet, "frames", "unset").await;
        for (state, off) in [("unset", None), ("unsynchronised", Some(20 * 3_600_000))] {
            for (what, all) in [("observations", &observations), ("frames", &frames)] {
                let documents = of_clock(all, state);
                assert!(!documents.is_empty(), "no {what} of a clock that was {state}");
                for document in documents {
                    is_corrected(document, off);
                }
            }
        }
        for collection in [&observations, &frames] {
            let known = of_clock(collection, "synchronised");
            assert!(!known.is_empty() && known.iter().all(|d| d.get("corrected").is_none()));
            assert!(collection.iter().filter(|d| !says(d, "kind", "clock")).all(|d| {
                // A file's frames come when they are due; an outage of a minute is long here.
                (-1000..i64::try_from(LIMIT.as_millis()).unwrap()).contains(&way_ms(d))
            }));
        }
        in_the_order_of_capture(&observations);
        of_the_same_time_as_their_observations(&frames, &observations);
        tracks_too(fleet, &observations).await;
        pages_too(fleet, &observations).await;
        Ok(())
    })
    .unwrap();
}

/// A document's time is right, and what the device said stands beside it.
fn is_corrected(document: &Document, off_ms: Option<i64>) {
    let corrected = document.get_document("corrected").unwrap();
    assert_eq!(corrected.get_str("by_clock").unwrap(), "synchronised", "{document}");
    let right = document.get_datetime("captured_at").unwrap().timestamp_millis();
    let ns = document.get_i64("captured_ns").unwrap();
    assert_eq!(ns.div_euclid(1_000_000), right);
    match (off_ms, corrected.get("device_captured_at").unwrap()) {
        (None, Bson::Null) => {}
        (Some(off_ms), Bson::DateTime(said)) => {
            let off = right - said.timestamp_millis();
            assert!((off - off_ms).abs() < 1000, "off by {off} ms: {document}");
        }
        (_, said) => panic!("the device said {said}: {document}"),
    }
}

fn in_the_order_of_capture(observations: &[Document]) {
    let mut seen: Vec<_> = observations
        .iter()
        .filter(|d| says(d, "kind", "observation"))
        .map(|d| (d.get_i64("seq").unwrap(), d.get_i64("captured_ns").unwrap()))
        .collect();
    seen.sort_unstable();
    // Both clocks are read one after the other, and a loaded machine may stop between the two.
    for pair in seen.windows(2) {
        assert!(pair[0].1 < pair[1].1 + 250_000_000, "{pair:?}");
    }
}

fn of_the_same_time_as_their_observations(frames: &[Document], observations: &[Document]) {
    for frame in frames {
        let id = frame.get_str("observation").unwrap();
        let observation = observations.iter().find(|d| says(d, "_id", id)).unwrap();
        assert_eq!(frame.get("captured_ns"), observation.get("captured_ns"), "{id}");
    }
}

/// A track was first and last seen when its first and last observations were captured.
async fn tracks_too(fleet: &Fleet, observations: &[Document]) {
    let tracks = documents(fleet, "tracks", "unset").await;
    assert!(tracks.iter().any(|track| track.get("corrected").is_some()));
    let captured = |id: &str| {
        let found = observations.iter().find(|d| says(d, "_id", id));
        *found.unwrap().get_datetime("captured_at").unwrap()
    };
    for track in &tracks {
        for (seen, by) in [("first_seen", "first_observation"), ("last_seen", "last_observation")] {
            let seen = *track.get_datetime(seen).unwrap();
            assert_eq!(seen, captured(track.get_str(by).unwrap()), "{track}");
        }
    }
}

/// The API says the right time, and what the device said.
async fn pages_too(fleet: &mut Fleet, observations: &[Document]) {
    let corrected = of_clock(observations, "unsynchronised");
    let corrected = corrected.iter().find(|d| says(d, "kind", "observation")).unwrap();
    let id = corrected.get_str("_id").unwrap();
    let page = fleet.page().await.unwrap();
    let answer = get(&page, &format!("/api/observations/{id}")).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let start = body.find('{').unwrap();
    let body = &body[start..=body.rfind('}').unwrap()];
    let view: serde_json::Value = serde_json::from_str(body).unwrap();
    let ms = |name: &str| {
        let at: jiff::Timestamp = view[name].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    assert_eq!(view["corrected"], true);
    assert_eq!(
        ms("captured_at"),
        corrected.get_datetime("captured_at").unwrap().timestamp_millis()
    );
    assert!(ms("captured_at") - ms("device_captured_at") > 19 * 3_600_000);
}

/// The time of day at the epoch's start, by the clock that was never set and by the right one.
const WRONG_US: i64 = 1_708_300_800_000_000;
const RIGHT_US: i64 = 1_777_627_800_000_000;

fn stamp(seq: u64, offset_us: Option<i64>, clock: ClockState) -> Stamp {
    let mono_us = seq * 100_000;
    let at = |offset: i64| jiff::Timestamp::from_microsecond(offset + mono_us as i64).unwrap();
    Stamp { mono_us, captured_at: offset_us.map(at), clock }
}

fn unsure(seq: u64) -> Stamp {
    match seq % 2 {
        0 => stamp(seq, None, ClockState::Unset),
        _ => stamp(seq, Some(WRONG_US), ClockState::Unsynchronised),
    }
}

fn seen(camera: &str, seq: u64) -> Outgoing {
    CameraRecord::Observation(Observation {
        id: format!("{camera}/1-0a1b2c3d/{seq}").parse().unwrap(),
        stamp: unsure(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: None,
        frame: FrameFate::Published,
        detections: vec![Detection {
            box_px: [100.0 + seq as f32, 100.0, 80.0, 90.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: None,
        }],
    })
    .encode()
    .unwrap()
}

fn picture(camera: &str, seq: u64) -> Outgoing {
    Picture {
        id: format!("{camera}/1-0a1b2c3d/{seq}").parse().unwrap(),
        crop: None,
        stamp: unsure(seq),
        width: 640,
        height: 360,
        redacted: "none".to_owned(),
        jpeg: vec![0xff, 0xd8, 0xff, 0xd9],
    }
    .encode()
}

fn set(camera: &str, after: u64) -> Outgoing {
    CameraRecord::Clock(ClockRelation {
        id: format!("{camera}/1-0a1b2c3d/{after}").parse().unwrap(),
        stamp: stamp(after, Some(RIGHT_US), ClockState::Synchronised),
    })
    .encode()
    .unwrap()
}

/// Writes as a device does.
struct Device {
    producer: FutureProducer,
    topics: TopicNames,
}

impl Device {
    async fn enrol(fleet: &Fleet, name: &str) -> Self {
        let settings = fleet.stack.settings();
        let who = fleet.stack.device_certificate(name).await.unwrap();
        let mut client = settings.kafka_client(Some(&who));
        client.set("partitioner", "murmur2_random").set("linger.ms", "0");
        let topics = TopicNames::new(&settings.kafka.topic_prefix);
        Self { producer: client.create().unwrap(), topics }
    }

    async fn send(&self, message: &Outgoing) {
        let mut headers =
            OwnedHeaders::new().insert(Header { key: header::LANE, value: Some("live") });
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let topic = self.topics.name(message.topic);
        let record = FutureRecord::to(&topic).key(&message.key).payload(&message.value);
        self.producer.send(record.headers(headers), LIMIT).await.unwrap();
    }
}

async fn wait_for_count(fleet: &Fleet, collection: &str, filter: Document, wanted: u64) {
    until(&format!("{wanted} {collection}"), LIMIT, async || {
        let documents = fleet.database.collection::<Document>(collection);
        let found = documents.count_documents(filter.clone()).await?;
        Ok(if found >= wanted { Ok(()) } else { Err(format!("{found} of {filter}")) })
    })
    .await
    .unwrap();
}

/// What stands of a camera, as far as its times go.
async fn times(fleet: &Fleet, camera: &str) -> Vec<Document> {
    let mut all = Vec::new();
    for collection in ["observations", "frames", "tracks", "cameras"] {
        let documents = fleet.database.collection::<Document>(collection);
        let fields = doc! {
            "_id": 1, "captured_at": 1, "captured_ns": 1, "corrected": 1, "clock": 1,
            "first_seen": 1, "last_seen": 1, "newest_captured_at": 1,
        };
        let (device, name) = ("order", camera);
        let found = documents.find(doc! { "device": device, "camera": name });
        let found = found.projection(fields).sort(doc! { "_id": 1 }).await.unwrap();
        for mut document in found.try_collect::<Vec<Document>>().await.unwrap() {
            let id = document.get_str("_id").unwrap().replace(camera, "camera");
            document.insert("_id", id);
            all.push(document);
        }
    }
    all
}

#[test]
fn records_and_what_tells_their_time_may_come_in_any_order_and_the_times_are_the_same() {
    const LAST: u64 = 6;
    on_bench(async |bench: &mut Bench| {
        let fleet = &bench.fleet;
        let device = Device::enrol(fleet, "order").await;
        let mut outcomes = Vec::new();
        // After so many records comes the one that tells the time, each stored before the next.
        for (camera, before) in [("first", 0), ("between", 3), ("last", LAST)] {
            let key = format!("order/{camera}");
            for seq in 1..=LAST {
                if seq == before + 1 {
                    device.send(&set(&key, LAST)).await;
                    wait_for_count(fleet, "clocks", doc! { "_id": format!("{key}/1-0a1b2c3d") }, 1)
                        .await;
                }
                device.send(&picture(&key, seq)).await;
                device.send(&seen(&key, seq)).await;
                let so_far =
                    doc! { "device": "order", "camera": camera, "kind": { "$ne": "clock" } };
                wait_for_count(fleet, "frames", so_far.clone(), seq).await;
                wait_for_count(fleet, "observations", so_far, seq).await;
            }
            if before == LAST {
                device.send(&set(&key, LAST)).await;
                wait_for_count(fleet, "clocks", doc! { "_id": format!("{key}/1-0a1b2c3d") }, 1)
                    .await;
            }
            // A resend tells nothing new.
            device.send(&set(&key, LAST)).await;
            wait_for_corrected(fleet, "order").await;
            // The camera's document follows with the batch that tells its time.
            let newest = RIGHT_US / 1000 + LAST as i64 * 100;
            let newest = doc! { "_id": &key, "newest_captured_at": DateTime::from_millis(newest) };
            wait_for_count(fleet, "cameras", newest, 1).await;
            outcomes.push(times(fleet, camera).await);
        }
        for document in &outcomes[0] {
            if let Ok(ns) = document.get_i64("captured_ns") {
                let id = document.get_str("_id").unwrap().split('~').next().unwrap();
                let seq: i64 = id.rsplit('/').next().unwrap().parse().unwrap();
                assert_eq!(ns, (RIGHT_US + seq * 100_000) * 1000, "{document}");
            }
        }
        assert_eq!(outcomes[0].len(), 2 * LAST as usize + 1 + 1 + 1, "{:?}", outcomes[0]);
        assert_eq!(outcomes[0], outcomes[1]);
        assert_eq!(outcomes[0], outcomes[2]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_day_of_wrong_times_is_corrected_in_parts_also_by_an_aggregator_that_is_killed() {
    on_bench(async |bench: &mut Bench| {
        let fleet = &mut bench.fleet;
        let count = short_or_long(12_000, 300_000);
        let epoch = "day/north/1-0a1b2c3d";
        let observations = fleet.database.collection::<Document>("observations");
        let wrong: Vec<_> = (1..=count).map(|seq| stored_unsure(epoch, seq)).collect();
        observations.insert_many(wrong).await?;
        let clocks = fleet.database.collection::<Document>("clocks");
        clocks
            .insert_one(doc! {
                "_id": epoch, "device": "day", "camera": "north", "epoch": "1-0a1b2c3d",
                "relations": [{ "mono_us": i64::MAX / 4, "offset_us": RIGHT_US, "clock": "synchronised" }],
                "due": { "from_us": 0_i64, "to_us": i64::MAX }, "version": 1_i64,
            })
            .await?;
        let corrected = doc! { "device": "day", "corrected": { "$exists": true } };
        wait_for_count(fleet, "observations", corrected.clone(), 1).await;
        fleet.aggregator.kill()?;
        let so_far = observations.count_documents(corrected.clone()).await?;
        assert!(so_far < count as u64, "killed too late: all {so_far} are right already");
        fleet.restart_aggregator().await?;
        wait_for_count(fleet, "observations", corrected, count as u64).await;
        wait_for_corrected(fleet, "day").await;
        let mut found = observations.find(doc! { "device": "day" }).await?;
        while let Some(document) = found.try_next().await? {
            let mono_us = document.get_i64("mono_us")?;
            assert_eq!(document.get_i64("captured_ns")?, (RIGHT_US + mono_us) * 1000, "{document}");
            let said = document.get_document("corrected")?.get_i64("device_captured_ns")?;
            assert_eq!(said, (WRONG_US + mono_us) * 1000, "{document}");
        }
        // No agent captured them: the books of the other tests are not theirs.
        observations.delete_many(doc! { "device": "day" }).await?;
        Ok(())
    })
    .unwrap();
}

fn stored_unsure(epoch: &str, seq: i64) -> Document {
    let mono_us = seq * 100_000;
    let said_ns = (WRONG_US + mono_us) * 1000;
    doc! {
        "_id": format!("{epoch}/{seq}"), "kind": "observation", "device": "day", "camera": "north",
        "epoch": "1-0a1b2c3d", "seq": seq, "mono_us": mono_us, "clock": "unsynchronised",
        "captured_at": DateTime::from_millis(said_ns / 1_000_000), "captured_ns": said_ns,
    }
}
