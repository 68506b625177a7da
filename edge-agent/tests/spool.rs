//! The spool's promises, on a real SQLite database in a directory of its own.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use picket_edge_agent::capture::SourcePosition;
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    self, Clock, Keyring, Limits, Outcome, Settings, Settled, Spool, SpoolError, SpoolHandle,
    SpoolReader, Spooled,
};
use picket_wire::observation::{ClockState, Detection, GapOf, Observation, Reason, Skip, Stamp};
use picket_wire::{
    CameraName, CameraRecord, EpochId, Message, ObservationId, Picture, Topic, decode,
};
use rusqlite::Connection;

const LIMIT: Duration = Duration::from_secs(120);
const ALL: Limits = Limits { rows: 100_000, bytes: u64::MAX };

/// A clock that a test moves; every reading is a microsecond later than the one before.
struct TestClock {
    mono_us: AtomicU64,
    wall: bool,
}

impl Clock for TestClock {
    fn now(&self) -> Stamp {
        stamp(self.mono_us.fetch_add(1, Ordering::SeqCst), self.wall)
    }
    fn stamps(&self, _: &CameraName) -> bool {
        true
    }
}

fn stamp(mono_us: u64, wall: bool) -> Stamp {
    let at = jiff::Timestamp::from_microsecond(1_800_000_000_000_000 + mono_us as i64).unwrap();
    let clock = if wall { ClockState::Synchronised } else { ClockState::Unset };
    Stamp { mono_us, captured_at: wall.then_some(at), clock }
}

fn north() -> CameraName {
    "north".parse().unwrap()
}

struct Agent {
    spool: SpoolHandle,
    epoch: EpochId,
    input: Sender<Observed>,
    reader: SpoolReader,
}

fn open(dir: &Path, settings: &Settings, wall: bool) -> Result<(Spool, EpochId), SpoolError> {
    let clock = Arc::new(TestClock { mono_us: AtomicU64::new(1), wall });
    Spool::open(settings, dir, &"gate".parse().unwrap(), &[north()], clock)
}

fn start_with(dir: &Path, settings: &Settings, wall: bool) -> Agent {
    let (spool, epoch) = open(dir, settings, wall).unwrap();
    let (input, rx) = unbounded();
    let spool = spool.spawn_writer(rx).unwrap();
    let reader = spool.reader().unwrap();
    Agent { spool, epoch, input, reader }
}

fn start(dir: &Path) -> Agent {
    start_with(dir, &Settings::default(), false)
}

impl Agent {
    fn id(&self, seq: u64) -> ObservationId {
        format!("gate/north/{}/{seq}", self.epoch).parse().unwrap()
    }

    fn observation(&self, seq: u64) -> Observation {
        common::uplink::observation(self.id(seq), stamp(seq, false))
    }

    /// An observation of some 10 KB, so that a small spool is soon full of them.
    fn crowded(&self, seq: u64) -> Observation {
        let landmarks = vec![[1.5, 2.5]; 60];
        let face = Detection {
            box_px: [1.0, 2.0, 30.0, 40.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks,
            quality: None,
        };
        Observation { detections: vec![face; 18], ..self.observation(seq) }
    }

    fn capture_crowds(&self, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            self.spool.ledger().captured(&north(), 1);
            let (picture, picture_lost, position) = (None, None, None);
            let observation = self.crowded(seq);
            let observed = Observed::Observation { observation, picture, picture_lost, position };
            self.input.send(observed).unwrap();
        }
    }

    fn picture(&self, seq: u64, bytes: usize) -> Picture {
        let mut jpeg = vec![0xff, 0xd8, 0xff];
        jpeg.resize(bytes, seq as u8);
        let (id, stamp) = (self.id(seq), stamp(seq, false));
        let redacted = "none".to_owned();
        Picture { id, crop: None, stamp, width: 640, height: 480, redacted, jpeg }
    }

