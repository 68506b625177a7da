//! All stages, joined. Nothing else knows more than its neighbour.

mod classify;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify};
use picket_wire::Topic;
use tokio::sync::watch;

use crate::config::Settings;
use crate::consume::{Centre, CentreError, GroupError, Membership, Progress, Renewal};
use crate::metrics;
use crate::remedy::Remedy;
use crate::store::{self, Store};
use crate::upsert::{Corrector, Images, Removed, SweepError, Sweeper, Turn};
use crate::web::{self, GroupState, WebContext};

pub use classify::run_classify;

/// Between attempts to reach MongoDB at the start.
const STORE_RETRY: Duration = Duration::from_secs(2);
/// How often the service manager is told that the stages turn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stage that has not turned for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Before the group is joined anew at another cluster; twice as long each time, for where some of the
/// brokers are of one and some of another.
const REJOIN: Duration = Duration::from_secs(2);
/// At most.
const LONGEST_REJOIN: Duration = Duration::from_secs(300);

/// Between two pages of pictures that are looked through as much time passes as a page took, so that
/// others have the stores too; but no more than this.
const SWEEP_PAGE: Duration = Duration::from_secs(1);
/// How long that waits after it failed.
const SWEEP_AGAIN: Duration = Duration::from_secs(60);
/// Between attempts to write to the object store at the start.
const IMAGES_RETRY: Duration = Duration::from_secs(10);

/// How often it is asked whether times are to be corrected.
const CORRECT_EVERY: Duration = Duration::from_secs(1);
/// How long that waits after it failed.
const CORRECT_AGAIN: Duration = Duration::from_secs(10);

/// Whether and where this instance stands in the group, once it is known.
type Group = Arc<Mutex<Option<watch::Receiver<Membership>>>>;

/// Runs the aggregator until it is told to end.
pub async fn run(settings: Settings) -> Result<()> {
    let table: Vec<_> = metrics::TABLE.iter().chain(web::METRICS).copied().collect();
    let render_metrics = recorder::install(&table)?;
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let listen = settings.web.listen;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("web.listen: cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let images = Images::open(&settings.upsert)?;
    let Some(store) = open(&settings.store, &shutdown).await? else { return Ok(()) };
    let group = Group::default();
    let router = web::router(WebContext {
        database: store.database().clone(),
        images: images.object_store(),
        membership: group_state(group.clone()),
        render_metrics,
        version: env!("CARGO_PKG_VERSION"),
    });
    let asked = shutdown.clone();
    // Before MongoDB is reached: whoever wonders why nothing comes asks the page.
    let pages = tokio::spawn(web::serve(listener, router, async move { asked.asked().await }));
    tracing::info!("page at http://{address}/");
    notify::ready("waiting for MongoDB");
    let reached = tokio::select! {
        reached = reach(&store, &settings.store, &shutdown) => reached?,
        never = keep_alive() => match never {},
    };
    if !reached {
        pages.await??;
        return Ok(());
    }

    let retention = settings.upsert.retention();
    let sweeper = Sweeper::new(images.clone(), store.clone(), retention);
    let sweep = tokio::spawn(sweep_pictures(sweeper, images.clone(), group.clone()));
    let correction = tokio::spawn(correct_times(Corrector::new(store.clone())));
    let mut renewal = Renewal::new(&settings.consume)?;
    let mut rejoin = REJOIN;
    while !shutdown.is_asked() {
        let (consume, track) = (settings.consume.clone(), settings.track.clone());
        let mut centre = Centre::spawn(consume, track, retention, store.clone(), images.clone())?;
        *group.lock().unwrap_or_else(PoisonError::into_inner) = Some(centre.membership());
        notify::ready("consuming");

        let joined_at = Instant::now();
        let progress = centre.progress();
        tokio::select! {
            () = watch_progress(&progress, &shutdown) => notify::stopping(),
            // What is in hand is brought to its end and the group left and joined anew: where to
            // resume stands in MongoDB.
            () = renewal.changed() => {}
            ended = centre.ended() => match ended {
                // The client cannot change over; a new one can, and finds another log.
                Err(CentreError::Group(error @ GroupError::OtherCluster)) => {
                    tracing::error!("joining the group anew: {}", chain(&error));
                    if joined_at.elapsed() > LONGEST_REJOIN {
                        rejoin = REJOIN;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(rejoin) => {}
                        () = shutdown.asked() => {}
                        never = keep_alive() => match never {},
                    }
                    rejoin = (rejoin * 2).min(LONGEST_REJOIN);
                }
                ended => {
                    shutdown.ask();
                    pages.await??;
                    return ended.context("consuming ended by itself");
                }
            }
        }
        let stopped = tokio::select! {
            stopped = centre.stop() => stopped,
            never = keep_alive() => match never {},
        };
        match stopped {
            Ok(()) | Err(CentreError::Group(GroupError::OtherCluster)) => {}
            Err(error) => {
                shutdown.ask();
                pages.await??;
                return Err(error.into());
            }
        }
    }
    sweep.abort();
    correction.abort();
    pages.await??;
    tracing::info!("ended in order");
    Ok(())
}

/// The connection to MongoDB, however long DNS takes to name its servers, where it does; none if the
/// end was asked for first.
async fn open(settings: &store::Settings, shutdown: &Shutdown) -> Result<Option<Store>> {
    loop {
        let error = match Store::open(settings).await {
            Ok(store) => return Ok(Some(store)),
            Err(error) => error,
        };
        if error.remedy() != Remedy::Retry {
            return Err(error.into());
        }
        tracing::warn!("the page waits for this too, trying again: {}", chain(&error));
        notify::ready("waiting for DNS");
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => notify::alive(),
            () = shutdown.asked() => return Ok(None),
        }
    }
}

