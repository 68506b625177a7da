//! Repeating a step that failed, ever more slowly, until it succeeds or cannot.

use std::time::Duration;

use metrics::counter;
use picket_service::logging::chain;

use super::error::PartitionError;
use crate::metrics::RETRIES;
use crate::remedy::Remedy;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Of a long outage, every this many failures are logged.
const LOGGED: u32 = 12;

/// The failures of one step in a row.
#[derive(Debug)]
pub struct Backoff<'a> {
    partition: &'a str,
    failures: u32,
}

impl<'a> Backoff<'a> {
    /// No failure yet.
    pub fn new(partition: &'a str) -> Self {
        Self { partition, failures: 0 }
    }

    /// Waits before the step is tried again, or gives the error back if that is no use.
    pub async fn absorb(&mut self, error: PartitionError) -> Result<(), PartitionError> {
        if error.remedy() != Remedy::Retry {
            return Err(error);
        }
        counter!(RETRIES, "step" => error.step()).increment(1);
        if self.failures.is_multiple_of(LOGGED) {
            tracing::warn!(
                partition = self.partition,
                failures = self.failures + 1,
                "{}: repeated until it succeeds; reading waits",
                chain(&error)
            );
        }
        tokio::time::sleep(delay(self.failures)).await;
        self.failures += 1;
        Ok(())
    }
}

fn delay(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        assert_eq!(delay(0), FIRST);
        assert_eq!(delay(1), 2 * FIRST);
        assert_eq!(delay(60), LONGEST);
    }
}
