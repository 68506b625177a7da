//! A fleet's observations, as many cameras would have sent them, written to the real topic: `fleet-records
//! --help`. For `fleet.py`, which measures what the centre makes of them.
//!
//! Each record is made and encoded by `picket-wire`, so the centre cannot tell it from an agent's. People walk
//! past each camera at a pace of their own; the detector that "sees" them trembles, misses some and invents
//! others, so that the tracker has work. One seed, one fleet: two runs write the same records, but for their
//! times. A camera that is `--away` for a share of the time sends what it captured meanwhile afterwards, as
//! backlog beside what is live. Prints a line of JSON: what was sent.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use picket_wire::observation::{
    ClockState, Detection, Detector, EpochStart, FrameFate, Observation, Quality, Stamp,
};
use picket_wire::{
    CameraKey, CameraRecord, EpochId, Lane, ObservationId, Outgoing, TopicNames, header,
};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::util::Timeout;
use rdkafka::{ClientContext, Message};

const FRAME_PX: [f32; 2] = [1280.0, 720.0];
/// How many records of a backlog go beside one that is live.
const BACKLOG_SPEED: usize = 2;
const DELIVERY: Duration = Duration::from_secs(120);

/// Writes a fleet's observations to the topic.
#[derive(Parser)]
struct Options {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    topic_prefix: String,
    /// Devices among which the cameras are.
    #[arg(long)]
    devices: u32,
    /// Cameras of all devices together.
    #[arg(long)]
    cameras: u32,
    /// Observations of each camera in a second.
    #[arg(long)]
    fps: f64,
    /// Seconds that each camera captures.
    #[arg(long)]
    seconds: f64,
    /// Faces in a frame, in the mean.
    #[arg(long)]
    faces: f64,
    /// Share of each camera's records that comes late, from one outage.
    #[arg(long, default_value_t = 0.0)]
    away: f64,
    /// Sends each record when it is captured, and not all as fast as the broker takes them.
    #[arg(long)]
    real_time: bool,
    /// Which fleet.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.devices >= 1 && options.cameras >= options.devices, "a device has a camera");
    ensure!(options.fps > 0.0 && options.seconds > 0.0, "--fps and --seconds are above 0");
    ensure!((0.0..1.0).contains(&options.away), "--away is a share of 1");
    let mut sender = Sender::new(&options)?;
    let span = SignedDuration::from_secs_f64(options.seconds);
    // As if all had just been captured, unless it is.
    let epoch_start = if options.real_time { Timestamp::now() } else { Timestamp::now() - span };
    let mut cameras: Vec<Camera> = (0..options.cameras)
        .map(|number| Camera::new(&options, number, epoch_start))
        .collect::<Result<_>>()?;
    let began = Instant::now();
    for camera in &mut cameras {
        sender.send(&camera.epoch_record()?, Lane::Live)?;
    }
    let frames = (options.seconds * options.fps) as u64;
    for frame in 1..=frames {
        if options.real_time {
            let due = began + Duration::from_secs_f64(frame as f64 / options.fps);
            tokio::time::sleep_until(due.into()).await;
        }
        for camera in &mut cameras {
            camera.capture(frame, &mut sender)?;
        }
    }
    for camera in &mut cameras {
        camera.drain(usize::MAX, &mut sender)?;
    }
    sender.flush()?;
    let sent = serde_json::json!({
        "observations": sender.observations,
        "backlog": sender.backlog,
        "records": sender.records,
        "detections": cameras.iter().map(|camera| camera.detections).sum::<u64>(),
        "bytes": sender.bytes,
        "each_camera": frames,
        "seconds": began.elapsed().as_secs_f64(),
    });
    println!("{sent}");
    Ok(())
}

/// Splitmix: the fleet needs variety, not quality.
struct Dice(u64);

impl Dice {
    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }

    /// From -1 to 1.
    fn around_zero(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }
}

/// Walks through the picture on a line of its own depth, is away for a while, and somebody else comes.
struct Walker {
    enters_s: f32,
    leaves_s: f32,
    face_px: f32,
    height_px: f32,
    from_left: bool,
}

/// Share of the time that somebody is in the picture.
const PRESENT: f32 = 0.7;

