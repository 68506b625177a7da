//! A producer, and the thread that takes its reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::producer::Reporter;

/// How long one wait for reports takes, and at most the thread's end. In the last millisecond of each
/// the binding turns without a pause: with the 100 ms of its own polling thread, two producers would
/// keep a core busy for two hundredths of all time.
const WAIT: Duration = Duration::from_millis(500);

/// A producer whose reports are taken as they come.
pub struct Polled {
    producer: Arc<BaseProducer<Reporter>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Polled {
    /// Makes both.
    pub fn new(config: &ClientConfig, reporter: Reporter) -> Result<Self, KafkaError> {
        let producer: BaseProducer<Reporter> = config.create_with_context(reporter)?;
        let (producer, over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, is_over) = (Arc::clone(&producer), Arc::clone(&over));
        let poll = move || {
            while !is_over.load(Ordering::Relaxed) {
                polled.poll(WAIT);
            }
        };
        let thread = thread::Builder::new()
            .name("reports".to_owned())
            .spawn(poll)
            .map_err(|error| KafkaError::ClientCreation(format!("no thread: {error}")))?;
        Ok(Self { producer, over, thread: Some(thread) })
    }

    /// The producer.
    pub fn producer(&self) -> &BaseProducer<Reporter> {
        &self.producer
    }

    /// Has the thread end, without waiting for it: whoever lets go of the producer does.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.end();
        // The library must be closed before the process ends, and by nobody but us.
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!(target: "uplink", "the thread that takes a producer's reports broke off");
        }
    }
}
