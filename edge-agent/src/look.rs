//! `look CAMERA`: what the running agent sees of a camera, for the person on the ladder.
//!
//! The agent is asked, and the camera not opened beside it: most give their pictures to one program
//! at a time, and what is seen here is what the detector sees, with the privacy masks burned in and
//! faces blurred where that is asked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use picket_wire::CameraName;
use picket_wire::status::PictureState;
use serde::{Deserialize, Serialize};

use crate::control::{self, ControlError, Request};
use crate::detect::look::Found;

/// Longest look, seconds.
pub const LONGEST_S: u64 = 600;
/// How long the agent may take beyond the look itself.
const ANSWER: Duration = Duration::from_secs(30);

/// The command's words.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Which camera.
    pub camera: CameraName,
    /// For how long, seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=LONGEST_S))]
    pub seconds: u64,
    /// Where the picture is written; `<camera>.jpg` in the present folder if unset.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Writes the picture over a file that is there.
    #[arg(long)]
    pub overwrite: bool,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How long it took.
    pub seconds: f32,
    /// Frames per second that the source gave, sampled or not.
    pub given_fps: f32,
    /// Of these, captured.
    pub captured_fps: f32,
    /// Of these, looked at by the detector.
    pub looked_at_fps: f32,
    /// Of those captured, not looked at because nothing moved.
    pub still_fps: f32,
    /// Of those captured, never handed to the detector.
    pub skipped_fps: f32,
    /// Frames looked at.
    pub looked_at: u64,
    /// Of these, with something found.
    pub with_found: u64,
    /// GStreamer element that decodes.
    pub decoder: Option<String>,
    /// Why that one.
    pub decoder_reason: Option<String>,
    /// What works, and worse than it could.
    pub degraded: Option<String>,
    /// What is wrong at the end.
    pub problem: Option<String>,
    /// What its pictures look like at the end, where that is judged.
    pub picture: Option<PictureState>,
    /// The newest frame that a picture was made of; or why there is none.
    pub pictured: Result<Pictured, String>,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pictured {
    /// How old it is at the end: a camera that gives nothing any more leaves the last one.
    pub age_s: f32,
    /// Width and height, pixels.
    pub size_px: (u32, u32),
    /// Mean luma, from 0 for black to 100 for white.
    pub brightness: f32,
    /// The variance of the Laplacian.
    pub sharpness: f32,
    /// What was found.
    pub found: Vec<Found>,
    /// The JPEG, or why there is none.
    pub jpeg: Result<Jpeg, String>,
}

/// The picture with boxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Jpeg {
    /// In base64.
    pub base64: String,
    /// What of it was made unrecognisable: `none`, `masks`, `faces` or `masks+faces`.
    pub redacted: String,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Found before the agent is asked.
    #[error("{} exists: name another file with --out, or let it be replaced with --overwrite", .0.display())]
    Exists(PathBuf),
    /// The agent does not tell.
    #[error(transparent)]
    Ask(#[from] ControlError),
    /// It was asked, and saw nothing.
    #[error("no picture: {0}")]
    Nothing(String),
    /// The picture is no base64.
    #[error("the agent's picture cannot be read: is it of another version?")]
    Base64(#[source] base64::DecodeError),
    /// The picture cannot be written.
    #[error(
        "cannot write {}: name a file with --out, in a folder that is there and that this user may \
         write to",
        path.display()
    )]
    Picture {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nor what is to be read.
    #[error("cannot print what is seen")]
    Print(#[source] io::Error),
}

/// Asks the agent with this state directory, prints what it sees, and writes the picture to a file.
pub fn run(state_dir: &Path, asked: &Arguments, out: &mut dyn Write) -> Result<(), LookError> {
    let Arguments { camera, seconds, .. } = asked;
    let path = asked.out.clone().unwrap_or_else(|| format!("{camera}.jpg").into());
    try_file(&path, asked.overwrite)?;
    let request = Request::Look { camera: camera.clone(), for_s: *seconds };
    let limit = Duration::from_secs(*seconds) + ANSWER;
    let report: Report = control::ask(state_dir, &request, limit)?;
    print(out, &in_words(&report))?;
    let jpeg = report.pictured.and_then(|pictured| pictured.jpeg);
    let Jpeg { base64, redacted } = jpeg.map_err(LookError::Nothing)?;
    let jpeg = STANDARD.decode(base64).map_err(LookError::Base64)?;
    write(&path, asked.overwrite, &jpeg)?;
    print(out, &format!("picture     {} (redacted: {redacted})\n", path.display()))
}

/// Refuses a file that cannot be written before anybody waits for a picture.
fn try_file(path: &Path, overwrite: bool) -> Result<(), LookError> {
    let is_there = path.symlink_metadata().is_ok();
    let file = match is_there {
        // Nothing of it changes: there may be no picture.
        true if overwrite => File::options().write(true).open(path),
        _ => File::create_new(path),
    };
    file.and_then(|_| if is_there { Ok(()) } else { fs::remove_file(path) })
        .map_err(|source| unwritten(path, source))
}

fn write(path: &Path, overwrite: bool, jpeg: &[u8]) -> Result<(), LookError> {
    let file = if overwrite { File::create(path) } else { File::create_new(path) };
    file.and_then(|mut file| file.write_all(jpeg)).map_err(|source| unwritten(path, source))
}

fn unwritten(path: &Path, source: io::Error) -> LookError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::AlreadyExists => LookError::Exists(path),
        _ => LookError::Picture { path, source },
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), LookError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(LookError::Print)
}

