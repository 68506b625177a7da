//! What became of dead letters that somebody put back or dropped. The letters themselves lie on their
//! topic, which only grows: so this stands beside them, by the message and not by the letter. A message
//! that is put aside anew after a retry is the same message, and so is one that was put back twice.
//!
//! A retry is written here before the message goes onto its topic. So the centre, when it meets the
//! message, knows that it counted it as refused before, and takes that back in the transaction that
//! counts what it makes of it now; and that a second arrival of one retry is nothing new.
//!
//! Only what somebody dealt with has a document: of all others nothing needs to be known. It expires
//! long after its letter.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bulk::Update;
use super::client::Store;
use super::documents::collection;
use super::encode;
use super::error::StoreError;
use super::schema::Date;

/// How long a document stays after the last time that somebody dealt with its message. Letters stay for
/// 30 days on their topic, unless it was told otherwise.
const KEPT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where a message lies in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPlace {
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// What became of a message that was a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    /// It is on its way to its topic, or the retry was cut short and nobody knows.
    Retrying,
    /// It is on its topic; the centre has not met it yet, or does not tell, as of pictures and status.
    Retried,
    /// The centre met it after the retry, and has it.
    Stored,
    /// The centre met it after the retry, and put it aside again.
    Refused,
    /// Nobody wants it.
    Dropped,
    /// Nobody wants it, and a retry of it was cut short: it may be on its topic all the same.
    Abandoned,
}

/// A message that somebody dealt with. `_id` is the SHA-256 of its topic, key, headers and value, hex.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LetterDocument {
    /// Of the message.
    #[serde(rename = "_id")]
    pub id: String,
    /// The camera in whose accounts it is counted as refused; null for what is counted in none.
    pub camera: Option<String>,
    /// Why it was put aside the last time.
    pub reason: String,
    /// Whether the camera's accounts count it as refused now.
    pub counted: bool,
    /// What became of it.
    pub state: LetterState,
    /// Where the last retry put it, once the broker had acknowledged it.
    #[serde(default)]
    pub to: Option<LogPlace>,
    /// Where the centre met it after the last retry.
    #[serde(default)]
    pub arrived: Option<LogPlace>,
    /// When somebody dealt with it the last time.
    #[schemars(with = "Date")]
    pub changed_at: DateTime,
    /// When MongoDB may delete this.
    #[schemars(with = "Date")]
    pub expire_at: DateTime,
}

/// A message to be dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dealt {
    /// Of the message.
    pub id: String,
    /// In whose accounts it is counted.
    pub camera: Option<String>,
    /// Why it was put aside.
    pub reason: String,
}

impl Dealt {
    fn update(&self, state: LetterState, more: Document) -> Result<Update, StoreError> {
        let now = DateTime::now();
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let mut set = doc! {
            "changed_at": now,
            "expire_at": DateTime::from_millis(now.timestamp_millis().saturating_add(kept)),
        };
        set.extend(encode(collection::DEAD_LETTERS, &State { state })?);
        let mut change = doc! {
            "$set": set,
            // Later the centre says so, which has its accounts.
            "$setOnInsert": {
                "camera": &self.camera,
                "reason": &self.reason,
                "counted": self.camera.is_some(),
            },
        };
        change.extend(more);
        Ok(Update { filter: doc! { "_id": &self.id }, change: change.into(), upsert: true })
    }
}

#[derive(Serialize)]
struct State {
    state: LetterState,
}

impl LetterDocument {
    /// Whether a retry is under way that the centre has not met yet.
    pub fn is_awaited(&self) -> bool {
        use LetterState::{Abandoned, Retried, Retrying};
        matches!(self.state, Retrying | Retried | Abandoned) && self.arrived.is_none()
    }

    /// The write that says that the centre met it: in which state it is since, and why.
    pub fn arrival(&self) -> Result<Update, StoreError> {
        let arrived = encode(collection::DEAD_LETTERS, self)?;
        let fields = ["state", "reason", "counted", "arrived"];
        let set: Document =
            arrived.into_iter().filter(|(name, _)| fields.contains(&name.as_str())).collect();
        let change = doc! { "$set": set }.into();
        Ok(Update { filter: doc! { "_id": &self.id }, change, upsert: false })
    }
}

impl Store {
    /// What is known of these messages; nothing of those that nobody has dealt with.
    pub async fn letters(&self, ids: &[String]) -> Result<Vec<LetterDocument>, StoreError> {
        // One that somebody spoilt stops neither its partition nor what is done with others.
        self.find_readable_by_ids(collection::DEAD_LETTERS, ids, None).await
    }

