//! Encryption at rest, on a real spool in a directory of its own: what lies on the disk, which keys there
//! are, and what becomes of records whose key is gone.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::clock::SteadyClock;
use common::uplink::{cluster, gate, north, observation, settings, start_kept};
use crossbeam_channel::{Sender, unbounded};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::spool::{
    self, CarriedReader, Clock, EncryptionSettings, Keyring, Limits, Outcome, Settings, Settled,
    Spool, SpoolError, SpoolHandle, SpoolReader, Spooled, StateLock,
};
use picket_wire::observation::{Detection, GapOf, Observation, Reason, Stamp};
use picket_wire::{CameraRecord, EpochId, Message, Picture, Topic, decode, header};
use rusqlite::Connection;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);
const ALL: Limits = Limits { rows: 100_000, bytes: u64::MAX };
const HOUR_US: u64 = 60 * 60 * 1_000_000;
/// What is looked for on the disk: in each observation, and in each picture.
const CLASS: &str = "face-of-somebody";
const JPEG: &[u8] = b"\xff\xd8\xff\xe0 the picture of somebody";

/// A folder with a state directory and master keys.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        for (name, key) in [("master", "AQEB"), ("other", "AgIC")] {
            let path = site.dir.path().join(name);
            fs::write(&path, format!("{}{}=\n", key.repeat(10), &key[..3])).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        site
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn key_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Encrypted under this master key.
    fn settings(&self, master: &str) -> Settings {
        let encryption = EncryptionSettings {
            key_file: Some(self.key_file(master)),
            credential: None,
            former_key_files: Vec::new(),
            former_credentials: Vec::new(),
            enabled: true,
        };
        Settings { encryption: Some(encryption), ..Settings::default() }
    }

    fn keyring(&self, settings: &Settings) -> Keyring {
        Keyring::open(&self.state(), settings.encryption.as_ref()).unwrap()
    }

    fn try_start(&self, settings: &Settings) -> Result<Agent, SpoolError> {
        let clock = SteadyClock::start();
        let (spool, epoch) =
            Spool::open(settings, &self.state(), &gate(), &[north()], clock.clone())?;
        let (input, rx) = unbounded();
        let spool = spool.spawn_writer(rx)?;
        let reader = spool.reader()?;
        Ok(Agent { clock, spool, epoch, input, reader, next: AtomicU64::new(1) })
    }

    fn start(&self) -> Agent {
        self.try_start(&self.settings("master")).unwrap()
    }

    /// A spool of so many frames whose agent has ended.
    fn kept(&self, frames: u64) -> Vec<Spooled> {
        let agent = self.start();
        agent.capture(frames);
        let rows = agent.take_all();
        agent.finish();
        rows
    }

    /// The files of the keys, oldest first.
    fn keys(&self) -> Vec<PathBuf> {
        let number = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.split('.').next().unwrap().parse::<i64>().unwrap()
        };
        let mut keys: Vec<_> = match fs::read_dir(self.state().join("spool.keys")) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        keys.sort_by_key(number);
        keys
    }

    fn sql(&self, sql: &str) {
        Connection::open(self.state().join("spool.sqlite")).unwrap().execute_batch(sql).unwrap();
    }

    /// Names of the files of the state directory that hold these bytes.
    fn files_with(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.state()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if fs::read(&path).unwrap().windows(bytes.len()).any(|at| at == bytes) {
                    found.push(path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found
    }
}

struct Agent {
    clock: Arc<SteadyClock>,
    spool: SpoolHandle,
    epoch: EpochId,
    input: Sender<Observed>,
    reader: SpoolReader,
    next: AtomicU64,
}

impl Agent {
    /// Frames with a detection and a picture each.
    fn capture(&self, frames: u64) {
        for _ in 0..frames {
            let seq = self.next.fetch_add(1, Ordering::SeqCst);
            self.spool.ledger().captured(&north(), 1);
            let observed = somebody(&format!("gate/north/{}/{seq}", self.epoch), self.clock.now());
            self.input.send(observed).unwrap();
        }
        self.flush();
    }

    fn flush(&self) {
        self.spool.flush(LIMIT).unwrap();
    }

    fn take(&self, topic: Topic) -> Vec<Spooled> {
        self.reader.next_batch(topic, 0..i64::MAX, ALL).unwrap()
    }

    fn take_all(&self) -> Vec<Spooled> {
        [self.take(Topic::Observations), self.take(Topic::Frames)].concat()
    }

    fn acknowledge(&self, rows: &[Spooled]) {
        let settled = |row: &Spooled| {
            let outcome = Outcome::Acknowledged;
            Settled { topic: row.topic, id: row.id, outcome }
        };
        self.reader.settle(rows.iter().map(settled).collect()).unwrap();
        self.flush();
    }

    fn pass(&self, us: u64) {
        self.clock.pass(us);
        self.flush();
    }

    /// Lets time pass until the keys are so many.
    fn wait_for_keys(&self, site: &Site, count: usize) {
        let until = Instant::now() + LIMIT;
        while site.keys().len() != count {
            assert!(Instant::now() < until, "{count} keys: {:?}", site.keys());
            self.pass(20_000_000);
        }
    }

    fn books(&self) -> picket_wire::status::Books {
        let books = self.spool.ledger().books(&north()).unwrap();
        assert!(books.balanced(), "{books:?}");
        books
    }

    fn finish(self) {
        drop(self.input);
        self.spool.finish(LIMIT).unwrap();
    }
}

fn somebody(id: &str, stamp: Stamp) -> Observed {
    let id: picket_wire::ObservationId = id.parse().unwrap();
    let face = Detection {
        box_px: [1.0, 2.0, 30.0, 40.0],
        score: 0.9,
        class: CLASS.to_owned(),
        landmarks: Vec::new(),
        quality: None,
    };
    let observation = Observation { detections: vec![face], ..observation(id.clone(), stamp) };
    let (redacted, jpeg) = ("none".to_owned(), JPEG.to_vec());
    let picture = Picture { id, crop: None, stamp, width: 64, height: 48, redacted, jpeg };
    Observed::Observation {
        observation,
        picture: Some(picture),
        picture_lost: None,
        position: None,
    }
}

/// What the centre reads of a row.
fn message(row: &Spooled) -> Message {
    let mut headers: Vec<_> =
        row.headers.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())).collect();
    headers.push((header::LANE.to_owned(), b"backlog".to_vec()));
    decode(row.topic, row.key.as_bytes(), &headers, &row.value).unwrap()
}

