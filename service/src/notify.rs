//! The service manager: ready, stopping, still alive. Without one, nothing happens.

use sd_notify::NotifyState;

/// Says that the service works; `status` is shown by `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Changes what `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// Says that the service reads its config again; [`ready`] says that it is done.
pub fn reloading() {
    // Only a service of type `notify-reload` needs the time, and is not ours.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Says that the service is ending.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Says that the service makes progress.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot reach the service manager");
    }
}
