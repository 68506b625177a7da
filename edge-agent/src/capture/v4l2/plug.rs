//! Which cameras are plugged in, which of them the config means, and when one comes or goes.
//!
//! By looking at sysfs once in a while, and not by the kernel's events: a look takes microseconds,
//! needs no socket that a hardened service would have to be allowed, and cannot be missed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::driver::Abilities;
use super::error::V4l2Error;
use super::settings::V4l2Source;

/// Where the kernel shows its video devices; another place in tests.
#[derive(Debug, Clone)]
pub struct Sysfs {
    class: PathBuf,
    dev: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { class: "/sys/class/video4linux".into(), dev: "/dev".into() }
    }
}

/// A device file of a video device. A camera has one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its device file, `/dev/videoN`.
    pub path: PathBuf,
    /// Serial number of the USB device.
    pub serial: Option<String>,
    number: u32,
    plug: Plug,
}

/// One plugging in of a device: the same camera plugged in again is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    path: PathBuf,
    /// Of a device that sysfs does not show, only the device file's own presence is known.
    inode: Option<u64>,
}

impl Plug {
    /// Whether it was unplugged. The kernel's entry goes at once; its device file may stay a while.
    pub fn is_gone(&self) -> bool {
        match (fs::metadata(&self.path), self.inode) {
            (Ok(there), Some(inode)) => there.ino() != inode,
            (Ok(_), None) => false,
            // What cannot be looked at for another reason is not known to be gone.
            (Err(error), _) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }
}

/// What was plugged in at one moment, to see what comes after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrivals(BTreeSet<(u32, Option<u64>)>);

impl Arrivals {
    /// Of now.
    pub fn now(sysfs: &Sysfs) -> Self {
        Self(sysfs.nodes().into_iter().map(|node| (node.number, node.plug.inode)).collect())
    }

    /// Whether something was plugged in since.
    pub fn anything_new(&self, sysfs: &Sysfs) -> bool {
        !Self::now(sysfs).0.is_subset(&self.0)
    }
}

impl Sysfs {
    /// All device files of video devices, by their numbers.
    pub fn nodes(&self) -> Vec<Node> {
        let entries = fs::read_dir(&self.class).into_iter().flatten().flatten();
        let mut nodes: Vec<_> =
            entries.filter_map(|entry| self.node(entry.file_name().to_str()?)).collect();
        nodes.sort_by_key(|node| node.number);
        nodes
    }

    fn node(&self, name: &str) -> Option<Node> {
        let number = name.strip_prefix("video")?.parse().ok()?;
        let entry = self.class.join(name);
        let plug = Plug { inode: Some(fs::metadata(&entry).ok()?.ino()), path: entry.clone() };
        Some(Node { path: self.dev.join(name), serial: serial(&entry), number, plug })
    }

    /// The one device that the config means. `ask` asks a device file what it is; what cannot be asked
    /// is passed over, unless it is the only one that could be meant.
    pub fn find(
        &self,
        source: &V4l2Source,
        ask: impl Fn(&Path) -> Result<Abilities, V4l2Error>,
    ) -> Result<(Node, Abilities), V4l2Error> {
        if let Some(device) = &source.device {
            return self.find_by_path(device, ask);
        }
        let mut fitting: Vec<(Node, Abilities)> = Vec::new();
        let (mut there, mut unanswered) = (Vec::new(), None);
        for node in self.nodes() {
            let serial_fits = source.serial.is_none() || source.serial == node.serial;
            match ask(&node.path) {
                Ok(abilities) if abilities.captures => {
                    there.push(in_words(&node, &abilities));
                    let fits = |wanted: &Option<String>, is: &str| {
                        wanted.as_deref().is_none_or(|wanted| wanted == is)
                    };
                    if serial_fits
                        && fits(&source.bus, &abilities.bus)
                        && fits(&source.name, &abilities.name)
                    {
                        fitting.push((node, abilities));
                    }
                }
                Ok(_) => {}
                Err(error) if serial_fits => unanswered = Some(error),
                Err(_) => {}
            }
        }
        let several = fitting.iter().any(|(_, other)| other.bus != fitting[0].1.bus);
        if several {
            let fitting: Vec<_> = fitting.iter().map(|(node, a)| in_words(node, a)).collect();
            let (wanted, fitting) = (wanted(source), fitting.join(", "));
            return Err(V4l2Error::Ambiguous { wanted, fitting });
        }
        // Of a camera with several device files that capture, the first is the picture.
        match (fitting.into_iter().next(), unanswered) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(error),
            (None, None) => {
                Err(V4l2Error::NotThere { wanted: wanted(source), there: all_in_words(&there) })
            }
        }
    }

    fn find_by_path(
        &self,
        device: &Path,
        ask: impl Fn(&Path) -> Result<Abilities, V4l2Error>,
    ) -> Result<(Node, Abilities), V4l2Error> {
        // Behind the links of /dev/v4l, which name a camera by its nature.
        let Ok(path) = fs::canonicalize(device) else {
            let there = self.nodes().into_iter().filter_map(|node| {
                let abilities = ask(&node.path).ok().filter(|abilities| abilities.captures)?;
                Some(in_words(&node, &abilities))
            });
            let (wanted, there) =
                (format!("device {}", device.display()), there.collect::<Vec<_>>());
            return Err(V4l2Error::NotThere { wanted, there: all_in_words(&there) });
        };
        let abilities = ask(&path)?;
        if !abilities.captures {
            return Err(V4l2Error::NoCamera { path });
        }
        let shown = path.file_name().and_then(|name| self.node(name.to_str()?));
        let node = match shown {
            Some(node) => Node { path, ..node },
            None => {
                let plug = Plug { path: path.clone(), inode: None };
                Node { path, serial: None, number: u32::MAX, plug }
            }
        };
        Ok((node, abilities))
    }
}

impl Node {
    /// This plugging in, to see when it ends.
    pub fn plug(&self) -> Plug {
        self.plug.clone()
    }
}

/// The serial number of the USB device that an entry belongs to, some folders above it.
fn serial(entry: &Path) -> Option<String> {
    let interface = fs::canonicalize(entry.join("device")).ok()?;
    let device = interface.ancestors().find(|folder| folder.join("idVendor").exists())?;
    let serial = fs::read_to_string(device.join("serial")).ok()?;
    Some(serial.trim().to_owned()).filter(|serial| !serial.is_empty())
}

fn wanted(source: &V4l2Source) -> String {
    let keys = [("serial", &source.serial), ("bus", &source.bus), ("name", &source.name)];
    let keys =
        keys.iter().filter_map(|(key, value)| Some(format!("{key} = {:?}", value.as_ref()?)));
    keys.collect::<Vec<_>>().join(" and ")
}

fn in_words(node: &Node, abilities: &Abilities) -> String {
    let serial = node.serial.as_ref().map(|serial| format!(", serial {serial:?}"));
    let (path, serial) = (node.path.display(), serial.unwrap_or_default());
    format!("{path} (name {:?}, bus {:?}{serial})", abilities.name, abilities.bus)
}

fn all_in_words(there: &[String]) -> String {
    match there {
        [] => "no camera is plugged in that this user may open".to_owned(),
        there => format!("there are {}", there.join(", ")),
    }
}

#[cfg(test)]
mod tests;
