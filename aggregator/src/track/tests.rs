use std::collections::{BTreeMap, BTreeSet};

use super::scene::{Dice, Object};
use super::*;

const CAMERA: &str = "box-7/door/3-0011aabb";
const SECOND_US: u64 = 1_000_000;

fn tracker() -> Tracker {
    Tracker::new(Settings::default())
}

/// Shows one frame, named after its time.
fn show(tracker: &mut Tracker, mono_us: u64, detections: &[Detection]) -> Outcome {
    let id = format!("{CAMERA}/{mono_us}");
    tracker.observe(ObservationRef { id: &id }, mono_us, detections)
}

fn seconds(mono_us: u64) -> f64 {
    mono_us as f64 / SECOND_US as f64
}

/// The ids that each of `objects` had, all of them seen at each of `times_us`.
fn ids_by_object(
    objects: &[Object],
    times_us: impl Iterator<Item = u64>,
) -> Vec<BTreeSet<TrackId>> {
    let mut tracker = tracker();
    let mut ids = vec![BTreeSet::new(); objects.len()];
    for now_us in times_us {
        let seen: Vec<Detection> =
            objects.iter().map(|o| o.seen(seconds(now_us), [0.0; 2], 0.9)).collect();
        for (ids, id) in ids.iter_mut().zip(show(&mut tracker, now_us, &seen).assigned) {
            ids.insert(id.expect("a good detection has a track"));
        }
    }
    ids
}

fn every_us(step_us: u64, until_us: u64) -> impl Iterator<Item = u64> {
    (0..until_us / step_us).map(move |i| i * step_us)
}

/// A lively scene for properties: objects that come and go, noise, misses, weak and false
/// detections, two classes, uneven times.
fn lively_frame(dice: &mut Dice, now_us: &mut u64) -> Vec<Detection<'static>> {
    *now_us += 20_000 + dice.below(150_000) as u64;
    let mut seen = Vec::new();
    for i in 0..12 {
        let class = if i % 3 == 0 { "plate" } else { "face" };
        let around = f64::from(i) * 70.0;
        let object = Object {
            start_px: [around, 300.0 - around / 3.0],
            velocity_px: [40.0 - around / 10.0, 5.0],
            size_px: [60.0, 80.0],
            class,
        };
        let there = (seconds(*now_us) / 3.0 + f64::from(i)) % 4.0 > 1.0;
        if there && dice.unit() > 0.1 {
            let off_px = [3.0 * dice.around_zero(), 3.0 * dice.around_zero()];
            seen.push(object.seen(seconds(*now_us) % 20.0, off_px, dice.unit().sqrt() as f32));
        }
    }
    if dice.unit() < 0.3 {
        let off_px = [900.0 * dice.unit(), 500.0 * dice.unit()];
        seen.push(Object::face([0.0; 2], [0.0; 2]).seen(0.0, off_px, dice.unit() as f32));
    }
    seen
}

#[test]
fn a_face_that_moves_steadily_keeps_one_id() {
    let face = Object::face([50.0, 100.0], [120.0, 30.0]);
    let ids = ids_by_object(&[face], every_us(40_000, 10 * SECOND_US));
    assert_eq!(ids[0].iter().map(TrackId::as_str).collect::<Vec<_>>(), [format!("{CAMERA}/0#0")]);
}

#[test]
fn two_crossing_objects_keep_their_ids() {
    let left = Object::face([100.0, 200.0], [100.0, 0.0]);
    let right = Object::face([700.0, 230.0], [-100.0, 0.0]);
    let ids = ids_by_object(&[left, right], every_us(40_000, 6 * SECOND_US));
    assert_eq!(ids.iter().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1]);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn half_the_frame_rate_gives_the_same_tracks() {
    let objects = [
        Object::face([100.0, 200.0], [60.0, 0.0]),
        Object::face([700.0, 230.0], [-60.0, 0.0]),
        Object::face([400.0, 500.0], [0.0, -25.0]),
    ];
    let whole = ids_by_object(&objects, every_us(40_000, 10 * SECOND_US));
    for times in [2, 4, 8] {
        let part = ids_by_object(&objects, every_us(40_000 * times, 10 * SECOND_US));
        assert_eq!(whole, part, "every {times}th frame");
    }
}

#[test]
fn an_uneven_frame_rate_gives_the_same_tracks() {
    let objects =
        [Object::face([100.0, 200.0], [60.0, 0.0]), Object::face([700.0, 230.0], [-60.0, 0.0])];
    let even = ids_by_object(&objects, every_us(40_000, 10 * SECOND_US));
    let mut dice = Dice::new(5);
    let times: Vec<u64> =
        every_us(40_000, 10 * SECOND_US).filter(|&t| t == 0 || dice.unit() < 0.4).collect();
    assert_eq!(even, ids_by_object(&objects, times.into_iter()));
}

