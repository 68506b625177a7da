//! The cameras that the kernel knows, for people who configure one.

use std::path::{Path, PathBuf};

use serde::Serialize;
use v4l::capability::Flags;
use v4l::format::FourCC;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture;

/// A capture device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct V4l2Device {
    /// Device file: the `device` of a `v4l2` source.
    pub path: PathBuf,
    /// What the driver calls it.
    pub name: String,
    /// Where it is plugged in.
    pub bus: String,
    /// The kernel driver.
    pub driver: String,
    /// What it can give.
    pub formats: Vec<V4l2Format>,
}

/// A pixel format of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct V4l2Format {
    /// Four characters, such as `YUYV` or `MJPG`.
    pub fourcc: String,
    /// In words.
    pub description: String,
    /// Its sizes.
    pub sizes: Vec<V4l2Size>,
}

/// A size of a format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct V4l2Size {
    /// Width and height in pixels; of a range, the largest.
    pub size_px: (u32, u32),
    /// The smallest of a range.
    pub from_px: Option<(u32, u32)>,
    /// Frames per second at that size; of a range, the fastest.
    pub rates_fps: Vec<f64>,
}

/// A device that is there and cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask {} what it can do", path.display())]
pub struct V4l2Error {
    /// Its device file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// All devices that capture pictures, in the order of their numbers; a device that does not answer
/// does not hide the others.
pub fn list() -> Vec<Result<V4l2Device, V4l2Error>> {
    let Ok(entries) = std::fs::read_dir("/dev") else {
        return Vec::new();
    };
    let mut numbered: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("video")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    numbered.sort();
    numbered.iter().filter_map(|(_, path)| describe(path).transpose()).collect()
}

/// `None` for a device file that is no camera: each camera has others, for metadata.
fn describe(path: &Path) -> Result<Option<V4l2Device>, V4l2Error> {
    let failed = |source| V4l2Error { path: path.to_owned(), source };
    let device = v4l::Device::with_path(path).map_err(failed)?;
    let abilities = device.query_caps().map_err(failed)?;
    if !abilities.capabilities.intersects(Flags::VIDEO_CAPTURE | Flags::VIDEO_CAPTURE_MPLANE) {
        return Ok(None);
    }
    let described = device.enum_formats().map_err(failed)?;
    if described.is_empty() {
        return Ok(None);
    }
    let formats = described
        .into_iter()
        .map(|format| V4l2Format {
            fourcc: format.fourcc.to_string(),
            description: format.description,
            sizes: sizes(&device, format.fourcc),
        })
        .collect();
    Ok(Some(V4l2Device {
        path: path.to_owned(),
        name: abilities.card,
        bus: abilities.bus,
        driver: abilities.driver,
        formats,
    }))
}

/// Empty if the driver does not say.
fn sizes(device: &v4l::Device, fourcc: FourCC) -> Vec<V4l2Size> {
    let known = device.enum_framesizes(fourcc).unwrap_or_default();
    known
        .into_iter()
        .map(|known| {
            let (size_px, from_px) = match known.size {
                FrameSizeEnum::Discrete(size) => ((size.width, size.height), None),
                FrameSizeEnum::Stepwise(range) => {
                    ((range.max_width, range.max_height), Some((range.min_width, range.min_height)))
                }
            };
            V4l2Size { size_px, from_px, rates_fps: rates_fps(device, fourcc, size_px) }
        })
        .collect()
}

fn rates_fps(device: &v4l::Device, fourcc: FourCC, (width, height): (u32, u32)) -> Vec<f64> {
    let per_second = |interval: &v4l::Fraction| {
        f64::from(interval.denominator) / f64::from(interval.numerator.max(1))
    };
    let known = device.enum_frameintervals(fourcc, width, height).unwrap_or_default();
    known
        .iter()
        .map(|known| match &known.interval {
            FrameIntervalEnum::Discrete(interval) => per_second(interval),
            FrameIntervalEnum::Stepwise(range) => per_second(&range.min),
        })
        .collect()
}
