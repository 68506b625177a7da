//! What is carried by hand: from a real spool into a file, from the file to librdkafka's mock brokers;
//! and what `list` and `verify` say of the spool on the way.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::uplink::{LIMIT, Mock, cluster, gate, settings, start};
use picket_edge_agent::spool::{self, CarriedReader, Chosen, Exported, Keyring, Spooled};
use picket_edge_agent::spool_command::{self, Command};
use picket_edge_agent::uplink::{ImportError, Imported, Settings, import};
use picket_wire::observation::Reason;
use picket_wire::{CameraName, Topic, TopicNames, header};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rusqlite::Connection;

const NOBODY: &str = "127.0.0.1:1";

/// A spool with what a day without a network leaves: two cameras, skips, observations, pictures.
/// Its agent has ended.
fn box_without_a_network(dir: &Path) {
    let agent = start(dir, &settings(NOBODY.to_owned()));
    let yard: CameraName = "yard".parse().unwrap();
    agent.spool.add_cameras(std::slice::from_ref(&yard)).unwrap();
    agent.capture(1..=30);
    agent.capture_of(&yard, 1..=20);
    (31..=35).for_each(|seq| agent.capture_with_picture(seq));
    agent.spool.flush(LIMIT).unwrap();
    agent.uplink.drain(Duration::ZERO).unwrap();
    agent.spool.finish(LIMIT).unwrap();
}

fn exported(state_dir: &Path, to: &Path) -> Exported {
    spool::export(state_dir, &no_keys(state_dir), to, false, None, None).unwrap()
}

/// Of a spool that is not encrypted.
fn no_keys(state_dir: &Path) -> Keyring {
    Keyring::without_masters(state_dir)
}

fn records(file: &Path) -> Vec<Spooled> {
    let file = std::io::BufReader::new(fs::File::open(file).unwrap());
    CarriedReader::open(file).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Topic, key, headers, value.
type Row = (Topic, String, Vec<(String, String)>, Vec<u8>);

/// What the spool holds, read without Picket.
fn rows(state_dir: &Path) -> Vec<Row> {
    let connection = Connection::open(state_dir.join("spool.sqlite")).unwrap();
    let mut all = Vec::new();
    for (topic, table, value) in [
        (Topic::Observations, "records", "value, NULL, NULL"),
        (Topic::Frames, "pictures", "format('%016x', segment), position, length"),
    ] {
        let sql = format!("SELECT key, headers, {value} FROM {table} ORDER BY id");
        let mut statement = connection.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| {
            let headers: String = row.get(1)?;
            let value = match topic {
                Topic::Observations => row.get(2)?,
                _ => {
                    let segment: String = row.get(2)?;
                    let path = state_dir.join("spool.sqlite-pictures").join(segment);
                    let mut value = vec![0; row.get(4)?];
                    let file = fs::File::open(path).unwrap();
                    file.read_exact_at(&mut value, row.get(3)?).unwrap();
                    value
                }
            };
            Ok((topic, row.get(0)?, serde_json::from_str(&headers).unwrap(), value))
        });
        all.extend(rows.unwrap().map(Result::unwrap));
    }
    all
}

fn plain(records: &[Spooled]) -> Vec<Row> {
    let plain = |r: &Spooled| (r.topic, r.key.clone(), r.headers.clone(), r.value.clone());
    records.iter().map(plain).collect()
}

#[test]
fn an_export_holds_each_record_that_waits_byte_for_byte_and_the_spool_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let before = rows(dir.path());
    let file = dir.path().join("carried");
    let told = exported(dir.path(), &file);
    assert_eq!(plain(&records(&file)), before);
    assert_eq!(rows(dir.path()), before, "an export deletes nothing");
    assert_eq!((told.count.records, told.unreadable), (before.len() as u64, 0));
    assert_eq!(before.iter().filter(|row| row.0 == Topic::Frames).count(), 5);
    assert!(!dir.path().join("carried.part").exists());
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there are pictures of persons in it");
}

#[test]
fn an_export_of_one_camera_holds_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let (file, yard) = (dir.path().join("carried"), "yard".parse().unwrap());
    spool::export(dir.path(), &no_keys(dir.path()), &file, false, Some(&yard), None).unwrap();
    let records = records(&file);
    assert_eq!(records.len(), 21, "an epoch record and twenty skips");
    assert!(records.iter().all(|record| record.key == "gate/yard"));
}

