//! The one thread that looks at the frames of all cameras.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, Select, Sender, never};
use picket_service::logging::chain;
use picket_wire::observation::{self, Detection, FrameFate, Observation, Reason, Skip};

use super::camera::Camera;
use super::detector::{DetectError, Detector};
use super::motion::Motion;
use super::pictures::Pictures;
use super::privacy::Masked;
use super::quality::Measure;
use super::{CameraInput, Observed};
use crate::capture::planes::PlanesError;
use crate::capture::{Captured, Frame};

/// How often what is still open is looked after, whatever else there is to do.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// The loop turns at least this often, so that standing still can be told from having no frame.
const TURN: Duration = Duration::from_secs(1);

/// Why one frame was not looked at.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("the privacy masks cannot be burned in")]
    Mask(#[source] PlanesError),
    #[error("the detector failed")]
    Detect(#[source] DetectError),
}

impl LookError {
    fn reason(&self) -> Reason {
        match self {
            Self::Mask(_) => Reason::REDACT_FAILED.into(),
            Self::Detect(_) => Reason::DETECTOR_FAILED.into(),
        }
    }
}

/// What comes next.
enum Next {
    /// From one camera, or its end.
    Of(usize, Result<Captured, RecvError>),
    /// A camera, or that none will come any more.
    Addition(Result<CameraInput, RecvError>),
}

pub(super) struct Worker {
    pub detector: Detector,
    pub measure: Measure,
    pub pictures: Pictures,
    pub cameras: Vec<Camera>,
    /// Cameras that come while it runs.
    pub additions: Receiver<CameraInput>,
    pub out: Sender<Observed>,
    /// What is to be handed on, in this order.
    pub outbox: Vec<Observed>,
    /// Counts the loop's turns.
    pub turns: Arc<AtomicU64>,
    /// When what is open was looked after last.
    pub looked_after: Instant,
}

impl Worker {
    /// Until every camera's channel is closed and empty and none can come any more, or nobody takes
    /// observations any more.
    pub fn run(mut self) {
        let mut may_grow = true;
        while may_grow || !self.cameras.is_empty() {
            self.turns.fetch_add(1, Ordering::Relaxed);
            match self.next() {
                Some(Next::Of(index, Ok(captured))) => self.look_at(index, captured),
                Some(Next::Of(index, Err(RecvError))) => self.remove(index),
                Some(Next::Addition(Ok(input))) => self.add(input),
                Some(Next::Addition(Err(RecvError))) => {
                    (may_grow, self.additions) = (false, never());
                }
                None => {}
            }
            self.look_after(Instant::now());
            if !self.hand_on() {
                return;
            }
        }
    }

    /// Closes what is due of every camera: of one that fell silent also while the others give frames
    /// without a pause.
    fn look_after(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked_after) >= LOOK_AFTER {
            self.looked_after = now;
            self.outbox.extend(self.cameras.iter_mut().flat_map(|camera| camera.due(now)));
        }
    }

    /// Takes a camera in; of a former one of its name first what still waits.
    fn add(&mut self, input: CameraInput) {
        if let Some(former) = self.cameras.iter().position(|camera| camera.name == input.name) {
            let waiting = self.cameras[former].frames.clone();
            waiting.try_iter().for_each(|captured| self.look_at(former, captured));
            self.remove(former);
        }
        self.cameras.push(Camera::new(input));
    }

    fn remove(&mut self, index: usize) {
        let mut camera = self.cameras.remove(index);
        self.outbox.extend(camera.close());
    }

    /// Waits for a frame of any camera, or for a camera, for the time until there is something else to do.
    fn next(&self) -> Option<Next> {
        // Of the cameras that have a frame one is drawn by chance, so that none is starved
        // whatever the others' rates; a round would have to remember where it was.
        let mut select = Select::new();
        for camera in &self.cameras {
            select.recv(&camera.frames);
        }
        select.recv(&self.additions);
        let open = self.cameras.iter().any(Camera::has_open);
        let ready = select.select_timeout(if open { LOOK_AFTER } else { TURN }).ok()?;
        let index = ready.index();
        Some(match self.cameras.get(index) {
            Some(camera) => Next::Of(index, ready.recv(&camera.frames)),
            None => Next::Addition(ready.recv(&self.additions)),
        })
    }

    /// False if nobody takes observations any more.
    fn hand_on(&mut self) -> bool {
        self.outbox.drain(..).all(|observed| self.out.send(observed).is_ok())
    }

    fn look_at(&mut self, index: usize, captured: Captured) {
        let camera = &mut self.cameras[index];
        let captured = match captured {
            Captured::Frame(frame) => match camera.judge(&frame) {
                Some(Motion { looks: false, .. }) => {
                    self.glance(index, &frame);
                    return self.outbox.extend(self.cameras[index].pass_by(frame));
                }
                motion => Ok((frame, motion)),
            },
            Captured::Skipped(skip) => Err(Observed::Skipped(skip)),
            Captured::Missed { id, reason } => Err(Observed::Missed { id, reason }),
            Captured::Ended { camera: name, position } => {
                // Also the best crop: nothing may follow.
                self.outbox.extend(camera.close());
                return self.outbox.push(Observed::Ended { camera: name, position });
            }
        };
        self.outbox.extend(camera.close_run());
        match captured {
            Ok((frame, motion)) => self.look_at_frame(index, frame, motion),
            Err(observed) => self.outbox.push(observed),
        }
    }

    fn look_at_frame(&mut self, index: usize, frame: Frame, motion: Option<Motion>) {
        let (name, came) = (self.cameras[index].name.to_string(), Instant::now());
        match self.find(index, &frame) {
            Ok((masked, detections)) => {
                metrics::counter!("picket_agent_detect_objects_total", "camera" => name)
                    .increment(detections.len() as u64);
                let camera = &mut self.cameras[index];
                if !detections.is_empty() {
                    camera.keep_looking(frame.stamp.mono_us);
                }
                if camera.eyepiece.looked_at(frame.stamp.mono_us, !detections.is_empty()) {
                    let redacted = camera.redactor.redact(&masked);
                    self.pictures.show(camera, &masked, redacted, &detections, came);
                }
                self.observe(index, frame, &masked, motion, detections);
            }
            Err(error) => {
                let seq = frame.id.seq;
                self.cameras[index].eyepiece.failed(chain(&error));
                metrics::counter!("picket_agent_detect_failed_total", "camera" => name.clone())
                    .increment(1);
                tracing::error!(
                    target: "detect", camera = name, seq, error = &error as &dyn std::error::Error,
                    "camera {name}: frame {seq} could not be looked at"
                );
                let (id, stamp, reason) = (frame.id, frame.stamp, error.reason());
                self.outbox.push(Observed::Skipped(Skip {
                    id,
                    stamp,
                    first: seq,
                    last: seq,
                    reason,
                }));
            }
        }
    }

    /// Shows a frame in which nothing moves to whoever looks along. Neither the gate nor the blur nor
    /// a count nor what is handed on learns of it: it is a frame that was not looked at.
    fn glance(&mut self, index: usize, frame: &Frame) {
        if !self.cameras[index].eyepiece.passed_by(frame.stamp.mono_us) {
            return;
        }
        let came = Instant::now();
        if let Err(error) = self.show_aside(index, frame, came) {
            self.cameras[index].eyepiece.failed(chain(&error));
        }
    }

    fn show_aside(&mut self, index: usize, frame: &Frame, came: Instant) -> Result<(), LookError> {
        let camera = &mut self.cameras[index];
        let masked = camera.redactor.mask(&frame.planes).map_err(LookError::Mask)?;
        let planes = masked.planes();
        let from = camera.redactor.least_score(self.detector.score_threshold());
        let candidates = self.detector.detect_from(planes, from).map_err(LookError::Detect)?;
        let redacted = camera.redactor.redact_aside(&masked, &candidates, frame.stamp.mono_us);
        let reports = |detection: &Detection| self.detector.reports(detection);
        let frame_px = (planes.width(), planes.height());
        let detections = camera.reported(candidates, reports, frame_px, |_| ());
        self.pictures.show(camera, &masked, redacted, &detections, came);
        Ok(())
    }

    /// What is reported of a frame, and the picture in which it was found.
    fn find(&mut self, index: usize, frame: &Frame) -> Result<(Masked, Vec<Detection>), LookError> {
        let camera = &mut self.cameras[index];
        let masked = camera.redactor.mask(&frame.planes).map_err(LookError::Mask)?;
        let planes = masked.planes();
        let began = Instant::now();
        let from = camera.redactor.least_score(self.detector.score_threshold());
        let candidates = self.detector.detect_from(planes, from);
        metrics::histogram!("picket_agent_detect_seconds").record(began.elapsed().as_secs_f64());
        metrics::counter!("picket_agent_detect_frames_total", "camera" => camera.name.to_string())
            .increment(1);
        let candidates = candidates.map_err(LookError::Detect)?;
        let frame_px = (planes.width(), planes.height());
        let reports = |detection: &Detection| self.detector.reports(detection);
        let mut detections = camera.found(candidates, reports, frame_px, frame.stamp.mono_us);
        for detection in &mut detections {
            detection.quality = self.measure.quality(planes.y(), detection);
        }
        Ok((masked, detections))
    }

    /// Hands on the observation of a frame and its pictures.
    fn observe(
        &mut self,
        index: usize,
        frame: Frame,
        masked: &Masked,
        motion: Option<Motion>,
        detections: Vec<Detection>,
    ) {
        let (camera, now_us) = (&mut self.cameras[index], frame.stamp.mono_us);
        if let Some(best) = &mut camera.best_crop {
            self.outbox.extend(best.over(now_us).map(Observed::Picture));
        }
        self.pictures.keep_best(camera, &frame, masked, &detections);
        let fate = camera.publishing.fate(detections.len(), now_us);
        let made = (fate != FrameFate::Withheld)
            .then(|| self.pictures.whole(camera, &frame, masked, fate))
            .transpose();
        // A picture that was lost is published all the same: a gap record of the frames says that
        // it is missing. One that was only possible never was.
        let (frame_fate, picture, picture_lost) = match (fate, made) {
            (FrameFate::Possible, Ok(Some(picture))) => {
                let cut = camera.preroll.keep(picture);
                metrics::counter!(
                    "picket_agent_detect_preroll_cut_total", "camera" => camera.name.to_string()
                )
                .increment(cut as u64);
                (FrameFate::Possible, None, None)
            }
            (FrameFate::Possible, _) => (FrameFate::Withheld, None, None),
            (fate, Ok(picture)) => (fate, picture, None),
            (fate, Err(error)) => (fate, None, Some(error.reason())),
        };
        if !detections.is_empty() {
            let before = camera.preroll.take(now_us);
            self.outbox.extend(before.map(Observed::Picture));
        }
        let identity = self.detector.identity();
        let observation = Observation {
            id: frame.id,
            stamp: frame.stamp,
            frame_width: masked.planes().width(),
            frame_height: masked.planes().height(),
            detector: observation::Detector {
                name: identity.model_name.clone(),
                model_sha256: identity.model_sha256.clone(),
            },
            motion_score: motion.map(|motion| motion.score),
            frame: frame_fate,
            detections,
        };
        let position = frame.position;
        self.outbox.push(Observed::Observation { observation, picture, picture_lost, position });
    }
}
