//! Commands in the virtual machine, through QEMU's guest agent: it answers over a port of the machine's
//! own, so with no network, no login and no prompt to wait for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::process::{Process, until_every};

/// The agent answers each request at once, also when a command takes long; software emulation on a
/// busy host is slow.
const ANSWER: Duration = Duration::from_secs(60);
/// How long an agent that has just started may take for the first answer, before it is asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long QEMU may take to end after it has closed the port.
const QEMU_ENDS: Duration = Duration::from_secs(10);
/// How often it is asked whether a command has ended: each question costs the machine time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a command gave.
#[derive(Debug)]
pub struct Output {
    /// Exit status; 128 and more for a signal, as in a shell.
    pub code: i64,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The connection to the guest agent of one boot.
pub struct Guest {
    connection: BufReader<UnixStream>,
    asked: u64,
}

impl Guest {
    /// Connects, and waits until the agent answers: then the machine has booted far enough. A QEMU that
    /// ends is not waited for; what it said is in the error.
    pub async fn connect(qemu: &mut Process, socket: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let socket: PathBuf = socket.to_owned();
        let stream = until_every("the virtual machine's port", limit, LOOK_EVERY, async || {
            qemu.expect_running()?;
            Ok(UnixStream::connect(&socket).await.map_err(|error| error.to_string()))
        })
        .await?;
        let mut guest = Self { connection: BufReader::new(stream), asked: 0 };
        guest.wait(qemu, deadline).await?;
        Ok(guest)
    }

    async fn wait(&mut self, qemu: &mut Process, deadline: Instant) -> Result<()> {
        loop {
            match self.sync().await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    ensure!(Instant::now() < deadline, "the guest agent did not answer in time")
                }
                // The port closes a moment before QEMU has ended.
                Err(error) => {
                    let ended = qemu.ended(QEMU_ENDS).await;
                    return Err(error.context(match ended {
                        Ok(status) => format!("QEMU ended with {status}:\n{}", qemu.log_tail()),
                        Err(still_there) => format!("{still_there:#}"),
                    }));
                }
            }
        }
    }

    /// Whether the agent answers already. What it says to questions of before, or refuses, is read
    /// over: each answer carries a number of its own.
    async fn sync(&mut self) -> Result<bool> {
        self.asked += 1;
        let id = self.asked;
        self.send("guest-sync", json!({ "id": id })).await?;
        let answered = timeout(FIRST_ANSWER, async {
            loop {
                // Half a line, where the wait before was given up, is none.
                let answer: Value = serde_json::from_str(&self.line().await?).unwrap_or_default();
                if answer["return"].as_u64() == Some(id) {
                    return Ok(());
                }
            }
        });
        match answered.await {
            Ok(heard) => heard.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Runs a shell script as root; its end is waited for.
    pub async fn run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let arguments = json!({ "path": "/bin/sh", "arg": ["-c", script], "capture-output": true });
        let started = self.ask("guest-exec", arguments).await?;
        let pid = started["pid"].as_i64().with_context(|| format!("no process in {started}"))?;
        let what = format!("the end of {script:?}");
        let ended = until_every(&what, limit, LOOK_EVERY, async || {
            let status = self.ask("guest-exec-status", json!({ "pid": pid })).await?;
            let exited = status["exited"].as_bool() == Some(true);
            Ok(if exited { Ok(status) } else { Err("still running".to_owned()) })
        })
        .await?;
        let code = ended["exitcode"].as_i64();
        let code = code.or_else(|| ended["signal"].as_i64().map(|signal| 128 + signal));
        Ok(Output {
            code: code.with_context(|| format!("no exit status in {ended}"))?,
            out: text(&ended["out-data"])?,
            err: text(&ended["err-data"])?,
        })
    }

    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments).await?;
        timeout(ANSWER, self.receive()).await.with_context(|| format!("{command}: no answer"))?
    }

    async fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        let line = format!("{request}\n");
        self.connection.write_all(line.as_bytes()).await.context("the virtual machine has ended")
    }

    async fn receive(&mut self) -> Result<Value> {
        let line = self.line().await?;
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("the guest agent said {line:?}"))?;
        match answer.get("error") {
            Some(error) => bail!("the guest agent refused: {error}"),
            None => Ok(answer["return"].clone()),
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read =
            self.connection.read_line(&mut line).await.context("the guest agent's answer")?;
        ensure!(read > 0, "the virtual machine has ended");
        Ok(line)
    }
}

fn text(encoded: &Value) -> Result<String> {
    let bytes = BASE64.decode(encoded.as_str().unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is a failed test")]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_qemu_that_ends_is_not_waited_for_and_its_own_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let port = tokio::net::UnixListener::bind(&socket).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'Could not allocate memory'; exit 1"]);
        let mut qemu =
            Process::start_command("QEMU", &mut command, &dir.path().join("qemu.log")).unwrap();
        // It took the connection, and dies before the guest says anything.
        let dies = async { drop(port.accept().await.unwrap()) };
        let connecting = async {
            let stream = UnixStream::connect(&socket).await.unwrap();
            let mut guest = Guest { connection: BufReader::new(stream), asked: 0 };
            guest.wait(&mut qemu, Instant::now() + Duration::from_secs(30)).await
        };
        let (_, told) = tokio::join!(dies, connecting);
        let told = format!("{:#}", told.unwrap_err());
        assert!(told.contains("Could not allocate memory"), "{told}");
        assert!(told.contains("exit status: 1"), "{told}");
    }
}
