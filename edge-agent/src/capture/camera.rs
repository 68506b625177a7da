//! One camera's thread: opens the source, takes its frames, and opens it again when it fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use picket_service::logging::chain;
use picket_wire::status::CameraState;

use super::backoff::{self, Backoff};
use super::clock::Clock;
use super::error::CaptureError;
use super::frame::SourcePosition;
use super::outlet::{Handed, Outlet, Sampled};
use super::pipeline::{Next, Picture, Pipeline};
use super::recording::{RecordingLog, fingerprint};
use super::sampling::Sampler;
use super::seats::Seat;
use super::settings::{CameraSettings, Source};
use super::stamp::{Stamper, Timing};
use super::state::CameraAccount;

/// Longest wait for a frame before the thread looks around.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// How long a live source may give no frame before it is opened again.
const STALL_LIMIT: Duration = Duration::from_secs(15);

/// Pause before numbers are asked for again.
const NUMBERS_PAUSE: Duration = Duration::from_secs(1);

/// Pause before it is asked again whether there is room to keep more.
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// How a session with the source went.
enum Finish {
    Ended,
    Stopping,
}

/// Where a camera stands in what it reads.
#[derive(Default)]
struct Place {
    /// Of a recording that is gone on with after a restart.
    fingerprint: Option<String>,
    /// Frames up to here are done.
    done_ns: Option<u64>,
    /// Of a repeated file: media time at which this pass began.
    pass_began_ns: u64,
    /// The last frame seen, in this pass.
    seen_ns: Option<u64>,
    /// Frames seen since the start.
    frames: u64,
}

impl Place {
    fn at_end(&self) -> Option<SourcePosition> {
        let fingerprint = self.fingerprint.clone()?;
        let media_time_ns = self.seen_ns.or(self.done_ns).unwrap_or_default();
        Some(SourcePosition { fingerprint, media_time_ns, at_end: true })
    }
}

pub(super) struct Camera {
    /// Of a recording that is read as fast as possible: kept while it is read.
    pub seat: Option<Seat>,
    pub settings: CameraSettings,
    pub clock: Arc<dyn Clock>,
    pub recordings: Arc<dyn RecordingLog>,
    pub stop: Receiver<()>,
    pub account: Arc<CameraAccount>,
    pub outlet: Outlet,
    /// Whether the last frame found no number.
    pub without_numbers: bool,
}

impl Camera {
    /// Until the source ends for good or the agent stops.
    pub fn run(mut self) {
        let timing = match self.settings.is_recording() {
            true => Timing::Recording { start: self.settings.start_time },
            false => Timing::Live,
        };
        let mut stamper = Stamper::new(timing);
        let mut backoff = Backoff::default();
        if self.seat.as_ref().is_some_and(|seat| !seat.wait(|| self.stopping())) {
            return;
        }
        let mut place = match self.find_place() {
            Ok(Some(place)) => place,
            Ok(None) => return,
            Err(error) => return self.give_up(&error),
        };
        loop {
            let frames_before = place.frames;
            let error = match self.session(&mut place, &mut stamper) {
                Ok(Finish::Ended) => return self.ended(place.at_end(), None),
                Ok(Finish::Stopping) => return self.outlet.flush(),
                Err(error) => error,
            };
            if !self.settings.opens_again_after(error.advice()) {
                return match error.ends_a_recording() {
                    true => self.ended(place.at_end(), Some(&error)),
                    false => self.give_up(&error),
                };
            }
            if place.frames > frames_before {
                backoff.reset();
            }
            if place.fingerprint.is_some() {
                place.done_ns = place.seen_ns.or(place.done_ns);
            }
            let wait = backoff.wait(backoff::random());
            self.failed(&error, wait);
            if self.stopped_within(wait) {
                return;
            }
        }
    }

    /// Where to begin; `None` if there is nothing to do: the agent stops, or the recording is done.
    fn find_place(&mut self) -> Result<Option<Place>, CaptureError> {
        let Some((field, path)) = self.recorded_file() else {
            return Ok(Some(Place::default()));
        };
        let identity = fingerprint(&path, || self.stopping())
            .map_err(|source| CaptureError::File { field, path: path.clone(), source })?;
        let Some(identity) = identity else {
            return Ok(None);
        };
        let known = self.recordings.position(&self.settings.name, &identity);
        if let Some(known) = known.as_ref().filter(|known| known.at_end) {
            tracing::info!(
                target: "capture", camera = %self.settings.name,
                "camera {}: {} was read to its end before", self.settings.name, path.display()
            );
            self.ended(Some(known.clone()), None);
            return Ok(None);
        }
        let done_ns = known.map(|known| known.media_time_ns);
        Ok(Some(Place { fingerprint: Some(identity), done_ns, ..Place::default() }))
    }

