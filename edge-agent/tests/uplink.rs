//! The uplink's promises, from a real spool to librdkafka's mock brokers. The real Kafka, TLS and
//! rights are the end-to-end tests' part.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::uplink::{
    Agent, BROKER, LIMIT, Mock, cluster, cluster_of, gate, north, settings, stamp, start,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use picket_edge_agent::uplink::{ProbeError, Settings, UplinkError, probe};
use picket_wire::observation::{GapOf, Reason};
use picket_wire::status::{SpoolStatus, Status};
use picket_wire::{CameraName, CameraRecord, Lane, Message, Topic, TopicNames, decode};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Reads a topic of the cluster from its beginning.
fn reader(mock: &Mock, topic: Topic) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let name = TopicNames::default().name(topic);
    let mut partitions = rdkafka::TopicPartitionList::new();
    for partition in 0..3 {
        partitions.add_partition_offset(&name, partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    consumer
}

/// Reads until `count` messages were seen.
fn consume(mock: &Mock, topic: Topic, count: usize) -> Vec<(Message, String)> {
    let consumer = reader(mock, topic);
    let (mut messages, until) = (Vec::new(), Instant::now() + LIMIT);
    while messages.len() < count {
        assert!(
            Instant::now() < until,
            "only {} of {count} messages: {messages:?}",
            messages.len()
        );
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let headers: Vec<(String, Vec<u8>)> = message
            .headers()
            .map(|h| h.iter().map(|h| (h.key.to_owned(), h.value.unwrap().to_vec())).collect())
            .unwrap_or_default();
        let id = headers.iter().find(|(name, _)| name == picket_wire::header::ID).unwrap();
        let id = String::from_utf8(id.1.clone()).unwrap();
        let key = message.key().unwrap();
        messages.push((decode(topic, key, &headers, message.payload().unwrap()).unwrap(), id));
    }
    messages
}

/// The partition in which the observations of a key lie.
fn partition_of(mock: &Mock, key: &str) -> i32 {
    let consumer = reader(mock, Topic::Observations);
    let until = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < until, "nothing has the key {key}");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                return message.partition();
            }
            _ => {}
        }
    }
}

/// Lane and `seq` of the skips among them, in their order.
fn skips(messages: &[(Message, String)]) -> Vec<(Lane, u64)> {
    let skip = |(message, _): &(Message, String)| match message {
        Message::Record { lane, record: CameraRecord::Skip(skip) } => Some((*lane, skip.first)),
        _ => None,
    };
    messages.iter().filter_map(skip).collect()
}

