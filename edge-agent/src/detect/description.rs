//! How a model is fed and what its numbers mean: from a file beside it, or from the manifest.

use std::path::{Path, PathBuf};

pub use picket_onnx::colours::Channels;
use picket_onnx::colours::{self, one, ones};
use picket_service::config::{self, ConfigError, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The manifest of the models that Picket ships, as it was when the agent was built.
const MANIFEST: &str = include_str!("../../../models/MANIFEST.toml");

/// How a model is fed and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Name of the model: it stands in every observation.
    pub name: String,
    /// What reads its output.
    pub decoder: Decoder,
    /// What the things it finds are called, in the order of the model's classes.
    pub labels: Vec<String>,
    /// Name of the output that is read, for the YOLO decoders; the model's only one if unset.
    #[serde(default)]
    pub output: Option<String>,
    /// The picture it takes.
    #[serde(default)]
    pub input: InputDescription,
}

/// What reads a model's output. The same kind of network goes by many names; what counts is the shape
/// of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// YuNet's twelve outputs.
    Yunet,
    /// CenterFace's four outputs.
    CenterFace,
    /// 1 x boxes x (5 + labels): middle, size, sureness of a thing, of each label. YOLOv5 and YOLOv7.
    YoloV5,
    /// 1 x (4 + labels) x boxes: middle, size, sureness of each label. YOLOv8, v9, YOLO11 and 12.
    YoloV8,
    /// 1 x boxes x 6: two corners, sureness, label; overlaps are gone. YOLOv10, YOLO26, and exports
    /// with suppression inside.
    YoloV10,
    /// 1 x cells x (5 + labels): as `yolov5`, middle and size in cells of 8, 16 and 32 pixels. YOLOX
    /// as its own exporter writes it.
    Yolox,
}

/// The picture that a model takes: 1 x 3 x height x width numbers of 32 bits. A size that the model
/// fixes is kept; otherwise `detect.input_width_px` decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputDescription {
    /// Name of the input; the model's only one if unset.
    #[serde(default)]
    pub name: Option<String>,
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
    /// Grey of what the picture does not cover, 0 to 255.
    #[serde(default = "default_fill")]
    pub fill: u8,
    /// Where the picture lies in a larger input.
    #[serde(default)]
    pub place: Place,
    /// Height and width are filled up to a multiple of this, where the model does not fix them.
    #[serde(default = "default_stride")]
    pub stride: u32,
}

/// Where a picture lies in a larger input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the middle.
    #[default]
    Centre,
    /// In the upper left corner.
    UpperLeft,
}

fn default_fill() -> u8 {
    114
}

fn default_stride() -> u32 {
    32
}

impl Default for InputDescription {
    fn default() -> Self {
        Self {
            name: None,
            channels: Channels::default(),
            scale: one(),
            mean: [0.0; 3],
            std: ones(),
            fill: default_fill(),
            place: Place::default(),
            stride: default_stride(),
        }
    }
}

/// Why there is no description.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The file cannot be used.
    #[error("cannot use the model's description")]
    File(#[source] ConfigError),
    /// Nothing describes it.
    #[error(
        "{} with SHA-256 {sha256} is none of the models that Picket knows ({known}), and there is no \
         {} to describe it; models/README.md says what belongs in there",
        model.display(), file.display()
    )]
    Unknown {
        /// The model's file.
        model: PathBuf,
        /// Its digest.
        sha256: String,
        /// Names of those in the manifest.
        known: String,
        /// Where a description would have been found.
        file: PathBuf,
    },
    /// The manifest in the agent is broken.
    #[error("the manifest that the agent was built with cannot be read")]
    Manifest(#[source] toml::de::Error),
}

impl Description {
    /// What describes the model: `file` if it is given, else the file beside the model of the same
    /// name with `.toml` in place of `.onnx`, else the manifest, which knows models by their digest and
    /// not by their name.
    pub fn find(model: &Path, sha256: &str, file: Option<&Path>) -> Result<Self, DescriptionError> {
        let beside = model.with_extension("toml");
        match file {
            Some(file) => return Self::read(file, model),
            None if beside.exists() => return Self::read(&beside, model),
            None => {}
        }
        let known = known().map_err(DescriptionError::Manifest)?;
        if let Some(entry) = known.iter().find(|entry| entry.sha256() == sha256) {
            let (model, name) = (model.display(), &entry.description.name);
            tracing::info!(
                target: "detect", "{model} is read as {name}, which Picket knows by its SHA-256"
            );
            return Ok(entry.description.clone());
        }
        let names: Vec<&str> = known.iter().map(|entry| entry.description.name.as_str()).collect();
        Err(DescriptionError::Unknown {
            model: model.to_owned(),
            sha256: sha256.to_owned(),
            known: names.join(", "),
            file: beside,
        })
    }

