//! # Consume: Kafka to observations
//!
//! **In.** Records of the three topics that devices write, by the partitions that the consumer group
//! gives to this instance.
//!
//! **Out.** Batches: each record read and checked, put aside as a dead letter if nobody can read it,
//! else accounted for in its camera's ledger, tracked, stored, and only then part of the checkpoint.
//!
//! **Promises.** *Crash:* where to resume stands in MongoDB beside the state that it belongs to and
//! changes in one step with it; Kafka's committed offsets are a copy for tools. *Order:* a camera's
//! records stand in one partition and are taken in its order. *Duplicates:* the ledger decides what
//! was seen, so that a resend, a log that is read anew or a mirrored cluster adds nothing.
//! *Owners:* a partition has one; a former one that wakes up changes nothing.
//!
//! **Limits.** Records that wait for MongoDB are bounded in bytes; beyond that reading pauses while
//! polling goes on. At most two trackers for each epoch of a camera, however its link flaps: what is
//! stored beyond a gap is read back when that closes.

mod backoff;
mod camera;
mod clocks;
mod context;
mod dead_letter;
mod effects;
mod error;
mod frames;
mod group;
mod held;
mod inbox;
pub(crate) mod kafka;
mod lag;
pub mod letters;
mod looks;
mod marks;
mod membership;
mod observations;
mod offsets;
mod opening;
pub(crate) mod other_cluster;
mod outbox;
mod partition;
mod proof;
mod provisional;
mod reading_back;
mod renewal;
pub mod replay;
mod returned;
mod runs;
mod settings;
mod status;
mod stored_runs;
pub mod topics;
mod tracking;
mod turn;
mod twins;
mod work;

use std::sync::Arc;

use picket_service::shutdown::Shutdown;
use picket_wire::Topic;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use dead_letter::DeadLetterError;
pub use error::GroupError;
pub use membership::{Membership, PartitionId, PartitionState, Progress};
pub use renewal::Renewal;
pub use settings::{Connection, GroupProtocol, Settings};

use dead_letter::DeadLetters;
use group::Group;
use outbox::Outbox;
use partition::Shared;
use work::Works;

use crate::store::Store;
use crate::track::Settings as TrackSettings;
use crate::upsert::{Images, Retention};

/// Why the centre did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum CentreError {
    /// Dead letters.
    #[error("cannot set up dead letters")]
    DeadLetters(#[from] DeadLetterError),
    /// The producer of tracks.
    #[error("cannot set up the producer of tracks")]
    Tracks(#[source] kafka::ClientError),
    /// The group.
    #[error("the consumer group")]
    Group(#[from] GroupError),
    /// The task of the stage.
    #[error("the stage ended without a word")]
    Task(#[source] tokio::task::JoinError),
    /// No randomness for the instance's name.
    #[error("cannot draw a name for this instance: {0}")]
    Instance(getrandom::Error),
}

/// The stage, at work.
pub struct Centre {
    membership: watch::Receiver<Membership>,
    progress: Arc<Progress>,
    shutdown: Shutdown,
    task: Option<JoinHandle<Result<(), GroupError>>>,
}

impl Centre {
    /// Starts the stage. The store must be prepared; the brokers may be away.
    pub fn spawn(
        settings: Settings,
        tracker: TrackSettings,
        retention: Retention,
        store: Store,
        images: Images,
    ) -> Result<Self, CentreError> {
        let instance = match settings.instance.as_ref().or(settings.static_member.as_ref()) {
            Some(name) => name.clone(),
            None => format!("aggregator-{:08x}", getrandom::u32().map_err(CentreError::Instance)?),
        };
        let dead_letters = DeadLetters::new(&settings.connection(), &settings.topics(), &instance)?;
        let connection = settings.connection();
        let tracks = Outbox::new(&connection, &settings.topics(), Topic::Tracks, &instance);
        let tracks = tracks.map_err(CentreError::Tracks)?;
        let shared = Arc::new(Shared { settings, store, images, dead_letters, tracks });
        let (sender, membership) = watch::channel(Membership::default());
        let progress = Arc::new(Progress::default());
        let works = |reports| Works { shared: shared.clone(), tracker, retention, reports };
        let group = Group::join(shared.clone(), works, instance, sender, progress.clone())?;
        let shutdown = Shutdown::default();
        let task = Some(tokio::spawn(group.run(shutdown.clone())));
        Ok(Self { membership, progress, shutdown, task })
    }

    /// What this instance works on, as it changes.
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// When the stage last turned, for the watchdog.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Returns when the stage ends by itself, which it does only when it cannot go on.
    pub async fn ended(&mut self) -> Result<(), CentreError> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        Ok(ended.map_err(CentreError::Task)??)
    }

    /// Brings the batches in hand to their end, leaves the group, and returns.
    pub async fn stop(mut self) -> Result<(), CentreError> {
        self.shutdown.ask();
        self.ended().await
    }
}