#[test]
fn records_arrive_in_order_and_leave_the_spool_once_acknowledged() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=200);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 200);
    assert!(agent.uplink.status().up);
    agent.end();
    let messages = consume(&mock, Topic::Observations, 201);
    assert!(matches!(&messages[0].0, Message::Record { record: CameraRecord::Epoch(_), .. }));
    let expected: Vec<_> = (1..=200).map(|seq| (Lane::Live, seq)).collect();
    assert_eq!(skips(&messages), expected);
    let connection = rusqlite::Connection::open(dir.path().join("spool.sqlite")).unwrap();
    let left: i64 = connection.query_row("SELECT count(*) FROM records", [], |r| r.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_partition_whose_leader_is_away_holds_up_no_other_camera_and_is_said() {
    let (mock, dir) = (cluster_of(2), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    const FARTHER: i32 = 2;
    let yard: CameraName = "yard".parse().unwrap();
    agent.spool.add_cameras(std::slice::from_ref(&yard)).unwrap();
    let acknowledged = |agent: &Agent| agent.spool.ledger().books(&yard).unwrap().acknowledged;
    let observations = TopicNames::default().name(Topic::Observations);
    for partition in 0..3 {
        mock.partition_leader(&observations, partition, Some(BROKER)).unwrap();
    }
    agent.capture(1..=1);
    agent.wait("it is taken", |agent| agent.books().acknowledged == 1);
    agent.capture_of(&yard, 1..=1);
    agent.wait("it is taken", |agent| acknowledged(agent) == 1);
    let [its, other] = ["gate/north", "gate/yard"].map(|key| partition_of(&mock, key));
    assert_ne!(its, other);
    mock.partition_leader(&observations, its, Some(FARTHER)).unwrap();
    agent.capture(2..=2);
    agent.wait("the leader has changed", |agent| agent.books().acknowledged == 2);

    mock.broker_down(FARTHER).unwrap();
    // More than is ever held of one camera.
    agent.capture(3..=1500);
    let captured = AtomicU64::new(1);
    let capture_one = || {
        let seq = captured.fetch_add(1, Ordering::SeqCst) + 1;
        agent.capture_of(&yard, seq..=seq);
    };
    let names_it = |problem: &str| problem.contains("gate/north") && problem.contains("partition");
    agent.wait("the silent partition is said", |agent| {
        capture_one();
        agent.uplink.status().problem.is_some_and(|problem| names_it(&problem))
    });
    let sent = captured.load(Ordering::SeqCst);
    agent.wait("the other camera's are taken", |agent| acknowledged(agent) == sent);
    assert_eq!(agent.books().acknowledged, 2);

    mock.broker_up(FARTHER).unwrap();
    agent.wait("the rest is taken", |agent| agent.books().acknowledged == 1500);
    agent.wait("nothing is wrong", |agent| agent.uplink.status().problem.is_none());
    agent.end();
}

#[test]
fn outage_turns_what_it_delayed_into_backlog_and_loses_nothing() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=10);
    agent.wait("the link is up", |agent| agent.books().acknowledged == 10);
    mock.broker_down(BROKER).unwrap();
    agent.capture(11..=11);
    agent.wait("the outage is noticed", |agent| !agent.uplink.status().up);
    assert!(agent.uplink.status().problem.is_some());
    agent.capture(12..=60);
    assert_eq!(agent.books().acknowledged, 10);
    assert_eq!(agent.books().spooled, 50);
    mock.broker_up(BROKER).unwrap();
    agent.wait("the backlog is drained", |agent| agent.books().acknowledged == 60);
    agent.capture(61..=70);
    agent.end();
    let seen = skips(&consume(&mock, Topic::Observations, 71));
    assert_eq!(seen.iter().map(|(_, seq)| *seq).collect::<Vec<_>>(), (1..=70).collect::<Vec<_>>());
    let backlog: Vec<u64> =
        seen.iter().filter(|(lane, _)| *lane == Lane::Backlog).map(|(_, seq)| *seq).collect();
    assert!(backlog.contains(&30) && backlog.contains(&60), "{backlog:?}");
    assert!(!backlog.contains(&5) && !backlog.contains(&61), "{backlog:?}");
}

#[test]
fn what_was_spooled_without_a_broker_goes_as_backlog_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Settings { drain_timeout_ms: 0, ..settings("127.0.0.1:9".to_owned()) };
    let agent = start(dir.path(), &nowhere);
    agent.capture(1..=5);
    agent.wait("the refusal is told", |agent| {
        agent.uplink.status().problem.is_some_and(|why| why.contains("refuses the connection"))
    });
    let left = agent.uplink.drain(Duration::ZERO).unwrap();
    assert_eq!(left.records, 6, "the epoch record and five skips");
    agent.spool.finish(LIMIT).unwrap();

    let mock = cluster();
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=5);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 10);
    agent.end();
    let seen = skips(&consume(&mock, Topic::Observations, 12));
    let of = |lane| -> Vec<u64> {
        seen.iter().filter(|(of, _)| *of == lane).map(|(_, seq)| *seq).collect()
    };
    assert_eq!(of(Lane::Backlog), [1, 2, 3, 4, 5]);
    assert_eq!(of(Lane::Live), [1, 2, 3, 4, 5]);
}

