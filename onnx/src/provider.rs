//! What computes the model: the processor, or an accelerator that a vendor's ONNX Runtime knows.

use std::fmt;
use std::num::NonZeroUsize;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;

/// What computes the model.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Provider {
    /// The processor. Every ONNX Runtime has it.
    #[default]
    Cpu,
    /// The processor, by XNNPACK. Untested.
    Xnnpack,
    /// ARM Compute Library. Untested.
    Acl,
    /// NVIDIA CUDA. Untested.
    Cuda,
    /// NVIDIA TensorRT. Untested.
    TensorRt,
}

impl Provider {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Xnnpack, Self::Acl, Self::Cuda, Self::TensorRt];

    /// As the config calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Xnnpack => "xnnpack",
            Self::Acl => "acl",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether the boxes it gives were compared with the processor's by a test that ran on it.
    pub fn is_tested(self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Those that a runtime was built with. Whether the device has what they need is seen when a model
    /// is loaded.
    pub fn in_runtime(_loaded: &Runtime) -> Vec<Self> {
        Self::ALL.into_iter().filter(|provider| provider.is_built_in()).collect()
    }

    /// Of the loaded runtime; that it says so of itself cannot fail in a way that matters.
    fn is_built_in(self) -> bool {
        let known = match self {
            Self::Cpu => Ok(true),
            Self::Xnnpack => ep::XNNPACK::is_available(),
            Self::Acl => ep::ACL::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
        };
        known.unwrap_or(false)
    }

    /// What is asked of the runtime for it: nothing for the processor, which is always there.
    pub(crate) fn request(self, threads: usize) -> Option<ExecutionProviderDispatch> {
        let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        let request = match self {
            Self::Cpu => return None,
            Self::Xnnpack => ep::XNNPACK::default().with_intra_op_num_threads(threads).build(),
            Self::Acl => ep::ACL::default().build(),
            Self::Cuda => ep::CUDA::default().build(),
            Self::TensorRt => ep::TensorRT::default().build(),
        };
        // By default `ort` logs that it failed and goes on with the processor, and nobody is told.
        Some(request.error_on_failure())
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A library that a provider needs and that is not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingLibrary(String);

impl MissingLibrary {
    /// Reads it off an error of ONNX Runtime's, which holds what the C library said. Nothing else tells
    /// it apart: the error's code is the one of all failures.
    pub(crate) fn in_error(message: &str) -> Option<Self> {
        let (before, _) = message.split_once(": cannot open shared object file")?;
        before.split_whitespace().next_back().map(|name| Self(name.to_owned()))
    }
}

impl fmt::Display for MissingLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The runtime asks for its own parts by their full path, for what others make by its name.
        if self.0.contains('/') {
            return write!(f, "; {} is missing: keep all files of a runtime in one folder", self.0);
        }
        write!(
            f,
            "; {} is missing: install what brings it, in the version that this runtime was built for, \
             or name its folder in LD_LIBRARY_PATH",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ONNX Runtime 1.31.1 for CUDA said on machines without the library.
    const NO_CUBLAS: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 \
         onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : \
         Failed to load library /opt/onnxruntime/libonnxruntime_providers_cuda.so with error: \
         libcublasLt.so.13: cannot open shared object file: No such file or directory\n";
    const NO_DRIVER: &str = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime \
         version ; GPU=-1 ; expr=cudaSetDevice(info_.device_id); ";

    #[test]
    fn a_library_that_a_provider_misses_is_named_with_what_to_do() {
        let said = MissingLibrary::in_error(NO_CUBLAS).unwrap().to_string();
        assert!(said.starts_with("; libcublasLt.so.13 is missing: install"), "{said}");
        assert!(said.contains("LD_LIBRARY_PATH"), "{said}");
        assert_eq!(MissingLibrary::in_error(NO_DRIVER), None);
    }

    #[test]
    fn a_runtime_without_its_own_parts_is_told_where_they_belong() {
        let said =
            NO_CUBLAS.replace("libcublasLt.so.13", "/opt/libonnxruntime_providers_shared.so");
        let said = MissingLibrary::in_error(&said).unwrap().to_string();
        assert!(said.contains("/opt/libonnxruntime_providers_shared.so is missing"), "{said}");
        assert!(said.contains("one folder") && !said.contains("LD_LIBRARY_PATH"), "{said}");
    }
}
