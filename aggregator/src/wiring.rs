//! All stages, joined. Nothing else knows more than its neighbour.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify};
use tokio::sync::watch;

use crate::config::Settings;
use crate::consume::{Centre, Membership, Progress};
use crate::metrics;
use crate::remedy::Remedy;
use crate::store::Store;
use crate::upsert::Images;
use crate::web::{self, GroupState, WebContext};

/// Between attempts to reach MongoDB at the start.
const STORE_RETRY: Duration = Duration::from_secs(2);
/// How often the service manager is told that the stages turn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stage that has not turned for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

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
    let images = Images::in_directory(&settings.upsert.images_directory)?;
    let Some(store) = connect(&settings, &shutdown).await? else { return Ok(()) };

    let database = store.database().clone();
    let retention = settings.upsert.retention();
    let mut centre =
        Centre::spawn(settings.consume, settings.track, retention, store, images.clone())?;
    let router = web::router(WebContext {
        database,
        images: images.object_store(),
        membership: group_state(centre.membership()),
        render_metrics,
        version: env!("CARGO_PKG_VERSION"),
    });
    let asked = shutdown.clone();
    let pages = tokio::spawn(web::serve(listener, router, async move { asked.asked().await }));
    tracing::info!("page at http://{address}/");
    notify::ready("consuming");

    let progress = centre.progress();
    tokio::select! {
        () = watch_progress(&progress, &shutdown) => {}
        ended = centre.ended() => {
            shutdown.ask();
            pages.await??;
            return ended.context("consuming ended by itself");
        }
    }
    notify::stopping();
    let stopped = centre.stop().await;
    pages.await??;
    tracing::info!("ended in order");
    Ok(stopped?)
}

/// Reaches MongoDB and prepares it, however long that takes; `None` if the end was asked for first.
async fn connect(settings: &Settings, shutdown: &Shutdown) -> Result<Option<Store>> {
    loop {
        let attempt = async {
            let store = Store::connect(&settings.store).await?;
            store.prepare().await?;
            Ok(store)
        };
        let error: crate::store::StoreError = tokio::select! {
            result = attempt => match result {
                Ok(store) => return Ok(Some(store)),
                Err(error) => error,
            },
            () = shutdown.asked() => return Ok(None),
        };
        if error.remedy() != Remedy::Retry {
            return Err(error.into());
        }
        tracing::warn!("MongoDB is away, trying again: {}", chain(&error));
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => {}
            () = shutdown.asked() => return Ok(None),
        }
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
fn group_state(membership: watch::Receiver<Membership>) -> web::Membership {
    Arc::new(move || {
        let membership = membership.borrow();
        if !membership.joined {
            return GroupState::Unknown("waiting for the consumer group to assign".to_owned());
        }
        let mut by_topic: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in membership.partitions.keys() {
            by_topic.entry(topic.to_string()).or_default().push(*partition);
        }
        GroupState::Member(by_topic)
    })
}
