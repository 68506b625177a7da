//! Follows MongoDB's changes and tells the viewers.
//!
//! One task per aggregator reads one change stream over the collections that a page shows, collects
//! what changed, and ten times a second puts it on one broadcast channel, encoded once for all viewers.
//! Change streams, and not the stages of this process: what other instances write is seen too, so every
//! instance shows the whole fleet, also one without a partition.
//!
//! When the stream breaks off it is opened again from the token it had reached, so nothing is left out;
//! where MongoDB no longer knows the token, viewers are told to read everything anew. The task never
//! ends by itself; it is ended when the last `Live` is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType, ResumeToken};
use mongodb::options::FullDocumentType;
use picket_service::logging::chain;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::error::WebError;
use super::pending::{Pending, Update};
use super::{fleet, metrics};
use crate::store::documents::{ObservationDocument, collection};

/// Viewers are told at most this often.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Events that a viewer may lag behind before it must read everything anew.
const CHANNEL_EVENTS: usize = 4096;
/// How often MongoDB is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long it has to answer.
const PING_WITHIN: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An event as every viewer gets it.
#[derive(Debug, Clone)]
pub struct LiveEvent {
    /// Name of the event.
    pub name: &'static str,
    /// JSON.
    pub data: Arc<str>,
}

/// Whether what the pages show is fed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Source {
    /// MongoDB answers.
    pub database_up: bool,
    /// The change stream is open.
    pub feed_up: bool,
}

/// The live feed.
#[derive(Debug)]
pub struct Live {
    sender: broadcast::Sender<LiveEvent>,
    source: watch::Receiver<Source>,
    _tasks: JoinSet<()>,
}

impl Live {
    /// Starts to follow a database.
    pub fn start(database: &Database) -> Self {
        let (sender, _) = broadcast::channel(CHANNEL_EVENTS);
        let (source_sender, source) = watch::channel(Source::default());
        let source_sender = Arc::new(source_sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_asking(database.clone(), Arc::clone(&source_sender)));
        let feed =
            Feed { database: database.clone(), sender: sender.clone(), source: source_sender };
        tasks.spawn(feed.run());
        Self { sender, source, _tasks: tasks }
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<LiveEvent> {
        self.sender.subscribe()
    }

    /// Whether the events flow.
    pub fn source(&self) -> watch::Receiver<Source> {
        self.source.clone()
    }
}

/// Asks MongoDB whether it is there: an idle change stream cannot tell a quiet fleet from a lost
/// connection.
async fn keep_asking(database: Database, source: Arc<watch::Sender<Source>>) {
    let mut tick = tokio::time::interval(PING_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let ping = async { database.run_command(doc! { "ping": 1 }).await };
        let up = matches!(tokio::time::timeout(PING_WITHIN, ping).await, Ok(Ok(_)));
        source.send_if_modified(|s| std::mem::replace(&mut s.database_up, up) != up);
    }
}

type Changes = ChangeStream<ChangeStreamEvent<Document>>;

/// Why the feed broke off.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("cannot open the change stream")]
    Open(#[source] mongodb::error::Error),
    #[error("the change stream broke off")]
    Next(#[source] mongodb::error::Error),
    #[error("MongoDB closed the change stream")]
    Ended,
    #[error("cannot read the fleet that the change stream continues from")]
    Fleet(#[source] WebError),
}

impl FeedError {
    /// Whether MongoDB will never continue from the token that was reached.
    fn place_is_lost(&self) -> bool {
        match self {
            Self::Open(e) | Self::Next(e) => {
                let lost =
                    ["ChangeStreamHistoryLost", "InvalidResumeToken", "ChangeStreamFatalError"];
                matches!(&*e.kind, mongodb::error::ErrorKind::Command(c) if lost.contains(&&*c.code_name))
            }
            Self::Ended => true,
            Self::Fleet(_) => false,
        }
    }
}

struct Feed {
    database: Database,
    sender: broadcast::Sender<LiveEvent>,
    source: Arc<watch::Sender<Source>>,
}

impl Feed {
    async fn run(self) {
        let mut place = None;
        let mut pending = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.open(&mut pending, place.clone()).await {
                Ok((mut changes, mut collected)) => {
                    pause = FIRST_PAUSE;
                    self.mark(true);
                    let error = self.follow(&mut changes, &mut collected).await;
                    place = changes.resume_token();
                    // What was collected is of use only if the stream continues from there.
                    pending = place.is_some().then_some(collected);
                    error
                }
                Err(error) => error,
            };
            self.mark(false);
            metrics::feed_interrupted();
            if error.place_is_lost() {
                (place, pending) = (None, None);
            }
            tracing::warn!(target: "web", error = chain(&error), pause_ms = pause.as_millis(),
                "the live feed is interrupted; pages show their age until it is back");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Opens the stream where it broke off, or anew: then the fleet is read after the stream is open,
    /// so that nothing falls between the two, and the viewers do the same.
    async fn open(
        &self,
        pending: &mut Option<Pending>,
        place: Option<ResumeToken>,
    ) -> Result<(Changes, Pending), FeedError> {
        let names = [
            collection::CAMERAS,
            collection::DEVICES,
            collection::TRACKS,
            collection::FRAMES,
            collection::OBSERVATIONS,
        ];
        let of_interest = doc! {
            "ns.coll": { "$in": names.as_slice() },
            "operationType": { "$in": ["insert", "update", "replace", "delete"] },
        };
        let changes = self
            .database
            .watch()
            .pipeline([doc! { "$match": of_interest }])
            .full_document(FullDocumentType::UpdateLookup)
            .max_await_time(Duration::from_secs(1))
            .resume_after(place)
            .await
            .map_err(FeedError::Open)?;
        if let Some(pending) = pending.take() {
            return Ok((changes, pending));
        }
        let fleet = fleet::read(&self.database).await.map_err(FeedError::Fleet)?;
        metrics::resync("interrupted");
        self.tell(&Update::Resync {});
        Ok((changes, Pending::after(fleet)))
    }

    async fn follow(&self, changes: &mut Changes, pending: &mut Pending) -> FeedError {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(change)) => take_in(pending, change),
                    Some(Err(error)) => return FeedError::Next(error),
                    None => return FeedError::Ended,
                },
                _ = flush.tick() => {
                    self.look_up_wanted(pending).await;
                    for update in pending.take() {
                        if update == (Update::Resync {}) {
                            metrics::resync("flood");
                        }
                        self.tell(&update);
                    }
                }
            }
        }
    }

