//! The heartbeat: what the agent says of itself, to the centre and to its own health page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use picket_service::metrics::Render;
use picket_wire::observation::Stamp;
use picket_wire::status::{
    Books, CameraState, CameraStatus, LinkStatus, ModelStatus, SpoolStatus, Status,
};
use picket_wire::{CameraName, DeviceName, EpochId};

use crate::capture::{CameraAccount, Clock};
use crate::detect::DetectorIdentity;
use crate::spool::Ledger;

/// What a heartbeat is made from.
pub struct Heartbeat {
    /// Which device.
    pub device: DeviceName,
    /// Which start of its agent.
    pub epoch: EpochId,
    /// The config in use.
    pub config: Mutex<ConfigInUse>,
    /// The detector.
    pub detector: DetectorIdentity,
    /// The cameras.
    pub cameras: Mutex<Accounts>,
    /// The books.
    pub ledger: Arc<Ledger>,
    /// The device's clocks.
    pub clock: Arc<dyn Clock>,
    /// Where the spool lies.
    pub state_dir: PathBuf,
    /// When the agent started.
    pub started: Instant,
    /// How the stages that all cameras share are.
    pub stages: Stages,
    /// Why nothing is published, on another device's board.
    pub held: Mutex<Option<String>>,
    /// Held while the books are shown, each number in a metric of its own, and while somebody reads
    /// these: in between they would not add up.
    pub showing: Arc<Mutex<()>>,
}

/// The config in use, and what became of the last try to change it.
#[derive(Debug, Default)]
pub struct ConfigInUse {
    /// Its digest.
    pub sha256: String,
    /// Why the one on disk was refused.
    pub problem: Option<String>,
}

/// The cameras of this epoch.
#[derive(Default)]
pub struct Accounts {
    /// Each that there ever was: its numbers must be in the books at the end.
    pub all: Vec<Arc<CameraAccount>>,
    /// Those that the config has now.
    pub configured: BTreeSet<CameraName>,
}

impl Heartbeat {
    /// Takes note of the config in use.
    pub fn config_is(&self, sha256: String) {
        *self.lock_config() = ConfigInUse { sha256, problem: None };
        metrics::gauge!("picket_agent_config_refused").set(0.0);
    }

    /// Takes note that the config on disk was refused.
    pub fn config_was_refused(&self, problem: String) {
        self.lock_config().problem = Some(problem);
        metrics::gauge!("picket_agent_config_refused").set(1.0);
    }

