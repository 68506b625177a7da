//! Whatever the order in which a camera's records come, what is final in the end is the same.

use std::collections::HashMap;

use mongodb::bson::Document;
use picket_wire::CameraRecord;
use picket_wire::observation::{
    ClockState, Detection as Seen, Detector, EpochStart, FrameFate, Gap, GapOf, Observation,
    PreviousEpoch, Reason, Skip, Stamp,
};

use super::super::camera::{Camera, Changes, Known};
use crate::consume::provisional::StoredObservation;
use crate::consume::runs::Stretch;
use crate::store::bulk::Update;
use crate::store::{decode, encode};
use crate::track::Settings;
use crate::upsert::{self, Origin, Retention};

const HOUR_MS: i64 = 60 * 60 * 1000;
const FIRST: &str = "1-00000001";
const SECOND: &str = "2-00000002";
const THIRD: &str = "3-00000003";
/// Read back at a time: few, so that it takes several turns.
const READ_BACK: usize = 7;

/// A generator without a crate: the tests need variety, not quality.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn id(epoch: &str, seq: u64) -> picket_wire::ObservationId {
    format!("gate/north/{epoch}/{seq}").parse().unwrap()
}

fn stamp(seq: u64) -> Stamp {
    let captured_at = jiff::Timestamp::from_second(1_700_000_000 + seq as i64).ok();
    Stamp { mono_us: seq * 200_000, captured_at, clock: ClockState::Synchronised }
}

fn observation(epoch: &str, seq: u64, boxes: &[[f32; 4]]) -> CameraRecord {
    let detection = |box_px: &[f32; 4]| Seen {
        box_px: *box_px,
        score: 0.9,
        class: "face".to_owned(),
        landmarks: Vec::new(),
        quality: None,
    };
    CameraRecord::Observation(Observation {
        id: id(epoch, seq),
        stamp: stamp(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: String::new() },
        motion_score: None,
        frame: FrameFate::Withheld,
        detections: boxes.iter().map(detection).collect(),
    })
}

fn skip(epoch: &str, first: u64, last: u64) -> CameraRecord {
    let reason = "no-motion".to_owned().try_into().unwrap();
    CameraRecord::Skip(Skip { id: id(epoch, first), stamp: stamp(first), first, last, reason })
}

fn gap(epoch: &str, first: u64, last: u64) -> CameraRecord {
    CameraRecord::Gap(Gap {
        id: id(epoch, first),
        stamp: stamp(first),
        first,
        last,
        count: last - first + 1,
        reason: Reason::SPOOL_FULL.into(),
        of: GapOf::Observations,
    })
}

fn start(epoch: &str, previous: Option<(&str, u64)>) -> CameraRecord {
    CameraRecord::Epoch(EpochStart {
        id: id(epoch, 0),
        stamp: stamp(0),
        previous: previous.map(|(epoch, last)| PreviousEpoch {
            epoch: epoch.parse().unwrap(),
            last_committed: last,
            reserved: last,
        }),
        agent_version: "0.1.0".to_owned(),
    })
}

/// What a camera captures in an epoch: faces that cross, are missed at times, and stretches in which
/// nobody looked or which were dropped.
fn epoch(
    name: &str,
    previous: Option<(&str, u64)>,
    length: u64,
    chance: &mut Chance,
) -> Vec<CameraRecord> {
    let mut records = vec![start(name, previous)];
    let mut seq = 1;
    while seq <= length {
        let run = chance.below(8).min(length - seq);
        match chance.below(12) {
            0 => records.push(skip(name, seq, seq + run)),
            1 => records.push(gap(name, seq, seq + run)),
            _ => {
                let at = seq as f32;
                let all = [
                    [10.0 + 15.0 * at, 100.0, 60.0, 80.0],
                    [600.0 - 15.0 * at, 110.0, 60.0, 80.0],
                    [300.0, 5.0 * at, 50.0, 60.0],
                ];
                let seen: Vec<_> = all.into_iter().filter(|_| chance.below(5) > 0).collect();
                records.push(observation(name, seq, &seen));
                seq += 1;
                continue;
            }
        }
        seq += run + 1;
    }
    records
}