    fn capture(&self, seqs: std::ops::RangeInclusive<u64>, picture_bytes: Option<usize>) {
        for seq in seqs {
            self.spool.ledger().captured(&north(), 1);
            let observation = self.observation(seq);
            let picture = picture_bytes.map(|bytes| self.picture(seq, bytes));
            let (picture_lost, position) = (None, None);
            let observed = Observed::Observation { observation, picture, picture_lost, position };
            self.input.send(observed).unwrap();
        }
    }

    fn skip(&self, first: u64, last: u64) {
        self.spool.ledger().captured(&north(), last - first + 1);
        let reason = Reason::try_from("still".to_owned()).unwrap();
        let skip = Skip { id: self.id(first), stamp: stamp(first, false), first, last, reason };
        self.input.send(Observed::Skipped(skip)).unwrap();
    }

    fn flush(&self) {
        self.spool.flush(LIMIT).unwrap();
    }

    fn finish(self) {
        drop(self.input);
        self.spool.finish(LIMIT).unwrap();
    }

    fn take(&self, topic: Topic) -> Vec<Spooled> {
        self.reader.next_batch(topic, 0..i64::MAX, ALL).unwrap()
    }

    fn acknowledge(&self, rows: &[Spooled]) {
        let settled = |row: &Spooled| Settled {
            topic: row.topic,
            id: row.id,
            outcome: Outcome::Acknowledged,
        };
        self.reader.settle(rows.iter().map(settled).collect()).unwrap();
        self.flush();
    }

    fn balanced(&self) -> picket_wire::status::Books {
        let books = self.spool.ledger().books(&north()).unwrap();
        assert!(books.balanced(), "{books:?}");
        books
    }
}

/// The record in a row, through all the checks of the centre.
fn record(row: &Spooled) -> CameraRecord {
    let mut headers: Vec<_> =
        row.headers.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())).collect();
    headers.push((picket_wire::header::LANE.to_owned(), b"live".to_vec()));
    match decode(row.topic, row.key.as_bytes(), &headers, &row.value).unwrap() {
        Message::Record { record, .. } => record,
        other => panic!("not a record: {other:?}"),
    }
}

fn records(rows: &[Spooled]) -> Vec<CameraRecord> {
    rows.iter().map(record).collect()
}

/// What an outsider reads from the database: the `seq` still spooled.
fn spooled_on_disk(dir: &Path) -> BTreeSet<u64> {
    let connection = Connection::open(dir.join("spool.sqlite")).unwrap();
    let mut statement = connection
        .prepare("SELECT first, last FROM records WHERE kind IN ('observation', 'skip')")
        .unwrap();
    let runs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    runs.flat_map(|run: rusqlite::Result<(u32, u32)>| {
        let (first, last) = run.unwrap();
        u64::from(first)..=u64::from(last)
    })
    .collect()
}

#[test]
fn acknowledged_record_is_deleted_and_an_unacknowledged_one_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=4, None);
    agent.flush();
    let rows = agent.take(Topic::Observations);
    assert_eq!(rows.len(), 5, "the epoch record and four observations");
    assert!(agent.take(Topic::Observations).is_empty(), "what is on its way is not read twice");
    agent.acknowledge(&rows[..3]);
    assert_eq!(spooled_on_disk(dir.path()), BTreeSet::from([3, 4]));
    agent.reader.give_back([rows[3].id]);
    assert_eq!(agent.take(Topic::Observations), rows[3..4]);
    let books = agent.balanced();
    assert_eq!((books.captured, books.acknowledged, books.spooled), (4, 2, 2));
    let unsent = rows[3..].to_vec();
    agent.finish();

    let again = start(dir.path());
    let rows = again.take(Topic::Observations);
    assert_eq!(rows[..2], unsent, "byte for byte, and before the new epoch record");
    assert!(rows[2].id >= again.reader.first_id() && rows[1].id < again.reader.first_id());
}

