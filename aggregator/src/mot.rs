//! `track --format mot`: the tracker over a sequence of the MOTChallenge, for comparison with others.
//!
//! # In
//! A folder with `seqinfo.ini` (of `[Sequence]`, `frameRate` and `seqLength` are used) and
//! `det/det.txt`, a detection a line: `frame,-1,left,top,width,height,score`, frames from 1, boxes
//! in pixels, scores 0 to 1; what stands behind the score is not looked at. Lines may stand in any
//! order.
//!
//! # Out
//! A line for each detection that has a track: `frame,id,left,top,width,height,1,-1,-1,-1`, with the
//! detection's own box, ordered by frame and id. It is what the product stores: a track's first
//! sight is there, and no box where nothing was seen. Ids count from 1 by birth.
//!
//! # Promises
//! The tracker is the product's own and sees what it would see of a camera: each frame in its
//! order, also those without detections, at the time that the frame rate gives. What is written for
//! a frame depends on no later one.
//!
//! # Limits
//! A sequence is held in memory: at most 10 million frames and 10 million detections.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::track::{Detection, ObservationRef, Settings, TrackId, Tracker};

const MOST_FRAMES: usize = 10_000_000;
const MOST_DETECTIONS: usize = 10_000_000;
/// Longer than any sensible line of either file.
const LONGEST_LINE_BYTES: u64 = 1000;
/// The detections of a MOTChallenge sequence name no class: all are of one.
const CLASS: &str = "object";

/// Why a sequence could not be tracked.
#[derive(Debug, thiserror::Error)]
pub enum MotError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line says something that cannot be.
    #[error("{}:{line}: {field}: {problem}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What of the line.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A setting is missing.
    #[error("{}: {field} is missing: {expected}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// Which one.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// The result cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Frames of the sequence.
    pub frames: usize,
    /// Detections in them.
    pub detections: usize,
    /// Boxes written.
    pub boxes: usize,
    /// Ids among them.
    pub tracks: usize,
}

/// Tracks the sequence in the folder `input`, and writes the result to the file `output`, which is
/// left alone if the sequence cannot be read.
pub fn run(input: &Path, output: &Path, settings: Settings) -> Result<Done, MotError> {
    let sequence = Sequence::read(input)?;
    let write_error = |source| MotError::Write { path: output.to_owned(), source };
    let mut out = BufWriter::new(File::create(output).map_err(write_error)?);
    sequence
        .track(settings, &mut out)
        .and_then(|done| out.flush().map(|()| done))
        .map_err(write_error)
}

/// One line of `det.txt`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// From 0.
    frame: u32,
    box_px: [f32; 4],
    score: f32,
}

/// A sequence as it was read.
#[derive(Debug, PartialEq)]
pub struct Sequence {
    frames_per_s: f64,
    frames: usize,
    /// By frame; within one as in the file.
    found: Vec<Found>,
}

impl Sequence {
    /// Reads the folder of a sequence.
    pub fn read(folder: &Path) -> Result<Self, MotError> {
        let (frames_per_s, frames) = read_info(&folder.join("seqinfo.ini"))?;
        let mut found = read_detections(&folder.join("det").join("det.txt"), frames)?;
        // A stable sort: the order within a frame is the detector's.
        found.sort_by_key(|found| found.frame);
        Ok(Self { frames_per_s, frames, found })
    }

    /// How many frames it has.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Number (from 1), time in microseconds and detections of each frame.
    pub fn looks(&self) -> impl Iterator<Item = (usize, u64, Vec<Detection<'static>>)> {
        let mut rest = self.found.as_slice();
        (0..self.frames).map(move |frame| {
            let (here, later) = rest.split_at(rest.partition_point(|f| f.frame as usize <= frame));
            rest = later;
            let mono_us = (frame as f64 / self.frames_per_s * 1e6).round() as u64;
            let of = |f: &Found| Detection { box_px: f.box_px, score: f.score, class: CLASS };
            (frame + 1, mono_us, here.iter().map(of).collect())
        })
    }

    fn track(&self, settings: Settings, out: &mut impl Write) -> io::Result<Done> {
        let mut tracker = Tracker::new(settings);
        let mut numbers: HashMap<TrackId, usize> = HashMap::new();
        let mut boxes = 0;
        for (frame, mono_us, detections) in self.looks() {
            let id = frame.to_string();
            let outcome = tracker.observe(ObservationRef { id: &id }, mono_us, &detections);
            let mut rows = Vec::new();
            for (id, detection) in outcome.assigned.into_iter().zip(&detections) {
                let next = numbers.len() + 1;
                rows.extend(id.map(|id| (*numbers.entry(id).or_insert(next), detection.box_px)));
            }
            rows.sort_by_key(|&(number, _)| number);
            boxes += rows.len();
            for (number, [left, top, width, height]) in rows {
                writeln!(out, "{frame},{number},{left},{top},{width},{height},1,-1,-1,-1")?;
            }
        }
        let detections = self.found.len();
        Ok(Done { frames: self.frames, detections, boxes, tracks: numbers.len() })
    }
}

