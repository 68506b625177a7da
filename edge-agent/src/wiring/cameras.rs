//! The running cameras, and how they come and go while the others run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::tz::TimeZone;
use picket_service::logging::chain;
use picket_wire::CameraName;
use picket_wire::status::CameraState;

use super::pauses::Pauses;
use super::seams::SpoolClock;
use crate::capture::{
    self, CameraAccount, CameraHandle, CameraSettings, CaptureContext, Captured, Duty, Life, Pause,
};
use crate::detect::CameraInput;
use crate::heartbeat::Accounts;
use crate::spool::SpoolHandle;

/// Frames between a camera and the detector: they hold the decoder's memory, so few.
const CAPTURED: usize = 2;

/// A camera of this epoch.
struct Camera {
    account: Arc<CameraAccount>,
    duty: Arc<Duty>,
    /// What it is to be; `None` once it was taken out of the config.
    settings: Option<CameraSettings>,
    /// Let go to stop its thread.
    stop: Option<Sender<()>>,
    /// Until it was joined.
    thread: Option<JoinHandle<Life>>,
    /// Between two threads; gone for good when one broke off.
    life: Option<Life>,
    /// It is to have a new thread as soon as there is none.
    starts: bool,
}

/// All of them.
pub(super) struct Cameras {
    cameras: Vec<Camera>,
    /// Its `stop` is replaced by each camera's own.
    context: CaptureContext,
    zone: TimeZone,
    spool: SpoolHandle,
    spool_clock: Arc<SpoolClock>,
    /// Let go to end the detector.
    to_detector: Option<Sender<CameraInput>>,
}

/// What a new config changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub added: Vec<CameraName>,
    pub removed: Vec<CameraName>,
    pub changed: Vec<CameraName>,
}

impl Changes {
    /// For people.
    pub fn text(&self) -> String {
        let parts =
            [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| {
            let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
            format!("{what} {}", names.join(", "))
        });
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() { "no camera changed".to_owned() } else { parts.join("; ") }
    }
}

impl Cameras {
    pub fn new(
        context: CaptureContext,
        zone: TimeZone,
        spool: SpoolHandle,
        spool_clock: Arc<SpoolClock>,
        to_detector: Sender<CameraInput>,
    ) -> Self {
        let to_detector = Some(to_detector);
        Self { cameras: Vec::new(), context, zone, spool, spool_clock, to_detector }
    }

    /// The first ones, which the spool knows already.
    pub fn start(&mut self, cameras: Vec<CameraSettings>, pauses: &Pauses) -> Result<()> {
        for settings in cameras {
            self.add(settings, pauses);
        }
        self.start_due().map_err(anyhow::Error::msg)
    }

    fn add(&mut self, settings: CameraSettings, pauses: &Pauses) {
        let paused = pauses.of(&settings.name);
        let duty = Arc::new(Duty::new(settings.schedule.clone(), self.zone.clone(), paused));
        let life = Life::new(settings.name.clone(), Arc::clone(&duty));
        self.cameras.push(Camera {
            account: Arc::clone(&life.account),
            duty,
            settings: Some(settings),
            stop: None,
            thread: None,
            life: Some(life),
            starts: true,
        });
    }

    /// Starts those that are to start and whose former thread has ended.
    fn start_due(&mut self) -> Result<(), String> {
        for camera in &mut self.cameras {
            if !camera.starts || camera.thread.is_some() {
                continue;
            }
            let (Some(settings), Some(life)) = (camera.settings.clone(), camera.life.take()) else {
                continue;
            };
            let (captured, to_look_at) = bounded(CAPTURED);
            let (stop, stopped) = bounded(0);
            let input = input(&settings, to_look_at);
            let add = self.to_detector.as_ref().is_some_and(|add| add.send(input).is_ok());
            if !add {
                return Err("the detector has ended".to_owned());
            }
            let context = CaptureContext { stop: stopped, ..self.context.clone() };
            let CameraHandle { join, .. } =
                capture::go_on(settings, context, captured, life).map_err(|e| chain(&e))?;
            (camera.stop, camera.thread, camera.starts) = (Some(stop), Some(join), false);
        }
        Ok(())
    }

    /// Whether these cameras can take the place of the present ones while the agent runs, and takes
    /// the new ones into the spool. After an error everything is as before.
    pub fn prepare(&self, wanted: &[CameraSettings]) -> Result<(), String> {
        for settings in wanted {
            let name = &settings.name;
            let known = self.cameras.iter().find(|camera| camera.account.camera() == name);
            let Some(known) = known else { continue };
            if known.settings.as_ref() == Some(settings) {
                continue;
            }
            if known.life.is_none() && known.thread.is_none() {
                return Err(format!("needs a restart: camera {name}, whose thread broke off"));
            }
            let was_recording = self.spool_clock.is_recording(name);
            if was_recording || settings.is_recording() {
                return Err(format!(
                    "needs a restart: camera {name}, since a recording has its own time within an \
                     epoch; give it another name, or restart the agent"
                ));
            }
        }
        let is_new = |settings: &&CameraSettings| {
            !self.cameras.iter().any(|camera| *camera.account.camera() == settings.name)
        };
        for settings in wanted.iter().filter(is_new) {
            self.spool_clock.add(settings);
            self.spool.add_camera(&settings.name).map_err(|error| {
                format!("the spool cannot take in camera {}: {}", settings.name, chain(&error))
            })?;
        }
        Ok(())
    }

