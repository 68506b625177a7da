//! Messages of a batch that were dead letters before and were put back.
//!
//! A camera's accounts count such a message as refused until it is met again. Then that is taken back,
//! and what it comes to now is counted, in the transaction that ends the batch: so the books hold it
//! once. It may be on its topic twice, when the retry was cut short between acknowledgement and mark;
//! of what can be read the ledger knows that, and of what cannot, the place where it was met first.

use std::collections::HashMap;

use picket_wire::{EpochId, Message};

use super::camera::Camera;
use super::effects::{Effects, Entry};
use super::letters::message_id;
use crate::store::letters::{LetterDocument, LetterState, LogPlace};
use crate::store::{Store, StoreError};
use crate::upsert::Origin;

/// What is known of the messages of a batch, by the message. Empty for nearly all batches.
#[derive(Default)]
pub struct Returned(HashMap<String, LetterDocument>);

/// What a message that cannot be taken is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// One that nobody has met before.
    New,
    /// One that was met, counted and put aside before, of the same retry.
    Again,
}

impl Returned {
    /// Asks for those messages that cannot be read, which are few; and for all of them where
    /// something is awaited in a camera that has refused something.
    pub async fn load<'a>(
        store: &Store,
        entries: &[Entry],
        camera_of: impl Fn(&Entry) -> Option<&'a Camera>,
    ) -> Result<Self, StoreError> {
        let refused =
            |entry: &Entry| camera_of(entry).filter(|camera| !camera.accounts.refused.is_empty());
        let mut cameras: Vec<String> =
            entries.iter().filter_map(refused).map(|camera| camera.key.to_string()).collect();
        cameras.sort_unstable();
        cameras.dedup();
        let is_awaited = !cameras.is_empty() && store.awaits_letters(&cameras).await?;
        let asked = |entry: &&Entry| {
            entry.message.is_err() || is_awaited && refused_in(&cameras, camera_of(entry))
        };
        // Kept beside the entries rather than in them: it is made for few.
        let ids: Vec<String> = entries.iter().filter(asked).map(id_of).collect();
        let found = store.letters(&ids).await?;
        Ok(Self(found.into_iter().map(|letter| (letter.id.clone(), letter)).collect()))
    }

    fn of(&mut self, entry: &Entry) -> Option<&mut LetterDocument> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get_mut(&id_of(entry))
    }

    /// The centre has the message, new or not: it is not refused any more.
    pub fn is_taken(
        &mut self,
        entry: &Entry,
        camera: &mut Camera,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let Some(letter) = self.of(entry).filter(|letter| letter.is_awaited()) else {
            return Ok(());
        };
        if letter.counted {
            camera.take_back(epoch_of(entry), &letter.reason);
        }
        letter.counted = false;
        letter.state = LetterState::Stored;
        letter.arrived = Some(place(&entry.origin));
        effects.end.letters.push(letter.arrival()?);
        Ok(())
    }

    /// The message cannot be taken, for this reason. Comes before it is counted.
    pub fn is_refused(
        &mut self,
        entry: &Entry,
        camera: &mut Camera,
        reason: &str,
        effects: &mut Effects,
    ) -> Result<Refused, StoreError> {
        let Some(letter) = self.of(entry) else { return Ok(Refused::New) };
        let here = place(&entry.origin);
        if letter.arrived.as_ref().is_some_and(|arrived| *arrived != here) {
            return Ok(Refused::Again);
        }
        if letter.is_awaited() {
            if letter.counted {
                camera.take_back(epoch_of(entry), &letter.reason);
            }
            letter.counted = true;
            letter.state = LetterState::Refused;
            reason.clone_into(&mut letter.reason);
            letter.arrived = Some(here);
            effects.end.letters.push(letter.arrival()?);
        }
        Ok(Refused::New)
    }
}

fn refused_in(cameras: &[String], camera: Option<&Camera>) -> bool {
    camera.is_some_and(|camera| cameras.binary_search(&camera.key.to_string()).is_ok())
}

fn epoch_of(entry: &Entry) -> Option<EpochId> {
    match &entry.message {
        Ok(Message::Record { record, .. }) => Some(record.id().epoch),
        _ => None,
    }
}

fn id_of(entry: &Entry) -> String {
    message_id(&entry.origin.topic, &entry.record)
}