    fn recorded_file(&self) -> Option<(&'static str, PathBuf)> {
        match &self.settings.source {
            _ if !self.settings.is_recording() => None,
            Source::File(file) => Some(("source.file.path", file.path.clone())),
            Source::Uri(uri) => Some(("source.uri.uri", uri.uri.file_path()?)),
            Source::V4l2(_) | Source::Rtsp(_) | Source::TestPattern(_) => None,
        }
    }

    /// From opening the source to its end.
    fn session(
        &mut self,
        place: &mut Place,
        stamper: &mut Stamper,
    ) -> Result<Finish, CaptureError> {
        let mut pipeline = {
            let CameraSettings { source, decoder, .. } = &self.settings;
            Pipeline::open(source, decoder.as_deref(), place.done_ns)?
        };
        let mut sampler = match place.done_ns {
            Some(done_ns) => Sampler::after(self.settings.sampling, done_ns),
            None => Sampler::new(self.settings.sampling),
        };
        let mut last_frame = Instant::now();
        loop {
            if self.stopping() {
                return Ok(Finish::Stopping);
            }
            self.outlet.close_old_run();
            match pipeline.next(LOOK_AROUND)? {
                Next::Picture(picture) => {
                    if pipeline.pictures() == 1 {
                        self.running(pipeline.decoder());
                    }
                    last_frame = Instant::now();
                    let handed = self.take(picture, place, &mut sampler, stamper, &pipeline);
                    if handed == Handed::Stopping {
                        return Ok(Finish::Stopping);
                    }
                }
                Next::Nothing => self.check_for_stall(last_frame)?,
                Next::End if self.settings.repeats() => {
                    place.pass_began_ns += place.seen_ns.take().unwrap_or_default() + FRAME_GAP_NS;
                    pipeline.rewind()?;
                }
                Next::End if self.settings.is_live() => return Err(self.live_ended()),
                Next::End => return self.whole(&pipeline, place).map(|()| Finish::Ended),
            }
        }
    }

    fn take(
        &mut self,
        picture: Picture,
        place: &mut Place,
        sampler: &mut Sampler,
        stamper: &mut Stamper,
        pipeline: &Pipeline,
    ) -> Handed {
        let Picture { planes, media_time_ns, age } = picture;
        if place.done_ns.is_some_and(|done_ns| media_time_ns <= done_ns) {
            return Handed::On;
        }
        place.frames += 1;
        self.account.decoded();
        place.seen_ns = Some(media_time_ns);
        let media_time_ns = place.pass_began_ns + media_time_ns;
        if !sampler.takes(media_time_ns) {
            return Handed::On;
        }
        let stamp = stamper.stamp(&*self.clock, media_time_ns, age);
        let position = place.fingerprint.clone().map(|fingerprint| SourcePosition {
            fingerprint,
            media_time_ns,
            at_end: false,
        });
        let sampled = Sampled { stamp, planes, position };
        let decoder = pipeline.decoder();
        match (self.number(), self.settings.waits_for_detector()) {
            (Ok(seq), true) => self.outlet.hand_on(seq, sampled, decoder),
            (Ok(seq), false) => self.outlet.offer(seq, sampled, decoder),
            (Err(handed), _) => handed,
        }
    }

    /// A number for a frame. Without numbers a live camera's frame passes by, uncaptured and counted;
    /// a recording waits.
    fn number(&mut self) -> Result<u64, Handed> {
        if self.settings.waits_for_detector() && self.stopped_before_there_is_room() {
            return Err(Handed::Stopping);
        }
        loop {
            let error = match self.outlet.number() {
                Ok(seq) => {
                    if std::mem::take(&mut self.without_numbers) {
                        self.account.set_state(CameraState::Running, None);
                    }
                    return Ok(seq);
                }
                Err(error) => error,
            };
            self.account.unnumbered();
            if !std::mem::replace(&mut self.without_numbers, true) {
                tracing::error!(
                    target: "capture", camera = %self.settings.name,
                    error = &error as &dyn std::error::Error,
                    "camera {}: frames pass by without a number", self.settings.name
                );
                self.account.set_state(CameraState::Failed, Some(error.to_string()));
            }
            if self.stopped_within(NUMBERS_PAUSE) {
                return Err(Handed::Stopping);
            }
            if !self.settings.waits_for_detector() {
                return Err(Handed::On);
            }
        }
    }

