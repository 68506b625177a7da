//! The one thread that looks at the frames of all cameras.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender};
use picket_wire::observation::{Detection, FrameFate, Observation, Reason, Skip};
use picket_wire::{CameraName, Picture, observation};

use super::Observed;
use super::detector::Detector;
use super::jpeg::{Encoder, Jpeg};
use super::settings::PublishSettings;
use crate::capture::{Captured, Frame};

/// Where one camera's frames come from, and what is published of them.
pub(super) struct Input {
    pub camera: CameraName,
    pub publish: PublishSettings,
    pub frames: Receiver<Captured>,
}

pub(super) struct Worker {
    pub detector: Detector,
    pub encoder: Encoder,
    pub inputs: Vec<Input>,
    pub out: Sender<Observed>,
}

impl Worker {
    /// Until every camera's channel is closed and empty, or nobody takes observations any more.
    pub fn run(mut self) {
        while !self.inputs.is_empty() {
            // Of the cameras that have a frame one is drawn by chance, so that none is starved
            // whatever the others' rates; a round would have to remember where it was.
            let mut select = Select::new();
            for input in &self.inputs {
                select.recv(&input.frames);
            }
            let ready = select.select();
            let index = ready.index();
            let Ok(captured) = ready.recv(&self.inputs[index].frames) else {
                self.inputs.remove(index);
                continue;
            };
            let observed = self.look_at(index, captured);
            if self.out.send(observed).is_err() {
                return;
            }
        }
    }

    fn look_at(&mut self, index: usize, captured: Captured) -> Observed {
        match captured {
            Captured::Skipped(skip) => Observed::Skipped(skip),
            Captured::Ended { camera, position } => Observed::Ended { camera, position },
            Captured::Frame(frame) => self.look_at_frame(index, frame),
        }
    }

    fn look_at_frame(&mut self, index: usize, frame: Frame) -> Observed {
        let camera = self.inputs[index].camera.to_string();
        let began = Instant::now();
        let found = self.detector.detect(&frame.planes);
        metrics::histogram!("picket_agent_detect_seconds").record(began.elapsed().as_secs_f64());
        metrics::counter!("picket_agent_detect_frames_total", "camera" => camera.clone())
            .increment(1);
        match found {
            Ok(detections) => {
                metrics::counter!("picket_agent_detect_objects_total", "camera" => camera)
                    .increment(detections.len() as u64);
                self.observed(index, frame, detections)
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

    fn observed(&mut self, index: usize, frame: Frame, detections: Vec<Detection>) -> Observed {
        let publishes = self.inputs[index].publish.policy.publishes(detections.len());
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
            motion_score: None,
            // A picture that was lost is published all the same: a gap record of the frames says
            // that it is missing.
            frame: if publishes { FrameFate::Published } else { FrameFate::Withheld },
            detections,
        };
        Observed::Observation { observation, picture, picture_lost, position: frame.position }
    }

    fn picture(&mut self, index: usize, frame: &Frame) -> Option<Picture> {
        let Input { camera, publish, .. } = &self.inputs[index];
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
