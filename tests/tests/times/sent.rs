//! Records as a device sends them, in any order.

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use picket_tests::faults::{Bench, LIMIT, on_bench};
use picket_tests::fleet::Fleet;
use picket_tests::topics::headers;
use picket_wire::header::Lane;
use picket_wire::observation::{
    ClockRelation, ClockState, Detection, Detector, EpochStart, FrameFate, Observation, Stamp,
};
use picket_wire::{CameraRecord, Outgoing, Picture, TopicNames};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{RIGHT_US, WRONG_US, wait_for_corrected, wait_for_count};

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
        let headers = headers(message, Lane::Live);
        let topic = self.topics.name(message.topic);
        let record = FutureRecord::to(&topic).key(&message.key).payload(&message.value);
        self.producer.send(record.headers(headers), LIMIT).await.unwrap();
    }
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
fn after_a_new_start_of_the_agent_and_of_the_aggregator_the_newest_time_of_a_camera_stays_right() {
    on_bench(async |bench: &mut Bench| {
        let key = "again/north";
        let device = Device::enrol(&bench.fleet, "again").await;
        device.send(&picture(key, 1)).await;
        device.send(&seen(key, 1)).await;
        device.send(&set(key, 1)).await;
        let newest = DateTime::from_millis((RIGHT_US + 100_000) / 1000);
        let newest = doc! { "_id": key, "newest_captured_at": newest };
        wait_for_count(&bench.fleet, "cameras", newest.clone(), 1).await;
        // The next owner has nothing in memory, and the record that it begins with is of another epoch.
        bench.fleet.aggregator.kill()?;
        bench.fleet.restart_aggregator().await?;
        let start = CameraRecord::Epoch(EpochStart {
            id: format!("{key}/2-0a1b2c3e/0").parse()?,
            stamp: stamp(0, None, ClockState::Unset),
            previous: None,
            agent_version: "0.1.0".to_owned(),
        });
        device.send(&start.encode()?).await;
        let entered = doc! { "_id": key, "epoch": "2-0a1b2c3e" };
        wait_for_count(&bench.fleet, "cameras", entered.clone(), 1).await;
        let cameras = bench.fleet.database.collection::<Document>("cameras");
        let stays = cameras.find_one(newest.clone()).await?;
        assert!(stays.is_some(), "{:?}", cameras.find_one(entered).await?);
        // Nor does the clock of the new start, which was set a day later, tell anything of it.
        let later = CameraRecord::Clock(ClockRelation {
            id: format!("{key}/2-0a1b2c3e/1").parse()?,
            stamp: stamp(1, Some(RIGHT_US + 86_400_000_000), ClockState::Synchronised),
        });
        device.send(&later.encode()?).await;
        let next = doc! { "_id": key, "rev": { "$gt": stays.unwrap().get_i64("rev")? } };
        wait_for_count(&bench.fleet, "cameras", next, 1).await;
        assert!(cameras.find_one(newest).await?.is_some(), "by the clock of another start");
        Ok(())
    })
    .unwrap();
}
