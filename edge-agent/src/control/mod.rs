//! # Control: commands for the running agent
//!
//! **In**: a line of JSON on the unix socket `control` in the state directory, from a command of
//! this program ([`ask`]). **Out**: a [`Call`] for [`wiring`](crate::wiring), which does it and
//! answers; the answer goes back as a line of JSON.
//!
//! To add a command: a variant of [`Request`] with what it needs, a branch in `Agent::obey` in
//! `wiring/`, and a command of `main` that calls [`ask`] with the type of the answer. A command that
//! takes long (a look at a camera) takes the call with it to a task of its own and answers from
//! there, so that the others, and the agent's own heartbeat, go on.
//!
//! **Promises**
//! - The user that the agent runs as may command, and root: nobody else may open the socket (mode
//!   0600), nor enter the state directory of the service (0700). The user id of whoever asks is in the
//!   log.
//! - An agent that cannot open its socket captures all the same, and says so.
//! - Whoever hangs up wants no answer: the [`Call`] can tell, and what takes long ends with it.
//!
//! **Limits**: a request of 64 KiB, an answer of 2 MiB, 8 conversations at a time (a look
//! is one), 5 s to ask.

mod client;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_wire::CameraName;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::spool::RowId;

pub use client::{ControlError, ask};
pub use server::{Control, Inbox};

/// Longest request.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Longest answer: there may be a picture in it.
const MAX_ANSWER_BYTES: u64 = 2 * 1024 * 1024;
/// How long somebody may take to say what is wanted.
const TO_ASK: Duration = Duration::from_secs(5);

/// What can be asked of the running agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Capture nothing from a camera. Answer: [`Done`].
    Pause {
        /// Which.
        camera: CameraName,
        /// For so many seconds; until `resume` if unset.
        for_s: Option<u64>,
    },
    /// Capture from a camera again. Answer: [`Done`].
    Resume {
        /// Which.
        camera: CameraName,
    },
    /// Read the config again. Answer: [`Done`].
    Reload,
    /// Cut the link for a while, restore it, and see what was kept sent. Answer:
    /// [`Report`](crate::drill::Report).
    Drill {
        /// For so many seconds.
        offline_s: u64,
    },
    /// Let no row of the spool that there is change any more. Answer: [`Sealed`].
    SealSpool,
    /// Look along a camera. Answer: [`Report`](crate::look::Report).
    Look {
        /// Which.
        camera: CameraName,
        /// For so many seconds.
        for_s: u64,
    },
}

/// An answer that is a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done.
    pub done: String,
}

/// Rows of the spool that may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Those below this number.
    pub below: RowId,
}

/// What goes back: the answer as JSON, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    Ok(serde_json::Value),
    Error(String),
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub request: Request,
    reply: oneshot::Sender<Reply>,
}

impl Call {
    /// Returns when whoever asked has gone.
    pub async fn gone(&mut self) {
        self.reply.closed().await;
    }

    /// Answers. Whoever asked may have gone, which is no matter.
    pub fn answer<T: Serialize>(self, answer: Result<T, String>) {
        let reply = match answer.map(|answer| serde_json::to_value(answer)) {
            Ok(Ok(value)) => Reply::Ok(value),
            Ok(Err(error)) => Reply::Error(format!("the answer cannot be written: {error}")),
            Err(problem) => Reply::Error(problem),
        };
        let _ = self.reply.send(reply);
    }
}

/// The socket of a state directory.
fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control")
}

#[cfg(test)]
mod tests;
