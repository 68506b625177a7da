//! Made-up cameras that write to the topics as devices on a bad link do: some of it late, some of it
//! twice, with runs that were skipped and runs that are gone, and a start of the agent in between.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use picket_wire::header::Lane;
use picket_wire::observation::{
    ClockState, Detection, Detector, EpochStart, FrameFate, Gap, GapOf, Observation, PreviousEpoch,
    Reason, Skip, Stamp,
};
use picket_wire::{CameraRecord, ObservationId, Outgoing, Picture, TopicNames};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::faults::{Chance, short_or_long};
use crate::stack::Stack;
use crate::topics::headers;

/// Cameras of a device.
const CAMERAS: usize = 8;
/// How often each camera writes, and how much of it at a time: 40 observations a second.
const EVERY: Duration = Duration::from_millis(100);
const AT_A_TIME: u64 = 4;
/// One observation in so many has its picture published.
const PICTURED: u64 = 10;

/// Cameras of one device that write until they are told to stop.
pub struct Feed {
    stop: watch::Sender<bool>,
    sent: watch::Receiver<usize>,
    task: JoinHandle<Result<()>>,
}

impl Feed {
    /// Begins to write in the name of a device.
    pub async fn start(stack: &Stack, device: &str, mut chance: Chance) -> Result<Self> {
        let credentials = stack.device_certificate("feed").await?;
        let settings = stack.settings();
        let mut config = settings.kafka_client(Some(&credentials));
        config.set("partitioner", "murmur2_random").set("enable.idempotence", "true");
        let to = Sink {
            producer: config.create()?,
            topics: TopicNames::new(&settings.kafka.topic_prefix),
            underway: Vec::new(),
        };
        let cameras =
            (0..CAMERAS).map(|n| Camera::new(format!("{device}/cam{n}"), chance.another()));
        let cameras = cameras.collect();
        let (stop, stopped) = watch::channel(false);
        let (count, sent) = watch::channel(0);
        Ok(Self { stop, sent, task: tokio::spawn(write(cameras, to, stopped, count)) })
    }

    /// Waits until they have written so many messages.
    pub async fn sent(&mut self, messages: usize) -> Result<()> {
        self.sent.wait_for(|sent| *sent >= messages).await.context("the feed ended")?;
        Ok(())
    }

    /// Has the cameras write what they kept back, and returns once the broker has it all.
    pub async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        self.task.await.context("the feed")?
    }
}

async fn write(
    mut cameras: Vec<Camera>,
    mut to: Sink,
    mut stopped: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> Result<()> {
    let mut beat = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            _ = beat.tick() => {}
        }
        for camera in &mut cameras {
            camera.go_on(&mut to)?;
        }
        count.send_replace(to.underway.len());
    }
    for camera in &mut cameras {
        camera.catch_up(&mut to)?;
    }
    let delivered = try_join_all(std::mem::take(&mut to.underway)).await?;
    delivered.into_iter().try_for_each(|sent| sent.map(drop).map_err(|(error, _)| error.into()))
}

struct Sink {
    producer: FutureProducer,
    topics: TopicNames,
    underway: Vec<DeliveryFuture>,
}

impl Sink {
    fn send(&mut self, message: &Outgoing, lane: Lane) -> Result<()> {
        let headers = headers(message, lane);
        let name = self.topics.name(message.topic);
        let record = FutureRecord::to(&name).key(&message.key).headers(headers);
        let sent = self.producer.send_result(record.payload(&message.value));
        self.underway.push(sent.map_err(|(error, _)| error)?);
        Ok(())
    }
}

/// One camera, which stands at a number of an epoch.
struct Camera {
    key: String,
    epoch: u64,
    /// After so many the agent starts anew.
    numbers: u64,
    next: u64,
    kept_back: Vec<Outgoing>,
    is_away: bool,
    chance: Chance,
}

impl Camera {
    fn new(key: String, chance: Chance) -> Self {
        Self {
            key,
            epoch: 1,
            numbers: short_or_long(300, 6000),
            next: 0,
            kept_back: Vec::new(),
            is_away: false,
            chance,
        }
    }

    fn go_on(&mut self, to: &mut Sink) -> Result<()> {
        // Away for half a second or so, every second.
        self.is_away = self.chance.below(10) < if self.is_away { 8 } else { 1 };
        if !self.is_away && self.chance.below(4) == 0 {
            self.catch_up(to)?;
        }
        for _ in 0..AT_A_TIME {
            for message in self.next_messages()? {
                let late = self.is_away || self.chance.below(20) == 0;
                if !late {
                    to.send(&message, Lane::Live)?;
                }
                // Kept back because it is late, or because its acknowledgement is lost.
                if late || self.chance.below(20) == 0 {
                    self.kept_back.push(message);
                }
            }
        }
        Ok(())
    }