/// A camera and what of it is stored.
struct Centre {
    camera: Camera,
    observations: HashMap<String, Document>,
    tracks: HashMap<String, Document>,
    offset: i64,
    now_ms: i64,
}

impl Centre {
    fn new() -> Self {
        let retention = Retention { observations_days: 1, frames_days: 1, tracks_days: 1 };
        let key = "gate/north".parse().unwrap();
        Self {
            camera: Camera::new(key, Settings::default(), retention, HOUR_MS),
            observations: HashMap::new(),
            tracks: HashMap::new(),
            offset: 0,
            now_ms: 1_000_000,
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            topic: "picket.observations".to_owned(),
            partition: 0,
            offset: self.offset,
            broker_time_ms: self.now_ms,
            stored_at_ms: self.now_ms,
        }
    }

    fn take(&mut self, record: &CameraRecord) {
        let digest = "digest";
        let stored = self.observations.get(&upsert::document_id(record, digest));
        let known = stored.map(|document| {
            let at = document.get_document("ingest").unwrap();
            Known {
                digest: digest.to_owned(),
                topic: at.get_str("topic").unwrap().to_owned(),
                partition: 0,
                offset: at.get_i64("offset").unwrap(),
                broker_time_ms: at.get_datetime("broker_time").unwrap().timestamp_millis(),
            }
        });
        let (origin, mut changes) = (self.origin(), Changes::default());
        self.camera.take(record, digest, &origin, known.as_ref(), &mut changes).unwrap();
        self.write(changes);
        self.offset += 1;
        self.now_ms += 10;
    }

    /// As MongoDB would.
    fn write(&mut self, changes: Changes) {
        for document in changes.records {
            let document = Document::try_from(document).unwrap();
            let id = document.get_str("_id").unwrap().to_owned();
            self.observations.entry(id).or_insert(document);
        }
        for (id, track) in changes.tracks {
            let new = encode("tracks", &track).unwrap();
            let rev = |d: &Document| d.get_i64("rev").unwrap();
            if self.tracks.get(&id).is_none_or(|old| rev(old) <= rev(&new)) {
                self.tracks.insert(id, new);
            }
        }
        changes.replaced.iter().for_each(|replaced| set(&mut self.tracks, &replaced.update()));
        changes.retracked.iter().for_each(|update| set(&mut self.observations, update));
    }

    /// A turn of reading back; whether there was anything.
    fn read_back(&mut self) -> bool {
        let Some((epoch, stretch)) = self.camera.behind() else { return false };
        let is_in = |d: &&Document| {
            let seq = d.get_i64("seq").unwrap().unsigned_abs();
            d.get_str("kind").unwrap() == "observation"
                && d.get_str("epoch").unwrap() == epoch.to_string()
                && !d.get_bool("late").unwrap()
                && (stretch.after + 1..=stretch.until).contains(&seq)
        };
        let mut found: Vec<_> = self.observations.values().filter(is_in).cloned().collect();
        found.sort_by_key(|d| d.get_i64("seq").unwrap());
        found.truncate(READ_BACK);
        let last = found.last().filter(|_| found.len() == READ_BACK);
        let until = last.map_or(stretch.until, |d| d.get_i64("seq").unwrap().unsigned_abs());
        let found: Vec<StoredObservation> =
            found.into_iter().map(|d| decode("observations", d).unwrap()).collect();
        let (origin, mut changes) = (self.origin(), Changes::default());
        let stretch = Stretch { until, ..stretch };
        self.camera.read_back((epoch, stretch), &found, &origin, &mut changes);
        self.write(changes);
        true
    }

    /// What is final, without what may differ between two runs.
    fn finals(&self) -> (Vec<Document>, Vec<Document>) {
        let told = |documents: &HashMap<String, Document>, is_told: fn(&Document) -> bool| {
            let mut told: Vec<_> = documents.values().filter(|d| is_told(d)).cloned().collect();
            for document in &mut told {
                document.remove("ingest");
            }
            told.sort_by_key(|d| d.get_str("_id").unwrap().to_owned());
            told
        };
        let observed = told(&self.observations, |d| d.get_str("kind").unwrap() == "observation");
        (observed, told(&self.tracks, |d| d.get_str("state").unwrap() != "replaced"))
    }
}

