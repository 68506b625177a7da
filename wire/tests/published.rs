//! What is published stays true: schemas, golden messages. `UPDATE_GENERATED=1` writes them anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::path::{Path, PathBuf};

use picket_wire::observation::*;
use picket_wire::status::*;
use picket_wire::track::{Change, Complete, Summary, Track};
use picket_wire::*;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn published(path: &Path, made: &str) {
    picket_service::published::check(path, made).unwrap();
}

fn id(seq: u64) -> ObservationId {
    format!("gate/north/12-0a1b2c3d/{seq}").parse().unwrap()
}

fn stamp() -> Stamp {
    Stamp {
        mono_us: 1_500_000,
        captured_at: Some("2026-01-02T03:04:05.678901234Z".parse().unwrap()),
        clock: ClockState::Synchronised,
    }
}

fn observation() -> Observation {
    let detection = Detection {
        box_px: [10.5, 20.0, 30.25, 40.0],
        score: 0.875,
        class: "face".to_owned(),
        landmarks: vec![[12.0, 25.0], [30.0, 25.5], [21.0, 35.0], [14.0, 45.0], [28.0, 45.5]],
        quality: Some(Quality {
            score: 0.5,
            size_px: 30.25,
            sharpness: 210.5,
            yaw_deg: Some(-12.5),
            roll_deg: Some(2.25),
        }),
    };
    Observation {
        id: id(7),
        stamp: stamp(),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "ab".repeat(32) },
        motion_score: Some(0.25),
        frame: FrameFate::Published,
        detections: vec![detection],
    }
}

fn status() -> Status {
    let books = Books { captured: 9, spooled: 2, acknowledged: 7, ..Books::default() };
    let camera = CameraStatus {
        state: CameraState::Running,
        problem: None,
        fps: 12.5,
        decoder: Some("avdec_h264".to_owned()),
        decoder_reason: Some("usable, and the first of the order".to_owned()),
        degraded: None,
        picture: Some(PictureState::Changing),
        last_frame_age_ms: Some(40),
        books,
    };
    Status {
        device: "gate".parse().unwrap(),
        epoch: "12-0a1b2c3d".parse().unwrap(),
        stamp: stamp(),
        agent_version: "0.1.0".to_owned(),
        config_sha256: "cd".repeat(32),
        config_problem: None,
        model: None,
        uptime_s: 60,
        link: LinkStatus { up: true, problem: None, certificate_days_left: Some(364) },
        spool: SpoolStatus {
            records: 4,
            bytes: 4096,
            cap_bytes: 1 << 30,
            oldest_age_ms: Some(20),
            month: Some("2026-11".to_owned()),
            month_bytes: 70_000,
            month_budget_bytes: Some(1 << 30),
        },
        cameras: [("north".parse().unwrap(), camera)].into(),
        temperature_c: None,
        disk_free_bytes: Some(1 << 33),
    }
}

fn samples() -> Vec<Outgoing> {
    let previous =
        PreviousEpoch { epoch: "11-ffffffff".parse().unwrap(), last_committed: 500, reserved: 512 };
    let reason = |word: &'static str| Reason::from(word);
    let records = [
        CameraRecord::Observation(observation()),
        CameraRecord::Skip(Skip {
            id: id(8),
            stamp: stamp(),
            first: 8,
            last: 10,
            reason: reason(Reason::DETECTOR_BUSY),
        }),
        CameraRecord::Gap(Gap {
            id: id(11),
            stamp: stamp(),
            first: 11,
            last: 20,
            count: 10,
            reason: reason(Reason::SPOOL_FULL),
            of: GapOf::Observations,
        }),
        CameraRecord::Epoch(EpochStart {
            id: id(0),
            stamp: stamp(),
            previous: Some(previous),
            agent_version: "0.1.0".to_owned(),
        }),
        CameraRecord::Clock(ClockRelation { id: id(0), stamp: stamp() }),
        CameraRecord::Certificate(DeviceCertificate {
            id: id(0),
            stamp: stamp(),
            chain_pem: vec!["-----BEGIN CERTIFICATE-----\n".to_owned()],
        }),
    ];
    let picture = |crop| Picture {
        id: id(7),
        crop,
        stamp: stamp(),
        width: 640,
        height: 360,
        redacted: "none".to_owned(),
        jpeg: vec![0xff, 0xd8, 0xff, 0xd9],
    };
    let mut all: Vec<_> = records.iter().map(|r| r.encode().unwrap()).collect();
    all.extend([picture(None).encode(), picture(Some(0)).encode(), status().encode().unwrap()]);
    all
}

/// What the centre tells others.
fn told() -> [Outgoing; 2] {
    let summary = Summary {
        class: "face".to_owned(),
        first_seen: stamp().captured_at,
        last_seen: None,
        first_mono_us: 1_500_000,
        last_mono_us: 1_700_000,
        last_observation: id(9).to_string(),
        observations: 3,
        best_score: 0.875,
        last_box: [10.5, 20.0, 30.25, 40.0],
    };
    let (camera, epoch) = (id(7).key, id(7).epoch);
    let track = Track {
        track: format!("{}#0", id(7)),
        camera: camera.clone(),
        epoch,
        change: Change::Update,
        rev: 12,
        is_final: false,
        replaced_by: None,
        summary: Some(summary),
    };
    let waiting_since = stamp().captured_at;
    let complete = Complete { camera, epoch, complete_until: 9, waiting_since };
    [track.encode().unwrap(), complete.encode().unwrap()]
}

