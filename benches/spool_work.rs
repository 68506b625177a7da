//! The agent's own spool at work, without cameras and without a link, for `backlog.py` to measure.
//!
//! ```text
//! spool-work FOLDER put FRAMES PICTURE_BYTES    keeps frames as fast as they can be committed
//! spool-work FOLDER drain                       reads all of them and acknowledges them
//! spool-work FOLDER link FRAMES PICTURE_BYTES   a frame to a commit, acknowledged before the next
//! spool-work FOLDER outage FRAMES PICTURE_BYTES a frame to a commit, and then all drained
//! spool-work FOLDER start                       begins, and reads the first record that waits
//! ```
//! A frame is an observation of some 500 bytes, and a picture if PICTURE_BYTES is not 0. What is kept is
//! encrypted where FOLDER.key is a master key. Prints a line of JSON: seconds, payload bytes (headers and values), bytes that this process caused to be written to
//! disk, and its memory at its highest.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    Clock, EncryptionSettings, Limits, Outcome, RowId, Settings, Settled, Spool, SpoolHandle,
    SpoolReader, Spooled,
};
use picket_wire::observation::{
    ClockState, Detection, Detector, FrameFate, Observation, Quality, Stamp,
};
use picket_wire::{CameraName, EpochId, ObservationId, Picture, Topic};

type Failure = Box<dyn Error>;

const LIMIT: Duration = Duration::from_secs(600);
/// As many numbers as capture reserves at a time.
const BLOCK: u64 = 256;
/// Rows that are read, acknowledged and deleted together; `sqlite_spool.py` takes as many.
const BATCH: Limits = Limits { rows: 256, bytes: 4 << 20 };

fn main() -> Result<(), Failure> {
    let mut arguments = env::args().skip(1);
    let mut argument = |name: &str| arguments.next().ok_or(format!("{name} is missing"));
    let (folder, work) = (argument("FOLDER")?, argument("WORK")?);
    let mut number = |name| -> Result<u64, Failure> { Ok(argument(name)?.parse()?) };
    let (mut began, written_before) = (Instant::now(), written_bytes()?);
    let mut bench = Bench::open(Path::new(&folder))?;
    let started_s = began.elapsed().as_secs_f64();
    if work != "start" {
        began = Instant::now();
    }
    match work.as_str() {
        "put" => bench.put(number("FRAMES")?, number("PICTURE_BYTES")?)?,
        "drain" => bench.drain()?,
        "link" => bench.one_by_one(number("FRAMES")?, number("PICTURE_BYTES")?, true)?,
        "outage" => {
            bench.one_by_one(number("FRAMES")?, number("PICTURE_BYTES")?, false)?;
            bench.drain()?;
        }
        "start" => bench.first()?,
        other => return Err(format!("{other} is no work").into()),
    }
    let s = began.elapsed().as_secs_f64();
    let payload = bench.payload;
    // What is still in the log is written once more, as it would be in a longer run.
    bench.finish()?;
    let written = written_bytes()? - written_before;
    println!(
        r#"{{"s": {s:.4}, "started_s": {started_s:.4}, "payload": {payload}, "written": {written}, "peak_kib": {}}}"#,
        peak_kib()?
    );
    Ok(())
}

/// A clock that nobody set: what is measured is the same in each run.
struct Unset(Instant);

impl Clock for Unset {
    fn now(&self) -> Stamp {
        stamp(self.0.elapsed().as_micros() as u64)
    }
    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}

fn stamp(mono_us: u64) -> Stamp {
    Stamp { mono_us, captured_at: None, clock: ClockState::Unset }
}

struct Bench {
    spool: SpoolHandle,
    reader: SpoolReader,
    input: Sender<Observed>,
    camera: CameraName,
    epoch: EpochId,
    picture: Vec<u8>,
    payload: u64,
}

