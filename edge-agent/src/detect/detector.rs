//! The detector: planes in, faces out.

use ort::value::TensorRef;
use picket_wire::observation::{Detection, MAX_DETECTIONS};

use super::model::{Model, ModelError};
use super::resize::ResizeError;
use super::runtime::{Runtime, RuntimeError};
use super::settings::DetectSettings;
use super::suppression;
use super::tensor::Tensor;
use super::yunet::{self, Face, Grid, GridError, OUTPUTS, STRIDES};
use crate::capture::Planes;

/// What a detection is called on the wire.
const CLASS: &str = "face";

/// What the detector is made of, as the status and the observations name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorIdentity {
    /// Name of the model in the manifest.
    pub model_name: String,
    /// SHA-256 of its file, hex.
    pub model_sha256: String,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
}

/// Why there is no detector.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No runtime.
    #[error("cannot load ONNX Runtime")]
    Runtime(#[source] RuntimeError),
    /// No model.
    #[error("cannot load the model")]
    Model(#[source] ModelError),
}

/// Why one frame could not be looked at. The next one may be.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The frame cannot be brought to the model's size.
    #[error("cannot resize a frame for the model")]
    Resize(#[source] ResizeError),
    /// The model cannot be computed.
    #[error("cannot compute the model on a picture of {0}x{1} pixels", px.0, px.1)]
    Compute {
        /// Pixels, filled up.
        px: (u32, u32),
        /// Why.
        source: ort::Error,
    },
    /// An output is missing, or no list of numbers.
    #[error("the model's output {name} cannot be read")]
    Output {
        /// Which.
        name: &'static str,
        /// Why.
        source: Option<ort::Error>,
    },
    /// An output does not fit the picture.
    #[error("the model's outputs do not fit the picture")]
    Grid(#[source] GridError),
}

/// Finds faces. One frame at a time.
pub struct Detector {
    model: Model,
    identity: DetectorIdentity,
    tensor: Tensor,
    score_threshold: f32,
    nms_iou: f32,
    input_width_px: u32,
}

impl Detector {
    /// Loads the runtime and the model.
    pub fn load(settings: &DetectSettings) -> Result<Self, LoadError> {
        let runtime = Runtime::load(&settings.runtime_library).map_err(LoadError::Runtime)?;
        let model = Model::load(settings, &runtime).map_err(LoadError::Model)?;
        let identity = DetectorIdentity {
            model_name: settings.model_name.clone(),
            model_sha256: model.sha256.clone(),
            runtime_version: runtime.version().to_owned(),
        };
        Ok(Self {
            model,
            identity,
            tensor: Tensor::default(),
            score_threshold: settings.score_threshold,
            nms_iou: settings.nms_iou,
            input_width_px: settings.input_width_px,
        })
    }

    /// What it is made of.
    pub fn identity(&self) -> &DetectorIdentity {
        &self.identity
    }

    /// The picture it looked at last, as it saw it.
    pub fn seen(&self) -> &Tensor {
        &self.tensor
    }

    /// The faces in a frame, the surest first, in pixels of the frame.
    pub fn detect(&mut self, planes: &Planes) -> Result<Vec<Detection>, DetectError> {
        self.detect_from(planes, self.score_threshold)
    }

    /// The same from another score on. With a lower one, the first of the list are those that
    /// [`detect`](Self::detect) gives: of two boxes that overlap the weaker is dropped, so that a
    /// weak one takes nothing from the sure ones.
    pub fn detect_from(
        &mut self,
        planes: &Planes,
        least_score: f32,
    ) -> Result<Vec<Detection>, DetectError> {
        self.tensor.fill(planes, self.input_width_px).map_err(DetectError::Resize)?;
        let faces = self.compute(least_score)?;
        let boxes: Vec<[f32; 4]> = faces.iter().map(|face| face.box_px).collect();
        let scores: Vec<f32> = faces.iter().map(|face| face.score).collect();
        let mut kept = suppression::keep(&boxes, &scores, self.nms_iou);
        kept.truncate(MAX_DETECTIONS);
        let (width, height) = self.tensor.picture_px;
        let scale = [planes.width() as f32 / width as f32, planes.height() as f32 / height as f32];
        Ok(kept.into_iter().map(|index| detection(&faces[index], scale)).collect())
    }

    /// Every face of at least this score, in pixels of the model's picture.
    fn compute(&mut self, least_score: f32) -> Result<Vec<Face>, DetectError> {
        let px = self.tensor.padded_px;
        let failed = |source| DetectError::Compute { px, source };
        let shape = [1, 3, px.1 as usize, px.0 as usize];
        let input =
            TensorRef::from_array_view((shape, self.tensor.data.as_slice())).map_err(failed)?;
        let inputs = ort::inputs![self.model.input.as_str() => input];
        let outputs = self.model.session.run(inputs).map_err(failed)?;
        let values = |name: &'static str| {
            let value = outputs.get(name).ok_or(DetectError::Output { name, source: None })?;
            let read = value.try_extract_tensor::<f32>();
            read.map(|(_, values)| values)
                .map_err(|source| DetectError::Output { name, source: Some(source) })
        };
        let mut faces = Vec::new();
        for (stride, [class, object, boxes, landmarks]) in STRIDES.into_iter().zip(OUTPUTS) {
            let grid = Grid {
                stride,
                class: values(class)?,
                object: values(object)?,
                boxes: values(boxes)?,
                landmarks: values(landmarks)?,
            };
            yunet::decode(&grid, px, least_score, &mut faces).map_err(DetectError::Grid)?;
        }
        Ok(faces)
    }
}

fn detection(face: &Face, [scale_x, scale_y]: [f32; 2]) -> Detection {
    let [x, y, width, height] = face.box_px;
    Detection {
        box_px: [x * scale_x, y * scale_y, width * scale_x, height * scale_y],
        score: face.score,
        class: CLASS.to_owned(),
        landmarks: face.landmarks.iter().map(|[x, y]| [x * scale_x, y * scale_y]).collect(),
        quality: None,
    }
}
