//! The one thread that looks at the frames of all cameras.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, Select, Sender};
use picket_wire::observation::{Detection, FrameFate, Observation, Reason, Skip};
use picket_wire::{CameraName, Picture, observation};

use super::detector::Detector;
use super::jpeg::{Encoder, Jpeg};
use super::motion::{Gate, Motion};
use super::settings::PublishSettings;
use super::still::StillRun;
use super::{CameraInput, Observed};
use crate::capture::{Captured, Frame};

/// How often runs that are still open are looked after, while no frame comes.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// The loop turns at least this often, so that standing still can be told from having no frame.
const TURN: Duration = Duration::from_secs(1);

/// One camera, as detection has it.
pub(super) struct Camera {
    name: CameraName,
    publish: PublishSettings,
    frames: Receiver<Captured>,
    /// `None` if every frame is looked at.
    gate: Option<Gate>,
    still: StillRun,
}

impl Camera {
    /// Of which nothing was seen.
    pub fn new(input: CameraInput) -> Self {
        let CameraInput { name, gated, motion, publish, frames } = input;
        let gate = gated.then(|| Gate::new(motion));
        Self { name, publish, frames, gate, still: StillRun::default() }
    }

    /// The gate's word on a frame, if there is a gate.
    fn judge(&mut self, frame: &Frame) -> Option<Motion> {
        let gate = self.gate.as_mut()?;
        Some(gate.judge(frame.planes.y(), frame.planes.range(), frame.stamp.mono_us))
    }
}

pub(super) struct Worker {
    pub detector: Detector,
    pub encoder: Encoder,
    pub cameras: Vec<Camera>,
    pub out: Sender<Observed>,
    /// What is to be handed on, in this order.
    pub outbox: Vec<Observed>,
    /// Counts the loop's turns.
    pub turns: Arc<AtomicU64>,
}

impl Worker {
    /// Until every camera's channel is closed and empty, or nobody takes observations any more.
    pub fn run(mut self) {
        while !self.cameras.is_empty() {
            self.turns.fetch_add(1, Ordering::Relaxed);
            match self.next() {
                Some((index, Ok(captured))) => self.look_at(index, captured),
                Some((index, Err(RecvError))) => {
                    self.close_run(index);
                    self.cameras.remove(index);
                }
                None => self.look_after_runs(),
            }
            if self.hand_on().is_err() {
                return;
            }
        }
    }

    /// Waits for a frame of any camera, for the time until there is something else to do.
    fn next(&self) -> Option<(usize, Result<Captured, RecvError>)> {
        // Of the cameras that have a frame one is drawn by chance, so that none is starved
        // whatever the others' rates; a round would have to remember where it was.
        let mut select = Select::new();
        for camera in &self.cameras {
            select.recv(&camera.frames);
        }
        let open = self.cameras.iter().any(|camera| camera.still.is_open());
        let ready = select.select_timeout(if open { LOOK_AFTER } else { TURN }).ok()?;
        let index = ready.index();
        Some((index, ready.recv(&self.cameras[index].frames)))
    }

    fn hand_on(&mut self) -> Result<(), crossbeam_channel::SendError<Observed>> {
        self.outbox.drain(..).try_for_each(|observed| self.out.send(observed))
    }

    fn look_after_runs(&mut self) {
        let now = Instant::now();
        let old = self.cameras.iter_mut().filter_map(|camera| camera.still.close_old(now));
        self.outbox.extend(old.map(Observed::Skipped));
    }

    /// Hands on the run of still frames, before what comes after them.
    fn close_run(&mut self, index: usize) {
        let closed = self.cameras[index].still.close();
        self.outbox.extend(closed.map(Observed::Skipped));
    }

    fn look_at(&mut self, index: usize, captured: Captured) {
        match captured {
            Captured::Skipped(skip) => {
                self.close_run(index);
                self.outbox.push(Observed::Skipped(skip));
            }
            Captured::Ended { camera, position } => {
                self.close_run(index);
                self.outbox.push(Observed::Ended { camera, position });
            }
            Captured::Frame(frame) => match self.cameras[index].judge(&frame) {
                Some(Motion { looks: false, .. }) => self.pass_by(index, frame),
                motion => {
                    self.close_run(index);
                    let observed = self.look_at_frame(index, frame, motion);
                    self.outbox.push(observed);
                }
            },
        }
    }

