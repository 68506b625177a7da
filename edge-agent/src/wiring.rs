//! All stages, joined by bounded channels. Nothing else knows more than its neighbour to the left.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::bounded;
use picket_service::config::Loaded;
use picket_service::logging::chain;
use picket_service::shutdown::Shutdown;
use picket_service::{metrics as recorder, notify, ops};
use picket_wire::CameraName;
use picket_wire::observation::Stamp;
use picket_wire::status::{CameraState, SpoolStatus};

use crate::capture::{
    self, CameraAccount, CameraHandle, CameraSettings, CaptureContext, Clock, RecordingLog,
    ReserveError, ReserveSeq, SourcePosition, SystemClock,
};
use crate::config::Settings;
use crate::detect::{self, DetectorHandle};
use crate::heartbeat::Heartbeat;
use crate::spool::{self, Spool, SpoolHandle, SpoolReader};
use crate::uplink::{Uplink, UplinkHandle};

/// Frames between a camera and the detector: they hold the decoder's memory, so few.
const CAPTURED: usize = 2;
/// Observations between the detector and the spool, with their pictures.
const OBSERVED: usize = 16;
/// How often the heartbeat is sent, and the state of the cameras is looked at.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the cameras and the spool's last commit may take at the end.
const END: Duration = Duration::from_secs(20);

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
        let agent = Agent::start(loaded)?;
        tracing::info!("operations endpoint at http://{}/", listener.local_addr()?);
        let heartbeat = Arc::clone(&agent.heartbeat);
        let health: ops::Health = Arc::new(move || heartbeat.problem().map_or(Ok(()), Err));
        tokio::spawn(ops::serve(listener, render, health));
        notify::ready("capturing");
        let why = agent.watch(&shutdown).await;
        notify::stopping();
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
}

/// The running stages.
struct Agent {
    cameras: Vec<CameraHandle>,
    /// Those that a failure ends: any other camera is opened again.
    recordings: Vec<Arc<CameraAccount>>,
    /// Let go to stop the cameras.
    stop: Option<crossbeam_channel::Sender<()>>,
    detector: Option<DetectorHandle>,
    drain_ms: u64,
    spool: SpoolHandle,
    uplink: UplinkHandle,
    status: SpoolReader,
    heartbeat: Arc<Heartbeat>,
}

impl Agent {
    /// From the right to the left, so that nothing is captured that has nowhere to go.
    fn start(loaded: Loaded<Settings>) -> Result<Self> {
        let Loaded { settings, sha256 } = loaded;
        let cameras = settings.cameras().map_err(|p| anyhow!("{}: {}", p.field, p.problem))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let names: Vec<_> = cameras.iter().map(|camera| camera.name.clone()).collect();
        let spool_clock = Arc::new(SpoolClock::new(Arc::clone(&clock), &cameras));
        let (spool, epoch) = Spool::open(
            &settings.spool,
            &settings.state_dir,
            &settings.device,
            &names,
            spool_clock,
        )?;
        tracing::info!(device = %settings.device, %epoch, cameras = names.len(), "starting");

        let (observed, to_keep) = bounded(OBSERVED);
        let spool = spool.spawn_writer(to_keep)?;
        let uplink = Uplink::spawn(&settings.uplink, &settings.device, spool.reader()?)?;
        let (stop, stopped) = bounded(0);
        let context = CaptureContext {
            device: settings.device.clone(),
            epoch,
            clock: Arc::clone(&clock),
            reserve: Arc::new(SpoolNumbers(spool.clone())),
            recordings: Arc::new(SpoolNumbers(spool.clone())),
            stop: stopped,
        };
        let mut inputs = Vec::new();
        let mut handles = Vec::new();
        for camera in cameras {
            let (captured, to_look_at) = bounded(CAPTURED);
            inputs.push((camera.name.clone(), camera.publish.clone(), to_look_at));
            handles.push((camera, captured));
        }
        let detector = detect::spawn(&settings.detect, inputs, observed)?;
        let mut cameras = Vec::new();
        let mut recordings = Vec::new();
        for (camera, out) in handles {
            let is_recording = camera.is_recording();
            let handle = capture::spawn(camera, context.clone(), out)?;
            recordings.extend(is_recording.then(|| Arc::clone(&handle.account)));
            cameras.push(handle);
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
        };
        let status = spool.reader()?;
        Ok(Self {
            cameras,
            recordings,
            stop: Some(stop),
            detector: Some(detector),
            drain_ms: settings.uplink.drain_timeout_ms,
            spool,
            uplink,
            status,
            heartbeat: Arc::new(heartbeat),
        })
    }

