//! What has to go when there is no room or when it is too old, on a real SQLite database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clock::SteadyClock;
use common::uplink::{gate, north, observation};
use crossbeam_channel::{Sender, unbounded};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    Clock, Limits, Outcome, Settings, Settled, Spool, SpoolHandle, SpoolReader, Spooled, stat,
};
use picket_wire::observation::{GapOf, Reason};
use picket_wire::{
    CameraKey, CameraName, CameraRecord, EpochId, Kind, Message, ObservationId, Picture, Topic,
    decode, header,
};

const LIMIT: Duration = Duration::from_secs(120);
const ALL: Limits = Limits { rows: 100_000, bytes: u64::MAX };
const MINUTE_US: u64 = 60_000_000;
const HOUR_US: u64 = 60 * MINUTE_US;

fn south() -> CameraName {
    "south".parse().unwrap()
}

/// An agent with two cameras, and no uplink.
struct Agent {
    clock: Arc<SteadyClock>,
    spool: SpoolHandle,
    epoch: EpochId,
    input: Sender<Observed>,
    reader: SpoolReader,
}

impl Agent {
    fn start(dir: &Path, settings: &Settings) -> Self {
        let clock = SteadyClock::start();
        let (spool, epoch) =
            Spool::open(settings, dir, &gate(), &[north(), south()], clock.clone()).unwrap();
        let (input, rx) = unbounded();
        let spool = spool.spawn_writer(rx).unwrap();
        let reader = spool.reader().unwrap();
        Self { clock, spool, epoch, input, reader }
    }

    /// An observation, and a picture and a crop of it of so many bytes, if any.
    fn capture(&self, camera: &CameraName, seq: u64, picture: usize, crop: usize) {
        self.send(camera, seq, picture, crop);
        self.spool.flush(LIMIT).unwrap();
    }

    /// The same, not committed yet.
    fn send(&self, camera: &CameraName, seq: u64, picture: usize, crop: usize) {
        self.spool.ledger().captured(camera, 1);
        let id: ObservationId = format!("gate/{camera}/{}/{seq}", self.epoch).parse().unwrap();
        let stamp = self.clock.now();
        let of = |bytes: usize, crop: Option<u32>| {
            let mut jpeg = vec![0xff, 0xd8, 0xff];
            jpeg.resize(bytes, 7);
            let (id, redacted) = (id.clone(), "none".to_owned());
            Picture { id, crop, stamp, width: 640, height: 480, redacted, jpeg }
        };
        let observed = Observed::Observation {
            observation: observation(id.clone(), stamp),
            picture: (picture > 0).then(|| of(picture, None)),
            picture_lost: None,
            position: None,
        };
        self.input.send(observed).unwrap();
        if crop > 0 {
            self.input.send(Observed::Picture(of(crop, Some(0)))).unwrap();
        }
    }

    fn take(&self, topic: Topic) -> Vec<Spooled> {
        self.reader.next_batch(topic, 0..i64::MAX, ALL).unwrap()
    }

    fn books(&self, camera: &CameraName) -> picket_wire::status::Books {
        let books = self.spool.ledger().books(camera).unwrap();
        assert!(books.balanced(), "{books:?}");
        books
    }
}

fn header<'a>(row: &'a Spooled, name: &str) -> &'a str {
    row.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// How many rows of each kind each camera has.
fn kinds(rows: &[Spooled]) -> BTreeMap<(String, String), u64> {
    let mut kinds = BTreeMap::new();
    for row in rows {
        let kind = header(row, header::KIND).to_owned();
        *kinds.entry((row.key.clone(), kind)).or_default() += 1;
    }
    kinds
}

fn count(kinds: &BTreeMap<(String, String), u64>, camera: &CameraName, kind: Kind) -> u64 {
    let key = CameraKey { device: gate(), camera: camera.clone() };
    kinds.get(&(key.to_string(), kind.to_string())).copied().unwrap_or(0)
}

fn dropped(books: &BTreeMap<Reason, u64>, reason: &'static str) -> u64 {
    books.get(&Reason::from(reason)).copied().unwrap_or(0)
}

/// What the gap records say was dropped.
fn gaps(rows: &[Spooled], of: GapOf) -> u64 {
    let counts = rows.iter().map(|row| {
        let mut headers: Vec<_> =
            row.headers.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())).collect();
        headers.push((header::LANE.to_owned(), b"live".to_vec()));
        match decode(row.topic, row.key.as_bytes(), &headers, &row.value).unwrap() {
            Message::Record { record: CameraRecord::Gap(gap), .. } if gap.of == of => gap.count,
            _ => 0,
        }
    });
    counts.sum()
}

