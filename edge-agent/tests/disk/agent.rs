//! An agent from its detector's output to its uplink's input, with both played by the test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crossbeam_channel::{Sender, unbounded};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    Clock, Limits, Outcome, Settings, Settled, Spool, SpoolError, SpoolHandle, SpoolReader, Spooled,
};
use picket_wire::observation::{ClockState, Detector, FrameFate, Observation, Reason, Skip, Stamp};
use picket_wire::{CameraName, EpochId, ObservationId, Picture, Topic};

use crate::LIMIT;

/// 2027-01-15, in microseconds.
const START_US: i64 = 1_800_000_000_000_000;
/// No wall time.
const UNSET: i64 = i64::MIN;
/// As capture reserves them, but fewer, so that reservations are many.
const BLOCK: u64 = 16;

pub const ALL: Limits = Limits { rows: 1_000_000, bytes: u64::MAX };

/// Both clocks; each reading is a microsecond later than the one before.
pub struct TestClock {
    mono_us: AtomicU64,
    wall_at_zero_us: AtomicI64,
}

impl TestClock {
    pub fn set() -> Arc<Self> {
        Arc::new(Self { mono_us: AtomicU64::new(1), wall_at_zero_us: AtomicI64::new(START_US) })
    }

    /// At boot, before any time source was found.
    pub fn unset() -> Arc<Self> {
        let clock = Self::set();
        clock.wall_at_zero_us.store(UNSET, Ordering::SeqCst);
        clock
    }

    /// Wall time jumps.
    pub fn jump(&self, by_us: i64) {
        self.wall_at_zero_us.fetch_add(by_us, Ordering::SeqCst);
    }

    /// Wall time becomes known.
    pub fn find_time(&self) {
        self.wall_at_zero_us.store(START_US, Ordering::SeqCst);
    }

    /// Both clocks go on.
    pub fn pass(&self, us: u64) {
        self.mono_us.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Stamp {
        let mono_us = self.mono_us.fetch_add(1, Ordering::SeqCst);
        let zero = self.wall_at_zero_us.load(Ordering::SeqCst);
        if zero == UNSET {
            return Stamp { mono_us, captured_at: None, clock: ClockState::Unset };
        }
        let at = jiff::Timestamp::from_microsecond(zero + mono_us as i64).unwrap();
        Stamp { mono_us, captured_at: Some(at), clock: ClockState::Synchronised }
    }

    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}

pub fn cameras() -> [CameraName; 2] {
    ["north", "south"].map(|name| name.parse().unwrap())
}

/// A running spool.
pub struct Agent {
    pub spool: SpoolHandle,
    pub epoch: EpochId,
    pub reader: SpoolReader,
    pub clock: Arc<TestClock>,
    input: Sender<Observed>,
    /// By camera: the last `seq` that was used, and the last that is reserved.
    numbers: BTreeMap<CameraName, (u64, u64)>,
}

impl Agent {
    pub fn start(dir: &Path, settings: &Settings, clock: Arc<TestClock>) -> Self {
        Self::try_start(dir, settings, clock).unwrap()
    }

    pub fn try_start(
        dir: &Path,
        settings: &Settings,
        clock: Arc<TestClock>,
    ) -> Result<Self, SpoolError> {
        let device = "gate".parse().unwrap();
        let (spool, epoch) = Spool::open(settings, dir, &device, &cameras(), clock.clone())?;
        let (input, rx) = unbounded();
        let spool = spool.spawn_writer(rx)?;
        let reader = spool.reader()?;
        Ok(Self { spool, epoch, reader, clock, input, numbers: BTreeMap::new() })
    }

    /// The camera's next number, from a block that is reserved; `None` while the disk refuses.
    pub fn next_id(&mut self, camera: &CameraName) -> Option<ObservationId> {
        let (used, reserved) = self.numbers.get(camera).copied().unwrap_or((0, 0));
        let reserved = match used < reserved {
            true => reserved,
            false => *self.spool.reserve(camera, BLOCK).ok()?.end(),
        };
        self.numbers.insert(camera.clone(), (used + 1, reserved));
        Some(format!("gate/{camera}/{}/{}", self.epoch, used + 1).parse().unwrap())
    }

    /// Numbers that the camera can still use without asking.
    pub fn numbers_left(&self, camera: &CameraName) -> u64 {
        self.numbers.get(camera).map_or(0, |(used, reserved)| reserved - used)
    }

    /// One frame that was looked at, with a picture of so many bytes. `None` if it got no number.
    pub fn capture(
        &mut self,
        camera: &CameraName,
        picture: Option<usize>,
    ) -> Option<ObservationId> {
        let id = self.next_id(camera)?;
        self.spool.ledger().captured(camera, 1);
        let stamp = self.clock.now();
        let observation = Observation {
            id: id.clone(),
            stamp,
            frame_width: 640,
            frame_height: 480,
            detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
            motion_score: None,
            frame: FrameFate::Published,
            detections: Vec::new(),
        };
        let picture = picture.map(|bytes| picture_of(&id, stamp, bytes));
        let (picture_lost, position) = (None, None);
        let observed = Observed::Observation { observation, picture, picture_lost, position };
        self.input.send(observed).unwrap();
        Some(id)
    }

    /// A run of `count` frames that were not looked at; fewer where the numbers run out.
    pub fn skip(&mut self, camera: &CameraName, count: u64) -> Option<(ObservationId, u64)> {
        let id = self.next_id(camera)?;
        let mut last = id.seq;
        while last - id.seq + 1 < count
            && let Some(next) = self.next_id(camera)
        {
            last = next.seq;
        }
        self.spool.ledger().captured(camera, last - id.seq + 1);
        let reason = Reason::try_from("still".to_owned()).unwrap();
        let skip = Skip { id: id.clone(), stamp: self.clock.now(), first: id.seq, last, reason };
        self.input.send(Observed::Skipped(skip)).unwrap();
        Some((id, last))
    }

    pub fn flush(&self) {
        self.spool.flush(LIMIT).unwrap();
    }

    /// All that is not on its way.
    pub fn take(&self, topic: Topic) -> Vec<Spooled> {
        self.reader.next_batch(topic, 0..i64::MAX, ALL).unwrap()
    }

    pub fn settle(&self, rows: &[Spooled], outcome: &Outcome) {
        let settled =
            |row: &Spooled| Settled { topic: row.topic, id: row.id, outcome: outcome.clone() };
        self.reader.settle(rows.iter().map(settled).collect()).unwrap();
    }

    /// A clean end.
    pub fn finish(self) {
        drop(self.input);
        self.spool.finish(LIMIT).unwrap();
    }
}

/// Bytes that tell the picture of one frame from that of any other.
fn picture_of(id: &ObservationId, stamp: Stamp, bytes: usize) -> Picture {
    let mut jpeg = vec![0xff, 0xd8, 0xff];
    jpeg.extend(id.to_string().bytes());
    jpeg.resize(bytes.max(jpeg.len()), id.seq as u8);
    let (redacted, crop) = ("none".to_owned(), None);
    Picture { id: id.clone(), crop, stamp, width: 640, height: 480, redacted, jpeg }
}
