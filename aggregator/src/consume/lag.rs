//! How far the store is behind the broker.
//!
//! The ends of the logs come from librdkafka's own statistics, which costs no request, and where it does
//! not read from the broker.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use picket_wire::TopicNames;
use rdkafka::Statistics;

use super::membership::PartitionId;

/// What is known of the end of a log.
#[derive(Debug)]
struct LogEnd {
    end: i64,
    /// What the client said last. It says so again while it does not read, whatever the log does.
    of_client: Option<i64>,
}

/// The newest known end of each partition's log.
#[derive(Debug, Default)]
pub struct LogEnds {
    ends: Mutex<HashMap<PartitionId, LogEnd>>,
}

impl LogEnds {
    /// Takes over what librdkafka knows.
    pub fn update(&self, topics: &TopicNames, statistics: &Statistics) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in &statistics.topics {
            let Some(known) = topics.topic(name) else { continue };
            // The end of the log as a reader may see it; below zero where it is not known yet.
            for partition in topic.partitions.values().filter(|p| p.hi_offset >= 0) {
                let (id, told) = ((known, partition.partition), partition.hi_offset);
                let end = ends.entry(id).or_insert(LogEnd { end: told, of_client: None });
                if end.of_client.replace(told) != Some(told) {
                    end.end = told;
                }
            }
        }
    }

    /// The broker was asked.
    pub fn seen(&self, partition: PartitionId, end: i64) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.entry(partition).or_insert(LogEnd { end, of_client: None }).end = end;
    }

    /// Records between an offset and the end of its log.
    pub fn lag(&self, partition: PartitionId, next_offset: i64) -> Option<i64> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        Some((ends.get(&partition)?.end - next_offset).max(0))
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::Topic;

    use super::*;

    const ID: PartitionId = (Topic::Frames, 0);

    #[test]
    fn what_the_broker_was_asked_stands_until_the_client_knows_more() {
        let (ends, topics) = (LogEnds::default(), TopicNames::default());
        let tell = |end: i64| {
            let mut statistics = Statistics::default();
            let topic = statistics.topics.entry(topics.name(ID.0)).or_default();
            topic.partitions.entry(ID.1).or_default().hi_offset = end;
            ends.update(&topics, &statistics);
        };
        assert_eq!(ends.lag(ID, 0), None);
        tell(10);
        assert_eq!(ends.lag(ID, 4), Some(6));
        ends.seen(ID, 100);
        tell(10);
        assert_eq!(ends.lag(ID, 4), Some(96), "it does not read, and knows nothing new");
        tell(110);
        assert_eq!(ends.lag(ID, 4), Some(106));
        ends.seen(ID, 5);
        tell(110);
        assert_eq!(ends.lag(ID, 4), Some(1), "the log was made anew, and is shorter");
    }
}
