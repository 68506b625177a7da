//! The consumer group: which partitions are this instance's, and getting their records to them.
//!
//! One loop polls, whatever else happens: the group takes a member that does not poll for dead. So
//! nothing is waited for in the loop. Taking over and handing over partitions are *turns* that run
//! beside it, one at a time. The group is told at once that new partitions are taken and they are
//! read later, when the store has been asked where: it lets no partition go while it waits for an
//! answer, and the store may be away for long. For the same reason taking over gives way to handing
//! over, and begins again after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::counter;
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_wire::{Topic, TopicNames};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};

use super::context::{Context, Rebalance};
use super::error::{GroupError, PartitionError};
use super::held::{Held, Holdings, lag_gauge};
use super::inbox::{Share, inbox};
use super::kafka::{self, Received};
use super::lag::LogEnds;
use super::looks::Looks;
use super::membership::{Membership, PartitionId, Progress};
use super::opening::{Opened, Opener};
use super::other_cluster::OtherCluster;
use super::partition::{Report, Shared};
use super::turn::{Sound, Turn, Turned, Why};
use super::work::{Work, Works};
use crate::metrics as names;

/// How often lag is measured and offsets are mirrored.
const TICK: Duration = Duration::from_secs(1);
/// How long the broker may take to let this instance go.
const LEAVE: Duration = Duration::from_secs(10);
/// How long after it stopped a partition is taken over again: another owner, if there is one, has
/// been announced by then.
const REOPEN_AFTER: Duration = Duration::from_secs(5);
/// How long after offsets were not committed they are committed again: while a commit is under way, the
/// client begins to read nothing new.
const MIRROR_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Least memory for the records of one partition.
const MIN_INBOX_BYTES: usize = 64 * 1024;

/// This instance's membership in the group.
pub struct Group {
    consumer: Arc<StreamConsumer<Context>>,
    rebalances: mpsc::UnboundedReceiver<Rebalance>,
    closing: Arc<AtomicBool>,
    other_cluster: OtherCluster,
    commit_failed: Arc<AtomicBool>,
    /// When offsets are committed again that were not.
    mirror_again_at: Option<Instant>,
    looks: Looks,
    topics: TopicNames,
    ends: Arc<LogEnds>,
    works: Works,
    reports: mpsc::UnboundedReceiver<Report>,
    opener: Opener,
    held: Holdings,
    /// Of the memory for records that wait, what one partition gets.
    share: Share,
    turn: Turn,
    joined: bool,
    membership: watch::Sender<Membership>,
    progress: Arc<Progress>,
}

impl Group {
    /// Asks to join. The brokers may be away: the client goes on trying.
    pub fn join(
        shared: Arc<Shared>,
        works: impl FnOnce(mpsc::UnboundedSender<Report>) -> Works,
        instance: String,
        membership: watch::Sender<Membership>,
        progress: Arc<Progress>,
    ) -> Result<Self, GroupError> {
        let (rebalance_sender, rebalances) = mpsc::unbounded_channel();
        let (report_sender, reports) = mpsc::unbounded_channel();
        let topics = shared.settings.topics();
        let ends = Arc::new(LogEnds::default());
        let closing = Arc::<AtomicBool>::default();
        let commit_failed = Arc::<AtomicBool>::default();
        let other_cluster = OtherCluster::default();
        let context = Context {
            rebalances: rebalance_sender,
            topics: topics.clone(),
            ends: ends.clone(),
            closing: closing.clone(),
            other_cluster: other_cluster.clone(),
            commit_failed: commit_failed.clone(),
        };
        let config = kafka::consumer(&shared.settings, &instance).map_err(GroupError::Consumer)?;
        let consumer: StreamConsumer<Context> = config
            .create_with_context(context)
            .map_err(|error| GroupError::Consumer(error.into()))?;
        let consumer = Arc::new(consumer);
        let subscribed = Topic::OF_DEVICES.map(|topic| topics.name(topic));
        let subscribed: Vec<&str> = subscribed.iter().map(String::as_str).collect();
        consumer.subscribe(&subscribed).map_err(GroupError::Subscribe)?;
        let opener = Opener {
            store: shared.store.clone(),
            consumer: consumer.clone(),
            topics: topics.clone(),
            instance,
        };
        Ok(Self {
            consumer,
            rebalances,
            closing,
            other_cluster,
            commit_failed,
            mirror_again_at: None,
            looks: Looks::new(Instant::now()),
            topics,
            ends,
            works: works(report_sender),
            reports,
            opener,
            held: Holdings::default(),
            share: Share::default(),
            turn: Turn::default(),
            joined: false,
            membership,
            progress,
        })
    }

