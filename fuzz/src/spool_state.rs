//! State directories for the targets of the spool, and what is done with one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use picket_edge_agent::capture::SourcePosition;
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    self, CarriedReader, Chosen, Clock, Keyring, Limits, Outcome, RowId, Settings, Settled, Spool,
    SpoolError, SpoolHandle, SpoolReader, Spooled,
};
use picket_wire::observation::{ClockState, Detector, FrameFate, Observation, Reason, Skip, Stamp};
use picket_wire::{CameraName, EpochId, ObservationId, Picture, Topic};
use tempfile::TempDir;

/// Longer than the writer takes on any machine, unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// A salvage that meets what may pass waits for longer than a target can.
const SALVAGE: Duration = Duration::from_millis(500);

/// A folder in memory where there is one: each input has thousands of syncs.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The files of a state directory, by their paths in it.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Puts them into a folder.
pub fn lay_out(files: &Files, dir: &Path) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn collect(dir: &Path, below: &Path, files: &mut Files) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(dir).unwrap().to_path_buf();
        let text = name.display().to_string();
        if path.is_dir() {
            collect(dir, &path, files);
        } else if text != "lock" && !text.ends_with("-shm") {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// A spool with a row of each kind: as a clean end leaves it, and as a power cut does.
pub fn made() -> [Files; 2] {
    let dir = scratch();
    let agent = Agent::open(dir.path()).unwrap();
    agent.capture();
    let mut cut = Files::new();
    collect(dir.path(), dir.path(), &mut cut);
    agent.finish();
    let mut ended = Files::new();
    collect(dir.path(), dir.path(), &mut ended);
    [ended, cut]
}

/// A clock that nobody set, so that the spool writes nothing by itself.
struct Unset(AtomicU64);

impl Clock for Unset {
    fn now(&self) -> Stamp {
        stamp(self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}

fn stamp(mono_us: u64) -> Stamp {
    Stamp { mono_us, captured_at: None, clock: ClockState::Unset }
}

fn camera() -> CameraName {
    "north".parse().unwrap()
}

/// A spool at work, without cameras and without a link.
pub struct Agent {
    spool: SpoolHandle,
    reader: SpoolReader,
    epoch: EpochId,
    input: crossbeam_channel::Sender<Observed>,
}

impl Agent {
    /// An agent's start.
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        let clock = Arc::new(Unset(AtomicU64::new(1)));
        // Small, since its reserve is written each time.
        let (max_bytes, checkpoint_bytes) = (16 << 20, 256 << 10);
        let settings = Settings { max_bytes, checkpoint_bytes, ..Settings::default() };
        let device = "gate".parse().unwrap();
        let (spool, epoch) = Spool::open(&settings, dir, &device, &[camera()], clock)?;
        let (input, taken) = unbounded();
        let spool = spool.spawn_writer(taken)?;
        let reader = spool.reader()?;
        Ok(Self { spool, reader, epoch, input })
    }

    fn id(&self, seq: u64) -> ObservationId {
        format!("gate/north/{}/{seq}", self.epoch).parse().unwrap()
    }

    fn send(&self, count: u64, observed: Observed) {
        self.spool.ledger().captured(&camera(), count);
        self.input.send(observed).unwrap();
    }

    /// A frame with its picture; the row of its observation has this id.
    pub fn observe(&self, seq: u64) -> String {
        let id = self.id(seq);
        let detector = Detector { name: "yunet".to_owned(), model_sha256: "00".repeat(32) };
        let observation = Observation {
            id: id.clone(),
            stamp: stamp(seq),
            frame_width: 640,
            frame_height: 480,
            detector,
            motion_score: None,
            frame: FrameFate::Published,
            detections: Vec::new(),
        };
        let picture = Some(self.picture(seq, None));
        let fingerprint = "clip".to_owned();
        let position = Some(SourcePosition { fingerprint, media_time_ns: seq, at_end: false });
        let picture_lost = None;
        self.send(1, Observed::Observation { observation, picture, picture_lost, position });
        id.to_string()
    }

    fn picture(&self, seq: u64, crop: Option<u32>) -> Picture {
        let mut jpeg = vec![0xff, 0xd8, 0xff];
        jpeg.resize(3000, seq as u8);
        let (id, stamp, redacted) = (self.id(seq), stamp(seq), "none".to_owned());
        Picture { id, crop, stamp, width: 640, height: 480, redacted, jpeg }
    }

    fn capture(&self) {
        self.spool.reserve(&camera(), 64).unwrap();
        (1..=3).for_each(|seq| drop(self.observe(seq)));
        self.input.send(Observed::Picture(self.picture(3, Some(0)))).unwrap();
        let (id, reason) = (self.id(4), Reason::NO_MOTION.into());
        self.send(3, Observed::Skipped(Skip { id, stamp: stamp(4), first: 4, last: 6, reason }));
        // A picture that no topic takes: what is in the spool of it is a gap.
        let jpeg = vec![0; 5 << 20];
        self.input.send(Observed::Picture(Picture { jpeg, ..self.picture(3, Some(1)) })).unwrap();
        self.observe(7);
        self.spool.flush(LIMIT).unwrap();
    }

    /// Waits for what is brought over from a damaged database, as far as that goes at once.
    pub fn salvage(&self, dir: &Path) {
        let began = Instant::now();
        while dir.join("spool.sqlite.corrupt-1").exists() && began.elapsed() < SALVAGE {
            self.spool.flush(LIMIT).unwrap();
        }
    }

    /// What the uplink reads, and what is wrong with the rest: rows that it would give up.
    pub fn read(&self) -> (Vec<Spooled>, Vec<Settled>) {
        let (mut rows, mut given_up) = (Vec::new(), Vec::new());
        for topic in Topic::OF_CAMERAS {
            let _ = self.reader.heads(topic, RowId::MIN..RowId::MAX, 100);
            self.read_topic(topic, &mut rows, &mut given_up);
        }
        let _ = self.reader.status(Some(0));
        let _ = self.reader.has_any_below(self.reader.first_id());
        (rows, given_up)
    }

    fn read_topic(&self, topic: Topic, rows: &mut Vec<Spooled>, given_up: &mut Vec<Settled>) {
        let mut from = RowId::MIN;
        let limits = Limits { rows: 4, bytes: 1 << 20 };
        loop {
            let next = match self.reader.next_batch(topic, from..RowId::MAX, limits) {
                Ok(batch) => {
                    let next = batch.last().map(|row| row.id);
                    rows.extend(batch);
                    next
                }
                Err(SpoolError::BadRow { id, .. }) => {
                    let outcome = Outcome::Refused(Reason::SPOOL_DAMAGED.into());
                    given_up.push(Settled { topic, id, outcome });
                    Some(id)
                }
                Err(SpoolError::DamagedRow { id, .. }) => Some(id),
                Err(_) => None,
            };
            let Some(next) = next else { return };
            assert!(next >= from, "row {next} comes behind {from}");
            from = next.saturating_add(1);
        }
    }

    /// Tells the spool what became of rows; it must take that.
    pub fn settle(&self, rows: &[Spooled], given_up: Vec<Settled>) {
        let acknowledged = rows.iter().map(|row| Settled {
            topic: row.topic,
            id: row.id,
            outcome: Outcome::Acknowledged,
        });
        self.reader.settle(acknowledged.chain(given_up).collect()).unwrap();
        self.spool.flush(LIMIT).unwrap();
    }

    /// A clean end; damage may stand in its way, a thread that broke off may not.
    pub fn finish(self) {
        let Self { spool, reader, input, .. } = self;
        drop((reader, input));
        let ended = spool.finish(LIMIT);
        assert!(!matches!(ended, Err(SpoolError::WriterGone)), "the writer broke off");
    }
}

/// All that looks at a state directory from outside.
pub fn look_at(dir: &Path) {
    let _ = spool::stat(dir);
    let _ = spool::list(dir, &Chosen::default());
    let keyring = Keyring::without_masters(dir);
    let _ = spool::verify(dir, &keyring);
    let file = dir.join("carried");
    if spool::export(dir, &keyring, &file, true, None, None).is_ok() {
        let bytes = fs::read(&file).unwrap();
        for record in CarriedReader::open(bytes.as_slice()).unwrap() {
            record.unwrap();
        }
        fs::remove_file(file).unwrap();
    }
}
