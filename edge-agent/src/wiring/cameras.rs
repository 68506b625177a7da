//! The running cameras, and how they come and go while the others run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::tz::TimeZone;
use picket_service::logging::chain;
use picket_wire::CameraName;
use picket_wire::status::CameraState;

use super::pauses::Pauses;
use super::seams::SpoolClock;
use crate::capture::{
    self, Backoff, CameraAccount, CameraHandle, CameraSettings, CaptureContext, Captured, Duty,
    Life, NotStarted, Pause,
};
use crate::detect::{CameraInput, Eyepiece};
use crate::heartbeat::Accounts;
use crate::spool::SpoolHandle;

/// Frames between a camera and the detector: they hold the decoder's memory, so few.
const CAPTURED: usize = 2;

/// A camera of this epoch.
struct Camera {
    account: Arc<CameraAccount>,
    /// The same over all its threads, until it is changed.
    eyepiece: Arc<Eyepiece>,
    duty: Arc<Duty>,
    /// What it is to be; `None` once it was taken out of the config.
    settings: Option<CameraSettings>,
    /// Let go to stop its thread.
    stop: Option<Sender<()>>,
    /// Until it was joined.
    thread: Option<JoinHandle<Option<Life>>>,
    /// Between two threads; gone for good when one broke off.
    life: Option<Life>,
    /// It is to have a new thread as soon as there is none.
    starts: bool,
    /// Not before then, since the system refused a thread.
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// How a camera is started: a test cannot make the system lack threads.
type GoOn =
    fn(CameraSettings, CaptureContext, Sender<Captured>, Life) -> Result<CameraHandle, NotStarted>;

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
    go_on: GoOn,
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
        let (cameras, go_on) = (Vec::new(), capture::go_on);
        Self { cameras, context, zone, spool, spool_clock, to_detector, go_on }
    }

    /// The first ones, which the spool knows already.
    pub fn start(&mut self, cameras: Vec<CameraSettings>, pauses: &Pauses) -> Result<()> {
        for settings in cameras {
            self.add(settings, pauses);
        }
        self.start_due(Instant::now()).map_err(anyhow::Error::msg)
    }

    fn add(&mut self, settings: CameraSettings, pauses: &Pauses) {
        let paused = pauses.of(&settings.name);
        let duty = Arc::new(Duty::new(settings.schedule.clone(), self.zone.clone(), paused));
        let life = Life::new(settings.name.clone(), Arc::clone(&duty));
        self.cameras.push(Camera {
            account: Arc::clone(&life.account),
            eyepiece: Arc::default(),
            duty,
            settings: Some(settings),
            stop: None,
            thread: None,
            life: Some(life),
            starts: true,
            not_before: None,
            backoff: Backoff::default(),
        });
    }

    /// Starts those that are to start and whose former thread has ended. One that gets no thread is
    /// tried again, with back-off.
    fn start_due(&mut self, now: Instant) -> Result<(), String> {
        for camera in &mut self.cameras {
            let waits = camera.not_before.is_some_and(|not_before| now < not_before);
            if !camera.starts || camera.thread.is_some() || waits {
                continue;
            }
            let (Some(settings), Some(life)) = (camera.settings.clone(), camera.life.take()) else {
                continue;
            };
            let (captured, to_look_at) = bounded(CAPTURED);
            let (stop, stopped) = bounded(0);
            let input = input(&settings, Arc::clone(&camera.eyepiece), to_look_at);
            let context = CaptureContext { stop: stopped, ..self.context.clone() };
            let CameraHandle { join, .. } = match (self.go_on)(settings, context, captured, life) {
                Ok(started) => started,
                Err(refused) => {
                    camera.refused(refused, now);
                    continue;
                }
            };
            (camera.stop, camera.thread, camera.starts) = (Some(stop), Some(join), false);
            (camera.not_before, camera.backoff) = (None, Backoff::default());
            let add = self.to_detector.as_ref().is_some_and(|add| add.send(input).is_ok());
            if !add {
                return Err("the detector has ended".to_owned());
            }
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
        let new: Vec<_> = wanted.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        new.iter().for_each(|settings| self.spool_clock.add(settings));
        let names: Vec<_> = new.iter().map(|settings| settings.name.clone()).collect();
        self.spool.add_cameras(&names).map_err(|error| {
            names.iter().for_each(|name| self.spool_clock.forget(name));
            let names: Vec<_> = names.iter().map(CameraName::as_str).collect();
            format!("the spool cannot take in camera {}: {}", names.join(", "), chain(&error))
        })
    }

    /// Puts these cameras in the place of the present ones. Those that are the same notice nothing;
    /// those that change start again when their threads have ended.
    pub fn replace(&mut self, wanted: Vec<CameraSettings>, pauses: &Pauses) -> Changes {
        let mut changes = Changes::default();
        for camera in &mut self.cameras {
            let name = camera.account.camera().clone();
            if camera.settings.is_some() && !wanted.iter().any(|settings| settings.name == name) {
                (camera.settings, camera.stop, camera.starts) = (None, None, false);
                camera.eyepiece = Arc::new(camera.eyepiece.after_change());
                if camera.thread.is_none() {
                    camera.account.taken_out();
                }
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
                Ok(Some(life)) => camera.life = Some(life),
                Ok(None) | Err(_) => {
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
        problems.extend(self.start_due(Instant::now()).err());
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

    /// What a look along a camera needs. `None` if there is none of that name.
    pub fn to_look_along(&self, name: &CameraName) -> Option<(Arc<CameraAccount>, Arc<Eyepiece>)> {
        let named = |camera: &&Camera| camera.account.camera() == name && camera.settings.is_some();
        let camera = self.cameras.iter().find(named)?;
        Some((Arc::clone(&camera.account), Arc::clone(&camera.eyepiece)))
    }

    /// Whether no camera has a thread or will have one.
    pub fn all_ended(&self) -> bool {
        self.cameras.iter().all(|camera| camera.thread.is_none() && !camera.starts)
    }

    /// Whether some camera waits for its former thread to end. One that waits for a thread of its own
    /// may do so for long.
    pub fn is_changing(&self) -> bool {
        let leaves = |camera: &Camera| camera.settings.is_none() && camera.thread.is_some();
        let starts = |camera: &Camera| camera.starts && camera.not_before.is_none();
        self.cameras.iter().any(|camera| starts(camera) || leaves(camera))
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

fn input(
    settings: &CameraSettings,
    eyepiece: Arc<Eyepiece>,
    frames: Receiver<Captured>,
) -> CameraInput {
    CameraInput {
        name: settings.name.clone(),
        gated: settings.is_gated(),
        motion: settings.motion.clone(),
        report: settings.report.clone(),
        publish: settings.publish.clone(),
        privacy: settings.privacy.clone(),
        eyepiece,
        frames,
    }
}

impl Camera {
    /// The system had no thread for it.
    fn refused(&mut self, refused: NotStarted, now: Instant) {
        let NotStarted { error, life } = refused;
        let wait = self.backoff.wait(capture::random());
        let camera = self.account.camera();
        tracing::error!(
            %camera, error = &error as &dyn std::error::Error, wait_ms = wait.as_millis() as u64,
            "camera {camera} is not started yet, and will be tried again"
        );
        (self.life, self.not_before) = (Some(*life), Some(now + wait));
    }

    /// Only what decides when it captures needs no new thread.
    fn change(&mut self, settings: CameraSettings) {
        self.duty.set_schedule(settings.schedule.clone());
        let only_schedule = self.settings.as_ref().is_some_and(|before| {
            CameraSettings { schedule: settings.schedule.clone(), ..before.clone() } == settings
        });
        if !only_schedule {
            (self.stop, self.starts) = (None, true);
            // At once: it may be long until its former thread has ended.
            self.eyepiece = Arc::new(self.eyepiece.after_change());
        }
        self.settings = Some(settings);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use crossbeam_channel::unbounded;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::capture::{CaptureError, Seats, SystemClock};
    use crate::spool::Spool;
    use crate::wiring::seams::SpoolNumbers;

    fn settings(name: &str) -> CameraSettings {
        let source = serde_json::json!({ "test-pattern": {} });
        serde_json::from_value(serde_json::json!({ "name": name, "source": source })).unwrap()
    }

    fn recording(name: &str) -> CameraSettings {
        let source = serde_json::json!({ "file": { "path": "clip.mp4", "pace": "none" } });
        serde_json::from_value(serde_json::json!({ "name": name, "source": source })).unwrap()
    }

    struct Site {
        dir: TempDir,
        pauses: Pauses,
        cameras: Cameras,
        inputs: Receiver<CameraInput>,
    }

    /// An agent's cameras, none yet, with a spool.
    fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let device: picket_wire::DeviceName = "box".parse().unwrap();
        let clock: Arc<dyn capture::Clock> = Arc::new(SystemClock::start());
        let spool_clock =
            Arc::new(SpoolClock::new(Arc::clone(&clock), jiff::tz::TimeZone::UTC, &[]));
        let for_spool = Arc::clone(&spool_clock) as Arc<dyn crate::spool::Clock>;
        let (spool, epoch) =
            Spool::open(&Default::default(), dir.path(), &device, &[], for_spool).unwrap();
        let (_, nothing) = unbounded();
        let spool = spool.spawn_writer(nothing).unwrap();
        let context = CaptureContext {
            device,
            epoch,
            clock,
            reserve: Arc::new(SpoolNumbers(spool.clone())),
            recordings: Arc::new(SpoolNumbers(spool.clone())),
            seats: Seats::new(1),
            stop: crossbeam_channel::never(),
        };
        let (to_detector, inputs) = unbounded();
        let cameras = Cameras::new(context, TimeZone::UTC, spool, spool_clock, to_detector);
        Site { pauses: Pauses::load(dir.path()), dir, cameras, inputs }
    }

    fn no_thread(settings: &CameraSettings, life: Life) -> Result<CameraHandle, NotStarted> {
        let source = io::ErrorKind::WouldBlock.into();
        let error = CaptureError::Thread { camera: settings.name.to_string(), source };
        Err(NotStarted { error, life: Box::new(life) })
    }

    #[test]
    fn a_camera_that_gets_no_thread_is_kept_and_tried_again_with_back_off() {
        static TRIES: AtomicUsize = AtomicUsize::new(0);
        let Site { dir: _dir, pauses, mut cameras, inputs } = site();
        cameras.go_on =
            |settings, context, captured, life| match TRIES.fetch_add(1, Ordering::SeqCst) {
                0..3 => no_thread(&settings, life),
                _ => capture::go_on(settings, context, captured, life),
            };
        cameras.prepare(&[settings("north")]).unwrap();
        cameras.replace(vec![settings("north")], &pauses);
        let mut now = Instant::now();
        for tries in 1..=3 {
            cameras.start_due(now).unwrap();
            cameras.start_due(now).unwrap();
            assert_eq!(TRIES.load(Ordering::SeqCst), tries, "not again at once");
            assert!(!cameras.is_changing(), "nobody looks every 20 ms");
            assert!(!cameras.all_ended(), "it is still to come");
            now += Duration::from_millis(500 << (tries - 1));
        }
        assert!(inputs.is_empty());
        cameras.start_due(now).unwrap();
        assert_eq!(cameras.running().len(), 1);
        assert_eq!(inputs.len(), 1);
        cameras.stop();
        while !cameras.all_ended() {
            assert_eq!(cameras.look(), Vec::<String>::new());
            std::thread::yield_now();
        }
    }

    #[test]
    fn whoever_looks_along_forgets_what_was_seen_before_a_change() {
        let Site { dir: _dir, pauses, mut cameras, inputs } = site();
        let name: CameraName = "north".parse().unwrap();
        let everything = vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
        let region = crate::detect::Region { name: "all".to_owned(), polygon: everything };
        let as_added = settings("north");
        let schedule = vec![serde_json::from_str(r#"{ "from": "08:00", "to": "18:00" }"#).unwrap()];
        let scheduled = CameraSettings { schedule, ..as_added.clone() };
        let mut masked = scheduled.clone();
        masked.privacy.mask.push(region);
        cameras.prepare(std::slice::from_ref(&as_added)).unwrap();
        cameras.replace(vec![as_added], &pauses);
        for (wanted, forgets) in
            [(vec![scheduled.clone()], false), (vec![masked], true), (vec![], true)]
        {
            let look = cameras.to_look_along(&name).unwrap().1.look().unwrap();
            cameras.replace(wanted, &pauses);
            assert_eq!(look.end().changed, forgets);
        }
        // What is seen from now on is shown again.
        cameras.replace(vec![scheduled], &pauses);
        cameras.start_due(Instant::now()).unwrap();
        let (_, eyepiece) = cameras.to_look_along(&name).unwrap();
        assert!(Arc::ptr_eq(&inputs.recv().unwrap().eyepiece, &eyepiece));
        cameras.stop();
        while !cameras.all_ended() {
            assert_eq!(cameras.look(), Vec::<String>::new());
            std::thread::yield_now();
        }
    }

    #[test]
    fn of_cameras_that_come_together_the_spool_takes_all_or_none() {
        let Site { dir, pauses: _pauses, cameras, inputs: _inputs } = site();
        let database = Connection::open(dir.path().join("spool.sqlite")).unwrap();
        database
            .execute_batch(
                "CREATE TRIGGER refuses BEFORE INSERT ON records WHEN NEW.key LIKE '%south%'
                 BEGIN SELECT RAISE(ABORT, 'refused'); END",
            )
            .unwrap();
        let wanted = [recording("north"), settings("south")];
        let refused = cameras.prepare(&wanted).unwrap_err();
        assert!(refused.contains("north, south") && refused.contains("refused"), "{refused}");
        // The writer may have added already what a camera's clock tells.
        let begun = || -> Vec<String> {
            let epochs = "SELECT key FROM records WHERE kind = 'epoch' ORDER BY key";
            let mut epochs = database.prepare(epochs).unwrap();
            epochs.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert!(begun().is_empty(), "nothing is kept of the one that could be taken in");
        assert!(!cameras.spool_clock.is_recording(&wanted[0].name));
        database.execute_batch("DROP TRIGGER refuses").unwrap();
        cameras.prepare(&wanted).unwrap();
        assert_eq!(begun(), ["box/north", "box/south"]);
        assert!(cameras.spool_clock.is_recording(&wanted[0].name));
    }
}
