//! What the stages ask of each other, put together here so that none knows another.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::tz::TimeZone;
use picket_wire::CameraName;
use picket_wire::observation::Stamp;

use crate::capture::{
    CameraSettings, Clock, RecordingLog, ReserveError, ReserveSeq, SourcePosition,
};
use crate::spool::{self, SpoolHandle};

/// Share of the spool's cap above which recordings wait: the rest is for cameras, which cannot.
const FULL_ENOUGH: f64 = 0.9;

/// What capture needs of the spool.
pub(super) struct SpoolNumbers(pub SpoolHandle);

impl ReserveSeq for SpoolNumbers {
    fn reserve(
        &self,
        camera: &CameraName,
        count: u64,
    ) -> Result<RangeInclusive<u64>, ReserveError> {
        self.0
            .reserve(camera, count)
            .map_err(|source| ReserveError { camera: camera.clone(), source: source.into() })
    }

    fn has_room(&self) -> bool {
        self.0.fill() <= FULL_ENOUGH
    }
}

impl RecordingLog for SpoolNumbers {
    fn position(&self, camera: &CameraName, fingerprint: &str) -> Option<SourcePosition> {
        self.0.position(camera, fingerprint)
    }
}

/// The device's clocks, as the spool's own records need them.
pub(super) struct SpoolClock {
    clock: Arc<dyn Clock>,
    zone: TimeZone,
    recordings: RwLock<BTreeSet<CameraName>>,
}

impl SpoolClock {
    pub fn new(clock: Arc<dyn Clock>, zone: TimeZone, cameras: &[CameraSettings]) -> Self {
        let this = Self { clock, zone, recordings: RwLock::default() };
        cameras.iter().for_each(|camera| this.add(camera));
        this
    }

    /// Before the spool hears of the camera.
    pub fn add(&self, camera: &CameraSettings) {
        if camera.is_recording() {
            let mut recordings = self.recordings.write().unwrap_or_else(PoisonError::into_inner);
            recordings.insert(camera.name.clone());
        }
    }
}

impl SpoolClock {
    /// Of a camera that the spool did not take in.
    pub fn forget(&self, camera: &CameraName) {
        self.recordings.write().unwrap_or_else(PoisonError::into_inner).remove(camera);
    }

    /// Whether this camera's frames carry their own time.
    pub fn is_recording(&self, camera: &CameraName) -> bool {
        // Nothing panics while it is held.
        self.recordings.read().unwrap_or_else(PoisonError::into_inner).contains(camera)
    }
}

impl spool::Clock for SpoolClock {
    fn now(&self) -> Stamp {
        let (captured_at, clock) = self.clock.wall();
        Stamp { mono_us: self.clock.boottime_us(), captured_at, clock }
    }

    fn stamps(&self, camera: &CameraName) -> bool {
        !self.is_recording(camera)
    }

    fn zone(&self) -> TimeZone {
        self.zone.clone()
    }
}
