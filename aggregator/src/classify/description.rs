//! How a classifier is fed and what its numbers mean: from a file beside it.

use std::path::{Path, PathBuf};

use picket_onnx::colours::{self, Channels, one, ones};
use picket_service::config::{self, ConfigError, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MAX_SIDE_PX: u32 = 4096;
const MAX_LABELS: usize = 100_000;

/// How a classifier is fed and read.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Name of the model: it stands in every observation that it was shown the frame of.
    pub name: String,
    /// What its classes are called, in the order of its output.
    pub labels: Vec<String>,
    /// Name of the output that is read; the model's only one if unset.
    #[serde(default)]
    pub output: Option<String>,
    /// What its output is.
    #[serde(default)]
    pub scores: Scores,
    /// The picture it takes.
    #[serde(default)]
    pub input: Input,
}

/// What a classifier's output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// 0 to 1 for each label; they are stored as they are.
    #[default]
    Probabilities,
    /// Any numbers, of which a softmax makes probabilities that sum up to 1.
    Logits,
}

/// The picture that a classifier takes: pictures x 3 x height x width numbers of 32 bits, for one or any
/// number of pictures.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name of the input; the model's only one if unset.
    #[serde(default)]
    pub name: Option<String>,
    /// Width; needed where the model does not fix it.
    #[serde(default)]
    pub width_px: Option<u32>,
    /// Height; needed where the model does not fix it.
    #[serde(default)]
    pub height_px: Option<u32>,
    /// How a picture of another shape is brought to this one.
    #[serde(default)]
    pub fit: Fit,
    /// With `crop`: the shorter side of the picture before its middle is cut out, in pixels. As large as
    /// the input needs it if unset.
    #[serde(default)]
    pub shorter_px: Option<u32>,
    /// With `letterbox`: grey of what the picture does not cover, 0 to 255.
    #[serde(default = "default_fill")]
    pub fill: u8,
    /// Order of the colours.
    #[serde(default)]
    pub channels: Channels,
    /// A colour of 0 to 255 goes in as (colour * `scale` - `mean`) / `std`. 0.00392157 gives 0 to 1.
    #[serde(default = "one")]
    pub scale: f32,
    /// Taken off, in the order of `channels`.
    #[serde(default)]
    pub mean: [f32; 3],
    /// Divided by, in the order of `channels`.
    #[serde(default = "ones")]
    pub std: [f32; 3],
}

/// How a picture of another shape is brought to the model's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Each side for itself.
    #[default]
    Stretch,
    /// The middle is cut out.
    Crop,
    /// All of it is kept, in the middle, and the rest filled.
    Letterbox,
}

fn default_fill() -> u8 {
    0
}

impl Default for Input {
    fn default() -> Self {
        Self {
            name: None,
            width_px: None,
            height_px: None,
            fit: Fit::default(),
            shorter_px: None,
            fill: default_fill(),
            channels: Channels::default(),
            scale: one(),
            mean: [0.0; 3],
            std: ones(),
        }
    }
}

/// Why there is no description.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// There is none.
    #[error(
        "classify.model: nothing says how {} is fed and read: describe it in {}, as docs/classify.md has it, \
         or name a description in classify.model_description",
        model.display(), file.display()
    )]
    Missing {
        /// The model's file.
        model: PathBuf,
        /// Where a description would have been found.
        file: PathBuf,
    },
    /// The file cannot be used.
    #[error("classify.model_description: cannot use the description of the model")]
    File(#[source] ConfigError),
}

impl Description {
    /// What describes the model: `file` if it is given, else the file beside the model.
    pub fn find(model: &Path, file: Option<&Path>) -> Result<Self, DescriptionError> {
        let beside = model.with_extension("toml");
        if file.is_none() && !beside.exists() {
            return Err(DescriptionError::Missing { model: model.to_owned(), file: beside });
        }
        let loaded = config::load(file.unwrap_or(&beside), Self::check);
        Ok(loaded.map_err(DescriptionError::File)?.settings)
    }

    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Problem> {
        if self.name.is_empty() || self.name.len() > 64 {
            return Err(Problem::new("name", "must have 1 to 64 bytes"));
        }
        if !(1..=MAX_LABELS).contains(&self.labels.len()) {
            let problem = format_args!("must be 1 to {MAX_LABELS}, in the order of the output");
            return Err(Problem::new("labels", problem));
        }
        if let Some(label) = self.labels.iter().find(|l| l.is_empty() || l.len() > 64) {
            return Err(Problem::new("labels", format_args!("{label:?} must have 1 to 64 bytes")));
        }
        self.input.check().map_err(|problem| problem.within("input"))
    }
}

impl Input {
    fn check(&self) -> Result<(), Problem> {
        for (field, px) in [
            ("width_px", self.width_px),
            ("height_px", self.height_px),
            ("shorter_px", self.shorter_px),
        ] {
            if let Some(px) = px.filter(|px| !(1..=MAX_SIDE_PX).contains(px)) {
                return Err(Problem::new(field, format_args!("{px} is not 1 to {MAX_SIDE_PX}")));
            }
        }
        if self.shorter_px.is_some() && self.fit != Fit::Crop {
            return Err(Problem::new("shorter_px", "is for `fit = \"crop\"` alone: leave it out"));
        }
        colours::check(self.scale, &self.mean, &self.std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_file_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("mine.onnx");
        let missing = Description::find(&model, None).unwrap_err().to_string();
        assert!(missing.contains("mine.onnx") && missing.contains("mine.toml"), "{missing}");
        let file = folder.path().join("mine.toml");
        let head = "name = \"mine\"\nlabels = [\"a\"]\n";
        for (text, words) in [
            ("name = \"mine\"\nlabels = []\n".to_owned(), "labels"),
            ("name = \"\"\nlabels = [\"a\"]\n".to_owned(), "name"),
            (format!("{head}scores = \"softmax\"\n"), "`probabilities` or `logits`"),
            (format!("{head}lables = []\n"), "did you mean `labels`?"),
            (format!("{head}[input]\nstd = [1, 0, 1]\n"), "input.std"),
            (format!("{head}[input]\nwidth_px = 0\n"), "input.width_px"),
            (format!("{head}[input]\nshorter_px = 256\n"), "input.shorter_px"),
        ] {
            std::fs::write(&file, &text).unwrap();
            let DescriptionError::File(error) = Description::find(&model, None).unwrap_err() else {
                panic!("{text}")
            };
            let error = error.to_string();
            assert!(error.contains("mine.toml") && error.contains(words), "{text} {error}");
        }
        std::fs::write(&file, format!("{head}[input]\nfit = \"crop\"\nshorter_px = 256\n"))
            .unwrap();
        assert_eq!(Description::find(&model, None).unwrap().input.fit, Fit::Crop);
    }
}
