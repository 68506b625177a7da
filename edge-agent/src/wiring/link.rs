//! The uplink, or why there is none: on another device's board nothing is published.

use std::time::{Duration, Instant};

use picket_service::logging::chain;
use picket_service::machine::Machine;
use picket_wire::message::Outgoing;
use picket_wire::status::LinkStatus;

use crate::config::Settings;
use crate::identity::{self, Identity, Verdict};
use crate::spool::SpoolHandle;
use crate::uplink::{Drained, Uplink, UplinkError, UplinkHandle};

/// How often it is looked whether a person has mended the identity.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The way to the broker.
pub(super) enum Link {
    Open(UplinkHandle),
    Held { problem: String, looked: Instant },
}

impl Link {
    /// Open, if the state directory is this board's.
    pub fn new(settings: &Settings, spool: &SpoolHandle) -> anyhow::Result<Self> {
        match problem_of(settings) {
            None => {
                metrics::gauge!("picket_agent_identity_foreign").set(0.0);
                Ok(Self::Open(Uplink::spawn(&settings.uplink, &settings.device, spool.reader()?)?))
            }
            Some(problem) => {
                tracing::error!("{problem}");
                metrics::gauge!("picket_agent_identity_foreign").set(1.0);
                Ok(Self::Held { problem, looked: Instant::now() })
            }
        }
    }

    /// Opens it when a person has said that the state directory is this board's.
    pub fn look(&mut self, settings: &Settings, spool: &SpoolHandle) {
        let Self::Held { looked, .. } = self else { return };
        if looked.elapsed() < LOOK_AGAIN {
            return;
        }
        *looked = Instant::now();
        if problem_of(settings).is_some() {
            return;
        }
        match Self::new(settings, spool) {
            Ok(link) => {
                tracing::info!("the identity was mended: what was kept is published from now on");
                *self = link;
            }
            Err(error) => tracing::error!("the uplink cannot be started: {error:#}"),
        }
    }

    /// The uplink, or why there is none.
    pub fn uplink(&self) -> Result<&UplinkHandle, String> {
        match self {
            Self::Open(uplink) => Ok(uplink),
            Self::Held { problem, .. } => Err(problem.clone()),
        }
    }

    /// Why it is held.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Open(_) => None,
            Self::Held { problem, .. } => Some(problem),
        }
    }

    pub fn status(&self) -> LinkStatus {
        match self {
            Self::Open(uplink) => uplink.status(),
            Self::Held { problem, .. } => LinkStatus {
                up: false,
                problem: Some(problem.clone()),
                certificate_days_left: None,
            },
        }
    }

    /// A count that stands still when it is stuck; `None` where nothing turns.
    pub fn turns(&self) -> Option<u64> {
        match self {
            Self::Open(uplink) => Some(uplink.turns()),
            Self::Held { .. } => None,
        }
    }

    pub fn send_status(&self, message: Outgoing) {
        if let Self::Open(uplink) = self {
            uplink.send_status(message);
        }
    }

    /// `None` if there was nothing to drain into.
    pub fn drain(&self, limit: Duration) -> Result<Option<Drained>, UplinkError> {
        match self {
            Self::Open(uplink) => uplink.drain(limit).map(Some),
            Self::Held { .. } => Ok(None),
        }
    }
}

/// Why nothing may be published, if so.
fn problem_of(settings: &Settings) -> Option<String> {
    let here = Identity::of(&Machine::this(), &settings.device);
    match identity::claim(&settings.state_dir, &here) {
        Ok(Verdict::Own) => None,
        Ok(Verdict::Bound) => {
            tracing::info!("the state directory is bound to this board ({})", here.text());
            None
        }
        Ok(Verdict::Unbound) => {
            tracing::warn!(
                "this board shows neither a serial number nor a network card of its own: a copy of \
                 it cannot be told from it"
            );
            None
        }
        // Early in a boot the network cards' drivers may not be there yet.
        Ok(Verdict::Untold { bound_to }) => Some(format!(
            "{} is bound to a board with {bound_to}, and this one shows {}: nothing is published \
             until they can be compared. If it stays so and this is the same device: \
             `picket-edge-agent reset-identity --same-device`",
            settings.state_dir.display(),
            here.text()
        )),
        Ok(Verdict::Foreign { problem }) => Some(problem),
        Err(error) => Some(format!(
            "whose state directory this is cannot be told: {}; if it stays so, `picket-edge-agent \
             reset-identity --same-device` makes it this board's",
            chain(&error)
        )),
    }
}