/// The first document that differs is enough to see.
fn assert_same(calm: &Centre, centre: &Centre, seed: u64) {
    let (calm, centre) = (calm.finals(), centre.finals());
    for (calm, centre) in [(calm.0, centre.0), (calm.1, centre.1)] {
        let ids = |all: &[Document]| -> Vec<String> {
            all.iter().map(|d| d.get_str("_id").unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&centre), ids(&calm), "seed {seed}");
        for (calm, centre) in calm.iter().zip(&centre) {
            assert_eq!(centre, calm, "seed {seed}");
        }
    }
}

fn set(documents: &mut HashMap<String, Document>, update: &Update) {
    let id = update.filter.get_str("_id").unwrap();
    let Some(document) = documents.get_mut(id) else { return };
    if let Ok(is_final) = update.filter.get_bool("final")
        && document.get_bool("final").unwrap() != is_final
    {
        return;
    }
    for (name, value) in update.change.as_document().unwrap().get_document("$set").unwrap() {
        match name.split('.').collect::<Vec<_>>()[..] {
            ["detections", index, "track"] => {
                let index: usize = index.parse().unwrap();
                let detections = document.get_array_mut("detections").unwrap();
                detections[index].as_document_mut().unwrap().insert("track", value.clone());
            }
            ["ingest", name] => {
                document.get_document_mut("ingest").unwrap().insert(name, value.clone());
            }
            _ => {
                document.insert(name, value.clone());
            }
        }
    }
}

fn two_epochs(chance: &mut Chance) -> Vec<CameraRecord> {
    let mut records = epoch(FIRST, None, 60, chance);
    records.extend(epoch(SECOND, Some((FIRST, 60)), 40, chance));
    records.push(start(THIRD, Some((SECOND, 40))));
    records
}

/// The same records as a link that comes and goes delivers them: what is captured while it is down goes
/// out as backlog once it is up, beside what is live, and each lane in order.
fn over_a_flapping_link(records: &[CameraRecord], chance: &mut Chance) -> Vec<CameraRecord> {
    let (mut delivered, mut backlog) = (Vec::new(), std::collections::VecDeque::new());
    let mut is_up = chance.below(2) == 0;
    for record in records {
        if chance.below(9) == 0 {
            is_up = !is_up;
        }
        if !is_up {
            backlog.push_back(record.clone());
            continue;
        }
        delivered.push(record.clone());
        for _ in 0..chance.below(3) {
            delivered.extend(backlog.pop_front());
        }
    }
    delivered.extend(backlog);
    delivered
}

#[test]
fn final_tracks_are_those_of_a_run_without_the_outages_however_the_link_flaps() {
    let mut replaced = 0;
    for seed in 0..300 {
        let mut chance = Chance(seed);
        let records = two_epochs(&mut chance);
        let mut calm = Centre::new();
        records.iter().for_each(|record| calm.take(record));
        assert!(!calm.read_back() && calm.camera.place.open.is_empty(), "nothing was missing");

        let mut centre = Centre::new();
        for record in over_a_flapping_link(&records, &mut chance) {
            centre.take(&record);
            if chance.below(4) == 0 {
                centre.read_back();
            }
            let states = centre.camera.runs.values().filter(|runs| runs.live.is_some()).count();
            assert!(states <= 2, "seed {seed}: {states} live runs");
        }
        while centre.read_back() {}
        assert_same(&calm, &centre, seed);
        assert!(centre.camera.place.open.is_empty(), "seed {seed}");
        let is_replaced = |d: &&Document| d.get_str("state").unwrap() == "replaced";
        for provisional in centre.tracks.values().filter(is_replaced) {
            replaced += 1;
            if let Ok(successor) = provisional.get_str("replaced_by") {
                let successor = &centre.tracks[successor];
                assert!(!is_replaced(&successor), "seed {seed}: {provisional}");
            }
        }
    }
    assert!(replaced > 300, "only {replaced} provisional tracks were ever replaced");
}