    /// Works until asked to end, then brings what is in hand to its end and leaves.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), GroupError> {
        let mut tick = tokio::time::interval(TICK);
        let consumer = self.consumer.clone();
        let result = loop {
            tokio::select! {
                () = shutdown.asked() => break Ok(()),
                message = consumer.recv() => {
                    if let Err(e) = self.receive(message) {
                        break Err(e);
                    }
                }
                Some(change) = self.rebalances.recv(), if !self.turn.is_releasing() => {
                    if let Err(e) = self.change(change) {
                        break Err(e);
                    }
                }
                turned = self.turn.done() => {
                    if let Err(e) = self.end_turn(turned) {
                        break Err(e);
                    }
                }
                Some(report) = self.reports.recv() => self.take(report),
                _ = tick.tick() => {
                    if let Err(e) = self.tick() {
                        break Err(e);
                    }
                }
            }
        };
        drop(consumer);
        self.leave().await;
        result
    }

    fn receive(
        &mut self,
        message: Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<(), GroupError> {
        match message {
            Ok(message) => self.dispatch(&message),
            Err(
                e @ KafkaError::MessageConsumptionFatal(
                    RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature,
                ),
            ) => return Err(GroupError::Protocol(e)),
            // The newcomer is told the first, and with the classic protocol the other one the second.
            Err(
                source @ KafkaError::MessageConsumptionFatal(
                    RDKafkaErrorCode::UnreleasedInstanceId | RDKafkaErrorCode::FencedInstanceId,
                ),
            ) => {
                let name = self.works.shared.settings.static_member.clone().unwrap_or_default();
                return Err(GroupError::NameTaken { name, source });
            }
            Err(e @ KafkaError::MessageConsumptionFatal(_)) => return Err(GroupError::Fatal(e)),
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)) => {
                self.looks.suspect(self.held.ids(), Instant::now());
            }
            Err(e) => kafka::log_error(&e, "the consumer goes on"),
        }
        Ok(())
    }

    fn dispatch(&mut self, message: &BorrowedMessage<'_>) {
        let Some(topic) = self.topics.topic(message.topic()) else { return };
        let id = (topic, message.partition());
        let Some(held) = self.held.0.get_mut(&id) else { return };
        // A record without a worker is read again by the next one: its offset has not advanced.
        let Some(work) = &held.work else { return };
        held.read = message.offset() + 1;
        if work.sender.send(Received::copy(message)) {
            held.state.paused = true;
            self.set_reading(&[id], false);
        }
    }

    fn list(&self, partitions: &[PartitionId]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(&self.topics.name(*topic), *partition);
        }
        list
    }

    fn set_reading(&self, partitions: &[PartitionId], on: bool) {
        let list = self.list(partitions);
        let done = if on { self.consumer.resume(&list) } else { self.consumer.pause(&list) };
        // It fails for a partition that was just taken away, which settles the matter too.
        if let Err(e) = done {
            tracing::debug!(error = %e, ?partitions, on, "reading was not switched");
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Stored(id, next_offset, newest) => {
                if let Some(held) = self.held.0.get_mut(&id) {
                    held.state.next_offset = next_offset;
                    held.marks.read(next_offset, newest);
                }
            }
            Report::Drained(id) => self.resume_drained(&[id]),
            Report::Stopped(id, error) => self.stopped(id, &error),
        }
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
    }

    fn resume_drained(&mut self, candidates: &[PartitionId]) {
        let drained = self.held.take_drained(candidates);
        if !drained.is_empty() {
            self.set_reading(&drained, true);
        }
    }

    fn stopped(&mut self, id: PartitionId, error: &PartitionError) {
        let Some(held) = self.held.0.get_mut(&id) else { return };
        held.work = None;
        held.state.stopped = true;
        held.reopen_at = Some(Instant::now() + REOPEN_AFTER);
        let (topic, partition) = (id.0.suffix(), id.1);
        if error.is_fenced() {
            counter!(names::PARTITIONS_STOPPED, "why" => "fenced").increment(1);
            tracing::warn!(topic, partition, "{topic}/{partition} stopped: {}", chain(error));
        } else {
            let why = if error.is_unreadable() { "unreadable" } else { "failed" };
            counter!(names::PARTITIONS_STOPPED, "why" => why).increment(1);
            tracing::error!(
                topic,
                partition,
                "{topic}/{partition} stopped, nothing of it is lost and it is tried again: {}",
                chain(error)
            );
        }
    }

    /// A worker that panicked reports nothing, and what is read for it is read in vain.
    fn miss_workers(&mut self) {
        let ended = self.held.without_worker();
        // One that stopped in order has said so before it ended.
        self.take_reports();
        for id in ended {
            if self.held.0.get(&id).is_some_and(|held| held.work.is_some()) {
                self.stopped(id, &PartitionError::Died);
            }
        }
    }

    fn change(&mut self, change: Rebalance) -> Result<(), GroupError> {
        self.joined = true;
        match change {
            Rebalance::Assign(ids) => {
                self.take_over_soon(&ids);
                let none = TopicPartitionList::new();
                self.consumer.incremental_assign(&none).map_err(GroupError::Assign)?;
                self.reopen_due()?;
            }
            Rebalance::Revoke(ids) => {
                let unopened = self.turn.abandon();
                self.take_over_soon(&unopened);
                let works = self.held.take_works(&ids);
                self.turn.release(ids, works, self.works.release_limit());
            }
            Rebalance::Lost(ids) => {
                tracing::warn!(partitions = ids.len(), "the group gave up on this instance");
                let unopened = self.turn.abandon();
                self.take_over_soon(&unopened);
                // Dropped, not ended: what they would write now may be another owner's to write.
                self.held.take_works(&ids).into_iter().for_each(Work::abandon);
                self.turn.release(ids, Vec::new(), Duration::ZERO);
            }
        }
        Ok(())
    }

    fn take_over_soon(&mut self, ids: &[PartitionId]) {
        for id in ids {
            self.held.0.entry(*id).or_default().reopen_at = Some(Instant::now());
        }
    }

    fn end_turn(&mut self, turned: Turned) -> Result<(), GroupError> {
        match turned {
            Turned::Opened(results) => self.start(results)?,
            Turned::Released(ids) => self.let_go(&ids)?,
            // What is read no more while the group waits to take it away would be answered for it.
            Turned::Looked { .. } if !self.rebalances.is_empty() => {}
            Turned::Looked { broken, sound } => {
                let stuck = sound.iter().filter(|sound| self.take_sound(sound));
                let mut again: Vec<_> = stuck.map(|sound| sound.suspect.id).collect();
                again.extend(broken);
                self.reopen(&again)?;
            }
        }
        self.reopen_due()?;
        self.publish();
        Ok(())
    }

    /// Takes note of a log that is the one that it was; returns whether it is read no more all the same.
    fn take_sound(&mut self, Sound { suspect, log_end }: &Sound) -> bool {
        let id = suspect.id;
        let is_still = suspect.why == Why::Still;
        if !is_still {
            self.held.mark(id, suspect.marks.read);
        }
        let Some(log_end) = *log_end else { return false };
        self.ends.seen(id, log_end);
        let Some(next) = suspect.next else { return false };
        if !is_still {
            self.looks.acquit(id);
        }
        let is_stuck = is_still && self.held.is_stuck(id, next, log_end);
        if is_stuck {
            let (topic, partition) = (id.0.suffix(), id.1);
            counter!(names::PARTITIONS_STOPPED, "why" => "stuck").increment(1);
            tracing::error!(
                topic,
                partition,
                "{topic}/{partition} was read no more at offset {next} of {log_end}, and is taken over \
                 again; nothing of it is lost"
            );
        }
        is_stuck
    }

    /// Begins to read and to work on partitions that were taken over.
    fn start(
        &mut self,
        results: Vec<(PartitionId, Result<Opened, PartitionError>)>,
    ) -> Result<(), GroupError> {
        self.share_out();
        let mut list = TopicPartitionList::new();
        let mut started = Vec::new();
        for (id, result) in results {
            let work = result.and_then(|opened| {
                let (offset, marks) = (opened.offset, opened.marks);
                self.ends.seen(id, opened.log_end);
                let queue = inbox(self.share.clone());
                Ok((offset, marks, self.works.start(id, opened, queue)?))
            });
            match work {
                Ok((offset, marks, work)) => {
                    let topic = self.topics.name(id.0);
                    list.add_partition_offset(&topic, id.1, Offset::Offset(offset))
                        .map_err(GroupError::Assign)?;
                    let stood = self.held.0.get(&id).and_then(|held| held.stood);
                    self.held.0.insert(id, Held::at_work(work, offset, marks, stood));
                    started.push(id);
                }
                Err(e) => self.stopped(id, &e),
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        // The client keeps a pause over all changes of what it reads.
        self.set_reading(&started, true);
        self.consumer.incremental_assign(&list).map_err(GroupError::Assign)?;
        tracing::info!(partitions = list.count(), "partitions assigned");
        Ok(())
    }

    fn share_out(&self) {
        let share = self.works.queue_bytes() / self.held.0.len().max(1);
        self.share.store(share.max(MIN_INBOX_BYTES), Ordering::Relaxed);
    }

    /// Stops reading partitions that are another instance's from now on.
    fn let_go(&mut self, ids: &[PartitionId]) -> Result<(), GroupError> {
        self.take_reports();
        self.mirror();
        let read: Vec<_> = ids
            .iter()
            .filter(|id| self.held.0.remove(id).is_some_and(|held| held.assigned))
            .copied()
            .collect();
        self.share_out();
        ids.iter().for_each(|id| lag_gauge(*id, 0.0));
        tracing::info!(partitions = ids.len(), "handed over partitions");
        self.consumer.incremental_unassign(&self.list(&read)).map_err(GroupError::Assign)
    }

    /// Takes partitions over that are new, or whose work stopped a while ago. A change that the
    /// group waits for comes first: to stop reading any partition would be taken for its answer.
    fn reopen_due(&mut self) -> Result<(), GroupError> {
        let due = self.held.due(Instant::now());
        if due.is_empty() || !self.rebalances.is_empty() {
            return Ok(());
        }
        // It waits long where brokers do not answer.
        self.turn.abandon_look();
        if self.turn.is_idle() { self.reopen(&due) } else { Ok(()) }
    }

    /// Takes partitions over from their checkpoints.
    fn reopen(&mut self, ids: &[PartitionId]) -> Result<(), GroupError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut read = Vec::new();
        for id in ids {
            let Some(held) = self.held.0.get_mut(id) else { continue };
            held.reopen_at = None;
            if let Some(work) = held.work.take() {
                work.abandon();
            }
            if std::mem::take(&mut held.assigned) {
                read.push(*id);
            }
        }
        if !read.is_empty() {
            self.consumer.incremental_unassign(&self.list(&read)).map_err(GroupError::Assign)?;
        }
        let known = ids.iter().filter(|id| self.held.0.contains_key(id)).copied().collect();
        self.turn.open(&self.opener, known);
        Ok(())
    }

    fn tick(&mut self) -> Result<(), GroupError> {
        self.progress.beat();
        if self.other_cluster.is_met() {
            return Err(GroupError::OtherCluster);
        }
        self.miss_workers();
        // A queue that drained before its pause was noted tells nobody, so all are asked.
        self.resume_drained(&self.held.ids());
        self.held.measure_lag(&self.ends);
        self.mirror_again();
        self.mirror();
        // What this instance does by itself, when the group asks for nothing.
        self.reopen_due()?;
        if self.turn.is_idle() && self.rebalances.is_empty() {
            let suspects = self.looks.due(&mut self.held, Instant::now());
            if !suspects.is_empty() {
                self.turn.look(&self.opener, suspects);
            }
        }
        self.publish();
        Ok(())
    }

    /// Tells Kafka what is stored. Nothing reads it but tools that show lag.
    fn mirror(&mut self) {
        let list = self.held.take_unmirrored(&self.topics);
        if list.count() == 0 {
            return;
        }
        if let Err(e) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(error = %e, "committed offsets, which only lag tools read, are behind");
        }
    }

    fn mirror_again(&mut self) {
        let now = Instant::now();
        if self.commit_failed.swap(false, Ordering::AcqRel) {
            self.mirror_again_at.get_or_insert(now + MIRROR_AGAIN_AFTER);
        }
        if self.mirror_again_at.take_if(|at| *at <= now).is_some() {
            self.held.tell_again();
        }
    }

    fn publish(&self) {
        self.held.measure();
        let membership = self.held.membership(self.joined);
        let alone = membership.without_partition();
        let before = self.membership.send_replace(membership);
        if alone && !before.without_partition() {
            tracing::warn!(
                "this aggregator has no partition: there are more aggregators in the group than \
                 partitions, and it waits for one to become free"
            );
        }
    }

    /// Brings the batches in hand to their end, and leaves the group, so that the next owner need
    /// not wait for this one to be missed.
    async fn leave(mut self) {
        self.turn.abandon();
        let ids = self.held.ids();
        let works = self.held.take_works(&ids);
        Work::end_all(works, self.works.release_limit()).await;
        self.take_reports();
        self.mirror();
        self.closing.store(true, Ordering::Release);
        self.answer_last(&ids);
        let (consumer, opener) = (self.consumer, self.opener);
        // Leaving waits for the broker, which is why it has a thread of its own.
        let left = tokio::task::spawn_blocking(move || {
            drop(opener);
            drop(consumer);
        });
        if tokio::time::timeout(LEAVE, left).await.is_err() {
            tracing::warn!("the group was not left in time; it will miss this instance by itself");
        }
    }

    /// Answers a change that the group may still wait for: it lets nobody go who owes it an answer.
    /// Both answers are harmless where none is owed.
    fn answer_last(&self, ids: &[PartitionId]) {
        let read = |id: &&PartitionId| self.held.0.get(*id).is_some_and(|held| held.assigned);
        let read: Vec<_> = ids.iter().filter(read).copied().collect();
        let nothing = self.consumer.incremental_assign(&TopicPartitionList::new());
        let all = nothing.and_then(|()| self.consumer.incremental_unassign(&self.list(&read)));
        if let Err(e) = all {
            tracing::debug!(error = %e, "a last change of partitions was not answered");
        }
    }
}
