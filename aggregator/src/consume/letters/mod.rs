//! Dead letters, as a person deals with them: looked at, put back, or dropped.
//!
//! A letter lies on its topic until the topic's retention takes it; that topic is the list. What became
//! of it stands in MongoDB ([`crate::store::letters`]). A retry takes these steps, and each may be
//! repeated: it is written that the message is about to be put back; the message is put on the topic
//! that it came from, with its key, value and headers, and all brokers that must have it have
//! acknowledged it; that is written. From there on it is a record like any other. Cut short between the
//! second step and the third it may be on its topic twice, and the centre takes it once.
//!
//! **Limits.** A hundred letters or 16 MiB of them are in memory at a time.

mod letter;
mod place;
mod put_back;
mod shelf;

use std::collections::HashMap;

pub use letter::{Cut, Letter, message_id};
pub use place::{LetterPlace, PlaceError};
pub use put_back::{PutBack, PutBackError};
pub use shelf::{Shelf, ShelfError};

pub use super::kafka::Received;

use crate::store::letters::{Dealt, LetterDocument, LetterState, LogPlace};
use crate::store::{Store, StoreError};

/// Most letters that are dealt with at a time.
pub const AT_ONCE: usize = 100;
/// Most bytes of them, save one letter that is larger by itself.
pub const AT_ONCE_BYTES: usize = 16 * 1024 * 1024;

/// What a person is told of a letter's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nobody has dealt with it.
    Open,
    /// It is being put back, or that was cut short.
    Retrying,
    /// It was put back.
    Retried,
    /// It was put back, and the centre has it.
    Stored,
    /// Nobody wants it.
    Dropped,
}

impl Standing {
    /// Of a letter, with what is known of its message.
    pub fn of(letter: &Letter, known: Option<&LetterDocument>) -> Self {
        let Some(known) = known else { return Self::Open };
        // What was put aside again after the last retry lies where that retry had put it.
        let is_here = |place: &Option<LogPlace>| place.is_some() && *place == letter.from;
        match known.state {
            LetterState::Dropped | LetterState::Abandoned => Self::Dropped,
            _ if is_here(&known.arrived) || is_here(&known.to) => Self::Open,
            LetterState::Retrying => Self::Retrying,
            LetterState::Retried | LetterState::Refused => Self::Retried,
            LetterState::Stored => Self::Stored,
        }
    }

    /// As a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Retrying => "retrying",
            Self::Retried => "retried",
            Self::Stored => "stored",
            Self::Dropped => "dropped",
        }
    }

    /// Whether there is still something to be done about it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Retrying)
    }
}

/// Letters with what became of them, in the same order.
pub async fn with_standing(
    store: &Store,
    letters: Vec<Letter>,
) -> Result<Vec<(Letter, Standing)>, StoreError> {
    let ids: Vec<String> = letters.iter().map(|letter| letter.id.clone()).collect();
    let known = store.letters(&ids).await?;
    let known: HashMap<&str, &LetterDocument> =
        known.iter().map(|document| (document.id.as_str(), document)).collect();
    let with = |letter: Letter| {
        let standing = Standing::of(&letter, known.get(letter.id.as_str()).copied());
        (letter, standing)
    };
    Ok(letters.into_iter().map(with).collect())
}

/// What of a letter stands in MongoDB.
pub fn dealt(letter: &Letter) -> Dealt {
    Dealt {
        id: letter.id.clone(),
        camera: letter.counted_in().map(|camera| camera.to_string()),
        reason: letter.reason.clone(),
    }
}

/// Puts letters back, all of which have a place that they came from; returns what became of each.
pub async fn retry(
    store: &Store,
    put_back: &PutBack,
    letters: Vec<Letter>,
) -> Result<Vec<(Letter, Result<LogPlace, PutBackError>)>, StoreError> {
    // A topic that is not there is found before anything says that the letter is on its way.
    let mut outcomes = Vec::with_capacity(letters.len());
    let mut going = Vec::with_capacity(letters.len());
    for letter in letters {
        match put_back.check(&letter) {
            Ok(()) => going.push(letter),
            Err(error) => outcomes.push((letter, Err(error))),
        }
    }
    store.begin_retry(&going.iter().map(dealt).collect::<Vec<_>>()).await?;
    let sent = futures_util::future::join_all(going.iter().map(|letter| put_back.send(letter)));
    let sent = sent.await;
    let arrived = going.iter().zip(&sent);
    let arrived = arrived.filter_map(|(l, sent)| Some((l.id.clone(), sent.as_ref().ok()?.clone())));
    store.end_retry(&arrived.collect::<Vec<_>>()).await?;
    let refused = going.iter().zip(&sent);
    let refused = refused.filter(|(_, sent)| sent.as_ref().is_err_and(|e| e.is_certain()));
    let refused = refused.filter_map(|(letter, _)| Some((letter.id.clone(), letter.from.clone()?)));
    store.undo_retry(&refused.collect::<Vec<_>>()).await?;
    outcomes.extend(going.into_iter().zip(sent));
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::kafka::Received;
    use mongodb::bson::DateTime;

    fn place(offset: i64) -> LogPlace {
        LogPlace { topic: "picket.observations".to_owned(), partition: 2, offset }
    }

    fn letter(from: i64) -> Letter {
        Letter {
            place: LetterPlace { partition: 0, offset: from + 100 },
            id: "id".to_owned(),
            from: Some(place(from)),
            reason: "unknown-major".to_owned(),
            detail: String::new(),
            cut: None,
            record: Received {
                offset: from + 100,
                broker_time_ms: 0,
                key: None,
                headers: Vec::new(),
                value: None,
            },
            is_counted: true,
        }
    }

    fn known(state: LetterState, to: Option<i64>, arrived: Option<i64>) -> LetterDocument {
        LetterDocument {
            id: "id".to_owned(),
            camera: None,
            reason: String::new(),
            counted: false,
            state,
            to: to.map(place),
            arrived: arrived.map(place),
            changed_at: DateTime::from_millis(0),
            expire_at: DateTime::from_millis(0),
        }
    }

    #[test]
    fn a_message_that_is_put_aside_again_is_open_where_it_lies_now_and_dealt_with_where_it_lay() {
        let again = known(LetterState::Refused, Some(9), Some(9));
        assert_eq!(Standing::of(&letter(3), Some(&again)), Standing::Retried);
        assert_eq!(Standing::of(&letter(9), Some(&again)), Standing::Open);
        // Nobody tells when a picture has arrived.
        let picture = known(LetterState::Retried, Some(9), None);
        assert_eq!(Standing::of(&letter(3), Some(&picture)), Standing::Retried);
        assert_eq!(Standing::of(&letter(9), Some(&picture)), Standing::Open);
    }

    #[test]
    fn each_state_is_told_by_its_word_and_what_was_cut_short_still_wants_something_done() {
        for (state, standing) in [
            (LetterState::Retrying, Standing::Retrying),
            (LetterState::Retried, Standing::Retried),
            (LetterState::Stored, Standing::Stored),
            (LetterState::Dropped, Standing::Dropped),
            (LetterState::Abandoned, Standing::Dropped),
        ] {
            assert_eq!(Standing::of(&letter(3), Some(&known(state, None, None))), standing);
        }
        assert_eq!(Standing::of(&letter(3), None), Standing::Open);
        assert!(Standing::Open.is_open() && Standing::Retrying.is_open());
        assert!(!Standing::Retried.is_open() && !Standing::Dropped.is_open());
    }
}