fn received(message: &Outgoing) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<_> =
        message.headers.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into_bytes())).collect();
    if message.topic != Topic::Status {
        headers.push((header::LANE.to_owned(), b"live".to_vec()));
    }
    headers
}

fn kind_of(message: &Outgoing) -> &str {
    &message.headers.iter().find(|(k, _)| *k == header::KIND).unwrap().1
}

fn decode_sample(message: &Outgoing, headers: &[(String, Vec<u8>)]) -> Result<Message, Reject> {
    decode(message.topic, message.key.as_bytes(), headers, &message.value)
}

#[test]
fn each_schema_is_published_as_the_types_say() {
    for (kind, schema) in schema::all() {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        published(&folder("schemas").join(format!("{kind}.schema.json")), &text);
    }
}

#[test]
fn each_golden_message_is_written_the_same_way_and_read_back() {
    for message in samples().into_iter().chain(told()) {
        let headers: serde_json::Map<_, _> =
            message.headers.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect();
        let value = match message.topic {
            Topic::Frames => Value::from(message.value.clone()),
            _ => String::from_utf8(message.value.clone()).unwrap().into(),
        };
        let golden = serde_json::json!({
            "topic": message.topic.suffix(), "key": message.key, "headers": headers, "value": value,
        });
        let text = serde_json::to_string_pretty(&golden).unwrap() + "\n";
        published(&folder("golden/0.1").join(format!("{}.json", kind_of(&message))), &text);
    }
    for message in samples() {
        decode_sample(&message, &received(&message)).unwrap();
    }
    let [track, complete] = told();
    assert_eq!(serde_json::from_slice::<Track>(&track.value).unwrap().encode().unwrap(), track);
    let read: Complete = serde_json::from_slice(&complete.value).unwrap();
    assert_eq!(read.encode().unwrap(), complete);
}

#[test]
fn what_the_centre_tells_is_nothing_that_a_device_may_say() {
    for message in told() {
        for topic in Topic::OF_DEVICES {
            let mut headers = received(&message);
            headers.extend(received(&samples()[0]).into_iter().filter(|(name, _)| {
                [header::MONO_US, header::CAPTURED_AT, header::CLOCK].contains(&name.as_str())
            }));
            let refused = decode(topic, message.key.as_bytes(), &headers, &message.value);
            assert_eq!(refused.unwrap_err().code(), "wrong-topic", "{topic:?}");
        }
    }
}

