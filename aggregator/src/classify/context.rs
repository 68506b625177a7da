//! What librdkafka calls back. A change of partitions is answered at once: what is under way of one that
//! goes may be done twice, which changes nothing.

use metrics::gauge;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tokio::sync::mpsc;

use super::metrics as names;
use super::queue::Assigned;
use crate::consume::kafka;
use crate::consume::other_cluster::OtherCluster;

/// A change of this instance's part, or what belongs to one.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// New partitions.
    Assigned(Vec<i32>),
    /// Partitions that go.
    Revoked(Vec<i32>),
    /// Where the group stood in partitions when they came; nowhere yet, if none.
    Committed(Vec<(Assigned, Option<i64>)>),
}

/// The consumer's callbacks.
pub struct Context {
    /// Where changes go.
    pub changes: mpsc::UnboundedSender<Change>,
    /// Set once a broker is of another cluster than those before it.
    pub other_cluster: OtherCluster,
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
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        // Below zero where it is not known, or the partition is another's.
        let lag: i64 = partitions.map(|partition| partition.consumer_lag.max(0)).sum();
        gauge!(names::LAG).set(lag as f64);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let (answer, change) = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                (consumer.incremental_assign(list), Change::Assigned(partitions))
            }
            _ => (consumer.incremental_unassign(list), Change::Revoked(partitions)),
        };
        if let Err(e) = answer {
            tracing::warn!(error = %e, "a change of partitions could not be answered");
        }
        // Nobody listens at the end.
        drop(self.changes.send(change));
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(e) = result {
            tracing::debug!(error = %e, "offsets were not committed; they are once more at the end");
        }
    }
}
