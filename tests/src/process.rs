//! Agents and aggregators as processes: the real binaries, with a log file and a config file each.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` finds something, and says what was seen last when the limit is reached. A look that
/// does not come to its end is waited for no longer than that.
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
    let mut last_seen = "nothing: the first look has no end".to_owned();
    while let Ok(looked) = tokio::time::timeout_at(deadline, look()).await {
        match looked? {
            Ok(found) => return Ok(found),
            Err(seen) => last_seen = seen,
        }
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(every).await;
    }
    bail!("waited {} s for {what}; last seen: {last_seen}", limit.as_secs())
}

/// Runs a command to its end, and gives what it said; one that takes longer than the limit is killed.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    let id = child.id();
    let (ended, end) = channel();
    // Both pipes have to be read while it runs, and the end waited for: neither has a limit of its own.
    thread::spawn(move || ended.send(child.wait_with_output()));
    if let Ok(output) = end.recv_timeout(limit) {
        return output.with_context(|| format!("wait for {name}"));
    }
    send_signal("KILL", id, &name)?;
    bail!("{name} was not at its end after {} s", limit.as_secs())
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
    /// Whether a test has ended it, or asked it to end.
    is_told_to_end: bool,
}

impl Process {
    /// Starts a program of Picket's with its output in `log`, appended. It never outlives this process.
    pub fn start(name: &str, args: &[&str], log: &Path) -> Result<Self> {
        Self::start_with(name, args, &[], log)
    }

    /// The same, with more in its environment.
    pub fn start_with(
        name: &str,
        args: &[&str],
        env: &[(&str, &Path)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = tied(&program(name)?);
        command.args(args).envs(env.iter().copied());
        start_tied(name, command, log)
    }

    pub(crate) fn start_command(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().with_context(|| format!("log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A group of its own: Ctrl-C in a terminal reaches the demo alone, which then ends its parts
        // in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), is_told_to_end: false })
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

    /// Whether a test has ended it, or asked it to end.
    pub fn is_told_to_end(&self) -> bool {
        self.is_told_to_end
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
        self.is_told_to_end = true;
        self.signal("TERM")?;
        self.ended(limit).await
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.is_told_to_end = true;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) -> Result<()> {
        send_signal(signal, self.child.id(), &self.name)
    }
}

fn send_signal(signal: &str, id: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status()?;
    if !status.success() {
        bail!("cannot send SIG{signal} to {name}");
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts any program in the same way.
pub(crate) fn spawn(name: &str, program: &Path, args: Vec<String>, log: &Path) -> Result<Process> {
    let mut command = tied(program);
    command.args(args);
    start_tied(name, command, log)
}

/// A command for a program that gets SIGKILL when this process ends, however it ends.
///
/// The asking is done by `setpriv`, because doing it between fork and exec here would need unsafe code.
fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

type Request = (String, Command, PathBuf, Sender<Result<Process>>);

/// The kernel sends the signal when the *thread* ends that made the child. Threads of tests and of
/// runtimes come and go, so all children are made by one thread that lives as long as the process.
fn start_tied(name: &str, command: Command, log: &Path) -> Result<Process> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver): (Sender<Request>, Receiver<Request>) = channel();
        thread::spawn(move || {
            for (name, mut command, log, answer) in receiver {
                // The asker waits for the answer; if it is gone, the process is dropped, so ended.
                let _ = answer.send(Process::start_command(&name, &mut command, &log));
            }
        });
        sender
    });
    let (answer, answered) = channel();
    let request = (name.to_owned(), command, log.to_owned(), answer);
    spawner.send(request).context("ask the spawning thread")?;
    answered.recv().context("wait for the spawning thread")?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is a failed test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_without_an_end_is_waited_for_no_longer_than_the_limit() {
        let never =
            async || std::future::pending::<Result<std::result::Result<(), String>>>().await;
        let error = until("nothing", Duration::from_millis(50), never).await.unwrap_err();
        assert!(error.to_string().contains("the first look has no end"), "{error}");
    }

    #[test]
    fn a_command_without_an_end_is_killed_at_the_limit_and_another_gives_what_it_said() {
        let mut endless = Command::new("sh");
        endless.args(["-c", "exec tail -f /dev/null"]);
        let error = output_within(&mut endless, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("not at its end"), "{error}");
        let said =
            output_within(Command::new("echo").arg("well"), Duration::from_secs(60)).unwrap();
        assert_eq!(said.stdout, b"well\n");
    }
}
