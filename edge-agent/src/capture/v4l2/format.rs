//! What a camera can give: formats, their sizes, their rates.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of format, the preferred first.
///
/// H.264 before MJPEG: it takes the least of the bus, and nearly every board decodes it in hardware.
/// MJPEG before raw: at the sizes that are of use, USB carries raw pictures at a few per second.
/// H.265 last: few boards decode it, and software needs several cores.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// H.264.
    H264,
    /// A JPEG per frame.
    Mjpeg,
    /// Pictures that need no decoder.
    Raw,
    /// H.265.
    H265,
}

impl Kind {
    /// All, the preferred first.
    pub const ALL: [Self; 4] = [Self::H264, Self::Mjpeg, Self::Raw, Self::H265];

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::Mjpeg => "MJPEG",
            Self::Raw => "raw",
            Self::H265 => "H.265",
        }
    }
}

/// Raw formats by V4L2's name, with GStreamer's, in the order of what they cost: half-size chroma is
/// what the detector takes, the others are converted, and grey has no colour.
const RAW: &[(&str, &str)] = &[
    ("YU12", "I420"),
    ("YM12", "I420"),
    ("NV12", "NV12"),
    ("NM12", "NV12"),
    ("YV12", "YV12"),
    ("NV21", "NV21"),
    ("YUYV", "YUY2"),
    ("UYVY", "UYVY"),
    ("YVYU", "YVYU"),
    ("VYUY", "VYUY"),
    ("422P", "Y42B"),
    ("NV16", "NV16"),
    ("NV61", "NV61"),
    ("RGB3", "RGB"),
    ("BGR3", "BGR"),
    ("XR24", "BGRx"),
    ("AR24", "BGRA"),
    ("BGR4", "BGRx"),
    ("RGBP", "RGB16"),
    ("GREY", "GRAY8"),
];

/// What GStreamer calls a raw format.
pub(super) fn raw_in_gstreamer(fourcc: &str) -> Option<&'static str> {
    RAW.iter().find(|(v4l2, _)| *v4l2 == fourcc).map(|(_, gstreamer)| *gstreamer)
}

/// A pixel format of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Format {
    /// Four characters, such as `YUYV` or `MJPG`.
    pub fourcc: String,
    /// In the driver's words.
    pub description: String,
    /// Its sizes.
    pub sizes: Vec<Size>,
}

impl Format {
    /// Its kind; none for what cannot be used, such as a sensor's raw mosaic.
    pub fn kind(&self) -> Option<Kind> {
        match self.fourcc.as_str() {
            "H264" => Some(Kind::H264),
            "MJPG" | "JPEG" => Some(Kind::Mjpeg),
            "HEVC" => Some(Kind::H265),
            _ => self.raw_rank().map(|_| Kind::Raw),
        }
    }

    /// Of a raw one: its place in the order of what they cost.
    pub(super) fn raw_rank(&self) -> Option<usize> {
        RAW.iter().position(|(fourcc, _)| *fourcc == self.fourcc)
    }

    /// What GStreamer calls it: the media type, and of a raw one the format.
    pub(super) fn in_gstreamer(&self) -> Option<(&'static str, Option<&'static str>)> {
        match self.kind()? {
            Kind::H264 => Some(("video/x-h264", None)),
            Kind::H265 => Some(("video/x-h265", None)),
            Kind::Mjpeg => Some(("image/jpeg", None)),
            Kind::Raw => self.raw_rank().map(|rank| ("video/x-raw", Some(RAW[rank].1))),
        }
    }
}

/// A size, or a range of sizes, of a format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Width and height in pixels; of a range, the largest.
    pub size_px: (u32, u32),
    /// Of a range: the smallest, and the steps from there.
    pub range: Option<SizeRange>,
    /// How fast; nothing if the driver does not say. Of a range, at the largest.
    pub rates: Rates,
    /// Of a range: how fast at the sizes in it that were asked about.
    pub rates_at: Vec<((u32, u32), Rates)>,
}

/// Where a range of sizes begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SizeRange {
    /// The smallest.
    pub from_px: (u32, u32),
    /// From one to the next.
    pub step_px: (u32, u32),
}

