//! How far the store is behind the broker.
//!
//! The ends of the logs come from librdkafka's own statistics, which costs no request, and where it does
//! not read from the broker.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use picket_wire::TopicNames;
use rdkafka::Statistics;

use super::membership::PartitionId;

/// The newest known end of each partition's log.
#[derive(Debug, Default)]
pub struct LogEnds {
    ends: Mutex<HashMap<PartitionId, i64>>,
}

impl LogEnds {
    /// Takes over what librdkafka knows.
    pub fn update(&self, topics: &TopicNames, statistics: &Statistics) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in &statistics.topics {
            let Some(known) = topics.topic(name) else { continue };
            // The end of the log as a reader may see it; below zero where it is not known yet.
            for partition in topic.partitions.values().filter(|p| p.hi_offset >= 0) {
                let end = ends.entry((known, partition.partition)).or_default();
                // What it knows stands still while it does not fetch.
                *end = partition.hi_offset.max(*end);
            }
        }
    }

    /// The broker was asked.
    pub fn seen(&self, partition: PartitionId, end: i64) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, end);
    }

    /// Records between an offset and the end of its log.
    pub fn lag(&self, partition: PartitionId, next_offset: i64) -> Option<i64> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        Some((ends.get(&partition)? - next_offset).max(0))
    }
}