fn place(origin: &Origin) -> LogPlace {
    LogPlace { topic: origin.topic.clone(), partition: origin.partition, offset: origin.offset }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mongodb::bson::DateTime;
    use picket_wire::Topic;

    use super::*;
    use crate::consume::kafka::Received;
    use crate::track::Settings as TrackSettings;
    use crate::upsert::Retention;

    const RETENTION: Retention = Retention { observations_days: 1, frames_days: 1, tracks_days: 1 };
    const REASON: &str = "empty";

    /// A message of nothing, which nobody can read, at a place of its log.
    fn entry(offset: i64) -> Entry {
        let record = Received {
            offset,
            broker_time_ms: 0,
            key: Some(b"gate/north".to_vec()),
            headers: Vec::new(),
            value: None,
        };
        let origin = Origin {
            topic: "picket.observations".to_owned(),
            partition: 0,
            offset,
            broker_time_ms: 0,
            stored_at_ms: 0,
        };
        Entry::read(Topic::Observations, record, origin)
    }

    /// A camera that refused the message once, and somebody who put it back.
    fn bench() -> (Camera, Returned) {
        let key = "gate/north".parse().unwrap();
        let mut camera = Camera::new(key, TrackSettings::default(), RETENTION, 3_600_000);
        camera.refuse_unread(&entry(3).origin, REASON);
        camera.dirty = false;
        let letter = LetterDocument {
            id: id_of(&entry(3)),
            camera: Some("gate/north".to_owned()),
            reason: REASON.to_owned(),
            counted: true,
            state: LetterState::Retrying,
            to: None,
            arrived: None,
            changed_at: DateTime::from_millis(0),
            expire_at: DateTime::from_millis(0),
        };
        (camera, Returned(HashMap::from([(letter.id.clone(), letter)])))
    }

    /// The camera's refusals, by what it does with an entry that it cannot read.
    fn refuse(camera: &mut Camera, returned: &mut Returned, entry: &Entry) -> (Refused, usize) {
        let mut effects = Effects::default();
        let refused = returned.is_refused(entry, camera, REASON, &mut effects).unwrap();
        if refused == Refused::New {
            camera.refuse_unread(&entry.origin, REASON);
        }
        (refused, effects.end.letters.len())
    }

    #[test]
    fn what_is_put_back_and_refused_again_is_counted_once_however_often_it_lies_there() {
        let (mut camera, mut returned) = bench();
        let once = BTreeMap::from([(REASON.to_owned(), 1)]);
        assert_eq!(refuse(&mut camera, &mut returned, &entry(8)), (Refused::New, 1));
        assert_eq!(camera.accounts.refused, once);
        // The same retry, which nobody had marked as done.
        assert_eq!(refuse(&mut camera, &mut returned, &entry(9)), (Refused::Again, 0));
        assert_eq!(camera.accounts.refused, once);
    }

    #[test]
    fn what_is_put_back_and_taken_is_refused_no_more_and_that_is_written_down() {
        let (mut camera, mut returned) = bench();
        let mut effects = Effects::default();
        returned.is_taken(&entry(8), &mut camera, &mut effects).unwrap();
        assert_eq!(camera.accounts.refused, BTreeMap::new());
        assert!(camera.dirty, "its document is to be written");
        assert_eq!(effects.end.letters.len(), 1);
        // A second arrival, and a message that nobody has put back.
        returned.is_taken(&entry(9), &mut camera, &mut effects).unwrap();
        assert_eq!(effects.end.letters.len(), 1);
        let (mut camera, _) = bench();
        Returned::default().is_taken(&entry(8), &mut camera, &mut effects).unwrap();
        assert_eq!(camera.accounts.refused.len(), 1);
    }

    #[test]
    fn what_was_dropped_after_a_retry_was_cut_short_and_comes_all_the_same_is_refused_no_more() {
        let (mut camera, mut returned) = bench();
        let letter = returned.0.values_mut().next().unwrap();
        letter.state = LetterState::Abandoned;
        let mut effects = Effects::default();
        returned.is_taken(&entry(8), &mut camera, &mut effects).unwrap();
        assert_eq!(camera.accounts.refused, BTreeMap::new());
        assert_eq!(returned.0.values().next().unwrap().state, LetterState::Stored);
    }

    #[test]
    fn a_message_that_nobody_put_back_is_new_as_often_as_it_comes() {
        let (mut camera, _) = bench();
        let mut returned = Returned::default();
        for (offset, count) in [(8, 2), (9, 3)] {
            assert_eq!(refuse(&mut camera, &mut returned, &entry(offset)), (Refused::New, 0));
            assert_eq!(camera.accounts.refused[REASON], count);
        }
    }
}
