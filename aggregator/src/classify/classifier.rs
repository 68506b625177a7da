//! The classifier: pictures in, labels out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use metrics::histogram;
use ort::session::Session;
use ort::value::TensorRef;
use picket_onnx::outlet::{chosen, float32, side};
use picket_onnx::{FileError, ModelFile, Runtime, RuntimeError};

use super::description::{Description, DescriptionError, Scores};
use super::metrics as names;
use super::picture::{Form, PictureError, Preparer};
use super::scores::{Ranked, strange, surest};
use super::settings::Settings;
use crate::store::classes::Class;

/// The section of the config that names model and runtime.
const SECTION: &str = "classify";
/// Most memory for the pictures of one batch, as the model takes them: 4 bytes a number.
const MAX_BATCH_MIB: usize = 512;

/// Why there is no classifier.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No runtime.
    #[error("cannot load ONNX Runtime")]
    Runtime(#[source] RuntimeError),
    /// No model.
    #[error("cannot load the model")]
    File(#[source] FileError),
    /// Nothing says how to feed it.
    #[error("cannot load the model")]
    Description(#[source] DescriptionError),
    /// It is not the model that is described.
    #[error("classify.model: {} does not fit its description: {what}", path.display())]
    Unlike {
        /// The file.
        path: PathBuf,
        /// What it lacks, and what would be right.
        what: String,
    },
    /// A batch would take more memory than is meant for it.
    #[error(
        "classify.batch_pictures: {pictures} pictures of {}x{} pixels, the model's size, take {mib} MiB, and \
         the limit is {MAX_BATCH_MIB}: {}",
        px.0, px.1, what_fits(*fits)
    )]
    Batch {
        /// At once.
        pictures: usize,
        /// The model's width and height.
        px: (u32, u32),
        /// What they take.
        mib: usize,
        /// How many fit.
        fits: usize,
    },
    /// No decoder of pictures.
    #[error("cannot start the JPEG decoder")]
    Decoder(#[source] turbojpeg::Error),
    /// The model loads, and does not give what it should.
    #[error("classify.model: {} cannot be used as its description says", path.display())]
    Trial {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ComputeError,
    },
}

/// Why a batch could not be computed. It says nothing of one picture: all that reaches the model has one
/// shape and finite numbers.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The model cannot be computed.
    #[error("cannot compute the model on {pictures} pictures")]
    Run {
        /// How many.
        pictures: usize,
        /// Why.
        source: ort::Error,
    },
    /// Its output is missing, or not as long as its labels.
    #[error(
        "the model's output {name} has {found} numbers for {pictures} pictures of {labels} labels"
    )]
    Output {
        /// Which.
        name: String,
        /// Numbers.
        found: usize,
        /// How many.
        pictures: usize,
        /// How many.
        labels: usize,
    },
    /// At the trial it gives what is no number.
    #[error(
        "the model's output is {found}, and that is no number: with another scale, mean or std in its \
         description, or as another export, it may give some"
    )]
    NoNumber {
        /// The first of these.
        found: f32,
    },
    /// At the trial it gives numbers that are no probabilities.
    #[error(
        "the model's output is {found}, and that is no probability: if these are logits, say \
         `scores = \"logits\"` in its description"
    )]
    NoScores {
        /// The first of these.
        found: f32,
    },
}

/// Why one picture has no labels. Another one may.
#[derive(Debug, thiserror::Error)]
pub enum NoLabels {
    /// It could not be shown to the model.
    #[error(transparent)]
    Picture(PictureError),
    /// The model gave what is no probability.
    #[error("the model gives no probabilities for it")]
    NoScores,
}

impl NoLabels {
    /// As a word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Picture(error) => error.reason(),
            Self::NoScores => "no-scores",
        }
    }
}

/// Gives pictures labels.
pub struct Classifier {
    session: Session,
    input: String,
    output: String,
    /// Whether it takes one picture at a time alone.
    one_at_a_time: bool,
    preparer: Preparer,
    description: Description,
    model_sha256: String,
    top: usize,
    numbers: Vec<f32>,
}