#[test]
fn record_that_is_refused_for_good_becomes_a_gap_and_blocks_nothing() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.wait("the link is up", |agent| agent.uplink.status().up);
    // Once in company, and once more alone: that one is given up, its company is not.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    mock.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    agent.capture(1..=20);
    agent.wait("all settled", |agent| {
        let books = agent.books();
        books.acknowledged + books.dropped.values().sum::<u64>() == 20
    });
    let books = agent.books();
    assert_eq!(books.dropped.get(&Reason::REFUSED_BY_BROKER.into()), Some(&1));
    agent.end();
    let messages = consume(&mock, Topic::Observations, 21);
    let gap = messages.iter().find_map(|(message, _)| match message {
        Message::Record { record: CameraRecord::Gap(gap), .. } => Some(gap.clone()),
        _ => None,
    });
    let gap = gap.expect("a gap record");
    assert_eq!((gap.count, gap.of), (1, GapOf::Observations));
    let mut seen: Vec<u64> = skips(&messages).into_iter().map(|(_, seq)| seq).collect();
    seen.push(gap.first);
    seen.sort_unstable();
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

#[test]
fn row_that_cannot_be_read_becomes_a_gap_and_blocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = settings("127.0.0.1:9".to_owned());
    let agent = start(dir.path(), &nowhere);
    agent.capture(1..=5);
    agent.uplink.drain(Duration::ZERO).unwrap();
    agent.spool.finish(LIMIT).unwrap();
    let connection = rusqlite::Connection::open(dir.path().join("spool.sqlite")).unwrap();
    connection.execute("UPDATE records SET headers = 'x' WHERE first = 3", []).unwrap();
    drop(connection);

    let mock = cluster();
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=5);
    agent.wait("all settled", |agent| {
        let books = agent.books();
        books.acknowledged == 9 && books.dropped.get(&Reason::SPOOL_DAMAGED.into()) == Some(&1)
    });
    agent.end();
}

#[test]
fn what_a_drain_left_is_what_the_spool_still_holds() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.wait("the link is up", |agent| agent.uplink.status().up);
    agent.capture(1..=500);
    let reader = agent.spool.reader().unwrap();
    // Some are acknowledged as it ends: these count as such, though their deletion came last.
    let left = agent.uplink.drain(Duration::ZERO).unwrap();
    let status = reader.status(None).unwrap();
    assert_eq!((left.records, left.bytes), (status.records, status.bytes));
    agent.spool.finish(LIMIT).unwrap();
}

#[test]
fn refused_epoch_record_is_tried_again_and_never_dropped() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    // In company, then twice alone.
    mock.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal, refusal]);
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.wait("the link is up", |agent| agent.uplink.status().up);
    agent.capture(1..=5);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 5);
    agent.end();
    let messages = consume(&mock, Topic::Observations, 6);
    let is_epoch = |(message, _): &&(Message, String)| {
        matches!(message, Message::Record { record: CameraRecord::Epoch(_), .. })
    };
    assert_eq!(messages.iter().filter(is_epoch).count(), 1);
}

#[test]
fn missing_topic_is_told_by_name_and_what_waits_is_sent_once_it_is_there() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let name = TopicNames::default().name(Topic::Observations);
    mock.topic_error(&name, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=5);
    agent.wait("the topic is named", |agent| {
        agent.uplink.status().problem.is_some_and(|why| why.contains(&name))
    });
    mock.topic_error(&name, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 5);
    agent.end();
}

#[test]
fn missing_right_on_pictures_does_not_hold_up_observations() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let frames = TopicNames::default().name(Topic::Frames);
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.topic_error(&frames, denied).unwrap();
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture_with_picture(1);
    agent.wait("the topic is named", |agent| {
        agent.uplink.status().problem.is_some_and(|why| why.contains(&frames))
    });
    agent.capture(2..=50);
    agent.wait("observations go", |agent| agent.books().acknowledged == 50);
    assert!(!agent.uplink.status().up, "the picture is still not acknowledged");
    mock.topic_error(&frames, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    agent.wait("the picture goes", |agent| agent.uplink.status().up);
    agent.end();
    let seen = skips(&consume(&mock, Topic::Observations, 51));
    assert!(seen.iter().all(|(lane, _)| *lane == Lane::Live), "{seen:?}");
    assert_eq!(consume(&mock, Topic::Frames, 1).len(), 1);
}