    /// Whether something was put back that is counted as refused in these cameras' accounts.
    pub async fn awaits_letters(&self, cameras: &[String]) -> Result<bool, StoreError> {
        let awaited = doc! {
            "camera": { "$in": cameras },
            "state": { "$in": ["retrying", "retried", "abandoned"] },
        };
        let letters = self.database.collection::<Document>(collection::DEAD_LETTERS);
        let found = letters.find_one(awaited).projection(doc! { "_id": 1 }).await;
        let found = found.map_err(|e| StoreError::Read {
            collection: collection::DEAD_LETTERS,
            source: Box::new(e),
        })?;
        Ok(found.is_some())
    }

    /// Says that these are about to be put back.
    pub async fn begin_retry(&self, letters: &[Dealt]) -> Result<(), StoreError> {
        let anew = doc! { "$unset": { "to": "", "arrived": "" } };
        let updates =
            letters.iter().map(|letter| letter.update(LetterState::Retrying, anew.clone()));
        self.write(collection::DEAD_LETTERS, &updates.collect::<Result<Vec<_>, _>>()?).await
    }

    /// Says that these are on their topics. The centre may have met them by now.
    pub async fn end_retry(&self, letters: &[(String, LogPlace)]) -> Result<(), StoreError> {
        let mut updates = Vec::with_capacity(letters.len() * 2);
        for (id, place) in letters {
            let to = doc! { "to": encode(collection::DEAD_LETTERS, place)? };
            for (filter, set) in [
                (doc! { "_id": id }, to),
                (doc! { "_id": id, "state": "retrying" }, doc! { "state": "retried" }),
            ] {
                let change = doc! { "$set": set }.into();
                updates.push(Update { filter, change, upsert: false });
            }
        }
        self.write(collection::DEAD_LETTERS, &updates).await
    }

    /// Says that these lie where they lay: they were not put back.
    pub async fn undo_retry(&self, letters: &[(String, LogPlace)]) -> Result<(), StoreError> {
        let mut updates = Vec::with_capacity(letters.len());
        for (id, place) in letters {
            let arrived = encode(collection::DEAD_LETTERS, place)?;
            let change = doc! { "$set": { "state": "refused", "arrived": arrived } }.into();
            let filter = doc! { "_id": id, "state": "retrying" };
            updates.push(Update { filter, change, upsert: false });
        }
        self.write(collection::DEAD_LETTERS, &updates).await
    }

    /// Says that nobody wants these, each of which becomes dropped or abandoned.
    pub async fn drop_letters(&self, letters: &[(Dealt, LetterState)]) -> Result<(), StoreError> {
        let updates = letters.iter().map(|(letter, state)| letter.update(*state, Document::new()));
        self.write(collection::DEAD_LETTERS, &updates.collect::<Result<Vec<_>, _>>()?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(state: LetterState) -> LetterDocument {
        LetterDocument {
            id: "00".to_owned(),
            camera: Some("gate/north".to_owned()),
            reason: "unknown-major".to_owned(),
            counted: true,
            state,
            to: None,
            arrived: None,
            changed_at: DateTime::from_millis(0),
            expire_at: DateTime::from_millis(1),
        }
    }

    #[test]
    fn a_retry_is_awaited_until_the_message_was_met_and_no_longer() {
        assert!(letter(LetterState::Retrying).is_awaited());
        assert!(
            letter(LetterState::Abandoned).is_awaited(),
            "it may come, and is in the books then"
        );
        let place = LogPlace { topic: "t".to_owned(), partition: 0, offset: 3 };
        let met = LetterDocument { arrived: Some(place), ..letter(LetterState::Retried) };
        assert!(!met.is_awaited());
        for state in [LetterState::Stored, LetterState::Refused, LetterState::Dropped] {
            assert!(!letter(state).is_awaited(), "{state:?}");
        }
    }

    #[test]
    fn an_arrival_changes_what_the_centre_knows_and_nothing_that_a_person_did() {
        let arrival = letter(LetterState::Stored).arrival().unwrap();
        let change = arrival.change.as_document().unwrap().get_document("$set").unwrap();
        let names: Vec<_> = change.keys().map(String::as_str).collect();
        assert_eq!(names, ["reason", "counted", "state", "arrived"]);
        assert_eq!(change.get_str("state").unwrap(), "stored", "as queries have it");
    }
}
