//! A record as whoever reads the spool gets it: out of the database, out of a file of pictures, or out of
//! memory, and decrypted.

use picket_wire::Topic;

use super::encryption::{KeyError, Keyring, bound_to};
use super::error::SpoolError;
use super::pictures::{Pictures, Place};
use super::record::{Row, RowId};
use super::worth::Worth;

/// A record as it lies in the spool, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Which table.
    pub topic: Topic,
    /// Which row of it.
    pub id: RowId,
    /// The Kafka key.
    pub key: String,
    /// All Kafka headers but the lane.
    pub headers: Vec<(String, String)>,
    /// The Kafka value.
    pub value: Vec<u8>,
}

impl Spooled {
    /// Bytes that it takes in memory, near enough.
    pub fn bytes(&self) -> u64 {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        (self.key.len() + headers + self.value.len()) as u64
    }

    /// Whether it stands for frames or a picture, which a gap record could stand for in its place.
    /// A gap, an epoch or a clock record has no such second: without it the centre waits for ever.
    pub fn is_replaceable(&self) -> bool {
        let kind = self.headers.iter().find(|(name, _)| name == picket_wire::header::KIND);
        kind.is_some_and(|(_, text)| Worth::of(text).is_some())
    }

    /// Its id, for a log line.
    pub fn id_text(&self) -> &str {
        let id = self.headers.iter().find(|(name, _)| name == picket_wire::header::ID);
        id.map_or("", |(_, value)| value)
    }
}

/// The columns that [`spooled`] wants, in their order.
pub fn columns(topic: Topic) -> String {
    let kept = if topic == Topic::Frames { Place::COLUMNS } else { "value" };
    format!("id, key, headers, batch_key, {kept}")
}

/// A row of [`columns`], and its picture, decrypted if it has to be.
pub fn spooled(
    topic: Topic,
    id: RowId,
    row: &rusqlite::Row<'_>,
    pictures: &Pictures,
    keyring: &Keyring,
) -> Result<Spooled, SpoolError> {
    let bad = |what| SpoolError::BadRow { topic, id, what };
    let header_text: String = row.get(2).map_err(|_| bad("headers"))?;
    let headers = serde_json::from_str(&header_text).map_err(|_| bad("headers"))?;
    let key: String = row.get(1).map_err(|_| bad("key"))?;
    let value = match topic {
        Topic::Frames => {
            let place = Place::read(row, 4).ok().flatten().ok_or_else(|| bad("place"))?;
            pictures.read(id, place)?
        }
        _ => row.get(4).map_err(|_| bad("value"))?,
    };
    let value = match row.get(3).map_err(|_| bad("batch_key"))? {
        None => value,
        Some(number) => {
            let bound_to = bound_to(topic, &key, &header_text);
            keyring.decrypt(number, &bound_to, &value).map_err(|source| match source {
                KeyError::DoesNotOpen { .. } => bad("encrypted value"),
                source => SpoolError::Key { topic, id, source },
            })?
        }
    };
    Ok(Spooled { topic, id, key, headers, value })
}

/// A row that is not on the disk yet.
pub fn of_memory(id: RowId, row: &Row) -> Result<Spooled, SpoolError> {
    let topic = row.topic;
    let headers = serde_json::from_str(&row.headers).map_err(|_| SpoolError::BadRow {
        topic,
        id,
        what: "headers",
    })?;
    Ok(Spooled { topic, id, key: row.key.to_string(), headers, value: row.value.clone() })
}
