//! All cameras that are plugged in, with all that they can, for people who configure one.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::control::Control;
use super::driver::{Abilities, Driver};
use super::error::V4l2Error;
use super::format::Format;
use super::patience;
use super::plug::{Node, Sysfs};

/// How long a camera may take to say all of itself: a UVC camera answers each question over USB.
const LIMIT: Duration = Duration::from_secs(10);

/// A camera.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Surveyed {
    /// Its device file, which another may have after the next start.
    pub path: PathBuf,
    /// Its lasting device files: the links of `/dev/v4l`.
    pub links: Vec<PathBuf>,
    /// What it calls itself.
    pub name: String,
    /// Where it is plugged in.
    pub bus: String,
    /// Its serial number, if it is a USB camera that has one.
    pub serial: Option<String>,
    /// The kernel driver.
    pub driver: String,
    /// What it can give.
    pub formats: Vec<Format>,
    /// What can be set.
    pub controls: Vec<Control>,
}

/// All cameras, in the order of their numbers; one that does not answer does not hide the others. Of
/// ranges of sizes they are asked how fast they are at those near to these.
pub fn list(wanted_px: &[(u32, u32)]) -> Vec<Result<Surveyed, V4l2Error>> {
    let nodes = Sysfs::default().nodes().into_iter();
    let surveys = nodes.filter_map(|node| {
        let (plug, path, wanted_px) = (node.plug(), node.path.clone(), wanted_px.to_vec());
        let survey = patience::ask(&plug, LIMIT, move || survey(node, &wanted_px));
        survey.unwrap_or(Err(V4l2Error::Silent { path, limit: LIMIT })).transpose()
    });
    surveys.collect()
}

/// `None` for a device file that is no camera: each camera has others, for metadata.
fn survey(node: Node, wanted_px: &[(u32, u32)]) -> Result<Option<Surveyed>, V4l2Error> {
    let driver = Driver::open(&node.path)?;
    let abilities = driver.abilities()?;
    if !abilities.captures {
        return Ok(None);
    }
    let formats = driver.formats(&abilities, wanted_px)?;
    let Abilities { name, bus, driver: driver_name, .. } = abilities;
    Ok(Some(Surveyed {
        links: links(&node),
        controls: driver.controls(),
        path: node.path,
        name,
        bus,
        serial: node.serial,
        driver: driver_name,
        formats,
    }))
}

fn links(node: &Node) -> Vec<PathBuf> {
    let folders = ["/dev/v4l/by-id", "/dev/v4l/by-path"];
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let mut links: Vec<_> = entries
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|link| std::fs::canonicalize(link).is_ok_and(|target| target == node.path))
        .collect();
    links.sort();
    links
}