#[test]
fn a_face_hidden_for_a_short_time_comes_back_with_its_id() {
    let face = Object::face([50.0, 100.0], [80.0, 0.0]);
    let mut tracker = tracker();
    for now_us in every_us(40_000, 2 * SECOND_US) {
        show(&mut tracker, now_us, &[face.seen(seconds(now_us), [0.0; 2], 0.9)]);
    }
    for now_us in (2 * SECOND_US..3 * SECOND_US).step_by(40_000) {
        assert_eq!(show(&mut tracker, now_us, &[]).ended, []);
    }
    let back = show(&mut tracker, 3 * SECOND_US, &[face.seen(3.0, [0.0; 2], 0.9)]);
    assert_eq!(back.assigned[0].as_ref().unwrap().as_str(), format!("{CAMERA}/0#0"));
}

#[test]
fn a_face_that_stays_away_ends_after_max_lost_ms() {
    let settings = Settings::default();
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]).seen(0.0, [0.0; 2], 0.9);
    show(&mut tracker, 0, &[face]);
    show(&mut tracker, 40_000, &[face]);
    let first_miss_us = 80_000;
    show(&mut tracker, first_miss_us, &[]);
    let last_us = first_miss_us + settings.max_lost_ms * 1000;
    assert_eq!(show(&mut tracker, last_us, &[]).ended, []);
    let ended = show(&mut tracker, last_us + 1, &[face]).ended;
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].first_mono_us, ended[0].last_mono_us), (0, 40_000));
    assert_eq!((ended[0].observations, ended[0].ended), (2, true));
    assert_eq!(ended[0].last_observation, format!("{CAMERA}/40000"));
}

#[test]
fn frames_that_nobody_looked_at_are_no_misses() {
    let settings = Settings::default();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]).seen(0.0, [0.0; 2], 0.9);
    for (gap_ms, same) in [(settings.max_gap_ms, true), (settings.max_gap_ms + 1, false)] {
        assert!(gap_ms > settings.max_lost_ms);
        let mut tracker = tracker();
        let before = show(&mut tracker, 0, &[face]).assigned;
        let after = show(&mut tracker, gap_ms * 1000, &[face]).assigned;
        assert_eq!(before == after, same, "{gap_ms}");
    }
}

#[test]
fn a_weak_detection_continues_a_track_but_starts_none() {
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]);
    let (good, weak) = (face.seen(0.0, [0.0; 2], 0.9), face.seen(0.0, [0.0; 2], 0.3));
    assert_eq!(show(&mut tracker, 0, &[weak]).assigned, [None]);
    let born = show(&mut tracker, 40_000, &[good]).assigned;
    show(&mut tracker, 80_000, &[good]);
    let outcome = show(&mut tracker, 120_000, &[weak]);
    assert_eq!(outcome.assigned, born);
    assert_eq!((outcome.updated[0].observations, outcome.updated[0].best_score), (3, 0.9));
}

#[test]
fn a_weak_detection_does_not_bring_a_lost_track_back() {
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]);
    let (good, weak) = (face.seen(0.0, [0.0; 2], 0.9), face.seen(0.0, [0.0; 2], 0.3));
    let born = show(&mut tracker, 0, &[good]).assigned;
    show(&mut tracker, 40_000, &[good]);
    show(&mut tracker, 80_000, &[]);
    assert_eq!(show(&mut tracker, 120_000, &[weak]).assigned, [None]);
    assert_eq!(show(&mut tracker, 160_000, &[good]).assigned, born);
}

#[test]
fn a_detection_never_continues_a_track_of_another_class() {
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]);
    let plate = Object { class: "plate", ..face };
    let [face, plate] = [face, plate].map(|o| o.seen(0.0, [0.0; 2], 0.9));
    let both = show(&mut tracker, 0, &[face, plate]).assigned;
    assert_ne!(both[0], both[1]);
    for now_us in every_us(40_000, SECOND_US).skip(1) {
        let swapped = show(&mut tracker, now_us, &[plate, face]).assigned;
        assert_eq!([&swapped[1], &swapped[0]], [&both[0], &both[1]]);
    }
}

