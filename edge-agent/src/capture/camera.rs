//! One camera's thread: opens the source, takes its frames, and opens it again when it fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use picket_service::logging::chain;
use picket_wire::status::{CameraState, PictureState};

use super::backoff::{self, Backoff};
use super::clock::Clock;
use super::decoder::Decoders;
use super::decoder::chain::Verdict;
use super::decoder::comeback::Comeback;
use super::decoder::decoding::Decoding;
use super::duty::{Duty, Off};
use super::error::CaptureError;
use super::frame::SourcePosition;
use super::left_behind::LeftBehind;
use super::outlet::{Handed, Outlet, Sampled};
use super::pipeline::{InUse, Opening, Picture};
use super::reader::{Reader, Report};
use super::recording::{RecordingLog, fingerprint};
use super::sampling::Sampler;
use super::seats::Seat;
use super::settings::{CameraSettings, Source};
use super::stamp::{Stamper, Timing};
use super::state::CameraAccount;
use super::v4l2::{Arrivals, Opened, Sysfs};
use super::watch::Watch;

/// Longest wait for a frame before the thread looks around.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// How often it is looked whether a camera was plugged in.
const PLUG_LOOK: Duration = Duration::from_millis(500);

/// Pause before numbers are asked for again.
const NUMBERS_PAUSE: Duration = Duration::from_secs(1);

/// Pause before it is asked again whether there is room to keep more.
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// A session of so long in which frames came shows that the stream can be decoded: a decoder that
/// fails after it fails anew, and another may take over at once.
const DECODES: Duration = Duration::from_secs(30);

/// How a session with the source went.
enum Finish {
    Ended,
    OffDuty(Off),
    Stopping,
    /// A better decoder is back: the source is opened again, to use it.
    BetterDecoder,
}

/// How a wait ended.
enum Waited {
    Whole,
    /// Early, since a camera was plugged in.
    PluggedIn,
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
    pub duty: Arc<Duty>,
    pub clock: Arc<dyn Clock>,
    pub recordings: Arc<dyn RecordingLog>,
    pub stop: Receiver<()>,
    pub account: Arc<CameraAccount>,
    pub outlet: Outlet,
    pub decoders: Arc<Decoders>,
    pub comeback: Comeback,
    pub left_behind: LeftBehind,
    pub watch: Watch,
    /// Whether the last frame found no number.
    pub without_numbers: bool,
}

