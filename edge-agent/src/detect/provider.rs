//! What computes the model: the processor, or an accelerator that a vendor's ONNX Runtime knows.

use std::fmt;
use std::num::NonZeroUsize;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::runtime::Runtime;

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
    pub(super) fn request(self, threads: usize) -> Option<ExecutionProviderDispatch> {
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