#[test]
fn an_export_that_cannot_be_made_names_the_file_and_what_to_do_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let file = dir.path().join("carried");
    fs::write(&file, "mine").unwrap();
    let refused = |to: &Path| {
        let error =
            spool::export(dir.path(), &no_keys(dir.path()), to, false, None, None).unwrap_err();
        picket_service::logging::chain(&error)
    };
    let error = refused(&file);
    assert!(error.contains("carried is there already") && error.contains("--overwrite"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let error = refused(&dir.path().join("no/such/folder"));
    assert!(error.contains("no/such/folder") && error.contains("its folder is not"), "{error}");
    spool::export(dir.path(), &no_keys(dir.path()), &file, true, None, None).unwrap();
    assert_eq!(records(&file).len(), rows(dir.path()).len());
    let empty = tempfile::tempdir().unwrap();
    let to = empty.path().join("carried");
    let error =
        spool::export(empty.path(), &no_keys(empty.path()), &to, false, None, None).unwrap_err();
    let text = picket_service::logging::chain(&error);
    assert!(text.contains("cannot open the spool") && text.contains("spool.sqlite"), "{text}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// Names the small file system, in the process within the namespace.
const STICK: &str = "PICKET_TEST_STICK";

/// Runs this test again where a file system of 16 KiB is mounted. The machine must allow a mount
/// namespace: to root, or to a user in a user namespace.
fn with_a_small_stick(test: &str) {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let namespace = if fs::metadata("/proc/self").unwrap().uid() == 0 { "-m" } else { "-rm" };
    let script = format!(
        "mount -t tmpfs -o size=16k picket-test \"${STICK}\" && exec \"$0\" --exact {test} --nocapture"
    );
    let output = std::process::Command::new("unshare")
        .args([namespace, "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(STICK, dir.path())
        .output()
        .expect("unshare of util-linux is missing");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_stick_that_is_full_or_read_only_is_said_and_nothing_is_left_on_it() {
    let Some(stick) = std::env::var_os(STICK).map(PathBuf::from) else {
        return with_a_small_stick(
            "a_stick_that_is_full_or_read_only_is_said_and_nothing_is_left_on_it",
        );
    };
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let export = || {
        let error = spool::export(
            dir.path(),
            &no_keys(dir.path()),
            &stick.join("carried"),
            false,
            None,
            None,
        );
        picket_service::logging::chain(&error.unwrap_err())
    };
    let error = export();
    assert!(error.contains("carried.part") && error.contains("no room left"), "{error}");
    assert_eq!(fs::read_dir(&stick).unwrap().count(), 0);
    let remount = ["-o", "remount,ro"];
    let done = std::process::Command::new("mount").args(remount).arg(&stick).status().unwrap();
    assert!(done.success());
    let error = export();
    assert!(error.contains("carried") && error.contains("read-only"), "{error}");
}

#[test]
fn a_row_that_cannot_be_read_is_left_out_and_said_and_those_behind_it_are_not() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    connection.execute("UPDATE records SET headers = '[[' WHERE id = 5", []).unwrap();
    let file = dir.path().join("carried");
    let told = exported(dir.path(), &file);
    assert_eq!(told.unreadable, 1);
    assert!(told.named[0].contains("row 5"), "{:?}", told.named);
    let all: i64 = connection
        .query_row(
            "SELECT (SELECT count(*) FROM records) + (SELECT count(*) FROM pictures)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(records(&file).len() as i64, all - 1);
}

/// All messages of a topic, in the order of each partition: key, headers, value.
type Raw = (String, Vec<(String, String)>, Vec<u8>);

fn messages(mock: &Mock, topic: Topic, count: usize) -> Vec<Raw> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let name = TopicNames::default().name(topic);
    let mut partitions = rdkafka::TopicPartitionList::new();
    for partition in 0..3 {
        partitions.add_partition_offset(&name, partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    let (mut messages, until) = (Vec::new(), Instant::now() + LIMIT);
    while messages.len() < count {
        assert!(Instant::now() < until, "only {} of {count} messages", messages.len());
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().unwrap().iter();
        let headers = headers.map(|h| (h.key.to_owned(), text(h.value.unwrap()))).collect();
        messages.push((text(message.key().unwrap()), headers, message.payload().unwrap().to_vec()));
    }
    messages
}

fn of_camera<'a>(raws: &'a [Raw], key: &str) -> Vec<&'a Raw> {
    raws.iter().filter(|raw| raw.0 == key).collect()
}

fn imported(settings: &Settings, file: &Path) -> Result<Imported, ImportError> {
    let reader = CarriedReader::open(std::io::BufReader::new(fs::File::open(file).unwrap()));
    import(settings, &gate(), reader.unwrap(), |_| {})
}

#[test]
fn an_import_publishes_the_same_bytes_as_backlog_in_each_cameras_order() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    box_without_a_network(dir.path());
    let file = dir.path().join("carried");
    exported(dir.path(), &file);
    let small = Settings { max_in_flight_records: 3, ..settings(mock.bootstrap_servers()) };
    let told = imported(&small, &file).unwrap();
    let waiting = rows(dir.path());
    assert_eq!((told.acknowledged, told.refused.len()), (waiting.len() as u64, 0));
    for topic in Topic::OF_CAMERAS {
        let lane = || (header::LANE.to_owned(), "backlog".to_owned());
        let expected =
            waiting.iter().filter(|row| row.0 == topic).map(|(_, key, headers, value)| {
                let headers = headers.iter().cloned().chain([lane()]).collect();
                (key.clone(), headers, value.clone())
            });
        let expected: Vec<Raw> = expected.collect();
        let seen = messages(&mock, topic, expected.len());
        for key in ["gate/north", "gate/yard"] {
            assert_eq!(of_camera(&seen, key), of_camera(&expected, key), "{topic} of {key}");
        }
    }
}

#[test]
fn a_record_that_the_broker_refuses_is_named_and_takes_none_of_its_company_along() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    box_without_a_network(dir.path());
    let file = dir.path().join("carried");
    exported(dir.path(), &file);
    // A batch in company, and then the first of it once more alone.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    mock.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    let one_by_one = Settings { max_in_flight_records: 1, ..settings(mock.bootstrap_servers()) };
    let told = imported(&one_by_one, &file).unwrap();
    let [(id, reason)] = told.refused.as_slice() else { panic!("{told:?}") };
    assert!(id.starts_with("gate/"), "{id}");
    assert_eq!(*reason, Reason::REFUSED_BY_BROKER.into());
    assert_eq!(told.acknowledged as usize, rows(dir.path()).len() - 1);
}

#[test]
fn an_import_without_the_right_to_write_stops_and_names_topic_and_right() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    box_without_a_network(dir.path());
    let file = dir.path().join("carried");
    exported(dir.path(), &file);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    let error = imported(&settings(mock.bootstrap_servers()), &file).unwrap_err().to_string();
    assert!(error.contains("picket.") && error.contains("give its principal the right"), "{error}");
    assert!(error.contains("import the file again"), "{error}");
}

/// A config of a machine that only publishes: no camera, no model.
fn publishing(dir: &Path, brokers: &str) -> PathBuf {
    let config = dir.join("carrier.toml");
    let text = format!(
        "device = \"carrier\"\n[uplink]\nbrokers = [\"{brokers}\"]\nallow_plaintext = true\n"
    );
    fs::write(&config, text).unwrap();
    config
}

fn run(command: Command) -> Result<(bool, String), String> {
    let mut out = Vec::new();
    let fine = spool_command::run(command, &mut out).map_err(|error| format!("{error:#}"))?;
    Ok((fine, String::from_utf8(out).unwrap()))
}

fn import_command(config: PathBuf, file: PathBuf, check: bool) -> Command {
    Command::Import { config: spool_command::ConfigFile { path: config }, file, check }
}

#[test]
fn of_a_torn_or_altered_file_nothing_is_published_and_what_is_whole_is_said() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    box_without_a_network(dir.path());
    let file = dir.path().join("carried");
    exported(dir.path(), &file);
    let config = publishing(dir.path(), &mock.bootstrap_servers());
    let whole = fs::read(&file).unwrap();
    let wrong = dir.path().join("wrong");

    fs::write(&wrong, &whole[..whole.len() - 50]).unwrap();
    let error = run(import_command(config.clone(), wrong.clone(), false)).unwrap_err();
    assert!(error.contains("wrong") && error.contains("is torn"), "{error}");
    let count = rows(dir.path()).len();
    assert!(error.contains(&format!("after {} whole records", count)), "{error}");

    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 0x20;
    fs::write(&wrong, &altered).unwrap();
    let error = run(import_command(config.clone(), wrong, false)).unwrap_err();
    assert!(error.contains("is altered or damaged after"), "{error}");

    let (fine, said) = run(import_command(config.clone(), file.clone(), true)).unwrap();
    assert!(fine && said.contains(&format!("whole, {count} records")), "{said}");
    // What comes first is what the whole file begins with: nothing was published before it.
    let (fine, said) = run(import_command(config, file, false)).unwrap();
    assert!(fine && said.contains(&format!("the broker has {count} records")), "{said}");
    let observations = rows(dir.path()).iter().filter(|row| row.0 == Topic::Observations).count();
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().unwrap();
    let name = TopicNames::default().name(Topic::Observations);
    let ends =
        (0..3).map(|partition| consumer.fetch_watermarks(&name, partition, LIMIT).unwrap().1);
    assert_eq!(ends.sum::<i64>(), observations as i64);
}

#[test]
fn the_list_groups_what_waits_by_camera_epoch_and_kind_and_chooses() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let all = spool::list(dir.path(), &Chosen::default()).unwrap();
    let lines: Vec<_> = all
        .iter()
        .map(|g| (g.camera.to_string(), g.kind.as_str(), g.first, g.last, g.records))
        .collect();
    let line = |camera: &str, kind, first, last, records| {
        (format!("gate/{camera}"), kind, first, last, records)
    };
    assert_eq!(
        lines,
        [
            line("north", "epoch", 0, 0, 1),
            line("north", "frame", 31, 35, 5),
            line("north", "observation", 31, 35, 5),
            line("north", "skip", 1, 30, 30),
            line("yard", "epoch", 0, 0, 1),
            line("yard", "skip", 1, 20, 20),
        ]
    );
    let totals = spool::stat(dir.path()).unwrap().totals;
    let bytes: u64 = all.iter().map(|group| group.bytes).sum();
    assert_eq!(bytes, totals.record_bytes + totals.picture_bytes);
    let chosen = Chosen { camera: Some("yard".parse().unwrap()), kind: Some("skip".to_owned()) };
    assert_eq!(spool::list(dir.path(), &chosen).unwrap(), [all[5].clone()]);
}

