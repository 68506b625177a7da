//! How a camera is: written by its thread, read by the status, the logs and the health page.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use picket_wire::CameraName;
use picket_wire::status::{CameraState, PictureState};

use super::pipeline::InUse;

/// Over how many seconds the frame rate is taken.
const RATE_SECONDS: u64 = 5;

/// What there is to say of a camera at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraView {
    /// How it is.
    pub state: CameraState,
    /// What is wrong, when it failed; or what was odd about a recording that ended.
    pub problem: Option<String>,
    /// Captured frames per second, over the last seconds.
    pub fps: f32,
    /// GStreamer element that decodes.
    pub decoder: Option<String>,
    /// Why that one.
    pub decoder_reason: Option<String>,
    /// What works, and worse than it could.
    pub degraded: Option<String>,
    /// What its pictures look like, where that is judged.
    pub picture: Option<PictureState>,
    /// Since the last captured frame, milliseconds.
    pub last_frame_age_ms: Option<u64>,
    /// Frames that the source gave, sampled or not.
    pub decoded: u64,
    /// How many `seq` were given out in this epoch: to frames, and to times without.
    pub captured: u64,
    /// Of these, not handed on to be looked at.
    pub skipped: u64,
    /// The last `seq` that was handed on, alone or in a run; 0 before the first.
    pub last_seq: u64,
    /// Width and height of the source, pixels.
    pub size_px: Option<(u32, u32)>,
    /// How often the source was opened again.
    pub reopened: u64,
    /// Whether its thread ended because nothing more can come of the source. A camera that only
    /// waits, to be opened again or for numbers, is `Failed` and has not given up.
    pub gave_up: bool,
    /// Whether its thread ended by a panic: then it gets no other one before the agent starts anew.
    pub broke_off: bool,
}

/// The shared account of one camera.
#[derive(Debug)]
pub struct CameraAccount {
    camera: CameraName,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    view: CameraView,
    last_frame: Option<Instant>,
    rate: Rate,
    /// Settings that the camera did not take.
    untaken: Option<String>,
}

impl CameraAccount {
    pub(super) fn new(camera: CameraName) -> Self {
        let view = CameraView {
            state: CameraState::Opening,
            problem: None,
            fps: 0.0,
            decoder: None,
            decoder_reason: None,
            degraded: None,
            picture: None,
            last_frame_age_ms: None,
            decoded: 0,
            captured: 0,
            skipped: 0,
            last_seq: 0,
            size_px: None,
            reopened: 0,
            gave_up: false,
            broke_off: false,
        };
        let inner =
            Inner { view, last_frame: None, rate: Rate::new(Instant::now()), untaken: None };
        Self { camera, inner: Mutex::new(inner) }
    }

    /// Which camera.
    pub fn camera(&self) -> &CameraName {
        &self.camera
    }

    /// How it is now.
    pub fn view(&self) -> CameraView {
        let now = Instant::now();
        let mut inner = self.lock();
        let mut view = inner.view.clone();
        view.fps = inner.rate.per_second(now);
        view.degraded = match (view.degraded, &inner.untaken) {
            (Some(degraded), Some(untaken)) => Some(format!("{degraded}; {untaken}")),
            (degraded, untaken) => degraded.or_else(|| untaken.clone()),
        };
        view.last_frame_age_ms = inner
            .last_frame
            .map(|last| u64::try_from(now.duration_since(last).as_millis()).unwrap_or(u64::MAX));
        view
    }

    /// Its thread ended by a panic: nothing more will come, and nobody else can say so.
    pub fn broke_off(&self) {
        let problem = "its thread broke off; the log says where".to_owned();
        self.set_state(CameraState::Failed, Some(problem));
        self.lock().view.broke_off = true;
    }

    pub(super) fn gave_up(&self, problem: String) {
        self.set_state(CameraState::Failed, Some(problem));
        self.lock().view.gave_up = true;
    }

