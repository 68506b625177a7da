//! What a camera makes of its records.

use picket_wire::observation::{
    ClockState, Detection as Seen, Detector, FrameFate, PreviousEpoch, Reason, Stamp,
};

use super::*;

const RETENTION: Retention = Retention { observations_days: 1, frames_days: 1, tracks_days: 1 };
const HORIZON_MS: i64 = 60 * 60 * 1000;
const FIRST: &str = "1-00000001";
const SECOND: &str = "2-00000002";

fn camera() -> Camera {
    Camera::new("gate/north".parse().unwrap(), TrackSettings::default(), RETENTION, HORIZON_MS)
}

fn origin(offset: i64) -> Origin {
    Origin {
        topic: "picket.observations".to_owned(),
        partition: 0,
        offset,
        broker_time_ms: 1_000_000,
        stored_at_ms: 2_000_000,
    }
}

fn stamp(seq: u64) -> Stamp {
    let captured_at = jiff::Timestamp::from_second(1_700_000_000 + seq as i64).ok();
    Stamp { mono_us: seq * 100_000, captured_at, clock: ClockState::Synchronised }
}

fn id(epoch: &str, seq: u64) -> picket_wire::ObservationId {
    format!("gate/north/{epoch}/{seq}").parse().unwrap()
}

fn seen(epoch: &str, seq: u64) -> CameraRecord {
    CameraRecord::Observation(Observation {
        id: id(epoch, seq),
        stamp: stamp(seq),
        frame_width: 640,
        frame_height: 360,
        detector: Detector { name: "yunet".to_owned(), model_sha256: String::new() },
        motion_score: None,
        frame: FrameFate::Withheld,
        detections: vec![Seen {
            box_px: [100.0 + seq as f32, 100.0, 80.0, 90.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: None,
        }],
    })
}

fn gap(epoch: &str, first: u64, last: u64, of: GapOf) -> CameraRecord {
    let reason = Reason::SPOOL_FULL.into();
    let count = last - first + 1;
    CameraRecord::Gap(Gap {
        id: id(epoch, first),
        stamp: stamp(last.min(1000)),
        first,
        last,
        count,
        reason,
        of,
    })
}

fn start(epoch: &str, previous: Option<(&str, u64, u64)>) -> CameraRecord {
    CameraRecord::Epoch(EpochStart {
        id: id(epoch, 0),
        stamp: stamp(0),
        previous: previous.map(|(epoch, last_committed, reserved)| PreviousEpoch {
            epoch: epoch.parse().unwrap(),
            last_committed,
            reserved,
        }),
        agent_version: "0.1.0".to_owned(),
    })
}

/// Takes records in as if each had its own digest and had not been stored before.
fn take(camera: &mut Camera, records: &[CameraRecord]) -> (Vec<Verdict>, Changes) {
    let mut changes = Changes::default();
    let take = |(offset, record): (usize, &CameraRecord)| {
        camera.take(record, "digest", &origin(offset as i64), None, &mut changes).unwrap()
    };
    let verdicts = records.iter().enumerate().map(take).collect();
    (verdicts, changes)
}

const STORED: Verdict = Verdict::Stored { late: false };

#[test]
fn a_resend_is_known_by_the_ledger_alone_even_after_its_document_has_expired() {
    let mut camera = camera();
    let (verdicts, changes) = take(&mut camera, &[seen(FIRST, 1), seen(FIRST, 2), seen(FIRST, 1)]);
    assert_eq!(verdicts, [STORED, STORED, Verdict::Duplicate]);
    assert_eq!(changes.records.len(), 2);
    assert_eq!(camera.accounts.stored, 2);
}

#[test]
fn a_batch_that_is_read_again_before_its_end_is_taken_as_if_it_were_new() {
    let mut camera = camera();
    let (at, mut changes) = (origin(7), Changes::default());
    let known = Known::new("digest", &at);
    let again = camera.take(&start(FIRST, None), "digest", &at, Some(&known), &mut changes);
    assert_eq!(again.unwrap(), STORED);
    let twice = camera.take(&start(FIRST, None), "digest", &at, Some(&known), &mut changes);
    assert_eq!(twice.unwrap(), Verdict::Duplicate, "now it is part of the state");
}

#[test]
fn the_same_id_with_other_bytes_is_a_conflict_and_counted() {
    let mut camera = camera();
    take(&mut camera, &[seen(FIRST, 1)]);
    let known = Known::new("other", &origin(0));
    let mut changes = Changes::default();
    let verdict = camera.take(&seen(FIRST, 1), "digest", &origin(9), Some(&known), &mut changes);
    assert_eq!(verdict.unwrap(), Verdict::Conflict);
    assert!(changes.records.is_empty());
    assert_eq!(camera.accounts.refused["identity-conflict"], 1);
}

#[test]
fn tracks_end_with_their_epoch_at_the_offset_of_the_record_that_ended_them() {
    let mut camera = camera();
    let records = [seen(FIRST, 1), seen(FIRST, 2), start(SECOND, Some((FIRST, 2, 2)))];
    let (_, changes) = take(&mut camera, &records);
    let track = &changes.tracks["gate/north/1-00000001/1#0"];
    assert_eq!((track.state.as_str(), track.observations, track.ingest.offset), ("ended", 2, 2));
    assert!(track.is_final);
    assert_eq!(track.epoch, FIRST);
    assert_eq!(track.first_seen.unwrap().timestamp_millis(), 1_700_000_001_000);
    assert_eq!(track.last_seen.unwrap().timestamp_millis(), 1_700_000_002_000);
    assert!(camera.runs[&FIRST.parse().unwrap()].is_over);
}

#[test]
fn a_crash_takes_at_most_what_was_reserved_and_nothing_else_accounts_for() {
    let mut camera = camera();
    let records = [
        seen(FIRST, 1),
        gap(FIRST, 4, 5, GapOf::Observations),
        start(SECOND, Some((FIRST, 2, 10))),
    ];
    let (_, changes) = take(&mut camera, &records);
    assert_eq!(camera.accounts.dropped["crash"], 6, "3 and 6 to 10");
    assert_eq!(camera.accounts.dropped["spool-full"], 2);
    let crashes = changes.records.iter().filter(|d| d.get("upper_bound").unwrap().is_some());
    let runs: Vec<_> = crashes.clone().map(|d| d.get_str("_id").unwrap()).collect();
    let begin = |seq: u64| format!("gate/north/1-00000001/{seq}~gap-crash");
    assert_eq!(runs, [begin(3), begin(6)], "none that another gap has");
    assert!(crashes.clone().all(|d| d.get_str("epoch").unwrap() == FIRST));
    let ledger = &camera.ledgers[&FIRST.parse().unwrap()];
    assert_eq!(ledger.accounted.as_slice(), [(1, 1), (3, 10)], "2 is still to come");
}

#[test]
fn an_orderly_end_leaves_no_gap() {
    let mut camera = camera();
    let (_, changes) = take(&mut camera, &[seen(FIRST, 1), start(SECOND, Some((FIRST, 1, 1)))]);
    assert!(camera.accounts.dropped.is_empty());
    assert_eq!(changes.records.len(), 2);
}

#[test]
fn a_gap_of_pictures_accounts_for_no_observation() {
    let mut camera = camera();
    let (_, changes) = take(&mut camera, &[gap(FIRST, 1, 3, GapOf::Frames)]);
    assert_eq!(camera.accounts.pictures_dropped["spool-full"], 3);
    assert_eq!(camera.complete_until(), 0);
    let id = changes.records[0].get_str("_id").unwrap();
    assert_eq!(id, "gate/north/1-00000001/1~gap-frames-digest");
}

/// Takes records in one after the other, as the store would know them: by the id of their document.
fn take_stored(camera: &mut Camera, records: &[(CameraRecord, &str)]) -> Vec<(Verdict, usize)> {
    let mut stored = BTreeMap::new();
    let take = |(offset, (record, digest)): (usize, &(CameraRecord, &str))| {
        let (id, origin) = (upsert::document_id(record, digest), origin(offset as i64));
        let mut changes = Changes::default();
        let verdict = camera.take(record, digest, &origin, stored.get(&id), &mut changes).unwrap();
        if matches!(verdict, Verdict::Stored { .. }) {
            assert_eq!(changes.records[0].get_str("_id").unwrap(), id);
            assert!(stored.insert(id, Known::new(digest, &origin)).is_none(), "written over");
        }
        (verdict, changes.records.len())
    };
    records.iter().enumerate().map(take).collect()
}

#[test]
fn a_longer_gap_that_begins_as_an_earlier_one_settles_what_that_one_left_open() {
    let mut camera = camera();
    let of = |first, last| gap(FIRST, first, last, GapOf::Observations);
    let records = [
        (of(5, 9), "aa"),
        (of(5, 20), "bb"),
        (of(5, 20), "bb"),
        (of(5, 9), "cc"),
        (of(5, 9), "aa"),
    ];
    let verdicts = take_stored(&mut camera, &records);
    let twice = (Verdict::Duplicate, 0);
    assert_eq!(verdicts, [(STORED, 1), (STORED, 1), twice.clone(), twice.clone(), twice]);
    let ledger = &camera.ledgers[&FIRST.parse().unwrap()];
    assert_eq!(ledger.accounted.as_slice(), [(5, 20)]);
    assert_eq!(camera.accounts.dropped["spool-full"], 16, "5 to 9 once");
    assert!(camera.accounts.refused.is_empty(), "{:?}", camera.accounts.refused);
}

#[test]
fn two_crops_of_one_observation_are_dropped_one_by_one_and_a_resend_counts_neither_twice() {
    let mut camera = camera();
    let crop = || gap(FIRST, 7, 7, GapOf::Crops);
    let records = [(crop(), "aa"), (crop(), "bb"), (crop(), "aa"), (crop(), "bb")];
    let verdicts = take_stored(&mut camera, &records);
    let twice = (Verdict::Duplicate, 0);
    assert_eq!(verdicts, [(STORED, 1), (STORED, 1), twice.clone(), twice]);
    assert_eq!(camera.accounts.pictures_dropped["spool-full"], 2);
    assert!(camera.accounts.refused.is_empty(), "{:?}", camera.accounts.refused);
}

#[test]
fn losses_beyond_all_counting_stop_at_the_end_of_the_count() {
    let mut camera = camera();
    let last = i64::MAX as u64;
    let of = |epoch| [gap(epoch, 1, last, GapOf::Observations), gap(epoch, 1, last, GapOf::Frames)];
    let (verdicts, _) = take(&mut camera, &[of(FIRST), of(SECOND)].concat());
    assert_eq!(verdicts, [STORED; 4]);
    assert_eq!(camera.accounts.dropped["spool-full"], i64::MAX);
    assert_eq!(camera.accounts.pictures_dropped["spool-full"], i64::MAX);
}

#[test]
fn reasons_without_end_are_counted_and_not_all_named() {
    let mut camera = camera();
    let gaps: Vec<_> = (1..=100)
        .map(|seq| {
            let mut record = gap(FIRST, seq, seq, GapOf::Observations);
            if let CameraRecord::Gap(gap) = &mut record {
                gap.reason = format!("reason-{seq}").try_into().unwrap();
            }
            record
        })
        .collect();
    take(&mut camera, &gaps);
    assert_eq!(camera.accounts.dropped.len(), MAX_REASONS + 1);
    assert_eq!(camera.accounts.dropped[OTHER_REASON], 36);
}

#[test]
fn what_cannot_be_read_is_booked_once_however_often_its_log_is_read() {
    let mut camera = camera();
    for _ in 0..2 {
        camera.refuse_unread(&origin(4), "body-invalid");
    }
    camera.refuse_unread(&origin(5), "body-invalid");
    assert_eq!(camera.accounts.refused["body-invalid"], 2);
}

#[test]
fn the_tracks_of_a_lost_tracker_end_with_the_next_record() {
    let mut camera = camera();
    camera.orphans.push("gate/north/1-00000001/1#0".to_owned());
    let (_, changes) = take(&mut camera, &[seen(FIRST, 2)]);
    assert_eq!(changes.orphans, ["gate/north/1-00000001/1#0"]);
}

/// By a clock that stands still in the year 2001.
fn unsure(seq: u64) -> CameraRecord {
    let mut record = seen(FIRST, seq);
    if let CameraRecord::Observation(observation) = &mut record {
        observation.stamp.captured_at = jiff::Timestamp::from_second(1_000_000_000).ok();
        observation.stamp.clock = ClockState::Unsynchronised;
    }
    record
}

/// Which second it was ten seconds after an epoch's start.
fn told(epoch: &str, second: i64) -> CameraRecord {
    CameraRecord::Clock(picket_wire::observation::ClockRelation {
        id: id(epoch, 2),
        stamp: Stamp {
            mono_us: 10_000_000,
            captured_at: jiff::Timestamp::from_second(second).ok(),
            clock: ClockState::Synchronised,
        },
    })
}

#[test]
fn after_a_new_start_the_newest_time_goes_by_the_clock_of_the_start_that_it_is_of() {
    let mut camera = camera();
    take(&mut camera, &[unsure(1), unsure(2), told(FIRST, 1_700_000_010)]);
    let right_ns = (1_700_000_000 * 10 + 2) * 100_000_000;
    assert_eq!(camera.newest_ns(), Some(right_ns));
    take(&mut camera, &[start(SECOND, None)]);
    assert_eq!(camera.newest_ns(), Some(right_ns), "of the new start nothing is known yet");
    take(&mut camera, &[told(SECOND, 1_800_000_010)]);
    assert_eq!(camera.newest_ns(), Some(right_ns), "the new start's clock tells nothing of it");
    let in_use = [FIRST, SECOND].map(|epoch| epoch.parse().unwrap());
    assert_eq!(camera.epochs_in_use(), in_use.into(), "of both the clocks are needed");
    take(&mut camera, &[seen(SECOND, 1)]);
    assert_eq!(camera.newest_ns(), Some((1_700_000_000 + 1) * 1_000_000_000));
}

#[test]
fn from_the_record_that_tells_the_time_on_all_times_are_right_also_those_of_tracks_that_go_on() {
    // Ten seconds after the start it is the second of this.
    let told = told(FIRST, 1_700_000_010);
    let mut camera = camera();
    let (_, changes) = take(&mut camera, &[unsure(1), unsure(2)]);
    assert_eq!(camera.newest_ns(), Some(1_000_000_000_000_000_000));
    assert!(changes.tracks.values().all(|track| track.corrected.is_none()));

    let (_, changes) = take(&mut camera, &[told, unsure(3)]);
    let right_ns = |seq: i64| (1_700_000_000 * 10 + seq) * 100_000_000;
    assert_eq!(camera.newest_ns(), Some(right_ns(3)));
    let [clock, third] = &changes.records[..] else { panic!("{:?}", changes.records) };
    assert!(clock.get("corrected").unwrap().is_none(), "{clock:?}");
    assert_eq!(third.get_i64("captured_ns").unwrap(), right_ns(3));
    let said = third.get_document("corrected").unwrap().get_i64("device_captured_ns").unwrap();
    assert_eq!(said, 1_000_000_000_000_000_000);
    let track = changes.tracks.values().next().unwrap();
    assert_eq!(track.first_seen, upsert::date(Some(right_ns(1))));
    assert_eq!(track.last_seen, upsert::date(Some(right_ns(3))));
    assert_eq!(
        track.corrected.as_ref().unwrap().device_first_seen,
        upsert::date(Some(1_000_000_000_000_000_000))
    );
}

#[test]
fn a_clock_that_is_a_day_ahead_is_told_by_as_much() {
    let mut camera = camera();
    let mut early = origin(0);
    early.broker_time_ms = 1_700_000_000_000 - 86_400_000;
    let CameraRecord::Observation(observation) = seen(FIRST, 0) else { unreachable!() };
    camera.compare_clocks(&observation, &early);
    assert_eq!(camera.place.clock_ahead_ms, Some(86_400_000));
    let stamp = Stamp { captured_at: None, ..observation.stamp };
    camera.compare_clocks(&Observation { stamp, ..observation }, &early);
    assert_eq!(camera.place.clock_ahead_ms, None);
}