impl Bench {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let key_file = folder.with_added_extension("key");
        let encryption = key_file.exists().then(|| EncryptionSettings {
            key_file: Some(key_file),
            credential: None,
            former_key_files: Vec::new(),
            former_credentials: Vec::new(),
            enabled: true,
        });
        let settings = Settings { max_bytes: 64 << 30, encryption, ..Settings::default() };
        let camera: CameraName = "north".parse()?;
        let clock = Arc::new(Unset(Instant::now()));
        let cameras = [camera.clone()];
        let (spool, epoch) = Spool::open(&settings, folder, &"gate".parse()?, &cameras, clock)?;
        let (input, taken) = bounded(64);
        let spool = spool.spawn_writer(taken)?;
        let reader = spool.reader()?;
        Ok(Self { spool, reader, input, camera, epoch, picture: Vec::new(), payload: 0 })
    }

    /// Hands a frame to the spool, as detection does.
    fn send(&mut self, seq: u64, picture_bytes: u64) -> Result<(), Failure> {
        if seq % BLOCK == 1 {
            self.spool.reserve(&self.camera, BLOCK)?;
        }
        let id: ObservationId = format!("gate/north/{}/{seq}", self.epoch).parse()?;
        let observation = observation(id.clone(), seq);
        let picture = (picture_bytes > 0).then(|| {
            let (stamp, redacted) = (stamp(seq), "none".to_owned());
            let jpeg = self.jpeg(seq, picture_bytes);
            Picture { id, crop: None, stamp, width: 1280, height: 720, redacted, jpeg }
        });
        self.spool.ledger().captured(&self.camera, 1);
        let (picture_lost, position) = (None, None);
        self.input.send(Observed::Observation { observation, picture, picture_lost, position })?;
        Ok(())
    }

    /// Bytes that do not compress, others in each frame.
    fn jpeg(&mut self, seq: u64, bytes: u64) -> Vec<u8> {
        if self.picture.is_empty() {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            self.picture = (0..bytes).map(|_| noise(&mut state)).collect();
            self.picture[..3].copy_from_slice(&[0xff, 0xd8, 0xff]);
        }
        let mut jpeg = self.picture.clone();
        jpeg[8..16].copy_from_slice(&seq.to_le_bytes());
        jpeg
    }

    fn put(&mut self, frames: u64, picture_bytes: u64) -> Result<(), Failure> {
        for seq in 1..=frames {
            self.send(seq, picture_bytes)?;
        }
        self.spool.flush(LIMIT)?;
        let stat = self.reader.status(None)?;
        self.payload += stat.bytes;
        Ok(())
    }

    /// Each frame has a commit of its own; with `sent` its rows go with the next one's.
    fn one_by_one(&mut self, frames: u64, picture_bytes: u64, sent: bool) -> Result<(), Failure> {
        for seq in 1..=frames {
            self.send(seq, picture_bytes)?;
            self.spool.flush(LIMIT)?;
            if sent {
                for topic in Topic::OF_CAMERAS {
                    let rows = self.take(topic)?;
                    self.settle(&rows)?;
                }
            }
        }
        Ok(())
    }

    /// Observations before pictures, as the uplink has it.
    fn drain(&mut self) -> Result<(), Failure> {
        for topic in Topic::OF_CAMERAS {
            loop {
                let rows = self.take(topic)?;
                if rows.is_empty() {
                    break;
                }
                self.settle(&rows)?;
                self.spool.flush(LIMIT)?;
            }
        }
        Ok(())
    }

    fn first(&mut self) -> Result<(), Failure> {
        let one = Limits { rows: 1, bytes: 1 };
        for topic in Topic::OF_CAMERAS {
            let rows = self.reader.next_batch(topic, RowId::MIN..RowId::MAX, one)?;
            self.payload += rows.first().ok_or("nothing waits")?.bytes();
        }
        Ok(())
    }

    fn take(&self, topic: Topic) -> Result<Vec<Spooled>, Failure> {
        Ok(self.reader.next_batch(topic, RowId::MIN..RowId::MAX, BATCH)?)
    }

    fn settle(&mut self, rows: &[Spooled]) -> Result<(), Failure> {
        // Headers as they are kept: with quotes, commas and brackets around each.
        let bytes = |row: &Spooled| row.value.len() + headers_bytes(row);
        self.payload += rows.iter().map(|row| bytes(row) as u64).sum::<u64>();
        let outcome = Outcome::Acknowledged;
        let settled =
            |row: &Spooled| Settled { topic: row.topic, id: row.id, outcome: outcome.clone() };
        self.reader.settle(rows.iter().map(settled).collect())?;
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let Self { spool, reader, input, .. } = self;
        drop((reader, input));
        spool.finish(LIMIT)?;
        Ok(())
    }
}

fn headers_bytes(row: &Spooled) -> usize {
    1 + row.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
}

fn observation(id: ObservationId, seq: u64) -> Observation {
    let quality =
        Quality { score: 0.5, size_px: 30.25, sharpness: 210.5, yaw_deg: None, roll_deg: None };
    let face = Detection {
        box_px: [10.5, 20.0, 30.25, 40.0],
        score: 0.875,
        class: "face".to_owned(),
        landmarks: vec![[12.0, 25.0], [30.0, 25.5], [21.0, 35.0], [14.0, 45.0], [28.0, 45.5]],
        quality: Some(quality),
    };
    Observation {
        id,
        stamp: stamp(seq),
        frame_width: 1280,
        frame_height: 720,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "ab".repeat(32) },
        motion_score: Some(0.25),
        frame: FrameFate::Possible,
        detections: vec![face],
    }
}

fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

fn written_bytes() -> Result<u64, Failure> {
    field("/proc/self/io", "write_bytes:")
}

fn peak_kib() -> Result<u64, Failure> {
    field("/proc/self/status", "VmHWM:")
}

fn field(path: &str, name: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.split_whitespace().next().ok_or("an empty line")?.parse()?)
}
