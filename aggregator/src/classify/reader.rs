//! The consumer: frames of the partitions that the group gives to this instance, to the worker and back.
//!
//! One loop polls, whatever else happens: the group takes a member that does not poll for dead. So nothing
//! is waited for in the loop but what comes next; while too much waits for the worker, reading pauses and
//! polling goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use picket_service::shutdown::Shutdown;
use picket_wire::Topic;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use super::context::{Change, Context};
use super::metrics as names;
use super::queue::{Assigned, Message, Queue};
use super::settings::Settings;
use super::worker::{WorkError, Worker};
use crate::consume::kafka::{self, ClientError, Received};
use crate::consume::other_cluster::OtherCluster;
use crate::consume::{Progress, Settings as ConsumeSettings};

/// How often the loop turns at least, for the watchdog.
const TICK: Duration = Duration::from_secs(1);
/// How long the broker may take to say what it has of new partitions, or to let this instance go.
const ANSWER: Duration = Duration::from_secs(10);

/// Why the classifier ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The consumer could not be made.
    #[error("cannot set up the consumer")]
    Consumer(#[source] ClientError),
    /// The topic could not be asked for.
    #[error("cannot subscribe to {topic}")]
    Subscribe {
        /// Which.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// The brokers are too old.
    #[error(
        "the brokers do not know the group protocol `consumer`, which needs Kafka 4.0: set \
         consume.group_protocol = \"classic\""
    )]
    Protocol(#[source] KafkaError),
    /// The addresses lead to another cluster than they did.
    #[error(
        "the brokers at consume.brokers are another cluster's than before, and must all be of one; a new \
         start reads what that one has"
    )]
    OtherCluster,
    /// The client gave up.
    #[error("the consumer failed for good")]
    Fatal(#[source] KafkaError),
    /// A batch cannot be done.
    #[error("a batch cannot be done")]
    Work(#[source] WorkError),
    /// The task of a batch.
    #[error("the task of a batch ended without a word")]
    Task(#[source] JoinError),
}

/// The worker, the places of what it was given, and what became of it.
type Done = (Worker, Vec<(i32, i64)>, Result<(), WorkError>);
type Batch = JoinHandle<Done>;

/// Reads frames.
pub struct Reader {
    consumer: Arc<StreamConsumer<Context>>,
    changes: mpsc::UnboundedReceiver<Change>,
    answers: mpsc::UnboundedSender<Change>,
    asked: Option<JoinHandle<()>>,
    other_cluster: OtherCluster,
    topic: String,
    queue: Queue,
    paused: bool,
    release: Duration,
    progress: Arc<Progress>,
}

impl Reader {
    /// Asks to join the group. The brokers may be away: the client goes on trying.
    pub fn join(
        consume: &ConsumeSettings,
        settings: &Settings,
        instance: &str,
        progress: Arc<Progress>,
    ) -> Result<Self, ReadError> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut config =
            kafka::member(consume, &settings.group, instance).map_err(ReadError::Consumer)?;
        // What the group has not done yet begins with the oldest that is there. Where that is behind
        // what was to come next, the difference is counted as lost.
        config.set("auto.offset.reset", "earliest");
        let other_cluster = OtherCluster::default();
        let answers = sender.clone();
        let context = Context { changes: sender, other_cluster: other_cluster.clone() };
        let consumer: StreamConsumer<Context> = config
            .create_with_context(context)
            .map_err(|error| ReadError::Consumer(error.into()))?;
        let topic = consume.topics().name(Topic::Frames);
        consumer
            .subscribe(&[&topic])
            .map_err(|source| ReadError::Subscribe { topic: topic.clone(), source })?;
        let max_bytes = settings.queue_mib << 20;
        let wait = Duration::from_millis(settings.batch_wait_ms);
        Ok(Self {
            consumer: Arc::new(consumer),
            changes,
            answers,
            asked: None,
            other_cluster,
            topic,
            queue: Queue::new(max_bytes, settings.batch_pictures, wait),
            paused: false,
            release: Duration::from_secs(consume.release_s),
            progress,
        })
    }

    /// Works until asked to end, then brings the batch in hand to its end and leaves. Gives the worker
    /// back, unless it is the reason for the end or did not come to its own in time.
    pub async fn run(
        mut self,
        worker: Worker,
        shutdown: Shutdown,
    ) -> Result<Option<Worker>, ReadError> {
        let mut tick = tokio::time::interval(TICK);
        let (mut idle, mut batch): (Option<Worker>, Option<Batch>) = (Some(worker), None);
        let consumer = self.consumer.clone();
        let mut result = loop {
            if let Some(worker) = idle.take_if(|_| self.is_due()) {
                batch = Some(self.begin(worker));
            }
            let due = self.queue.due(Instant::now()).filter(|_| batch.is_none());
            tokio::select! {
                () = shutdown.asked() => break Ok(()),
                Some(change) = self.changes.recv() => self.change(change),
                ended = ended(&mut batch) => match self.end(ended) {
                    Ok(worker) => {
                        batch = None;
                        idle = Some(worker);
                    }
                    Err(e) => {
                        batch = None;
                        break Err(e);
                    }
                },
                message = consumer.recv() => {
                    if let Err(e) = self.receive(message) {
                        break Err(e);
                    }
                }
                () = at(due) => {}
                _ = tick.tick() => {
                    if let Err(e) = self.tick() {
                        break Err(e);
                    }
                }
            }
        };
        drop(consumer);
        if let Some(running) = batch {
            match tokio::time::timeout(self.release, running).await {
                Ok(ended) => match self.end(ended) {
                    Ok(worker) => idle = Some(worker),
                    Err(e) => result = result.and(Err(e)),
                },
                Err(_) => tracing::warn!("a batch was not done in time: it is read again"),
            }
        }
        self.leave(!matches!(result, Err(ReadError::OtherCluster))).await;
        result.map(|()| idle)
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.queue.due(now).is_some_and(|due| due <= now)
    }

    fn begin(&mut self, mut worker: Worker) -> Batch {
        let messages = self.queue.take_batch();
        tokio::spawn(async move {
            let done = worker.work_off(&messages).await;
            let place = |message: &Message| (message.partition, message.record.offset);
            (worker, messages.iter().map(place).collect(), done)
        })
    }

    /// What was done is committed: now, and not before, since a crash until here repeats it.
    fn end(&mut self, ended: Result<Done, JoinError>) -> Result<Worker, ReadError> {
        let (worker, places, done) = ended.map_err(ReadError::Task)?;
        done.map_err(ReadError::Work)?;
        self.queue.done(places);
        self.commit();
        self.resume_drained();
        Ok(worker)
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Assigned(partitions) => {
                tracing::info!(partitions = partitions.len(), "partitions of frames assigned");
                self.queue.assign(&partitions);
                // The client keeps a pause over all changes of what it reads: one that was paused when it
                // went, and comes back after the queue drained, would be read no more.
                self.set_reading(Ok(self.places(&partitions)), !self.paused);
                self.ask_where_the_group_stood();
            }
            Change::Revoked(partitions) => {
                tracing::info!(partitions = partitions.len(), "handed over partitions of frames");
                self.queue.revoke(&partitions);
            }
            Change::Committed(all) => {
                for (assigned, committed) in all {
                    note_hole(&self.topic, assigned.0, self.queue.stood(assigned, committed));
                }
                self.commit();
            }
        }
        gauge!(names::PARTITIONS).set(self.queue.partitions() as f64);
    }

    fn receive(
        &mut self,
        message: Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<(), ReadError> {
        match message {
            Ok(message) => {
                // A change that came before it counts before it.
                while let Ok(change) = self.changes.try_recv() {
                    self.change(change);
                }
                let partition = message.partition();
                let message = Message { partition, record: Received::copy(&message) };
                let hole = self.queue.push(Instant::now(), message);
                note_hole(&self.topic, partition, hole);
                self.pause_full();
            }
            Err(
                e @ KafkaError::MessageConsumptionFatal(
                    RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature,
                ),
            ) => return Err(ReadError::Protocol(e)),
            Err(e @ KafkaError::MessageConsumptionFatal(_)) => return Err(ReadError::Fatal(e)),
            Err(e) => kafka::log_error(&e, "the consumer goes on"),
        }
        Ok(())
    }

    /// Also when it has paused already: a partition that came since is read.
    fn pause_full(&mut self) {
        if self.queue.is_full() {
            self.pause_all(true);
        }
    }

    fn resume_drained(&mut self) {
        if self.paused && self.queue.has_drained() {
            self.pause_all(false);
        }
    }

    fn pause_all(&mut self, paused: bool) {
        self.paused = paused;
        gauge!(names::PAUSED).set(f64::from(u8::from(paused)));
        self.set_reading(self.consumer.assignment(), !paused);
    }

    fn places(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    fn set_reading(&self, list: Result<TopicPartitionList, KafkaError>, on: bool) {
        let done = list.and_then(|list| match on {
            true => self.consumer.resume(&list),
            false => self.consumer.pause(&list),
        });
        // It fails for a partition that was just taken away, which settles the matter too.
        if let Err(e) = done {
            tracing::debug!(error = %e, on, "{}: reading was not switched", self.topic);
        }
    }

    fn tick(&mut self) -> Result<(), ReadError> {
        self.progress.beat();
        if self.other_cluster.is_met() {
            return Err(ReadError::OtherCluster);
        }
        self.ask_where_the_group_stood();
        self.resume_drained();
        Ok(())
    }

    fn list(&self, offsets: &[(i32, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            // It fails for an offset below 0, which no message has.
            drop(list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset)));
        }
        list
    }

    fn commit(&mut self) {
        let done = self.queue.take_done();
        self.send_commit(&done);
    }

    /// Sent and not waited for, also at the end: leaving the group comes after it.
    fn send_commit(&self, done: &[(i32, i64)]) {
        let list = self.list(done);
        if list.count() == 0 {
            return;
        }
        if let Err(e) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(error = %e, "offsets were not committed: this is done again after a crash");
        }
    }

    /// Asks where the group stood in new partitions, until it is answered: what is missing behind that
    /// was lost in the broker. Beside the loop: the broker may be away.
    fn ask_where_the_group_stood(&mut self) {
        let unknown = self.queue.unknown();
        let is_asked = self.asked.as_ref().is_some_and(|asked| !asked.is_finished());
        if unknown.is_empty() || is_asked {
            return;
        }
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        let changes = self.answers.clone();
        self.asked = Some(tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            for (partition, _) in &unknown {
                list.add_partition(&topic, *partition);
            }
            let committed = match consumer.committed_offsets(list, ANSWER) {
                Ok(committed) => committed,
                Err(e) => return kafka::log_error(&e, "where the group stood is asked again"),
            };
            let stood = |assigned: Assigned| {
                let element = committed.find_partition(&topic, assigned.0)?;
                element.error().ok()?;
                let Offset::Offset(next) = element.offset() else { return Some((assigned, None)) };
                Some((assigned, Some(next)))
            };
            let all = unknown.into_iter().filter_map(stood).collect();
            // Nobody listens at the end.
            drop(changes.send(Change::Committed(all)));
        }));
    }

    /// Commits once more what was done: nothing else repeats a commit that failed, and of another cluster
    /// the offsets say nothing.
    async fn leave(self, commits: bool) {
        if commits {
            self.send_commit(&self.queue.all_done());
        }
        let (consumer, asked) = (self.consumer, self.asked);
        let left = async {
            if let Some(asked) = asked {
                drop(asked.await);
            }
            // Leaving waits for the broker, which is why it has a thread of its own.
            tokio::task::spawn_blocking(move || drop(consumer)).await
        };
        if tokio::time::timeout(ANSWER, left).await.is_err() {
            tracing::warn!("the group was not left in time; it will miss this instance by itself");
        }
        gauge!(names::PARTITIONS).set(0.0);
    }
}

/// A message came so far behind the one that was to come next.
fn note_hole(topic: &str, partition: i32, hole: i64) {
    if hole > 0 {
        counter!(names::SKIPPED, "reason" => "lost-in-broker").increment(hole.unsigned_abs());
        tracing::error!(
            partition,
            lost = hole,
            "{topic}/{partition}: the broker deleted {hole} messages before they were classified"
        );
    }
    if hole < 0 {
        tracing::warn!(
            partition,
            "{topic}/{partition} was made anew: it ended before what was to come next, and is read from \
             its beginning"
        );
    }
}

/// The end of the batch under way; never, if there is none.
async fn ended(batch: &mut Option<Batch>) -> Result<Done, JoinError> {
    match batch {
        Some(batch) => batch.await,
        None => std::future::pending().await,
    }
}

/// A moment; never, if there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
