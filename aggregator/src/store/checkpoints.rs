//! Where to resume: one checkpoint per partition and one per camera, and who may move them.
//!
//! Whoever takes over a partition raises its owner epoch in one step. Every later checkpoint names
//! the epoch under which it was made; a former owner, woken from a long sleep, finds a higher one
//! and changes nothing. Kafka's own generation cannot serve for this: a process that was stopped
//! does not know that it was replaced.
//!
//! A transaction that its owner did not live to end would keep its documents locked for as long as
//! the server lets transactions live, a minute. So the checkpoint names the session of its owner, and
//! whoever takes over ends that session first.
//!
//! Ledger, cameras and both kinds of checkpoint change in one transaction. So a crash at any point
//! leaves either all of a batch's accounts or none, and the batch is read again.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::{ReadConcern, ReturnDocument, TransactionOptions};
use mongodb::{ClientSession, error};
use picket_wire::{CameraKey, EpochId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bulk::Update;
use super::client::{Store, durable};
use super::documents::collection;
use super::error::StoreError;
use super::ledger::ledger_id;
use super::schema::Date;
use super::{decode, encode};

/// A partition that this instance owns, and since which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Raised by one at each change of owner.
    pub owner_epoch: i64,
}

/// The owner's side of a claim: whoever has it can write the partition's checkpoints.
pub struct Owner {
    /// What is owned.
    pub claim: Claim,
    /// One session for all its transactions, whose id stands in the checkpoint.
    session: ClientSession,
}

impl Claim {
    /// Id of the partition's checkpoint.
    pub fn id(&self) -> String {
        partition_id(&self.topic, self.partition)
    }
}

fn partition_id(topic: &str, partition: i32) -> String {
    format!("partition/{topic}/{partition}")
}

/// Id of a camera's checkpoint.
pub fn camera_checkpoint_id(camera: &str) -> String {
    format!("camera/{camera}")
}

/// A partition's checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionCheckpoint {
    /// `partition/<topic>/<number>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// Topic's full name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Everything before it is stored, or had expired before anybody read here; null only until the
    /// first owner has seen the log.
    #[serde(default)]
    pub next_offset: Option<i64>,
    /// Raised by one at each change of owner.
    pub owner_epoch: i64,
    /// Which instance owns it.
    pub owner: String,
    /// The cluster whose log it is; null in the checkpoint of an older build.
    #[serde(default)]
    pub cluster: Option<String>,
    /// The latest time at which the broker appended anything that stands before `next_offset`; null
    /// before the first batch, and in the checkpoint of an older build.
    #[serde(default)]
    #[schemars(with = "Option<Date>")]
    pub newest_at: Option<DateTime>,
    /// A place in the log at which it was seen later that it was the same one; null before that.
    #[serde(default)]
    pub mark: Option<LogMark>,
    /// The owner epoch since which it is this log: what was noted before that tells offsets of another.
    #[serde(default)]
    pub log_since: i64,
    /// The newest places at which the log did not go on, oldest first.
    #[serde(default)]
    pub broken: Vec<BrokenLog>,
}

/// A place in a log. It tells that log from others of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogMark {
    /// Which.
    pub offset: i64,
    /// The latest time at which the broker appended anything that stands before it.
    #[schemars(with = "Date")]
    pub newest_at: DateTime,
}

/// A log that does not go on where the checkpoint says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenLog {
    /// `log-out-of-range`, `topic-recreated` or `other-cluster`.
    pub state: String,
    /// Where reading should have gone on.
    pub from_offset: i64,
    /// Where it went on.
    pub to_offset: i64,
    /// When it was noticed.
    #[schemars(with = "Date")]
    pub noticed_at: DateTime,
}

/// What is noted of a log when its partition is taken over.
pub struct LogNote<'a> {
    /// The cluster whose log it is.
    pub cluster: &'a str,
    /// Where reading begins.
    pub next_offset: i64,
    /// That it does not begin where it should.
    pub broken: Option<BrokenLog>,
    /// Whether it is another log than the checkpoint's.
    pub is_another: bool,
}

/// A camera's checkpoint: what is not of one of its epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraCheckpoint {
    /// `camera/<device>/<camera>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// Topic's full name.
    pub topic: String,
    /// Partition in which the camera stands.
    pub partition: i32,
    /// The first offset whose effect is not in the state.
    pub next_offset: i64,
    /// Under which the checkpoint was made.
    pub owner_epoch: i64,
    /// Whether something is missing or not tracked yet, so that time alone may change it.
    #[serde(default)]
    pub waits: bool,
    /// The state of the camera.
    #[schemars(with = "serde_json::Value")]
    pub state: Bson,
}

/// The tracking of one epoch of a camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunsCheckpoint {
    /// `runs/<device>/<camera>/<epoch>-<instance>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// Topic's full name.
    pub topic: String,
    /// Partition in which the camera stands.
    pub partition: i32,
    /// Under which the checkpoint was made.
    pub owner_epoch: i64,
    /// Version of the tracker whose state this is.
    pub tracker_version: i64,
    /// SHA-256 of the tracker's settings, hex.
    pub tracker_settings: String,
    /// The state of the runs.
    #[schemars(with = "serde_json::Value")]
    pub state: Bson,
}

