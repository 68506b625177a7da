//! What becomes of each record: stored, counted or put aside.

use std::collections::HashMap;

use mongodb::bson::doc;
use picket_tests::process::until;
use picket_wire::observation::{EpochStart, PreviousEpoch};
use picket_wire::{CameraRecord, Outgoing, Picture, Topic, TopicNames, dead_letter};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::bench::{Bench, LIMIT, PARTITIONS, bench, complete, count, one};
use super::records::{gap, seen, skip, stamp};

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
    let captured = last.get_datetime("captured_at").unwrap();
    assert_eq!(track.get_datetime("last_seen").unwrap(), captured);
    let ingest = last.get_document("ingest").unwrap();
    let at_broker_ms = ingest.get_datetime("broker_time").unwrap().timestamp_millis();
    let ahead_ms = captured.timestamp_millis() - at_broker_ms;
    assert_eq!(camera.get_i64("clock_ahead_ms").unwrap(), ahead_ms, "it is long past");
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
fn dead_letters(bench: &Bench, key: &str) -> Vec<HashMap<String, String>> {
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
