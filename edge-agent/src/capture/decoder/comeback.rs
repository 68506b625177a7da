//! The way back to a better decoder, while another stands in for it.

use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};

use super::Decoders;
use super::probe::{self, Probe};

/// Probes a better decoder when its time has come, beside the one that works: the camera is only
/// interrupted when the better one has decoded a sample.
pub(in crate::capture) struct Comeback {
    decoders: Arc<Decoders>,
    probing: Option<(String, Receiver<Probe>)>,
}

impl Comeback {
    /// For one camera's decoders.
    pub fn new(decoders: Arc<Decoders>) -> Self {
        Self { decoders, probing: None }
    }

    /// The better decoder, once it can take over from the one in use.
    pub fn look(&mut self, in_use: &str) -> Option<String> {
        let Some((element, answer)) = &self.probing else {
            let (element, codec) = self.decoders.due(in_use)?;
            let answer = probe::anew(&element, codec);
            self.probing = Some((element, answer));
            return None;
        };
        let probe = match answer.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Ok(probe) => probe,
            Err(TryRecvError::Disconnected) => Probe::Hangs,
        };
        let element = element.clone();
        self.probing = None;
        tracing::info!(target: "capture", element, %probe, "a decoder that failed was tried again");
        self.decoders.probed_again(&element, &probe).then_some(element)
    }
}
