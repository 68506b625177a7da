//! Noticing that a broker is of another cluster than those before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Under what librdkafka logs it.
const FACILITY: &str = "CLUSTERID";

/// Whether such a broker was met. Its clones are one.
#[derive(Debug, Clone, Default)]
pub struct OtherCluster(Arc<AtomicBool>);

impl OtherCluster {
    /// Takes note of what the client logs. There is no other way to hear of it, and the client goes on
    /// as if nothing had happened.
    pub fn hear(&self, facility: &str) {
        if facility == FACILITY {
            self.0.store(true, Ordering::Release);
        }
    }

    /// Whether such a broker was met.
    pub fn is_met(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_of_another_cluster_is_told_from_whatever_else_librdkafka_says() {
        let asked = OtherCluster::default();
        let heard = asked.clone();
        heard.hear("FAIL");
        assert!(!asked.is_met());
        heard.hear("CLUSTERID");
        assert!(asked.is_met());
    }
}
