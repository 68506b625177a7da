//! The agent's config: one strict TOML file; each stage owns its section.

use std::collections::BTreeSet;
use std::fmt;
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
    /// Folders of videos; each video is a camera. One that is empty or not there is left out.
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

/// The state directory that a config names, whatever else is wrong with it and its drop-ins: a typo
/// must not keep a person from pausing a camera.
pub fn state_dir(path: &Path) -> Result<PathBuf, ConfigError> {
    let named = config::find_text(path, "state_dir")?;
    Ok(named.map_or_else(default_state_dir, PathBuf::from))
}

/// What a config says of the spool, whatever it says of the rest.
pub fn spool(path: &Path) -> Result<spool::Settings, ConfigError> {
    /// That part alone.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Kept {
        #[serde(default)]
        spool: spool::Settings,
    }
    let check = |kept: &Kept| kept.spool.check().map_err(|e| Problem::new("spool", chain(&e)));
    Ok(config::load(path, check)?.settings.spool)
}

/// The part that a machine needs which only publishes what was captured elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Publishing {
    /// This machine's name: that in its certificate.
    pub device: DeviceName,
    /// The way to the broker.
    pub uplink: uplink::Settings,
}

/// Reads and checks that part alone: there may be no camera, and what is wrong with the rest is no
/// matter.
pub fn publishing(path: &Path) -> Result<Publishing, ConfigError> {
    let check = |part: &Publishing| {
        part.uplink.check().map(drop).map_err(|error| Problem::new("uplink", chain(&error)))
    };
    Ok(config::load(path, check)?.settings)
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
        for folder in &self.folder {
            folder.check().map_err(|error| Problem::new("folder", chain(&error)))?;
        }
        let sources = self.sources()?;
        for video in sources.settings().skip(self.camera.len()) {
            video.check_all_but_source().map_err(|e| in_section("folder", &e))?;
        }
        self.detect.check().map_err(|e| in_section("detect", &e))?;
        self.spool.check().map_err(|e| in_section("spool", &e))?;
        self.uplink.check().map(drop).map_err(|e| in_section("uplink", &e))?;
        self.ops.check()?;
        self.log.check()
    }

    /// The site's time zone.
    pub fn zone(&self) -> TimeZone {
        let named = self.time_zone.as_deref().and_then(|zone| TimeZone::get(zone).ok());
        named.unwrap_or_else(TimeZone::system)
    }

    /// What there is to capture from: the cameras of the config, and one for each video of each
    /// folder. A folder is data and may be empty, or a disk that is not there: it is left out, and
    /// takes nothing down with it. Only an agent that has nothing else is refused.
    pub fn sources(&self) -> Result<Sources, Problem> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.camera.iter().find(|camera| !names.insert(&camera.name)) {
            let problem = format!("there are two of the name {}; rename one", twice.name);
            return Err(Problem::new("camera.name", problem));
        }
        let mut sources = Sources { cameras: self.camera.clone(), left_out: Vec::new() };
        for folder in &self.folder {
            match folder.expand(&sources.cameras) {
                Ok(videos) => sources.cameras.extend(videos),
                Err(error) => {
                    let (path, stand_in) = (folder.path.clone(), folder.stand_in());
                    sources.left_out.push(LeftOut { path, why: chain(&error), stand_in });
                }
            }
        }
        match (sources.cameras.is_empty(), sources.left_out.is_empty()) {
            (false, _) => Ok(sources),
            (true, true) => {
                Err(Problem::new("camera", "there is none: add a [[camera]] or a [[folder]]"))
            }
            (true, false) => {
                let why: Vec<_> = sources.left_out.iter().map(|folder| &*folder.why).collect();
                let problem = format!("there is nothing else to capture from: {}", why.join("; "));
                Err(Problem::new("folder", problem))
            }
        }
    }
}

/// What there is to capture from at this moment.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The cameras, those of folders among them.
    pub cameras: Vec<CameraSettings>,
    /// Folders that give none.
    pub left_out: Vec<LeftOut>,
}

/// A folder that gives no cameras.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// The folder.
    pub path: PathBuf,
    /// Why, with its path.
    pub why: String,
    /// What a video of it would be: its settings are checked now, and not on the day when there is
    /// one.
    stand_in: Option<CameraSettings>,
}