/// Frames with somebody in them, and their pictures.
fn somebodies(rows: &[Spooled]) -> (usize, usize) {
    let (mut faces, mut pictures) = (0, 0);
    for row in rows {
        match message(row) {
            Message::Record { record: CameraRecord::Observation(it), .. } => {
                faces += usize::from(it.detections[0].class == CLASS);
            }
            Message::Picture { picture, .. } => pictures += usize::from(picture.jpeg == JPEG),
            _ => {}
        }
    }
    (faces, pictures)
}

#[test]
fn what_is_encrypted_stands_in_no_file_of_the_state_directory_and_is_sent_as_it_was_captured() {
    for encrypted in [false, true] {
        let site = Site::new();
        let settings = if encrypted { site.settings("master") } else { Settings::default() };
        let agent = site.try_start(&settings).unwrap();
        agent.capture(20);
        // In the log first, and after the end in the database alone.
        for part in ["running", "ended"] {
            for secret in [CLASS.as_bytes(), JPEG] {
                let found = site.files_with(secret);
                assert_eq!(found.is_empty(), encrypted, "{part}: {found:?}");
            }
            if part == "running" {
                assert_eq!(somebodies(&agent.take_all()), (20, 20));
                agent.spool.finish(LIMIT).unwrap();
            }
        }
        assert_eq!(site.keys().len(), usize::from(encrypted));
        let again = site.try_start(&settings).unwrap();
        assert_eq!(somebodies(&again.take_all()), (20, 20), "after a restart");
    }
}