impl Classifier {
    /// Loads the runtime and the model, and tries it.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        let runtime = Runtime::load(SECTION, &settings.runtime_library);
        let runtime = runtime.map_err(LoadError::Runtime)?;
        let sha256 = settings.model_sha256.as_deref();
        let file = ModelFile::read(SECTION, &settings.model, sha256).map_err(LoadError::File)?;
        let description = Description::find(&settings.model, settings.model_description.as_deref());
        let description = description.map_err(LoadError::Description)?;
        let session = file.open(&runtime, settings.provider, settings.threads);
        let session = session.map_err(LoadError::File)?;
        let path = || settings.model.clone();
        let unlike = |what| LoadError::Unlike { path: path(), what };
        let (input, px, one_at_a_time) = input(&session, &description).map_err(unlike)?;
        let output = output(&session, &description).map_err(unlike)?;
        check_batch(if one_at_a_time { 1 } else { settings.batch_pictures }, px)?;
        let preparer = Preparer::new(Form::new(&description.input, px));
        let mut classifier = Self {
            session,
            input,
            output,
            one_at_a_time,
            preparer: preparer.map_err(LoadError::Decoder)?,
            description,
            model_sha256: file.sha256,
            top: settings.top,
            numbers: Vec::new(),
        };
        classifier.try_out().map_err(|source| LoadError::Trial { path: path(), source })?;
        Ok(classifier)
    }

    /// What a model gives is only known for sure when it gave it once. Two pictures: an output that
    /// does not grow with them would give the second the labels of nobody.
    fn try_out(&mut self) -> Result<(), ComputeError> {
        let one = self.preparer.form().numbers();
        self.numbers = vec![0.0; 2 * one];
        let scores = self.compute(2)?;
        match strange(&scores, self.scores()) {
            None => Ok(()),
            Some(found) if !found.is_finite() => Err(ComputeError::NoNumber { found }),
            Some(found) => Err(ComputeError::NoScores { found }),
        }
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// SHA-256 of its file, hex.
    pub fn model_sha256(&self) -> &str {
        &self.model_sha256
    }

    fn scores(&self) -> Scores {
        self.description.scores
    }

    /// The labels of each of these JPEGs, the surest first, in their order.
    pub fn classify(
        &mut self,
        jpegs: &[&[u8]],
    ) -> Result<Vec<Result<Vec<Class>, NoLabels>>, ComputeError> {
        // What is computed one at a time takes the memory of one.
        let at_once = if self.one_at_a_time { 1 } else { jpegs.len().max(1) };
        let (mut decode, mut compute) = (Duration::ZERO, Duration::ZERO);
        let mut found = Vec::with_capacity(jpegs.len());
        for jpegs in jpegs.chunks(at_once) {
            let began = Instant::now();
            let (prepared, places) = self.prepare(jpegs);
            decode += began.elapsed();
            let began = Instant::now();
            let scores = self.compute(prepared)?;
            compute += began.elapsed();
            found.extend(self.labels(places, &scores));
        }
        step("decode", decode);
        step("compute", compute);
        Ok(found)
    }

    /// How many could be prepared, and which of these each picture is.
    fn prepare(&mut self, jpegs: &[&[u8]]) -> (usize, Vec<Result<usize, NoLabels>>) {
        let one = self.preparer.form().numbers();
        self.numbers.resize(jpegs.len() * one, 0.0);
        let (mut prepared, mut places) = (0, Vec::with_capacity(jpegs.len()));
        for jpeg in jpegs {
            let out = &mut self.numbers[prepared * one..(prepared + 1) * one];
            let place = self.preparer.prepare(jpeg, out).map(|()| prepared);
            prepared += usize::from(place.is_ok());
            places.push(place.map_err(NoLabels::Picture));
        }
        (prepared, places)
    }

    /// The labels of each picture, of what the model gave for those that could be prepared.
    fn labels(
        &self,
        places: Vec<Result<usize, NoLabels>>,
        scores: &[f32],
    ) -> Vec<Result<Vec<Class>, NoLabels>> {
        let labels = &self.description.labels;
        let class =
            |(label, confidence): Ranked| Class { label: labels[label].clone(), confidence };
        let found = |place: usize| {
            let numbers = &scores[place * labels.len()..(place + 1) * labels.len()];
            let ranked = surest(numbers, self.scores(), self.top).ok_or(NoLabels::NoScores)?;
            Ok(ranked.into_iter().map(class).collect())
        };
        places.into_iter().map(|place| place.and_then(found)).collect()
    }

    /// The model's numbers for the first pictures that are prepared.
    fn compute(&mut self, pictures: usize) -> Result<Vec<f32>, ComputeError> {
        let labels = self.description.labels.len();
        let (width, height) = self.preparer.form().px;
        let at_once = if self.one_at_a_time { 1 } else { pictures.max(1) };
        let mut scores = Vec::with_capacity(pictures * labels);
        let one = self.preparer.form().numbers();
        for numbers in self.numbers[..pictures * one].chunks(at_once * one) {
            let pictures = numbers.len() / one;
            let failed = |source| ComputeError::Run { pictures, source };
            let shape = [pictures, 3, height as usize, width as usize];
            let input = TensorRef::from_array_view((shape, numbers)).map_err(failed)?;
            let inputs = ort::inputs![self.input.as_str() => input];
            let outputs = self.session.run(inputs).map_err(failed)?;
            let unlike = |found| {
                let name = self.output.clone();
                ComputeError::Output { name, found, pictures, labels }
            };
            let output = outputs.get(&self.output).ok_or_else(|| unlike(0))?;
            let (_, values) = output.try_extract_tensor::<f32>().map_err(failed)?;
            if values.len() != pictures * labels {
                return Err(unlike(values.len()));
            }
            scores.extend_from_slice(values);
        }
        Ok(scores)
    }
}