#[test]
fn a_crash_at_any_point_changes_nothing_of_what_is_final() {
    for seed in 0..600 {
        let mut chance = Chance(seed);
        let records = two_epochs(&mut chance);
        let mut calm = Centre::new();
        records.iter().for_each(|record| calm.take(record));

        let delivered = over_a_flapping_link(&records, &mut chance);
        let mut centre = Centre::new();
        let (mut next, mut crashes) = (0, 0);
        while next < delivered.len() {
            // A batch: its documents are written, its end perhaps not.
            let (before, offset, now_ms) = (centre.camera.clone(), centre.offset, centre.now_ms);
            let count = 1 + chance.below(20) as usize;
            for record in delivered.iter().skip(next).take(count) {
                if chance.below(6) == 0 {
                    centre.read_back();
                }
                centre.take(record);
            }
            if chance.below(3) == 0 && crashes < 20 {
                crashes += 1;
                (centre.camera, centre.offset, centre.now_ms) = (before, offset, now_ms);
            } else {
                next += count;
            }
        }
        while centre.read_back() {}
        assert_same(&calm, &centre, seed);
    }
}

fn moving(name: &str, seqs: impl Iterator<Item = u64>) -> Vec<CameraRecord> {
    let at = |seq: u64| [100.0 + seq as f32, 100.0, 80.0, 90.0];
    seqs.map(|seq| observation(name, seq, &[at(seq)])).collect()
}

#[test]
fn what_is_live_is_tracked_at_once_and_says_that_it_is_provisional() {
    let mut centre = Centre::new();
    for record in moving(FIRST, (1..=5).chain(10..=12)) {
        centre.take(&record);
    }
    let track = |centre: &Centre, seq: u64| {
        let document = &centre.observations[&id(FIRST, seq).to_string()];
        let detection = document.get_array("detections").unwrap()[0].as_document().unwrap();
        (detection.get_str("track").unwrap().to_owned(), document.get_bool("final").unwrap())
    };
    let of_first = format!("{}#0", id(FIRST, 1));
    assert_eq!(track(&centre, 12), (of_first.clone(), false));
    assert_eq!(centre.camera.complete_until(), 5);
    assert!(centre.camera.waiting_since_ms().is_some());
    centre.take(&gap(FIRST, 6, 9));
    while centre.read_back() {}
    assert_eq!(track(&centre, 12), (of_first, true));
    assert_eq!(centre.camera.complete_until(), 12);
    assert_eq!(centre.camera.waiting_since_ms(), None);
}

#[test]
fn what_is_missing_for_longer_than_the_horizon_is_given_up_and_late_when_it_comes() {
    let mut centre = Centre::new();
    for record in moving(FIRST, (1..=5).chain(10..=12)) {
        centre.take(&record);
    }
    centre.now_ms += HOUR_MS;
    let records = moving(FIRST, 6..=7).into_iter().chain(moving(FIRST, 13..=14));
    records.for_each(|record| centre.take(&record));
    while centre.read_back() {}
    let document = |seq| &centre.observations[&id(FIRST, seq).to_string()];
    assert!([6, 7].iter().all(|seq| document(*seq).get_bool("late").unwrap()));
    assert!((8..=9).all(|seq| !centre.observations.contains_key(&id(FIRST, seq).to_string())));
    assert!((10..=14).all(|seq| document(seq).get_bool("final").unwrap()));
    let told = &centre.observations[&format!("{}~gap-horizon", id(FIRST, 6))];
    assert_eq!((told.get_i64("first").unwrap(), told.get_i64("last").unwrap()), (6, 9));
    assert_eq!(centre.camera.complete_until(), 14);
    assert_eq!(centre.camera.accounts.dropped.len(), 0, "it may still come");
    let accounts = |centre: &Centre| (centre.camera.accounts.given_up, centre.camera.accounts.late);
    assert_eq!(accounts(&centre), (2, 2), "8 and 9, 6 and 7");
    centre.take(&gap(FIRST, 8, 9));
    assert_eq!(accounts(&centre), (0, 2), "somebody has told why");
    assert_eq!(centre.camera.accounts.dropped["spool-full"], 2);
    assert_eq!(centre.camera.ledgers[&FIRST.parse().unwrap()].accounts, centre.camera.accounts);
}