/// A place in a file, to say what is wrong there.
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn wrong(&self, field: &'static str, problem: impl Display) -> MotError {
        let problem = problem.to_string();
        MotError::Line { path: self.path.to_owned(), line: self.line, field, problem }
    }

    fn number(&self, field: &'static str, text: &str) -> Result<f64, MotError> {
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(self.wrong(field, format!("must be a finite number, not {text:?}"))),
        }
    }

    fn whole(&self, field: &'static str, text: &str, most: usize) -> Result<usize, MotError> {
        let number = self.number(field, text)?;
        if number.fract() != 0.0 || number < 1.0 || number > most as f64 {
            return Err(
                self.wrong(field, format!("must be a whole number from 1 to {most}, not {text}"))
            );
        }
        Ok(number as usize)
    }
}

/// Calls `each` with every line that is not empty, without the blanks around it.
fn each_line(
    path: &Path,
    mut each: impl FnMut(&Place, &str) -> Result<(), MotError>,
) -> Result<(), MotError> {
    let read_error = |source| MotError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(read_error)?);
    let mut bytes = Vec::new();
    for line in 1.. {
        let place = Place { path, line };
        bytes.clear();
        let limit = LONGEST_LINE_BYTES + 1;
        reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(read_error)?;
        if bytes.is_empty() {
            break;
        }
        if bytes.len() as u64 == limit && bytes.last() != Some(&b'\n') {
            return Err(
                place.wrong("line", format!("must not be longer than {LONGEST_LINE_BYTES} bytes"))
            );
        }
        let text =
            std::str::from_utf8(&bytes).map_err(|_| place.wrong("line", "must be UTF-8 text"))?;
        if !text.trim().is_empty() {
            each(&place, text.trim())?;
        }
    }
    Ok(())
}

