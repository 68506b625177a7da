//! All stages, joined by bounded channels. Nothing else knows more than its neighbour to the left.

mod cameras;
mod drills;
mod link;
mod looks;
mod pauses;
mod reload;
mod seams;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use crossbeam_channel::{bounded, unbounded};
use picket_service::config::Loaded;
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify, ops};
use picket_wire::status::CameraState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::capture::{CaptureContext, Clock, Seats, SystemClock};
use crate::config::Settings;
use crate::control::{Call, Control, Inbox};
use crate::detect::{self, DetectorHandle};
use crate::heartbeat::{ConfigInUse, Heartbeat, Stages};
use crate::spool::{Spool, SpoolHandle, SpoolReader};
use cameras::Cameras;
use drills::Drills;
use link::Link;
use pauses::Pauses;
use reload::InUse;
use seams::{SpoolClock, SpoolNumbers};

/// Observations between the detector and the spool, with their pictures.
const OBSERVED: usize = 16;
/// How often the heartbeat is sent, and the state of the cameras is looked at.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the cameras with the detector, the spool's last commit and its closing may take at the
/// end, each. With the uplink's drain all of it fits into the service manager's stop limit.
const END: Duration = Duration::from_secs(12);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(20);

/// How a run without a problem came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to end: at the next start there is more to do.
    Asked,
    /// Every recording was read and acknowledged: a next start would find nothing to do.
    AllDone,
}

/// Runs the agent until it is told to end, or every recording was read and acknowledged.
pub fn run(path: &Path, loaded: Loaded<Settings>) -> Result<Ended> {
    let render = recorder::install(crate::metrics::TABLE)?;
    // One worker beside this thread: it serves the endpoint while this one waits for the stages.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        shutdown.listen_to_signals()?;
        let listen = loaded.settings.ops.listen;
        let hangup = signal(SignalKind::hangup())?;
        let mut agent = Agent::start(path, loaded)?;
        let heartbeat = Arc::clone(&agent.heartbeat);
        let render = heartbeat.at_rest(render);
        let health: ops::Health = Arc::new(move || heartbeat.problem().map_or(Ok(()), Err));
        tokio::spawn(ops::serve(ops::Endpoint { field: ops::OPS, listen }, render, health));
        let mut asked = Asked::listen(&agent.in_use.settings.state_dir, hangup);
        let why = agent.watch(&shutdown, &mut asked).await;
        agent.end(why, &shutdown).await
    })
}

/// Why the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It was told to.
    Asked,
    /// Every camera was a recording, and was read to its end.
    AllRead,
    /// A thread broke off without which nothing goes on: the service manager starts it anew.
    BrokeOff,
}

/// Who may ask something of the running agent.
struct Asked {
    hangup: Signal,
    inbox: Inbox,
    /// Open as long as it is here.
    _control: Option<Control>,
}

impl Asked {
    /// Only for whoever holds the state directory's lock.
    fn listen(state_dir: &Path, hangup: Signal) -> Self {
        match Control::open(state_dir) {
            Ok((control, inbox)) => Self { hangup, inbox, _control: Some(control) },
            Err(error) => {
                tracing::warn!(%error, "commands such as `pause` do not work: the socket in {} \
                    cannot be opened", state_dir.display());
                // Closed at once, so that nothing ever comes out.
                Self { hangup, inbox: tokio::sync::mpsc::channel(1).1, _control: None }
            }
        }
    }

    /// The next thing that somebody asks: `None` is a SIGHUP.
    async fn next(&mut self) -> Option<Call> {
        tokio::select! {
            _ = self.hangup.recv() => None,
            Some(call) = self.inbox.recv() => Some(call),
        }
    }
}

