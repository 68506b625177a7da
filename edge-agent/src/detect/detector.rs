//! The detector: planes in, things out.

use ort::value::TensorRef;
use picket_onnx::{Provider, Runtime, RuntimeError};
use picket_service::logging::chain;
use picket_wire::CameraName;
use picket_wire::observation::{Detection, MAX_DETECTIONS};

use super::candidate::{Candidate, Output, OutputError};
use super::description::{Decoder, Description};
use super::model::{self, Model, ModelError, ModelFile};
use super::privacy::PrivacySettings;
use super::resize::ResizeError;
use super::settings::DetectSettings;
use super::suppression;
use super::tensor::{Form, Tensor};
use crate::capture::Planes;

/// Frame that a model is tried on when it is loaded, pixels.
const TRIAL_PX: (u32, u32) = (640, 360);
/// The labels of what has a face.
const PEOPLE: [&str; 2] = ["face", "person"];

/// What the detector is made of, as the status and the observations name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorIdentity {
    /// Name of the model in the manifest.
    pub model_name: String,
    /// SHA-256 of its file, hex.
    pub model_sha256: String,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
    /// What computes it.
    pub provider: Provider,
    /// Why it is not the provider that was asked for.
    pub fallback: Option<String>,
    /// What the model knows.
    pub labels: Vec<String>,
}

/// Faces are to be blurred, and the model finds none.
#[derive(Debug, thiserror::Error)]
#[error(
    "camera {camera}: privacy.blur: {model} knows neither `face` nor `person`, only {labels}, so \
     that faces would stay visible; use another detect.model, or cover their places with \
     privacy.mask"
)]
pub struct NoFaces {
    camera: CameraName,
    model: String,
    labels: String,
}

impl DetectorIdentity {
    /// Refuses to blur the faces of a camera's pictures with a model that finds no people.
    pub fn check_blur(
        &self,
        camera: &CameraName,
        privacy: &PrivacySettings,
    ) -> Result<(), NoFaces> {
        let knows_people = self.labels.iter().any(|label| PEOPLE.contains(&label.as_str()));
        if privacy.blur.is_none() || knows_people {
            return Ok(());
        }
        let (camera, model) = (camera.clone(), self.model_name.clone());
        Err(NoFaces { camera, model, labels: self.labels.join(", ") })
    }
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
    /// A thing is to be reported that the model does not know.
    #[error("detect.classes: {model} does not know {class:?}; its labels are {labels}")]
    NoClass {
        /// Name of the model.
        model: String,
        /// What was asked for.
        class: String,
        /// What there is.
        labels: String,
    },
    /// The model loads, and does not give what its decoder reads.
    #[error("detect.model: {path} cannot be used as its description says")]
    Trial {
        /// The file.
        path: String,
        /// Why.
        source: Box<DetectError>,
    },
    /// The provider that must be used cannot.
    #[error(
        "detect.provider = {provider} cannot be used, and detect.provider_required forbids the \
         processor instead"
    )]
    Provider {
        /// What was asked for.
        provider: Provider,
        /// Why it cannot.
        source: Box<LoadError>,
    },
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
        name: String,
        /// Why.
        source: Option<ort::Error>,
    },
    /// An output is not what its decoder reads.
    #[error("the model's outputs cannot be decoded for a picture of {0}x{1} pixels", px.0, px.1)]
    Decode {
        /// Pixels, filled up.
        px: (u32, u32),
        /// Why.
        source: OutputError,
    },
}

/// Finds things. One frame at a time.
pub struct Detector {
    model: Model,
    description: Description,
    identity: DetectorIdentity,
    tensor: Tensor,
    score_threshold: f32,
    nms_iou: f32,
    /// The labels that are reported; all of them if empty.
    classes: Vec<String>,
}

impl Detector {
    /// Loads the runtime and the model. A provider that cannot be used is replaced by the processor,
    /// unless it is required; the identity says so.
    pub fn load(settings: &DetectSettings) -> Result<Self, LoadError> {
        let runtime = Runtime::load(model::SECTION, &settings.runtime_library);
        let runtime = runtime.map_err(LoadError::Runtime)?;
        let file = ModelFile::read(settings).map_err(LoadError::Model)?;
        let provider = settings.provider;
        let source = match Self::load_on(provider, settings, &runtime, &file) {
            Err(error) if provider != Provider::Cpu => error,
            loaded_or_failed => return loaded_or_failed,
        };
        if settings.provider_required {
            return Err(LoadError::Provider { provider, source: Box::new(source) });
        }
        let mut detector = Self::load_on(Provider::Cpu, settings, &runtime, &file)?;
        detector.identity.fallback = Some(chain(&source));
        Ok(detector)
    }