/// Reaches MongoDB and prepares it, however long that takes; false if the end was asked for first.
async fn reach(store: &Store, settings: &store::Settings, shutdown: &Shutdown) -> Result<bool> {
    loop {
        let attempt = async {
            store.check(settings).await?;
            store.prepare().await
        };
        let error = tokio::select! {
            result = attempt => match result {
                Ok(()) => return Ok(true),
                Err(error) => error,
            },
            () = shutdown.asked() => return Ok(false),
        };
        if error.remedy() != Remedy::Retry {
            return Err(error.into());
        }
        tracing::warn!("MongoDB is away, trying again: {}", chain(&error));
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => {}
            () = shutdown.asked() => return Ok(false),
        }
    }
}

/// Tells the service manager that the program is alive while no stage turns.
async fn keep_alive() -> Infallible {
    loop {
        notify::alive();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Says whether the object store takes pictures, and if not why; whoever has one to write waits for it
/// without being told.
async fn reach_images(images: Images) {
    while let Err(error) = images.check().await {
        tracing::warn!("pictures wait, trying again: {}", chain(&error));
        tokio::time::sleep(IMAGES_RETRY).await;
    }
    tracing::info!("pictures go to {}", images.place());
}

/// Removes pictures that nothing points at, for as long as the program runs.
async fn sweep_pictures(mut sweeper: Sweeper<Store>, images: Images, group: Group) {
    let every = images.orphans_after();
    reach_images(images.clone()).await;
    // Before there are pictures of this database in a place that was another's; asked again before any
    // is removed.
    if let Err(error) = sweeper.prove_owner().await {
        tracing::warn!("{}", chain(&error));
    }
    // Not at the start: what a crash has left is written again then.
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        // Directories may be each instance's own; a bucket is looked through by one of them.
        if images.is_bucket() && !has_first_partition(&group) {
            wait = every;
            continue;
        }
        let begun = Instant::now();
        wait = match sweeper.turn().await {
            Ok(Turn::More) => begun.elapsed().min(SWEEP_PAGE),
            Ok(Turn::Done(Removed { expired, orphans, leftovers })) => {
                if expired + orphans + leftovers > 0 {
                    tracing::info!(
                        expired,
                        orphans,
                        leftovers,
                        "removed pictures without documents"
                    );
                }
                every
            }
            Err(e) => {
                tracing::warn!("{}", chain(&e));
                // A person has to do something about it.
                let is_lasting = matches!(e, SweepError::Elsewhere { .. });
                if is_lasting { every } else { SWEEP_AGAIN }
            }
        };
    }
}

/// Whether this instance works on the first partition of pictures, which one in the group does.
fn has_first_partition(group: &Group) -> bool {
    let group = group.lock().unwrap_or_else(PoisonError::into_inner);
    let membership = group.as_ref().map(|membership| membership.borrow());
    membership.is_some_and(|member| member.partitions.contains_key(&(Topic::Frames, 0)))
}

/// Corrects the times of what is stored, for as long as the program runs.
async fn correct_times(mut corrector: Corrector) {
    loop {
        let wait = match corrector.turn().await {
            Ok(_) if corrector.has_begun() => continue,
            Ok(_) => CORRECT_EVERY,
            Err(e) => {
                tracing::warn!("some times are not corrected yet: {}", chain(&e));
                CORRECT_AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Tells the service manager that the stages turn, until the end is asked for.
async fn watch_progress(progress: &Progress, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.asked() => return,
        }
        if progress.age() < STUCK {
            notify::alive();
        } else {
            tracing::error!(age_s = progress.age().as_secs(), "consuming is stuck");
        }
    }
}

/// The place in the group, as the pages ask for it.
fn group_state(group: Group) -> web::Membership {
    Arc::new(move || {
        let group = group.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(membership) = group else {
            return GroupState::Unknown("not joined before MongoDB answers".to_owned());
        };
        let membership = membership.borrow();
        if !membership.joined {
            return GroupState::Unknown("waiting for the consumer group to assign".to_owned());
        }
        let mut by_topic: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let mut stopped = Vec::new();
        for ((topic, partition), state) in &membership.partitions {
            by_topic.entry(topic.to_string()).or_default().push(*partition);
            if state.stopped {
                stopped.push(format!("{topic}/{partition}"));
            }
        }
        GroupState::Member { by_topic, stopped }
    })
}
