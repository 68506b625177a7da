//! Shutdown: one signal asks for an orderly end, a second one ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells every part of a program that it is time to end.
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { asked: watch::Sender::new(false) }
    }
}

impl Shutdown {
    /// Asks for the end.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Whether the end was asked for.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Returns when the end is asked for.
    pub async fn asked(&self) {
        let mut receiver = self.asked.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|asked| *asked).await;
    }

    /// Asks for the end when SIGTERM or SIGINT arrives. A second signal ends the process at once:
    /// whoever sends two does not want to wait for a drain.
    pub fn listen_to_signals(&self) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if shutdown.is_asked() {
                    tracing::warn!(
                        "second signal: ending at once, what is in memory is not drained"
                    );
                    std::process::exit(130);
                }
                tracing::info!("asked to end");
                shutdown.ask();
            }
        });
        Ok(())
    }
}