#[test]
fn a_camera_that_fills_the_spool_does_not_push_out_what_another_has() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 16 << 20, ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    for seq in 1..=4 {
        agent.capture(&south(), seq, 100_000, 0);
    }
    for seq in 1..=60 {
        agent.capture(&north(), seq, 700_000, 0);
    }
    let pictures = kinds(&agent.take(Topic::Frames));
    assert_eq!(count(&pictures, &south(), Kind::Frame), 4, "older, and all there");
    let left = count(&pictures, &north(), Kind::Frame);
    assert!((1..60).contains(&left), "{left}");
    let books = agent.books(&north());
    assert_eq!(dropped(&books.pictures_dropped, Reason::SPOOL_FULL), 60 - left);
    assert_eq!(gaps(&agent.take(Topic::Observations), GapOf::Frames), 60 - left);
    assert_eq!(agent.books(&south()).pictures_dropped, BTreeMap::new());
}

#[test]
fn frames_go_before_crops_and_crops_before_observations() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 16 << 20, ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    for seq in 1..=30 {
        agent.capture(&north(), seq, 400_000, 400_000);
    }
    let pictures = kinds(&agent.take(Topic::Frames));
    assert_eq!(count(&pictures, &north(), Kind::Crop), 30);
    let frames = count(&pictures, &north(), Kind::Frame);
    assert!((1..30).contains(&frames), "{frames}");
    agent.reader.give_back(0..10_000);
    for seq in 31..=60 {
        agent.capture(&north(), seq, 0, 700_000);
    }
    let pictures = kinds(&agent.take(Topic::Frames));
    assert_eq!(count(&pictures, &north(), Kind::Frame), 0);
    let crops = count(&pictures, &north(), Kind::Crop);
    assert!((1..60).contains(&crops), "{crops}");
    let rows = agent.take(Topic::Observations);
    assert_eq!(count(&kinds(&rows), &north(), Kind::Observation), 60);
    let lost = (gaps(&rows, GapOf::Frames), gaps(&rows, GapOf::Crops));
    assert_eq!(lost, (30, 60 - crops));
    let books = agent.books(&north());
    assert_eq!(dropped(&books.pictures_dropped, Reason::SPOOL_FULL), 90 - crops);
}

#[test]
fn what_is_too_old_is_dropped_and_told_and_what_is_younger_stays() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_age_hours: Some(24), ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    for seq in 1..=300 {
        agent.capture(&north(), seq, 1000, 0);
    }
    agent.clock.pass(23 * HOUR_US);
    agent.capture(&north(), 301, 1000, 0);
    assert_eq!(agent.books(&north()).spooled, 301, "a day is not over");
    agent.clock.pass(2 * HOUR_US);
    let until = std::time::Instant::now() + LIMIT;
    while agent.books(&north()).spooled > 1 {
        assert!(std::time::Instant::now() < until, "{:?}", agent.books(&north()));
        agent.clock.pass(MINUTE_US);
        agent.spool.flush(LIMIT).unwrap();
    }
    let books = agent.books(&north());
    assert_eq!(dropped(&books.dropped, Reason::SPOOL_EXPIRED), 300);
    assert_eq!(dropped(&books.pictures_dropped, Reason::SPOOL_EXPIRED), 300);
    let rows = agent.take(Topic::Observations);
    assert_eq!(gaps(&rows, GapOf::Observations), 300);
    assert_eq!(count(&kinds(&rows), &north(), Kind::Epoch), 1, "never goes");
    assert_eq!(agent.take(Topic::Frames).len(), 1);
}

#[test]
fn without_a_limit_nothing_is_ever_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    agent.capture(&north(), 1, 1000, 0);
    for seq in 1..=20 {
        agent.clock.pass(1000 * HOUR_US);
        agent.capture(&south(), seq, 0, 0);
        agent.clock.pass(MINUTE_US);
        agent.spool.flush(LIMIT).unwrap();
    }
    assert_eq!(agent.take(Topic::Frames).len(), 1);
}

#[test]
fn a_damaged_row_stops_neither_eviction_nor_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 16 << 20, ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    for seq in 1..=5 {
        agent.capture(&north(), seq, 400_000, 0);
    }
    let database = rusqlite::Connection::open(dir.path().join("spool.sqlite")).unwrap();
    let damage = "UPDATE pictures SET epoch = CAST(x'ff' AS TEXT) WHERE first = 2";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    drop(database);
    for seq in 6..=60 {
        agent.capture(&north(), seq, 700_000, 0);
    }
    let left = agent.take(Topic::Frames).len() as u64;
    assert!((1..60).contains(&left), "{left}");
    let books = agent.books(&north());
    assert_eq!(books.spooled, 60, "each observation is there");
    assert_eq!(dropped(&books.pictures_dropped, Reason::SPOOL_FULL), 59 - left);
}

