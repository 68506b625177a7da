//! The heartbeat: what the agent says of itself, to the centre and to its own health page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use picket_wire::observation::Stamp;
use picket_wire::status::{
    Books, CameraState, CameraStatus, LinkStatus, ModelStatus, SpoolStatus, Status,
};
use picket_wire::{CameraName, DeviceName, EpochId};

use crate::capture::{CameraAccount, Clock};
use crate::detect::DetectorIdentity;
use crate::spool::Ledger;

/// What a heartbeat is made from.
pub struct Heartbeat {
    /// Which device.
    pub device: DeviceName,
    /// Which start of its agent.
    pub epoch: EpochId,
    /// Digest of the config in use.
    pub config_sha256: String,
    /// The detector.
    pub detector: DetectorIdentity,
    /// Each camera.
    pub cameras: Vec<Arc<CameraAccount>>,
    /// The books.
    pub ledger: Arc<Ledger>,
    /// The device's clocks.
    pub clock: Arc<dyn Clock>,
    /// Where the spool lies.
    pub state_dir: PathBuf,
    /// When the agent started.
    pub started: Instant,
}

impl Heartbeat {
    /// Takes the numbers of now.
    pub fn status(&self, link: LinkStatus, spool: SpoolStatus) -> Status {
        let (captured_at, clock) = self.clock.wall();
        Status {
            device: self.device.clone(),
            epoch: self.epoch,
            stamp: Stamp { mono_us: self.clock.boottime_us(), captured_at, clock },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: self.config_sha256.clone(),
            model: Some(ModelStatus {
                name: self.detector.model_name.clone(),
                sha256: self.detector.model_sha256.clone(),
                runtime_version: self.detector.runtime_version.clone(),
            }),
            uptime_s: self.started.elapsed().as_secs(),
            link,
            spool,
            cameras: self.cameras(),
            temperature_c: temperature_c(),
            disk_free_bytes: disk_free_bytes(&self.state_dir),
        }
    }

    /// Counts into the books what the cameras have numbered since the last time.
    pub fn count_captured(&self) {
        for account in &self.cameras {
            let known = self.ledger.given_out(account.camera());
            let new = account.view().captured.saturating_sub(known);
            self.ledger.captured(account.camera(), new);
        }
    }

    fn cameras(&self) -> BTreeMap<CameraName, CameraStatus> {
        self.count_captured();
        let status = |account: &Arc<CameraAccount>| {
            let view = account.view();
            let books = self.ledger.books(account.camera()).unwrap_or_default();
            record_books(account.camera(), &books);
            let status = CameraStatus {
                state: view.state,
                problem: view.problem,
                fps: view.fps,
                decoder: view.decoder,
                last_frame_age_ms: view.last_frame_age_ms,
                books,
            };
            (account.camera().clone(), status)
        };
        self.cameras.iter().map(status).collect()
    }

    /// What is wrong, for the health page: nothing, as long as one camera works.
    pub fn problem(&self) -> Option<String> {
        let views: Vec<_> = self.cameras.iter().map(|account| (account, account.view())).collect();
        let failed = |state| matches!(state, CameraState::Failed);
        if views.is_empty() || views.iter().any(|(_, view)| !failed(view.state)) {
            return None;
        }
        let problems = views.iter().map(|(account, view)| {
            format!("camera {}: {}", account.camera(), view.problem.as_deref().unwrap_or("failed"))
        });
        Some(problems.collect::<Vec<_>>().join("\n"))
    }
}

fn record_books(camera: &CameraName, books: &Books) {
    let dropped = books.dropped.values().sum();
    for (place, frames) in [
        ("captured", books.captured),
        ("in-memory", books.in_memory),
        ("spooled", books.spooled),
        ("acknowledged", books.acknowledged),
        ("dropped", dropped),
    ] {
        let camera = camera.to_string();
        metrics::gauge!("picket_agent_books_frames", "camera" => camera, "place" => place)
            .set(frames as f64);
    }
    for (reason, frames) in &books.dropped {
        let (camera, reason) = (camera.to_string(), reason.to_string());
        metrics::gauge!("picket_agent_books_dropped_frames", "camera" => camera, "reason" => reason)
            .set(*frames as f64);
    }
}

/// The hottest of the kernel's thermal zones, in degrees Celsius.
fn temperature_c() -> Option<f32> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let read = |zone: std::fs::DirEntry| {
        let text = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        text.trim().parse::<i32>().ok()
    };
    zones.filter_map(read).max().map(|millidegrees| millidegrees as f32 / 1000.0)
}

fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