/// The report, a line for each thing.
fn in_words(report: &Report) -> String {
    let Report { seconds, given_fps, captured_fps, looked_at_fps, still_fps, skipped_fps, .. } =
        report;
    let mut lines = vec![format!(
        "frames/s    {given_fps:.1} given, {captured_fps:.1} captured; of these {looked_at_fps:.1} \
         looked at, {still_fps:.1} still, {skipped_fps:.1} skipped; over {seconds:.0} s"
    )];
    let decoder = report.decoder.as_deref().unwrap_or("none: the pictures come raw");
    let reason = report.decoder_reason.as_ref().map(|reason| format!(" ({reason})"));
    lines.push(format!("decoder     {decoder}{}", reason.unwrap_or_default()));
    let odd = [("degraded", &report.degraded), ("problem", &report.problem)];
    lines.extend(
        odd.iter().filter_map(|(what, text)| Some(format!("{what:<12}{}", text.as_ref()?))),
    );
    let looks = report.picture.map(picture_in_words);
    lines.extend(looks.map(|looks| format!("pictures    {looks}")));
    let (with, of) = (report.with_found, report.looked_at);
    lines.push(format!("found       something in {with} of the {of} frames looked at"));
    if let Ok(pictured) = &report.pictured {
        let Pictured { age_s, size_px: (width, height), brightness, sharpness, found, .. } =
            pictured;
        lines.push(format!("age         the newest picture is {age_s:.1} s old"));
        lines.push(format!("size        {width}x{height}"));
        lines.push(format!("brightness  {brightness:.0} %"));
        lines.push(format!("sharpness   {sharpness:.0}"));
        let found: Vec<_> = found.iter().map(found_in_words).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join("; ") };
        lines.push(format!("in picture  {found}"));
    }
    lines.join("\n") + "\n"
}

fn picture_in_words(state: PictureState) -> &'static str {
    match state {
        PictureState::Changing => "changing",
        PictureState::Frozen => "frozen: the same one over and over",
        PictureState::Black => "black: nothing but darkness",
        PictureState::NoSignal => "no signal: the driver says that nothing is connected",
    }
}

fn found_in_words(Found { class, score, box_px: [x, y, width, height] }: &Found) -> String {
    format!("{class} {score:.2} of {width:.0}x{height:.0} at {x:.0},{y:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(picture: Option<PictureState>) -> Report {
        let jpeg = Err("none".to_owned());
        let pictured = Pictured {
            age_s: 93.26,
            size_px: (640, 480),
            brightness: 2.0,
            sharpness: 3.0,
            found: Vec::new(),
            jpeg,
        };
        Report {
            seconds: 100.0,
            given_fps: 5.0,
            captured_fps: 5.0,
            looked_at_fps: 1.0,
            still_fps: 4.0,
            skipped_fps: 0.0,
            looked_at: 100,
            with_found: 0,
            decoder: None,
            decoder_reason: None,
            degraded: None,
            problem: None,
            picture,
            pictured: Ok(pictured),
        }
    }

    #[test]
    fn an_old_picture_and_a_camera_that_shows_nothing_new_are_told() {
        use PictureState::{Black, Changing, Frozen, NoSignal};
        for (state, words) in [
            (Some(Changing), "pictures    changing\n"),
            (Some(Frozen), "pictures    frozen"),
            (Some(Black), "pictures    black"),
            (Some(NoSignal), "pictures    no signal"),
        ] {
            let said = in_words(&report(state));
            assert!(said.contains(words), "{said}");
            assert!(said.contains("the newest picture is 93.3 s old\n"), "{said}");
        }
        assert!(!in_words(&report(None)).contains("\npictures "), "nothing was judged");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_the_agent_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |out: &Path, overwrite| {
            let camera = "north".parse().unwrap();
            let asked = Arguments { camera, seconds: 1, out: Some(out.to_owned()), overwrite };
            // Nobody listens here: whoever gets so far hears of that.
            run(dir.path(), &asked, &mut Vec::new()).unwrap_err().to_string()
        };
        let there = dir.path().join("there.jpg");
        fs::write(&there, "what was there").unwrap();
        let why = ask(&there, false);
        assert!(why.contains("there.jpg exists") && why.contains("--overwrite"), "{why}");
        assert!(ask(&there, true).contains("no agent runs"));
        assert_eq!(fs::read(&there).unwrap(), b"what was there", "there was no picture");

        let new = dir.path().join("new.jpg");
        assert!(ask(&new, false).contains("no agent runs"));
        assert!(!new.exists(), "an empty file is left behind");

        for wrong in [dir.path().join("no such folder/a.jpg"), dir.path().to_owned()] {
            let why = ask(&wrong, true);
            assert!(why.contains("in a folder that is there"), "{why}");
        }
    }
}