    /// Takes note of the cameras.
    pub fn cameras_are(&self, accounts: Accounts) {
        *self.cameras.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    /// Takes note of why nothing is published, if so.
    pub fn held_is(&self, problem: Option<&str>) {
        let held = problem.map(str::to_owned);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Names of the cameras that the config has.
    pub fn configured(&self) -> BTreeSet<CameraName> {
        self.cameras.lock().unwrap_or_else(PoisonError::into_inner).configured.clone()
    }

    fn lock_config(&self) -> MutexGuard<'_, ConfigInUse> {
        // Replaced as a whole: a panic elsewhere leaves a whole one.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accounts(&self, configured_only: bool) -> Vec<Arc<CameraAccount>> {
        let accounts = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |account: &&Arc<CameraAccount>| {
            !configured_only || accounts.configured.contains(account.camera())
        };
        accounts.all.iter().filter(wanted).map(Arc::clone).collect()
    }

    /// The metrics as they are between two heartbeats, so that the books in them add up.
    pub fn at_rest(&self, render: Render) -> Render {
        let showing = Arc::clone(&self.showing);
        Arc::new(move || {
            let _showing = showing.lock().unwrap_or_else(PoisonError::into_inner);
            render()
        })
    }

    /// Takes the numbers of now.
    pub fn status(&self, link: LinkStatus, spool: SpoolStatus) -> Status {
        let (captured_at, clock) = self.clock.wall();
        let (config_sha256, config_problem) = {
            let config = self.lock_config();
            (config.sha256.clone(), config.problem.clone())
        };
        Status {
            device: self.device.clone(),
            epoch: self.epoch,
            stamp: Stamp { mono_us: self.clock.boottime_us(), captured_at, clock },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256,
            config_problem,
            model: Some(ModelStatus {
                name: self.detector.model_name.clone(),
                sha256: self.detector.model_sha256.clone(),
                runtime_version: self.detector.runtime_version.clone(),
            }),
            uptime_s: self.started.elapsed().as_secs(),
            link,
            spool,
            cameras: self.cameras(),
            temperature_c: temperature_c(),
            disk_free_bytes: disk_free_bytes(&self.state_dir),
        }
    }

    /// Counts into the books what the cameras have numbered since the last time. With each heartbeat
    /// and before the books are closed, not with each frame: a number that a stopping recording puts
    /// back would otherwise stay counted. Between two heartbeats the books may lag, and balance.
    pub fn count_captured(&self) {
        for account in &self.accounts(false) {
            let known = self.ledger.given_out(account.camera());
            let new = account.view().captured.saturating_sub(known);
            self.ledger.captured(account.camera(), new);
        }
    }

    fn cameras(&self) -> BTreeMap<CameraName, CameraStatus> {
        self.count_captured();
        let _showing = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |account: &Arc<CameraAccount>| {
            let view = account.view();
            let books = self.ledger.books(account.camera()).unwrap_or_default();
            record_books(account.camera(), &books);
            let status = CameraStatus {
                state: view.state,
                problem: view.problem,
                fps: view.fps,
                decoder: view.decoder,
                decoder_reason: view.decoder_reason,
                degraded: view.degraded,
                picture: view.picture,
                last_frame_age_ms: view.last_frame_age_ms,
                books,
            };
            (account.camera().clone(), status)
        };
        self.accounts(true).iter().map(status).collect()
    }

    /// What is wrong, for the health page: nothing, as long as what all share works, and one camera.
    pub fn problem(&self) -> Option<String> {
        let shared = self.stages.problems(Instant::now()).into_iter();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let problems: Vec<_> = shared.chain(held).chain(self.camera_problem()).collect();
        (!problems.is_empty()).then(|| problems.join("\n"))
    }

    /// Whether no camera makes progress because the drivers of all keep their threads. A new process
    /// is the last thing that may help then; one camera that still works forbids it.
    pub fn all_stuck(&self) -> bool {
        let accounts = self.accounts(true);
        // One that captures nothing on purpose, or never again, tells nothing of its driver.
        let idle = |state| matches!(state, CameraState::Ended | CameraState::Paused);
        let views = accounts.iter().map(|account| account.view());
        all_stuck(views.filter(|view| !idle(view.state) && !view.gave_up).map(|view| view.state))
    }

    fn camera_problem(&self) -> Option<String> {
        let accounts = self.accounts(true);
        let views: Vec<_> = accounts.iter().map(|account| (account, account.view())).collect();
        let failed = |state| matches!(state, CameraState::Failed | CameraState::Stuck);
        if views.is_empty() || views.iter().any(|(_, view)| !failed(view.state)) {
            return None;
        }
        let problems = views.iter().map(|(account, view)| {
            format!("camera {}: {}", account.camera(), view.problem.as_deref().unwrap_or("failed"))
        });
        Some(problems.collect::<Vec<_>>().join("\n"))
    }
}

fn all_stuck(states: impl Iterator<Item = CameraState>) -> bool {
    let mut states = states.peekable();
    states.peek().is_some() && states.all(|state| state == CameraState::Stuck)
}

/// How long a stage that turns once a second may stand still.
const STILL: Duration = Duration::from_secs(15);

/// How the stages are that all cameras share: written with each heartbeat, read by the health page.
#[derive(Debug, Default)]
pub struct Stages(Mutex<Look>);

/// What the last look showed.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    /// By stage: the count of its turns, and since when it is that.
    turns: BTreeMap<&'static str, (u64, Instant)>,
    spool_unreadable: Option<String>,
    detector_gone: bool,
}