/// Records how long a step of a batch took.
pub fn step(step: &'static str, took: Duration) {
    histogram!(names::BATCH_STEP, "step" => step).record(took.as_secs_f64());
}

/// So many pictures of this size are in memory at once, as the model takes them.
fn check_batch(pictures: usize, px: (u32, u32)) -> Result<(), LoadError> {
    let one = 3 * px.0 as usize * px.1 as usize * size_of::<f32>();
    let fits = (MAX_BATCH_MIB << 20) / one.max(1);
    if pictures <= fits {
        return Ok(());
    }
    let mib = (pictures * one).div_ceil(1 << 20);
    Err(LoadError::Batch { pictures, px, mib, fits })
}

fn what_fits(fits: usize) -> String {
    match fits {
        0 => "not one fits; export the model for smaller pictures".to_owned(),
        _ => format!("{fits} or less fit"),
    }
}

/// The input's name, the picture's width and height, and whether it takes one picture at a time.
fn input(
    session: &Session,
    description: &Description,
) -> Result<(String, (u32, u32), bool), String> {
    let told = &description.input;
    let input = chosen("input", session.inputs(), told.name.as_deref())?;
    let name = input.name().to_owned();
    let shape = float32("input", input)?;
    let &[pictures, 3, height, width] = shape else {
        return Err(format!(
            "its input {name} has the shape {shape:?}, and must have pictures x 3 x height x width"
        ));
    };
    if pictures > 1 {
        return Err(format!(
            "its input {name} takes {pictures} pictures at a time; export it for one, or for any number"
        ));
    }
    let px = |field, fixed: i64, told: Option<u32>| match (side(fixed), told) {
        (Some(fixed), Some(told)) if fixed != told => Err(format!(
            "its input {name} fixes {fixed}, and input.{field} says {told}: leave it out"
        )),
        (Some(px), _) | (None, Some(px)) if fixed < 0 || i64::from(px) == fixed => Ok(px),
        (None, None) if fixed < 0 => {
            Err(format!("its input {name} takes any size: say which in input.{field}"))
        }
        _ => Err(format!("its input {name} has a side of {fixed}, and must have 1 to 8192")),
    };
    let width = px("width_px", width, told.width_px)?;
    Ok((name.clone(), (width, px("height_px", height, told.height_px)?), pictures == 1))
}

/// The output's name.
fn output(session: &Session, description: &Description) -> Result<String, String> {
    let output = chosen("output", session.outputs(), description.output.as_deref())?;
    let shape = float32("output", output)?;
    let labels = description.labels.len();
    // Sides of one pixel may follow: 1 x labels x 1 x 1.
    match shape {
        [_, found, rest @ ..] if *found < 0 || *found == labels as i64 => {
            match rest.iter().all(|side| *side <= 1) {
                true => Ok(output.name().to_owned()),
                false => Err(format!(
                    "its output {} has the shape {shape:?}, and must have pictures x {labels} labels",
                    output.name()
                )),
            }
        }
        _ => Err(format!(
            "its output {} has the shape {shape:?}, and its description has {labels} labels",
            output.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_takes_too_much_memory_is_refused_with_what_would_fit() {
        check_batch(256, (224, 224)).unwrap();
        check_batch(42, (1024, 1024)).unwrap();
        let said = check_batch(256, (1024, 1024)).unwrap_err().to_string();
        for word in ["classify.batch_pictures", "1024x1024", "3072 MiB", "512", "42 or less"] {
            assert!(said.contains(word), "{word:?} in {said}");
        }
        let said = check_batch(1, (8192, 8192)).unwrap_err().to_string();
        assert!(said.contains("not one fits"), "{said}");
    }
}