impl Size {
    /// How fast at one of its sizes: smaller pictures often come faster.
    pub fn rates_of(&self, size_px: (u32, u32)) -> &Rates {
        let asked = self.rates_at.iter().find(|(asked_px, _)| *asked_px == size_px);
        asked.map_or(&self.rates, |(_, rates)| rates)
    }

    /// The size that is nearest to what is asked for: the only one, or of a range the next below.
    pub fn nearest(&self, asked_px: (u32, u32)) -> (u32, u32) {
        let Some(SizeRange { from_px, step_px }) = self.range else {
            return self.size_px;
        };
        let along = |asked: u32, from: u32, step: u32, to: u32| {
            let inside = asked.clamp(from, to.max(from));
            from + (inside - from) / step.max(1) * step.max(1)
        };
        (
            along(asked_px.0, from_px.0, step_px.0, self.size_px.0),
            along(asked_px.1, from_px.1, step_px.1, self.size_px.1),
        )
    }
}

/// Frames per second at a size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rates {
    /// These and no others; none if the driver does not say.
    Listed(Vec<Rate>),
    /// Any between these.
    Between {
        /// The slowest.
        slowest: Rate,
        /// The fastest.
        fastest: Rate,
    },
}

impl Rates {
    /// The slowest that is at least as fast as asked for, else the fastest.
    pub fn nearest(&self, asked_fps: u32) -> Option<Rate> {
        match self {
            Self::Listed(rates) => {
                let enough = rates.iter().copied().filter(|rate| rate.reaches(asked_fps));
                let fastest = || rates.iter().copied().max_by(|a, b| a.slower(*b));
                enough.min_by(|a, b| a.slower(*b)).or_else(fastest)
            }
            Self::Between { slowest, fastest } => {
                let asked = Rate { frames: asked_fps, seconds: 1 };
                Some(match asked.fps() {
                    fps if fps <= slowest.fps() => *slowest,
                    fps if fps >= fastest.fps() => *fastest,
                    _ => asked,
                })
            }
        }
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(rates) if rates.is_empty() => write!(f, "a rate that it does not say"),
            Self::Listed(rates) => {
                let rates: Vec<_> = rates.iter().map(Rate::to_string).collect();
                write!(f, "{} fps", rates.join(", "))
            }
            Self::Between { slowest, fastest } => write!(f, "{slowest} to {fastest} fps"),
        }
    }
}

/// Frames per second, as a fraction: 30000/1001 is a rate that drivers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// So many frames
    pub frames: u32,
    /// in so many seconds.
    pub seconds: u32,
}

impl Rate {
    /// As a number.
    pub fn fps(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds.max(1))
    }

    /// Whether it is as fast as asked for; 29.97 is taken for 30.
    pub fn reaches(self, asked_fps: u32) -> bool {
        self.fps() * 1.01 >= f64::from(asked_fps)
    }

    fn slower(self, other: Self) -> std::cmp::Ordering {
        self.fps().total_cmp(&other.fps())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.fps() * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_the_size_asked_for_on_its_grid_and_inside() {
        let range = Size {
            size_px: (2592, 1944),
            range: Some(SizeRange { from_px: (32, 32), step_px: (2, 2) }),
            rates: Rates::Listed(vec![]),
            rates_at: vec![],
        };
        assert_eq!(range.nearest((1280, 720)), (1280, 720));
        assert_eq!(range.nearest((1281, 721)), (1280, 720));
        assert_eq!(range.nearest((1, 9000)), (32, 1944));
    }

    #[test]
    fn the_rate_is_the_slowest_that_is_enough_else_the_fastest() {
        let listed = |rates: &[(u32, u32)]| {
            let rates = rates.iter().map(|&(frames, seconds)| Rate { frames, seconds });
            Rates::Listed(rates.collect())
        };
        let ntsc = listed(&[(30000, 1001), (15, 1), (5, 1)]);
        let shown = |rate: Option<Rate>| rate.map(|rate| rate.to_string());
        assert_eq!(shown(ntsc.nearest(15)), Some("15".to_owned()));
        assert_eq!(shown(ntsc.nearest(16)), Some("29.97".to_owned()));
        assert_eq!(shown(ntsc.nearest(30)), Some("29.97".to_owned()));
        assert_eq!(listed(&[]).nearest(30), None);
    }
}
