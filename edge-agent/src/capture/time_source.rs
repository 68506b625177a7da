//! Whether a time source keeps the wall clock.
//!
//! The kernel knows, and says so to whoever may ask. The sandbox of the service forbids everything
//! about clocks, the question included: then systemd is asked over D-Bus, which may ask the kernel.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// How often systemd is asked while no time source keeps the clock, and while one does: a kernel gives
/// it up only hours after it was corrected last.
const ASK_UNKEPT: Duration = Duration::from_secs(15);
const ASK_KEPT: Duration = Duration::from_secs(300);
/// How long the start waits for the first answer, so that a clock that is kept is marked so from the
/// first frame on. Without a D-Bus, systemd's client itself gives up much later.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The answer of now. One thread looks after it for the whole process.
#[derive(Debug, Clone)]
pub struct TimeSource {
    by_systemd: Arc<AtomicBool>,
}

impl TimeSource {
    /// Starts to look after it.
    pub fn watch() -> Self {
        static WATCHED: OnceLock<TimeSource> = OnceLock::new();
        WATCHED.get_or_init(Self::start).clone()
    }

    fn start() -> Self {
        let source = Self { by_systemd: Arc::default() };
        let (first, answered) = channel();
        let watched = source.clone();
        let thread = thread::Builder::new().name("time-source".to_owned());
        match thread.spawn(move || watched.look_after(&first)) {
            Ok(_) => match answered.recv_timeout(FIRST_ANSWER) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => {
                    tracing::info!(target: "capture", "systemd does not say yet whether a time source keeps the clock");
                }
            },
            Err(error) => {
                tracing::warn!(target: "capture", %error, "nobody looks after the time source");
            }
        }
        source
    }

    /// Whether one keeps the clock.
    pub fn keeps_clock(&self) -> bool {
        // systemd-timesyncd's mark is asked too, since it outlives a kernel that reports an error
        // estimate past its limit.
        asked_of_kernel().unwrap_or_else(|| self.by_systemd.load(Ordering::Relaxed))
            || Path::new("/run/systemd/timesync/synchronized").exists()
    }

    /// Says when it changes.
    fn look_after(&self, first: &Sender<()>) {
        let mut said = None;
        loop {
            if asked_of_kernel().is_none() {
                self.by_systemd.store(asked_of_systemd().unwrap_or(false), Ordering::Relaxed);
            }
            let kept = self.keeps_clock();
            if said.replace(kept) != Some(kept) {
                match kept {
                    true => tracing::info!(target: "capture", "a time source keeps the clock"),
                    false => tracing::warn!(
                        target: "capture",
                        "no time source keeps the clock: times of capture are marked unsynchronised until one does"
                    ),
                }
            }
            // Nobody listens after the first time.
            let _ = first.send(());
            // Nobody wakes it: it only waits.
            thread::park_timeout(if kept { ASK_KEPT } else { ASK_UNKEPT });
        }
    }
}

/// `None` if it may not be asked.
fn asked_of_kernel() -> Option<bool> {
    // SAFETY: all fields of `timex` are integers, for which zero is valid; `modes` zero only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is a valid place for the call to write to, and the call keeps no pointer to it.
    let result = unsafe { libc::adjtimex(&mut state) };
    (result >= 0).then_some(state.status & libc::STA_UNSYNC == 0)
}

/// By systemd's own client: a D-Bus library for one question every few minutes would be more code
/// than all of this stage.
fn asked_of_systemd() -> Option<bool> {
    let answer = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    understood(&answer.stdout)
}

fn understood(answer: &[u8]) -> Option<bool> {
    match answer.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_neither_yes_nor_no_is_none() {
        assert_eq!(understood(b"yes\n"), Some(true));
        assert_eq!(understood(b"no\n"), Some(false));
        assert_eq!(understood(b""), None);
        assert_eq!(understood(b"Failed to query server"), None);
    }
}
