//! The agent's side of the socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Call, MAX_LINE_BYTES, Reply, TO_ASK, socket};

/// Conversations at a time.
const CONVERSATIONS: usize = 8;

/// Where requests come out.
pub type Inbox = mpsc::Receiver<Call>;

/// The open socket; removed when it is let go.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Opens the socket. Only for whoever holds the state directory's lock: what an agent before
    /// left behind is removed.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Inbox)> {
        let path = socket(state_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (calls, inbox) = mpsc::channel(CONVERSATIONS);
        let task = tokio::spawn(listen(listener, calls));
        Ok((Self { path, task }, inbox))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // A socket left behind is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn listen(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let seats = Arc::new(Semaphore::new(CONVERSATIONS));
    loop {
        // The semaphore is never closed.
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(target: "control", %error, "a conversation could not be taken");
                tokio::time::sleep(TO_ASK).await;
                continue;
            }
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &calls).await {
                tracing::debug!(target: "control", %error, "a conversation broke off");
            }
            drop(seat);
        });
    }
}

async fn converse(stream: UnixStream, calls: &mpsc::Sender<Call>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    let mut from = BufReader::new(from.take(MAX_LINE_BYTES));
    let asked = tokio::time::timeout(TO_ASK, from.read_line(&mut line)).await;
    asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // Whoever waits for an answer says nothing, and leaves the line open.
    let gone = async { while matches!(from.read(&mut [0; 64]).await, Ok(1..)) {} };
    let reply = tokio::select! {
        biased;
        reply = answered(&line, uid, calls) => reply,
        () = gone => return Ok(()),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    to.write_all(&text).await
}

async fn answered(line: &str, uid: u32, calls: &mpsc::Sender<Call>) -> Reply {
    let request = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(error) => {
            return Reply::Error(format!("this agent does not know the command: {error}"));
        }
    };
    tracing::info!(target: "control", uid, ?request, "asked by user {uid}: {request:?}");
    let (reply, answer) = oneshot::channel();
    let ending = || Reply::Error("the agent is ending".to_owned());
    if calls.send(Call { request, reply }).await.is_err() {
        return ending();
    }
    answer.await.unwrap_or_else(|_| ending())
}
