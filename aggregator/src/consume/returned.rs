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