#[test]
fn what_was_put_aside_is_not_counted_as_given_up_too() {
    let mut centre = Centre::new();
    moving(FIRST, 1..=5).iter().for_each(|record| centre.take(record));
    let (origin, mut changes) = (centre.origin(), Changes::default());
    centre.camera.pass_aside(&id(FIRST, 8), &origin, &mut changes);
    centre.write(changes);
    moving(FIRST, 10..=12).iter().for_each(|record| centre.take(record));
    centre.now_ms += HOUR_MS;
    moving(FIRST, 13..=13).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    assert_eq!(centre.camera.complete_until(), 13);
    assert_eq!(centre.camera.accounts.given_up, 3, "6, 7 and 9");
}

#[test]
fn the_ledger_of_an_epoch_of_which_every_second_number_is_missing_is_bounded() {
    let mut centre = Centre::new();
    let last = 2 * 20_100;
    for seq in (1..=last).step_by(2) {
        centre.take(&skip(FIRST, seq, seq));
    }
    let ledger = &centre.camera.ledgers[&FIRST.parse().unwrap()];
    assert_eq!(ledger.accounted.as_slice().len(), 20_000);
    assert_eq!(ledger.accounted.complete_until(), 2 * 100 + 1);
    assert_eq!((ledger.accounts.skipped, ledger.accounts.given_up), (20_100, 100));
    // What comes of it after all is neither counted nor stored.
    let before = centre.camera.accounts.clone();
    centre.take(&skip(FIRST, 2, 2));
    assert_eq!(centre.camera.accounts, before);
}

#[test]
fn what_was_refused_is_not_counted_as_given_up_when_the_ledger_is_full() {
    let mut centre = Centre::new();
    for seq in 1..=2 * 20_100 {
        if seq % 2 == 0 {
            let (origin, mut changes) = (centre.origin(), Changes::default());
            centre.camera.pass_aside(&id(FIRST, seq), &origin, &mut changes);
        } else {
            centre.take(&skip(FIRST, seq, seq));
        }
    }
    let ledger = &centre.camera.ledgers[&FIRST.parse().unwrap()];
    assert_eq!(ledger.accounted.as_slice().len(), 20_000);
    assert_eq!((ledger.accounts.skipped, ledger.accounts.given_up), (20_100, 0));
}

#[test]
fn holes_are_given_up_each_in_its_own_time() {
    let mut centre = Centre::new();
    moving(FIRST, (1..=2).chain(5..=6)).iter().for_each(|record| centre.take(record));
    centre.now_ms += HOUR_MS / 2;
    moving(FIRST, 9..=10).iter().for_each(|record| centre.take(record));
    centre.now_ms += HOUR_MS / 2;
    moving(FIRST, 11..=11).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    assert_eq!(centre.camera.complete_until(), 6, "7 and 8 have half an hour left");
    moving(FIRST, 7..=8).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    assert_eq!(centre.camera.complete_until(), 11);
}

#[test]
fn a_dead_letter_is_not_waited_for() {
    let mut centre = Centre::new();
    moving(FIRST, 1..=5).iter().for_each(|record| centre.take(record));
    let (origin, mut changes) = (centre.origin(), Changes::default());
    centre.camera.pass_aside(&id(FIRST, 6), &origin, &mut changes);
    centre.write(changes);
    moving(FIRST, 7..=9).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.complete_until(), 9);
    assert!(centre.observations.values().all(|d| d.get_bool("final").unwrap()));
}

