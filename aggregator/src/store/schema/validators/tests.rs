//! What MongoDB takes is what the readers read. The dialect is evaluated here by itself; that MongoDB
//! agrees is shown with a real one.

use mongodb::bson::{Bson, DateTime, doc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::store::checkpoints::{BrokenLog, LogMark};
use crate::store::classes::{Class, Classified, ClassifiedBy};
use crate::store::clocks::{Doing, Work};
use crate::store::documents::{CentreAccounts, Correction, DetectionDocument, TrackCorrection};
use crate::store::letters::{LetterState, LogPlace};
use crate::store::relations::{Relation, Stretch};
use crate::store::{decode, encode};

fn is_type(value: &Bson, name: &str) -> bool {
    match name {
        "object" => matches!(value, Bson::Document(_)),
        "array" => matches!(value, Bson::Array(_)),
        "string" => matches!(value, Bson::String(_)),
        "bool" => matches!(value, Bson::Boolean(_)),
        "int" => matches!(value, Bson::Int32(_)),
        "long" => matches!(value, Bson::Int64(_)),
        "double" => matches!(value, Bson::Double(_)),
        "date" => matches!(value, Bson::DateTime(_)),
        "null" => matches!(value, Bson::Null),
        other => panic!("MongoDB knows no type {other}"),
    }
}

fn is_valid(schema: &Value, value: &Bson) -> bool {
    let fields = value.as_document();
    schema.as_object().unwrap().iter().all(|(key, wants)| match key.as_str() {
        "title" | "description" => true,
        "bsonType" => match wants {
            Value::String(name) => is_type(value, name),
            names => names.as_array().unwrap().iter().any(|n| is_type(value, n.as_str().unwrap())),
        },
        "enum" => wants.as_array().unwrap().iter().any(|one| value.as_str() == one.as_str()),
        // Of what is no document nothing is required.
        "required" => fields.is_none_or(|fields| {
            wants.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        "properties" => wants.as_object().unwrap().iter().all(|(name, schema)| {
            fields.and_then(|fields| fields.get(name)).is_none_or(|field| is_valid(schema, field))
        }),
        "additionalProperties" if wants == &Value::Bool(true) => true,
        "additionalProperties" => {
            fields.is_none_or(|fields| fields.values().all(|field| is_valid(wants, field)))
        }
        "items" => value.as_array().is_none_or(|all| all.iter().all(|item| is_valid(wants, item))),
        "minItems" => {
            value.as_array().is_none_or(|all| all.len() as u64 >= wants.as_u64().unwrap())
        }
        "maxItems" => {
            value.as_array().is_none_or(|all| all.len() as u64 <= wants.as_u64().unwrap())
        }
        "pattern" => {
            let prefix = wants.as_str().unwrap().strip_prefix('^').unwrap();
            value.as_str().is_none_or(|text| text.starts_with(prefix))
        }
        "anyOf" => wants.as_array().unwrap().iter().any(|schema| is_valid(schema, value)),
        "oneOf" => {
            wants.as_array().unwrap().iter().filter(|schema| is_valid(schema, value)).count() == 1
        }
        other => panic!("MongoDB, or this test, knows no {other}"),
    })
}

/// Each document that differs in one field, at any depth.
fn spoilt(value: &Bson, spoil: &dyn Fn(&Bson) -> Option<Bson>) -> Vec<(String, Bson)> {
    let mut all = Vec::new();
    match value {
        Bson::Document(document) => {
            for (name, field) in document {
                let mut changed = document.clone();
                match spoil(field) {
                    Some(other) => _ = changed.insert(name, other),
                    None => _ = changed.remove(name),
                }
                all.push((name.clone(), changed.into()));
                for (inner, other) in spoilt(field, spoil) {
                    let mut changed = document.clone();
                    changed.insert(name, other);
                    all.push((format!("{name}.{inner}"), changed.into()));
                }
            }
        }
        Bson::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                for (inner, other) in spoilt(item, spoil) {
                    let mut changed = items.clone();
                    changed[index] = other;
                    all.push((format!("{index}.{inner}"), changed.into()));
                }
            }
        }
        _ => {}
    }
    all
}

/// Returns how many documents were compared.
fn agrees<T: Serialize + DeserializeOwned>(name: &'static str, sample: &T) -> usize {
    let validator = validator(name).unwrap();
    let schema = &validator["$jsonSchema"];
    let reads = |value: &Bson| {
        decode::<T>(name, value.as_document().unwrap().clone()).map(drop).map_err(|e| e.to_string())
    };
    let sample = Bson::from(encode(name, sample).unwrap());
    assert!(is_valid(schema, &sample), "{name}: {sample}");
    let mut compared = 0;
    for (field, document) in spoilt(&sample, &|_| None) {
        let (valid, read) = (is_valid(schema, &document), reads(&document));
        // By its kind and id MongoDB tells one sort of document from another.
        let is_told_apart = field == "kind" || field == "_id";
        assert!(
            valid == read.is_ok() || is_told_apart,
            "{name} without {field}: {valid}, {read:?}"
        );
        compared += 1;
    }
    let wrong: [fn(&Bson) -> Option<Bson>; 3] =
        [|_| Some("x".into()), |_| Some(doc! {}.into()), |_| Some(true.into())];
    for (field, document) in wrong.iter().flat_map(|wrong| spoilt(&sample, wrong)) {
        if let Err(error) = reads(&document) {
            assert!(!is_valid(schema, &document), "{name} with a wrong {field}: {error}");
            compared += 1;
        }
    }
    compared
}

fn ingest() -> Ingest {
    Ingest {
        topic: "t".to_owned(),
        partition: 1,
        offset: 2,
        broker_time: DateTime::MIN,
        stored_at: DateTime::MIN,
        expire_at: DateTime::MIN,
        relations: Some(1),
        again: Some(true),
    }
}

fn correction() -> Correction {
    Correction {
        device_captured_at: Some(DateTime::MIN),
        device_captured_ns: Some(1),
        by_clock: "synchronised".to_owned(),
    }
}

fn text() -> String {
    "a".to_owned()
}

fn labels() -> (Vec<Class>, ClassifiedBy) {
    let by = ClassifiedBy { model: text(), model_sha256: text(), picture_sha256: text() };
    (vec![Class { label: text(), confidence: 0.5 }], by)
}

#[test]
fn mongodb_tells_of_data_that_readers_cannot_read_and_of_no_other() {
    let (classes, classified_by) = labels();
    let detection = DetectionDocument {
        box_px: [1.0; 4],
        score: 0.5,
        class: text(),
        landmarks: vec![[1.0, 2.0]],
        quality: None,
        track: Some(text()),
    };
    let observation = ObservationDocument {
        id: text(),
        kind: "observation".to_owned(),
        device: text(),
        camera: text(),
        epoch: text(),
        seq: 1,
        captured_at: Some(DateTime::MIN),
        captured_ns: None,
        mono_us: 1,
        clock: text(),
        corrected: Some(correction()),
        frame_width: 1,
        frame_height: 1,
        detector: text(),
        model_sha256: text(),
        motion_score: Some(0.5),
        frame: text(),
        detections: vec![detection],
        late: false,
        is_final: true,
        digest: text(),
        classes: Some(classes),
        classified_by: Some(classified_by),
        ingest: ingest(),
    };
    assert!(agrees(collection::OBSERVATIONS, &observation) > 80);
    let track = TrackDocument {
        id: text(),
        device: text(),
        camera: text(),
        epoch: text(),
        class: text(),
        first_seen: Some(DateTime::MIN),
        first_mono_us: 1,
        last_seen: None,
        last_mono_us: 1,
        first_clock: None,
        last_clock: Some(text()),
        corrected: Some(TrackCorrection { device_first_seen: None, device_last_seen: None }),
        first_observation: text(),
        last_observation: text(),
        observations: 1,
        best_score: 0.5,
        last_box: [1.0; 4],
        state: text(),
        is_final: true,
        replaced_by: Some(text()),
        rev: 1,
        ingest: ingest(),
    };
    assert!(agrees(collection::TRACKS, &track) > 50);
    let frame = FrameDocument {
        id: text(),
        kind: text(),
        observation: text(),
        device: text(),
        camera: text(),
        captured_at: Some(DateTime::MIN),
        captured_ns: Some(1),
        epoch: text(),
        mono_us: 1,
        clock: text(),
        corrected: None,
        width: 1,
        height: 1,
        redacted: text(),
        path: text(),
        bytes: 1,
        digest: text(),
        ingest: ingest(),
    };
    assert!(agrees(collection::FRAMES, &frame) > 40);
    let device = DeviceDocument { id: text(), status: doc! { "any": 1 }, ingest: ingest() };
    assert!(agrees(collection::DEVICES, &device) > 15);
    let letter = LetterDocument {
        id: text(),
        camera: Some(text()),
        reason: text(),
        counted: true,
        state: LetterState::Retried,
        to: Some(LogPlace { topic: text(), partition: 1, offset: 2 }),
        arrived: None,
        changed_at: DateTime::MIN,
        expire_at: DateTime::MIN,
    };
    assert!(agrees(collection::DEAD_LETTERS, &letter) > 15);
    let (classes, classified_by) = labels();
    let classified = Classified { id: text(), classes, classified_by };
    assert!(agrees(collection::UNCLAIMED_CLASSES, &Waiting::new(classified, 1)) > 20);
}

#[test]
fn mongodb_refuses_books_that_readers_cannot_read_and_no_others() {
    let accounts = CentreAccounts { stored: 1, ..CentreAccounts::default() };
    let camera = CameraDocument {
        id: text(),
        device: text(),
        camera: text(),
        newest_observation: Some(text()),
        newest_captured_at: Some(DateTime::MIN),
        epoch: Some(text()),
        complete_until: 1,
        waiting_since: None,
        clock_ahead_ms: Some(1),
        accounts: accounts.clone(),
        rev: 1,
    };
    assert!(agrees(collection::CAMERAS, &camera) > 30);
    let ledger = LedgerDocument {
        id: text(),
        device: text(),
        camera: text(),
        accounted: vec![[1, 2]],
        given_up: vec![[3, 4]],
        accounts,
    };
    assert!(agrees(collection::LEDGER, &ledger) > 20);
    let doing = Doing { stretch: Stretch { from_us: 1, to_us: 2 }, number: 3 };
    let clock = picket_wire::observation::ClockState::Synchronised;
    let clocks = ClockDocument {
        id: text(),
        device: text(),
        camera: text(),
        epoch: text(),
        relations: vec![Relation { mono_us: 1, offset_us: 2, clock }],
        due: Some(Work { doing: Some(doing) }),
        pictures_due: None,
    };
    assert!(agrees(collection::CLOCKS, &clocks) > 25);
    let broken =
        BrokenLog { state: text(), from_offset: 1, to_offset: 2, noticed_at: DateTime::MIN };
    let partition = PartitionCheckpoint {
        id: "partition/t/0".to_owned(),
        topic: text(),
        partition: 0,
        next_offset: Some(1),
        owner_epoch: 1,
        owner: text(),
        cluster: Some(text()),
        newest_at: Some(DateTime::MIN),
        mark: Some(LogMark { offset: 1, newest_at: DateTime::MIN }),
        log_since: 1,
        broken: vec![broken],
    };
    assert!(agrees(collection::CHECKPOINTS, &partition) > 20);
    let camera = CameraCheckpoint {
        id: "camera/a/b".to_owned(),
        topic: text(),
        partition: 0,
        next_offset: 1,
        owner_epoch: 1,
        waits: true,
        state: Bson::Int32(1),
    };
    assert!(agrees(collection::CHECKPOINTS, &camera) > 12);
    let runs = RunsCheckpoint {
        id: "runs/a/b/1-00000000".to_owned(),
        topic: text(),
        partition: 0,
        owner_epoch: 1,
        tracker_version: 1,
        tracker_settings: text(),
        state: Bson::Int32(1),
    };
    assert!(agrees(collection::CHECKPOINTS, &runs) > 12);
}

#[test]
fn what_an_unknown_later_build_adds_is_valid_and_so_are_the_other_records_of_the_log() {
    let schema = &validator(collection::OBSERVATIONS).unwrap()["$jsonSchema"];
    let ingest = encode(collection::OBSERVATIONS, &ingest()).unwrap();
    let gap = doc! {
        "_id": "a/b/1-00000000/4~gap-horizon", "kind": "gap", "device": "a", "camera": "b",
        "epoch": "1-00000000", "seq": 4_i64, "ingest": ingest, "of_a_later_build": [1],
    };
    assert!(is_valid(schema, &gap.clone().into()));
    let mut unknown = gap;
    unknown.insert("kind", "nobody knows");
    assert!(!is_valid(schema, &unknown.into()));
}
