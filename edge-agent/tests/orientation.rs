//! Turned, mirrored, cut and deinterlaced pictures on real GStreamer, against a reference that moves
//! pixel by pixel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_edge_agent::capture::pipeline::{Next, Pipeline};
use picket_edge_agent::capture::planes::Plane;
use picket_edge_agent::capture::settings::{FileSource, Pace, Source};
use picket_edge_agent::capture::{CaptureError, PictureSettings, Planes};
use serde_json::{Value, json};

const WIDTH: usize = 64;
const HEIGHT: usize = 48;

/// Samples row by row.
#[derive(Debug, Clone, PartialEq)]
struct Grid {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Grid {
    fn made(width: usize, height: usize, sample: impl Fn(usize, usize) -> u8) -> Self {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Self { width, height, samples: places.map(|(x, y)| sample(x, y)).collect() }
    }

    fn of(plane: Plane<'_>) -> Self {
        let (width, height) = (plane.width as usize, plane.height as usize);
        Self::made(width, height, |x, y| plane.data[y * plane.stride + x])
    }

    fn at(&self, x: usize, y: usize) -> u8 {
        self.samples[y * self.width + x]
    }

    fn turned_right(&self) -> Self {
        Self::made(self.height, self.width, |x, y| self.at(y, self.height - 1 - x))
    }

    fn turned(&self, degrees: usize) -> Self {
        (0..degrees / 90).fold(self.clone(), |grid, _| grid.turned_right())
    }

    fn mirrored(&self, mirror: &str) -> Self {
        Self::made(self.width, self.height, |x, y| match mirror {
            "horizontal" => self.at(self.width - 1 - x, y),
            "vertical" => self.at(x, self.height - 1 - y),
            _ => self.at(x, y),
        })
    }

    fn cut(&self, [left, top, right, bottom]: [usize; 4]) -> Self {
        let (width, height) = (self.width - left - right, self.height - top - bottom);
        Self::made(width, height, |x, y| self.at(x + left, y + top))
    }
}

/// A picture that looks different from every side, in each plane.
fn asymmetric() -> [Grid; 3] {
    let (half_width, half_height) = (WIDTH / 2, HEIGHT / 2);
    [
        Grid::made(WIDTH, HEIGHT, |x, y| 16 + (x + 3 * y) as u8),
        Grid::made(half_width, half_height, |x, y| 20 + (5 * x + y) as u8),
        Grid::made(half_width, half_height, |x, y| 30 + (2 * x + 4 * y) as u8),
    ]
}

/// Writes planes as a video of three frames that holds them to the bit.
fn write_video(folder: &Path, planes: &[Grid; 3]) -> PathBuf {
    let (raw, video) = (folder.join("raw"), folder.join("video.avi"));
    let frame: Vec<u8> = planes.iter().flat_map(|plane| plane.samples.clone()).collect();
    std::fs::write(&raw, frame.repeat(3)).unwrap();
    common::run_to_end(&format!(
        "filesrc location={} ! rawvideoparse format=i420 width={WIDTH} height={HEIGHT} framerate=25/1 \
         ! avimux ! filesink location={}",
        raw.display(),
        video.display()
    ));
    video
}

fn first_picture(video: &Path, picture: &Value) -> Result<Planes, CaptureError> {
    let picture: PictureSettings = serde_json::from_value(picture.clone()).unwrap();
    let source = FileSource { path: video.to_owned(), repeat: false, pace: Pace::None };
    let mut pipeline = Pipeline::open_turned(&Source::File(source), None, &picture, None)?;
    for _ in 0..120 {
        match pipeline.next(Duration::from_secs(1))? {
            Next::Picture(picture) => return Ok(picture.planes),
            Next::Nothing => {}
            Next::End => panic!("no picture came"),
        }
    }
    panic!("no picture came in time")
}

/// Marks an MP4 as to be turned clockwise by 90 degrees, as a phone does that is held upright: by the
/// matrix in the header of its track.
fn mark_as_turned(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = bytes.windows(4).position(|four| four == b"tkhd").unwrap();
    let matrix: [u32; 9] = [0, 1 << 16, 0, (-1i32 << 16) as u32, 0, 0, 48 << 16, 0, 1 << 30];
    let matrix: Vec<u8> = matrix.into_iter().flat_map(u32::to_be_bytes).collect();
    bytes[header + 44..header + 80].copy_from_slice(&matrix);
    std::fs::write(path, bytes).unwrap();
}

fn grids(planes: &Planes) -> [Grid; 3] {
    [planes.y(), planes.u(), planes.v()].map(Grid::of)
}

#[test]
fn a_picture_is_turned_mirrored_and_cut_to_the_pixel() {
    let folder = tempfile::tempdir().unwrap();
    let lying = asymmetric();
    let video = write_video(folder.path(), &lying);
    assert_eq!(grids(&first_picture(&video, &json!({})).unwrap()), lying);

    let margins = [2, 4, 10, 6];
    for degrees in [0, 90, 180, 270] {
        for mirror in ["none", "horizontal", "vertical"] {
            for crop in [[0; 4], margins] {
                let [left, top, right, bottom] = crop;
                let picture = json!({
                    "rotate_deg": degrees,
                    "mirror": mirror,
                    "crop": { "left_px": left, "top_px": top, "right_px": right, "bottom_px": bottom },
                });
                let half = crop.map(|px| px / 2);
                let expected = |grid: &Grid, crop| grid.turned(degrees).mirrored(mirror).cut(crop);
                let [y, u, v] = &lying;
                let expected = [expected(y, crop), expected(u, half), expected(v, half)];
                let got = first_picture(&video, &picture).unwrap();
                assert!(grids(&got) == expected, "{picture}: {got:?}");
            }
        }
    }
}

#[test]
fn a_cut_that_leaves_nothing_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let video = write_video(folder.path(), &asymmetric());
    let cut = json!({ "rotate_deg": 90, "crop": { "left_px": 24, "right_px": 24 } });
    let refused = first_picture(&video, &cut).unwrap_err().to_string();
    for part in ["picture: crop leaves nothing", "64x48"] {
        assert!(refused.contains(part), "{part} not in {refused}");
    }
}

#[test]
fn half_pictures_become_whole_ones_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let [_, u, v] = asymmetric();
    // The two halves of a moving scene: bright and dark rows in turn.
    let combed = [Grid::made(WIDTH, HEIGHT, |_, y| if y % 2 == 0 { 60 } else { 200 }), u, v];
    let video = write_video(folder.path(), &combed);
    let luma = |how: &str| {
        let picture = first_picture(&video, &json!({ "deinterlace": how })).unwrap();
        Grid::of(picture.y())
    };
    assert_eq!(luma("off"), combed[0]);
    assert_eq!(luma("as-marked"), combed[0]);
    assert_eq!(luma("always"), Grid::made(WIDTH, HEIGHT, |_, _| 60));
}

#[test]
fn a_mark_in_the_stream_turns_the_picture_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("upright.mp4");
    common::run_to_end(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,width={WIDTH},height={HEIGHT} ! avenc_mpeg4 ! qtmux \
         ! filesink location={}",
        video.display()
    ));
    mark_as_turned(&video);
    let lying = first_picture(&video, &json!({})).unwrap();
    let [lying, ..] = grids(&lying);
    assert_eq!((lying.width, lying.height), (WIDTH, HEIGHT));
    let standing = first_picture(&video, &json!({ "rotate_as_marked": true })).unwrap();
    assert!(grids(&standing)[0] == lying.turned_right(), "{standing:?}");
}