#[test]
fn epoch_record_comes_first_and_tells_of_the_epoch_before() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    let first_epoch = agent.epoch;
    assert_eq!(agent.spool.reserve(&north(), 100).unwrap(), 1..=100);
    agent.capture(1..=7, None);
    agent.flush();
    let CameraRecord::Epoch(start_record) = record(&agent.take(Topic::Observations)[0]) else {
        panic!("the first record is not an epoch")
    };
    assert_eq!(start_record.previous, None);
    agent.finish();

    let again = start(dir.path());
    let rows = again.take(Topic::Observations);
    let CameraRecord::Epoch(start_record) = record(rows.last().unwrap()) else { panic!() };
    let previous = start_record.previous.unwrap();
    assert_eq!(previous.epoch, first_epoch);
    assert_eq!((previous.last_committed, previous.reserved), (7, 7), "no gap after a clean end");
    assert_eq!(again.spool.reserve(&north(), 5).unwrap(), 1..=5);
    assert_eq!(again.spool.reserve(&north(), 5).unwrap(), 6..=10);
}

#[test]
fn clock_record_follows_when_wall_time_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start_with(dir.path(), &Settings::default(), true);
    agent.capture(1..=2, None);
    agent.flush();
    let kinds: Vec<_> =
        records(&agent.take(Topic::Observations)).iter().map(|r| r.kind()).collect();
    use picket_wire::Kind::{Clock, Epoch, Observation};
    assert_eq!(kinds, [Epoch, Clock, Observation, Observation]);
}

#[test]
fn epoch_rises_when_database_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path());
    let before = first.epoch;
    first.finish();
    for file in ["spool.sqlite", "spool.sqlite-wal", "spool.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    let after = start(dir.path()).epoch;
    assert_eq!(after.number, before.number + 1);
}

#[test]
fn second_agent_on_the_same_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    let error = open(dir.path(), &Settings::default(), false).err().unwrap();
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
    agent.finish();
    drop(start(dir.path()));
}

#[test]
fn corrupt_database_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    let before = agent.epoch;
    agent.capture(1..=3, None);
    agent.finish();
    std::fs::write(dir.path().join("spool.sqlite"), [7; 40_000]).unwrap();
    let agent = start(dir.path());
    assert_eq!(agent.epoch.number, before.number + 1, "the file beside it kept the counter");
    assert_eq!(agent.take(Topic::Observations).len(), 1, "a new spool, with its epoch record");
    assert!(dir.path().join("spool.sqlite.corrupt-1").exists());
    assert_eq!(spool::stat(dir.path()).unwrap().set_aside, 1);
}

fn page_bytes(path: &Path) -> usize {
    let connection = Connection::open(path).unwrap();
    connection.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap()
}

/// Damages the first page of a table, behind the file's head.
fn damage(dir: &Path, table: &str) {
    use std::os::unix::fs::FileExt;
    let path = dir.join("spool.sqlite");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let connection = Connection::open(&path).unwrap();
    let page: u32 = connection.query_row(sql, [table], |row| row.get(0)).unwrap();
    drop(connection);
    let bytes = page_bytes(&path);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xaa; bytes], u64::from(page - 1) * bytes as u64).unwrap();
}

/// Until all that can be read of the damaged database was brought over.
fn wait_for_salvage(dir: &Path, agent: &Agent) {
    let limit = Instant::now() + LIMIT;
    while dir.join("spool.sqlite.corrupt-1").exists() {
        assert!(Instant::now() < limit, "the salvage does not end");
        agent.flush();
    }
}

#[test]
fn damage_behind_the_head_is_set_aside_at_the_next_start() {
    for table in ["spool", "records", "pictures", "accounts", "recordings"] {
        let dir = tempfile::tempdir().unwrap();
        let agent = start(dir.path());
        let before = agent.epoch;
        agent.capture(1..=3, Some(1000));
        agent.finish();
        damage(dir.path(), table);
        let agent = start(dir.path());
        assert!(agent.epoch.number > before.number, "{table}");
        assert!(!dir.path().join("spool.sqlite.suspect").exists(), "{table}");
        wait_for_salvage(dir.path(), &agent);
        let fates = fates(&agent.take(Topic::Observations));
        let told: BTreeSet<u64> = fates.kept.union(&fates.gone).copied().collect();
        assert_eq!(told, (1..=3).collect(), "{table}: {fates:?}");
        let lost: &[u64] = if table == "records" { &[1, 2, 3] } else { &[] };
        assert!(fates.gone.iter().eq(lost), "{table}: {fates:?}");
        agent.balanced();
        agent.capture(1..=3, None);
        agent.finish();
    }
}