/// The running stages.
struct Agent {
    in_use: InUse,
    cameras: Cameras,
    pauses: Pauses,
    detector: Option<DetectorHandle>,
    spool: SpoolHandle,
    link: Link,
    drills: Drills,
    status: SpoolReader,
    heartbeat: Arc<Heartbeat>,
    last_beat: Option<Instant>,
    /// What the service manager was told last; `None` until the agent is ready.
    told: Option<String>,
    /// What went wrong that a person, or the service manager, has to hear of at the end.
    problems: Vec<String>,
}

impl Agent {
    /// From the right to the left, so that nothing is captured that has nowhere to go.
    fn start(path: &Path, loaded: Loaded<Settings>) -> Result<Self> {
        let Loaded { settings, sha256, fields } = loaded;
        let sources = settings.sources().map_err(|p| anyhow!("{}: {}", p.field, p.problem))?;
        sources.tell();
        let configured = sources.cameras.clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let names: Vec<_> = configured.iter().map(|camera| camera.name.clone()).collect();
        let spool_clock =
            Arc::new(SpoolClock::new(Arc::clone(&clock), settings.zone(), &configured));
        let (observed, to_keep) = bounded(OBSERVED);
        // Not bounded: one for each camera, at the start and when its settings change.
        let (to_detector, additions) = unbounded();
        // Before the spool begins an epoch: a model that cannot be loaded would otherwise leave an
        // epoch's records behind at each of the service manager's tries.
        let detector = detect::spawn_for(&settings.detect, additions, observed)?;
        for camera in sources.settings() {
            detector.identity.check_blur(&camera.name, &camera.privacy)?;
        }
        let (spool, epoch) = Spool::open(
            &settings.spool,
            &settings.state_dir,
            &settings.device,
            &names,
            Arc::clone(&spool_clock) as Arc<dyn crate::spool::Clock>,
        )?;
        tracing::info!(device = %settings.device, %epoch, cameras = names.len(), "starting");

        let spool = spool.spawn_writer(to_keep)?;
        let link = Link::new(&settings, &spool)?;
        let context = CaptureContext {
            device: settings.device.clone(),
            epoch,
            clock: Arc::clone(&clock),
            reserve: Arc::new(SpoolNumbers(spool.clone())),
            recordings: Arc::new(SpoolNumbers(spool.clone())),
            seats: Seats::for_this_machine(),
            stop: crossbeam_channel::never(),
        };
        let pauses = Pauses::load(&settings.state_dir);
        let mut cameras =
            Cameras::new(context, settings.zone(), spool.clone(), spool_clock, to_detector);
        cameras.start(configured, &pauses)?;
        let heartbeat = Heartbeat {
            device: settings.device.clone(),
            epoch,
            config: ConfigInUse { sha256, problem: None }.into(),
            detector: detector.identity.clone(),
            cameras: cameras.accounts().into(),
            ledger: spool.ledger(),
            clock,
            state_dir: settings.state_dir.clone(),
            started: Instant::now(),
            stages: Stages::default(),
            held: None.into(),
            showing: Arc::default(),
        };
        let status = spool.reader()?;
        Ok(Self {
            in_use: InUse { path: path.to_owned(), settings, fields, sources },
            cameras,
            pauses,
            detector: Some(detector),
            spool,
            link,
            drills: Drills::default(),
            status,
            heartbeat: Arc::new(heartbeat),
            last_beat: None,
            told: None,
            problems: Vec::new(),
        })
    }

    /// Sends heartbeats and does what is asked, until the end is asked for, or there is nothing left
    /// to capture.
    async fn watch(&mut self, shutdown: &Shutdown, asked: &mut Asked) -> Why {
        loop {
            let wait =
                if self.told.is_none() || self.cameras.is_changing() { LOOK } else { HEARTBEAT };
            let beats = self.last_beat.is_none_or(|last| last.elapsed() >= HEARTBEAT);
            if beats {
                self.beat();
            }
            self.look_at_cameras();
            self.tell_how_it_is();
            if self.cameras.all_ended() {
                return if self.problems.is_empty() { Why::AllRead } else { Why::BrokeOff };
            }
            // It takes cameras in until the end, and so does not end by itself.
            if self.detector.as_ref().is_some_and(DetectorHandle::has_ended) {
                self.problem("the detector ended while cameras run".to_owned());
                return Why::BrokeOff;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.asked() => return Why::Asked,
                // A reload waits for cameras, and a stop does not wait for it.
                call = asked.next() => tokio::select! {
                    () = self.obey(call) => {}
                    () = shutdown.asked() => return Why::Asked,
                },
            }
        }
    }