#[test]
fn after_a_fatal_error_a_second_producer_goes_on_in_order_and_nothing_is_lost_or_doubled() {
    let rounds =
        if std::env::var("PICKET_FAULTS").is_ok_and(|form| form == "long") { 6 } else { 2 };
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let replaced = || {
        let text = handle.render();
        let line = text.lines().find(|line| line.contains("restarts_total{why=\"fatal\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    let yard: CameraName = "yard".parse().unwrap();
    agent.spool.add_cameras(std::slice::from_ref(&yard)).unwrap();
    let mut sent = 0;
    for round in 1..=rounds {
        agent.wait("the link is up", |agent| {
            agent.uplink.status().up && agent.books().acknowledged == sent
        });
        // What a broker says that has lost what it knew of a producer.
        let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        mock.request_errors(RDKafkaApiKey::Produce, &[lost]);
        // Alone: the mock brokers take what follows a record that they refused, as no broker does.
        agent.capture(sent + 1..=sent + 1);
        agent.wait("the producers are replaced", |_| replaced() == round);
        agent.capture_of(&yard, sent + 1..=sent + 1);
        for seq in sent + 2..=sent + 50 {
            agent.capture(seq..=seq);
            agent.capture_of(&yard, seq..=seq);
        }
        sent += 50;
        agent.wait("all acknowledged", |agent| {
            let yards = agent.spool.ledger().books(&yard).unwrap().acknowledged;
            agent.books().acknowledged == sent && yards == sent
        });
        assert_eq!(replaced(), round, "a fatal error replaces the producers, once");
    }
    agent.end();
    // Two epoch records beside them.
    let messages = consume(&mock, Topic::Observations, 2 * sent as usize + 2);
    for camera in [north(), yard] {
        let of = |(message, _): &&(Message, String)| match message {
            Message::Record { record: CameraRecord::Skip(skip), .. } => {
                skip.id.key.camera == camera
            }
            _ => false,
        };
        let its: Vec<_> = messages.iter().filter(of).cloned().collect();
        let sent_by = |lane| skips(&its).into_iter().filter(move |(of, _)| *of == lane);
        for lane in [Lane::Live, Lane::Backlog] {
            assert!(sent_by(lane).map(|(_, seq)| seq).is_sorted(), "{camera}: {its:?}");
        }
        let mut seqs: Vec<u64> = skips(&its).into_iter().map(|(_, seq)| seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=sent).collect::<Vec<_>>(), "{camera}");
    }
}

#[test]
fn heartbeat_arrives_without_passing_the_spool() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    let status = Status {
        device: gate(),
        epoch: agent.epoch,
        stamp: stamp(1),
        agent_version: "0".to_owned(),
        config_sha256: String::new(),
        config_problem: None,
        model: None,
        uptime_s: 1,
        link: agent.uplink.status(),
        spool: SpoolStatus::default(),
        cameras: Default::default(),
        temperature_c: None,
        disk_free_bytes: None,
    };
    agent.uplink.send_status(status.encode().unwrap());
    let messages = consume(&mock, Topic::Status, 1);
    assert_eq!(messages[0].0, Message::Status(Box::new(status)));
    agent.end();
}

#[test]
fn probe_tells_a_refused_connection_from_a_missing_topic() {
    let error = probe(&settings("127.0.0.1:9".to_owned()), &gate(), Duration::from_secs(3));
    let Err(ProbeError::Unreachable { why, .. }) = error else { panic!("{error:?}") };
    assert!(why.contains("refuses the connection"), "{why}");
    let mock = cluster();
    let names = TopicNames::default();
    let frames = names.name(Topic::Frames);
    mock.topic_error(&frames, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let report = probe(&settings(mock.bootstrap_servers()), &gate(), LIMIT).unwrap();
    assert_eq!(report.topics[0], (names.name(Topic::Observations), Ok(3)));
    let wrong = report.topics[1].1.as_ref().unwrap_err();
    assert!(wrong.contains(&frames) && wrong.contains("topics create"), "{wrong}");
}

/// Writes a certificate of these years and its key, and gives settings that use them.
fn tls_settings(dir: &Path, not_before_year: i32, not_after_year: i32) -> Settings {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["gate".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(not_before_year, 1, 1);
    params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        Some(dir.join(name))
    };
    Settings {
        ca_file: write("ca.pem", &certificate),
        certificate_file: write("device.pem", &certificate),
        key_file: write("device.key", &key.serialize_pem()),
        ..settings("127.0.0.1:9".to_owned())
    }
}

#[test]
fn certificate_out_of_its_time_is_a_problem_of_the_link_and_the_spool_still_fills() {
    for (not_before, not_after, said) in [(2000, 2001, "expired on"), (3000, 4000, "not valid")] {
        let dir = tempfile::tempdir().unwrap();
        let settings = tls_settings(dir.path(), not_before, not_after);
        let agent = start(dir.path(), &settings);
        agent.capture(1..=5);
        assert_eq!(agent.books().spooled, 5);
        agent.wait("the date is told", |agent| {
            agent.uplink.status().problem.is_some_and(|why| why.contains(said))
        });
        agent.uplink.drain(Duration::ZERO).unwrap();
        agent.spool.finish(LIMIT).unwrap();
        let error = probe(&settings, &gate(), Duration::from_secs(3));
        let Err(ProbeError::Unreachable { why, .. }) = error else { panic!("{error:?}") };
        assert!(why.contains(said), "{why}");
    }
}

#[test]
fn a_drill_is_refused_while_changed_files_wait_that_it_would_connect_with() {
    let dir = tempfile::tempdir().unwrap();
    let settings = tls_settings(dir.path(), 2000, 4000);
    let agent = start(dir.path(), &settings);
    // So that the file is not what the first producer is made from.
    agent.capture(1..=1);
    agent.wait("a producer has tried", |agent| {
        agent.uplink.status().problem.is_some_and(|why| why.contains("refuses the connection"))
    });
    let certificate = settings.certificate_file.as_ref().unwrap();
    let former = std::fs::read(certificate).unwrap();
    std::fs::write(certificate, "hello").unwrap();
    let is_said = |agent: &Agent| {
        agent.uplink.status().problem.is_some_and(|why| why.contains("holds no certificate"))
    };
    agent.wait("the file is refused", is_said);
    let refused = agent.uplink.cut(Duration::from_secs(1));
    assert!(matches!(refused, Err(UplinkError::FilesRefused)), "{refused:?}");
    std::fs::write(certificate, former).unwrap();
    agent.wait("nothing is wrong with it", |agent| !is_said(agent));
    agent.uplink.cut(Duration::from_secs(1)).unwrap();
    agent.uplink.drain(Duration::ZERO).unwrap();
    agent.spool.finish(LIMIT).unwrap();
}

#[test]
fn a_link_that_is_cut_sends_nothing_until_it_is_restored() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=50);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 50);
    agent.uplink.cut(Duration::from_secs(3600)).unwrap();
    let is_cut = |agent: &Agent| {
        agent.uplink.status().problem.is_some_and(|problem| problem.contains("cut by a drill"))
    };
    agent.wait("the cut is said", is_cut);
    agent.capture(51..=100);
    let turns = agent.uplink.turns();
    agent.wait("the uplink turns meanwhile", |agent| agent.uplink.turns() > turns + 10);
    assert!(is_cut(&agent), "{:?}", agent.uplink.status());
    assert_eq!((agent.books().acknowledged, agent.books().spooled), (50, 50));
    agent.uplink.restore();
    agent.wait("what was kept is sent", |agent| agent.books().acknowledged == 100);
    assert!(agent.uplink.status().up);
    agent.end();
    let lanes = skips(&consume(&mock, Topic::Observations, 101));
    // The first tries the way: that the link is up again is only known by its acknowledgement.
    let kept: Vec<_> = (52..=100).map(|seq| (Lane::Backlog, seq)).collect();
    assert_eq!((lanes[50].1, &lanes[51..]), (51, kept.as_slice()));
}

#[test]
fn a_link_that_is_cut_comes_back_by_itself_and_at_once_where_the_agent_ends() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=10);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 10);
    agent.uplink.cut(Duration::from_secs(1)).unwrap();
    agent.capture(11..=20);
    agent.wait("it comes back", |agent| agent.books().acknowledged == 20);
    agent.uplink.cut(Duration::from_secs(3600)).unwrap();
    agent.capture(21..=30);
    let spool = agent.spool.clone();
    agent.end();
    assert_eq!(spool.ledger().books(&common::uplink::north()).unwrap().acknowledged, 30);
}