#[test]
fn row_that_cannot_be_read_is_named_and_hides_none_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=5, None);
    agent.flush();
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    connection.execute("UPDATE records SET headers = 'x' WHERE first = 3", []).unwrap();
    let rows = agent.take(Topic::Observations);
    assert_eq!(rows.len(), 3, "the epoch record and two observations");
    let behind = rows[2].id + 1;
    let error = agent.reader.next_batch(Topic::Observations, behind..i64::MAX, ALL).unwrap_err();
    assert!(matches!(error, SpoolError::BadRow { id, .. } if id == behind), "{error}");
    assert_eq!(error.advice(), spool::Advice::Discard);
    assert!(dir.path().join("spool.sqlite.suspect").exists(), "the next start looks closely");
    let rest = agent.reader.next_batch(Topic::Observations, behind + 1..i64::MAX, ALL).unwrap();
    assert_eq!(rest.len(), 2);
}

#[test]
fn row_on_damaged_pages_is_named_and_hides_none_behind_it() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=3, None);
    agent.finish();
    // A record so long that it has pages of its own.
    let path = dir.path().join("spool.sqlite");
    let connection = Connection::open(&path).unwrap();
    let long = "CAST(replace(hex(zeroblob(50000)), '00', char(2)) AS BLOB)";
    let sql = format!("UPDATE records SET value = {long} WHERE kind = 'observation' AND first = 2");
    assert_eq!(connection.execute(&sql, []).unwrap(), 1);
    drop(connection);
    // The first page within it: its link to the next one leads nowhere.
    let bytes = std::fs::read(&path).unwrap();
    let within = |page: &[u8]| page[4..].iter().all(|byte| *byte == 2);
    let page_bytes = page_bytes(&path);
    let page = bytes.chunks(page_bytes).position(within).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 4], (page * page_bytes) as u64).unwrap();

    let agent = start(dir.path());
    let first = agent.take(Topic::Observations);
    assert_eq!(first.len(), 2, "the epoch record and the first observation");
    let from = |id| agent.reader.next_batch(Topic::Observations, id..i64::MAX, ALL);
    let Err(SpoolError::DamagedRow { id, .. }) = from(first[1].id + 1) else { panic!("no error") };
    assert!(dir.path().join("spool.sqlite.suspect").exists());
    assert_eq!(from(id + 1).unwrap().len(), 2, "the third, and this run's epoch record");
    agent.finish();

    let agent = start(dir.path());
    wait_for_salvage(dir.path(), &agent);
    let fates = fates(&agent.take(Topic::Observations));
    assert_eq!(fates.kept, [1, 3].into(), "a close look sets the database aside");
    assert_eq!(fates.gone, [2].into());
    assert_eq!(spool::stat(dir.path()).unwrap().set_aside, 1);
}

#[test]
fn picture_that_is_not_what_was_written_is_named_and_hides_none_behind_it() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=4, Some(10_000));
    agent.flush();
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    let place = "SELECT format('%016x', segment), position FROM pictures WHERE first = 2";
    let (segment, position): (String, u64) =
        connection.query_row(place, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let path = dir.path().join("spool.sqlite-pictures").join(segment);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position + 5_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position + 5_000).unwrap();
    let gone = "UPDATE pictures SET segment = 7 WHERE first = 3";
    assert_eq!(connection.execute(gone, []).unwrap(), 1);

    let first = agent.take(Topic::Frames);
    assert_eq!(first.len(), 1);
    let mut from = first[0].id + 1;
    for _ in 0..2 {
        let error = agent.reader.next_batch(Topic::Frames, from..i64::MAX, ALL).unwrap_err();
        let SpoolError::BadRow { id, what: "picture", .. } = error else { panic!("{error}") };
        from = id + 1;
    }
    let last = agent.reader.next_batch(Topic::Frames, from..i64::MAX, ALL).unwrap();
    assert_eq!(last.len(), 1, "the fourth");
}