#[test]
fn a_track_seen_once_ends_at_its_first_miss() {
    let mut tracker = tracker();
    let flash = Object::face([50.0, 100.0], [0.0, 0.0]).seen(0.0, [0.0; 2], 0.9);
    let born = show(&mut tracker, 0, &[flash]).assigned;
    let outcome = show(&mut tracker, 40_000, &[]);
    assert_eq!(born[0].as_ref(), Some(&outcome.ended[0].id));
    assert_eq!(outcome.ended[0].observations, 1);
    assert_eq!(tracker.finish(), []);
}

#[test]
fn one_object_found_twice_starts_one_track() {
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]);
    let (weaker, better) = (face.seen(0.0, [4.0, 2.0], 0.8), face.seen(0.0, [0.0; 2], 0.9));
    let assigned = show(&mut tracker, 0, &[weaker, better]).assigned;
    assert!(assigned[0].is_none() && assigned[1].is_some());
}

#[test]
fn a_camera_that_jerks_keeps_the_ids_of_small_faces_by_the_motion_of_large_ones() {
    let face = |i: u8, size_px| {
        let start_px = [100.0 + 300.0 * f64::from(i), 200.0];
        Object { size_px, ..Object::face(start_px, [10.0, 0.0]) }
    };
    let large = (0..3).map(|i| face(i, [120.0, 160.0]));
    let small = (3..6).map(|i| face(i, [20.0, 25.0]));
    let faces: Vec<Object> = large.chain(small).collect();
    let mut tracker = tracker();
    let mut ids = BTreeSet::new();
    for now_us in every_us(40_000, 4 * SECOND_US) {
        // From one frame to the next the small faces jump by more than their own size.
        let off_px = if now_us >= 2 * SECOND_US { [32.0, 20.0] } else { [0.0; 2] };
        let seen: Vec<Detection> =
            faces.iter().map(|f| f.seen(seconds(now_us), off_px, 0.9)).collect();
        ids.extend(show(&mut tracker, now_us, &seen).assigned);
    }
    assert_eq!(ids.len(), faces.len());
}

#[test]
fn a_score_equal_to_a_setting_reaches_it() {
    let settings = Settings::default();
    let mut tracker = tracker();
    let face = Object::face([50.0, 100.0], [0.0, 0.0]);
    let scores = [settings.birth_score, settings.high_score, settings.low_score];
    for (frame, score) in (0..).zip(scores) {
        let seen = face.seen(0.0, [0.0; 2], score as f32);
        assert!(show(&mut tracker, frame, &[seen]).assigned[0].is_some(), "{score}");
    }
}

#[test]
fn restored_state_continues_as_if_never_stopped() {
    let (mut dice, mut now_us) = (Dice::new(11), 0);
    let mut unbroken = tracker();
    let mut restored = tracker();
    for frame in 0..1500 {
        let seen = lively_frame(&mut dice, &mut now_us);
        let expected = show(&mut unbroken, now_us, &seen);
        assert_eq!(show(&mut restored, now_us, &seen), expected, "frame {frame}");
        let text = serde_json::to_string(&restored).unwrap();
        restored = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, unbroken, "frame {frame}");
    }
    assert_eq!(restored.finish(), unbroken.finish());
}

#[test]
fn every_id_is_born_once_and_ends_once() {
    let (mut dice, mut now_us) = (Dice::new(12), 0);
    let mut tracker = tracker();
    // Of each track that has not ended: its class and how often it was assigned.
    let mut open: BTreeMap<TrackId, (String, u64)> = BTreeMap::new();
    let mut over: BTreeSet<TrackId> = BTreeSet::new();
    let mut close = |open: &mut BTreeMap<TrackId, (String, u64)>, ended: Vec<TrackSummary>| {
        for track in ended {
            assert!(track.ended);
            assert_eq!(open.remove(&track.id), Some((track.class, track.observations)));
            assert!(over.insert(track.id));
        }
        over.len()
    };
    for _ in 0..3000 {
        let seen = lively_frame(&mut dice, &mut now_us);
        let outcome = show(&mut tracker, now_us, &seen);
        assert_eq!(outcome.assigned.len(), seen.len());
        let before = open.clone();
        let mut in_frame = BTreeSet::new();
        for (d, (detection, id)) in seen.iter().zip(&outcome.assigned).enumerate() {
            let Some(id) = id else { continue };
            assert!(in_frame.insert(id.clone()), "{id} twice in a frame");
            if !before.contains_key(id) {
                assert_eq!(id.as_str(), format!("{CAMERA}/{now_us}#{d}"));
            }
            let track = open.entry(id.clone()).or_insert((detection.class.to_owned(), 0));
            assert_eq!(track.0, detection.class);
            track.1 += 1;
        }
        let updated: BTreeSet<TrackId> = outcome.updated.iter().map(|t| t.id.clone()).collect();
        assert_eq!(updated, in_frame);
        close(&mut open, outcome.ended);
    }
    assert!(close(&mut open, tracker.finish()) > 100);
    assert!(open.is_empty(), "never ended: {open:?}");
}