impl Sources {
    /// The settings of all cameras, and of those that would come from folders that are left out.
    pub fn settings(&self) -> impl Iterator<Item = &CameraSettings> {
        let stand_ins = self.left_out.iter().filter_map(|folder| folder.stand_in.as_ref());
        self.cameras.iter().chain(stand_ins)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a folder is left out: {}", self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sources: &str) -> Settings {
        let rest = "device = \"gate\"\n[uplink]\nbrokers = [\"h:1\"]\nallow_plaintext = true\n";
        toml::from_str(&format!("{rest}{sources}")).unwrap()
    }

    const CAMERA: &str = "[[camera]]\nname = \"north\"\nsource.test-pattern = {}\n";

    fn folder(path: &Path) -> String {
        format!("[[folder]]\npath = {path:?}\n")
    }

    #[test]
    fn a_folder_without_videos_or_without_a_disk_takes_no_camera_with_it() {
        let empty = tempfile::tempdir().unwrap();
        for path in [empty.path(), Path::new("/nowhere")] {
            let settings = settings(&(CAMERA.to_owned() + &folder(path)));
            settings.check().unwrap();
            let sources = settings.sources().unwrap();
            assert_eq!(sources.cameras, settings.camera);
            let [left_out] = &*sources.left_out else { panic!("{:?}", sources.left_out) };
            assert_eq!(left_out.path, path);
            assert!(left_out.to_string().contains(path.to_str().unwrap()), "{left_out}");
        }
    }

    #[test]
    fn a_video_with_a_cameras_name_leaves_the_camera_to_run() {
        let videos = tempfile::tempdir().unwrap();
        std::fs::write(videos.path().join("North.mp4"), "").unwrap();
        let settings = settings(&(CAMERA.to_owned() + &folder(videos.path())));
        settings.check().unwrap();
        let sources = settings.sources().unwrap();
        assert_eq!(sources.cameras, settings.camera);
        assert!(sources.left_out[0].why.contains("North.mp4"), "{:?}", sources.left_out);
    }

    #[test]
    fn an_agent_with_nothing_but_folders_that_give_nothing_is_refused_and_they_are_named() {
        let empty = tempfile::tempdir().unwrap();
        let folders = folder(empty.path()) + &folder(Path::new("/nowhere"));
        let problem = settings(&folders).check().unwrap_err();
        assert_eq!(problem.field, "folder");
        for path in [empty.path().to_str().unwrap(), "/nowhere"] {
            assert!(problem.problem.contains(path), "{problem:?}");
        }
        assert_eq!(settings("").check().unwrap_err().field, "camera");
    }

    #[test]
    fn a_folder_with_two_ways_to_tell_the_time_is_refused_also_when_it_is_empty() {
        let times = "start_time = \"2026-01-31T08:00:00Z\"\nfile_name_time = \"%Y\"\n";
        let settings = settings(&(CAMERA.to_owned() + &folder(Path::new("/nowhere")) + times));
        assert!(settings.check().unwrap_err().problem.contains("give one of them"));
    }

    #[test]
    fn what_a_camera_may_not_have_a_folder_may_not_have_either() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clip.mp4"), "").unwrap();
        let refused = |folder: &Path, lines: &str| {
            let text = format!(
                "device = \"gate\"\n[detect]\nmodel = \"m\"\nruntime_library = \"r\"\n\
                 [uplink]\nbrokers = [\"h:1\"]\nallow_plaintext = true\n\
                 {CAMERA}[[folder]]\npath = {folder:?}\n{lines}"
            );
            let path = dir.path().join("agent.toml");
            std::fs::write(&path, text).unwrap();
            load(&path).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(refused(dir.path(), ""), Ok(()));
        for (lines, named) in [
            ("privacy.blur = {}\npublish.best_crop = {}\n", "publish.best_crop and privacy.blur"),
            ("privacy.blur = {}\npublish.before_ms = 500\n", "publish.before_ms and privacy.blur"),
            ("sampling.every = 0\n", "sampling.every"),
        ] {
            for folder in [dir.path(), Path::new("/nowhere")] {
                let why = refused(folder, lines).unwrap_err();
                assert!(why.contains("folder") && why.contains(named), "{why}");
            }
        }
    }
}
