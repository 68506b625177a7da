//! What detection is told: which model, how sure it must be, and what is published.

use std::path::{Path, PathBuf};

use picket_onnx::Provider;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The detector, which all cameras share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectSettings {
    /// The model's file: YuNet, CenterFace, or one of your own with a description beside it, see
    /// `models/README.md`; the default is where the package puts YuNet.
    #[serde(default = "default_model")]
    pub model: PathBuf,
    /// The description of a model of your own; that beside it, of the same name with `.toml` in place
    /// of `.onnx`, if unset. YuNet and CenterFace are known by their digest and need none.
    #[serde(default)]
    pub model_description: Option<PathBuf>,
    /// SHA-256 that the file must have, hex; not checked if unset.
    #[serde(default)]
    pub model_sha256: Option<String>,
    /// ONNX Runtime's shared library, the packaged one or a vendor's for its accelerator; the default
    /// is where the package puts its own.
    #[serde(default = "default_runtime_library")]
    pub runtime_library: PathBuf,
    /// What computes the model. All but `cpu` are untested, and need a vendor's `runtime_library`.
    #[serde(default)]
    pub provider: Provider,
    /// Refuse to start if `provider` cannot be used. Otherwise the processor takes over, and the log,
    /// the metrics and `doctor` say so.
    #[serde(default)]
    pub provider_required: bool,
    /// The things that are reported, by the model's labels; all of them if empty.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Least score of a detection, 0 to 1.
    #[serde(default = "default_score_threshold")]
    pub score_threshold: f32,
    /// Overlap from which the weaker of two boxes of one class is dropped, as intersection over union, 0 to 1.
    #[serde(default = "default_nms_iou")]
    pub nms_iou: f32,
    /// Width at which the detector looks, pixels; the height follows. A smaller frame is looked at
    /// as it is. Smaller is faster, and misses small faces. A model that fixes its size is given that.
    #[serde(default = "default_input_width_px")]
    pub input_width_px: u32,
    /// Threads that one frame is computed on.
    #[serde(default = "default_threads")]
    pub threads: usize,
}

fn default_model() -> PathBuf {
    "/usr/share/picket-edge-agent/yunet.onnx".into()
}

fn default_runtime_library() -> PathBuf {
    "/usr/lib/picket-edge-agent/libonnxruntime.so".into()
}

fn default_score_threshold() -> f32 {
    0.6
}

fn default_nms_iou() -> f32 {
    0.3
}

fn default_input_width_px() -> u32 {
    320
}

fn default_threads() -> usize {
    1
}

impl Default for DetectSettings {
    fn default() -> Self {
        Self::new(&default_model(), &default_runtime_library())
    }
}

/// A setting that cannot work, and what would.
#[derive(Debug, thiserror::Error)]
#[error("detect.{field} = {value}: must be {range}")]
pub struct SettingsError {
    field: &'static str,
    value: String,
    range: &'static str,
}

impl DetectSettings {
    /// The defaults, with this model and runtime.
    pub fn new(model: &Path, runtime_library: &Path) -> Self {
        Self {
            model: model.to_owned(),
            model_description: None,
            model_sha256: None,
            runtime_library: runtime_library.to_owned(),
            provider: Provider::default(),
            provider_required: false,
            classes: Vec::new(),
            score_threshold: default_score_threshold(),
            nms_iou: default_nms_iou(),
            input_width_px: default_input_width_px(),
            threads: default_threads(),
        }
    }

    /// Refuses what cannot work. The model and the runtime are tried when they are loaded.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse =
            |field, value: String, range| Err::<(), _>(SettingsError { field, value, range });
        for (field, value) in [("score_threshold", self.score_threshold), ("nms_iou", self.nms_iou)]
        {
            if !(value > 0.0 && value <= 1.0) {
                refuse(field, value.to_string(), "above 0 and at most 1")?;
            }
        }
        if !(32..=4096).contains(&self.input_width_px) {
            refuse("input_width_px", self.input_width_px.to_string(), "32 to 4096")?;
        }
        if !(1..=64).contains(&self.threads) {
            refuse("threads", self.threads.to_string(), "1 to 64")?;
        }
        match &self.model_sha256 {
            Some(hash) if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
                refuse("model_sha256", format!("{hash:?}"), "64 hex digits")
            }
            _ => Ok(()),
        }
    }
}

/// A setting of one camera that cannot work, and what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfRange {
    /// Which, below the camera.
    pub field: &'static str,
    /// What it was.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}
