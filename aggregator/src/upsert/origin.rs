//! Where a record came from, and what follows from that for its document.

use jiff::Timestamp;
use mongodb::bson::DateTime;
use sha2::{Digest, Sha256};

use crate::store::documents::Ingest;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Place and time of a record in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// When the broker appended it, milliseconds since 1970.
    pub broker_time_ms: i64,
    /// When its batch is written, milliseconds since 1970.
    pub stored_at_ms: i64,
}

impl Origin {
    /// The part of a document that may differ between two runs.
    pub fn ingest(&self, retention_days: u32) -> Ingest {
        let kept_ms = i64::from(retention_days) * DAY_MS;
        Ingest {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            broker_time: DateTime::from_millis(self.broker_time_ms),
            stored_at: DateTime::from_millis(self.stored_at_ms),
            expire_at: DateTime::from_millis(self.broker_time_ms.saturating_add(kept_ms)),
            relations: None,
            again: None,
        }
    }
}

/// SHA-256 of a message's value, hex.
pub fn digest(value: &[u8]) -> String {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nanoseconds since 1970; null beyond the years 1677 to 2262, which no camera means.
pub fn nanoseconds(time: Option<Timestamp>) -> Option<i64> {
    i64::try_from(time?.as_nanosecond()).ok()
}

/// The same for people.
pub fn date(nanoseconds: Option<i64>) -> Option<DateTime> {
    Some(DateTime::from_millis(nanoseconds?.div_euclid(1_000_000)))
}

/// A number that its reader has checked to fit 63 bits.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of pixels that its reader has checked to fit 16 bits.
pub fn pixels(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_expires_by_the_brokers_time_not_by_the_cameras() {
        let origin = Origin {
            topic: "picket.observations".to_owned(),
            partition: 3,
            offset: 9,
            broker_time_ms: 1_000,
            stored_at_ms: 5_000,
        };
        assert_eq!(origin.ingest(2).expire_at, DateTime::from_millis(1_000 + 2 * DAY_MS));
    }

    #[test]
    fn a_time_before_1970_keeps_its_milliseconds() {
        assert_eq!(date(Some(-1)), Some(DateTime::from_millis(-1)));
        assert_eq!(date(None), None);
    }
}
