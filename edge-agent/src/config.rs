//! The agent's config: one strict TOML file; each stage owns its section.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use picket_service::config::{self, ConfigError, Loaded, Problem};
use picket_service::logging::{LogSettings, chain};
use picket_service::ops::OpsSettings;
use picket_wire::DeviceName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capture::{CameraSettings, FolderSettings};
use crate::{detect, spool, uplink};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// This device's name: it stands in every id and must be the name in its certificate.
    pub device: DeviceName,
    /// Folder that holds the spool, the epoch counter and what else the agent remembers; made if it is missing.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Time zone of the site, such as `Europe/Berlin`: cameras' schedules are kept in it; the
    /// system's if unset.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The service counts as started when a camera runs, or after this many seconds if none does,
    /// 1 to 80: a box where nothing is plugged in is up all the same.
    #[serde(default = "default_ready_timeout_s")]
    pub ready_timeout_s: u64,
    /// Cameras, each captured on its own.
    #[serde(default)]
    pub camera: Vec<CameraSettings>,
    /// Folders of videos; each video is a camera.
    #[serde(default)]
    pub folder: Vec<FolderSettings>,
    /// What finds faces.
    #[serde(default)]
    pub detect: detect::DetectSettings,
    /// What is kept on disk until the broker has it.
    #[serde(default)]
    pub spool: spool::Settings,
    /// The way to the broker.
    pub uplink: uplink::Settings,
    /// The local endpoint for `/metrics` and `/healthz`.
    #[serde(default)]
    pub ops: OpsSettings,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogSettings,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/picket-edge-agent".into()
}

/// Well within the 180 s that the unit (`TimeoutStartSec=`) gives the service to be ready, loading the
/// model included.
fn default_ready_timeout_s() -> u64 {
    30
}

/// Reads and checks the file and its drop-ins.
pub fn load(path: &Path) -> Result<Loaded<Settings>, ConfigError> {
    config::load(path, Settings::check)
}

/// The state directory that a config names, whatever else is wrong with it.
pub fn state_dir(path: &Path) -> Result<PathBuf, ConfigError> {
    #[derive(Deserialize, JsonSchema)]
    struct Only {
        #[serde(default = "default_state_dir")]
        state_dir: PathBuf,
    }
    config::load(path, |_: &Only| Ok(())).map(|loaded| loaded.settings.state_dir)
}

impl Settings {
    /// Refuses what cannot work, naming the field.
    fn check(&self) -> Result<(), Problem> {
        let in_section = |section: &str, e: &dyn std::error::Error| Problem::new(section, chain(e));
        if let Some(zone) = &self.time_zone
            && let Err(error) = TimeZone::get(zone)
        {
            return Err(Problem::new("time_zone", chain(&error)));
        }
        if !(1..=80).contains(&self.ready_timeout_s) {
            let problem = format!("{} is not 1 to 80", self.ready_timeout_s);
            return Err(Problem::new("ready_timeout_s", problem));
        }
        for camera in &self.camera {
            camera.check().map_err(|e| in_section(&format!("camera[{}]", camera.name), &e))?;
        }
        let cameras = self.cameras()?;
        for video in &cameras[self.camera.len()..] {
            video.check_all_but_source().map_err(|e| in_section("folder", &e))?;
        }
        if cameras.is_empty() && self.folder.is_empty() {
            return Err(Problem::new("camera", "there is none: add a [[camera]] or a [[folder]]"));
        }
        self.detect.check().map_err(|e| in_section("detect", &e))?;
        self.spool.check().map_err(|e| in_section("spool", &e))?;
        self.uplink.check().map_err(|e| in_section("uplink", &e))?;
        self.ops.check()?;
        self.log.check()
    }

    /// The site's time zone.
    pub fn zone(&self) -> TimeZone {
        let named = self.time_zone.as_deref().and_then(|zone| TimeZone::get(zone).ok());
        named.unwrap_or_else(TimeZone::system)
    }

    /// All cameras: those of the config, and one for each video of each folder.
    pub fn cameras(&self) -> Result<Vec<CameraSettings>, Problem> {
        let mut cameras = self.camera.clone();
        for folder in &self.folder {
            cameras.extend(folder.expand().map_err(|e| Problem::new("folder", chain(&e)))?);
        }
        let mut names = BTreeSet::new();
        match cameras.iter().find(|camera| !names.insert(&camera.name)) {
            Some(twice) => {
                let problem = format!("there are two of the name {}; rename one", twice.name);
                Err(Problem::new("camera.name", problem))
            }
            None => Ok(cameras),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_camera_may_not_have_a_folder_may_not_have_either() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clip.mp4"), "").unwrap();
        let refused = |lines: &str| {
            let text = format!(
                "device = \"gate\"\n[detect]\nmodel = \"m\"\nruntime_library = \"r\"\n\
                 [uplink]\nbrokers = [\"h:1\"]\nallow_plaintext = true\n\
                 [[folder]]\npath = {:?}\n{lines}",
                dir.path()
            );
            let path = dir.path().join("agent.toml");
            std::fs::write(&path, text).unwrap();
            load(&path).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(refused(""), Ok(()));
        for (lines, named) in [
            ("privacy.blur = {}\npublish.best_crop = {}\n", "publish.best_crop and privacy.blur"),
            ("privacy.blur = {}\npublish.before_ms = 500\n", "publish.before_ms and privacy.blur"),
            ("sampling.every = 0\n", "sampling.every"),
        ] {
            let why = refused(lines).unwrap_err();
            assert!(why.contains("folder") && why.contains(named), "{why}");
        }
    }
}