/// Id of the checkpoint of an epoch's tracking.
pub fn runs_checkpoint_id(key: &CameraKey, epoch: EpochId) -> String {
    format!("runs/{}", ledger_id(key, epoch))
}

/// What ends a batch, in one transaction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchEnd {
    /// Where to resume after it.
    pub next_offset: i64,
    /// The latest time at which the broker appended one of its records.
    pub newest_at: Option<DateTime>,
    /// The place at which it was last seen that the log is the same one.
    pub mark: Option<LogMark>,
    /// Changed ledgers.
    pub ledger: Vec<Update>,
    /// Changed cameras' checkpoints.
    pub checkpoints: Vec<Update>,
    /// Changed cameras.
    pub cameras: Vec<Update>,
    /// What became of dead letters that were put back.
    pub letters: Vec<Update>,
}

/// How often a transaction that met another one is repeated at once, before its error is left to
/// the caller's slower back-off.
const ATTEMPTS: u32 = 5;

impl Store {
    /// Takes over a partition: from here on, no former owner can write its checkpoints.
    pub async fn claim(
        &self,
        topic: &str,
        partition: i32,
        owner: &str,
    ) -> Result<(Owner, PartitionCheckpoint), StoreError> {
        let id = partition_id(topic, partition);
        let failed =
            |e| StoreError::Write { collection: collection::CHECKPOINTS, source: Box::new(e) };
        self.end_session_of_owner(&id).await?;
        let session = self.client.start_session().await.map_err(failed)?;
        let change = doc! {
            "$inc": { "owner_epoch": 1_i64 },
            "$set": { "owner": owner, "session": session.id(), "claimed_at": DateTime::now() },
            "$setOnInsert": { "topic": topic, "partition": partition },
        };
        let found = self
            .database
            .collection::<Document>(collection::CHECKPOINTS)
            .find_one_and_update(doc! { "_id": &id }, change)
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await
            .map_err(failed)?;
        let missing = StoreError::Reply { collection: collection::CHECKPOINTS, field: "value" };
        let checkpoint: PartitionCheckpoint =
            decode(collection::CHECKPOINTS, found.ok_or(missing)?)?;
        let owner_epoch = checkpoint.owner_epoch;
        let claim = Claim { topic: topic.to_owned(), partition, owner_epoch };
        Ok((Owner { claim, session }, checkpoint))
    }

    /// Frees what the owner before may have locked. It loses nothing by it: an owner that lives
    /// repeats its transaction, or learns that it is none any more.
    async fn end_session_of_owner(&self, id: &str) -> Result<(), StoreError> {
        let checkpoints = self.database.collection::<Document>(collection::CHECKPOINTS);
        let found = checkpoints.find_one(doc! { "_id": id }).projection(doc! { "session": 1 });
        let found = found.await.map_err(|e| StoreError::Read {
            collection: collection::CHECKPOINTS,
            source: Box::new(e),
        })?;
        let Some(session) = found.as_ref().and_then(|d| d.get_document("session").ok()) else {
            return Ok(());
        };
        let ended = self.database.run_command(doc! { "killSessions": [session.clone()] }).await;
        if let Err(e) = ended {
            tracing::warn!(
                partition = id,
                error = %e,
                "the session of the owner before was not ended; it may take a minute to expire"
            );
        }
        Ok(())
    }

    /// Records of which cluster the log is and where reading begins; returns the checkpoint as it is
    /// then. What is known of one log says nothing of another.
    pub async fn note_log(
        &self,
        claim: &Claim,
        note: LogNote<'_>,
    ) -> Result<PartitionCheckpoint, StoreError> {
        let name = collection::CHECKPOINTS;
        let mut set = doc! { "cluster": note.cluster, "next_offset": note.next_offset };
        let mut change = Document::new();
        if let Some(broken) = note.broken {
            // Bounded: the log line and the counter remember the older ones.
            let last = doc! { "$each": [encode(name, &broken)?], "$slice": -20 };
            change.insert("$push", doc! { "broken": last });
        }
        if note.is_another {
            set.insert("log_since", claim.owner_epoch);
            change.insert("$unset", doc! { "newest_at": "", "mark": "" });
        }
        change.insert("$set", set);
        let owned = doc! { "_id": claim.id(), "owner_epoch": claim.owner_epoch };
        let checkpoints = self.database.collection::<Document>(name);
        let changed = checkpoints.find_one_and_update(owned, change);
        let changed = changed.return_document(ReturnDocument::After).await;
        let changed = changed
            .map_err(|e| StoreError::Write { collection: name, source: Box::new(e) })?
            .ok_or_else(|| StoreError::Fenced { partition: claim.id() })?;
        decode(name, changed)
    }

