//! What can be asked of the running agent: a new config, a pause.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use picket_service::config::{Field, Loaded, differences};
use picket_service::logging::chain;
use picket_service::notify;
use picket_wire::CameraName;

use super::{Agent, LOOK};
use crate::capture::{Pause, Source};
use crate::config::{self, Settings, Sources};
use crate::control::{Call, Done, Request, Sealed};

/// How long an answer waits for cameras whose settings change: a device takes its time to close.
/// They go on changing after it.
const CHANGING: Duration = Duration::from_secs(5);

/// The config in use.
pub(super) struct InUse {
    pub path: PathBuf,
    pub settings: Settings,
    pub fields: Vec<Field>,
    pub sources: Sources,
}

impl InUse {
    /// Fields of another config that only a start can take over: all but the cameras.
    fn needing_a_restart(&self, new: &[Field]) -> Vec<String> {
        let mut fields = differences(&self.fields, new);
        fields.retain(|field| {
            let first = field.split(['.', '[']).next();
            !matches!(first, Some("camera" | "folder"))
        });
        fields
    }

    /// What was read of a folder that gives nothing now stays as it is: taken out, its recordings
    /// could only come back with a restart, and until then no reload would be taken over.
    fn keep_videos(&self, new: &mut Sources) {
        let of_camera = |name: &CameraName| self.settings.camera.iter().any(|c| c.name == *name);
        for known in &self.sources.cameras {
            let Source::File(file) = &known.source else { continue };
            let left_out = new.left_out.iter().any(|out| file.path.parent() == Some(&out.path));
            let taken = new.cameras.iter().any(|camera| camera.name == known.name);
            if left_out && !taken && !of_camera(&known.name) {
                new.cameras.push(known.clone());
            }
        }
    }
}

impl Sources {
    /// To the log and the metrics.
    pub(super) fn tell(&self) {
        metrics::gauge!("picket_agent_folders_left_out").set(self.left_out.len() as f64);
        for folder in &self.left_out {
            tracing::warn!(folder = %folder.path.display(), "{folder}; a reload looks again");
        }
    }
}

impl Agent {
    /// Does what somebody asks; without a call it was a SIGHUP.
    pub(super) async fn obey(&mut self, call: Option<Call>) {
        let Some(call) = call else {
            // The log and the status tell.
            let _ = self.reload().await;
            return;
        };
        let answer = match &call.request {
            Request::Look { camera, for_s } => {
                let (camera, for_s) = (camera.clone(), *for_s);
                return self.look(call, &camera, for_s);
            }
            Request::Drill { offline_s } => {
                let offline_s = *offline_s;
                return self.drill(call, offline_s);
            }
            Request::SealSpool => {
                let below = self.spool.seal();
                return call.answer(Ok(Sealed { below }));
            }
            Request::Reload => self.reload().await,
            Request::Pause { camera, for_s } => self.pause(camera, *for_s),
            Request::Resume { camera } => self.resume(camera),
        };
        call.answer(answer.map(|done| Done { done }));
    }

    /// Takes a new config over, all of it or nothing.
    async fn reload(&mut self) -> Result<String, String> {
        // While it starts the service manager waits for the first READY=1, which this must not send.
        if self.told.is_some() {
            notify::reloading();
        }
        let outcome = self.take_over().await;
        let label = if outcome.is_ok() { "applied" } else { "refused" };
        metrics::counter!("picket_agent_config_reloads_total", "outcome" => label).increment(1);
        match &outcome {
            Ok(done) => tracing::info!("config read again: {done}"),
            Err(why) => {
                tracing::error!("the new config is refused, the one before stays in use: {why}");
                self.heartbeat.config_was_refused(why.clone());
            }
        }
        if let Some(told) = &self.told {
            notify::ready(told);
        }
        outcome
    }

    async fn take_over(&mut self) -> Result<String, String> {
        let Loaded { settings, sha256, fields } =
            config::load(&self.in_use.path).map_err(|error| chain(&error))?;
        let needing = self.in_use.needing_a_restart(&fields);
        if !needing.is_empty() {
            return Err(format!("needs a restart: {}", needing.join(", ")));
        }
        let mut sources = settings.sources().map_err(|p| format!("{}: {}", p.field, p.problem))?;
        self.in_use.keep_videos(&mut sources);
        let cameras = sources.cameras.clone();
        for camera in sources.settings() {
            let checked = self.heartbeat.detector.check_blur(&camera.name, &camera.privacy);
            checked.map_err(|error| error.to_string())?;
        }
        self.cameras.prepare(&cameras)?;
        let changes = self.cameras.replace(cameras, &self.pauses);
        self.in_use = InUse { path: self.in_use.path.clone(), settings, fields, sources };
        self.heartbeat.cameras_are(self.cameras.accounts());
        self.heartbeat.config_is(sha256);
        self.in_use.sources.tell();
        let began = Instant::now();
        while self.cameras.is_changing() && began.elapsed() < CHANGING {
            self.look_at_cameras();
            tokio::time::sleep(LOOK).await;
        }
        let left_out = self.in_use.sources.left_out.iter();
        Ok(left_out.fold(changes.text(), |text, folder| format!("{text}; {folder}")))
    }

