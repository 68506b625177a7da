//! Which cameras are paused, over a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use picket_service::durable;
use picket_wire::CameraName;

use crate::capture::Pause;

const FILE: &str = "paused.json";

/// The paused cameras, in memory and in the state directory.
pub(super) struct Pauses {
    state_dir: PathBuf,
    paused: BTreeMap<CameraName, Pause>,
    /// The last tidying could not be written: said once, and tried again.
    untidy: bool,
}

impl Pauses {
    /// As an agent before left them. A file that cannot be read pauses nobody: nothing says whom.
    pub fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        };
        let paused = read.unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), %error,
                "which cameras are paused cannot be read: none is");
            BTreeMap::new()
        });
        Self { state_dir: state_dir.to_owned(), paused, untidy: false }
    }

    pub fn of(&self, camera: &CameraName) -> Option<Pause> {
        self.paused.get(camera).copied()
    }

    /// On disk when it returns.
    pub fn set(&mut self, camera: &CameraName, pause: Option<Pause>) -> io::Result<()> {
        let mut paused = self.paused.clone();
        match pause {
            Some(pause) => drop(paused.insert(camera.clone(), pause)),
            None => drop(paused.remove(camera)),
        }
        self.keep(paused)
    }

    /// Forgets what is over, and cameras that are not there any more. A pause that stayed would come
    /// back with a clock that went back, or with a camera that gets an old one's name.
    pub fn tidy(&mut self, now: Option<Timestamp>, is_there: impl Fn(&CameraName) -> bool) {
        let mut paused = self.paused.clone();
        paused.retain(|camera, pause| !pause.is_over(now) && is_there(camera));
        let kept = if paused == self.paused { Ok(()) } else { self.keep(paused) };
        let was_untidy = std::mem::replace(&mut self.untidy, kept.is_err());
        if let Err(error) = kept.as_ref().map_err(|error| error as &dyn std::error::Error)
            && !was_untidy
        {
            tracing::warn!(error, "a pause that is over stays in the state directory");
        }
    }

    fn keep(&mut self, paused: BTreeMap<CameraName, Pause>) -> io::Result<()> {
        durable::replace(&self.state_dir.join(FILE), &serde_json::to_vec(&paused)?)?;
        self.paused = paused;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_outlives_the_agent_and_a_resumed_camera_is_not_paused() {
        let dir = tempfile::tempdir().unwrap();
        let (north, south): (CameraName, CameraName) =
            ("north".parse().unwrap(), "south".parse().unwrap());
        let pause = Pause { until: Some("2026-05-05T01:00:00Z".parse().unwrap()) };
        let mut pauses = Pauses::load(dir.path());
        pauses.set(&north, Some(pause)).unwrap();
        pauses.set(&south, Some(Pause { until: None })).unwrap();
        pauses.set(&south, None).unwrap();
        let again = Pauses::load(dir.path());
        assert_eq!((again.of(&north), again.of(&south)), (Some(pause), None));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Pauses::load(dir.path()).of(&north), None);
    }

    #[test]
    fn a_pause_that_is_over_or_of_a_camera_that_went_is_forgotten_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (north, south): (CameraName, CameraName) =
            ("north".parse().unwrap(), "south".parse().unwrap());
        let until: Timestamp = "2026-05-05T01:00:00Z".parse().unwrap();
        let mut pauses = Pauses::load(dir.path());
        pauses.set(&north, Some(Pause { until: Some(until) })).unwrap();
        pauses.set(&south, Some(Pause { until: None })).unwrap();
        pauses.tidy(None, |_| true);
        assert!(Pauses::load(dir.path()).of(&north).is_some(), "no clock ends nothing");
        pauses.tidy(Some(until), |_| true);
        let again = Pauses::load(dir.path());
        assert!(again.of(&north).is_none() && again.of(&south).is_some());
        pauses.tidy(Some(until), |camera| *camera == north);
        assert!(Pauses::load(dir.path()).of(&south).is_none());
    }
}