    /// Its thread could not be started; it will be tried again.
    pub(super) fn not_started(&self, problem: String) {
        self.set_state(CameraState::Failed, Some(problem));
    }

    /// It is opened, perhaps with other settings than before.
    pub(super) fn opening(&self, problem: Option<String>) {
        self.closed(CameraState::Opening, problem);
        self.lock().view.gave_up = false;
    }

    /// It was taken out of the config, and its thread has ended.
    pub fn taken_out(&self) {
        self.closed(CameraState::Ended, Some("taken out of the config".to_owned()));
    }

    /// Its source is not open. What there was to say of the open one may not hold for the next: the
    /// decoder, what is worse than it could be, the pictures.
    pub(super) fn closed(&self, state: CameraState, problem: Option<String>) {
        self.set_state(state, problem);
        self.set_decoder(InUse::default());
        self.set_picture(None);
        self.set_untaken(&[]);
    }

    /// A number was given to a time in which nothing is captured.
    pub(super) fn missed(&self, seq: u64) {
        let mut inner = self.lock();
        inner.view.captured += 1;
        inner.view.last_seq = seq;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves at worst a number that is one short: better than none.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: CameraState, problem: Option<String>) {
        let mut inner = self.lock();
        inner.view.state = state;
        inner.view.problem = problem;
        let up = if state == CameraState::Running { 1.0 } else { 0.0 };
        metrics::gauge!("picket_agent_capture_running", "camera" => self.camera.to_string())
            .set(up);
    }

    /// What of its settings a V4L2 camera does not take.
    pub(super) fn set_untaken(&self, problems: &[String]) {
        self.lock().untaken = (!problems.is_empty()).then(|| problems.join("; "));
    }

    pub(super) fn unnumbered(&self) {
        metrics::counter!("picket_agent_capture_unnumbered_total", "camera" => self.camera.to_string())
            .increment(1);
    }

    pub(super) fn reopened(&self) {
        self.lock().view.reopened += 1;
        metrics::counter!("picket_agent_capture_reopened_total", "camera" => self.camera.to_string())
            .increment(1);
    }

    pub(super) fn captured(&self, size_px: (u32, u32)) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.view.captured += 1;
        inner.view.size_px = Some(size_px);
        inner.last_frame = Some(now);
        inner.rate.count(now);
        metrics::counter!("picket_agent_capture_frames_total", "camera" => self.camera.to_string())
            .increment(1);
    }

    pub(super) fn set_decoder(&self, in_use: InUse) {
        let mut inner = self.lock();
        let camera = || self.camera.to_string();
        let gauge = |element: &str, used: f64| {
            let element = element.to_owned();
            metrics::gauge!("picket_agent_capture_decoder", "camera" => camera(), "decoder" => element)
                .set(used);
        };
        if let Some(before) = &inner.view.decoder {
            gauge(before, 0.0);
        }
        if let Some(element) = &in_use.element {
            gauge(element, 1.0);
        }
        let (reason, degraded) = in_use.turn.map(|turn| (turn.reason, turn.degraded)).unzip();
        inner.view.decoder = in_use.element;
        inner.view.decoder_reason = reason;
        inner.view.degraded = degraded.flatten();
        metrics::gauge!("picket_agent_capture_degraded", "camera" => camera())
            .set(if inner.view.degraded.is_some() { 1.0 } else { 0.0 });
    }

    /// Says what its pictures look like. Whether that is new.
    pub(super) fn set_picture(&self, picture: Option<PictureState>) -> bool {
        let mut inner = self.lock();
        if inner.view.picture == picture {
            return false;
        }
        inner.view.picture = picture;
        for (state, name) in [
            (PictureState::Frozen, "frozen"),
            (PictureState::Black, "black"),
            (PictureState::NoSignal, "no-signal"),
        ] {
            let camera = self.camera.to_string();
            metrics::gauge!("picket_agent_capture_picture", "camera" => camera, "state" => name)
                .set(if picture == Some(state) { 1.0 } else { 0.0 });
        }
        true
    }

    pub(super) fn decoder_failed(&self, element: &str) {
        let (camera, decoder) = (self.camera.to_string(), element.to_owned());
        metrics::counter!(
            "picket_agent_capture_decoder_failures_total", "camera" => camera, "decoder" => decoder
        )
        .increment(1);
    }

    pub(super) fn decoded(&self) {
        self.lock().view.decoded += 1;
        metrics::counter!("picket_agent_capture_decoded_total", "camera" => self.camera.to_string())
            .increment(1);
    }

    pub(super) fn skipped(&self) {
        self.lock().view.skipped += 1;
        metrics::counter!(
            "picket_agent_capture_skipped_total",
            "camera" => self.camera.to_string(), "reason" => "detector-busy"
        )
        .increment(1);
    }

    pub(super) fn handed_on(&self, last_seq: u64) {
        self.lock().view.last_seq = last_seq;
    }
}

