//! `/api/events`: the live feed as server-sent events, one connection per open page.
//!
//! `hello` when the page connects (it then reads everything), `camera`, `device`, `track`,
//! `track-gone`, `books` as things change, `resync` when it must read everything anew, and `alive`
//! every few seconds: without it, a page could not tell a quiet fleet from a dead connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::{Interval, MissedTickBehavior};

use super::error::WebError;
use super::live::{LiveEvent, Source};
use super::membership::GroupView;
use super::metrics::{self, Viewer};
use super::{Closing, Shared};

/// Most pages at once.
pub(super) const MOST_VIEWERS: usize = 64;
const ALIVE_EVERY: Duration = Duration::from_secs(3);

/// When a page may call something fresh. Told to the page, so that there is one place for it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Freshness {
    /// A picture of at most this age is live.
    pub picture_ms: i64,
    /// A camera whose newest observation is at most this old is being watched.
    pub observation_ms: i64,
    /// A device whose status is at most this old is reporting.
    pub status_ms: i64,
}

/// The limits in use.
pub const FRESHNESS: Freshness =
    Freshness { picture_ms: 5_000, observation_ms: 10_000, status_ms: 30_000 };

/// How this aggregator is.
#[derive(Debug, Serialize)]
pub(super) struct Alive {
    now: Timestamp,
    version: &'static str,
    database_up: bool,
    feed_up: bool,
    group: GroupView,
    freshness: Freshness,
}

impl Alive {
    pub(super) fn of(shared: &Shared) -> Self {
        let source = *shared.live.source().borrow();
        Self {
            now: Timestamp::now(),
            version: shared.version,
            database_up: source.database_up,
            feed_up: source.feed_up,
            group: GroupView::from((shared.membership)()).in_short(),
            freshness: FRESHNESS,
        }
    }
}

struct Connection {
    shared: Arc<Shared>,
    updates: broadcast::Receiver<LiveEvent>,
    source: watch::Receiver<Source>,
    alive: Interval,
    closing: Option<watch::Receiver<bool>>,
    greeted: bool,
    _viewer: Viewer,
    _permit: OwnedSemaphorePermit,
}

/// Answers `/api/events`.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    closing: Option<Extension<Closing>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, WebError> {
    let permit = Arc::clone(&shared.viewers)
        .try_acquire_owned()
        .map_err(|_| WebError::TooManyViewers(MOST_VIEWERS))?;
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.reset();
    let mut source = shared.live.source();
    source.mark_unchanged();
    let connection = Connection {
        updates: shared.live.subscribe(),
        source,
        alive,
        closing: closing.map(|Extension(Closing(receiver))| receiver),
        greeted: false,
        shared,
        _viewer: Viewer::new(),
        _permit: permit,
    };
    let events = futures_util::stream::unfold(connection, async |mut connection| {
        let event = connection.next().await?;
        Some((Ok(event), connection))
    });
    Ok(Sse::new(events))
}

impl Connection {
    /// The next event; none when the server stops.
    async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            self.greeted = true;
            return Some(self.say("hello"));
        }
        tokio::select! {
            () = closed(&mut self.closing) => return None,
            update = self.updates.recv() => return match update {
                Ok(LiveEvent { name, data }) => Some(Event::default().event(name).data(data)),
                Err(RecvError::Lagged(_)) => {
                    metrics::resync("lagged");
                    Some(Event::default().event("resync").data("{}"))
                }
                Err(RecvError::Closed) => None,
            },
            _ = self.alive.tick() => {}
            changed = self.source.changed() => changed.ok()?,
        }
        Some(self.say("alive"))
    }

    fn say(&self, name: &'static str) -> Event {
        // A struct of numbers and short strings always encodes; an empty event is no worse than none.
        let event = Event::default().event(name);
        event.json_data(Alive::of(&self.shared)).unwrap_or_default()
    }
}

async fn closed(closing: &mut Option<watch::Receiver<bool>>) {
    match closing {
        // An error says that the server is gone, which closes too.
        Some(closing) => drop(closing.wait_for(|closing| *closing).await),
        None => std::future::pending().await,
    }
}
