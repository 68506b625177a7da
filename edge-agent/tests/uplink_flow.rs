//! How much goes over the link, and what is left out: the ceiling, the month's budget, compression,
//! and messages that are too large. From a real spool to librdkafka's mock brokers.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::uplink::{
    Agent, LIMIT, Mock, cluster, north, observation, settings, stamp, start, start_at,
};
use picket_edge_agent::detect::Observed;
use picket_edge_agent::uplink::Settings;
use picket_wire::observation::{ClockState, FrameFate, GapOf, Reason, Stamp};
use picket_wire::{CameraRecord, Message, ObservationId, Picture, Topic, TopicNames, decode};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const BUDGET_BYTES: u64 = 1 << 20;
const JPEG_BYTES: usize = 200_000;

fn budget_of(brokers: String) -> Settings {
    Settings { monthly_budget_bytes: Some(BUDGET_BYTES), ..settings(brokers) }
}

const NOVEMBER: &str = "2026-11-05T00:00:00Z";
const DECEMBER: &str = "2026-12-05T00:00:00Z";

fn clock(at: &str) -> Stamp {
    let captured_at = Some(at.parse().unwrap());
    Stamp { captured_at, clock: ClockState::Synchronised, ..stamp(1) }
}

fn month_bytes(agent: &Agent) -> u64 {
    agent.spool.reader().unwrap().status(None).unwrap().month_bytes
}

fn left_out(agent: &Agent) -> u64 {
    agent.books().pictures_dropped.get(&Reason::BUDGET.into()).copied().unwrap_or(0)
}

/// Pictures in the spool.
fn pictures_left(dir: &Path) -> i64 {
    let connection = rusqlite::Connection::open(dir.join("spool.sqlite")).unwrap();
    connection.query_row("SELECT count(*) FROM pictures", [], |row| row.get(0)).unwrap()
}

fn capture_with_picture(agent: &Agent, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        agent.spool.ledger().captured(&north(), 1);
        let id: ObservationId = format!("gate/north/{}/{seq}", agent.epoch).parse().unwrap();
        let observation = observation(id.clone(), stamp(seq));
        let mut jpeg = vec![0; JPEG_BYTES];
        jpeg[..3].copy_from_slice(&[0xff, 0xd8, 0xff]);
        jpeg[JPEG_BYTES - 2..].copy_from_slice(&[0xff, 0xd9]);
        let redacted = "none".to_owned();
        let (crop, stamp) = (None, stamp(seq));
        let picture = Some(Picture { id, crop, stamp, width: 64, height: 48, redacted, jpeg });
        let (picture_lost, position) = (None, None);
        let observed = Observed::Observation { observation, picture, picture_lost, position };
        agent.input.send(observed).unwrap();
    }
    agent.spool.flush(LIMIT).unwrap();
}

/// Spools so many skips while there is no broker; gives their bytes.
fn spooled(dir: &Path, count: u64) -> u64 {
    let nowhere = Settings { drain_timeout_ms: 0, ..settings("127.0.0.1:9".to_owned()) };
    let agent = start(dir, &nowhere);
    agent.capture(1..=count);
    let bytes = agent.spool.reader().unwrap().status(None).unwrap().bytes;
    end(agent);
    bytes
}

/// Ends an agent without a broker.
fn end(agent: Agent) {
    agent.uplink.drain(Duration::ZERO).unwrap();
    agent.spool.finish(LIMIT).unwrap();
}

/// All messages of a topic, until `enough` says so.
fn consume(mock: &Mock, topic: Topic, enough: impl Fn(&[Message]) -> bool) -> Vec<Message> {
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
    while !enough(&messages) {
        assert!(Instant::now() < until, "only {} messages", messages.len());
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let headers: Vec<(String, Vec<u8>)> = message
            .headers()
            .map(|h| h.iter().map(|h| (h.key.to_owned(), h.value.unwrap().to_vec())).collect())
            .unwrap_or_default();
        let (key, value) = (message.key().unwrap(), message.payload().unwrap());
        messages.push(decode(topic, key, &headers, value).unwrap());
    }
    messages
}

/// Pictures that gap records say were left out for the budget.
fn told_left_out(messages: &[Message]) -> u64 {
    let count = |message: &Message| match message {
        Message::Record { record: CameraRecord::Gap(gap), .. }
            if gap.reason == Reason::BUDGET.into() && gap.of == GapOf::Frames =>
        {
            gap.count
        }
        _ => 0,
    };
    messages.iter().map(count).sum()
}

/// Sends pictures until the month's bytes are used up; how many that were.
fn use_up(agent: &Agent) -> u64 {
    capture_with_picture(agent, 1..=8);
    agent.wait("the month's bytes are used up", |agent| month_bytes(agent) >= BUDGET_BYTES);
    8
}

