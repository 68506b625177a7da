//! `detect FILE`: what the detector finds in a video or a still, frame by frame, for people who
//! choose settings and for the comparison with an independent detector.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_onnx::Provider;
use picket_wire::observation::Detection;
use serde::Serialize;

use super::detector::{DetectError, Detector, LoadError};
use super::settings::{DetectSettings, SettingsError};
use crate::capture::CaptureError;
use crate::capture::pipeline::{Next, Pipeline};
use crate::capture::settings::{FileSource, Pace, Source};

/// The command's words.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// A video or a still.
    pub file: PathBuf,
    /// The model's file, instead of the configured one.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The description of a model of your own, if it does not lie beside the model.
    #[arg(long)]
    pub model_description: Option<PathBuf>,
    /// ONNX Runtime's shared library, instead of the configured one.
    #[arg(long)]
    pub runtime_library: Option<PathBuf>,
    /// What computes the model, instead of what is configured. Nothing takes over if it cannot be used.
    #[arg(long)]
    pub provider: Option<Provider>,
    /// Least score of a detection, 0 to 1.
    #[arg(long)]
    pub score_threshold: Option<f32>,
    /// Width at which the detector looks, pixels.
    #[arg(long)]
    pub input_width_px: Option<u32>,
    /// Write a JSON object per line and frame.
    #[arg(long)]
    pub json: bool,
    /// Write the pictures that the model saw into this folder, to the bit.
    #[arg(long, value_name = "FOLDER")]
    pub dump: Option<PathBuf>,
}

impl Arguments {
    /// The settings to use: those of the configuration, or the defaults, with what the command says
    /// instead.
    pub fn settings(
        &self,
        configured: Option<DetectSettings>,
    ) -> Result<DetectSettings, CommandError> {
        let mut settings = configured.unwrap_or_default();
        if let Some(model) = &self.model {
            settings.model.clone_from(model);
            settings.model_sha256 = None;
            settings.model_description = None;
        }
        if let Some(description) = &self.model_description {
            settings.model_description = Some(description.clone());
        }
        if let Some(provider) = self.provider {
            settings.provider = provider;
            settings.provider_required = true;
        }
        if let Some(library) = &self.runtime_library {
            settings.runtime_library.clone_from(library);
        }
        settings.score_threshold = self.score_threshold.unwrap_or(settings.score_threshold);
        settings.input_width_px = self.input_width_px.unwrap_or(settings.input_width_px);
        settings.check().map_err(CommandError::Settings)?;
        Ok(settings)
    }
}

/// What was found in one frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameReport {
    /// Counts from 0.
    pub frame: u64,
    /// Its place in the file, nanoseconds.
    pub media_time_ns: u64,
    /// Pixels of the frame.
    pub width: u32,
    /// Pixels of the frame.
    pub height: u32,
    /// Pixels of the picture the model saw.
    pub input_width: u32,
    /// Pixels of the picture the model saw.
    pub input_height: u32,
    /// What was found, in pixels of the frame.
    pub detections: Vec<Detection>,
}

/// Why a file could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A setting cannot work.
    #[error("cannot use the settings")]
    Settings(#[source] SettingsError),
    /// No detector.
    #[error("cannot load the detector")]
    Load(#[source] LoadError),
    /// The file cannot be read or decoded.
    #[error("cannot read {}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CaptureError,
    },
    /// The detector failed on a frame.
    #[error("cannot look at frame {frame} of {}", path.display())]
    Detect {
        /// The file.
        path: PathBuf,
        /// Which frame, from 0.
        frame: u64,
        /// Why.
        source: DetectError,
    },
    /// The pictures cannot be written.
    #[error("cannot write {}", path.display())]
    Dump {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The result cannot be written.
    #[error("cannot write the result")]
    Write(#[source] std::io::Error),
}

/// Looks through a file, and writes what is found in each frame to `out`. With `dump`, the pictures
/// that the model saw are written there as `frame-000000.ppm`. Gives the number of frames.
pub fn run(
    arguments: &Arguments,
    configured: Option<DetectSettings>,
    out: &mut dyn Write,
) -> Result<u64, CommandError> {
    let settings = arguments.settings(configured)?;
    let detector = Detector::load(&settings).map_err(CommandError::Load)?;
    let mut file = FileDetections::open(detector, &arguments.file)?;
    let mut frames = 0;
    while let Some(report) = file.next_frame()? {
        if let Some(folder) = &arguments.dump {
            write_ppm(folder, report.frame, &file.detector)?;
        }
        let line = match arguments.json {
            true => serde_json::to_string(&report).map_err(|e| CommandError::Write(e.into()))?,
            false => in_words(&report),
        };
        writeln!(out, "{line}").map_err(CommandError::Write)?;
        frames = report.frame + 1;
    }
    out.flush().map_err(CommandError::Write)?;
    Ok(frames)
}

/// What is found in a file, frame by frame.
pub struct FileDetections {
    path: PathBuf,
    pipeline: Pipeline,
    detector: Detector,
    frames: u64,
}

impl FileDetections {
    /// Opens a video or a still.
    pub fn open(detector: Detector, path: &Path) -> Result<Self, CommandError> {
        let failed = |source| CommandError::Capture { path: path.to_owned(), source };
        let source = FileSource { path: path.to_owned(), repeat: false, pace: Pace::None };
        let pipeline = Pipeline::open(&Source::File(source), None, None).map_err(failed)?;
        Ok(Self { path: path.to_owned(), pipeline, detector, frames: 0 })
    }

    /// The next frame's; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<FrameReport>, CommandError> {
        let path = || self.path.clone();
        let picture = loop {
            match self.pipeline.next(Duration::from_secs(1)) {
                Ok(Next::Picture(picture)) => break picture,
                Ok(Next::Nothing) => {}
                Ok(Next::End) => return Ok(None),
                Err(source) => {
                    return Err(CommandError::Capture { path: path(), source });
                }
            }
        };
        let frame = self.frames;
        self.frames += 1;
        let detections = self
            .detector
            .detect(&picture.planes)
            .map_err(|source| CommandError::Detect { path: path(), frame, source })?;
        let (input_width, input_height) = self.detector.seen().picture_px;
        Ok(Some(FrameReport {
            frame,
            media_time_ns: picture.media_time_ns,
            width: picture.planes.width(),
            height: picture.planes.height(),
            input_width,
            input_height,
            detections,
        }))
    }
}

fn in_words(report: &FrameReport) -> String {
    let seconds = report.media_time_ns as f64 / 1e9;
    let mut line =
        format!("frame {} at {seconds:.3} s: {} found", report.frame, report.detections.len());
    for Detection { box_px: [x, y, width, height], score, class, .. } in &report.detections {
        line += &format!("; {class} {score:.2} at {x:.0},{y:.0} {width:.0}x{height:.0}");
    }
    line
}

fn write_ppm(folder: &Path, frame: u64, detector: &Detector) -> Result<(), CommandError> {
    let path = folder.join(format!("frame-{frame:06}.ppm"));
    let (width, height) = detector.seen().picture_px;
    let mut bytes = format!("P6 {width} {height} 255\n").into_bytes();
    bytes.extend(detector.seen().rgb());
    std::fs::write(&path, bytes).map_err(|source| CommandError::Dump { path, source })
}