#[test]
fn a_batchs_key_is_destroyed_once_the_last_of_its_rows_is_acknowledged() {
    let site = Site::new();
    let agent = site.start();
    agent.capture(10);
    let first = agent.take_all();
    agent.pass(HOUR_US);
    agent.capture(10);
    let second = agent.take_all();
    let keys = site.keys();
    assert_eq!(keys.len(), 2, "one for each hour");
    let (last, rest) = first.split_last().unwrap();
    agent.acknowledge(rest);
    agent.pass(HOUR_US / 2);
    assert_eq!(site.keys(), keys, "one row of it is left");
    agent.acknowledge(std::slice::from_ref(last));
    agent.wait_for_keys(&site, 1);
    assert_eq!(site.keys(), keys[1..]);
    agent.acknowledge(&second);
    agent.pass(HOUR_US);
    agent.wait_for_keys(&site, 0);
    agent.finish();
}

#[test]
fn the_keys_of_what_is_too_old_or_evicted_are_destroyed() {
    let site = Site::new();
    let old = Settings { max_age_hours: Some(2), ..site.settings("master") };
    let agent = site.try_start(&old).unwrap();
    agent.capture(10);
    for _ in 0..4 {
        agent.pass(HOUR_US);
    }
    agent.wait_for_keys(&site, 0);
    assert_eq!(agent.books().dropped.get(&Reason::SPOOL_EXPIRED.into()), Some(&10));
    agent.finish();

    let site = Site::new();
    let small = Settings { max_bytes: 16 << 20, ..site.settings("master") };
    let agent = site.try_start(&small).unwrap();
    agent.capture(10);
    let first = site.keys();
    agent.pass(HOUR_US);
    // An hour of frames without pictures that takes all there is.
    while agent.books().dropped.is_empty() || site.keys().contains(&first[0]) {
        agent.capture(500);
        agent.pass(20_000_000);
        assert!(agent.books().captured < 100_000, "{:?} {:?}", agent.books(), site.keys());
    }
    agent.finish();
}

#[test]
fn at_the_end_of_a_run_the_keys_go_that_nothing_waits_under() {
    let site = Site::new();
    let agent = site.start();
    agent.capture(5);
    agent.acknowledge(&agent.take_all());
    assert_eq!(site.keys().len(), 1, "it is in use");
    agent.finish();
    assert!(site.keys().is_empty(), "{:?}", site.keys());
}

#[test]
fn a_crash_between_a_key_and_its_first_commit_leaves_no_key_for_ever() {
    let site = Site::new();
    let rows = site.kept(5);
    let key = site.keys().remove(0);
    let folder = key.parent().unwrap();
    // As the next run's first key would be called, and as its file is called while it is made.
    let name = key.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1.to_owned();
    let orphan =
        folder.join(format!("{}.{name}", rows.iter().map(|row| row.id).max().unwrap() + 1));
    fs::copy(&key, &orphan).unwrap();
    fs::write(folder.join(format!("999.{name}.new")), "half").unwrap();
    let agent = site.start();
    assert_eq!(site.keys(), [key]);
    assert_eq!(somebodies(&agent.take_all()), (5, 5));
}

#[test]
fn a_key_that_cannot_be_destroyed_keeps_neither_the_agent_nor_the_other_keys() {
    let site = Site::new();
    site.kept(5);
    let key = site.keys().remove(0);
    let name = key.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1.to_owned();
    let orphan = |number: u64| key.with_file_name(format!("{number}.{name}"));
    fs::copy(&key, orphan(1_000)).unwrap();
    // Nothing can be written over a folder.
    fs::create_dir(orphan(2_000)).unwrap();
    fs::copy(&key, orphan(3_000)).unwrap();
    let agent = site.start();
    assert_eq!(site.keys(), [key.clone(), orphan(2_000)]);
    assert_eq!(somebodies(&agent.take_all()), (5, 5));
    agent.capture(1);
    assert_eq!(somebodies(&agent.take_all()), (1, 1), "what is captured now has a key above it");
}