    /// Asks whether the partition has had no other owner since it was claimed.
    pub async fn prove(&self, claim: &Claim) -> Result<(), StoreError> {
        let name = collection::CHECKPOINTS;
        let owned = doc! { "_id": claim.id(), "owner_epoch": claim.owner_epoch };
        let checkpoints = self.database.collection::<Document>(name);
        let found = checkpoints.find_one(owned).projection(doc! { "_id": 1 }).await;
        let found =
            found.map_err(|e| StoreError::Read { collection: name, source: Box::new(e) })?;
        found.map(drop).ok_or_else(|| StoreError::Fenced { partition: claim.id() })
    }

    /// The checkpoints of these cameras that exist.
    pub async fn camera_checkpoints(
        &self,
        cameras: &[String],
    ) -> Result<Vec<CameraCheckpoint>, StoreError> {
        let ids: Vec<_> = cameras.iter().map(|camera| camera_checkpoint_id(camera)).collect();
        self.find_by_ids(collection::CHECKPOINTS, &ids, None).await
    }

    /// The cameras of a partition of which time alone may change something, as `<device>/<camera>`.
    pub async fn waiting_cameras(&self, claim: &Claim) -> Result<Vec<String>, StoreError> {
        let failed =
            |e| StoreError::Read { collection: collection::CHECKPOINTS, source: Box::new(e) };
        let checkpoints = self.database.collection::<Document>(collection::CHECKPOINTS);
        let filter = doc! { "topic": &claim.topic, "partition": claim.partition, "waits": true };
        let found = checkpoints.find(filter).projection(doc! { "_id": 1 }).await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let key = |d: &Document| d.get_str("_id").ok()?.strip_prefix("camera/").map(str::to_owned);
        Ok(found.iter().filter_map(key).collect())
    }

    /// The tracking of these epochs that exists.
    pub async fn runs_checkpoints(
        &self,
        ids: &[String],
    ) -> Result<Vec<RunsCheckpoint>, StoreError> {
        self.find_by_ids(collection::CHECKPOINTS, ids, None).await
    }

    /// Ends a batch: all of it, or nothing if the partition has another owner since.
    pub async fn end_batch(&self, owner: &mut Owner, end: &BatchEnd) -> Result<(), StoreError> {
        let mut attempt = 1;
        loop {
            match self.try_end_batch(&mut owner.session, &owner.claim, end).await {
                Err(e) if attempt < ATTEMPTS && is_transient(&e) => attempt += 1,
                result => return result,
            }
        }
    }

    async fn try_end_batch(
        &self,
        session: &mut ClientSession,
        claim: &Claim,
        end: &BatchEnd,
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::Checkpoint { partition: claim.id(), source: Box::new(e) };
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .build();
        session.start_transaction().with_options(options).await.map_err(failed)?;
        if let Err(e) = self.write_end(session, claim, end).await {
            // The server forgets an abandoned transaction by itself; this only saves it the wait.
            if let Err(e) = session.abort_transaction().await {
                tracing::debug!(error = %e, "an abandoned transaction was not aborted");
            }
            return Err(e);
        }
        let mut attempt = 1;
        loop {
            match session.commit_transaction().await {
                // Repeating a commit is safe: the server knows whether it took place.
                Err(e)
                    if attempt < ATTEMPTS
                        && e.contains_label(error::UNKNOWN_TRANSACTION_COMMIT_RESULT) =>
                {
                    attempt += 1;
                }
                result => return result.map_err(failed),
            }
        }
    }

    async fn write_end(
        &self,
        session: &mut ClientSession,
        claim: &Claim,
        end: &BatchEnd,
    ) -> Result<(), StoreError> {
        // The fence comes first: a new owner's claim touches the same document, so that one of the
        // two waits for the other or fails.
        let mut set = doc! { "next_offset": end.next_offset, "updated_at": DateTime::now() };
        if let Some(mark) = &end.mark {
            set.insert("mark", encode(collection::CHECKPOINTS, mark)?);
        }
        let mut change = doc! { "$set": set };
        if let Some(newest) = end.newest_at {
            change.insert("$max", doc! { "newest_at": newest });
        }
        let partition = Update {
            filter: doc! { "_id": claim.id(), "owner_epoch": claim.owner_epoch },
            change: change.into(),
            upsert: false,
        };
        let fence = self.write_in(session, collection::CHECKPOINTS, &[partition]).await?;
        if fence.matched == 0 {
            return Err(StoreError::Fenced { partition: claim.id() });
        }
        for (collection, updates) in [
            (collection::LEDGER, &end.ledger),
            (collection::CHECKPOINTS, &end.checkpoints),
            (collection::CAMERAS, &end.cameras),
            (collection::DEAD_LETTERS, &end.letters),
        ] {
            self.write_in(session, collection, updates).await?;
        }
        Ok(())
    }
}

fn is_transient(error: &StoreError) -> bool {
    match error {
        StoreError::Checkpoint { source, .. } | StoreError::Write { source, .. } => {
            source.contains_label(error::TRANSIENT_TRANSACTION_ERROR)
        }
        _ => false,
    }
}
