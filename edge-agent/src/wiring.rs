//! All stages, joined by bounded channels. Nothing else knows more than its neighbour to the left.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, bounded};
use picket_service::config::Loaded;
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify, ops};
use picket_wire::CameraName;
use picket_wire::observation::Stamp;

use crate::capture::{
    self, CameraAccount, CameraHandle, CameraSettings, CaptureContext, Captured, Clock,
    RecordingLog, ReserveError, ReserveSeq, Seats, SourcePosition, SystemClock,
};
use crate::config::Settings;
use crate::detect::{self, CameraInput, DetectorHandle};
use crate::heartbeat::{Heartbeat, Stages};
use crate::spool::{self, Spool, SpoolHandle, SpoolReader};
use crate::uplink::{Uplink, UplinkHandle};

/// Frames between a camera and the detector: they hold the decoder's memory, so few.
const CAPTURED: usize = 2;
/// Observations between the detector and the spool, with their pictures.
const OBSERVED: usize = 16;
/// Share of the spool's cap above which recordings wait: the rest is for cameras, which cannot.
const FULL_ENOUGH: f64 = 0.9;
/// How often the heartbeat is sent, and the state of the cameras is looked at.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the cameras with the detector, the spool's last commit and its closing may take at the
/// end, each. With the uplink's drain all of it fits into the service manager's stop limit.
const END: Duration = Duration::from_secs(12);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the agent until it is told to end, or every recording was read and acknowledged.
pub fn run(loaded: Loaded<Settings>) -> Result<()> {
    let render = recorder::install(crate::metrics::TABLE)?;
    // One worker beside this thread: it serves the endpoint while this one waits for the stages.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        shutdown.listen_to_signals()?;
        let listen = loaded.settings.ops.listen;
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("ops.listen: cannot listen on {listen}"))?;
        let mut agent = Agent::start(loaded)?;
        tracing::info!("operations endpoint at http://{}/", listener.local_addr()?);
        let heartbeat = Arc::clone(&agent.heartbeat);
        let health: ops::Health = Arc::new(move || heartbeat.problem().map_or(Ok(()), Err));
        tokio::spawn(ops::serve(listener, render, health));
        notify::ready("capturing");
        let why = agent.watch(&shutdown).await;
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

/// A camera, and its thread until that was joined.
struct Camera {
    account: Arc<CameraAccount>,
    thread: Option<JoinHandle<()>>,
}

/// The running stages.
struct Agent {
    cameras: Vec<Camera>,
    /// Let go to stop the cameras.
    stop: Option<crossbeam_channel::Sender<()>>,
    detector: Option<DetectorHandle>,
    drain_ms: u64,
    spool: SpoolHandle,
    uplink: UplinkHandle,
    status: SpoolReader,
    heartbeat: Arc<Heartbeat>,
    /// What went wrong that a person, or the service manager, has to hear of at the end.
    problems: Vec<String>,
}

impl Agent {
    /// From the right to the left, so that nothing is captured that has nowhere to go.
    fn start(loaded: Loaded<Settings>) -> Result<Self> {
        let Loaded { settings, sha256, .. } = loaded;
        let cameras = settings.cameras().map_err(|p| anyhow!("{}: {}", p.field, p.problem))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let names: Vec<_> = cameras.iter().map(|camera| camera.name.clone()).collect();
        let spool_clock = Arc::new(SpoolClock::new(Arc::clone(&clock), &cameras));
        let mut inputs = Vec::new();
        let mut outlets = Vec::new();
        for camera in cameras {
            let (captured, to_look_at) = bounded(CAPTURED);
            inputs.push(input(&camera, to_look_at));
            outlets.push((camera, captured));
        }
        let (observed, to_keep) = bounded(OBSERVED);
        // Before the spool begins an epoch: a model that cannot be loaded would otherwise leave an
        // epoch's records behind at each of the service manager's tries.
        let detector = detect::spawn(&settings.detect, inputs, observed)?;
        let (spool, epoch) = Spool::open(
            &settings.spool,
            &settings.state_dir,
            &settings.device,
            &names,
            spool_clock,
        )?;
        tracing::info!(device = %settings.device, %epoch, cameras = names.len(), "starting");

        let spool = spool.spawn_writer(to_keep)?;
        let uplink = Uplink::spawn(&settings.uplink, &settings.device, spool.reader()?)?;
        let (stop, stopped) = bounded(0);
        let context = CaptureContext {
            device: settings.device.clone(),
            epoch,
            clock: Arc::clone(&clock),
            reserve: Arc::new(SpoolNumbers(spool.clone())),
            recordings: Arc::new(SpoolNumbers(spool.clone())),
            seats: Seats::for_this_machine(),
            stop: stopped,
        };
        let mut cameras = Vec::new();
        for (camera, out) in outlets {
            let CameraHandle { account, join } = capture::spawn(camera, context.clone(), out)?;
            cameras.push(Camera { account, thread: Some(join) });
        }
        let heartbeat = Heartbeat {
            device: settings.device.clone(),
            epoch,
            config_sha256: sha256,
            detector: detector.identity.clone(),
            cameras: cameras.iter().map(|camera| Arc::clone(&camera.account)).collect(),
            ledger: spool.ledger(),
            clock,
            state_dir: settings.state_dir.clone(),
            started: Instant::now(),
            stages: Stages::default(),
        };
        let status = spool.reader()?;
        Ok(Self {
            cameras,
            stop: Some(stop),
            detector: Some(detector),
            drain_ms: settings.uplink.drain_timeout_ms,
            spool,
            uplink,
            status,
            heartbeat: Arc::new(heartbeat),
            problems: Vec::new(),
        })
    }

