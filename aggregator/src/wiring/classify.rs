//! The command `classify`: the second look by itself, with what it needs of the others.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify, ops};

use super::{keep_alive, open, reach, watch_progress};
use crate::classify::{self, Ages, Classifier, Classifying, Worker};
use crate::config::Settings;
use crate::consume::{Progress, Renewal};
use crate::metrics;

/// What `/healthz` says.
type State = Arc<Mutex<Health>>;

enum Health {
    Waiting(&'static str),
    Reading(Arc<Progress>),
}

/// Classifies until it is told to end.
pub async fn run_classify(settings: Settings) -> Result<()> {
    let Some(own) = settings.classify.clone() else {
        bail!(
            "the config has no section [classify], which names the model and the runtime that is to \
             compute it: classify.model, classify.runtime_library"
        );
    };
    let table: Vec<_> = metrics::TABLE.iter().chain(classify::METRICS).copied().collect();
    let render = recorder::install(&table)?;
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let load = own.clone();
    let classifier = tokio::task::spawn_blocking(move || Classifier::load(&load)).await??;
    tracing::info!(
        sha256 = classifier.model_sha256(),
        "classifying by {}, the surest {}",
        classifier.name(),
        own.top
    );
    let state: State = Arc::new(Mutex::new(Health::Waiting("MongoDB was not reached yet")));
    if let Some(listen) = own.listen {
        tokio::spawn(ops::serve(
            ops::Endpoint { field: "classify.listen", listen },
            render,
            health(&state),
        ));
    }
    notify::ready("waiting for MongoDB");
    let Some(store) = open(&settings.store, &shutdown).await? else { return Ok(()) };
    let reached = tokio::select! {
        reached = reach(&store, &settings.store, &shutdown) => reached?,
        never = keep_alive() => match never {},
    };
    if !reached {
        return Ok(());
    }
    let instance = format!("classify-{:08x}", getrandom::u32().context("cannot draw a name")?);
    let ages = Ages::new(own.wait_hours, settings.upsert.observations_days);
    let mut worker = Some(Worker::new(classifier, store.clone(), ages));
    let settler = tokio::spawn(classify::settle(store));
    tokio::pin!(settler);
    let mut renewal = Renewal::new(&settings.consume)?;
    // The batch in hand was not done in time when there is no worker: systemd starts a new one.
    while let Some(at_hand) = worker.take().filter(|_| !shutdown.is_asked()) {
        let mut stage = Classifying::spawn(&settings.consume, &own, &instance, at_hand)?;
        let progress = stage.progress();
        *state.lock().unwrap_or_else(PoisonError::into_inner) = Health::Reading(progress.clone());
        notify::ready("classifying");
        tokio::select! {
            () = watch_progress(&progress, &shutdown) => notify::stopping(),
            () = renewal.changed() => {}
            ended = stage.ended() => {
                ended.context("classifying ended by itself")?;
                bail!("classifying ended by itself");
            }
            ended = &mut settler => return match ended? {
                Ok(never) => match never {},
                Err(e) => Err(e).context("labels cannot be brought to their observations"),
            },
        }
        worker = tokio::select! {
            stopped = stage.stop() => stopped?,
            never = keep_alive() => match never {},
        };
    }
    settler.abort();
    if !shutdown.is_asked() {
        bail!("a batch was not done in time, and is read again");
    }
    tracing::info!("ended in order");
    Ok(())
}

fn health(state: &State) -> ops::Health {
    let state = state.clone();
    Arc::new(move || match &*state.lock().unwrap_or_else(PoisonError::into_inner) {
        Health::Waiting(why) => Err((*why).to_owned()),
        Health::Reading(progress) if progress.age() < super::STUCK => Ok(()),
        Health::Reading(_) => Err("it is stuck".to_owned()),
    })
}
