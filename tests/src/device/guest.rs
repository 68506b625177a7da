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

use crate::process::until_every;

/// The agent answers each request at once, also when a command takes long; software emulation on a
/// busy host is slow.
const ANSWER: Duration = Duration::from_secs(60);
/// How long an agent that has just started may take for the first answer, before it is asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
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
    /// Connects, and waits until the agent answers: then the machine has booted far enough.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let socket: PathBuf = socket.to_owned();
        let stream = until_every("the virtual machine's port", limit, LOOK_EVERY, async || {
            Ok(UnixStream::connect(&socket).await.map_err(|error| error.to_string()))
        })
        .await?;
        let mut guest = Self { connection: BufReader::new(stream), asked: 0 };
        loop {
            match guest.sync().await {
                Ok(()) => return Ok(guest),
                Err(error) => ensure!(
                    Instant::now() < deadline,
                    "the guest agent did not answer within {} s: {error:#}",
                    limit.as_secs()
                ),
            }
        }
    }

    /// Answers to questions of before are read over: each carries a number of its own.
    async fn sync(&mut self) -> Result<()> {
        self.asked += 1;
        let id = self.asked;
        self.send("guest-sync", json!({ "id": id })).await?;
        timeout(FIRST_ANSWER, async {
            while self.receive().await?.as_u64() != Some(id) {}
            Ok(())
        })
        .await
        .context("no answer yet")?
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
        let mut line = String::new();
        let read =
            self.connection.read_line(&mut line).await.context("the guest agent's answer")?;
        ensure!(read > 0, "the virtual machine has ended");
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("the guest agent said {line:?}"))?;
        match answer.get("error") {
            Some(error) => bail!("the guest agent refused: {error}"),
            None => Ok(answer["return"].clone()),
        }
    }
}

fn text(encoded: &Value) -> Result<String> {
    let bytes = BASE64.decode(encoded.as_str().unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
