//! Which of a camera's modes is used, and why: a pure function of what it gives and what is asked.
//!
//! First the size, then the rate, then the kind of format: a mode of the preferred kind that is too
//! small or too slow would be the wrong one.

use std::cmp::Reverse;

use super::format::{self, Format, Kind, Rate};

/// What is asked of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Width and height, pixels.
    pub size_px: (u32, u32),
    /// Frames per second.
    pub fps: u32,
    /// Only this kind of format.
    pub kind: Option<Kind>,
}

/// For a camera of which nothing is asked. Of faces, larger pictures show more only to detectors that
/// look at more than 1280 pixels; a Raspberry Pi 4 decodes this in software, if it has to.
impl Default for Ask {
    fn default() -> Self {
        Self { size_px: (1280, 720), fps: 15, kind: None }
    }
}

/// One way in which a camera can give its pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// The format.
    pub fourcc: String,
    /// Its kind.
    pub kind: Kind,
    /// Width and height, pixels.
    pub size_px: (u32, u32),
    /// How fast; the driver's choice if it does not say.
    pub rate: Option<Rate>,
}

impl Mode {
    /// Whether its pictures are used as the driver gives them, without a conversion.
    pub fn is_i420(&self) -> bool {
        format::raw_in_gstreamer(&self.fourcc) == Some("I420")
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { fourcc, kind, size_px: (width, height), rate } = self;
        write!(f, "{} ({fourcc}) {width}x{height}", kind.as_str())?;
        match rate {
            Some(rate) => write!(f, " at {rate} fps"),
            None => write!(f, " at the driver's rate"),
        }
    }
}

/// The mode that is used, and why not another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub mode: Mode,
    /// In words.
    pub why: String,
}

/// The best mode for what is asked; else why there is none.
pub fn choose(formats: &[Format], ask: &Ask) -> Result<Choice, String> {
    let best = candidates(formats, ask)
        .filter(|(mode, _)| ask.kind.is_none_or(|kind| kind == mode.kind))
        .min_by_key(|(mode, raw_rank)| (misfit(mode, ask), mode.kind, *raw_rank));
    match best {
        Some((mode, _)) => Ok(Choice { why: explain(&mode, formats, ask), mode }),
        None => Err(no_mode(formats, ask)),
    }
}

/// Of each format and size, or range of sizes, the mode that is nearest to what is asked.
fn candidates<'a>(
    formats: &'a [Format],
    ask: &Ask,
) -> impl Iterator<Item = (Mode, Option<usize>)> + use<'a> {
    let ask = *ask;
    let usable = formats.iter().filter_map(|format| Some((format, format.kind()?)));
    usable.flat_map(move |(format, kind)| {
        format.sizes.iter().map(move |size| {
            let size_px = size.nearest(ask.size_px);
            let rate = size.rates_of(size_px).nearest(ask.fps);
            let mode = Mode { fourcc: format.fourcc.clone(), kind, size_px, rate };
            (mode, format.raw_rank())
        })
    })
}

/// How far a mode is from what is asked; the least is the best. Pixels too many are only work, pixels
/// too few are lost.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SizeMisfit {
    Exact,
    Larger(u64),
    Smaller(Reverse<u64>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RateMisfit {
    /// Whatever is too much: to throw frames away costs less than a worse kind of format.
    Enough,
    Unknown,
    /// The rate itself, in hundredths.
    TooSlow(Reverse<u64>),
}

fn misfit(mode: &Mode, ask: &Ask) -> (SizeMisfit, RateMisfit) {
    let ((width, height), asked) = (mode.size_px, ask.size_px);
    let area = u64::from(width) * u64::from(height);
    let size = match mode.size_px {
        size_px if size_px == asked => SizeMisfit::Exact,
        _ if width >= asked.0 && height >= asked.1 => SizeMisfit::Larger(area),
        _ => SizeMisfit::Smaller(Reverse(area)),
    };
    let rate = match mode.rate {
        None => RateMisfit::Unknown,
        Some(rate) if rate.reaches(ask.fps) => RateMisfit::Enough,
        Some(rate) => RateMisfit::TooSlow(Reverse((rate.fps() * 100.0) as u64)),
    };
    (size, rate)
}

fn explain(chosen: &Mode, formats: &[Format], ask: &Ask) -> String {
    let mut reasons = Vec::new();
    if let Some(kind) = ask.kind {
        reasons.push(format!("{} was asked for", kind.as_str()));
    }
    let better = Kind::ALL.into_iter().take_while(|kind| *kind != chosen.kind);
    for kind in better.filter(|_| ask.kind.is_none()) {
        reasons.push(passed_over(kind, formats, ask));
    }
    reasons.push(fit(chosen, ask));
    reasons.join("; ")
}

/// Why a kind that is preferred to the chosen one was not chosen.
fn passed_over(kind: Kind, formats: &[Format], ask: &Ask) -> String {
    let of_kind = candidates(formats, ask).filter(|(mode, _)| mode.kind == kind);
    match of_kind.min_by_key(|(mode, _)| misfit(mode, ask)) {
        None => format!("no {}", kind.as_str()),
        Some((Mode { size_px: (width, height), rate, .. }, _)) => {
            let rate = rate.map(|rate| format!(" at {rate} fps")).unwrap_or_default();
            format!("{} only {width}x{height}{rate}", kind.as_str())
        }
    }
}

fn fit(chosen: &Mode, ask: &Ask) -> String {
    let (width, height) = ask.size_px;
    let size = match misfit(chosen, ask).0 {
        SizeMisfit::Exact => "the size asked for".to_owned(),
        SizeMisfit::Larger(_) => format!("the smallest that holds {width}x{height}"),
        SizeMisfit::Smaller(_) => format!("the largest there is; {width}x{height} was asked for"),
    };
    match chosen.rate {
        Some(rate) if !rate.reaches(ask.fps) => {
            format!("{size}; no faster, {} fps were asked for", ask.fps)
        }
        _ => size,
    }
}

fn no_mode(formats: &[Format], ask: &Ask) -> String {
    let given: Vec<_> = formats
        .iter()
        .map(|format| format!("{} ({})", format.fourcc, format.description))
        .collect();
    let given = given.join(", ");
    match ask.kind {
        Some(kind) if formats.iter().any(|format| format.kind().is_some()) => {
            format!("format = {:?} was asked for, and it gives {given}", kind.as_str())
        }
        _ if formats.is_empty() => "it offers no format (no signal, or none selected?)".to_owned(),
        _ => format!(
            "it gives only {given}; a bare sensor needs its maker's stack, such as libcamera, in front"
        ),
    }
}

#[cfg(test)]
mod tests;
