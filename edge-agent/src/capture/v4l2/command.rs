//! `cameras`: what is plugged in, how to name it in the config, and which mode would be used of it.

use picket_service::logging::chain;

use super::mode::{self, Ask};
use super::survey::{self, Surveyed};
use super::{Driver, Sysfs, V4l2Source};
use crate::capture::settings::{CameraSettings, Source};

/// What people ask cameras for, to show what each ask would give.
const USUAL_ASKS: [((u32, u32), u32); 4] =
    [((640, 480), 15), ((1280, 720), 15), ((1280, 720), 30), ((1920, 1080), 30)];

/// The page: all cameras that are plugged in, and those of the config, if there is one.
pub fn page(configured: &[CameraSettings]) -> String {
    let mut page = String::new();
    let surveyed = survey::list(&USUAL_ASKS.map(|(size_px, _)| size_px));
    if surveyed.is_empty() {
        page += "no V4L2 device that captures video (is a camera plugged in, and is this user in the group `video`?)\n";
    }
    for camera in surveyed {
        match camera {
            Ok(camera) => page += &describe(&camera),
            Err(error) => page += &format!("{}\n", chain(&error)),
        }
    }
    for camera in configured {
        if let Source::V4l2(source) = &camera.source {
            page += &format!("\ncamera {} of the config: {}\n", camera.name, of_config(source));
        }
    }
    page
}

/// What the config's camera is now. Nothing is set: that would reach into a camera that runs.
fn of_config(source: &V4l2Source) -> String {
    let sysfs = Sysfs::default();
    let asked =
        sysfs.find(source, |path| Driver::open(path)?.abilities()).and_then(|(node, is)| {
            let driver = Driver::open(&node.path)?;
            Ok((node, driver.formats(&is, &[source.ask().size_px])?, driver.controls()))
        });
    let (node, formats, controls) = match asked {
        Ok(asked) => asked,
        Err(error) => return chain(&error),
    };
    let mut text = match mode::choose(&formats, &source.ask()) {
        Ok(choice) => {
            format!("{} gives {}\n  because: {}", node.path.display(), choice.mode, choice.why)
        }
        Err(why) => format!("{}: {why}", node.path.display()),
    };
    let (_, problems) = super::control::settings(&source.controls, &controls);
    for problem in problems {
        text += &format!("\n  PROBLEM: source.v4l2.{problem}");
    }
    text
}

/// A camera, in words.
pub fn describe(camera: &Surveyed) -> String {
    let mut text = format!("{}  {} ({})\n", camera.path.display(), camera.name, camera.driver);
    text += "  in the config, any of\n";
    if let Some(serial) = &camera.serial {
        text += &format!("    source.v4l2 = {{ serial = {serial:?} }}\n");
    }
    for link in &camera.links {
        text += &format!("    source.v4l2 = {{ device = {:?} }}\n", link.display().to_string());
    }
    text += &format!("    source.v4l2 = {{ bus = {:?} }}\n", camera.bus);
    text += &format!("    source.v4l2 = {{ name = {:?} }}\n", camera.name);
    text += "  it gives\n";
    for format in &camera.formats {
        // Some cameras have dozens of them, each in all its sizes.
        if format.kind().is_none() {
            text += &format!("    {} {}, cannot be used\n", format.fourcc, format.description);
            continue;
        }
        text += &format!("    {} {}\n", format.fourcc, format.description);
        for size in &format.sizes {
            let (width, height) = size.size_px;
            let from =
                size.range.map(|range| format!("{}x{} to ", range.from_px.0, range.from_px.1));
            let from = from.unwrap_or_default();
            text += &format!("      {from}{width}x{height} at {}\n", size.rates);
            for ((width, height), rates) in &size.rates_at {
                text += &format!("        of these {width}x{height} at {rates}\n");
            }
        }
    }
    text += "  asked for, it would give\n";
    for (size_px, fps) in USUAL_ASKS {
        let default = if (size_px, fps) == (Ask::default().size_px, Ask::default().fps) {
            ", the default"
        } else {
            ""
        };
        let gives = match mode::choose(&camera.formats, &Ask { size_px, fps, kind: None }) {
            Ok(choice) => format!("{}\n      because: {}", choice.mode, choice.why),
            Err(why) => why,
        };
        text += &format!("    {}x{} at {fps} fps{default}: {gives}\n", size_px.0, size_px.1);
    }
    if !camera.controls.is_empty() {
        text += "  source.v4l2.controls can set\n";
    }
    for control in &camera.controls {
        let now = control.now().map(|value| format!(" (now {value})")).unwrap_or_default();
        text += &format!("    {} = {}{now}\n", control.name(), control.takes());
    }
    text
}