    /// Sends heartbeats until the end is asked for, or there is nothing left to capture.
    async fn watch(&self, shutdown: &Shutdown) -> Why {
        let mut turns = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = shutdown.asked() => return Why::Asked,
            }
            self.send_status();
            // A spool whose writer stands still holds up everything: then the service manager, no
            // longer told that the agent lives, starts it again. A broker outage never does that.
            let now = self.spool.turns();
            if now != turns {
                notify::alive();
            }
            turns = now;
            if self.cameras.iter().all(|camera| camera.join.is_finished()) {
                return Why::AllRead;
            }
        }
    }

    fn send_status(&self) {
        let (wall, _) = self.heartbeat.clock.wall();
        let spool = self.status.status(wall.map(|now| now.as_millisecond()));
        let spool = spool.unwrap_or_else(|error| {
            tracing::warn!("the spool cannot be asked for its state: {}", chain(&error));
            SpoolStatus::default()
        });
        match self.heartbeat.status(self.uplink.status(), spool).encode() {
            Ok(message) => self.uplink.send_status(message),
            Err(error) => tracing::warn!("the heartbeat cannot be sent: {}", chain(&error)),
        }
    }

    /// From the left to the right, so that what was captured reaches the spool, and what is in the
    /// spool the broker, as far as there is time.
    async fn end(mut self, why: Why, shutdown: &Shutdown) -> Result<()> {
        drop(self.stop.take());
        for camera in std::mem::take(&mut self.cameras) {
            join("a camera", camera.join)?;
            let (name, view) = (camera.account.camera(), camera.account.view());
            let (decoded, captured, skipped) = (view.decoded, view.captured, view.skipped);
            tracing::info!(camera = %name, decoded, captured, skipped, "camera closed");
        }
        let problems = self.failed_recordings();
        for problem in &problems {
            tracing::error!("{problem}");
        }
        if let Some(detector) = self.detector.take() {
            join("the detector", detector.join)?;
        }
        self.heartbeat.count_captured();
        self.spool.flush(END)?;
        if why == Why::AllRead {
            self.acknowledged(shutdown).await?;
        }
        let left = self.uplink.drain(Duration::from_millis(self.drain_ms))?;
        self.spool.finish(END)?;
        match left.records {
            0 => tracing::info!("everything is acknowledged"),
            records => {
                tracing::warn!(
                    records,
                    "not acknowledged yet; kept in the spool for the next start"
                )
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            problems => bail!("{}", problems.join("\n")),
        }
    }

    /// A recording that was read is only done when all of it is acknowledged, however long the
    /// broker is away; the spool keeps it meanwhile.
    async fn acknowledged(&self, shutdown: &Shutdown) -> Result<()> {
        while !self.status.is_empty()? {
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => self.send_status(),
                () = shutdown.asked() => break,
            }
        }
        Ok(())
    }

    /// What could not be read of recordings, once no camera runs any more.
    fn failed_recordings(&self) -> Vec<String> {
        let views = self.recordings.iter().map(|account| (account.camera(), account.view()));
        let failed = views.filter(|(_, view)| view.state == CameraState::Failed);
        failed
            .map(|(name, view)| format!("camera {name}: {}", view.problem.unwrap_or_default()))
            .collect()
    }
}

fn join(what: &str, thread: std::thread::JoinHandle<()>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("{what} broke off; see the log before"))
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
