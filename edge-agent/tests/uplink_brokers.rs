//! What happens among the brokers, on librdkafka's mock brokers: a partition that has too few replicas,
//! and one whose leader changes. The end-to-end tests have both on three real brokers too; here the
//! answers are made at will, in seconds.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::uplink::{BROKER, LIMIT, Mock, cluster, cluster_of, settings, start};
use picket_wire::{Topic, TopicNames};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const PARTITIONS: i32 = 3;

/// How many messages lie on the topic of observations.
fn messages(mock: &Mock) -> i64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let topic = TopicNames::default().name(Topic::Observations);
    let count = |partition| {
        let (low, high) = consumer.fetch_watermarks(&topic, partition, LIMIT).unwrap();
        high - low
    };
    (0..PARTITIONS).map(count).sum()
}

#[test]
fn while_a_partition_has_too_few_replicas_all_waits_and_afterwards_all_is_there_once() {
    const REFUSALS: usize = 20;
    let (mock, dir) = (cluster(), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    agent.capture(1..=10);
    agent.wait("the link is up", |agent| agent.books().acknowledged == 10);
    let too_few = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    mock.request_errors(RDKafkaApiKey::Produce, &[too_few; REFUSALS]);
    agent.capture(11..=100);
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == 100);
    assert!(agent.books().dropped.is_empty(), "{:?}", agent.books());
    agent.end();
    assert_eq!(messages(&mock), 101, "each skip and the epoch record, once");
}

#[test]
fn a_leader_that_changes_under_load_loses_nothing_and_doubles_nothing() {
    const OTHER: i32 = 2;
    const CHANGES: u64 = 10;
    const BETWEEN: u64 = 50;
    let (mock, dir) = (cluster_of(2), tempfile::tempdir().unwrap());
    let agent = start(dir.path(), &settings(mock.bootstrap_servers()));
    let topic = TopicNames::default().name(Topic::Observations);
    for change in 0..CHANGES {
        let leader = if change % 2 == 0 { BROKER } else { OTHER };
        // The half of it is on its way while the leader changes.
        let first = change * BETWEEN + 1;
        agent.capture(first..=first + BETWEEN / 2 - 1);
        for partition in 0..PARTITIONS {
            mock.partition_leader(&topic, partition, Some(leader)).unwrap();
        }
        agent.capture(first + BETWEEN / 2..=first + BETWEEN - 1);
        agent.wait("some is taken by the new leader", |agent| {
            agent.books().acknowledged >= first + BETWEEN / 2
        });
    }
    let all = CHANGES * BETWEEN;
    agent.wait("all acknowledged", |agent| agent.books().acknowledged == all);
    assert!(agent.books().dropped.is_empty(), "{:?}", agent.books());
    agent.end();
    assert_eq!(messages(&mock), 1 + i64::try_from(all).unwrap(), "with the epoch record, once");
}
