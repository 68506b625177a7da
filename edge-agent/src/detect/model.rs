//! The model's file: that it is the one that was meant, and that it can be used.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use sha2::{Digest, Sha256};

use super::runtime::Runtime;
use super::settings::DetectSettings;
use super::yunet;
use picket_service::config::hex;

/// A loaded model.
pub struct Model {
    /// Ready to compute.
    pub session: Session,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// Name of its picture input.
    pub input: String,
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
    /// ONNX Runtime does not take it.
    #[error("detect.model: ONNX Runtime cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ort::Error,
    },
    /// It is a model of another kind.
    #[error("detect.model: {} is not a YuNet: {what}", path.display())]
    NotYunet {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: String,
    },
}

impl Model {
    /// Reads, checks and loads the model.
    pub fn load(settings: &DetectSettings, runtime: &Runtime) -> Result<Self, ModelError> {
        let path = &settings.model;
        // Read once and loaded from memory, so that what was checked is what is used.
        let bytes = std::fs::read(path)
            .map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let sha256 = hex(&Sha256::digest(&bytes));
        if let Some(expected) = &settings.model_sha256
            && !expected.eq_ignore_ascii_case(&sha256)
        {
            let (path, expected) = (path.clone(), expected.clone());
            return Err(ModelError::WrongHash { path, found: sha256, expected });
        }
        let session = open(&bytes, settings.threads, runtime)
            .map_err(|source| ModelError::Load { path: path.clone(), source })?;
        let input = check(path, &session)?;
        Ok(Self { session, sha256, input })
    }
}

fn open(bytes: &[u8], threads: usize, runtime: &Runtime) -> Result<Session, ort::Error> {
    // Threads that spin for work are faster by a little where nothing else runs. A camera box
    // decodes and encodes on the same cores.
    Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .commit_from_memory(bytes)
}

fn check(path: &Path, session: &Session) -> Result<String, ModelError> {
    let refuse = |what: String| ModelError::NotYunet { path: path.to_owned(), what };
    for name in yunet::OUTPUTS.iter().flatten() {
        if !session.outputs().iter().any(|output| output.name() == *name) {
            return Err(refuse(format!("it has no output {name}")));
        }
    }
    let [input] = session.inputs() else {
        return Err(refuse(format!("it has {} inputs, not one", session.inputs().len())));
    };
    match input.dtype().tensor_shape().map(|shape| shape.to_vec()).as_deref() {
        Some([_, 3, height, width]) if *height < 0 && *width < 0 => Ok(input.name().to_owned()),
        Some([_, 3, height, width]) => Err(refuse(format!(
            "its input is fixed to {width}x{height}; models/fetch.py makes one of any size"
        ))),
        shape => Err(refuse(format!("its input has the shape {shape:?}, not N x 3 x H x W"))),
    }
}
