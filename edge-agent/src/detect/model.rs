//! The model: its file, its description, and that the two fit.

use std::path::{Path, PathBuf};

use ort::session::Session;
use picket_onnx::outlet::{chosen, float32, side};
use picket_onnx::{FileError, Provider, Runtime};

use super::candidate::{Candidate, Output, OutputError};
use super::description::{Decoder, Description, DescriptionError};
use super::settings::DetectSettings;
use super::{centerface, yolo, yunet};

/// The section of the config that names model and runtime.
pub(super) const SECTION: &str = "detect";

/// A model's file, as it was read.
pub struct ModelFile {
    file: picket_onnx::ModelFile,
    /// How it is fed and read.
    pub description: Description,
}

/// A loaded model.
pub struct Model {
    /// Ready to compute.
    pub session: Session,
    /// Name of its picture input.
    pub input: String,
    /// Width and height of its picture, if it fixes them.
    pub fixed_px: Option<(u32, u32)>,
    /// Names of the outputs that are read, in the order in which the decoder takes them.
    pub outputs: Vec<String>,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file, or what is to compute it.
    #[error(transparent)]
    File(FileError),
    /// Nothing says how to feed and read it.
    #[error("detect.model: cannot tell how {} is fed and read", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<DescriptionError>,
    },
    /// It is not the model that is described.
    #[error("detect.model: {} does not fit its description: {what}", path.display())]
    Unlike {
        /// The file.
        path: PathBuf,
        /// What it lacks, and what would be right.
        what: String,
    },
}

impl ModelFile {
    /// Reads the file, checks its digest and finds its description.
    pub fn read(settings: &DetectSettings) -> Result<Self, ModelError> {
        let (path, sha256) = (&settings.model, settings.model_sha256.as_deref());
        let file = picket_onnx::ModelFile::read(SECTION, path, sha256).map_err(ModelError::File)?;
        match Description::find(path, &file.sha256, settings.model_description.as_deref()) {
            Ok(description) => Ok(Self { file, description }),
            Err(source) => {
                Err(ModelError::Description { path: path.clone(), source: Box::new(source) })
            }
        }
    }

    /// Loads it, to be computed by this provider.
    pub fn open(
        &self,
        runtime: &Runtime,
        provider: Provider,
        threads: usize,
    ) -> Result<Model, ModelError> {
        let session = self.file.open(runtime, provider, threads).map_err(ModelError::File)?;
        let refuse = |what| ModelError::Unlike { path: self.path().to_owned(), what };
        let (input, fixed_px) = input(&session, &self.description).map_err(refuse)?;
        let outputs = outputs(&session, &self.description).map_err(refuse)?;
        Ok(Model { session, input, fixed_px, outputs })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// SHA-256 of it, hex.
    pub fn sha256(&self) -> &str {
        &self.file.sha256
    }
}

/// The input's name, and its size if it is fixed.
fn input(
    session: &Session,
    description: &Description,
) -> Result<(String, Option<(u32, u32)>), String> {
    let input = chosen("input", session.inputs(), description.input.name.as_deref())?;
    let name = input.name().to_owned();
    let shape = float32("input", input)?;
    match *shape {
        [batch, ..] if batch > 1 => Err(format!(
            "its input {name} takes {batch} pictures at a time; export it for one, or for any number"
        )),
        [_, 3, height, width] if height < 0 && width < 0 => Ok((name, None)),
        [_, 3, height, width] => match (side(width), side(height)) {
            (Some(width), Some(height)) => Ok((name, Some((width, height)))),
            _ => Err(format!(
                "its input {name} is {width} wide and {height} high, where below 0 means any; export \
                 it with both fixed, up to 8192, or both free"
            )),
        },
        _ => Err(format!(
            "its input {name} has the shape {shape:?}, and must have 1 x 3 x height x width"
        )),
    }
}

/// The names of the outputs that the decoder takes.
fn outputs(session: &Session, description: &Description) -> Result<Vec<String>, String> {
    let wanted: Vec<Option<&str>> = match description.decoder {
        Decoder::Yunet => yunet::OUTPUTS.map(Some).to_vec(),
        Decoder::CenterFace => centerface::OUTPUTS.map(Some).to_vec(),
        _ => vec![description.output.as_deref()],
    };
    let find = |name: Option<&str>| {
        let output = chosen("output", session.outputs(), name)?;
        float32("output", output)?;
        Ok(output.name().to_owned())
    };
    wanted.into_iter().map(find).collect()
}

/// The things that reach a score, in pixels of a (filled up) picture of this size.
pub fn decode(
    description: &Description,
    outputs: &[Output<'_>],
    padded_px: (u32, u32),
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let labels = description.labels.len();
    let one = || outputs.first().copied().unwrap_or(Output { name: "", shape: &[], values: &[] });
    match description.decoder {
        Decoder::Yunet => yunet::decode(outputs, padded_px, least_score),
        Decoder::CenterFace => centerface::decode(outputs, padded_px, least_score),
        Decoder::YoloV5 => yolo::decode_v5(&one(), labels, least_score),
        Decoder::YoloV8 => yolo::decode_v8(&one(), labels, least_score),
        Decoder::YoloV10 => yolo::decode_v10(&one(), labels, least_score),
        Decoder::Yolox => yolo::decode_x(&one(), labels, padded_px, least_score),
    }
}
