//! Frames per second of the product's tracker and of `trackforge`'s ByteTrack, on one thread, over the
//! same sequences of the MOTChallenge: `track-speed ROUNDS SEQUENCE...`.
//!
//! Both get their detections ready in memory and in their own form, and nothing but their calls is
//! timed. They take turns sequence by sequence, so that whatever else the machine does disturbs both
//! alike; who is first changes with each round.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use trackforge::trackers::byte_track::ByteTrack;

// The sources themselves and not the crate: a reader of Kafka and MongoDB is not to be built for this.
#[allow(dead_code)]
#[path = "../../../aggregator/src/mot.rs"]
mod mot;
#[allow(dead_code)]
#[path = "../../../aggregator/src/track/mod.rs"]
mod track;

use mot::Sequence;
use track::{Detection, ObservationRef, Settings, Tracker};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let folders: Vec<String> = arguments.collect();
    if rounds == 0 || folders.is_empty() {
        bail!("usage: track-speed ROUNDS SEQUENCE...");
    }
    let sequences = folders
        .iter()
        .map(|folder| Sequence::read(Path::new(folder)).with_context(|| format!("cannot read {folder}")))
        .collect::<Result<Vec<_>>>()?;
    let frames: usize = sequences.iter().map(Sequence::frames).sum();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (mut our_time, mut their_time) = (Duration::ZERO, Duration::ZERO);
        for sequence in &sequences {
            if round % 2 == 0 {
                our_time += picket(sequence);
                their_time += peer(sequence);
            } else {
                their_time += peer(sequence);
                our_time += picket(sequence);
            }
        }
        let rate = |time: Duration| frames as f64 / time.as_secs_f64();
        println!("round {}: {:.0} and {:.0} frames/s", round + 1, rate(our_time), rate(their_time));
        ours.push(rate(our_time));
        theirs.push(rate(their_time));
    }
    let ratios = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
    println!("{frames} frames in {} sequences, {rounds} rounds, medians:", sequences.len());
    println!("picket {:.0}, trackforge {:.0} frames/s, ratio {:.2}", median(ours), median(theirs), median(ratios));
    Ok(())
}

fn picket(sequence: &Sequence) -> Duration {
    let frames: Vec<(String, u64, Vec<Detection>)> = sequence
        .looks()
        .map(|(frame, mono_us, detections)| (format!("bench/camera/1-0011aabb/{frame}"), mono_us, detections))
        .collect();
    let mut tracker = Tracker::new(Settings::default());
    let start = Instant::now();
    for (id, mono_us, detections) in &frames {
        black_box(tracker.observe(ObservationRef { id }, *mono_us, detections));
    }
    start.elapsed()
}

/// With the settings of its documentation, and as many frames of memory as it has there.
fn peer(sequence: &Sequence) -> Duration {
    let frames: Vec<Vec<([f32; 4], f32, i64)>> = sequence
        .looks()
        .map(|(_, _, detections)| detections.iter().map(|d| (d.box_px, d.score, 0)).collect())
        .collect();
    let mut tracker = ByteTrack::new(0.5, 30, 0.8, 0.6);
    let start = Instant::now();
    for detections in frames {
        black_box(tracker.update(detections));
    }
    start.elapsed()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
