//! Looks, for as long as the program runs, for the observations of what waits for them.

use std::time::Duration;

use metrics::{counter, gauge};
use mongodb::bson::DateTime;

use super::metrics as names;
use super::worker::Retries;
use crate::store::{Store, StoreError};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(2);
/// Looked for at a time.
const PAGE: usize = 500;
/// Pages of one round; the next one goes on behind them. It bounds what a store in which a million wait
/// is asked: they are some documents a second.
const PAGES: usize = 10;

/// Works until it is dropped; ends only with an error that no repetition cures.
pub async fn settle(store: Store) -> Result<std::convert::Infallible, StoreError> {
    let mut after = None;
    let mut retries = Retries::new("settle");
    loop {
        match round(&store, &mut after).await {
            Ok(()) => retries = Retries::new("settle"),
            Err(e) => retries.absorb(e).await?,
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn round(store: &Store, after: &mut Option<String>) -> Result<(), StoreError> {
    for _ in 0..PAGES {
        let settled = store.settle_classes(after.as_deref(), PAGE, DateTime::now()).await?;
        counter!(names::SETTLED).increment(settled.stored);
        counter!(names::GIVEN_UP, "reason" => "no-observation").increment(settled.given_up);
        if let Some(first) = settled.first_given_up {
            let given_up = settled.given_up;
            tracing::warn!(
                given_up,
                "labels were given up without an observation, such as of {first}"
            );
        }
        *after = settled.next;
        if after.is_none() {
            break;
        }
    }
    gauge!(names::WAITING).set(store.count_waiting_classes().await? as f64);
    Ok(())
}