    fn look_at_cameras(&mut self) {
        let problems = self.cameras.look();
        problems.into_iter().for_each(|problem| self.problem(problem));
    }

    /// Tells the service manager how many cameras run: that the agent is ready when the first one
    /// does, or the config's limit has passed. A camera that is paused or was read is as it should
    /// be.
    fn tell_how_it_is(&mut self) {
        let states = self.cameras.states();
        let running = states.iter().filter(|state| **state == CameraState::Running).count();
        let waits = |state: &CameraState| {
            matches!(state, CameraState::Opening | CameraState::Failed | CameraState::Stuck)
        };
        let limit = Duration::from_secs(self.in_use.settings.ready_timeout_s);
        let is_late = self.heartbeat.started.elapsed() >= limit;
        let mut text = format!("{running} of {} cameras run", states.len());
        for folder in &self.in_use.sources.left_out {
            text += &format!("; {folder}");
        }
        match &self.told {
            None if running > 0 || !states.iter().any(waits) || is_late => {
                if running == 0 && is_late {
                    tracing::warn!(
                        "no camera runs yet; the service counts as started all the same"
                    );
                }
                notify::ready(&text);
            }
            Some(told) if *told != text => notify::status(&text),
            None | Some(_) => return,
        }
        self.told = Some(text);
    }

    /// Sends a heartbeat, and tells the service manager that the agent lives. A detector, a spool or
    /// an uplink that stands still holds up everything: then, no longer told so, the service manager
    /// starts the agent again. All turn also during a broker outage. The same when every camera is
    /// stuck in its driver; one stuck camera among others is no reason.
    fn beat(&mut self) {
        self.last_beat = Some(Instant::now());
        let (wall, _) = self.heartbeat.clock.wall();
        let known = self.heartbeat.configured();
        self.pauses.tidy(wall, |camera| known.contains(camera));
        let spool = self.status.status(wall.map(|now| now.as_millisecond()));
        let unreadable = spool.as_ref().err().map(|error| chain(error));
        if let Some(why) = &unreadable {
            tracing::warn!("the spool cannot be asked for its state: {why}");
        }
        let detector_gone = self.detector.as_ref().is_some_and(DetectorHandle::has_ended);
        self.link.look(&self.in_use.settings, &self.spool);
        self.heartbeat.held_is(self.link.problem());
        let mut turns = vec![("spool", self.spool.turns())];
        turns.extend(self.link.turns().map(|turns| ("uplink", turns)));
        // Recordings that were read leave it without work, and it ends.
        turns.extend(self.detector.as_ref().map(|detector| ("detector", detector.turns())));
        let all_turn =
            self.heartbeat.stages.look(&turns, unreadable, detector_gone, Instant::now());
        if all_turn && !self.heartbeat.all_stuck() {
            notify::alive();
        }
        let status = self.heartbeat.status(self.link.status(), spool.unwrap_or_default());
        match status.encode() {
            Ok(message) => self.link.send_status(message),
            Err(error) => tracing::warn!("the heartbeat cannot be sent: {}", chain(&error)),
        }
    }