    /// Sends heartbeats until the end is asked for, or there is nothing left to capture.
    async fn watch(&mut self, shutdown: &Shutdown) -> Why {
        let mut detector_was_gone = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = shutdown.asked() => return Why::Asked,
            }
            self.beat();
            let detector_is_gone = self.detector.as_ref().is_some_and(DetectorHandle::has_ended);
            self.join_ended_cameras();
            if self.cameras.iter().all(|camera| camera.thread.is_none()) {
                return if self.problems.is_empty() { Why::AllRead } else { Why::BrokeOff };
            }
            // It ends by itself just before the last camera's thread does, hence two looks.
            if detector_is_gone && detector_was_gone {
                self.problem("the detector ended while cameras run".to_owned());
                return Why::BrokeOff;
            }
            detector_was_gone = detector_is_gone;
        }
    }

    /// Sends a heartbeat, and tells the service manager that the agent lives. A detector, a spool or
    /// an uplink that stands still holds up everything: then, no longer told so, the service manager
    /// starts the agent again. All turn also during a broker outage. The same when every camera is
    /// stuck in its driver; one stuck camera among others is no reason.
    fn beat(&self) {
        let (wall, _) = self.heartbeat.clock.wall();
        let spool = self.status.status(wall.map(|now| now.as_millisecond()));
        let unreadable = spool.as_ref().err().map(|error| chain(error));
        if let Some(why) = &unreadable {
            tracing::warn!("the spool cannot be asked for its state: {why}");
        }
        let detector_gone = self.detector.as_ref().is_some_and(DetectorHandle::has_ended);
        let mut turns = vec![("spool", self.spool.turns()), ("uplink", self.uplink.turns())];
        // Recordings that were read leave it without work, and it ends.
        turns.extend(self.detector.as_ref().map(|detector| ("detector", detector.turns())));
        let all_turn =
            self.heartbeat.stages.look(&turns, unreadable, detector_gone, Instant::now());
        if all_turn && !self.heartbeat.all_stuck() {
            notify::alive();
        }
        let status = self.heartbeat.status(self.uplink.status(), spool.unwrap_or_default());
        match status.encode() {
            Ok(message) => self.uplink.send_status(message),
            Err(error) => tracing::warn!("the heartbeat cannot be sent: {}", chain(&error)),
        }
    }

    /// Joins the threads of cameras that ended; one that broke off leaves the others going.
    fn join_ended_cameras(&mut self) {
        let mut problems = Vec::new();
        for Camera { account, thread } in &mut self.cameras {
            let Some(ended) = thread.take_if(|thread| thread.is_finished()) else {
                continue;
            };
            let (name, joined) = (account.camera(), ended.join());
            if joined.is_err() {
                account.broke_off();
                problems.push(format!("camera {name}: its thread broke off; see the log before"));
            }
            let view = account.view();
            let (decoded, captured, skipped) = (view.decoded, view.captured, view.skipped);
            tracing::info!(camera = %name, decoded, captured, skipped, "camera closed");
        }
        problems.into_iter().for_each(|problem| self.problem(problem));
    }

    /// From the left to the right, so that what was captured reaches the spool, and what is in the
    /// spool the broker, as far as there is time. A step that fails leaves the others to be done.
    async fn end(mut self, why: Why, shutdown: &Shutdown) -> Result<()> {
        if why != Why::AllRead {
            notify::stopping();
        }
        drop(self.stop.take());
        self.join_all(Instant::now() + END).await;
        self.heartbeat.count_captured();
        self.check("the spool cannot be flushed", self.spool.flush(END));
        for problem in self.given_up() {
            self.problem(problem);
        }
        if why == Why::AllRead {
            self.acknowledged(shutdown).await;
            // Only now: from here on the service manager waits no longer than its stop limit.
            notify::stopping();
        }
        let drained = self.uplink.drain(Duration::from_millis(self.drain_ms));
        let drained = self.check("the uplink cannot be drained", drained);
        // Once more, for a camera that was left behind: the count is the bound that the books close on.
        self.heartbeat.count_captured();
        self.check("the spool cannot be closed", self.spool.finish(END));
        match drained.map(|left| left.records) {
            Some(0) => tracing::info!("everything is acknowledged"),
            Some(records) => tracing::warn!(
                records,
                "not acknowledged yet; kept in the spool for the next start"
            ),
            None => {}
        }
        match self.problems.as_slice() {
            [] => Ok(()),
            problems => bail!("{}", problems.join("\n")),
        }
    }

    /// Waits for the cameras and the detector until the deadline. What hangs then, in a decoder for
    /// instance, is left behind, and with it the detector, which waits for every camera.
    async fn join_all(&mut self, deadline: Instant) {
        loop {
            self.join_ended_cameras();
            let cameras_ended = self.cameras.iter().all(|camera| camera.thread.is_none());
            let detector_ended = self.detector.as_ref().is_none_or(DetectorHandle::has_ended);
            if (cameras_ended && detector_ended) || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let hung = self.cameras.iter().filter(|camera| camera.thread.is_some());
        let hung: Vec<_> = hung.map(|camera| camera.account.camera().clone()).collect();
        for name in hung {
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

    /// Cameras that read once and could not, at any pace; once no camera runs any more.
    fn given_up(&self) -> Vec<String> {
        let views = self.cameras.iter().map(|camera| (camera.account.camera(), &camera.account));
        let views = views.map(|(name, account)| (name, account.view()));
        let given_up = views.filter(|(_, view)| view.gave_up);
        given_up
            .map(|(name, view)| format!("camera {name}: {}", view.problem.unwrap_or_default()))
            .collect()
    }

    fn problem(&mut self, problem: String) {
        tracing::error!("{problem}");
        self.problems.push(problem);
    }

    fn check<T, E: std::error::Error>(&mut self, step: &str, done: Result<T, E>) -> Option<T> {
        done.map_err(|error| self.problem(format!("{step}: {}", chain(&error)))).ok()
    }
}

fn input(camera: &CameraSettings, frames: Receiver<Captured>) -> CameraInput {
    CameraInput {
        name: camera.name.clone(),
        gated: camera.is_gated(),
        motion: camera.motion.clone(),
        report: camera.report.clone(),
        publish: camera.publish.clone(),
        privacy: camera.privacy.clone(),
        frames,
    }
}

/// What capture needs of the spool.
struct SpoolNumbers(SpoolHandle);

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
struct SpoolClock {
    clock: Arc<dyn Clock>,
    recordings: BTreeSet<CameraName>,
}

impl SpoolClock {
    fn new(clock: Arc<dyn Clock>, cameras: &[CameraSettings]) -> Self {
        let recordings = cameras.iter().filter(|camera| camera.is_recording());
        Self { clock, recordings: recordings.map(|camera| camera.name.clone()).collect() }
    }
}

impl spool::Clock for SpoolClock {
    fn now(&self) -> Stamp {
        let (captured_at, clock) = self.clock.wall();
        Stamp { mono_us: self.clock.boottime_us(), captured_at, clock }
    }

    fn stamps(&self, camera: &CameraName) -> bool {
        !self.recordings.contains(camera)
    }
}
