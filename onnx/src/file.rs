//! The model's file: that it is the one that was meant, and that the runtime can compute it.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use picket_service::config::hex;
use sha2::{Digest, Sha256};

use crate::provider::{MissingLibrary, Provider};
use crate::runtime::Runtime;

/// A model's file, as it was read.
pub struct ModelFile {
    section: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
    /// SHA-256 of it, hex.
    pub sha256: String,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file is not there, or cannot be read.
    #[error("{section}.model: cannot read {}", path.display())]
    Read {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the one that was meant.
    #[error(
        "{section}.model: {} has SHA-256 {found}, and {section}.model_sha256 asks for {expected}",
        path.display()
    )]
    WrongHash {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// The runtime has no such provider.
    #[error(
        "{section}.provider: the ONNX Runtime {} was built without {provider}; it has {has}",
        library.display()
    )]
    NoProvider {
        /// Of the config.
        section: &'static str,
        /// The runtime's file.
        library: PathBuf,
        /// What was asked for.
        provider: Provider,
        /// What there is.
        has: String,
    },
    /// ONNX Runtime does not take it.
    #[error("{section}.model: ONNX Runtime cannot load {}", path.display())]
    Load {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: ort::Error,
    },
    /// The provider does not start, or does not take the model.
    #[error(
        "{section}.provider: the ONNX Runtime {} cannot compute {} with {provider}{}",
        library.display(), path.display(), missing.as_ref().map(ToString::to_string).unwrap_or_default()
    )]
    OnProvider {
        /// Of the config.
        section: &'static str,
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
}

impl ModelFile {
    /// Reads the file, and checks its digest where one is asked for. `section` of the config names it
    /// in `model` and `model_sha256`.
    pub fn read(
        section: &'static str,
        path: &Path,
        sha256: Option<&str>,
    ) -> Result<Self, FileError> {
        let path = path.to_owned();
        // Read once and loaded from memory, so that what was checked is what is used.
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(FileError::Read { section, path, source }),
        };
        let found = hex(&Sha256::digest(&bytes));
        match sha256 {
            Some(expected) if !expected.eq_ignore_ascii_case(&found) => {
                let expected = expected.to_owned();
                Err(FileError::WrongHash { section, path, found, expected })
            }
            _ => Ok(Self { section, path, bytes, sha256: found }),
        }
    }

    /// Loads it, to be computed by this provider on so many threads.
    pub fn open(
        &self,
        runtime: &Runtime,
        provider: Provider,
        threads: usize,
    ) -> Result<Session, FileError> {
        let has = Provider::in_runtime(runtime);
        if !has.contains(&provider) {
            let has = has.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ");
            let (section, library) = (self.section, runtime.library().to_owned());
            return Err(FileError::NoProvider { section, library, provider, has });
        }
        options(runtime, provider, threads)
            .and_then(|mut options| options.commit_from_memory(&self.bytes))
            .map_err(|source| self.not_loaded(runtime, provider, source))
    }

    fn not_loaded(&self, runtime: &Runtime, provider: Provider, source: ort::Error) -> FileError {
        let (section, path) = (self.section, self.path.clone());
        if provider == Provider::Cpu {
            return FileError::Load { section, path, source };
        }
        let library = runtime.library().to_owned();
        let missing = MissingLibrary::in_error(source.message());
        FileError::OnProvider { section, library, path, provider, missing, source }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_one_that_was_meant_is_refused_by_its_section_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.onnx");
        let refused = |sha256| {
            let refused = ModelFile::read("classify", &path, sha256).map(|file| file.sha256);
            refused.map_err(|error| error.to_string())
        };
        let missing = refused(None).unwrap_err();
        assert!(
            missing.starts_with("classify.model: cannot read ") && missing.contains("mine.onnx")
        );
        std::fs::write(&path, "abc").unwrap();
        let right = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        assert_eq!(refused(Some(right)), Ok(right.to_lowercase()));
        let wrong = refused(Some("00")).unwrap_err();
        assert!(wrong.contains("classify.model_sha256 asks for 00"), "{wrong}");
    }
}
