//! One service's process, which never outlives the process that started it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, spawn};

const END_LIMIT: Duration = Duration::from_secs(180);

/// A service that can be stopped, killed and started again.
pub struct Part {
    name: &'static str,
    log: PathBuf,
    process: Option<Process>,
}

impl Part {
    pub fn new(name: &'static str, log: PathBuf) -> Self {
        Self { name, log, process: None }
    }

    /// Starts it; that it runs does not yet mean that it answers.
    pub fn start(&mut self, program: &Path, args: Vec<String>) -> Result<()> {
        anyhow::ensure!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(spawn(self.name, program, args, &self.log)?);
        Ok(())
    }

    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(END_LIMIT).await?;
        }
        Ok(())
    }

    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Whether it was stopped or killed, and not started again. One that ended by itself was not.
    pub fn is_stopped(&self) -> bool {
        self.process.is_none()
    }

    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub fn expect_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::expect_running)
    }

    /// Adds the end of the part's own log to a failure.
    pub fn with_log<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let tail = self.process.as_ref().map(Process::log_tail).unwrap_or_default();
            format!("{}; the end of {}:\n{tail}\n", self.name, self.log.display())
        })
    }
}