#[test]
fn a_whole_spool_is_found_whole_with_and_without_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    let found = spool::verify(dir.path(), &no_keys(dir.path())).unwrap();
    assert!(found.is_whole() && found.notes.is_empty(), "{found:?}");
    assert_eq!(found.rows as usize, rows(dir.path()).len());
    let agent = start(dir.path(), &settings(NOBODY.to_owned()));
    agent.capture(1..=50);
    let found = spool::verify(dir.path(), &no_keys(dir.path())).unwrap();
    assert!(found.is_whole(), "{found:?}");
}

#[test]
fn whatever_is_changed_in_a_spool_verify_names_it() {
    let changes = [
        ("UPDATE spool SET records = records + 1", "totals"),
        ("UPDATE spool SET picture_bytes = 0", "totals"),
        ("UPDATE spool SET epoch_number = 9", "epoch file says 1, and the database 9"),
        ("UPDATE spool SET epoch_number = 0", "has only begun 0"),
        ("DELETE FROM records WHERE id = 7", "camera gate/north: the books say"),
        ("UPDATE accounts SET acknowledged = 3 WHERE key = 'gate/yard'", "do not balance"),
        ("UPDATE accounts SET last_committed = 4", "know none beyond 4"),
        ("DELETE FROM accounts WHERE key = 'gate/yard'", "gate/yard has rows and no account"),
        ("UPDATE records SET kind = 'gap' WHERE id = 7", "row 7 of observations: its column kind"),
        ("UPDATE records SET first = 2 WHERE id = 7", "its column first or last"),
        ("UPDATE records SET bytes = 1 WHERE id = 7", "row 7 of observations: its column bytes"),
        ("UPDATE records SET headers = '{}' WHERE id = 7", "row 7 of observations"),
        ("UPDATE records SET value = x'00' WHERE id = 7", "row 7 of observations"),
        ("UPDATE pictures SET key = 'gate/x' WHERE id = (SELECT min(id) FROM pictures)", "frames"),
        ("UPDATE records SET key = 'Gate' WHERE id = 7", "key"),
    ];
    for (sql, said) in changes {
        let dir = tempfile::tempdir().unwrap();
        box_without_a_network(dir.path());
        let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
        assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
        drop(connection);
        let found = spool::verify(dir.path(), &no_keys(dir.path())).unwrap();
        let problems = found.problems.join("\n");
        assert!(problems.contains(said), "{sql}: {problems}");
    }
}

