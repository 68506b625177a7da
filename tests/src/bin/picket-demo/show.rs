//! What is shown while the demo runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use mongodb::bson::Document;
use picket_service::shutdown::Shutdown;
use picket_tests::fleet::{Agent, Fleet};
use picket_tests::process::Process;

/// How often progress is shown.
const EVERY: Duration = Duration::from_secs(2);

/// Whether the demo goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It does.
    GoOn,
    /// The user ended it, or the agent has read everything.
    End,
}

/// The parts that run, and the clock of the lines.
pub struct Show {
    pub fleet: Fleet,
    pub agent: Agent,
    pub process: Process,
    pub shutdown: Shutdown,
    pub clock: Clock,
}

/// Puts the time since the agent began before each line.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn say(self, words: &str) {
        println!("demo: {:>4} s  {words}", self.0.elapsed().as_secs());
    }
}

impl Show {
    pub fn new(fleet: Fleet, agent: Agent, process: Process, shutdown: Shutdown) -> Self {
        Self { fleet, agent, process, shutdown, clock: Clock(Instant::now()) }
    }

    /// Shows progress until the time is over, the user ends it, or the agent has read everything.
    pub async fn watch(&mut self, limit: Option<Duration>) -> Result<Next> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.shutdown.asked() => return Ok(Next::End),
            }
            if self.has_read_everything()? {
                println!("demo: the agent has read everything and ended");
                return Ok(Next::End);
            }
            self.expect_running()?;
            self.clock.say(&self.progress().await?);
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Next::GoOn);
            }
        }
    }

    pub fn expect_running(&mut self) -> Result<()> {
        self.process.expect_running()?;
        self.fleet.aggregator.expect_running()?;
        self.fleet.stack.expect_running()
    }

    pub fn has_read_everything(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_some_and(|status| status.success()))
    }

    async fn progress(&self) -> Result<String> {
        let count = async |name: &str| {
            self.fleet.database.collection::<Document>(name).estimated_document_count().await
        };
        let (observations, frames, tracks) =
            tokio::try_join!(count("observations"), count("frames"), count("tracks"))?;
        Ok(format!("stored so far: {observations} records, {frames} pictures, {tracks} tracks"))
    }
}