    fn read(file: &Path, model: &Path) -> Result<Self, DescriptionError> {
        let loaded = config::load(file, Self::check).map_err(DescriptionError::File)?;
        let (model, file) = (model.display(), file.display());
        tracing::info!(target: "detect", "{model} is read as {file} describes it");
        Ok(loaded.settings)
    }

    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Problem> {
        if self.name.is_empty() || self.name.len() > 64 {
            return Err(Problem::new("name", "must have 1 to 64 bytes"));
        }
        if self.labels.is_empty() {
            return Err(Problem::new(
                "labels",
                "is empty: list what the model finds, in its order",
            ));
        }
        if let Some(label) = self.labels.iter().find(|l| l.is_empty() || l.len() > 64) {
            return Err(Problem::new("labels", format!("{label:?} must have 1 to 64 bytes")));
        }
        if matches!(self.decoder, Decoder::Yunet | Decoder::CenterFace) && self.labels.len() > 1 {
            return Err(Problem::new(
                "labels",
                "must be one: this decoder knows one kind of thing",
            ));
        }
        if matches!(self.decoder, Decoder::Yunet | Decoder::CenterFace) && self.output.is_some() {
            return Err(Problem::new(
                "output",
                "must be unset: this decoder reads several by name",
            ));
        }
        self.input.check().map_err(|problem| problem.within("input"))
    }
}

impl InputDescription {
    fn check(&self) -> Result<(), Problem> {
        colours::check(self.scale, &self.mean, &self.std)?;
        if !(1..=256).contains(&self.stride) {
            return Err(Problem::new("stride", format!("{} must be 1 to 256", self.stride)));
        }
        Ok(())
    }
}

/// A model of the manifest. What the fetcher needs of it beside this is not read here.
#[derive(Debug, Deserialize)]
struct Known {
    raw_sha256: String,
    prepared_sha256: Option<String>,
    description: Description,
}

impl Known {
    fn sha256(&self) -> &str {
        self.prepared_sha256.as_deref().unwrap_or(&self.raw_sha256)
    }
}

fn known() -> Result<Vec<Known>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Manifest {
        model: Vec<Known>,
    }
    Ok(toml::from_str::<Manifest>(MANIFEST)?.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_of_the_manifest_is_described_and_can_work() {
        let known = known().unwrap();
        let names: Vec<&str> = known.iter().map(|k| k.description.name.as_str()).collect();
        assert_eq!(names, ["yunet", "centerface"]);
        for entry in known {
            entry.description.check().unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_file_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        let head = "name = \"mine\"\ndecoder = \"yolov8\"\nlabels = [\"person\"]\n";
        for (text, words) in [
            ("name = \"x\"\ndecoder = \"yolov8\"\nlabels = []\n".to_owned(), "labels: is empty"),
            ("name = \"x\"\ndecoder = \"yolo8\"\nlabels = [\"a\"]\n".to_owned(), "`yolov8`"),
            (
                "name = \"x\"\ndecoder = \"yunet\"\nlabels = [\"a\", \"b\"]\n".to_owned(),
                "must be one",
            ),
            (format!("{head}lables = []\n"), "did you mean `labels`?"),
            (format!("{head}[input]\nstd = [1, 0, 1]\n"), "input.std"),
            (format!("{head}[input]\nscale = nan\n"), "input.scale"),
            (format!("{head}[input]\nstride = 0\n"), "input.stride"),
            (format!("{head}[input]\nchannels = \"GBR\"\n"), "`RGB` or `BGR`"),
        ] {
            std::fs::write(&file, &text).unwrap();
            let error = Description::read(&file, &file).unwrap_err();
            let DescriptionError::File(error) = error else { panic!("{error:?}") };
            let error = error.to_string();
            assert!(error.contains("mine.toml") && error.contains(words), "{text} {error}");
        }
    }

    #[test]
    fn a_file_beside_the_model_describes_it() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("mine.onnx");
        let error = Description::find(&model, "00", None).unwrap_err().to_string();
        for word in ["mine.onnx", "mine.toml", "SHA-256 00", "yunet, centerface"] {
            assert!(error.contains(word), "{error}");
        }
        let text = "name = \"mine\"\ndecoder = \"yolox\"\nlabels = [\"a\", \"b\"]\n";
        std::fs::write(folder.path().join("mine.toml"), text).unwrap();
        let found = Description::find(&model, "00", None).unwrap();
        assert_eq!((found.decoder, found.input), (Decoder::Yolox, InputDescription::default()));
    }
}