    fn pause(&mut self, camera: &CameraName, for_s: Option<u64>) -> Result<String, String> {
        let until = for_s.map(|seconds| self.after(seconds)).transpose()?;
        let pause = Pause { until };
        self.set_pause(camera, Some(pause))?;
        Ok(match until {
            Some(until) => format!("camera {camera} is paused until {until}"),
            None => format!("camera {camera} is paused until `resume {camera}`"),
        })
    }

    fn resume(&mut self, camera: &CameraName) -> Result<String, String> {
        let was_paused = self.set_pause(camera, None)?;
        Ok(match was_paused {
            true => format!("camera {camera} captures again, as far as its schedule goes"),
            false => format!("camera {camera} was not paused"),
        })
    }

    /// A pause with an end needs a clock that knows when that is, also after a restart.
    fn after(&self, seconds: u64) -> Result<jiff::Timestamp, String> {
        let (wall, _) = self.heartbeat.clock.wall();
        let wall = wall.ok_or(
            "this machine's clock was never set, so nobody knows when the pause would end: leave \
             --for out, and resume by hand",
        )?;
        let seconds = i64::try_from(seconds).map_err(|_| "--for is too long".to_owned())?;
        wall.checked_add(jiff::SignedDuration::from_secs(seconds))
            .map_err(|_| "--for is too long".to_owned())
    }

    /// That there is none of this name, and which there are.
    pub(super) fn no_camera(&self, camera: &CameraName) -> String {
        let known = self.heartbeat.configured();
        let known: Vec<_> = known.iter().map(|name| name.as_str()).collect();
        format!("there is no camera {camera}; there are {}", known.join(", "))
    }

    /// On disk first: what a person paused must not come back with a crash.
    fn set_pause(&mut self, camera: &CameraName, pause: Option<Pause>) -> Result<bool, String> {
        if !self.heartbeat.configured().contains(camera) {
            return Err(self.no_camera(camera));
        }
        self.pauses
            .set(camera, pause)
            .map_err(|error| format!("the state directory cannot be written: {error}"))?;
        Ok(self.cameras.pause(camera, pause).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Vec<Field> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        config::load(&path).unwrap().fields
    }

    const CONFIG: &str = "device = \"gate\"\n[detect]\nmodel = \"m\"\nruntime_library = \"r\"\n\
        [uplink]\nbrokers = [\"h:1\"]\nallow_plaintext = true\n\
        [[camera]]\nname = \"north\"\nsource.test-pattern = {}\n";

    fn in_use(text: &str) -> InUse {
        let settings: Settings = toml::from_str(text).unwrap();
        let sources = settings.sources().unwrap();
        InUse { path: PathBuf::new(), settings, fields: loaded(text), sources }
    }

    #[test]
    fn a_folder_that_is_away_at_a_reload_keeps_its_videos_and_one_that_left_the_config_does_not() {
        let videos = tempfile::tempdir().unwrap();
        std::fs::write(videos.path().join("a.mp4"), "").unwrap();
        let with_folder = format!("{CONFIG}[[folder]]\npath = {:?}\n", videos.path());
        let before = in_use(&with_folder);
        assert_eq!(before.sources.cameras.len(), 2);
        std::fs::remove_file(videos.path().join("a.mp4")).unwrap();
        let mut after = in_use(&with_folder).sources;
        before.keep_videos(&mut after);
        assert_eq!((after.cameras, after.left_out.len()), (before.sources.cameras.clone(), 1));
        let mut without = in_use(CONFIG).sources;
        before.keep_videos(&mut without);
        assert_eq!(without.cameras, in_use(CONFIG).sources.cameras);
    }

    #[test]
    fn all_but_cameras_needs_a_restart_and_is_named() {
        let changed = CONFIG.replace("\"h:1\"", "\"h:2\"").replace("= {}", "= { fps = 3 }")
            + "[spool]\nmax_bytes = 99999999\n";
        let needing = in_use(CONFIG).needing_a_restart(&loaded(&changed));
        assert_eq!(needing, ["spool.max_bytes", "uplink.brokers"]);
    }
}
