//! What librdkafka calls back. Nothing is done here but to pass it on: a callback runs on the thread
//! that polls, and a callback that waits stops the polling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use picket_wire::TopicNames;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tokio::sync::mpsc;

use super::kafka;
use super::lag::LogEnds;
use super::membership::PartitionId;
use super::other_cluster::OtherCluster;

/// A change of this instance's part. The group waits until it is answered by `incremental_assign` or
/// `incremental_unassign`; the heartbeat goes on meanwhile.
#[derive(Debug)]
pub enum Rebalance {
    /// New partitions.
    Assign(Vec<PartitionId>),
    /// Partitions that another instance gets.
    Revoke(Vec<PartitionId>),
    /// Partitions that another instance may have already: the group gave up on this one.
    Lost(Vec<PartitionId>),
}

/// The consumer's callbacks.
pub struct Context {
    /// Where changes go.
    pub rebalances: mpsc::UnboundedSender<Rebalance>,
    /// The topics of this group.
    pub topics: TopicNames,
    /// The newest known ends of the logs.
    pub ends: Arc<LogEnds>,
    /// Set once nobody answers rebalances any more.
    pub closing: Arc<AtomicBool>,
    /// Whether a broker is of another cluster than those before it.
    pub other_cluster: OtherCluster,
    /// Set when offsets were not committed.
    pub commit_failed: Arc<AtomicBool>,
}

/// The list as this stage knows partitions.
pub fn partitions(topics: &TopicNames, list: &TopicPartitionList) -> Vec<PartitionId> {
    let known = |name: &str| topics.topic(name);
    list.elements().iter().filter_map(|e| Some((known(e.topic())?, e.partition()))).collect()
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.other_cluster.hear(facility);
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.ends.update(&self.topics, &statistics);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assigned = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let partitions = partitions(&self.topics, list);
        let change = if assigned {
            Rebalance::Assign(partitions)
        } else if consumer.assignment_lost() {
            Rebalance::Lost(partitions)
        } else {
            Rebalance::Revoke(partitions)
        };
        if !self.closing.load(Ordering::Acquire) && self.rebalances.send(change).is_ok() {
            return;
        }
        // Nobody listens any more, and the client does not end before it has its answer.
        let answer = match assigned {
            true => consumer.incremental_assign(&TopicPartitionList::new()),
            false => consumer.incremental_unassign(list),
        };
        if let Err(e) = answer {
            tracing::debug!(error = %e, "a last change of partitions was not answered");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(e) = result {
            self.commit_failed.store(true, Ordering::Release);
            tracing::debug!(error = %e, "committed offsets, which only lag tools read, are behind");
        }
    }
}
