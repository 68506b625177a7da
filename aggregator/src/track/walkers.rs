//! How well ids are kept in made-up scenes of people who walk past each other: the nearer hide the
//! farther, the detector trembles, misses, doubts and invents. The scenes are no copy of recordings;
//! docs/tracking.md says how the tracker does on those.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use super::scene::Dice;
use super::*;

const FRAME_PX: [f64; 2] = [1280.0, 720.0];
const SCENES: u64 = 12;
const LONG_S: f64 = 20.0;

/// What makes a scene difficult.
#[derive(Clone, Copy)]
struct Scene {
    frames_per_s: f64,
    walkers: usize,
    /// The camera swings by so many pixels to either side and up and down, twice a second.
    swing_px: f64,
    /// Share of detections that are missing for no reason.
    missing: f64,
    /// False detections a frame, in the mean.
    false_ones: f64,
}

const STREET: Scene =
    Scene { frames_per_s: 25.0, walkers: 5, swing_px: 0.0, missing: 0.05, false_ones: 0.1 };

/// Walks to and fro on a line of its own depth: the nearer, the larger and the lower in the picture.
struct Walker {
    /// From 0 (far) to 1 (near).
    near: f64,
    start_px: f64,
    px_per_s: f64,
}

impl Walker {
    fn new(dice: &mut Dice) -> Self {
        let near = dice.unit();
        // Walking pace: half to one and a half times its height in a second.
        let speed = Self::height_px(near) * (0.5 + dice.unit());
        let px_per_s = if dice.unit() < 0.5 { speed } else { -speed };
        Self { near, start_px: FRAME_PX[0] * dice.unit(), px_per_s }
    }

    fn height_px(near: f64) -> f64 {
        80.0 + 160.0 * near
    }

    /// Left, top, width, height.
    fn box_px(&self, seconds: f64) -> [f64; 4] {
        let height = Self::height_px(self.near);
        let width = 0.4 * height;
        let way = FRAME_PX[0] - width;
        // There and back again.
        let along = (self.start_px + self.px_per_s * seconds).rem_euclid(2.0 * way);
        let left = if along > way { 2.0 * way - along } else { along };
        let feet = 300.0 + 380.0 * self.near;
        [left, feet - height, width, height]
    }
}

/// The share of `far` that `near` hides.
fn hidden(far: [f64; 4], near: [f64; 4]) -> f64 {
    let shared = |i: usize| {
        ((far[i] + far[i + 2]).min(near[i] + near[i + 2]) - far[i].max(near[i])).max(0.0)
    };
    shared(0) * shared(1) / (far[2] * far[3])
}

/// What the detector finds at a time, and whose it is.
fn look(
    scene: Scene,
    walkers: &[Walker],
    seconds: f64,
    dice: &mut Dice,
) -> Vec<(Option<usize>, Detection<'static>)> {
    let swing = |phase: f64| scene.swing_px * (2.0 * PI * 2.0 * seconds + phase).sin();
    let swing = [swing(0.0), swing(1.0)];
    let places: Vec<[f64; 4]> = walkers.iter().map(|w| w.box_px(seconds)).collect();
    let mut found = Vec::new();
    for (i, walker) in walkers.iter().enumerate() {
        let nearer = walkers.iter().zip(&places).filter(|(other, _)| other.near > walker.near);
        let hidden: f64 = nearer.map(|(_, &place)| hidden(places[i], place)).fold(0.0, f64::max);
        if hidden > 0.7 || dice.unit() < scene.missing {
            continue;
        }
        let tremble =
            |value: f64, size: f64, dice: &mut Dice| value + 0.03 * size * dice.around_zero();
        let [left, top, width, height] = places[i];
        let box_px = [
            tremble(left + swing[0], width, dice),
            tremble(top + swing[1], height, dice),
            tremble(width, width, dice),
            tremble(height, height, dice),
        ];
        let score = (0.92 - hidden + 0.05 * dice.around_zero()) as f32;
        found.push((
            Some(i),
            Detection { box_px: box_px.map(|v| v as f32), score, class: "person" },
        ));
    }
    if dice.unit() < scene.false_ones {
        let height = Walker::height_px(dice.unit());
        let at = [FRAME_PX[0] * dice.unit(), FRAME_PX[1] * dice.unit(), 0.4 * height, height];
        let score = (0.1 + 0.7 * dice.unit()) as f32;
        found.push((None, Detection { box_px: at.map(|v| v as f32), score, class: "person" }));
    }
    found
}

/// The share of sights of walkers that carry the walker's own id: the one it has most often, unless
/// another walker has that more often.
fn share_of_right_ids(scene: Scene) -> f64 {
    let (mut right, mut sights) = (0, 0);
    for seed in 0..SCENES {
        let mut dice = Dice::new(1000 + seed);
        let walkers: Vec<Walker> = (0..scene.walkers).map(|_| Walker::new(&mut dice)).collect();
        let mut tracker = Tracker::new(Settings::default());
        let mut times: BTreeMap<(TrackId, usize), usize> = BTreeMap::new();
        for frame in 0..(LONG_S * scene.frames_per_s) as usize {
            let seconds = frame as f64 / scene.frames_per_s;
            let found = look(scene, &walkers, seconds, &mut dice);
            let detections: Vec<Detection> =
                found.iter().map(|(_, detection)| *detection).collect();
            let id = format!("box/street/1-0011aabb/{frame}");
            let outcome =
                tracker.observe(ObservationRef { id: &id }, (seconds * 1e6) as u64, &detections);
            for ((whose, _), id) in found.iter().zip(outcome.assigned) {
                let Some(whose) = *whose else { continue };
                sights += 1;
                if let Some(id) = id {
                    *times.entry((id, whose)).or_default() += 1;
                }
            }
        }
        let mut most: Vec<(usize, TrackId, usize)> =
            times.into_iter().map(|((id, whose), n)| (n, id, whose)).collect();
        most.sort_by(|a, b| b.cmp(a));
        let (mut ids, mut named) = (Vec::new(), Vec::new());
        for (n, id, whose) in most {
            if !ids.contains(&id) && !named.contains(&whose) {
                right += n;
                ids.push(id);
                named.push(whose);
            }
        }
    }
    right as f64 / sights as f64
}

/// Of `times` sights all but one carry the right id.
fn wrong_at_most_once_in(times: f64, scene: Scene) {
    let share = share_of_right_ids(scene);
    assert!(share >= 1.0 - 1.0 / times, "{:.1} % of the sights carry the right id", 100.0 * share);
}

#[test]
fn people_who_hide_each_other_keep_their_ids() {
    wrong_at_most_once_in(5.0, STREET);
}

#[test]
fn ids_are_kept_at_ten_frames_a_second() {
    wrong_at_most_once_in(3.0, Scene { frames_per_s: 10.0, ..STREET });
}

#[test]
fn most_ids_are_kept_at_two_frames_a_second() {
    wrong_at_most_once_in(3.0, Scene { frames_per_s: 2.0, ..STREET });
}

#[test]
fn a_camera_that_swings_in_the_wind_keeps_the_ids() {
    wrong_at_most_once_in(5.0, Scene { swing_px: 15.0, ..STREET });
}

#[test]
fn a_detector_that_misses_every_third_sight_keeps_most_ids() {
    wrong_at_most_once_in(3.0, Scene { missing: 0.33, ..STREET });
}

#[test]
fn false_detections_take_no_ids_away() {
    wrong_at_most_once_in(5.0, Scene { false_ones: 0.9, ..STREET });
}