    fn pass_by(&mut self, index: usize, frame: Frame) {
        let camera = &mut self.cameras[index];
        metrics::counter!(
            "picket_agent_detect_still_total", "camera" => camera.name.to_string()
        )
        .increment(1);
        self.outbox.extend(camera.still.add(frame).map(Observed::Skipped));
    }

    fn look_at_frame(&mut self, index: usize, frame: Frame, motion: Option<Motion>) -> Observed {
        let camera = self.cameras[index].name.to_string();
        let began = Instant::now();
        let found = self.detector.detect(&frame.planes);
        metrics::histogram!("picket_agent_detect_seconds").record(began.elapsed().as_secs_f64());
        metrics::counter!("picket_agent_detect_frames_total", "camera" => camera.clone())
            .increment(1);
        match found {
            Ok(detections) => {
                metrics::counter!("picket_agent_detect_objects_total", "camera" => camera)
                    .increment(detections.len() as u64);
                if let (Some(gate), false) = (&mut self.cameras[index].gate, detections.is_empty())
                {
                    gate.found(frame.stamp.mono_us);
                }
                self.observed(index, frame, motion, detections)
            }
            Err(error) => {
                metrics::counter!("picket_agent_detect_failed_total", "camera" => camera.clone())
                    .increment(1);
                tracing::error!(
                    target: "detect", camera, seq = frame.id.seq,
                    error = &error as &dyn std::error::Error,
                    "camera {camera}: frame {} could not be looked at", frame.id.seq
                );
                Observed::Skipped(failed(frame))
            }
        }
    }

    fn observed(
        &mut self,
        index: usize,
        frame: Frame,
        motion: Option<Motion>,
        detections: Vec<Detection>,
    ) -> Observed {
        let publishes = self.cameras[index].publish.policy.publishes(detections.len());
        let (picture, picture_lost) = match publishes.then(|| self.picture(index, &frame)) {
            None => (None, None),
            Some(Some(picture)) => (Some(picture), None),
            Some(None) => (None, Some(Reason::from(Reason::ENCODE_FAILED))),
        };
        let identity = self.detector.identity();
        let observation = Observation {
            id: frame.id,
            stamp: frame.stamp,
            frame_width: frame.planes.width(),
            frame_height: frame.planes.height(),
            detector: observation::Detector {
                name: identity.model_name.clone(),
                model_sha256: identity.model_sha256.clone(),
            },
            motion_score: motion.map(|motion| motion.score),
            // A picture that was lost is published all the same: a gap record of the frames says
            // that it is missing.
            frame: if publishes { FrameFate::Published } else { FrameFate::Withheld },
            detections,
        };
        Observed::Observation { observation, picture, picture_lost, position: frame.position }
    }

    fn picture(&mut self, index: usize, frame: &Frame) -> Option<Picture> {
        let Camera { name: camera, publish, .. } = &self.cameras[index];
        let began = Instant::now();
        let encoded = self.encoder.encode(&frame.planes, publish);
        metrics::histogram!("picket_agent_detect_encode_seconds")
            .record(began.elapsed().as_secs_f64());
        match encoded {
            Ok(Jpeg { width, height, bytes }) => {
                metrics::counter!(
                    "picket_agent_detect_pictures_total", "camera" => camera.to_string()
                )
                .increment(1);
                Some(Picture {
                    id: frame.id.clone(),
                    crop: None,
                    stamp: frame.stamp,
                    width,
                    height,
                    redacted: "none".to_owned(),
                    jpeg: bytes,
                })
            }
            Err(error) => {
                metrics::counter!(
                    "picket_agent_detect_pictures_failed_total", "camera" => camera.to_string()
                )
                .increment(1);
                tracing::error!(
                    target: "detect", %camera, seq = frame.id.seq,
                    error = &error as &dyn std::error::Error,
                    "camera {camera}: the picture of frame {} is lost", frame.id.seq
                );
                None
            }
        }
    }
}

fn failed(frame: Frame) -> Skip {
    let seq = frame.id.seq;
    let reason = Reason::from(Reason::DETECTOR_FAILED);
    Skip { id: frame.id, stamp: frame.stamp, first: seq, last: seq, reason }
}