#[test]
fn an_epoch_of_which_something_is_missing_does_not_keep_the_next_one_waiting() {
    let mut centre = Centre::new();
    moving(FIRST, (1..=3).chain(7..=9)).iter().for_each(|record| centre.take(record));
    centre.take(&start(SECOND, Some((FIRST, 9))));
    moving(SECOND, 1..=4).iter().for_each(|record| centre.take(record));
    let is_final = |id: &str| centre.tracks[id].get_bool("final").unwrap();
    assert!(is_final(&format!("{}#0", id(SECOND, 1))));
    let first = &centre.tracks[&format!("{}#0", id(FIRST, 1))];
    assert_eq!(first.get_str("state").unwrap(), "ended");
    assert_eq!(centre.camera.place.open.len(), 1);
    moving(FIRST, 4..=6).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    let first = &centre.tracks[&format!("{}#0", id(FIRST, 1))];
    assert_eq!(
        (first.get_str("state").unwrap(), first.get_i64("observations").unwrap()),
        ("ended", 9)
    );
    assert!(centre.camera.place.open.is_empty());
}

#[test]
fn a_box_that_was_set_up_anew_is_tracked_and_what_came_before_ends_after_the_horizon() {
    let mut centre = Centre::new();
    centre.take(&start(SECOND, Some((FIRST, 0))));
    moving(SECOND, 1..=3).iter().for_each(|record| centre.take(record));
    centre.take(&start("1-0000000b", None));
    moving("1-0000000b", 1..=3).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.place.epoch, "1-0000000b".parse().ok());
    assert_eq!(centre.camera.complete_until(), 3);
    moving(SECOND, 4..=5).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.place.epoch, "1-0000000b".parse().ok(), "that was left for good");
    let old: &crate::consume::runs::EpochRuns = &centre.camera.runs[&SECOND.parse().unwrap()];
    assert_eq!(old.finals.until, 5, "what was carried here by hand is tracked");
    centre.now_ms += HOUR_MS;
    moving("1-0000000b", 4..=4).iter().for_each(|record| centre.take(record));
    assert!(centre.camera.runs[&SECOND.parse().unwrap()].is_over);
    assert!(centre.camera.place.open.is_empty());
}

#[test]
fn of_too_many_epochs_that_wait_the_oldest_is_given_up_and_nothing_grows_without_end() {
    let mut centre = Centre::new();
    for n in 1..=40_u64 {
        let name = format!("{n}-{n:08x}");
        moving(&name, (1..=3).chain(6..=20)).iter().for_each(|record| centre.take(record));
    }
    let waits = centre.camera.place.open.iter().filter(|open| open.since_ms > i64::MIN).count();
    assert_eq!(waits, super::MOST_OPEN);
    // Each turn reads a part of one back, and the next record gives up what is overdue.
    for seq in 21..=200 {
        centre.read_back();
        moving("40-00000028", seq..=seq).iter().for_each(|record| centre.take(record));
    }
    assert_eq!(centre.camera.place.open.len(), super::MOST_OPEN, "{:?}", centre.camera.place.open);
    let runs = |epoch: &str| centre.camera.runs[&epoch.parse().unwrap()].clone();
    let first = runs("1-00000001");
    assert!(first.is_over && first.finals.until == 20, "{first:?}");
    let newest = runs("40-00000028");
    assert_eq!(
        newest.live.as_ref().map(|live| live.until),
        Some(200),
        "it is tracked all the while"
    );
    assert_eq!(runs("39-00000027").finals.until, 3, "it still waits");
    assert!(centre.camera.waiting_since_ms().is_some_and(|since| since > 0));
}

#[test]
fn what_comes_of_more_epochs_than_can_wait_grows_nothing_without_end() {
    let mut centre = Centre::new();
    for n in 1..=500_u64 {
        let name = format!("{n}-{n:08x}");
        moving(&name, [1, 3].into_iter()).iter().for_each(|record| centre.take(record));
    }
    assert!(centre.camera.place.open.len() <= super::MOST_READ_BACK);
}