impl Stages {
    /// Takes note of how they are. Whether all of them still turn.
    /// A stage that is not named any more has ended as it should.
    pub fn look(
        &self,
        turns: &[(&'static str, u64)],
        spool_unreadable: Option<String>,
        detector_gone: bool,
        now: Instant,
    ) -> bool {
        let mut look = self.lock();
        look.turns.retain(|stage, _| turns.iter().any(|(named, _)| named == stage));
        for &(stage, count) in turns {
            let known = look.turns.entry(stage).or_insert((count, now));
            if known.0 != count {
                *known = (count, now);
            }
        }
        look.at = Some(now);
        look.spool_unreadable = spool_unreadable;
        look.detector_gone = detector_gone;
        look.still(now).next().is_none()
    }

    fn problems(&self, now: Instant) -> Vec<String> {
        let look = self.lock();
        let mut problems: Vec<_> = look
            .still(now)
            .map(|(stage, s)| format!("the {stage} has stood still for {s} s"))
            .collect();
        // Without a new look nothing of the rest is known to hold.
        if let Some(age) = look.at.map(|at| now.duration_since(at)).filter(|age| *age >= STILL) {
            problems.push(format!("the agent has not looked after itself for {} s", age.as_secs()));
        }
        problems.extend(look.spool_unreadable.iter().map(|why| format!("the spool: {why}")));
        problems.extend(look.detector_gone.then(|| "the detector has ended".to_owned()));
        problems
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        // Each field is replaced in one assignment: a panic elsewhere leaves whole ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// Stages that stand still, and for how many seconds.
    fn still(&self, now: Instant) -> impl Iterator<Item = (&'static str, u64)> {
        let since =
            self.turns.iter().map(move |(stage, (_, at))| (*stage, now.duration_since(*at)));
        since.filter(|(_, still)| *still >= STILL).map(|(stage, still)| (stage, still.as_secs()))
    }
}

fn record_books(camera: &CameraName, books: &Books) {
    let dropped = books.dropped.values().sum();
    for (place, frames) in [
        ("captured", books.captured),
        ("in-memory", books.in_memory),
        ("spooled", books.spooled),
        ("acknowledged", books.acknowledged),
        ("dropped", dropped),
    ] {
        let camera = camera.to_string();
        metrics::gauge!("picket_agent_books_frames", "camera" => camera, "place" => place)
            .set(frames as f64);
    }
    for (reason, frames) in &books.dropped {
        let (camera, reason) = (camera.to_string(), reason.to_string());
        metrics::gauge!("picket_agent_books_dropped_frames", "camera" => camera, "reason" => reason)
            .set(*frames as f64);
    }
    for (reason, pictures) in &books.pictures_dropped {
        let (camera, reason) = (camera.to_string(), reason.to_string());
        metrics::gauge!("picket_agent_books_dropped_pictures",
            "camera" => camera, "reason" => reason)
        .set(*pictures as f64);
    }
}

/// The hottest of the kernel's thermal zones, in degrees Celsius.
fn temperature_c() -> Option<f32> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let read = |zone: std::fs::DirEntry| {
        let text = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        text.trim().parse::<i32>().ok()
    };
    zones.filter_map(read).max().map(|millidegrees| millidegrees as f32 / 1000.0)
}

fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_stands_still_is_named_and_silences_the_watchdog() {
        let (stages, start) = (Stages::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        for n in 0..=20 {
            let turns = [("spool", n), ("uplink", n.min(3))];
            let all_turn = stages.look(&turns, None, false, second(n));
            assert_eq!(all_turn, n < 18, "second {n}");
        }
        assert_eq!(stages.problems(second(20)), ["the uplink has stood still for 17 s"]);
        assert!(stages.look(&[("spool", 21), ("uplink", 4)], None, false, second(21)));
        assert!(stages.problems(second(21)).is_empty());
    }

    #[test]
    fn a_stage_that_ended_does_not_count_as_standing_still() {
        let (stages, start) = (Stages::default(), Instant::now());
        assert!(stages.look(&[("detector", 7), ("spool", 1)], None, false, start));
        assert!(stages.look(&[("spool", 2)], None, false, start + STILL));
        assert!(stages.problems(start + STILL).is_empty());
    }

    #[test]
    fn one_camera_that_still_works_keeps_the_watchdog_fed() {
        use CameraState::{Failed, Running, Stuck};
        assert!(all_stuck([Stuck, Stuck].into_iter()));
        assert!(!all_stuck([Stuck, Running].into_iter()));
        assert!(!all_stuck([Stuck, Failed].into_iter()), "what failed is being opened again");
        assert!(!all_stuck(std::iter::empty()));
    }

    #[test]
    fn a_lost_detector_an_unreadable_spool_and_a_stuck_watch_are_named() {
        let (stages, start) = (Stages::default(), Instant::now());
        assert!(stages.look(&[("spool", 1)], Some("torn".to_owned()), true, start));
        assert_eq!(stages.problems(start), ["the spool: torn", "the detector has ended"]);
        let later = stages.problems(start + STILL);
        assert!(later.iter().any(|problem| problem.contains("looked after itself")), "{later:?}");
    }
}