#[test]
fn pictures_of_a_camera_that_holds_little_do_not_keep_the_space_of_those_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 16 << 20, ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    // In each of the segments there is something of the camera that is never the heaviest.
    for seq in 1..=200 {
        agent.capture(&north(), seq, 300_000, 0);
        if seq % 10 == 0 {
            agent.capture(&south(), seq / 10, 60_000, 0);
        }
    }
    let kept = kinds(&agent.take(Topic::Frames));
    let of = |camera: &str| kept[&(format!("gate/{camera}"), "frame".to_owned())];
    assert_eq!(of("south"), 20, "{kept:?}");
    // 16 MiB hold 20 of the small ones and some 50 of the large ones.
    assert!(of("north") > 35, "{kept:?}");
    let taken = stat(dir.path()).unwrap().file_bytes;
    assert!(taken <= settings.max_bytes + settings.checkpoint_bytes * 2, "{taken}");
    assert_eq!(agent.books(&north()).spooled, 200);
}

#[test]
fn files_of_pictures_go_with_the_last_of_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    for seq in 1..=100 {
        agent.capture(&north(), seq, 300_000, 0);
    }
    let files = || std::fs::read_dir(dir.path().join("spool.sqlite-pictures")).unwrap().count();
    assert_eq!(files(), 4, "8 MiB each");
    let rows = agent.take(Topic::Frames);
    let settled =
        |row: &Spooled| Settled { topic: row.topic, id: row.id, outcome: Outcome::Acknowledged };
    agent.reader.settle(rows[..60].iter().map(settled).collect()).unwrap();
    agent.spool.flush(LIMIT).unwrap();
    assert_eq!(files(), 2);
    agent.reader.settle(rows[60..].iter().map(settled).collect()).unwrap();
    agent.spool.flush(LIMIT).unwrap();
    assert_eq!(files(), 1, "the one that is written to");
    // What a crash leaves: a file that no row points to.
    let left = dir.path().join("spool.sqlite-pictures/0000000000000001");
    agent.spool.finish(LIMIT).unwrap();
    std::fs::write(&left, [7; 1000]).unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    let until = std::time::Instant::now() + LIMIT;
    while left.exists() || files() > 0 {
        assert!(std::time::Instant::now() < until, "{} files are left", files());
        agent.spool.flush(LIMIT).unwrap();
    }
}

fn acknowledge(agent: &Agent, rows: &[Spooled]) {
    let settled =
        |row: &Spooled| Settled { topic: row.topic, id: row.id, outcome: Outcome::Acknowledged };
    agent.reader.settle(rows.iter().map(settled).collect()).unwrap();
    agent.spool.flush(LIMIT).unwrap();
}

#[test]
fn pictures_do_not_take_what_is_free_within_the_database_beyond_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 16 << 20, ..Settings::default() };
    let agent = Agent::start(dir.path(), &settings);
    for seq in 1..=12_000 {
        agent.send(&north(), seq, 0, 0);
    }
    agent.spool.flush(LIMIT).unwrap();
    acknowledge(&agent, &agent.take(Topic::Observations));
    let database = || std::fs::metadata(dir.path().join("spool.sqlite")).unwrap().len();
    for seq in 12_001..=12_100 {
        agent.capture(&north(), seq, 300_000, 0);
    }
    assert!(database() > 6 << 20, "the database has not grown: {}", database());
    let log = std::fs::metadata(dir.path().join("spool.sqlite-wal")).unwrap().len();
    let taken = stat(dir.path()).unwrap().file_bytes - log;
    assert!(taken <= settings.max_bytes, "{taken}");
    let left = agent.take(Topic::Frames).len() as u64;
    assert!(left > 10, "{left}");
    let books = agent.books(&north());
    assert_eq!(books.spooled, 100, "each observation is there");
    assert_eq!(dropped(&books.pictures_dropped, Reason::SPOOL_FULL), 100 - left);
}

#[test]
fn a_file_that_was_left_over_with_a_later_name_takes_no_picture_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    agent.capture(&north(), 1, 10_000, 0);
    agent.spool.finish(LIMIT).unwrap();
    let left = dir.path().join("spool.sqlite-pictures/0000000000000020");
    std::fs::write(&left, [7; 1000]).unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    for seq in 1..=60 {
        agent.capture(&south(), seq, 300_000, 0);
    }
    let until = std::time::Instant::now() + LIMIT;
    while left.exists() {
        assert!(std::time::Instant::now() < until, "it stays");
        agent.spool.flush(LIMIT).unwrap();
    }
    let rows = agent.take(Topic::Frames);
    assert_eq!(rows.len(), 61);
    acknowledge(&agent, &rows[..30]);
    agent.spool.finish(LIMIT).unwrap();
    let agent = Agent::start(dir.path(), &Settings::default());
    assert_eq!(agent.take(Topic::Frames), rows[30..], "byte for byte");
}