#[test]
fn the_first_epoch_of_a_box_that_was_offline_may_come_after_the_one_that_is_live() {
    let mut centre = Centre::new();
    centre.take(&start(SECOND, Some((FIRST, 5))));
    moving(SECOND, 1..=3).iter().for_each(|record| centre.take(record));
    centre.take(&start(FIRST, None));
    moving(FIRST, 1..=5).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.place.epoch, SECOND.parse().ok());
    assert!(centre.camera.runs[&FIRST.parse().unwrap()].is_over);
    centre.now_ms += 2 * HOUR_MS;
    moving(SECOND, 4..=6).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.complete_until(), 6, "it is tracked on beyond the horizon");
    let newest = centre.camera.place.newest.as_ref().unwrap();
    assert_eq!(newest.id, id(SECOND, 6).to_string());
}

#[test]
fn of_three_epochs_the_newest_may_come_first() {
    let mut centre = Centre::new();
    centre.take(&start(THIRD, Some((SECOND, 2))));
    moving(THIRD, 1..=2).iter().for_each(|record| centre.take(record));
    centre.take(&start(FIRST, None));
    moving(FIRST, 1..=2).iter().for_each(|record| centre.take(record));
    centre.take(&start(SECOND, Some((FIRST, 2))));
    moving(SECOND, 1..=2).iter().for_each(|record| centre.take(record));
    assert_eq!(centre.camera.place.epoch, THIRD.parse().ok());
    let is_over = |epoch: &str| centre.camera.runs[&epoch.parse().unwrap()].is_over;
    assert!(is_over(FIRST) && is_over(SECOND) && !is_over(THIRD));
    assert!(centre.camera.place.open.is_empty());
}

#[test]
fn an_epoch_that_was_never_the_newest_is_waited_for_and_given_up() {
    let mut centre = Centre::new();
    centre.take(&start(THIRD, Some((SECOND, 100))));
    moving(THIRD, 1..=3).iter().for_each(|record| centre.take(record));
    centre.take(&start(SECOND, Some((FIRST, 0))));
    moving(SECOND, 1..=50).iter().for_each(|record| centre.take(record));
    assert!(centre.camera.waiting_since_ms().is_some(), "51 to 100 are on a box that burnt");
    centre.now_ms += HOUR_MS;
    moving(THIRD, 4..=4).iter().for_each(|record| centre.take(record));
    assert!(centre.camera.runs[&SECOND.parse().unwrap()].is_over);
    let told = &centre.observations[&format!("{}~gap-horizon", id(SECOND, 51))];
    assert_eq!(told.get_i64("last").unwrap(), 100);
}

#[test]
fn a_dead_letter_that_is_put_back_is_late_even_before_what_is_missing_has_come() {
    let mut centre = Centre::new();
    moving(FIRST, 1..=5).iter().for_each(|record| centre.take(record));
    let (origin, mut changes) = (centre.origin(), Changes::default());
    centre.camera.pass_aside(&id(FIRST, 9), &origin, &mut changes);
    centre.write(changes);
    moving(FIRST, [9, 6, 7, 8, 10].into_iter()).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    assert_eq!(centre.camera.complete_until(), 10);
    let document = |seq| &centre.observations[&id(FIRST, seq).to_string()];
    assert!(document(9).get_bool("late").unwrap());
    assert!((1..=10).all(|seq| document(seq).get_bool("final").unwrap()));
}

#[test]
fn what_a_copied_card_went_on_with_beyond_the_end_is_final_too() {
    let mut centre = Centre::new();
    moving(FIRST, (1..=80).chain(91..=99)).iter().for_each(|record| centre.take(record));
    centre.take(&start(SECOND, Some((FIRST, 50))));
    moving(FIRST, 81..=90).iter().for_each(|record| centre.take(record));
    while centre.read_back() {}
    let of_first = centre.observations.values().filter(|d| d.get_str("epoch").unwrap() == FIRST);
    assert!(
        of_first
            .filter(|d| d.get_str("kind").unwrap() == "observation")
            .all(|d| d.get_bool("final").unwrap())
    );
    assert!(centre.camera.runs[&FIRST.parse().unwrap()].is_over);
}