#[test]
fn torn_pages_and_a_lost_epoch_file_are_named_and_verify_ends_with_1() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    box_without_a_network(dir.path());
    fs::remove_file(dir.path().join("epoch")).unwrap();
    fs::write(dir.path().join("spool.sqlite.corrupt-1"), "").unwrap();
    let database = dir.path().join("spool.sqlite");
    let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
    let config = publishing(dir.path(), NOBODY);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("state_dir = {:?}\n{text}", dir.path())).unwrap();
    let verify = || run(Command::Verify(spool_command::ConfigFile { path: config.clone() }));
    let (whole, said) = verify().unwrap();
    assert!(!whole && said.contains("WRONG: the epoch file is not there"), "{said}");
    assert!(said.contains("note: 1 damaged databases were set aside"), "{said}");
    fs::write(dir.path().join("epoch"), "1\n").unwrap();
    assert!(verify().unwrap().0, "{}", verify().unwrap().1);
    let connection = Connection::open(&database).unwrap();
    let (page, page_bytes): (u64, u64) = connection
        .query_row(
            "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'records'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    drop(connection);
    file.write_all_at(&[0xaa; 100], (page - 1) * page_bytes).unwrap();
    let (whole, said) = verify().unwrap();
    assert!(!whole && said.contains("WRONG: ") && said.contains("NOT WHOLE"), "{said}");
    file.write_all_at(&[0; 100], 0).unwrap();
    let (whole, said) = verify().unwrap();
    assert!(!whole && said.contains("not a database"), "{said}");
}