/// Events per second over the last full seconds, in a few bytes whatever the rate.
#[derive(Debug)]
struct Rate {
    start: Instant,
    second: u64,
    counts: [u32; RATE_SECONDS as usize + 1],
}

impl Rate {
    fn new(start: Instant) -> Self {
        Self { start, second: 0, counts: [0; RATE_SECONDS as usize + 1] }
    }

    fn slot(second: u64) -> usize {
        (second % (RATE_SECONDS + 1)) as usize
    }

    fn advance(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        for passed in (self.second + 1..=second).rev().take(self.counts.len()) {
            self.counts[Self::slot(passed)] = 0;
        }
        self.second = second;
    }

    fn count(&mut self, now: Instant) {
        self.advance(now);
        self.counts[Self::slot(self.second)] += 1;
    }

    /// Over the full seconds before this one; over what there is in the first.
    fn per_second(&mut self, now: Instant) -> f32 {
        self.advance(now);
        let full_seconds = self.second.min(RATE_SECONDS);
        let now_count = self.counts[Self::slot(self.second)];
        if full_seconds == 0 {
            return now_count as f32;
        }
        let sum: u32 = self.counts.iter().sum();
        (sum - now_count) as f32 / full_seconds as f32
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capture::decoder::chain::Turn;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for frame in 0..200u64 {
            rate.count(start + Duration::from_millis(frame * 50));
        }
        assert_eq!(rate.per_second(start + Duration::from_millis(9_999)), 20.0);
        assert_eq!(rate.per_second(start + Duration::from_millis(12_500)), 12.0);
        assert_eq!(rate.per_second(start + Duration::from_secs(30)), 0.0);
    }

    /// What the metrics say of one camera: those that are above zero.
    fn above_zero(render: &str) -> Vec<&str> {
        let lines = render.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.filter(|line| !line.ends_with(" 0")).collect()
    }

    #[test]
    fn nothing_is_said_of_a_source_that_is_closed() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let account = CameraAccount::new("cam".parse().unwrap());
            let as_new = account.view();
            let states = [CameraState::Opening, CameraState::Paused, CameraState::Failed];
            for state in states {
                let turn = Turn {
                    element: "soft".to_owned(),
                    reason: "hard failed".to_owned(),
                    degraded: Some("soft stands in".to_owned()),
                };
                account.set_untaken(&["controls: no such control".to_owned()]);
                account.set_decoder(InUse { element: Some("soft".to_owned()), turn: Some(turn) });
                account.set_state(CameraState::Running, None);
                account.set_picture(Some(PictureState::Black));
                assert_eq!(above_zero(&handle.render()).len(), 4, "{}", handle.render());
                match state {
                    CameraState::Opening => account.opening(None),
                    state => account.closed(state, None),
                }
                assert_eq!(account.view(), CameraView { state, ..as_new.clone() });
                assert_eq!(above_zero(&handle.render()), Vec::<&str>::new());
            }
        });
    }
}
