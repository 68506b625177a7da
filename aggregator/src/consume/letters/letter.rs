//! A dead letter, taken apart: the message as it was, and what the centre said of it.

use picket_wire::{CameraKey, Topic, TopicNames, dead_letter as header};
use sha2::{Digest, Sha256};

use super::super::kafka::Received;
use super::place::LetterPlace;
use crate::store::letters::LogPlace;
use crate::upsert;

/// What a message was that is not whole any more: its value, and maybe its key and headers, go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How long its value was.
    pub value_bytes: u64,
    /// Of its whole value, hex.
    pub value_sha256: String,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it lies.
    pub place: LetterPlace,
    /// Of the message: SHA-256 of its topic, key, headers and value, hex. Of one that is cut, of what is
    /// left and the digest of its whole value: two may begin with the same bytes.
    pub id: String,
    /// Where the message came from; null if that cannot be told, which the centre always does.
    pub from: Option<LogPlace>,
    /// Why it was put aside, as a word.
    pub reason: String,
    /// Why it was put aside, as a sentence.
    pub detail: String,
    /// What was cut off it, if it was too long to be put aside whole.
    pub cut: Option<Cut>,
    /// The message, with its own headers alone; its offset and time are those of the letter.
    pub record: Received,
    /// Whether it came from the topic whose messages the centre counts by camera.
    pub(super) is_counted: bool,
}

impl Letter {
    /// Takes apart what lies on the dead-letter topic.
    pub fn open(partition: i32, mut record: Received, topics: &TopicNames) -> Self {
        let own = |name: &str| {
            let found = record.headers.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let from = || {
            Some(LogPlace {
                topic: own(header::TOPIC)?,
                partition: own(header::PARTITION)?.parse().ok()?,
                offset: own(header::OFFSET)?.parse().ok()?,
            })
        };
        let cut = || {
            let value_bytes = own(header::VALUE_BYTES)?.parse().unwrap_or_default();
            Some(Cut { value_bytes, value_sha256: own(header::VALUE_SHA256).unwrap_or_default() })
        };
        let (from, reason, detail) = (from(), own(header::REASON), own(header::DETAIL));
        let cut = cut();
        record.headers.retain(|(name, _)| !header::is_own_header(name));
        let topic = from.as_ref().map_or("", |from| from.topic.as_str());
        let mut id = message_id(topic, &record);
        if let Some(cut) = &cut {
            id = upsert::digest(format!("{id} {}", cut.value_sha256).as_bytes());
        }
        Self {
            place: LetterPlace { partition, offset: record.offset },
            id,
            cut,
            is_counted: topics.topic(topic) == Some(Topic::Observations),
            from,
            reason: reason.unwrap_or_default(),
            detail: detail.unwrap_or_default(),
            record,
        }
    }

    /// The camera in whose accounts the centre counted it as refused: that of its key, of what came
    /// from the topic of observations.
    pub fn counted_in(&self) -> Option<CameraKey> {
        let key = self.record.key.as_deref().filter(|_| self.is_counted)?;
        std::str::from_utf8(key).ok()?.parse().ok()
    }
}

/// What tells one message from all others: the same bytes under the same key and headers on the same
/// topic are one message, wherever in the log they lie. Headers of the centre's are not looked at.
pub fn message_id(topic: &str, record: &Received) -> String {
    let mut digest = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| {
        // A length before each, and one that none can have where there is nothing: no two messages
        // make one text.
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        digest.update(length.to_be_bytes());
        digest.update(bytes.unwrap_or_default());
    };
    part(Some(topic.as_bytes()));
    part(record.key.as_deref());
    part(record.value.as_deref());
    for (name, value) in record.headers.iter().filter(|(name, _)| !header::is_own_header(name)) {
        part(Some(name.as_bytes()));
        part(Some(value));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&[u8]>, headers: &[(&str, &str)]) -> Received {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), v.as_bytes().to_owned());
        Received {
            offset: 42,
            broker_time_ms: 7,
            key: key.map(<[u8]>::to_owned),
            headers: headers.iter().map(pair).collect(),
            value: Some(b"?".to_vec()),
        }
    }

    const OWN: [(&str, &str); 5] = [
        (header::TOPIC, "picket.observations"),
        (header::PARTITION, "3"),
        (header::OFFSET, "17"),
        (header::REASON, "unknown-major"),
        (header::DETAIL, "the schema is of another version"),
    ];

    fn opened(key: Option<&[u8]>, headers: &[(&str, &str)]) -> Letter {
        Letter::open(5, record(key, headers), &TopicNames::default())
    }

    #[test]
    fn a_letter_is_the_message_as_it_was_and_what_was_said_of_it() {
        let headers = [&[("picket-kind", "skip")], OWN.as_slice()].concat();
        let letter = opened(Some(b"gate/north"), &headers);
        let from = LogPlace { topic: "picket.observations".to_owned(), partition: 3, offset: 17 };
        assert_eq!(letter.from, Some(from));
        assert_eq!((letter.place.to_string(), letter.reason.as_str()), ("5/42".into(), OWN[3].1));
        assert_eq!(letter.record.headers, record(None, &[("picket-kind", "skip")]).headers);
        assert_eq!(letter.counted_in().unwrap().to_string(), "gate/north");
        let sent = record(Some(b"gate/north"), &[("picket-kind", "skip")]);
        assert_eq!(letter.id, message_id("picket.observations", &sent), "as it first was");
    }

    #[test]
    fn what_is_no_letter_of_ours_has_no_place_that_it_came_from() {
        assert_eq!(opened(None, &[]).from, None);
        let mut broken = OWN;
        broken[2].1 = "soon";
        assert_eq!(opened(None, &broken).from, None);
    }

    #[test]
    fn of_two_letters_that_are_cut_to_the_same_bytes_each_is_itself() {
        let cut = |digest| {
            let own = [(header::VALUE_BYTES, "5242880"), (header::VALUE_SHA256, digest)];
            opened(None, &[OWN.as_slice(), &own].concat())
        };
        let (one, other, whole) = (cut("aa"), cut("bb"), opened(None, &OWN));
        let told = Cut { value_bytes: 5_242_880, value_sha256: "aa".to_owned() };
        assert_eq!((one.cut.as_ref(), &whole.cut), (Some(&told), &None));
        assert_eq!(one.record.headers, [], "what says so is no header of the message");
        assert!(one.id != other.id && one.id != whole.id);
        assert_eq!(one.id, cut("aa").id);
    }

    #[test]
    fn only_observations_of_a_camera_are_in_its_accounts() {
        assert_eq!(opened(Some(&[0xff, 0xfe]), &OWN).counted_in(), None);
        assert_eq!(opened(None, &OWN).counted_in(), None);
        let mut picture = OWN;
        picture[0].1 = "picket.frames";
        assert_eq!(opened(Some(b"gate/north"), &picture).counted_in(), None);
    }

    #[test]
    fn messages_that_differ_in_anything_are_two() {
        let ids = [
            message_id("a", &record(Some(b"k"), &[("x", "1")])),
            message_id("b", &record(Some(b"k"), &[("x", "1")])),
            message_id("a", &record(None, &[("x", "1")])),
            message_id("a", &record(Some(b""), &[("x", "1")])),
            message_id("a", &record(Some(b"k"), &[("x", "2")])),
            message_id("a", &record(Some(b"k"), &[("x1", "")])),
            message_id("a", &record(Some(b"k"), &[])),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