impl Walker {
    fn new(after_s: f32, dice: &mut Dice) -> Self {
        let stays_s = 4.0 + 10.0 * dice.unit();
        let enters_s = after_s + stays_s * (1.0 / PRESENT - 1.0) * 2.0 * dice.unit();
        let face_px = 40.0 + 80.0 * dice.unit();
        let height_px = (FRAME_PX[1] - 2.0 * face_px) * dice.unit();
        let from_left = dice.unit() < 0.5;
        Self { enters_s, leaves_s: enters_s + stays_s, face_px, height_px, from_left }
    }

    /// Left, top, width, height, if it is in the picture.
    fn box_px(&self, now_s: f32) -> Option<[f32; 4]> {
        let way = (now_s - self.enters_s) / (self.leaves_s - self.enters_s);
        let way = if self.from_left { way } else { 1.0 - way };
        let left = (FRAME_PX[0] - self.face_px) * way;
        let bob = 0.05 * self.face_px * (now_s * 9.0).sin();
        (now_s >= self.enters_s).then_some([
            left,
            self.height_px + bob,
            self.face_px,
            1.25 * self.face_px,
        ])
    }
}

struct Camera {
    key: CameraKey,
    epoch: EpochId,
    epoch_start: Timestamp,
    fps: f64,
    walkers: Vec<Walker>,
    dice: Dice,
    detections: u64,
    /// First frame that is captured while the link is down, and the first after it.
    away: (u64, u64),
    backlog: VecDeque<Outgoing>,
}

impl Camera {
    fn new(options: &Options, number: u32, epoch_start: Timestamp) -> Result<Self> {
        let device = format!("box-{:04}", number % options.devices);
        let key = format!("{device}/cam-{}", number / options.devices).parse()?;
        let mut dice = Dice(options.seed << 32 | u64::from(number));
        // As many who come and go as make so many faces in the mean.
        let many = options.faces as f32 / PRESENT;
        let count = many.floor() + f32::from(u8::from(dice.unit() < many.fract()));
        let walkers = (0..count as usize).map(|_| Walker::new(-10.0 * dice.unit(), &mut dice));
        let walkers = walkers.collect();
        let frames = options.seconds * options.fps;
        let first =
            frames * 0.1 + (frames * (0.8 - options.away)).max(0.0) * f64::from(dice.unit());
        let away = (first as u64, (first + frames * options.away) as u64);
        let epoch = EpochId { number: 1, instance: number };
        Ok(Self {
            key,
            epoch,
            epoch_start,
            fps: options.fps,
            walkers,
            dice,
            detections: 0,
            away,
            backlog: VecDeque::new(),
        })
    }

    fn id(&self, seq: u64) -> ObservationId {
        ObservationId { key: self.key.clone(), epoch: self.epoch, seq }
    }

    fn stamp(&self, seconds: f64) -> Stamp {
        Stamp {
            mono_us: (seconds * 1e6) as u64,
            captured_at: Some(self.epoch_start + SignedDuration::from_secs_f64(seconds)),
            clock: ClockState::Synchronised,
        }
    }

