//! One camera, as detection has it: what it is told, and what it remembers from frame to frame.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use picket_wire::CameraName;
use picket_wire::observation::{Detection, MAX_DETECTIONS};

use super::best_crop::BestCrop;
use super::motion::{Gate, Motion};
use super::preroll::Preroll;
use super::privacy::Redactor;
use super::publish::{PublishSettings, Publishing};
use super::report::{Report, Unreported};
use super::still::StillRun;
use super::{CameraInput, Eyepiece, Observed};
use crate::capture::{Captured, Frame};

pub(super) struct Camera {
    pub name: CameraName,
    pub frames: Receiver<Captured>,
    pub publish: PublishSettings,
    pub publishing: Publishing,
    pub redactor: Redactor,
    pub preroll: Preroll,
    pub best_crop: Option<BestCrop>,
    pub eyepiece: Arc<Eyepiece>,
    report: Report,
    /// `None` if every frame is looked at.
    gate: Option<Gate>,
    still: StillRun,
}

impl Camera {
    /// Of which nothing was seen.
    pub fn new(input: CameraInput) -> Self {
        let CameraInput { name, gated, mut motion, report, publish, privacy, eyepiece, frames } =
            input;
        // What moves behind a mask is nobody's business.
        motion.ignore.extend(privacy.mask.iter().cloned());
        let gate = gated.then(|| Gate::new(motion, publish.after_ms));
        Self {
            name,
            frames,
            publishing: Publishing::new(&publish),
            redactor: Redactor::new(&privacy),
            preroll: Preroll::new(publish.before_ms, publish.before_bytes as usize),
            best_crop: publish.best_crop.map(BestCrop::new),
            eyepiece,
            report: Report::new(&report),
            publish,
            gate,
            still: StillRun::default(),
        }
    }

    /// The gate's word on a frame, if there is a gate.
    pub fn judge(&mut self, frame: &Frame) -> Option<Motion> {
        let gate = self.gate.as_mut()?;
        Some(gate.judge(frame.planes.y(), frame.planes.range(), frame.stamp.mono_us))
    }

    /// A frame that is not looked at. Gives the run of such frames, if that closes it.
    pub fn pass_by(&mut self, frame: Frame) -> Option<Observed> {
        metrics::counter!("picket_agent_detect_still_total", "camera" => self.name.to_string())
            .increment(1);
        self.still.add(frame).map(Observed::Skipped)
    }

    /// Takes in all that was found in a frame, of every class and down to the score that the blur
    /// needs; gives what is reported of it.
    pub fn found(
        &mut self,
        candidates: Vec<Detection>,
        is_asked_for: impl Fn(&Detection) -> bool,
        frame_px: (u32, u32),
        now_us: u64,
    ) -> Vec<Detection> {
        self.redactor.found(&candidates, now_us);
        self.reported(candidates, is_asked_for, frame_px, |why| {
            metrics::counter!(
                "picket_agent_detect_unreported_total",
                "camera" => self.name.to_string(), "reason" => why.as_str()
            )
            .increment(1);
        })
    }

    /// What would be reported of these; the others are given to `refused`.
    pub fn reported(
        &self,
        candidates: Vec<Detection>,
        is_asked_for: impl Fn(&Detection) -> bool,
        frame_px: (u32, u32),
        refused: impl Fn(Unreported),
    ) -> Vec<Detection> {
        let mut reported = Vec::new();
        for detection in candidates.into_iter().filter(is_asked_for) {
            match self.report.refuses(&detection, frame_px) {
                None => reported.push(detection),
                Some(why) => refused(why),
            }
        }
        // The wire takes no more.
        reported.truncate(MAX_DETECTIONS);
        reported
    }

    /// Keeps the gate open after something was reported. Not after all that was found: the face on a
    /// poster that a zone excludes would keep it open for ever.
    pub fn keep_looking(&mut self, now_us: u64) {
        if let Some(gate) = &mut self.gate {
            gate.found(now_us);
        }
    }

    /// The run of still frames, closed: to be handed on before what comes after them.
    pub fn close_run(&mut self) -> Option<Observed> {
        self.still.close().map(Observed::Skipped)
    }

    /// All that is still open, closed: nothing follows.
    pub fn close(&mut self) -> impl Iterator<Item = Observed> {
        let crop = self.best_crop.as_mut().and_then(BestCrop::close);
        self.close_run().into_iter().chain(crop.map(Observed::Picture))
    }

    /// Whether something is open that must be closed in time, also if no frame comes.
    pub fn has_open(&self) -> bool {
        self.still.is_open() || self.best_crop.as_ref().is_some_and(BestCrop::is_open)
    }

    /// What of it is due by the clock.
    pub fn due(&mut self, now: Instant) -> impl Iterator<Item = Observed> {
        let crop = self.best_crop.as_mut().and_then(|best| best.over_by_clock(now));
        let run = self.still.close_old(now).map(Observed::Skipped);
        run.into_iter().chain(crop.map(Observed::Picture))
    }
}
