//! # Classify: a second look at published frames
//!
//! A command and a consumer group of its own, beside the stages that the aggregator runs: a model that
//! takes its time, or breaks, never holds up a track. It reads `frames` of Kafka and writes into documents
//! that [`upsert`](crate::upsert) has made.
//!
//! **In.** Whole frames of the frames topic. Crops are counted and not looked at.
//!
//! **Out.** The surest labels of each frame, with the model and the picture that they are of, in the
//! document of its observation.
//!
//! **Promises.** *Crash:* an offset is committed after what was found is durable, so that a crash repeats
//! and loses nothing. *Order:* an observation may come before its frame, after it, or never: labels wait
//! for it in the store, for a bounded time ([`store::classes`](crate::store::classes)). *Duplicates:* what
//! is written follows from the picture and the model; of two pictures with one id the first stands.
//! Nothing else in a document is changed, and none is made where an observation belongs.
//!
//! **Limits.** One batch at a time, and one picture in memory decoded. Pictures that wait for their turn
//! are bounded in bytes; beyond that reading pauses while polling goes on. The group begins with the oldest
//! frame that the broker has.

mod classifier;
mod context;
pub mod description;
pub mod metrics;
mod picture;
mod queue;
mod reader;
mod scores;
mod settings;
mod settler;
mod worker;

use std::sync::Arc;

use picket_service::shutdown::Shutdown;
use tokio::task::JoinHandle;

pub use classifier::{Classifier, LoadError};
pub use metrics::TABLE as METRICS;
pub use reader::ReadError;
pub use settings::Settings;
pub use settler::settle;
pub use worker::{Ages, Worker};

use crate::consume::{Progress, Settings as ConsumeSettings};
use reader::Reader;

/// Why the stage did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// Reading.
    #[error("the consumer group of classify")]
    Read(#[from] ReadError),
    /// The task of the stage.
    #[error("the stage ended without a word")]
    Task(#[source] tokio::task::JoinError),
}

/// A membership in the group, at work.
pub struct Classifying {
    progress: Arc<Progress>,
    shutdown: Shutdown,
    task: JoinHandle<Result<Option<Worker>, ReadError>>,
}

impl Classifying {
    /// Joins the group. The store must be prepared; the brokers may be away.
    pub fn spawn(
        consume: &ConsumeSettings,
        settings: &Settings,
        instance: &str,
        worker: Worker,
    ) -> Result<Self, ClassifyError> {
        let (progress, shutdown) = (Arc::new(Progress::default()), Shutdown::default());
        let reader = Reader::join(consume, settings, instance, progress.clone())?;
        let task = tokio::spawn(reader.run(worker, shutdown.clone()));
        Ok(Self { progress, shutdown, task })
    }

    /// When the stage last turned, for the watchdog.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Returns when the stage ends by itself, which it does only when it cannot go on.
    pub async fn ended(&mut self) -> Result<Option<Worker>, ClassifyError> {
        Ok((&mut self.task).await.map_err(ClassifyError::Task)??)
    }

    /// Brings the batch in hand to its end, leaves the group, and gives the worker back; none if it is
    /// still at work.
    pub async fn stop(mut self) -> Result<Option<Worker>, ClassifyError> {
        self.shutdown.ask();
        self.ended().await
    }
}