    fn epoch_record(&self) -> Result<Outgoing> {
        let start = EpochStart {
            id: self.id(0),
            stamp: self.stamp(0.0),
            previous: None,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(CameraRecord::Epoch(start).encode()?)
    }

    fn capture(&mut self, frame: u64, sender: &mut Sender) -> Result<()> {
        let message = self.look(frame).encode()?;
        if (self.away.0..self.away.1).contains(&frame) {
            self.backlog.push_back(message);
            return Ok(());
        }
        sender.send(&message, Lane::Live)?;
        self.drain(BACKLOG_SPEED, sender)
    }

    fn drain(&mut self, most: usize, sender: &mut Sender) -> Result<()> {
        for message in self.backlog.drain(..most.min(self.backlog.len())) {
            sender.send(&message, Lane::Backlog)?;
        }
        Ok(())
    }

    fn look(&mut self, frame: u64) -> CameraRecord {
        let seconds = frame as f64 / self.fps;
        let now_s = seconds as f32;
        let mut detections = Vec::new();
        for walker in &mut self.walkers {
            if now_s > walker.leaves_s {
                *walker = Walker::new(now_s, &mut self.dice);
            }
            if let Some(place) = walker.box_px(now_s)
                && self.dice.unit() > 0.05
            {
                detections.push(face(place, 0.8, &mut self.dice));
            }
        }
        if self.dice.unit() < 0.03 {
            let [x, y] = FRAME_PX.map(|px| (px - 100.0) * self.dice.unit());
            detections.push(face([x, y, 60.0, 75.0], 0.45, &mut self.dice));
        }
        self.detections += detections.len() as u64;
        CameraRecord::Observation(Observation {
            id: self.id(frame),
            stamp: self.stamp(seconds),
            frame_width: FRAME_PX[0] as u32,
            frame_height: FRAME_PX[1] as u32,
            detector: Detector { name: "yunet".to_owned(), model_sha256: "ab".repeat(32) },
            motion_score: Some(0.1 * self.dice.unit()),
            frame: FrameFate::Withheld,
            detections,
        })
    }
}

/// A face as YuNet tells it: with landmarks and quality.
fn face([x, y, width, height]: [f32; 4], score: f32, dice: &mut Dice) -> Detection {
    let mut tremble = |value: f32, size: f32| value + 0.03 * size * dice.around_zero();
    let box_px =
        [tremble(x, width), tremble(y, height), tremble(width, width), tremble(height, height)];
    let places = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]];
    let landmarks = places.map(|[across, down]| {
        [tremble(x + across * width, width), tremble(y + down * height, height)]
    });
    let quality = Quality {
        score: 0.5 + 0.4 * dice.unit(),
        size_px: width.min(height),
        sharpness: 100.0 + 300.0 * dice.unit(),
        yaw_deg: Some(30.0 * dice.around_zero()),
        roll_deg: Some(10.0 * dice.around_zero()),
    };
    Detection {
        box_px,
        score: score + 0.15 * dice.around_zero(),
        class: "face".to_owned(),
        landmarks: landmarks.to_vec(),
        quality: Some(quality),
    }
}

/// Counts what the broker did not take.
#[derive(Clone, Default)]
struct Undelivered(Arc<AtomicU64>);

impl ClientContext for Undelivered {}

impl ProducerContext for Undelivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result
            && self.0.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!("fleet-records: {} was not taken: {error}", message.topic());
        }
    }
}

struct Sender {
    producer: ThreadedProducer<Undelivered>,
    undelivered: Undelivered,
    topics: BTreeMap<picket_wire::Topic, String>,
    observations: u64,
    backlog: u64,
    records: u64,
    bytes: u64,
}

impl Sender {
    fn new(options: &Options) -> Result<Self> {
        let undelivered = Undelivered::default();
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &options.brokers)
            .set("security.protocol", "ssl")
            .set("ssl.ca.location", path(&options.ca))
            .set("ssl.certificate.location", path(&options.certificate))
            .set("ssl.key.location", path(&options.key))
            // As the agents have it.
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "zstd")
            .set("linger.ms", if options.real_time { "5" } else { "50" })
            .set("queue.buffering.max.kbytes", "131072")
            .create_with_context(undelivered.clone())?;
        let names = TopicNames::new(&options.topic_prefix);
        let topics = picket_wire::Topic::ALL.map(|topic| (topic, names.name(topic)));
        let topics = topics.into_iter().collect();
        Ok(Self {
            producer,
            undelivered,
            topics,
            observations: 0,
            backlog: 0,
            records: 0,
            bytes: 0,
        })
    }

    fn send(&mut self, message: &Outgoing, lane: Lane) -> Result<()> {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1);
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        headers = headers.insert(Header { key: header::LANE, value: Some(lane.as_str()) });
        let topic = &self.topics[&message.topic];
        let mut record =
            BaseRecord::to(topic).key(&message.key).payload(&message.value).headers(headers);
        while let Err((error, unsent)) = self.producer.send(record) {
            let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(is_full, "the record was not taken: {error}");
            // Whether all of it is sent by then does not matter, as long as some is.
            let _ = self.producer.flush(Timeout::After(Duration::from_millis(20)));
            record = unsent;
        }
        self.records += 1;
        self.bytes += message.value.len() as u64;
        // An epoch's record is the only other one.
        if !message.headers.contains(&(header::KIND, picket_wire::Kind::Epoch.to_string())) {
            self.observations += 1;
            self.backlog += u64::from(lane == Lane::Backlog);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.producer.flush(Timeout::After(DELIVERY))?;
        let undelivered = self.undelivered.0.load(Ordering::Relaxed);
        ensure!(undelivered == 0, "{undelivered} records were not taken by the broker");
        Ok(())
    }
}