#[test]
fn the_order_of_the_detections_does_not_change_the_tracks() {
    let (mut dice, mut now_us) = (Dice::new(13), 0);
    let (mut straight, mut mixed) = (tracker(), tracker());
    let mut same: BTreeMap<TrackId, TrackId> = BTreeMap::new();
    for _ in 0..1000 {
        let seen = lively_frame(&mut dice, &mut now_us);
        let turned: Vec<Detection> = seen.iter().rev().copied().collect();
        let a = show(&mut straight, now_us, &seen).assigned;
        let b = show(&mut mixed, now_us, &turned).assigned;
        for (a, b) in a.into_iter().zip(b.into_iter().rev()) {
            assert_eq!(a.is_some(), b.is_some());
            let (Some(a), Some(b)) = (a, b) else { continue };
            assert_eq!(same.entry(a).or_insert(b.clone()), &b);
        }
    }
}

#[test]
fn memory_is_bounded_with_random_detections() {
    let settings = Settings { max_tracks: 40, ..Settings::default() };
    let mut tracker = Tracker::new(settings);
    let mut dice = Dice::new(14);
    let mut longest_state = 0;
    for frame in 0..2000_u64 {
        let mut seen = Vec::new();
        for _ in 0..dice.below(60) {
            let start_px = [1900.0 * dice.unit(), 1000.0 * dice.unit()];
            let mut face = Object::face(start_px, [0.0; 2]);
            // Some come twice, so that tracks are confirmed and then lost.
            face.start_px = face.start_px.map(|v| (v / 400.0).round() * 400.0);
            seen.push(face.seen(0.0, [0.0; 2], dice.unit() as f32));
        }
        show(&mut tracker, frame * 40_000, &seen);
        longest_state = longest_state.max(serde_json::to_string(&tracker).unwrap().len());
    }
    assert!(longest_state < 40 * 1024, "{longest_state}");
}

#[test]
fn when_full_the_track_lost_the_longest_makes_room_and_none_in_view_does() {
    let mut tracker = Tracker::new(Settings { max_tracks: 2, ..Settings::default() });
    let [a, b, c, d] = [0.0, 200.0, 400.0, 600.0]
        .map(|x| Object::face([x, 0.0], [0.0; 2]).seen(0.0, [0.0; 2], 0.9));
    let first = show(&mut tracker, 0, &[a, b]).assigned;
    show(&mut tracker, 1, &[a, b]);
    assert_eq!(show(&mut tracker, 2, &[a, b, c]).assigned[2], None);
    show(&mut tracker, 3, &[b]);
    show(&mut tracker, 4, &[]);
    let outcome = show(&mut tracker, 5, &[d]);
    assert!(outcome.assigned[0].is_some());
    assert_eq!(outcome.ended.iter().map(|t| Some(t.id.clone())).collect::<Vec<_>>(), first[..1]);
}

#[test]
fn a_time_that_does_not_move_forward_counts_as_no_time() {
    let face = Object::face([50.0, 100.0], [0.0, 0.0]).seen(0.0, [0.0; 2], 0.9);
    let mut tracker = tracker();
    let mut ids = BTreeSet::new();
    for now_us in [5 * SECOND_US, 5 * SECOND_US, SECOND_US, 0, 5 * SECOND_US + 1] {
        ids.extend(show(&mut tracker, now_us, &[face]).assigned);
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(tracker.finish()[0].last_mono_us, 5 * SECOND_US + 1);
}

#[test]
fn odd_boxes_scores_and_times_do_not_panic() {
    let odd = [0.0, -0.0, -5.0, 1e-30, 3.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN];
    let mut dice = Dice::new(15);
    let mut tracker = tracker();
    for frame in 0..20_000_u64 {
        let mut pick = || odd[dice.below(odd.len())];
        let seen: Vec<Detection> = (0..6)
            .map(|_| Detection {
                box_px: [pick(), pick(), pick(), pick()],
                score: if pick() > 0.0 { 0.9 } else { pick() },
                class: "",
            })
            .collect();
        let now_us = if frame % 497 == 0 { u64::MAX } else { frame * 40_000 };
        show(&mut tracker, now_us, &seen);
        if frame % 500 == 0 {
            tracker = Tracker::new(Settings::default());
        }
    }
}