    fn load_on(
        provider: Provider,
        settings: &DetectSettings,
        runtime: &Runtime,
        file: &ModelFile,
    ) -> Result<Self, LoadError> {
        check_classes(&settings.classes, &file.description)?;
        let model = file.open(runtime, provider, settings.threads).map_err(LoadError::Model)?;
        let description = file.description.clone();
        let form = Form::new(&description.input, model.fixed_px, settings.input_width_px);
        let identity = DetectorIdentity {
            model_name: description.name.clone(),
            model_sha256: file.sha256().to_owned(),
            runtime_version: runtime.version().to_owned(),
            provider,
            fallback: None,
            labels: description.labels.clone(),
        };
        let mut detector = Self {
            model,
            identity,
            tensor: Tensor::new(form),
            score_threshold: settings.score_threshold,
            nms_iou: nms_iou(&description, settings.nms_iou),
            description,
            classes: settings.classes.clone(),
        };
        // What a model gives is only known for sure when it gave it once.
        detector.tensor.make_room(TRIAL_PX);
        let path = || file.path().display().to_string();
        let refused = |source| LoadError::Trial { path: path(), source: Box::new(source) };
        detector.compute(1.0).map_err(refused)?;
        Ok(detector)
    }

    /// What it is made of.
    pub fn identity(&self) -> &DetectorIdentity {
        &self.identity
    }

    /// The picture it looked at last, as it saw it.
    pub fn seen(&self) -> &Tensor {
        &self.tensor
    }

    /// The things in a frame that are reported, the surest first, in pixels of the frame.
    pub fn detect(&mut self, planes: &Planes) -> Result<Vec<Detection>, DetectError> {
        let mut found = self.detect_from(planes, self.score_threshold)?;
        found.retain(|detection| self.reports(detection));
        found.truncate(MAX_DETECTIONS);
        Ok(found)
    }

    /// Whether things of its class are asked for, and it is sure enough.
    pub fn reports(&self, detection: &Detection) -> bool {
        let asked_for = self.classes.is_empty() || self.classes.contains(&detection.class);
        asked_for && detection.score >= self.score_threshold
    }

    /// Least score of what is reported.
    pub fn score_threshold(&self) -> f32 {
        self.score_threshold
    }

    /// The things of every class from another score on, also those that are not reported: a face is
    /// blurred whether or not faces are asked for. With a lower score, the first of the list of each
    /// class are those that [`detect`](Self::detect) gives: of two boxes that overlap the weaker is
    /// dropped, so that a weak one takes nothing from the sure ones.
    pub fn detect_from(
        &mut self,
        planes: &Planes,
        least_score: f32,
    ) -> Result<Vec<Detection>, DetectError> {
        self.tensor.fill(planes).map_err(DetectError::Resize)?;
        let candidates = self.compute(least_score)?;
        let kept = suppression::keep(candidates, self.nms_iou);
        let (width, height) = self.tensor.picture_px;
        let scale = [planes.width() as f32 / width as f32, planes.height() as f32 / height as f32];
        Ok(kept.iter().map(|candidate| self.detection(candidate, scale)).collect())
    }

    /// Every thing of at least this score, in pixels of the model's picture.
    fn compute(&mut self, least_score: f32) -> Result<Vec<Candidate>, DetectError> {
        let px = self.tensor.padded_px;
        let failed = |source| DetectError::Compute { px, source };
        let shape = [1, 3, px.1 as usize, px.0 as usize];
        let input =
            TensorRef::from_array_view((shape, self.tensor.data.as_slice())).map_err(failed)?;
        let inputs = ort::inputs![self.model.input.as_str() => input];
        let outputs = self.model.session.run(inputs).map_err(failed)?;
        let read = |name: &'_ String| {
            let unreadable = |source| DetectError::Output { name: name.clone(), source };
            let value = outputs.get(name).ok_or_else(|| unreadable(None))?;
            let tensor = value.try_extract_tensor::<f32>();
            tensor.map_err(|source| unreadable(Some(source)))
        };
        let names = &self.model.outputs;
        let tensors = names.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<Output<'_>> = names
            .iter()
            .zip(&tensors)
            .map(|(name, (shape, values))| Output { name, shape, values })
            .collect();
        model::decode(&self.description, &parts, px, least_score)
            .map_err(|source| DetectError::Decode { px, source })
    }

    fn detection(&self, candidate: &Candidate, [scale_x, scale_y]: [f32; 2]) -> Detection {
        let [x, y, width, height] = candidate.box_px;
        let (left, top) = self.tensor.corner_px;
        let point = |x: f32, y: f32| [(x - left as f32) * scale_x, (y - top as f32) * scale_y];
        let [x, y] = point(x, y);
        Detection {
            box_px: [x, y, width * scale_x, height * scale_y],
            score: candidate.score,
            class: self.description.labels[candidate.label].clone(),
            landmarks: candidate.landmarks.iter().flatten().map(|[x, y]| point(*x, *y)).collect(),
            quality: None,
        }
    }
}

/// The overlap from which a box is dropped; none for a model that has dropped them.
fn nms_iou(description: &Description, configured: f32) -> f32 {
    match description.decoder {
        Decoder::YoloV10 => 1.0,
        _ => configured,
    }
}

/// Refuses what the model does not know.
fn check_classes(classes: &[String], description: &Description) -> Result<(), LoadError> {
    let labels = &description.labels;
    match classes.iter().find(|class| !labels.contains(class)) {
        None => Ok(()),
        Some(class) => {
            let (model, class) = (description.name.clone(), class.clone());
            Err(LoadError::NoClass { model, class, labels: labels.join(", ") })
        }
    }
}
