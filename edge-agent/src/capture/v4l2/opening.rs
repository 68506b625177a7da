//! From a camera in the config to one that is told how to give its pictures.

use gstreamer as gst;

use super::control;
use super::driver::Driver;
use super::error::V4l2Error;
use super::format::Format;
use super::mode::{self, Ask, Mode};
use super::plug::{Plug, Sysfs};
use super::settings::V4l2Source;

/// A camera that is found and told.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its device file, as GStreamer takes it.
    pub device: String,
    /// What it calls itself.
    pub name: String,
    /// This plugging in.
    pub plug: Plug,
    /// How it gives its pictures.
    pub mode: Mode,
    /// Why so.
    pub why: String,
    /// The mode, as GStreamer says it.
    pub caps: gst::Caps,
    /// Whether it gives them in shared buffers.
    pub streams: bool,
    /// What of the settings asked for it does not take.
    pub problems: Vec<String>,
}

impl V4l2Source {
    /// What it asks of the camera.
    pub fn ask(&self) -> Ask {
        let default = Ask::default();
        let size_px = self.width_px.zip(self.height_px).unwrap_or(default.size_px);
        Ask { size_px, fps: self.fps.unwrap_or(default.fps), kind: self.format }
    }
}

/// Finds the camera, chooses its mode, and sets its controls.
///
/// A control that the camera does not take is no reason to go without its pictures: the others are
/// set, and what is wrong is said.
pub fn open(source: &V4l2Source) -> Result<Opened, V4l2Error> {
    let (node, abilities) =
        Sysfs::default().find(source, |path| Driver::open(path)?.abilities())?;
    let driver = Driver::open(&node.path)?;
    let ask = source.ask();
    let formats = driver.formats(&abilities, &[ask.size_px])?;
    let choice = mode::choose(&formats, &ask)
        .map_err(|why| V4l2Error::NoMode { path: node.path.clone(), why })?;
    let caps = caps(&choice.mode, &formats);
    let problems = set_controls(&driver, source);
    Ok(Opened {
        device: node.path.to_string_lossy().into_owned(),
        name: abilities.name,
        plug: node.plug(),
        mode: choice.mode,
        why: choice.why,
        caps,
        streams: abilities.streams,
        problems,
    })
}

fn set_controls(driver: &Driver, source: &V4l2Source) -> Vec<String> {
    if source.controls.is_empty() {
        return Vec::new();
    }
    let (settings, mut problems) = control::settings(&source.controls, &driver.controls());
    for setting in settings {
        if let Err(error) = driver.set(setting.id, setting.value) {
            let (name, value) = (setting.name, setting.value);
            problems.push(format!("controls.{name} = {value}: the camera refuses it: {error}"));
        }
    }
    problems
}

/// Only the mode that was chosen: with room for choice GStreamer would choose by its own order.
fn caps(mode: &Mode, formats: &[Format]) -> gst::Caps {
    let format = formats.iter().find(|format| format.fourcc == mode.fourcc);
    let (media, raw) = format.and_then(Format::in_gstreamer).unwrap_or(("video/x-raw", None));
    let dimension = |px: u32| i32::try_from(px).unwrap_or(i32::MAX);
    let mut caps = gst::Caps::builder(media)
        .field("width", dimension(mode.size_px.0))
        .field("height", dimension(mode.size_px.1));
    if let Some(raw) = raw {
        caps = caps.field("format", raw);
    }
    if let Some(rate) = mode.rate {
        let (frames, seconds) = (dimension(rate.frames), dimension(rate.seconds));
        caps = caps.field("framerate", gst::Fraction::new(frames, seconds));
    }
    caps.build()
}
