//! Looks, for as long as the program runs, for the observations of what waits for them.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use mongodb::bson::DateTime;

use super::metrics as names;
use super::worker::Retries;
use crate::metrics::UNREADABLE;
use crate::store::documents::collection;
use crate::store::{Store, StoreError};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(2);
/// Looked for at a time.
const PAGE: usize = 500;
/// Pages of one round; the next one goes on behind them. It bounds what a store in which a million wait
/// is asked: they are some documents a second.
const PAGES: usize = 10;
/// How soon it is said again that some cannot be read: they are met in every round.
const SAY_AGAIN: Duration = Duration::from_secs(10 * 60);

/// Works until it is dropped; ends only with an error that no repetition cures.
pub async fn settle(store: Store) -> Result<std::convert::Infallible, StoreError> {
    let mut settler = Settler { store, after: None, said: None };
    let mut retries = Retries::new("settle");
    loop {
        match settler.round().await {
            Ok(()) => retries = Retries::new("settle"),
            Err(e) => retries.absorb(e).await?,
        }
        tokio::time::sleep(EVERY).await;
    }
}

struct Settler {
    store: Store,
    after: Option<String>,
    /// When it was said that some cannot be read.
    said: Option<Instant>,
}

impl Settler {
    async fn round(&mut self) -> Result<(), StoreError> {
        for _ in 0..PAGES {
            let now = DateTime::now();
            let settled = self.store.settle_classes(self.after.as_deref(), PAGE, now).await?;
            counter!(names::SETTLED).increment(settled.stored);
            counter!(names::GIVEN_UP, "reason" => "no-observation").increment(settled.given_up);
            if let Some(first) = settled.first_given_up {
                let given_up = settled.given_up;
                tracing::warn!(
                    given_up,
                    "labels were given up without an observation, such as of {first}"
                );
            }
            if let Some(first) = settled.first_unreadable {
                self.pass_over(settled.unreadable, &first);
            }
            self.after = settled.next;
            if self.after.is_none() {
                break;
            }
        }
        gauge!(names::WAITING).set(self.store.count_waiting_classes().await? as f64);
        Ok(())
    }

    fn pass_over(&mut self, unreadable: u64, first: &str) {
        counter!(UNREADABLE, "collection" => collection::UNCLAIMED_CLASSES).increment(unreadable);
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(unreadable, "labels that wait are passed over: {first}");
        }
    }
}