    fn stopped_before_there_is_room(&self) -> bool {
        if self.outlet.has_room() {
            return false;
        }
        let camera = &self.settings.name;
        tracing::warn!(
            target: "capture", %camera,
            "camera {camera}: the spool is nearly full; reading waits until the broker took some"
        );
        while !self.outlet.has_room() {
            if self.stopped_within(ROOM_PAUSE) {
                return true;
            }
        }
        tracing::info!(target: "capture", %camera, "camera {camera}: reading goes on");
        false
    }

    fn check_for_stall(&self, last_frame: Instant) -> Result<(), CaptureError> {
        if self.settings.is_live() && last_frame.elapsed() >= STALL_LIMIT {
            return Err(CaptureError::Stalled {
                source_name: super::source::name(&self.settings.source),
                silence: STALL_LIMIT,
            });
        }
        Ok(())
    }

    /// A container that lost its tail often just ends. It is taken as cut off when a tenth of what it
    /// promises, and more than a second, is not there; a soundtrack may be a little longer.
    fn whole(&self, pipeline: &Pipeline, place: &Place) -> Result<(), CaptureError> {
        let read_ns = place.seen_ns.unwrap_or_default();
        match pipeline.duration_ns() {
            Some(promised_ns)
                if promised_ns.saturating_sub(read_ns) > (promised_ns / 10).max(SECOND_NS) =>
            {
                let (read_s, promised_s) = (read_ns / SECOND_NS, promised_ns / SECOND_NS);
                Err(CaptureError::Broken {
                    source_name: super::source::name(&self.settings.source),
                    why: format!("it has {read_s} s of the {promised_s} s that it promises"),
                })
            }
            _ => Ok(()),
        }
    }

    fn live_ended(&self) -> CaptureError {
        CaptureError::LiveEnded { source_name: super::source::name(&self.settings.source) }
    }

    fn stopping(&self) -> bool {
        !matches!(self.stop.try_recv(), Err(TryRecvError::Empty))
    }

    fn stopped_within(&self, wait: Duration) -> bool {
        !matches!(self.stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
    }

    /// Said before the first frame is handed on: whoever has a frame can ask what decoded it.
    fn running(&self, decoder: Option<String>) {
        self.account.set_decoder(decoder.clone());
        let (camera, decoder) = (&self.settings.name, decoder.unwrap_or_else(|| "none".to_owned()));
        tracing::info!(
            target: "capture", %camera, decoder,
            "camera {camera}: frames flow from {} (decoder {decoder})",
            super::source::name(&self.settings.source)
        );
        self.account.set_state(CameraState::Running, None);
    }

    fn failed(&mut self, error: &CaptureError, wait: Duration) {
        let camera = &self.settings.name;
        tracing::warn!(
            target: "capture", %camera, error = error as &dyn std::error::Error,
            wait_ms = wait.as_millis() as u64,
            "camera {camera} failed and will be opened again"
        );
        self.account.set_state(CameraState::Failed, Some(chain(error)));
        self.account.reopened();
        self.outlet.flush();
    }

    fn ended(&mut self, position: Option<SourcePosition>, broke_off: Option<&CaptureError>) {
        let camera = &self.settings.name;
        match broke_off {
            Some(error) => tracing::warn!(
                target: "capture", %camera, error = error as &dyn std::error::Error,
                "camera {camera}: the recording breaks off; what there was of it is taken as all"
            ),
            None => {
                tracing::info!(target: "capture", %camera, "camera {camera}: the recording ended")
            }
        }
        self.account.set_state(CameraState::Ended, broke_off.map(|error| chain(error)));
        self.outlet.end(position);
    }

    /// A source that is read once and cannot be read, or not to its end: a person is needed. What
    /// was read of a recording keeps its place, so that the next start goes on there.
    fn give_up(&mut self, error: &CaptureError) {
        let camera = &self.settings.name;
        tracing::error!(
            target: "capture", %camera, error = error as &dyn std::error::Error,
            "camera {camera} gives nothing more"
        );
        self.account.gave_up(chain(error));
        self.outlet.end(None);
    }
}

const SECOND_NS: u64 = 1_000_000_000;
/// Between the passes of a repeated file: about a frame.
const FRAME_GAP_NS: u64 = 40_000_000;
