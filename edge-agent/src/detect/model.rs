//! The model's file: that it is the one that was meant, and that it can be used.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};
use picket_service::config::hex;
use sha2::{Digest, Sha256};

use super::candidate::{Candidate, Output, OutputError};
use super::description::{Decoder, Description, DescriptionError};
use super::provider::{MissingLibrary, Provider};
use super::runtime::Runtime;
use super::settings::DetectSettings;
use super::{centerface, yolo, yunet};

/// A model's file, as it was read.
pub struct ModelFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// SHA-256 of it, hex.
    pub sha256: String,
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
    /// The file is not there, or cannot be read.
    #[error("detect.model: cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the one that was meant.
    #[error(
        "detect.model: {} has SHA-256 {found}, and detect.model_sha256 asks for {expected}",
        path.display()
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// Nothing says how to feed and read it.
    #[error("detect.model: cannot tell how {} is fed and read", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<DescriptionError>,
    },
    /// The runtime has no such provider.
    #[error(
        "detect.provider: the ONNX Runtime {} was built without {provider}; it has {has}",
        library.display()
    )]
    NoProvider {
        /// The runtime's file.
        library: PathBuf,
        /// What was asked for.
        provider: Provider,
        /// What there is.
        has: String,
    },
    /// ONNX Runtime does not take it.
    #[error("detect.model: ONNX Runtime cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ort::Error,
    },
    /// The provider does not start, or does not take the model.
    #[error(
        "detect.provider: the ONNX Runtime {} cannot compute {} with {provider}{}",
        library.display(), path.display(), missing.as_ref().map(ToString::to_string).unwrap_or_default()
    )]
    OnProvider {
        /// The runtime's file.
        library: PathBuf,
        /// The model's file.
        path: PathBuf,
        /// What was asked for.
        provider: Provider,
        /// The file that it looked for in vain, if that is why.
        missing: Option<MissingLibrary>,
        /// Why.
        source: ort::Error,
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
        let path = settings.model.clone();
        // Read once and loaded from memory, so that what was checked is what is used.
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ModelError::Read { path, source }),
        };
        let sha256 = hex(&Sha256::digest(&bytes));
        if let Some(expected) = &settings.model_sha256
            && !expected.eq_ignore_ascii_case(&sha256)
        {
            return Err(ModelError::WrongHash { path, found: sha256, expected: expected.clone() });
        }
        match Description::find(&path, &sha256, settings.model_description.as_deref()) {
            Ok(description) => Ok(Self { path, bytes, sha256, description }),
            Err(source) => Err(ModelError::Description { path, source: Box::new(source) }),
        }
    }

    /// Loads it, to be computed by this provider.
    pub fn open(
        &self,
        runtime: &Runtime,
        provider: Provider,
        threads: usize,
    ) -> Result<Model, ModelError> {
        let has = Provider::in_runtime(runtime);
        if !has.contains(&provider) {
            let has = has.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ");
            let library = runtime.library().to_owned();
            return Err(ModelError::NoProvider { library, provider, has });
        }
        let session = options(runtime, provider, threads)
            .and_then(|mut options| options.commit_from_memory(&self.bytes))
            .map_err(|source| self.not_loaded(runtime, provider, source))?;
        let refuse = |what| ModelError::Unlike { path: self.path.clone(), what };
        let (input, fixed_px) = input(&session, &self.description).map_err(refuse)?;
        let outputs = outputs(&session, &self.description).map_err(refuse)?;
        Ok(Model { session, input, fixed_px, outputs })
    }

    fn not_loaded(&self, runtime: &Runtime, provider: Provider, source: ort::Error) -> ModelError {
        let path = self.path.clone();
        if provider == Provider::Cpu {
            return ModelError::Load { path, source };
        }
        let library = runtime.library().to_owned();
        let missing = MissingLibrary::in_error(source.message());
        ModelError::OnProvider { library, path, provider, missing, source }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn options(
    runtime: &Runtime,
    provider: Provider,
    threads: usize,
) -> Result<SessionBuilder, ort::Error> {
    // XNNPACK has threads of its own, and two sets of them would share the cores.
    let own = if provider == Provider::Xnnpack { 1 } else { threads };
    // Threads that spin for work are faster by a little where nothing else runs. A camera box
    // decodes and encodes on the same cores.
    let options = Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(own)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    match provider.request(threads) {
        Some(request) => Ok(options.with_execution_providers([request])?),
        None => Ok(options),
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
    let side = |size: i64| u32::try_from(size).ok().filter(|size| (1..=8192).contains(size));
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

fn chosen<'a>(what: &str, outlets: &'a [Outlet], name: Option<&str>) -> Result<&'a Outlet, String> {
    let names: Vec<&str> = outlets.iter().map(Outlet::name).collect();
    let names = names.join(", ");
    match (name, outlets) {
        (Some(name), _) => outlets
            .iter()
            .find(|outlet| outlet.name() == name)
            .ok_or_else(|| format!("it has no {what} {name}; it has {names}")),
        (None, [one]) => Ok(one),
        (None, _) => Err(format!("it has several {what}s; name one in its description: {names}")),
    }
}

/// The shape of an input or output of such numbers.
fn float32<'a>(what: &str, outlet: &'a Outlet) -> Result<&'a [i64], String> {
    match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Ok(&shape[..]),
        ValueType::Tensor { ty, .. } => Err(format!(
            "its {what} {} is of {ty}; export it with numbers of 32 bits (f32)",
            outlet.name()
        )),
        _ => Err(format!("its {what} {} is no tensor", outlet.name())),
    }
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
