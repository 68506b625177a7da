//! The side of a command.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{MAX_ANSWER_BYTES, Reply, Request, socket};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no agent runs that listens at {}: start it, with `sudo systemctl start picket-edge-agent` for instance", path.display())]
    NotRunning {
        /// Its socket.
        path: PathBuf,
    },
    /// It may not be asked.
    #[error(
        "this user may not command the agent: run it as root or as the agent's user, with sudo"
    )]
    Forbidden(#[source] io::Error),
    /// The conversation broke off.
    #[error("cannot {step} the agent at {}", path.display())]
    Talk {
        /// Which step.
        step: &'static str,
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is not what was expected.
    #[error("the agent's answer cannot be read: is it of another version?")]
    Answer(#[source] serde_json::Error),
    /// It will not.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent that runs with this state directory, and waits at most `limit` for its answer.
pub fn ask<T: DeserializeOwned>(
    state_dir: &Path,
    request: &Request,
    limit: Duration,
) -> Result<T, ControlError> {
    let path = socket(state_dir);
    let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { path: path.clone() }
        }
        io::ErrorKind::PermissionDenied => ControlError::Forbidden(source),
        _ => ControlError::Talk { step: "reach", path: path.clone(), source },
    })?;
    let line = talk(&stream, request, limit).map_err(|(step, source)| ControlError::Talk {
        step,
        path,
        source,
    })?;
    match serde_json::from_str(&line).map_err(ControlError::Answer)? {
        Reply::Ok(value) => serde_json::from_value(value).map_err(ControlError::Answer),
        Reply::Error(problem) => Err(ControlError::Refused(problem)),
    }
}

fn talk(
    mut stream: &UnixStream,
    request: &Request,
    limit: Duration,
) -> Result<String, (&'static str, io::Error)> {
    let ask = |error| ("ask", error);
    stream.set_read_timeout(Some(limit)).map_err(ask)?;
    stream.set_write_timeout(Some(limit)).map_err(ask)?;
    let mut text = serde_json::to_vec(request).map_err(|error| ask(error.into()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(ask)?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line);
    match read.map_err(|error| ("hear from", error))? {
        0 => Err(("hear from", io::Error::other("it ended before it answered"))),
        _ => Ok(line),
    }
}
