//! One service's process, which never outlives the process that started it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;

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

type Request = (&'static str, Command, PathBuf, Sender<Result<Process>>);

/// Starts a program that gets SIGKILL when this process ends, however it ends.
///
/// The kernel sends that signal when the *thread* ends that made the child. Threads of tests and of
/// runtimes come and go, so all children are made by one thread that lives as long as the process. The
/// asking is done by `setpriv`, because doing it between fork and exec here would need unsafe code.
pub fn spawn(name: &'static str, program: &Path, args: Vec<String>, log: &Path) -> Result<Process> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver): (Sender<Request>, Receiver<Request>) = channel();
        thread::spawn(move || {
            for (name, mut command, log, answer) in receiver {
                // The asker waits for the answer; if it is gone, the process is dropped, so ended.
                let _ = answer.send(Process::start_command(name, &mut command, &log));
            }
        });
        sender
    });
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
    let (answer, answered) = channel();
    spawner.send((name, command, log.to_owned(), answer)).context("ask the spawning thread")?;
    answered.recv().context("wait for the spawning thread")?
}
