//! Dead letters: what nobody can read is put aside whole, with a reason, and reading goes on.

use picket_wire::{Reject, Topic, TopicNames, dead_letter as header};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};

use super::kafka::{ClientError, Received};
use super::outbox::{Outbox, SendError};
use super::settings::Connection;
use crate::remedy::Remedy;

/// Most bytes of the sentence that says why: the topic leaves 64 KiB for all of these headers.
const MAX_DETAIL_BYTES: usize = 1024;

/// A dead letter that could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The producer could not be made.
    #[error("cannot set up the producer of dead letters")]
    Producer(#[source] ClientError),
    /// The broker did not acknowledge it.
    #[error("the dead letter of {topic}/{partition} at {offset} was not acknowledged")]
    Send {
        /// Of the original.
        topic: String,
        /// Of the original.
        partition: i32,
        /// Of the original.
        offset: i64,
        /// Why.
        #[source]
        source: KafkaError,
    },
}

impl DeadLetterError {
    /// What to do next. Without its dead letter an offset must not advance, so nothing is
    /// discarded here, and only what no repetition cures stops the partition.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Producer(_) => Remedy::Stop,
            Self::Send { source, .. } => match source.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => Remedy::Stop,
                _ => Remedy::Retry,
            },
        }
    }
}

/// A record to be put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record, untouched.
    pub record: Received,
    /// Why, as a word.
    pub reason: &'static str,
    /// Why, as a sentence.
    pub detail: String,
}

impl DeadLetter {
    /// A record that cannot be read.
    pub fn unreadable(record: Received, reject: &Reject) -> Self {
        Self { record, reason: reject.code(), detail: reject.to_string() }
    }

    /// Headers of the dead letter: the original's, then ours. Headers that claim to be ours are left
    /// out: whoever sent them does not know where the record lay.
    fn headers(&self, topic: &str, partition: i32) -> Vec<(String, Vec<u8>)> {
        let original = self.record.headers.iter();
        let mut headers: Vec<_> =
            original.filter(|(name, _)| !header::is_own_header(name)).cloned().collect();
        let mut detail = self.detail.clone();
        if detail.len() > MAX_DETAIL_BYTES {
            let mut end = MAX_DETAIL_BYTES;
            while !detail.is_char_boundary(end) {
                end -= 1;
            }
            detail.truncate(end);
        }
        for (name, value) in [
            (header::TOPIC, topic.to_owned()),
            (header::PARTITION, partition.to_string()),
            (header::OFFSET, self.record.offset.to_string()),
            (header::REASON, self.reason.to_owned()),
            (header::DETAIL, detail),
        ] {
            headers.push((name.to_owned(), value.into_bytes()));
        }
        headers
    }
}

/// Sends dead letters. Cheap to clone: all clones share one producer.
#[derive(Clone)]
pub struct DeadLetters(Outbox);

impl DeadLetters {
    /// Connects in the background: a broker that is away is no error.
    pub fn new(
        connection: &Connection,
        topics: &TopicNames,
        instance: &str,
    ) -> Result<Self, DeadLetterError> {
        let outbox = Outbox::new(connection, topics, Topic::DeadLetter, instance);
        Ok(Self(outbox.map_err(DeadLetterError::Producer)?))
    }

    /// Sends a dead letter; returns once the broker has it.
    pub async fn send(
        &self,
        letter: &DeadLetter,
        topic: &str,
        partition: i32,
    ) -> Result<(), DeadLetterError> {
        let pairs = letter.headers(topic, partition);
        let mut headers = OwnedHeaders::new_with_capacity(pairs.len());
        for (key, value) in &pairs {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let DeadLetter { record, .. } = letter;
        let sent = self.0.send(record.key.as_deref(), headers, record.value.as_deref()).await;
        sent.map_err(|error| match error {
            SendError::Producer(error) => DeadLetterError::Producer(error),
            SendError::NotAcknowledged(source) => {
                let (topic, offset) = (topic.to_owned(), record.offset);
                DeadLetterError::Send { topic, partition, offset, source }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[(&str, &str)]) -> DeadLetter {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), v.as_bytes().to_owned());
        DeadLetter {
            record: Received {
                offset: 42,
                broker_time_ms: 0,
                key: Some(b"gate/north".to_vec()),
                headers: headers.iter().map(pair).collect(),
                value: Some(b"?".to_vec()),
            },
            reason: "body-invalid",
            detail: "ä".repeat(2000),
        }
    }

    fn text<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a str> {
        let found = headers.iter().filter(|(key, _)| key == name);
        found.map(|(_, value)| std::str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn a_dead_letter_keeps_the_original_headers_and_says_where_it_lay_and_why() {
        let headers = letter(&[("picket-kind", "skip")]).headers("picket.observations", 7);
        assert_eq!(text(&headers, "picket-kind"), ["skip"]);
        assert_eq!(text(&headers, header::TOPIC), ["picket.observations"]);
        assert_eq!(text(&headers, header::PARTITION), ["7"]);
        assert_eq!(text(&headers, header::OFFSET), ["42"]);
        assert_eq!(text(&headers, header::REASON), ["body-invalid"]);
        assert!(text(&headers, header::DETAIL)[0].len() <= MAX_DETAIL_BYTES);
    }

    #[test]
    fn a_forged_place_does_not_survive() {
        let headers = letter(&[(header::OFFSET, "1")]).headers("picket.frames", 0);
        assert_eq!(text(&headers, header::OFFSET), ["42"]);
    }
}
