//! An agent from its detector's output on: a real spool, a real uplink, and librdkafka's mock brokers.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{Clock, Settings as SpoolSettings, Spool, SpoolHandle};
use picket_edge_agent::uplink::{Settings, Uplink, UplinkHandle};
use picket_wire::observation::{ClockState, Detector, FrameFate, Observation, Reason, Skip, Stamp};
use picket_wire::status::Books;
use picket_wire::{CameraName, DeviceName, EpochId, ObservationId, Picture, Topic, TopicNames};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

pub const LIMIT: Duration = Duration::from_secs(120);
pub const BROKER: i32 = 1;

pub type Mock = MockCluster<'static, DefaultProducerContext>;

/// Counts up; else as it was made.
struct TestClock(AtomicU64, Stamp);

impl Clock for TestClock {
    fn now(&self) -> Stamp {
        Stamp { mono_us: self.0.fetch_add(1, Ordering::SeqCst), ..self.1 }
    }
    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}

pub fn stamp(mono_us: u64) -> Stamp {
    Stamp { mono_us, captured_at: None, clock: ClockState::Unset }
}

/// One without a detection, whose picture is published.
pub fn observation(id: ObservationId, stamp: Stamp) -> Observation {
    Observation {
        id,
        stamp,
        frame_width: 640,
        frame_height: 480,
        detector: Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) },
        motion_score: None,
        frame: FrameFate::Published,
        detections: Vec::new(),
    }
}

pub fn north() -> CameraName {
    "north".parse().unwrap()
}

pub fn gate() -> DeviceName {
    "gate".parse().unwrap()
}

pub fn cluster() -> Mock {
    cluster_of(1)
}

pub fn cluster_of(brokers: i32) -> Mock {
    let mock = MockCluster::new(brokers).unwrap();
    for topic in Topic::OF_DEVICES {
        mock.create_topic(&TopicNames::default().name(topic), 3, 1).unwrap();
    }
    mock
}

pub fn settings(brokers: String) -> Settings {
    Settings {
        brokers: brokers.split(',').map(ToOwned::to_owned).collect(),
        allow_plaintext: true,
        stall_ms: 2000,
        ..Settings::default()
    }
}

pub struct Agent {
    pub spool: SpoolHandle,
    pub epoch: EpochId,
    pub input: Sender<Observed>,
    pub uplink: UplinkHandle,
}

/// With a clock that was never set.
pub fn start(dir: &Path, settings: &Settings) -> Agent {
    start_at(stamp(1), dir, settings)
}

/// With a clock as this one.
pub fn start_at(now: Stamp, dir: &Path, settings: &Settings) -> Agent {
    start_kept(now, dir, settings, &SpoolSettings::default())
}

/// With these settings of the spool.
pub fn start_kept(now: Stamp, dir: &Path, settings: &Settings, kept: &SpoolSettings) -> Agent {
    let clock = Arc::new(TestClock(AtomicU64::new(1), now));
    let (spool, epoch) = Spool::open(kept, dir, &gate(), &[north()], clock).unwrap();
    let (input, rx) = unbounded();
    let spool = spool.spawn_writer(rx).unwrap();
    let uplink = Uplink::spawn(settings, &gate(), spool.reader().unwrap()).unwrap();
    Agent { spool, epoch, input, uplink }
}

impl Agent {
    pub fn capture(&self, seqs: RangeInclusive<u64>) {
        self.capture_of(&north(), seqs);
    }

    /// Skips are the smallest records that settle a `seq`.
    pub fn capture_of(&self, camera: &CameraName, seqs: RangeInclusive<u64>) {
        for seq in seqs {
            self.spool.ledger().captured(camera, 1);
            let id: ObservationId = format!("gate/{camera}/{}/{seq}", self.epoch).parse().unwrap();
            let reason = Reason::try_from("still".to_owned()).unwrap();
            let skip = Skip { id, stamp: stamp(seq), first: seq, last: seq, reason };
            self.input.send(Observed::Skipped(skip)).unwrap();
        }
        self.spool.flush(LIMIT).unwrap();
    }

    pub fn capture_with_picture(&self, seq: u64) {
        self.spool.ledger().captured(&north(), 1);
        let id: ObservationId = format!("gate/north/{}/{seq}", self.epoch).parse().unwrap();
        let observation = observation(id.clone(), stamp(seq));
        let (redacted, jpeg) = ("none".to_owned(), vec![0xff, 0xd8, 0xff, 0xd9]);
        let stamp = stamp(seq);
        let picture =
            Some(Picture { id, crop: None, stamp, width: 64, height: 48, redacted, jpeg });
        let (picture_lost, position) = (None, None);
        let observed = Observed::Observation { observation, picture, picture_lost, position };
        self.input.send(observed).unwrap();
        self.spool.flush(LIMIT).unwrap();
    }

    pub fn books(&self) -> Books {
        let books = self.spool.ledger().books(&north()).unwrap();
        assert!(books.balanced(), "{books:?}");
        books
    }

    pub fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !condition(self) {
            let (status, books) = (self.uplink.status(), self.books());
            assert!(Instant::now() < until, "{what}: {status:?} {books:?}");
            self.spool.flush(LIMIT).unwrap();
        }
    }

    pub fn end(self) {
        self.spool.flush(LIMIT).unwrap();
        self.uplink.drain(LIMIT).unwrap();
        self.spool.finish(LIMIT).unwrap();
    }
}