    /// Puts these cameras in the place of the present ones. Those that are the same notice nothing;
    /// those that change start again when their threads have ended.
    pub fn replace(&mut self, wanted: Vec<CameraSettings>, pauses: &Pauses) -> Changes {
        let mut changes = Changes::default();
        for camera in &mut self.cameras {
            let name = camera.account.camera().clone();
            if camera.settings.is_some() && !wanted.iter().any(|settings| settings.name == name) {
                (camera.settings, camera.stop, camera.starts) = (None, None, false);
                changes.removed.push(name);
            }
        }
        for settings in wanted {
            let name = settings.name.clone();
            match self.cameras.iter_mut().find(|camera| *camera.account.camera() == name) {
                None => {
                    self.add(settings, pauses);
                    changes.added.push(name);
                }
                Some(camera) if camera.settings.as_ref() == Some(&settings) => {}
                Some(camera) => {
                    let list = match camera.settings.is_some() {
                        true => &mut changes.changed,
                        false => &mut changes.added,
                    };
                    list.push(name);
                    camera.change(settings);
                }
            }
        }
        changes
    }

    /// Joins threads that have ended and starts those that are due; gives what went wrong. One that
    /// broke off leaves the others going.
    pub fn look(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for camera in &mut self.cameras {
            let Some(ended) = camera.thread.take_if(|thread| thread.is_finished()) else {
                continue;
            };
            let name = camera.account.camera();
            match ended.join() {
                Ok(life) => camera.life = Some(life),
                Err(_) => {
                    camera.account.broke_off();
                    camera.starts = false;
                    problems
                        .push(format!("camera {name}: its thread broke off; see the log before"));
                }
            }
            if camera.settings.is_none() {
                camera.account.taken_out();
            }
            let view = camera.account.view();
            let (decoded, captured, skipped) = (view.decoded, view.captured, view.skipped);
            tracing::info!(camera = %name, decoded, captured, skipped, "camera closed");
        }
        problems.extend(self.start_due().err());
        problems
    }

    /// Lets all of them go, and the detector with them.
    pub fn stop(&mut self) {
        for camera in &mut self.cameras {
            (camera.stop, camera.starts) = (None, false);
        }
        self.to_detector = None;
    }

    /// Pauses a camera, or resumes it; whether it was paused before. `None` if there is none of that
    /// name.
    pub fn pause(&self, name: &CameraName, pause: Option<Pause>) -> Option<bool> {
        let named = |camera: &&Camera| camera.account.camera() == name && camera.settings.is_some();
        let camera = self.cameras.iter().find(named)?;
        match pause {
            Some(pause) => {
                camera.duty.pause(pause);
                Some(true)
            }
            None => Some(camera.duty.resume()),
        }
    }

    /// Whether no camera has a thread or will have one.
    pub fn all_ended(&self) -> bool {
        self.cameras.iter().all(|camera| camera.thread.is_none() && !camera.starts)
    }

    /// Whether some camera waits for its former thread to end.
    pub fn is_changing(&self) -> bool {
        let leaves = |camera: &Camera| camera.settings.is_none() && camera.thread.is_some();
        self.cameras.iter().any(|camera| camera.starts || leaves(camera))
    }

    /// Names of those that have a thread.
    pub fn running(&self) -> Vec<CameraName> {
        let running = self.cameras.iter().filter(|camera| camera.thread.is_some());
        running.map(|camera| camera.account.camera().clone()).collect()
    }

    /// How those are that the config has.
    pub fn states(&self) -> Vec<CameraState> {
        let configured = self.cameras.iter().filter(|camera| camera.settings.is_some());
        configured.map(|camera| camera.account.view().state).collect()
    }

    /// For the heartbeat.
    pub fn accounts(&self) -> Accounts {
        let configured = self.cameras.iter().filter(|camera| camera.settings.is_some());
        let configured: BTreeSet<_> =
            configured.map(|camera| camera.account.camera().clone()).collect();
        let all = self.cameras.iter().map(|camera| Arc::clone(&camera.account)).collect();
        Accounts { all, configured }
    }

    /// Cameras that read once and could not, at any pace; once no camera runs any more.
    pub fn given_up(&self) -> Vec<String> {
        let configured = self.cameras.iter().filter(|camera| camera.settings.is_some());
        let views = configured.map(|camera| (camera.account.camera(), camera.account.view()));
        views
            .filter(|(_, view)| view.gave_up)
            .map(|(name, view)| format!("camera {name}: {}", view.problem.unwrap_or_default()))
            .collect()
    }
}

fn input(settings: &CameraSettings, frames: Receiver<Captured>) -> CameraInput {
    CameraInput {
        name: settings.name.clone(),
        gated: settings.is_gated(),
        motion: settings.motion.clone(),
        report: settings.report.clone(),
        publish: settings.publish.clone(),
        privacy: settings.privacy.clone(),
        frames,
    }
}

impl Camera {
    /// Only what decides when it captures needs no new thread.
    fn change(&mut self, settings: CameraSettings) {
        self.duty.set_schedule(settings.schedule.clone());
        let only_schedule = self.settings.as_ref().is_some_and(|before| {
            CameraSettings { schedule: settings.schedule.clone(), ..before.clone() } == settings
        });
        if !only_schedule {
            (self.stop, self.starts) = (None, true);
        }
        self.settings = Some(settings);
    }
}