    fn catch_up(&mut self, to: &mut Sink) -> Result<()> {
        self.kept_back.drain(..).try_for_each(|message| to.send(&message, Lane::Backlog))
    }

    fn next_messages(&mut self) -> Result<Vec<Outgoing>> {
        let seq = self.next;
        self.next += 1;
        if seq == 0 {
            return Ok(vec![self.epoch_start()?.encode()?]);
        }
        if seq == self.numbers {
            self.epoch += 1;
            self.next = 0;
            return Ok(Vec::new());
        }
        if self.chance.below(25) == 0 && seq + 4 < self.numbers {
            let last = seq + self.chance.below(4);
            self.next = last + 1;
            return Ok(vec![self.without(seq, last)?.encode()?]);
        }
        let mut messages = vec![self.observation(seq)?.encode()?];
        if seq.is_multiple_of(PICTURED) {
            messages.push(self.picture(seq)?.encode());
        }
        Ok(messages)
    }

    fn id(&self, seq: u64) -> Result<ObservationId> {
        Ok(format!("{}/{}-0a1b2c3d/{seq}", self.key, self.epoch).parse()?)
    }

    fn epoch_start(&self) -> Result<CameraRecord> {
        let before = (self.epoch > 1).then(|| format!("{}-0a1b2c3d", self.epoch - 1).parse());
        let previous = before.transpose()?.map(|epoch| PreviousEpoch {
            epoch,
            last_committed: self.numbers - 1,
            reserved: self.numbers - 1,
        });
        Ok(CameraRecord::Epoch(EpochStart {
            id: self.id(0)?,
            stamp: stamp(0)?,
            previous,
            agent_version: "0.1.0".to_owned(),
        }))
    }

    /// A run that was skipped, or one that is gone.
    fn without(&mut self, first: u64, last: u64) -> Result<CameraRecord> {
        let (id, stamp) = (self.id(first)?, stamp(first)?);
        if self.chance.below(2) == 0 {
            let reason = Reason::NO_MOTION.into();
            return Ok(CameraRecord::Skip(Skip { id, stamp, first, last, reason }));
        }
        let (count, reason) = (last - first + 1, Reason::SPOOL_FULL.into());
        let of = GapOf::Observations;
        Ok(CameraRecord::Gap(Gap { id, stamp, first, last, count, reason, of }))
    }

    fn observation(&mut self, seq: u64) -> Result<CameraRecord> {
        let published = seq.is_multiple_of(PICTURED);
        Ok(CameraRecord::Observation(Observation {
            id: self.id(seq)?,
            stamp: stamp(seq)?,
            frame_width: 1280,
            frame_height: 720,
            detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
            motion_score: Some(0.1),
            frame: if published { FrameFate::Published } else { FrameFate::Withheld },
            detections: (0..3).filter_map(|who| self.walker(who, seq)).collect(),
        }))
    }

    /// Somebody who walks to and fro, is missed one time in eight, and is away for a while.
    fn walker(&mut self, who: u64, seq: u64) -> Option<Detection> {
        let is_away = (seq / 40 + who).is_multiple_of(4);
        if is_away || self.chance.below(8) == 0 {
            return None;
        }
        let way = (seq * (3 + who)) % 2000;
        let left = way.min(2000 - way) as f32;
        let tremble = self.chance.below(4) as f32;
        Some(Detection {
            box_px: [left + tremble, 100.0 + 120.0 * who as f32, 80.0, 90.0 + tremble],
            score: 0.6 + 0.05 * tremble,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: None,
        })
    }

    fn picture(&self, seq: u64) -> Result<Picture> {
        Ok(Picture {
            id: self.id(seq)?,
            crop: None,
            stamp: stamp(seq)?,
            width: 1280,
            height: 720,
            redacted: "none".to_owned(),
            jpeg: vec![0xff, 0xd8, 0xff, 0xd9],
        })
    }
}

/// Ten numbers a second, by a clock that is right.
fn stamp(seq: u64) -> Result<Stamp> {
    let captured_at = Timestamp::new(1_767_323_045, 0)? + Duration::from_millis(100 * seq);
    let (mono_us, clock) = (100_000 * seq, ClockState::Synchronised);
    Ok(Stamp { mono_us, captured_at: Some(captured_at), clock })
}
