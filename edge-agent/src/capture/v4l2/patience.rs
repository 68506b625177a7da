//! Asking a device whose driver may never answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::plug::Plug;

/// The devices that are being asked, and since when: what hangs in a driver keeps its thread.
static ASKED: Mutex<Vec<(Plug, Instant)>> = Mutex::new(Vec::new());

/// A question that runs, until it was answered.
struct Asking(Plug, Instant);

impl Asking {
    fn begin(plug: Plug) -> Self {
        let since = Instant::now();
        lock().push((plug.clone(), since));
        Self(plug, since)
    }

    fn hangs(plug: &Plug, limit: Duration) -> bool {
        lock().iter().any(|(asked, since)| asked == plug && since.elapsed() >= limit)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asked = lock();
        // Two that began at the same moment are as good as each other.
        if let Some(at) = asked.iter().position(|(plug, at)| (plug, at) == (&self.0, &self.1)) {
            asked.swap_remove(at);
        }
    }
}

fn lock() -> MutexGuard<'static, Vec<(Plug, Instant)>> {
    // Nothing panics while it is held.
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer of one plugged in device, if it comes in time. A question that was not answered keeps a
/// thread until it is; while one does, the device is not asked again.
pub fn ask<T: Send + 'static>(
    plug: &Plug,
    limit: Duration,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if Asking::hangs(plug, limit) {
        return None;
    }
    let (tell, answer) = bounded(1);
    let asking = Asking::begin(plug.clone());
    let asked = thread::Builder::new().name("v4l2-ask".to_owned()).spawn(move || {
        let answer = question();
        drop(asking);
        // Nobody listens any more after the limit.
        let _ = tell.send(answer);
    });
    asked.ok()?;
    answer.recv_timeout(limit).ok()
}
