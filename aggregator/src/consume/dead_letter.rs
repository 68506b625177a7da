//! Dead letters: what nobody can read is put aside whole, with a reason, and reading goes on. What is too
//! long for that is put aside cut: the broker measures a packed batch, so a record may unpack to more than
//! the topic of dead letters takes, and a letter that cannot be sent would stop the partition for good.

use picket_wire::{Reject, Topic, TopicNames, dead_letter as header};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::kafka::{self, ClientError, Received};
use super::outbox::{Outbox, SendError};
use super::settings::Connection;
use crate::remedy::Remedy;
use crate::upsert;

/// Most bytes of the sentence that says why: the topic leaves 64 KiB for all of these headers.
const MAX_DETAIL_BYTES: usize = 1024;
/// Of a letter that is cut, most bytes of the original's headers.
const CUT_HEADERS_BYTES: usize = 32 * 1024;
/// Of a letter that is cut, most bytes of the key.
const CUT_KEY_BYTES: usize = 1024;
/// Kept free beside key, value and headers: for the framing of record and batch.
const MARGIN_BYTES: usize = 4 * 1024;
/// Lengths of a header's name and value take no more than this beside them.
const HEADER_OVERHEAD_BYTES: usize = 16;

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

    /// What is sent: whole, or cut where the topic would not take it.
    fn message(&self, topic: &str, partition: i32) -> Message<'_> {
        let most = Topic::DeadLetter.max_message_bytes() as usize - MARGIN_BYTES;
        let whole = Message {
            key: self.record.key.as_deref(),
            headers: self.headers(topic, partition),
            value: self.record.value.as_deref(),
        };
        if whole.bytes() <= most { whole } else { self.cut(topic, partition, most) }
    }

    fn cut(&self, topic: &str, partition: i32, most: usize) -> Message<'_> {
        let value = self.record.body();
        let mut room = CUT_HEADERS_BYTES;
        let mut headers = self.headers(topic, partition);
        // The first ones that fit: ours come last and stay.
        headers.retain(|header| {
            let left = room.checked_sub(header_bytes(header));
            room = left.unwrap_or(0);
            left.is_some() || header::is_own_header(&header.0)
        });
        for (name, value) in [
            (header::VALUE_BYTES, value.len().to_string()),
            (header::VALUE_SHA256, upsert::digest(value)),
        ] {
            headers.push((name.to_owned(), value.into_bytes()));
        }
        let key = self.record.key.as_deref().map(|key| &key[..key.len().min(CUT_KEY_BYTES)]);
        let bare = Message { key, headers, value: None };
        let room = most.saturating_sub(bare.bytes());
        let value = self.record.value.as_deref().map(|value| &value[..value.len().min(room)]);
        Message { value, ..bare }
    }

    /// Headers of the dead letter: the original's, then ours. Headers that claim to be ours are left
    /// out: whoever sent them does not know where the record lay.
    fn headers(&self, topic: &str, partition: i32) -> Vec<Header> {
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

/// Name and value.
type Header = (String, Vec<u8>);

/// A dead letter as it goes out.
struct Message<'a> {
    key: Option<&'a [u8]>,
    headers: Vec<Header>,
    value: Option<&'a [u8]>,
}

impl Message<'_> {
    /// No less than the client and the broker take it to be, save for the framing.
    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(header_bytes).sum();
        self.key.map_or(0, <[u8]>::len) + headers + self.value.map_or(0, <[u8]>::len)
    }
}

fn header_bytes((name, value): &Header) -> usize {
    name.len() + value.len() + HEADER_OVERHEAD_BYTES
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
        let message = letter.message(topic, partition);
        let headers = kafka::headers(&message.headers);
        let sent = self.0.send(message.key, headers, message.value).await;
        sent.map_err(|error| match error {
            SendError::Producer(error) => DeadLetterError::Producer(error),
            SendError::NotAcknowledged(source) => {
                let (topic, offset) = (topic.to_owned(), letter.record.offset);
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

    fn most() -> usize {
        Topic::DeadLetter.max_message_bytes() as usize - MARGIN_BYTES
    }

    #[test]
    fn a_letter_that_the_topic_takes_is_whole_and_one_byte_more_is_cut_and_says_of_what() {
        let mut letter = letter(&[("picket-kind", "skip"), (header::VALUE_BYTES, "1")]);
        letter.record.value = None;
        let room = most() - letter.message("picket.observations", 7).bytes();
        let value = vec![7; room];
        letter.record.value = Some(value.clone());
        let whole = letter.message("picket.observations", 7);
        assert_eq!((whole.bytes(), whole.value), (most(), Some(value.as_slice())));
        assert!(text(&whole.headers, header::VALUE_BYTES).is_empty(), "nobody else says so");

        letter.record.value = Some(vec![7; room + 1]);
        let cut = letter.message("picket.observations", 7);
        assert_eq!(cut.bytes(), most());
        assert_eq!(cut.key, Some(b"gate/north".as_slice()));
        assert_eq!(text(&cut.headers, "picket-kind"), ["skip"]);
        assert_eq!(text(&cut.headers, header::OFFSET), ["42"]);
        assert_eq!(text(&cut.headers, header::VALUE_BYTES), [(room + 1).to_string()]);
        assert_eq!(text(&cut.headers, header::VALUE_SHA256), [upsert::digest(&vec![7; room + 1])]);
    }

    #[test]
    fn a_key_and_headers_without_measure_leave_room_for_the_value() {
        let long = "x".repeat(CUT_HEADERS_BYTES);
        let mut letter = letter(&[("first", "1"), ("long", &long), ("after", "2")]);
        letter.record.key = Some(vec![b'k'; 5 << 20]);
        letter.record.value = Some(vec![7; 1 << 20]);
        let cut = letter.message("picket.frames", 0);
        assert!(cut.bytes() <= most());
        assert_eq!(cut.key.map(<[u8]>::len), Some(CUT_KEY_BYTES));
        assert_eq!(cut.value.map(<[u8]>::len), Some(1 << 20));
        assert_eq!(text(&cut.headers, "first"), ["1"]);
        assert!(text(&cut.headers, "long").is_empty() && text(&cut.headers, "after").is_empty());
        assert_eq!(text(&cut.headers, header::REASON), ["body-invalid"]);
        letter.record.headers = vec![(String::new(), Vec::new()); 1 << 20];
        assert!(letter.message("picket.frames", 0).bytes() <= most());
    }

    #[test]
    fn a_forged_place_does_not_survive() {
        let headers = letter(&[(header::OFFSET, "1")]).headers("picket.frames", 0);
        assert_eq!(text(&headers, header::OFFSET), ["42"]);
    }
}
