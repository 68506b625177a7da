//! What can fail between the broker and the checkpoint, and what to do then.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::dead_letter::DeadLetterError;
use super::kafka::ClientError;
use super::outbox::SendError;
use crate::remedy::Remedy;
use crate::store::StoreError;
use crate::upsert::ImageError;

/// The group could not be joined or was left for good.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The consumer could not be made.
    #[error("cannot set up the consumer")]
    Consumer(#[source] ClientError),
    /// The topics could not be asked for.
    #[error("cannot subscribe to the topics")]
    Subscribe(#[source] KafkaError),
    /// The brokers are too old.
    #[error(
        "the brokers do not know the group protocol `consumer`, which needs Kafka 4.0: set \
         consume.group_protocol = \"classic\""
    )]
    Protocol(#[source] KafkaError),
    /// Another member has its name.
    #[error(
        "another aggregator is in the group as {name:?}: give each one a consume.static_member of its \
         own. If one was killed, its name is free once the brokers miss it \
         (group.consumer.session.timeout.ms, 45 s unless they are told otherwise)"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// What the brokers say.
        source: KafkaError,
    },
    /// The addresses lead to another cluster than they did: it was set up anew, or a name leads
    /// elsewhere by now.
    #[error(
        "the brokers at consume.brokers are another cluster's than before; they must all be of one"
    )]
    OtherCluster,
    /// The client gave up.
    #[error("the consumer failed for good")]
    Fatal(#[source] KafkaError),
    /// A change of partitions could not be answered.
    #[error("cannot change the partitions that are read")]
    Assign(#[source] KafkaError),
}

/// A step of a partition's work that failed.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Taking it over.
    #[error("cannot take over the partition")]
    Claim(#[source] StoreError),
    /// Asking for the ends of its log, or what it holds.
    #[error("cannot ask for offsets")]
    Offsets(#[source] KafkaError),
    /// Asking the broker, on a thread that ended.
    #[error("asking the broker did not end")]
    AskTask(#[source] tokio::task::JoinError),
    /// Asking for the cluster's id, which the broker did not tell in time.
    #[error("no broker says which cluster it is of")]
    Cluster,
    /// Recording which log it is.
    #[error("cannot record which log the checkpoint is of")]
    NoteLog(#[source] StoreError),
    /// Reading what a batch builds upon.
    #[error("cannot load what is stored already")]
    Load(#[source] StoreError),
    /// Working out a batch.
    #[error("cannot work out the batch")]
    Apply(#[source] StoreError),
    /// Putting a record aside.
    #[error("cannot put a record aside")]
    DeadLetter(#[source] DeadLetterError),
    /// Writing a picture.
    #[error("cannot store a picture")]
    Image(#[source] ImageError),
    /// Asking whether the partition has another owner.
    #[error("cannot tell whether the partition is still its own")]
    Ownership(#[source] StoreError),
    /// Writing documents.
    #[error("cannot write the batch")]
    Write(#[source] StoreError),
    /// Telling others of tracks.
    #[error("cannot tell others of tracks on the topic of tracks")]
    Tell(#[source] SendError),
    /// Ending a batch.
    #[error("cannot end the batch")]
    Checkpoint(#[source] StoreError),
    /// Whoever did the work is gone and left no error: it panicked, which stands in the log.
    #[error("the work ended without a word")]
    Died,
}

impl PartitionError {
    /// What to do next. Nothing is discarded at this level: an offset that advanced without its
    /// record being stored or put aside would be a silent loss.
    pub fn remedy(&self) -> Remedy {
        let remedy = match self {
            Self::Claim(e)
            | Self::NoteLog(e)
            | Self::Load(e)
            | Self::Apply(e)
            | Self::Ownership(e)
            | Self::Write(e)
            | Self::Checkpoint(e) => e.remedy(),
            Self::Offsets(e) => match e.rdkafka_error_code() {
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Remedy::Stop,
                _ => Remedy::Retry,
            },
            Self::Cluster => Remedy::Retry,
            Self::AskTask(_) | Self::Died => Remedy::Stop,
            Self::DeadLetter(e) => e.remedy(),
            Self::Tell(SendError::NotAcknowledged(_)) => Remedy::Retry,
            Self::Tell(SendError::Producer(_)) => Remedy::Stop,
            Self::Image(e) => e.remedy(),
        };
        if remedy == Remedy::Discard { Remedy::Stop } else { remedy }
    }

    /// Whether the partition has another owner since.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::NoteLog(StoreError::Fenced { .. })
                | Self::Ownership(StoreError::Fenced { .. })
                | Self::Checkpoint(StoreError::Fenced { .. })
        )
    }

    /// Whether somebody changed a document that the partition cannot do without.
    pub fn is_unreadable(&self) -> bool {
        matches!(
            self,
            Self::Claim(StoreError::Unreadable { .. }) | Self::Load(StoreError::Unreadable { .. })
        )
    }

    /// The step, for metrics.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Claim(_)
            | Self::Offsets(_)
            | Self::AskTask(_)
            | Self::Cluster
            | Self::NoteLog(_) => "claim",
            Self::Load(_) | Self::Apply(_) => "load",
            Self::DeadLetter(_) => "dead-letter",
            Self::Image(_) => "image",
            Self::Ownership(_) | Self::Write(_) => "write",
            Self::Tell(_) => "tracks",
            Self::Checkpoint(_) => "checkpoint",
            Self::Died => "work",
        }
    }
}
