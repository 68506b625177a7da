//! Tracking of the past, again: whether what is stored is what the tracker makes of the records.
//!
//! A track depends on all that came before in its epoch, so each epoch that overlaps the range is tracked
//! from its beginning, by the run with which the centre itself tracks for good; what is compared is what
//! lies in the range, and the tracks that were seen there, to their ends. The observations come from
//! MongoDB in their order, or their contents from Kafka. What the centre has not made final, has made with
//! another tracker, or has of which the observations are gone, is named and not compared.
//!
//! It reads only: nothing is written or committed, and no group is joined. In memory are one batch of
//! documents, the ids of an epoch's tracks, and of a log what comes before its turn.

mod compare;
mod epoch;
mod log;
mod observed;
mod past;
mod report;
mod stored;
mod waiting;
mod walk;

use std::time::Duration;

use jiff::Timestamp;
use picket_wire::{CameraKey, EpochId};

use super::settings::Settings;
use super::stored_runs::Tracking;
use crate::store::{Store, StoreError};
use crate::track::Settings as TrackSettings;
use crate::upsert::Retention;
pub use log::{Log, LogError};
pub use report::{Difference, EpochReport, Incomparable};
use stored::Reader;

/// How long one answer of MongoDB may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Why a replay was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// MongoDB.
    #[error("cannot read what is stored")]
    Store(#[from] StoreError),
    /// MongoDB takes too long.
    #[error("MongoDB did not answer within {} s when it was asked for {what}", ANSWER.as_secs())]
    Slow {
        /// For what.
        what: &'static str,
    },
    /// Kafka.
    #[error("cannot read the log")]
    Log(#[from] LogError),
    /// A name that nobody here has.
    #[error("nothing is stored of {wanted}; there is {there}")]
    Unknown {
        /// As asked for.
        wanted: String,
        /// What there is instead.
        there: String,
    },
    /// Nobody knows where the records of a camera lie.
    #[error("{camera} has no checkpoint that names its log: take --source mongodb")]
    NoLog {
        /// Which.
        camera: CameraKey,
    },
}

impl ReplayError {
    /// Whether it is of one camera, and others can be replayed all the same.
    pub fn is_of_one_camera(&self) -> bool {
        match self {
            Self::Log(error) => !matches!(error, LogError::Client(_)),
            Self::Store(error) => matches!(error, StoreError::Unreadable { .. }),
            Self::NoLog { .. } => true,
            Self::Slow { .. } | Self::Unknown { .. } => false,
        }
    }
}

/// When what is compared was captured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
}

/// Reads, tracks and compares.
pub struct Replay {
    reader: Reader,
    tracking: Tracking,
    tracks_days: u32,
}

impl Replay {
    /// With the settings of the centre whose results are compared.
    pub fn new(
        store: Store,
        settings: TrackSettings,
        retention: Retention,
    ) -> Result<Self, ReplayError> {
        let tracking = Tracking::new(settings)?;
        Ok(Self { reader: Reader { store }, tracking, tracks_days: retention.tracks_days })
    }

    /// The cameras of which something is stored: all, those of a device, or one.
    pub async fn cameras(
        &self,
        device: Option<&str>,
        camera: Option<&CameraKey>,
    ) -> Result<Vec<CameraKey>, ReplayError> {
        let all = self.reader.cameras().await?;
        let is_wanted = |key: &&CameraKey| {
            device.is_none_or(|device| key.device.as_str() == device)
                && camera.is_none_or(|camera| *key == camera)
        };
        let found: Vec<CameraKey> = all.iter().filter(is_wanted).cloned().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let wanted = match (camera, device) {
            (Some(camera), _) => format!("the camera {camera}"),
            (None, Some(device)) => format!("the device {device}"),
            (None, None) => "any camera".to_owned(),
        };
        Err(ReplayError::Unknown { wanted, there: listed(&all) })
    }

    /// The epochs of a camera of which something was captured in the range, in their order.
    pub async fn epochs(&self, key: &CameraKey, range: Range) -> Result<Vec<EpochId>, ReplayError> {
        let mut epochs = Vec::new();
        for epoch in self.reader.epochs(key).await? {
            if self.reader.span(key, epoch, range).await?.is_some() {
                epochs.push(epoch);
            }
        }
        Ok(epochs)
    }

    /// The log in which a camera's records lie, as the centre last read it.
    pub async fn log(
        &self,
        settings: &Settings,
        key: &CameraKey,
        epochs: &[EpochId],
    ) -> Result<Log, ReplayError> {
        let no_log = || ReplayError::NoLog { camera: key.clone() };
        let place = self.reader.log_of(key).await?.ok_or_else(no_log)?;
        Ok(Log::open(settings, key.clone(), place, epochs)?)
    }
}

impl Range {
    /// Whether something is compared. What has no time is in no range but that without an end.
    pub fn holds(&self, captured_ms: Option<i64>) -> bool {
        let (from, to) =
            (self.from.map(Timestamp::as_millisecond), self.to.map(Timestamp::as_millisecond));
        match captured_ms {
            None => from.is_none() && to.is_none(),
            Some(at) => from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to),
        }
    }
}

/// Some of many names.
fn listed(keys: &[CameraKey]) -> String {
    const MOST: usize = 20;
    let names: Vec<String> = keys.iter().take(MOST).map(ToString::to_string).collect();
    match keys.len() {
        0 => "no camera at all".to_owned(),
        n if n > MOST => format!("{} and {} more", names.join(", "), n - MOST),
        _ => names.join(", "),
    }
}