#[test]
fn a_lost_key_costs_its_rows_each_counted_and_holds_up_nothing_behind_them() {
    let (mock, site) = (cluster(), Site::new());
    site.kept(10);
    let lost = site.keys().remove(0);
    site.kept(10);
    fs::remove_file(lost).unwrap();
    let agent = start_kept(
        SteadyClock::start().now(),
        &site.state(),
        &settings(mock.bootstrap_servers()),
        &site.settings("master"),
    );
    agent.wait("all is settled", |agent| {
        let books = agent.books();
        let lost = books.dropped.get(&Reason::SPOOL_KEY_LOST.into());
        (lost, books.acknowledged, books.spooled) == (Some(&10), 10, 0)
    });
    let pictures = agent.books().pictures_dropped;
    assert_eq!(pictures.get(&Reason::SPOOL_KEY_LOST.into()), Some(&10));
    agent.end();
    assert!(site.keys().is_empty(), "{:?}", site.keys());
}

#[test]
fn a_lost_key_is_told_to_the_centre_in_gap_records() {
    let site = Site::new();
    site.kept(3);
    fs::remove_dir_all(site.state().join("spool.keys")).unwrap();
    let agent = site.start();
    for topic in Topic::OF_CAMERAS {
        let mut from = 0;
        // As the uplink does it.
        loop {
            match agent.reader.next_batch(topic, from..i64::MAX, ALL) {
                Err(SpoolError::Key { id, source, .. }) => {
                    assert!(source.is_lost(), "{source}");
                    let outcome = Outcome::Refused(Reason::SPOOL_KEY_LOST.into());
                    agent.reader.settle(vec![Settled { topic, id, outcome }]).unwrap();
                    from = id + 1;
                }
                Err(other) => panic!("{other}"),
                Ok(rows) if rows.is_empty() => break,
                Ok(rows) => from = rows.last().unwrap().id + 1,
            }
        }
    }
    agent.flush();
    let gaps: Vec<_> = agent.take(Topic::Observations);
    let gaps = gaps.iter().filter_map(|row| match message(row) {
        Message::Record { record: CameraRecord::Gap(gap), .. } => {
            Some((gap.of == GapOf::Observations, gap.count, gap.reason.as_str().to_owned()))
        }
        _ => None,
    });
    let lost = "spool-key-lost".to_owned();
    assert_eq!(gaps.collect::<Vec<_>>(), [(true, 3, lost.clone()), (false, 3, lost)]);
}

#[test]
fn without_the_right_master_key_nothing_starts_and_nothing_is_lost() {
    let site = Site::new();
    let rows = site.kept(5);
    let epoch = fs::read(site.state().join("epoch")).unwrap();
    let missing = site.settings("nowhere");
    for (settings, named) in [
        (&site.settings("other"), "former_key_files"),
        (&missing, "cannot read the master key"),
        (&Settings::default(), "names none"),
    ] {
        let error = site.try_start(settings).err().unwrap();
        let text = picket_service::logging::chain(&error);
        assert!(text.contains("spool.encryption") && text.contains(named), "{text}");
    }
    assert_eq!(fs::read(site.state().join("epoch")).unwrap(), epoch, "no epoch was begun");
    let mut changed = site.settings("other");
    let encryption = changed.encryption.as_mut().unwrap();
    encryption.former_key_files = vec![site.key_file("master")];
    let agent = site.try_start(&changed).unwrap();
    agent.capture(1);
    assert_eq!(site.keys().len(), 2, "one under each master key");
    let now = agent.take_all();
    assert!(rows.iter().all(|row| now.contains(row)));
    assert_eq!(somebodies(&now), (6, 6));
}

#[test]
fn a_backlog_in_the_clear_is_sent_and_so_is_an_encrypted_one_once_encryption_is_off() {
    let site = Site::new();
    let plain = site.try_start(&Settings::default()).unwrap();
    plain.capture(3);
    plain.finish();
    site.kept(3);
    let mut off = site.settings("master");
    off.encryption.as_mut().unwrap().enabled = false;
    let agent = site.try_start(&off).unwrap();
    agent.capture(3);
    assert_eq!(site.keys().len(), 1, "none for what is captured now");
    let rows = agent.take_all();
    assert_eq!(somebodies(&rows), (9, 9));
    agent.acknowledge(&rows);
    agent.wait_for_keys(&site, 0);
    agent.finish();
    site.try_start(&Settings::default()).unwrap().finish();
}