impl Camera {
    /// Until the source ends for good or the agent stops.
    pub fn run(&mut self, stamper: &mut Stamper) {
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
            let (frames_before, began) = (place.frames, Instant::now());
            let plugged_in = self.plugged_in();
            let outcome = self.session(&mut place, stamper);
            let frames_flowed = place.frames > frames_before;
            let decoded = frames_flowed && began.elapsed() >= DECODES;
            if decoded {
                self.decoders.lasted();
            }
            if place.fingerprint.is_some() {
                place.done_ns = place.seen_ns.or(place.done_ns);
            }
            let error = match outcome {
                Ok(Finish::Ended) => return self.ended(place.at_end(), None),
                Ok(Finish::Stopping) => return self.outlet.flush(),
                Ok(Finish::BetterDecoder) => continue,
                Ok(Finish::OffDuty(off)) if self.off_duty(off) => return,
                Ok(Finish::OffDuty(_)) => continue,
                Err(error) => error,
            };
            let error = match self.another_decoder(error) {
                None => continue,
                Some(error) => error,
            };
            if !self.settings.opens_again_after(error.advice()) {
                return match error.ends_a_recording() {
                    true => self.ended(place.at_end(), Some(&error)),
                    false => self.give_up(&error),
                };
            }
            // Decoders give a few frames also of a stream that none can read.
            if decoded || (frames_flowed && !matches!(error, CaptureError::NoDecoderLeft { .. })) {
                backoff.reset();
            }
            let wait = backoff.wait(backoff::random());
            self.failed(&error, wait);
            match self.wait(wait, plugged_in.as_ref()) {
                Waited::Whole => {}
                Waited::PluggedIn => backoff.reset(),
                Waited::Stopping => return,
            }
        }
    }

    /// Of a V4L2 camera: what is plugged in now, to see what comes later.
    fn plugged_in(&self) -> Option<Arrivals> {
        let is_v4l2 = matches!(self.settings.source, Source::V4l2(_));
        is_v4l2.then(|| Arrivals::now(&Sysfs::default()))
    }

    /// Waits before the source is opened again. For a camera that was just plugged in nobody waits
    /// half a minute; whether it is the right one shows when it is opened.
    fn wait(&self, wait: Duration, before: Option<&Arrivals>) -> Waited {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.stopped_within(left.min(PLUG_LOOK)) {
                return Waited::Stopping;
            }
            if before.is_some_and(|before| before.anything_new(&Sysfs::default())) {
                return Waited::PluggedIn;
            }
            if left <= PLUG_LOOK {
                return Waited::Whole;
            }
        }
    }

    /// Whose time its frames carry.
    pub fn timing(settings: &CameraSettings) -> Timing {
        match settings.is_recording() {
            true => Timing::Recording { start: settings.start_time },
            false => Timing::Live,
        }
    }

    /// Waits, with the device let go, until the camera is wanted again; true if the agent stops. A
    /// recording misses nothing meanwhile, so it has no gap.
    fn off_duty(&mut self, mut off: Off) -> bool {
        let camera = self.settings.name.clone();
        let mut told = self.settings.is_recording();
        self.outlet.flush();
        loop {
            let why = off.text();
            tracing::info!(target: "capture", %camera, "camera {camera} captures nothing: {why}");
            self.account.closed(CameraState::Paused, Some(why));
            let next = loop {
                told = told || self.outlet.miss(off.reason());
                if self.stopped_within(if told { LOOK_AROUND } else { NUMBERS_PAUSE }) {
                    return true;
                }
                match self.duty.off(&*self.clock) {
                    Some(still) if still == off => {}
                    next => break next,
                }
            };
            let Some(next) = next else {
                tracing::info!(target: "capture", %camera, "camera {camera} is wanted again");
                self.account.set_state(CameraState::Opening, None);
                return false;
            };
            told = told && (next.reason() == off.reason() || self.settings.is_recording());
            off = next;
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
            Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) | Source::TestPattern(_) => None,
        }
    }

    /// From opening the source to its end, and to its being closed.
    fn session(
        &mut self,
        place: &mut Place,
        stamper: &mut Stamper,
    ) -> Result<Finish, CaptureError> {
        if let Some(off) = self.duty.off(&*self.clock) {
            return Ok(Finish::OffDuty(off));
        }
        if let (threads, true) = self.left_behind.look() {
            let source_name = super::source::name(&self.settings.source);
            return Err(CaptureError::AllStuck { source_name, threads });
        }
        let decoding = Arc::new(Decoding::default());
        let patience = seconds(self.settings.watch.stuck_after_s);
        let opening = Opening {
            source: self.settings.source.clone(),
            picture: self.settings.picture,
            decoders: Arc::clone(&self.decoders),
            decoding: Arc::clone(&decoding),
            after_ns: place.done_ns,
            silence: seconds(self.settings.watch.stall_after_s).min(patience),
        };
        let mut reader = Reader::start(self.settings.name.as_str(), opening, patience)?;
        let outcome = self.read(&mut reader, place, stamper);
        let Some(thread) = reader.close(&self.stop) else {
            return outcome;
        };
        self.left_behind.add(thread);
        match outcome {
            Ok(Finish::Ended | Finish::Stopping | Finish::OffDuty(_))
            | Err(CaptureError::Stuck { .. }) => {}
            // It ended, and the driver does not let go of it.
            Ok(Finish::BetterDecoder) | Err(_) => {
                match &outcome {
                    Err(CaptureError::DecoderFailed { element, why, .. }) => {
                        self.blame(element, why);
                    }
                    _ => self.suspect(&decoding),
                }
                let source_name = super::source::name(&self.settings.source);
                return Err(CaptureError::Stuck { source_name, silence: patience });
            }
        }
        if outcome.is_err() {
            self.suspect(&decoding);
        }
        outcome
    }

    /// A thread hangs: if it may hang in the decoder, another decoder is used from now on.
    fn suspect(&self, decoding: &Decoding) {
        if let Some(element) = decoding.may_hang() {
            self.blame(&element, "a thread hangs, and may hang in it");
        }
    }

    fn blame(&self, element: &str, why: &str) -> Verdict {
        self.account.decoder_failed(element);
        self.decoders.failed(element, why)
    }

    fn read(
        &mut self,
        reader: &mut Reader,
        place: &mut Place,
        stamper: &mut Stamper,
    ) -> Result<Finish, CaptureError> {
        let mut sampler = match place.done_ns {
            Some(done_ns) => Sampler::after(self.settings.sampling, done_ns),
            None => Sampler::new(self.settings.sampling),
        };
        self.watch.begin_anew();
        let mut stands_in = None;
        let mut last_frame = Instant::now();
        loop {
            if self.stopping() {
                return Ok(Finish::Stopping);
            }
            if let Some(off) = self.duty.off(&*self.clock) {
                return Ok(Finish::OffDuty(off));
            }
            self.outlet.close_old_run();
            match reader.next(LOOK_AROUND)? {
                Report::Opened(opened) => {
                    // Finding it and its modes is not its silence.
                    last_frame = Instant::now();
                    self.told(&opened);
                }
                Report::Began(in_use) => {
                    stands_in = self.stand_in(&in_use);
                    self.running(in_use);
                }
                Report::Picture(picture) => {
                    last_frame = Instant::now();
                    let handed = self.take(picture, place, &mut sampler, stamper);
                    if handed == Handed::Stopping {
                        return Ok(Finish::Stopping);
                    }
                    // Waiting for the detector is not the source's silence.
                    last_frame = last_frame.max(Instant::now());
                }
                // Loading a plugin from a slow disk takes longer than a camera may be silent.
                Report::Nothing if self.decoders.are_probed() => last_frame = Instant::now(),
                Report::Nothing => self.check_for_stall(last_frame)?,
                Report::Signal(there) => self.watch.signal(there),
                Report::End { .. } if self.settings.repeats() => {
                    place.pass_began_ns += place.seen_ns.take().unwrap_or_default() + FRAME_GAP_NS;
                    reader.rewind();
                }
                Report::End { .. } if self.settings.is_live() => return Err(self.live_ended()),
                Report::End { duration_ns } => {
                    return self.whole(duration_ns, place).map(|()| Finish::Ended);
                }
            }
            self.judge_pictures();
            if let Some(better) = stands_in.as_deref().and_then(|it| self.comeback.look(it)) {
                self.better_decoder(&better);
                return Ok(Finish::BetterDecoder);
            }
        }
    }

    /// The decoder in use, which may stand in for a better one that comes back. A recording is not
    /// interrupted for that.
    fn stand_in(&self, in_use: &InUse) -> Option<String> {
        let turn = in_use.turn.as_ref().filter(|_| !self.settings.is_recording())?;
        Some(turn.element.clone())
    }

    fn take(
        &mut self,
        picture: Picture,
        place: &mut Place,
        sampler: &mut Sampler,
        stamper: &mut Stamper,
    ) -> Handed {
        let Picture { planes, media_time_ns, age, lent } = picture;
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
        // The detector may take seconds to get to it. Until then the driver would lack a buffer, and a
        // camera that is gone could not be let go of.
        let planes = if lent { planes.copied() } else { planes };
        self.watch.picture(&planes, Instant::now());
        let stamp = stamper.stamp(&*self.clock, media_time_ns, age);
        let position = place.fingerprint.clone().map(|fingerprint| SourcePosition {
            fingerprint,
            media_time_ns,
            at_end: false,
        });
        let sampled = Sampled { stamp, planes, position };
        match (self.number(), self.settings.waits_for_detector()) {
            (Ok(seq), true) => self.outlet.hand_on(seq, sampled),
            (Ok(seq), false) => self.outlet.offer(seq, sampled),
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
        let limit = seconds(self.settings.watch.stall_after_s);
        if self.settings.is_live() && last_frame.elapsed() >= limit {
            return Err(CaptureError::Stalled {
                source_name: super::source::name(&self.settings.source),
                silence: limit,
            });
        }
        Ok(())
    }

    /// Says once when its pictures begin to look wrong, and once when they are well again.
    fn judge_pictures(&self) {
        let picture = self.watch.state();
        if !self.account.set_picture(picture) {
            return;
        }
        let camera = &self.settings.name;
        match picture {
            Some(PictureState::Frozen) => tracing::warn!(
                target: "capture", %camera,
                "camera {camera}: the same picture for {} s; it may be frozen, or the scene be still",
                self.settings.watch.frozen_after_s.unwrap_or(super::watch::FROZEN_AFTER_S)
            ),
            Some(PictureState::Black) => {
                tracing::warn!(target: "capture", %camera, "camera {camera}: the picture is black")
            }
            Some(PictureState::NoSignal) => {
                tracing::warn!(target: "capture", %camera, "camera {camera}: no signal at its input")
            }
            Some(PictureState::Changing) => {
                tracing::info!(target: "capture", %camera, "camera {camera}: its pictures change")
            }
            None => {}
        }
    }

    /// A container that lost its tail often just ends. It is taken as cut off when a tenth of what it
    /// promises, and more than a second, is not there; a soundtrack may be a little longer.
    fn whole(&self, duration_ns: Option<u64>, place: &Place) -> Result<(), CaptureError> {
        let read_ns = place.seen_ns.unwrap_or_default();
        match duration_ns {
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
    fn running(&self, in_use: InUse) {
        let camera = &self.settings.name;
        let decoder = in_use.element.clone().unwrap_or_else(|| "none".to_owned());
        let source = super::source::name(&self.settings.source);
        match in_use.turn.as_ref().and_then(|turn| turn.degraded.as_deref()) {
            None => tracing::info!(
                target: "capture", %camera, decoder,
                "camera {camera}: frames flow from {source} (decoder {decoder})"
            ),
            Some(degraded) => tracing::warn!(
                target: "capture", %camera, decoder,
                "camera {camera}: frames flow from {source}, degraded: {degraded}"
            ),
        }
        self.account.set_decoder(in_use);
        self.account.set_state(CameraState::Running, None);
    }

    /// After a failure of the decoder another takes over at once, since nothing is wrong with the
    /// source. When there is none left, the stream may be at fault, or this machine: that error is
    /// given back, and leaves what is not read of a recording to the next start.
    fn another_decoder(&self, error: CaptureError) -> Option<CaptureError> {
        let CaptureError::DecoderFailed { source_name, element, why } = &error else {
            return Some(error);
        };
        let camera = &self.settings.name;
        if self.blame(element, why) == Verdict::NextTakesOver {
            tracing::warn!(
                target: "capture", %camera, decoder = element, error = &error as &dyn std::error::Error,
                "camera {camera}: another decoder takes over"
            );
            self.account.opening(Some(chain(&error)));
            return None;
        }
        Some(CaptureError::NoDecoderLeft {
            source_name: source_name.clone(),
            element: element.clone(),
            why: why.clone(),
        })
    }

    /// Says which mode of a V4L2 camera is used, and which of its settings it did not take.
    fn told(&self, opened: &Opened) {
        let (camera, Opened { device, name, mode, why, .. }) = (&self.settings.name, opened);
        tracing::info!(
            target: "capture", %camera, device, mode = %mode,
            "camera {camera}: {name} at {device} gives {mode}: {why}"
        );
        for problem in &opened.problems {
            tracing::warn!(target: "capture", %camera, "camera {camera}: source.v4l2.{problem}");
        }
        self.account.set_untaken(&opened.problems);
    }

    fn better_decoder(&self, better: &str) {
        let camera = &self.settings.name;
        tracing::info!(
            target: "capture", %camera, decoder = better,
            "camera {camera}: {better} decodes again; the source is opened anew to use it"
        );
        self.account.opening(None);
    }

    fn failed(&mut self, error: &CaptureError, wait: Duration) {
        let camera = &self.settings.name;
        tracing::warn!(
            target: "capture", %camera, error = error as &dyn std::error::Error,
            wait_ms = wait.as_millis() as u64,
            "camera {camera} failed and will be opened again"
        );
        // While a thread hangs in its driver, whatever else fails comes of that.
        let state = match self.left_behind.look() {
            (0, _) => CameraState::Failed,
            _ => CameraState::Stuck,
        };
        self.account.closed(state, Some(chain(error)));
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

fn seconds(n: u32) -> Duration {
    Duration::from_secs(u64::from(n))
}

const SECOND_NS: u64 = 1_000_000_000;
/// Between the passes of a repeated file: about a frame.
const FRAME_GAP_NS: u64 = 40_000_000;