#[test]
fn refused_gap_or_epoch_record_stays() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=1, None);
    agent.flush();
    let rows = agent.take(Topic::Observations);
    assert!(!rows[0].is_replaceable() && rows[1].is_replaceable());
    let refuse = |row: &Spooled| Settled {
        topic: row.topic,
        id: row.id,
        outcome: Outcome::Refused(Reason::REFUSED_BY_BROKER.into()),
    };
    agent.reader.settle(rows.iter().map(refuse).collect()).unwrap();
    agent.flush();
    let gap = agent.take(Topic::Observations);
    assert_eq!(gap[0], rows[0], "the epoch record is sent again");
    agent.reader.settle(gap[1..].iter().map(refuse).collect()).unwrap();
    agent.flush();
    assert_eq!(agent.take(Topic::Observations), gap[1..], "and so is the gap");
    agent.balanced();
}

#[test]
fn database_of_a_later_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).finish();
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = open(dir.path(), &Settings::default(), false).err().unwrap();
    assert!(matches!(error, SpoolError::NewerFormat { found: 99, .. }), "{error}");
}

fn small() -> Settings {
    Settings { max_bytes: 16 * 1024 * 1024, ..Settings::default() }
}

/// `seq` by what became of them, as the centre would read it from the records.
#[derive(Debug, Default)]
struct Fates {
    kept: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    pictures_gone: u64,
}

fn fates(rows: &[Spooled]) -> Fates {
    let mut fates = Fates::default();
    for record in records(rows) {
        match &record {
            CameraRecord::Gap(gap) if gap.of == GapOf::Frames => fates.pictures_gone += gap.count,
            CameraRecord::Gap(gap) => fates.gone.extend(gap.first..=gap.last),
            _ => {
                let run = record.settles().map(|(first, last)| first..=last);
                fates.kept.extend(run.into_iter().flatten());
            }
        }
    }
    fates
}

#[test]
fn eviction_takes_pictures_before_observations_and_tells_how_many() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start_with(dir.path(), &small(), false);
    for first in (1..=60).step_by(5) {
        agent.capture(first..=first + 4, Some(700_000));
        agent.flush();
    }
    let pictures = agent.take(Topic::Frames);
    let fates = fates(&agent.take(Topic::Observations));
    assert_eq!(fates.kept, (1..=60).collect(), "no observation had to go");
    assert!(fates.gone.is_empty());
    assert!(fates.pictures_gone > 0);
    assert_eq!(fates.pictures_gone + pictures.len() as u64, 60);
    let books = agent.balanced();
    let full = Reason::from(Reason::SPOOL_FULL);
    assert_eq!(books.pictures_dropped.get(&full), Some(&fates.pictures_gone));
    let log = std::fs::metadata(dir.path().join("spool.sqlite-wal")).unwrap().len();
    let taken = spool::stat(dir.path()).unwrap().file_bytes - log;
    assert!(taken <= small().max_bytes, "{taken}");
}

#[test]
fn eviction_leaves_gap_records_for_every_seq() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start_with(dir.path(), &small(), false);
    let held = {
        agent.capture(1..=10, None);
        agent.flush();
        agent.take(Topic::Observations)
    };
    let mut next = 11;
    while next < 2600 {
        agent.capture_crowds(next..=next + 199);
        agent.skip(next + 200, next + 299);
        next += 300;
        agent.flush();
        agent.balanced();
    }
    assert!(spooled_on_disk(dir.path()).is_superset(&(1..=10).collect()), "in flight stays");
    agent.reader.give_back(held.iter().map(|row| row.id));
    let rows = agent.take(Topic::Observations);
    let fates = fates(&rows);
    assert!(fates.kept.is_disjoint(&fates.gone));
    assert!(!fates.gone.is_empty());
    let all: BTreeSet<u64> = fates.kept.union(&fates.gone).copied().collect();
    assert_eq!(all, (1..next).collect());
    let gaps = records(&rows).iter().filter(|r| matches!(r, CameraRecord::Gap(_))).count();
    assert_eq!(gaps, 1, "adjoining gaps that nobody has seen are one");
    let books = agent.balanced();
    assert_eq!(books.dropped[&Reason::SPOOL_FULL.into()], fates.gone.len() as u64);
}