#[test]
fn a_value_that_was_altered_or_put_into_another_row_is_noticed() {
    let exchange = "UPDATE records SET value = (SELECT value FROM records WHERE first = 3 AND \
                    kind = 'observation') WHERE first = 2 AND kind = 'observation'";
    let relabel = "UPDATE records SET headers = replace(headers, '/2\"', '/9\"') WHERE first = 2 \
                   AND kind = 'observation'";
    let alter = "UPDATE records SET value = CAST(substr(value, 1, 40) || x'00' || substr(value, 42) \
                 AS BLOB) WHERE first = 2 AND kind = 'observation'";
    for change in [exchange, relabel, alter] {
        let site = Site::new();
        site.kept(3);
        site.sql(change);
        let found = spool::verify(&site.state(), &site.keyring(&site.settings("master"))).unwrap();
        assert_eq!(found.problems.len(), 1, "{change}: {found:?}");
        assert!(found.problems[0].contains("encrypted value"), "{found:?}");
        let agent = site.start();
        let before = agent.take(Topic::Observations);
        let from = before.last().unwrap().id + 1;
        let error = agent.reader.next_batch(Topic::Observations, from..i64::MAX, ALL).unwrap_err();
        assert!(matches!(error, SpoolError::BadRow { what: "encrypted value", .. }), "{error}");
    }
}

#[test]
fn what_is_salvaged_of_an_encrypted_spool_stays_encrypted_and_its_keys_with_it() {
    let site = Site::new();
    let rows = site.kept(50);
    // The totals alone: every row can be read.
    let path = site.state().join("spool.sqlite");
    let connection = Connection::open(&path).unwrap();
    let root: u64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'spool'", [], |row| row.get(0))
        .unwrap();
    let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
    drop(connection);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], (root - 1) * page).unwrap();
    let key = site.keys().remove(0);

    let agent = site.start();
    assert!(site.keys().contains(&key));
    let until = Instant::now() + LIMIT;
    while agent.books().spooled < 50 || site.state().join("spool.sqlite.corrupt-1").exists() {
        assert!(Instant::now() < until, "{:?}", agent.books());
        agent.flush();
    }
    let now = agent.take_all();
    assert!(rows.iter().all(|row| now.contains(row)), "with their numbers and bytes");
    agent.pass(20_000_000);
    assert!(site.keys().contains(&key), "what came over waits under it");
    assert!(site.files_with(JPEG).is_empty() && site.files_with(CLASS.as_bytes()).is_empty());
    agent.acknowledge(&now);
    agent.finish();
    assert!(site.keys().is_empty(), "{:?}", site.keys());
}

#[test]
fn an_export_is_in_the_clear_and_needs_the_master_key_and_a_list_does_not() {
    let site = Site::new();
    site.kept(5);
    let (state, none) = (site.state(), Keyring::without_masters(&site.state()));
    let to = site.dir.path().join("carried");
    let error = spool::export(&state, &none, &to, false, None, None).unwrap_err();
    let text = picket_service::logging::chain(&error);
    assert!(text.contains("names none") && !to.exists(), "{text}");
    let found = spool::verify(&state, &none).unwrap();
    assert_eq!(found.problems.len(), 10, "each value that cannot be looked at: {found:?}");
    assert!(!spool::list(&state, &Default::default()).unwrap().is_empty());
    assert_eq!(spool::stat(&state).unwrap().batch_keys, 1);

    let keyring = site.keyring(&site.settings("master"));
    assert!(spool::verify(&state, &keyring).unwrap().is_whole());
    spool::export(&state, &keyring, &to, false, None, None).unwrap();
    let file = std::io::BufReader::new(fs::File::open(&to).unwrap());
    let carried: Vec<_> = CarriedReader::open(file).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(somebodies(&carried), (5, 5));
}

#[test]
fn the_spool_of_a_former_device_is_set_aside_with_its_keys() {
    let site = Site::new();
    site.kept(5);
    let keys = site.keys().len();
    let lock = StateLock::take(&site.state()).unwrap();
    spool::set_aside_former(&site.state(), &lock).unwrap().unwrap();
    drop(lock);
    let aside = fs::read_dir(site.state().join("spool.keys.former-1")).unwrap().count();
    assert_eq!((aside, site.keys().len()), (keys, 0));
    site.try_start(&Settings::default()).unwrap().finish();
}