    /// From the left to the right, so that what was captured reaches the spool, and what is in the
    /// spool the broker, as far as there is time. A step that fails leaves the others to be done.
    async fn end(mut self, why: Why, shutdown: &Shutdown) -> Result<Ended> {
        if why != Why::AllRead {
            notify::stopping();
        }
        self.cameras.stop();
        self.join_all(Instant::now() + END).await;
        self.heartbeat.count_captured();
        self.check("the spool cannot be flushed", self.spool.flush(END));
        for problem in self.cameras.given_up() {
            self.problem(problem);
        }
        if why == Why::AllRead {
            // Not all that was to be read.
            let left_out = std::mem::take(&mut self.in_use.sources.left_out);
            left_out.iter().for_each(|folder| self.problem(folder.to_string()));
            self.acknowledged(shutdown).await;
            // Only now: from here on the service manager waits no longer than its stop limit.
            notify::stopping();
        }
        let drained =
            self.link.drain(Duration::from_millis(self.in_use.settings.uplink.drain_timeout_ms));
        let drained = self.check("the uplink cannot be drained", drained);
        // Once more, for a camera that was left behind: the count is the bound that the books close on.
        self.heartbeat.count_captured();
        self.check("the spool cannot be closed", self.spool.finish(END));
        match drained.flatten().map(|left| left.records) {
            Some(0) => tracing::info!("everything is acknowledged"),
            Some(records) => tracing::warn!(
                records,
                "not acknowledged yet; kept in the spool for the next start"
            ),
            None => {}
        }
        match self.problems.as_slice() {
            // Told to end while it waited for the last acknowledgements: there is more to do.
            [] if why == Why::AllRead && !shutdown.is_asked() => Ok(Ended::AllDone),
            [] => Ok(Ended::Asked),
            problems => bail!("{}", problems.join("\n")),
        }
    }

    /// Waits for the cameras and the detector until the deadline. What hangs then, in a decoder for
    /// instance, is left behind, and with it the detector, which waits for every camera.
    async fn join_all(&mut self, deadline: Instant) {
        loop {
            self.look_at_cameras();
            let cameras_ended = self.cameras.all_ended();
            let detector_ended = self.detector.as_ref().is_none_or(DetectorHandle::has_ended);
            if (cameras_ended && detector_ended) || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        for name in self.cameras.running() {
            self.problem(format!("camera {name}: its thread does not end and is left behind"));
        }
        let Some(detector) = self.detector.take() else {
            return;
        };
        if !detector.has_ended() {
            self.problem("the detector does not end and is left behind".to_owned());
        } else if detector.join.join().is_err() {
            self.problem("the detector broke off; see the log before".to_owned());
        }
    }

    /// A recording that was read is only done when all of it is acknowledged, however long the
    /// broker is away; the spool keeps it meanwhile.
    async fn acknowledged(&mut self, shutdown: &Shutdown) {
        while self.check("the spool cannot be read", self.status.is_empty()) == Some(false) {
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => self.beat(),
                () = shutdown.asked() => return,
            }
        }
    }

    fn problem(&mut self, problem: String) {
        tracing::error!("{problem}");
        self.problems.push(problem);
    }

    fn check<T, E: std::error::Error>(&mut self, step: &str, done: Result<T, E>) -> Option<T> {
        done.map_err(|error| self.problem(format!("{step}: {}", chain(&error)))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of [`Agent::end`] that may take [`END`]: the cameras, the spool's commit, its closing.
    const ENDS: u32 = 3;
    /// What the exit of the program and the last heartbeat take, beside the steps with a limit.
    const REST: Duration = Duration::from_secs(3);

    #[test]
    fn all_of_a_stop_fits_into_the_time_that_the_service_manager_gives() {
        let unit = include_str!("../../../systemd/edge-agent.service");
        let limit = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        let limit = Duration::from_secs(limit.parse().unwrap());
        let longest = END * ENDS + crate::uplink::LONGEST_DRAIN + REST;
        assert!(longest <= limit, "{longest:?} of {limit:?}");
        let text = crate::uplink::Settings { drain_timeout_ms: u64::MAX, ..Default::default() };
        let text = crate::uplink::Settings { brokers: vec!["h:1".to_owned()], ..text };
        let told = text.check().unwrap_err().to_string();
        assert!(told.contains(&format!("{} s", limit.as_secs())), "{told}");
    }
}
