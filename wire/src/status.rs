//! The heartbeat of a device. Not spooled: only the newest is sent, and nothing in it is needed
//! later, so it may be lost without a trace.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::EpochId;
use crate::name::{CameraName, DeviceName};
use crate::observation::{Reason, Stamp};

/// The heartbeat's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Which device.
    pub device: DeviceName,
    /// Which start of its agent.
    pub epoch: EpochId,
    /// When the status was taken.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Version of the agent.
    pub agent_version: String,
    /// SHA-256 of the config in use, hex.
    pub config_sha256: String,
    /// Why the config on disk was refused when it was last read again; the one before stays in use.
    #[serde(default)]
    pub config_problem: Option<String>,
    /// The model in use.
    pub model: Option<ModelStatus>,
    /// Seconds since the agent's start.
    pub uptime_s: u64,
    /// The way to the broker.
    pub link: LinkStatus,
    /// What is kept on disk.
    pub spool: SpoolStatus,
    /// By camera name.
    pub cameras: BTreeMap<CameraName, CameraStatus>,
    /// Hottest sensor, degrees Celsius, where the system tells.
    pub temperature_c: Option<f32>,
    /// Free space beside the spool, bytes, where the system tells.
    pub disk_free_bytes: Option<u64>,
}

/// The model that finds things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelStatus {
    /// Name in the manifest.
    pub name: String,
    /// SHA-256 of its file, hex.
    pub sha256: String,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
}

/// The way to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// Whether records are being acknowledged.
    pub up: bool,
    /// What is wrong, when it is not up.
    pub problem: Option<String>,
    /// Days until the device's certificate expires.
    pub certificate_days_left: Option<i64>,
}

/// What is kept on disk until the broker has acknowledged it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpoolStatus {
    /// Records waiting.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes it may hold.
    pub cap_bytes: u64,
    /// Age of the oldest record, milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// The calendar month of the site that bytes are counted in, as `2026-11`; null until the clock
    /// was set.
    #[serde(default)]
    pub month: Option<String>,
    /// Bytes that went over the link in it.
    #[serde(default)]
    pub month_bytes: u64,
    /// Most bytes that may go in a month; past it pictures are left out.
    #[serde(default)]
    pub month_budget_bytes: Option<u64>,
}

/// How a camera is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CameraState {
    /// Being opened.
    Opening,
    /// Frames flow.
    Running,
    /// No frames; being reopened with back-off.
    Failed,
    /// No frames, since a call into its driver does not return: it was left behind, and the camera is
    /// being reopened beside it with back-off.
    Stuck,
    /// Captures nothing, on purpose: somebody paused it, or it is outside its schedule.
    Paused,
    /// A recording that was read to its end.
    Ended,
}

/// What a camera's pictures look like. A suspicion, not a proof: nothing is done about it but to
/// say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PictureState {
    /// They differ from each other, as a camera's do.
    Changing,
    /// The same picture over and over.
    Frozen,
    /// Nothing but darkness.
    Black,
    /// The driver says that nothing is connected to the camera's input.
    NoSignal,
}

/// One camera's part of the status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraStatus {
    /// How it is.
    pub state: CameraState,
    /// What is wrong, when it failed.
    pub problem: Option<String>,
    /// Sampled frames per second, over the last seconds.
    pub fps: f32,
    /// GStreamer element that decodes.
    pub decoder: Option<String>,
    /// Why that one.
    pub decoder_reason: Option<String>,
    /// What works, and worse than it could: a decoder that stands in for a better one that failed.
    pub degraded: Option<String>,
    /// What its pictures look like; null where that is not judged.
    pub picture: Option<PictureState>,
    /// Since the last frame, milliseconds.
    pub last_frame_age_ms: Option<u64>,
    /// Its accounts.
    pub books: Books,
}

/// A camera's accounts since its spool was made. They balance:
/// `captured = in_memory + spooled + acknowledged + dropped`, in frames (each `seq` once: as an
/// observation, in a skip or in a gap; a skip counts with the records, a gap as dropped).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Books {
    /// Frames that got a `seq`.
    pub captured: u64,
    /// Of these, not looked at (in skips; also counted below where they are now).
    pub skipped: u64,
    /// Between capture and spool.
    pub in_memory: u64,
    /// On disk, not acknowledged.
    pub spooled: u64,
    /// Taken by the broker.
    pub acknowledged: u64,
    /// Lost, by reason.
    pub dropped: BTreeMap<Reason, u64>,
    /// Pictures lost whose observation is not, by reason; not part of the balance above.
    pub pictures_dropped: BTreeMap<Reason, u64>,
}

impl Books {
    /// Whether the accounts add up.
    pub fn balanced(&self) -> bool {
        let parts = [&self.in_memory, &self.spooled, &self.acknowledged].into_iter();
        let sum = parts.chain(self.dropped.values()).try_fold(0_u64, |sum, n| sum.checked_add(*n));
        sum == Some(self.captured)
    }
}
