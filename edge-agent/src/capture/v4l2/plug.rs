//! Which cameras are plugged in, which of them the config means, and when one comes or goes.
//!
//! By looking at sysfs once in a while, and not by the kernel's events: a look takes microseconds,
//! needs no socket that a hardened service would have to be allowed, and cannot be missed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::driver::Abilities;
use super::error::V4l2Error;
use super::patience;
use super::settings::V4l2Source;

/// Asks a device file what it is.
pub type Ask = fn(&Path) -> Result<Abilities, V4l2Error>;

/// How long a device may take to say what it is: one that sleeps is woken up first.
const LIMIT: Duration = Duration::from_secs(2);

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
    /// What its driver would answer, as far as sysfs tells without it.
    bus: Option<String>,
    name: Option<String>,
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
        let usb = UsbDevice::of(&entry);
        Some(Node {
            path: self.dev.join(name),
            serial: usb.as_ref().and_then(UsbDevice::serial),
            bus: usb.as_ref().and_then(UsbDevice::bus),
            name: name_of(&entry),
            number,
            plug,
        })
    }

    /// The one device that the config means. `ask` asks a device file what it is; what cannot be asked
    /// is passed over, unless it is the only one that could be meant.
    ///
    /// Opening a device whose driver hangs may never return. So those come first that sysfs does not
    /// rule out, and the others only when none of these fits; each has a limit.
    pub fn find(&self, source: &V4l2Source, ask: Ask) -> Result<(Node, Abilities), V4l2Error> {
        if let Some(device) = &source.device {
            return self.find_by_path(device, ask);
        }
        let nodes = self.nodes().into_iter();
        let (likely, others): (Vec<_>, Vec<_>) = nodes.partition(|node| node.may_be(source));
        let mut found = Found::default();
        likely.into_iter().for_each(|node| found.ask(node, source, ask));
        // What is there instead is to be said; and what sysfs tells may be wrong.
        if found.fitting.is_empty() {
            others.into_iter().for_each(|node| found.ask(node, source, ask));
        }
        let Found { fitting, there, unanswered } = found;
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

    fn find_by_path(&self, device: &Path, ask: Ask) -> Result<(Node, Abilities), V4l2Error> {
        // Behind the links of /dev/v4l, which name a camera by its nature.
        let Ok(path) = fs::canonicalize(device) else {
            let there = self.nodes().into_iter().filter_map(|node| {
                let abilities = node.asked(ask).ok().filter(|abilities| abilities.captures)?;
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
                Node { path, serial: None, bus: None, name: None, number: u32::MAX, plug }
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

/// What was found while devices were asked.
#[derive(Default)]
struct Found {
    fitting: Vec<(Node, Abilities)>,
    /// All cameras, for people.
    there: Vec<String>,
    /// Why one that could be meant did not answer.
    unanswered: Option<V4l2Error>,
}

impl Found {
    fn ask(&mut self, node: Node, source: &V4l2Source, ask: Ask) {
        let fits =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let serial_fits = source.serial.is_none() || source.serial == node.serial;
        match node.asked(ask) {
            Ok(abilities) if abilities.captures => {
                self.there.push(in_words(&node, &abilities));
                let named = fits(&source.name, &abilities.name);
                if serial_fits && fits(&source.bus, &abilities.bus) && named {
                    self.fitting.push((node, abilities));
                }
            }
            Ok(_) => {}
            Err(error) if node.may_be(source) => self.unanswered = Some(error),
            Err(_) => {}
        }
    }
}

impl Node {
    /// Whether the config may mean it, as far as sysfs tells.
    fn may_be(&self, source: &V4l2Source) -> bool {
        let fits = |wanted: &Option<String>, is: &Option<String>| {
            wanted.is_none() || is.is_none() || wanted == is
        };
        let serial_fits = source.serial.is_none() || source.serial == self.serial;
        serial_fits && fits(&source.bus, &self.bus) && fits(&source.name, &self.name)
    }

    fn asked(&self, ask: Ask) -> Result<Abilities, V4l2Error> {
        let path = self.path.clone();
        let silent = V4l2Error::Silent { path: path.clone(), limit: LIMIT };
        patience::ask(&self.plug, LIMIT, move || ask(&path)).unwrap_or(Err(silent))
    }
}

/// The USB device that an entry belongs to, some folders above it.
struct UsbDevice(PathBuf);

impl UsbDevice {
    fn of(entry: &Path) -> Option<Self> {
        let interface = fs::canonicalize(entry.join("device")).ok()?;
        let device = interface.ancestors().find(|folder| folder.join("idVendor").exists())?;
        Some(Self(device.to_owned()))
    }

    fn says(&self, file: &str) -> Option<String> {
        said(&self.0.join(file))
    }

    fn serial(&self) -> Option<String> {
        self.says("serial")
    }

    /// As the kernel's `usb_make_path` puts it together: the controller, and the ports from there.
    fn bus(&self) -> Option<String> {
        let is_root = |folder: &&Path| {
            let name = folder.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix("usb"));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let controller = self.0.ancestors().find(is_root)?.parent()?.file_name()?.to_str()?;
        let bus = format!("usb-{controller}-{}", self.says("devpath")?);
        Some(cut(&bus))
    }
}

/// The camera's name, of the driver that shows the same name in both places: others call the device
/// file by what it is for.
fn name_of(entry: &Path) -> Option<String> {
    let driver = fs::canonicalize(entry.join("device/driver")).ok()?;
    (driver.file_name()? == "uvcvideo").then(|| said(&entry.join("name")))?.map(|name| cut(&name))
}

/// What V4L2's answer has room for: 32 bytes with the zero at its end.
fn cut(text: &str) -> String {
    let bytes = &text.as_bytes()[..text.len().min(31)];
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn said(file: &Path) -> Option<String> {
    let said = fs::read_to_string(file).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
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