    /// Reads the observations of pictures that came without one. What is not found is not asked for
    /// again: it comes by the feed.
    async fn look_up_wanted(&self, pending: &mut Pending) {
        let wanted = pending.take_wanted();
        if wanted.is_empty() {
            return;
        }
        let found = fleet::within_limit("observations", async {
            let observations = self.database.collection::<Document>(collection::OBSERVATIONS);
            let wanted = doc! { "_id": { "$in": wanted } };
            observations.find(wanted).await?.try_collect::<Vec<_>>().await
        });
        match found.await {
            Ok(found) => {
                for document in fleet::readable::<ObservationDocument>("observation", found) {
                    pending.observation(&document);
                }
            }
            Err(error) => {
                tracing::warn!(target: "web", error = chain(&error), "a picture waits for its boxes");
            }
        }
    }

    fn tell(&self, update: &Update) {
        let name = update.name();
        match serde_json::to_string(update) {
            Ok(data) => {
                metrics::event(name);
                // An error only says that nobody is looking.
                let _ = self.sender.send(LiveEvent { name, data: data.into() });
            }
            Err(error) => {
                tracing::warn!(target: "web", %error, event = name, "an event cannot be encoded");
            }
        }
    }

    fn mark(&self, up: bool) {
        metrics::feed_up(up);
        self.source.send_if_modified(|s| std::mem::replace(&mut s.feed_up, up) != up);
    }
}

fn take_in(pending: &mut Pending, change: ChangeStreamEvent<Document>) {
    let Some(name) = change.ns.and_then(|ns| ns.coll) else { return };
    if matches!(change.operation_type, OperationType::Delete) {
        if let Some(id) = change.document_key.as_ref().and_then(|key| key.get_str("_id").ok()) {
            pending.deleted(&name, id);
        }
        return;
    }
    // An update whose document is gone by now has none; its deletion follows.
    let Some(document) = change.full_document else { return };
    if let Err(error) = pending.written(&name, document) {
        tracing::warn!(target: "web", error = chain(&error), "a change is not shown");
    }
}