#[test]
fn gap_that_was_handed_out_keeps_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start_with(dir.path(), &small(), false);
    agent.capture(1..=40, Some(700_000));
    agent.flush();
    let gap = |rows: &[Spooled]| -> Vec<Spooled> {
        rows.iter().filter(|row| matches!(record(row), CameraRecord::Gap(_))).cloned().collect()
    };
    let seen = gap(&agent.take(Topic::Observations));
    agent.capture(41..=60, Some(700_000));
    agent.flush();
    agent.reader.give_back(seen.iter().map(|row| row.id));
    let later = gap(&agent.take(Topic::Observations));
    assert_eq!(seen.len(), 1);
    assert_eq!(later[0], seen[0]);
    assert_eq!(later.len(), 2);
}

#[test]
fn gap_of_a_sealed_spool_keeps_its_bytes_as_an_export_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start_with(dir.path(), &small(), false);
    agent.capture(1..=40, Some(700_000));
    agent.flush();
    let below = agent.spool.seal();
    agent.capture(41..=60, Some(700_000));
    agent.flush();
    let file = dir.path().join("carried");
    spool::export(
        dir.path(),
        &Keyring::without_masters(dir.path()),
        &file,
        false,
        None,
        Some(below),
    )
    .unwrap();
    let carried = std::io::BufReader::new(std::fs::File::open(file).unwrap());
    let carried: Vec<_> =
        spool::CarriedReader::open(carried).unwrap().map(Result::unwrap).collect();
    let gaps = |rows: &[Spooled]| -> Vec<Spooled> {
        let gaps = rows.iter().filter(|row| row.topic == Topic::Observations);
        let gaps = gaps.filter(|row| matches!(record(row), CameraRecord::Gap(_)));
        // A file numbers its records anew.
        gaps.map(|row| Spooled { id: 0, ..row.clone() }).collect()
    };
    agent.capture(61..=80, Some(700_000));
    agent.flush();
    let sent = gaps(&agent.take(Topic::Observations));
    let carried = gaps(&carried);
    assert_eq!(carried.len(), 1);
    assert_eq!((sent.len(), &sent[0]), (2, &carried[0]));
}

#[test]
fn oversize_observation_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    let mut observation = agent.observation(1);
    observation.detector.name = "x".repeat(Topic::Observations.max_message_bytes() as usize);
    agent.spool.ledger().captured(&north(), 1);
    let picture = Some(agent.picture(1, 1000));
    let observed =
        Observed::Observation { observation, picture, picture_lost: None, position: None };
    agent.input.send(observed).unwrap();
    agent.flush();
    let fates = fates(&agent.take(Topic::Observations));
    assert_eq!((fates.kept, fates.gone), (BTreeSet::new(), BTreeSet::from([1])));
    assert!(agent.take(Topic::Frames).is_empty(), "its picture went with it");
    assert_eq!(agent.balanced().dropped[&Reason::TOO_LARGE.into()], 1);
}

#[test]
fn record_that_the_broker_refuses_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    agent.capture(1..=2, Some(1000));
    agent.flush();
    let refuse = |row: &Spooled| Settled {
        topic: row.topic,
        id: row.id,
        outcome: Outcome::Refused(Reason::REFUSED_BY_BROKER.into()),
    };
    let rows = agent.take(Topic::Observations);
    let pictures = agent.take(Topic::Frames);
    agent.reader.settle(vec![refuse(&rows[1]), refuse(&pictures[1])]).unwrap();
    agent.flush();
    let fates = fates(&agent.take(Topic::Observations));
    assert_eq!((fates.gone, fates.pictures_gone), (BTreeSet::from([1]), 1));
    let books = agent.balanced();
    let refused = Reason::from(Reason::REFUSED_BY_BROKER);
    assert_eq!((books.dropped[&refused], books.pictures_dropped[&refused]), (1, 1));
}