#[test]
fn past_the_months_bytes_only_observations_go_and_each_picture_left_out_is_counted_and_told() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let budget = budget_of(mock.bootstrap_servers());
    let agent = start_at(clock(NOVEMBER), dir.path(), &budget);
    let before = use_up(&agent);
    assert_eq!(left_out(&agent), 0);
    capture_with_picture(&agent, before + 1..=before + 10);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == before + 10);
    assert_eq!(left_out(&agent), 10);
    let used = month_bytes(&agent);
    agent.end();

    // A restart is no new month.
    let agent = start_at(clock(NOVEMBER), dir.path(), &budget);
    assert!(month_bytes(&agent) >= used, "{} < {used}", month_bytes(&agent));
    capture_with_picture(&agent, 1..=5);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == before + 15);
    assert_eq!(left_out(&agent), 15);
    let enough = |messages: &[Message]| told_left_out(messages) >= 15;
    let messages = consume(&mock, Topic::Observations, enough);
    assert_eq!(told_left_out(&messages), 15);
    let withheld = |message: &&Message| match message {
        Message::Record { record: CameraRecord::Observation(observation), .. } => {
            observation.frame == FrameFate::Withheld
        }
        _ => false,
    };
    assert_eq!(messages.iter().filter(withheld).count(), 15);
    agent.end();
    let frames = consume(&mock, Topic::Frames, |messages| messages.len() as u64 >= before);
    assert_eq!(frames.len() as u64, before);
}

#[test]
fn pictures_that_wait_in_the_spool_when_the_months_bytes_are_used_up_are_left_out_and_told() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let budget = budget_of(mock.bootstrap_servers());
    let agent = start_at(clock(NOVEMBER), dir.path(), &budget);
    let before = use_up(&agent);
    agent.end();
    let nowhere = Settings { drain_timeout_ms: 0, ..settings("127.0.0.1:9".to_owned()) };
    let agent = start(dir.path(), &nowhere);
    capture_with_picture(&agent, 1..=6);
    assert_eq!(left_out(&agent), 0);
    end(agent);

    let agent = start_at(clock(NOVEMBER), dir.path(), &budget);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == before + 6);
    agent.wait("the pictures are counted", |agent| left_out(agent) == 6);
    let enough = |messages: &[Message]| told_left_out(messages) >= 6;
    assert_eq!(told_left_out(&consume(&mock, Topic::Observations, enough)), 6);
    agent.end();
    assert_eq!(pictures_left(dir.path()), 0);
}

#[test]
fn pictures_wait_while_no_clock_tells_whether_the_month_whose_bytes_are_used_up_is_over() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let budget = Settings { drain_timeout_ms: 0, ..budget_of(mock.bootstrap_servers()) };
    let agent = start_at(clock(NOVEMBER), dir.path(), &budget);
    let before = use_up(&agent);
    agent.wait("all pictures are there", |_| pictures_left(dir.path()) == 0);
    agent.end();

    let agent = start(dir.path(), &budget);
    capture_with_picture(&agent, 1..=4);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == before + 4);
    assert_eq!((left_out(&agent), pictures_left(dir.path())), (0, 4));
    end(agent);

    let agent = start_at(clock(DECEMBER), dir.path(), &budget);
    agent.wait("all pictures are there", |_| pictures_left(dir.path()) == 0);
    assert_eq!(left_out(&agent), 0);
    agent.end();
    let enough = |messages: &[Message]| messages.len() as u64 >= before + 4;
    assert_eq!(consume(&mock, Topic::Frames, enough).len() as u64, before + 4);
}

#[test]
fn no_more_is_sent_in_a_second_than_the_ceiling_allows() {
    const RATE: u64 = 40_000;
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let bytes = spooled(dir.path(), 600);
    let ceiling =
        Settings { max_bytes_per_second: Some(RATE), ..settings(mock.bootstrap_servers()) };
    let began = Instant::now();
    let agent = start(dir.path(), &ceiling);
    agent.wait("the backlog is drained", |agent| agent.books().acknowledged == 600);
    let least = Duration::from_secs_f64(bytes as f64 / RATE as f64 - 1.0);
    assert!(least > Duration::from_secs(2), "too little to judge: {bytes} bytes");
    assert!(began.elapsed() >= least, "{bytes} bytes in {:?}", began.elapsed());
    agent.end();
}

#[test]
fn records_go_compressed() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let bytes = spooled(dir.path(), 1000);
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.wait("the backlog is drained", |agent| agent.books().acknowledged == 1000);
    // Each count of what was sent includes all before it; the first may be of the other producer.
    for seq in 1..=2 {
        let before = month_bytes(&agent);
        agent.capture(seq..=seq);
        agent.wait("it is counted what went", |agent| month_bytes(agent) > before);
    }
    let sent = month_bytes(&agent);
    assert!(sent < bytes / 2, "{sent} bytes went for {bytes} bytes of records");
    agent.end();
}

#[test]
fn record_that_is_too_large_for_the_broker_becomes_a_gap_and_blocks_nothing() {
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.wait("the link is up", |agent| agent.uplink.status().up);
    // Once in company, and once more alone: that one is given up, its company is not.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    mock.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    agent.capture(1..=20);
    agent.wait("all settled", |agent| {
        let books = agent.books();
        books.acknowledged + books.dropped.values().sum::<u64>() == 20
    });
    assert_eq!(agent.books().dropped.get(&Reason::TOO_LARGE.into()), Some(&1));
    agent.end();
}
