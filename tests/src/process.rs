//! Agents and aggregators as processes: the real binaries, with a log file and a config file each.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` finds something, and says what was seen last when the limit is reached.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    look: impl AsyncFnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    until_every(what, limit, LOOK_EVERY, look).await
}

/// The same for what is dear to look at.
pub async fn until_every<T>(
    what: &str,
    limit: Duration,
    every: Duration,
    mut look: impl AsyncFnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= deadline => {
                bail!("waited {} s for {what}; last seen: {seen}", limit.as_secs())
            }
            Err(_) => tokio::time::sleep(every).await,
        }
    }
}

/// The path of one of Picket's own programs, beside the running test or tool.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: run `make build` first"))
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program of Picket's with its output in `log`, appended.
    pub fn start(name: &str, args: &[&str], log: &Path) -> Result<Self> {
        Self::start_command(name, Command::new(program(name)?).args(args), log)
    }

    /// The same, with more in its environment.
    pub fn start_with(
        name: &str,
        args: &[&str],
        env: &[(&str, &Path)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(program(name)?);
        Self::start_command(name, command.args(args).envs(env.iter().copied()), log)
    }

    pub(crate) fn start_command(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().with_context(|| format!("log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A group of its own: Ctrl-C in a terminal reaches the demo alone, which then ends its parts
        // in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log, for a failure's message.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the log's end when it has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.exited()? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
            None => Ok(()),
        }
    }

    /// Waits for the end.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let found = until(&what, limit, async || {
            Ok(self.child.try_wait()?.ok_or_else(|| "still running".to_owned()))
        })
        .await;
        found.with_context(|| format!("log of {}:\n{}", self.name, self.log_tail()))
    }

    /// Asks for an orderly end, and waits for it.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.ended(limit).await
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.child.id().to_string())
            .status()?;
        if !status.success() {
            bail!("cannot send SIG{signal} to {}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
