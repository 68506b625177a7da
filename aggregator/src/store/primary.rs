//! Which member of the replica set takes writes, as a person wants to hear of it. The driver goes over
//! to a new primary by itself, and what fails meanwhile is repeated; these lines say why.

use std::sync::{Mutex, PoisonError};

use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::{ServerInfo, ServerType};

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Gone { before: String },
    Back { now: String },
    Moved { before: String, now: String },
}

/// What was known last.
#[derive(Debug, Default)]
struct Primary {
    now: Option<String>,
    was_there: bool,
}

impl Primary {
    /// Takes in who takes writes. Of the first one there is nothing to say.
    fn learn(&mut self, now: Option<String>) -> Option<News> {
        let before = std::mem::replace(&mut self.now, now.clone());
        let was_there = self.was_there;
        self.was_there |= now.is_some();
        match (before, now) {
            (Some(before), None) => Some(News::Gone { before }),
            (Some(before), Some(now)) if before != now => Some(News::Moved { before, now }),
            (None, Some(now)) if was_there => Some(News::Back { now }),
            _ => None,
        }
    }
}

/// Says so in the log when the primary goes, comes or is another.
pub fn watch() -> EventHandler<SdamEvent> {
    let primary = Mutex::new(Primary::default());
    EventHandler::callback(move |event| {
        let SdamEvent::TopologyDescriptionChanged(change) = event else { return };
        let is_primary = |server: &ServerInfo<'_>| {
            matches!(server.server_type(), ServerType::RsPrimary | ServerType::Mongos)
        };
        let servers = change.new_description.servers();
        let now = servers.values().find(|s| is_primary(s)).map(|s| s.address().to_string());
        let mut primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
        match primary.learn(now) {
            Some(News::Gone { before }) => tracing::warn!(
                before,
                "MongoDB has no primary now ({before} was it): writes wait until one is elected"
            ),
            Some(News::Back { now }) => {
                tracing::info!(primary = now, "MongoDB takes writes again: {now} is its primary");
            }
            Some(News::Moved { before, now }) => {
                tracing::info!(
                    primary = now,
                    before,
                    "MongoDB's primary is {now} now, not {before}"
                );
            }
            None => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_that_goes_comes_or_moves_is_news_and_the_first_one_is_not() {
        let mut primary = Primary::default();
        let mut learn = |now: Option<&str>| primary.learn(now.map(str::to_owned));
        assert_eq!(learn(None), None);
        assert_eq!(learn(Some("a")), None);
        assert_eq!(learn(Some("a")), None);
        assert_eq!(learn(None), Some(News::Gone { before: "a".to_owned() }));
        assert_eq!(learn(None), None);
        assert_eq!(learn(Some("b")), Some(News::Back { now: "b".to_owned() }));
        let moved = News::Moved { before: "b".to_owned(), now: "c".to_owned() };
        assert_eq!(learn(Some("c")), Some(moved));
    }
}