#[test]
fn each_body_is_valid_by_its_published_schema() {
    for (kind, schema) in schema::all() {
        let validator = jsonschema::validator_for(schema.as_value()).unwrap();
        let mut all = samples().into_iter().chain(told());
        let message = all.find(|m| kind_of(m) == kind.as_str()).unwrap();
        let body: Value = serde_json::from_slice(&message.value).unwrap();
        validator.validate(&body).unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
}

#[test]
fn an_observation_reads_back_as_it_was_written() {
    let message = CameraRecord::Observation(observation()).encode().unwrap();
    let read = decode_sample(&message, &received(&message)).unwrap();
    let record = CameraRecord::Observation(observation());
    assert_eq!(read, Message::Record { lane: Lane::Live, record });
}

#[test]
fn unknown_fields_and_a_newer_minor_version_are_read() {
    let mut message = CameraRecord::Observation(observation()).encode().unwrap();
    let mut body: Value = serde_json::from_slice(&message.value).unwrap();
    body["later"] = Value::from(1);
    message.value = serde_json::to_vec(&body).unwrap();
    let mut headers = received(&message);
    headers[0].1 = b"picket.observation/1.9".to_vec();
    decode_sample(&message, &headers).unwrap();
}

#[test]
fn a_message_without_any_one_of_its_headers_is_refused() {
    for message in samples() {
        let whole = received(&message);
        for left_out in 0..whole.len() {
            let mut headers = whole.clone();
            let (name, _) = headers.remove(left_out);
            let code = decode_sample(&message, &headers).unwrap_err().code();
            assert_eq!(code, "header-missing", "{} without {name}", kind_of(&message));
        }
    }
}

#[test]
fn poison_is_refused_with_a_reason_and_never_panics() {
    let message = CameraRecord::Observation(observation()).encode().unwrap();
    let headers = received(&message);
    let with_header = |name: &str, value: &str| {
        let mut headers = headers.clone();
        headers.iter_mut().find(|(k, _)| k == name).unwrap().1 = value.as_bytes().to_vec();
        headers
    };
    let with_body = |from: &str, to: &str| {
        let text = String::from_utf8(message.value.clone()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to).into_bytes()
    };
    let key = message.key.as_bytes();
    let obs = Topic::Observations;
    let cases = [
        (decode(obs, key, &headers, b""), "empty"),
        (decode(obs, key, &headers, &[0xde, 0xad, 0xbe, 0xef]), "body-invalid"),
        (decode(obs, key, &headers, &vec![b' '; 2 << 20]), "too-large"),
        (decode(obs, key, &headers, &with_body("30.25", "NaN")), "body-invalid"),
        (decode(obs, key, &headers, &with_body("30.25", "1e30")), "out-of-range"),
        (decode(obs, key, &headers, &with_body("30.25", "-1")), "out-of-range"),
        (decode(obs, key, &headers, &with_body("0.875", "1.5")), "out-of-range"),
        (decode(obs, key, &headers, &with_body("640", "99999999")), "out-of-range"),
        (decode(obs, key, &headers, &with_body("640", "1e99")), "body-invalid"),
        (decode(obs, key, &headers, &with_body("north", "south")), "disagree"),
        (decode(obs, b"gate/south", &headers, &message.value), "disagree"),
        (decode(obs, b"\xff\xfe", &headers, &message.value), "disagree"),
        (decode(obs, key, &with_header(header::DEVICE, "shed"), &message.value), "disagree"),
        (decode(obs, key, &with_header(header::CAMERA, "south"), &message.value), "disagree"),
        (decode(obs, key, &with_header(header::MONO_US, "1"), &message.value), "disagree"),
        (
            decode(
                obs,
                key,
                &with_header(header::SCHEMA, "picket.observation/2.0"),
                &message.value,
            ),
            "unknown-major",
        ),
        (
            decode(obs, key, &with_header(header::SCHEMA, "picket.skip/1.0"), &message.value),
            "header-invalid",
        ),
        (decode(obs, key, &with_header(header::KIND, "frame"), &message.value), "header-invalid"),
        (
            decode(obs, key, &with_header(header::MONO_US, "99999999999999999999"), &message.value),
            "header-invalid",
        ),
    ];
    for (i, (result, code)) in cases.into_iter().enumerate() {
        let reject = result.expect_err(code);
        assert_eq!(reject.code(), code, "case {i}: {reject}");
    }
}

#[test]
fn a_header_that_stands_twice_is_refused() {
    for message in samples() {
        let whole = received(&message);
        for (name, _) in &whole {
            let mut headers = whole.clone();
            headers.push((name.clone(), b"other".to_vec()));
            let code = decode_sample(&message, &headers).unwrap_err().code();
            assert_eq!(code, "header-invalid", "{} with two {name}", kind_of(&message));
        }
        let mut headers = whole;
        headers.extend([("trace".to_owned(), Vec::new()), ("trace".to_owned(), Vec::new())]);
        decode_sample(&message, &headers).unwrap();
    }
}

#[test]
fn there_is_one_way_only_to_write_a_number() {
    let crop = samples().into_iter().find(|m| kind_of(m) == "crop").unwrap();
    for (name, values) in [
        (header::ID, ["gate/north/12-0a1b2c3d/7#+0", "gate/north/12-0a1b2c3d/7#00"]),
        (header::WIDTH, ["+640", "0640"]),
        (header::HEIGHT, ["+360", ""]),
        (header::MONO_US, ["+1500000", "01500000"]),
        (header::SCHEMA, ["picket.crop/+1.0", "picket.crop/1.00"]),
    ] {
        for value in values {
            let mut headers = received(&crop);
            headers.iter_mut().find(|(k, _)| k == name).unwrap().1 = value.into();
            let code = decode_sample(&crop, &headers).unwrap_err().code();
            assert_eq!(code, "header-invalid", "{name} = {value}");
        }
    }
}

#[test]
fn a_run_that_no_camera_could_fill_is_refused() {
    let run = |last| Skip { id: id(1), stamp: stamp(), first: 1, last, reason: "busy".into() };
    let gap = |last| Gap {
        id: id(1),
        stamp: stamp(),
        first: 1,
        last,
        count: last,
        reason: "busy".into(),
        of: GapOf::Observations,
    };
    for record in [CameraRecord::Skip(run(MAX_RUN)), CameraRecord::Gap(gap(MAX_RUN))] {
        let message = record.encode().unwrap();
        decode_sample(&message, &received(&message)).unwrap();
    }
    for record in [CameraRecord::Skip(run(MAX_RUN + 1)), CameraRecord::Gap(gap(MAX_RUN + 1))] {
        let message = record.encode().unwrap();
        let code = decode_sample(&message, &received(&message)).unwrap_err().code();
        assert_eq!(code, "out-of-range");
    }
}

#[test]
fn a_picture_that_is_no_jpeg_is_refused() {
    let mut message = samples().into_iter().find(|m| kind_of(m) == "frame").unwrap();
    message.value = b"GIF89a".to_vec();
    assert_eq!(decode_sample(&message, &received(&message)), Err(Reject::NotJpeg));
}

#[test]
fn books_balance_when_each_frame_is_in_one_place() {
    let mut books = status().cameras.into_values().next().unwrap().books;
    assert!(books.balanced());
    books.captured += 1;
    assert!(!books.balanced());
    books.dropped.insert(Reason::from(Reason::CRASH), 1);
    assert!(books.balanced());
}