/// Frames per second, and how many frames there are.
fn read_info(path: &Path) -> Result<(f64, usize), MotError> {
    let (mut rate, mut length, mut in_section) = (None, None, false);
    each_line(path, |place, text| {
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.starts_with('[') {
            in_section = text.eq_ignore_ascii_case("[sequence]");
            return Ok(());
        }
        let Some((key, value)) = text.split_once('=') else {
            return Err(place.wrong("line", "must be [section] or key=value"));
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        match key.as_str() {
            "framerate" if in_section => {
                let number = place.number("frameRate", value)?;
                if !(0.001..=1000.0).contains(&number) {
                    let problem =
                        format!("must be from 0.001 to 1000 frames per second, not {value}");
                    return Err(place.wrong("frameRate", problem));
                }
                rate = Some(number);
            }
            "seqlength" if in_section => {
                length = Some(place.whole("seqLength", value, MOST_FRAMES)?);
            }
            _ => {}
        }
        Ok(())
    })?;
    let missing = |field, expected| MotError::Missing { path: path.to_owned(), field, expected };
    Ok((
        rate.ok_or_else(|| missing("frameRate", "[Sequence] needs frameRate=frames per second"))?,
        length
            .ok_or_else(|| missing("seqLength", "[Sequence] needs seqLength=number of frames"))?,
    ))
}

fn read_detections(path: &Path, frames: usize) -> Result<Vec<Found>, MotError> {
    const BOX: [&str; 4] = ["left", "top", "width", "height"];
    let mut found = Vec::new();
    each_line(path, |place, text| {
        if found.len() == MOST_DETECTIONS {
            let problem = format!("there must be no more than {MOST_DETECTIONS} detections");
            return Err(place.wrong("line", problem));
        }
        let values: Vec<&str> = text.split(',').map(str::trim).collect();
        let [frame, _, values @ .., score] = values.get(..7).unwrap_or_default() else {
            let problem = format!(
                "must have at least the 7 values frame,-1,left,top,width,height,score, not {}",
                values.len()
            );
            return Err(place.wrong("line", problem));
        };
        let frame = place.whole("frame", frame, MOST_FRAMES)?;
        if frame > frames {
            let problem =
                format!("must be from 1 to {frames} (seqinfo.ini's seqLength), not {frame}");
            return Err(place.wrong("frame", problem));
        }
        let mut box_px = [0.0; 4];
        for (i, value) in values.iter().enumerate().take(4) {
            let number = place.number(BOX[i], value)?;
            if i >= 2 && number < 0.0 {
                return Err(place.wrong(BOX[i], format!("must not be negative, as {value} is")));
            }
            if number.abs() > f64::from(f32::MAX) {
                return Err(place.wrong(BOX[i], format!("must be a number of pixels, not {value}")));
            }
            box_px[i] = number as f32;
        }
        let number = place.number("score", score)?;
        if !(0.0..=1.0).contains(&number) {
            return Err(place.wrong("score", format!("must be from 0 to 1, not {score}")));
        }
        found.push(Found { frame: frame as u32 - 1, box_px, score: number as f32 });
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const INFO: &str = "[Sequence]\nname=made-up\nframeRate=10\nseqLength=4\n";

    fn sequence(info: &str, detections: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("det")).unwrap();
        fs::write(folder.path().join("seqinfo.ini"), info).unwrap();
        fs::write(folder.path().join("det/det.txt"), detections).unwrap();
        folder
    }

    fn tracked(info: &str, detections: &str) -> Result<(Done, String), MotError> {
        let folder = sequence(info, detections);
        let out = folder.path().join("out.txt");
        let done = run(folder.path(), &out, Settings::default())?;
        Ok((done, fs::read_to_string(out).unwrap()))
    }

    #[test]
    fn boxes_of_tracks_are_written_in_order_whatever_the_order_of_the_lines() {
        let lines = [
            "3,-1,102,50,40,80,0.9,-1,-1,-1",
            "1,-1,100,50,40,80,0.9,-1,-1,-1",
            "2,-1,101.5,50,40,80,0.9,-1,-1,-1",
            "3,-1,500,50,40,80,0.95",
            "4,-1,500,50,40,80,0.95",
            "4,-1,900,50,40,80,0.3",
        ];
        let (done, text) = tracked(INFO, &lines.join("\r\n")).unwrap();
        let expected = "1,1,100,50,40,80,1,-1,-1,-1\n2,1,101.5,50,40,80,1,-1,-1,-1\n\
                        3,1,102,50,40,80,1,-1,-1,-1\n3,2,500,50,40,80,1,-1,-1,-1\n\
                        4,2,500,50,40,80,1,-1,-1,-1\n";
        assert_eq!(text, expected);
        assert_eq!(done, Done { frames: 4, detections: 6, boxes: 5, tracks: 2 });
    }

    #[test]
    fn a_frame_without_detections_is_a_miss() {
        // Were the empty frames left out, both sights would be of one track.
        let flicker = "1,-1,100,50,40,80,0.9\n4,-1,100,50,40,80,0.9\n";
        assert_eq!(tracked(INFO, flicker).unwrap().0.tracks, 2);
    }

    #[test]
    fn no_detections_give_an_empty_result() {
        assert_eq!(tracked(INFO, "").unwrap().1, "");
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_field() {
        let line = |values: &str| (INFO.to_owned(), format!("1,-1,1,2,3,4,0.5\n\n{values}\n"));
        let info = |text: &str| (text.to_owned(), String::new());
        let wrong = [
            (line("0,-1,1,2,3,4,0.5"), "det.txt:3: frame: must be a whole number from 1"),
            (line("-3,-1,1,2,3,4,0.5"), "det.txt:3: frame: must be a whole number from 1"),
            (line("1.5,-1,1,2,3,4,0.5"), "det.txt:3: frame: must be a whole number from 1"),
            (line("5,-1,1,2,3,4,0.5"), "det.txt:3: frame: must be from 1 to 4"),
            (line("1,-1,NaN,2,3,4,0.5"), "det.txt:3: left: must be a finite number"),
            (line("1,-1,1,inf,3,4,0.5"), "det.txt:3: top: must be a finite number"),
            (line("1,-1,1,2,-3,4,0.5"), "det.txt:3: width: must not be negative"),
            (line("1,-1,1,2,3,tall,0.5"), "det.txt:3: height: must be a finite number"),
            (line("1,-1,1,2,3,1e300,0.5"), "det.txt:3: height: must be a number of pixels"),
            (line("1,-1,1,2,3,4,-1"), "det.txt:3: score: must be from 0 to 1"),
            (line("1,-1,1,2,3,4"), "det.txt:3: line: must have at least the 7 values"),
            (line(&"1,".repeat(600)), "det.txt:3: line: must not be longer"),
            (info("[Sequence]\nseqLength=4\n"), "seqinfo.ini: frameRate is missing"),
            (info("[Sequence]\nframeRate=30\n"), "seqinfo.ini: seqLength is missing"),
            (info("[Sequence]\nframeRate=0\n"), "seqinfo.ini:2: frameRate: must be from"),
            (info("[Sequence]\nseqLength=99999999999\n"), "seqinfo.ini:2: seqLength: must be"),
            (info("what\n"), "seqinfo.ini:1: line: must be [section] or key=value"),
        ];
        for ((info, detections), expected) in wrong {
            let said = tracked(&info, &detections).unwrap_err().to_string();
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let folder = sequence(INFO, "");
        fs::write(folder.path().join("det/det.txt"), [b'1', 0xff, b'\n']).unwrap();
        let said = Sequence::read(folder.path()).unwrap_err().to_string();
        assert!(said.contains("det.txt:1: line: must be UTF-8 text"), "{said}");
    }

    #[test]
    fn a_folder_that_cannot_be_read_leaves_the_output_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.txt");
        fs::write(&out, "before").unwrap();
        assert!(matches!(
            run(folder.path(), &out, Settings::default()),
            Err(MotError::Read { path, .. }) if path.ends_with("seqinfo.ini")
        ));
        assert_eq!(fs::read_to_string(out).unwrap(), "before");
    }
}