#[test]
fn position_of_a_recording_survives_with_the_frames_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    let position = |media_time_ns, at_end| SourcePosition {
        fingerprint: "ab".to_owned(),
        media_time_ns,
        at_end,
    };
    agent.spool.ledger().captured(&north(), 1);
    let observed = Observed::Observation {
        observation: agent.observation(1),
        picture: None,
        picture_lost: None,
        position: Some(position(40, false)),
    };
    agent.input.send(observed).unwrap();
    agent.flush();
    assert_eq!(agent.spool.position(&north(), "ab"), Some(position(40, false)));
    assert_eq!(agent.spool.position(&north(), "cd"), None);
    let ended = Observed::Ended { camera: north(), position: Some(position(80, true)) };
    agent.input.send(ended).unwrap();
    agent.finish();
    let agent = start(dir.path());
    assert_eq!(agent.spool.position(&north(), "ab"), Some(position(80, true)));
}

#[test]
fn disk_that_refuses_writes_costs_only_what_memory_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { max_pending_bytes: 20_000, commit_bytes: 10_000, ..Settings::default() };
    let agent = start_with(dir.path(), &settings, false);
    agent.capture(1..=2, None);
    agent.flush();
    let other = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    agent.capture(3..=200, None);
    let limit = Instant::now() + LIMIT;
    // The reservation fails at once as soon as the writer has met the refusal.
    while !matches!(agent.spool.reserve(&north(), 1), Err(SpoolError::Failing { .. })) {
        assert!(Instant::now() < limit, "the writer never met the refusal");
    }
    agent.capture(201..=300, None);
    assert!(agent.balanced().in_memory >= 100);
    // One answer later the writer has taken in all that was sent before.
    let _ = agent.spool.flush(Duration::from_millis(500));
    other.execute_batch("ROLLBACK").unwrap();
    agent.flush();
    let fates = fates(&agent.take(Topic::Observations));
    assert!(fates.kept.contains(&3) && fates.gone.contains(&300), "{fates:?}");
    assert_eq!(fates.kept.union(&fates.gone).count(), 300);
    let books = agent.balanced();
    assert_eq!(books.in_memory, 0);
    assert_eq!(books.dropped[&Reason::SPOOL_FAILED.into()], fates.gone.len() as u64);
}

const CHILD: &str = "PICKET_TEST_SPOOL_CHILD";

/// Not a claim: the process that the next test kills. It captures as fast as it can.
#[test]
fn child_that_captures_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let agent = start(Path::new(&dir));
    for block in 0..10_000u64 {
        agent.spool.reserve(&north(), 50).unwrap();
        for seq in block * 50 + 1..=block * 50 + 50 {
            agent.capture(seq..=seq, Some(2_000));
        }
        let rows = agent.take(Topic::Observations);
        let settled = |row: &Spooled| Settled {
            topic: row.topic,
            id: row.id,
            outcome: Outcome::Acknowledged,
        };
        agent.reader.settle(rows.iter().map(settled).collect()).unwrap();
        while !agent.input.is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn books_balance_after_kill_between_commits() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_captures_until_it_is_killed"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + LIMIT;
        let captured = |stat: spool::Stat| {
            stat.accounts.values().map(|account| account.books.captured).sum::<u64>()
        };
        // Killed at some moment after it has got going.
        while spool::stat(dir.path()).map_or(0, captured) < (round + 1) * 500 {
            assert!(Instant::now() < limit, "the child does not capture");
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let stat = spool::stat(dir.path()).unwrap();
    let account = stat.accounts.values().next().unwrap();
    assert!(account.books.balanced(), "{account:?}");
    assert!(account.books.captured >= 2500 && account.books.acknowledged > 0, "{account:?}");
    assert!(account.last_committed <= account.reserved, "{account:?}");
    let agent = start(dir.path());
    let kept = records(&agent.take(Topic::Observations));
    let frames = kept.iter().filter(|r| matches!(r, CameraRecord::Observation(_))).count();
    assert_eq!(frames as u64, account.books.spooled, "the books say what the tables hold");
    let Some(CameraRecord::Epoch(start)) = kept.last() else { panic!("no epoch record") };
    let previous = start.previous.as_ref().unwrap();
    assert_eq!(
        (previous.last_committed, previous.reserved),
        (account.last_committed, account.reserved)
    );
}
