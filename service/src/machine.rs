//! What tells this machine from others, as the service and root alike can see it.
//!
//! Not asked: the machine id and the SSH host keys, which are copied with the disk.
//!
//! A PC's serial number is readable by root alone until the package opens it to the agent's group
//! (`packaging/debian/picket-edge-agent.tmpfiles`). A credential of the service manager was refused
//! for that: it is there only while the service runs, so that the package's own check and every
//! command given while the service is down saw another machine, and it needs a line from each site.

use std::io;
use std::path::{Path, PathBuf};

/// What a config may name.
const VARIABLES: &str = "${hostname}, ${serial} and ${mac}";

/// Where a serial number may stand: in the device tree of ARM boards, in the firmware's tables of PCs.
const SERIALS: [&str; 2] =
    ["sys/firmware/devicetree/base/serial-number", "sys/class/dmi/id/product_serial"];

/// The machine: the folders in which the kernel describes it, as a seam for tests.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This one. `PICKET_MACHINE_ROOT` puts another root in the place of `/`: for tests with real
    /// processes.
    pub fn this() -> Self {
        Self::under(std::env::var_os("PICKET_MACHINE_ROOT").map_or("/".into(), PathBuf::from))
    }

    /// One that is described under this root.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The board's serial number, lower case: of the device tree on ARM boards, of the firmware on
    /// PCs.
    pub fn serial(&self) -> Option<String> {
        SERIALS.iter().find_map(|file| serial_in(&self.root.join(file)))
    }

    /// Why there is no serial number; `read` reads a file, which a test has refused to root as well.
    fn no_serial(&self, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> String {
        let denied = SERIALS.iter().map(|file| self.root.join(file)).find(|file| {
            read(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        });
        match denied {
            Some(file) => format!(
                "this user may not read this machine's serial number in {}: run the command as root \
                 or as the service's user (see docs/running.md, \"One config for all boxes\"), or \
                 use ${{mac}} or ${{hostname}}",
                file.display()
            ),
            None => {
                "this machine has no serial number of its own: use ${mac} or ${hostname}".to_owned()
            }
        }
    }

    /// Addresses of the network cards, `dca632010203`: built in ones before those on USB, which a
    /// person may move to another box; then by the interface's name. Without virtual interfaces, and
    /// without addresses that were drawn by chance or set by somebody.
    pub fn addresses(&self) -> Vec<String> {
        let mut cards = self.cards();
        cards.sort();
        cards.into_iter().map(|card| card.address).collect()
    }

    /// Addresses that belong to the board: the built in ones, or all where there are none.
    pub fn board_addresses(&self) -> Vec<String> {
        let cards = self.cards();
        let built_in: Vec<_> =
            cards.iter().filter(|card| !card.on_usb).map(|card| card.address.clone()).collect();
        if built_in.is_empty() { self.addresses() } else { built_in }
    }

    fn cards(&self) -> Vec<Card> {
        let Ok(interfaces) = std::fs::read_dir(self.root.join("sys/class/net")) else {
            return Vec::new();
        };
        interfaces.flatten().filter_map(|interface| card(&interface.path())).collect()
    }

    fn hostname(&self) -> Result<String, String> {
        let name = match std::fs::read_to_string(self.root.join("etc/hostname")) {
            Ok(name) if self.root != Path::new("/") => name,
            _ => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let name = name.trim().to_ascii_lowercase();
        // What a box is called that nobody has named: all of a fleet would share it.
        match name.as_str() {
            "" | "(none)" | "localhost" | "localhost.localdomain" => Err(format!(
                "this machine has no name of its own yet (it is {name:?}): set one with \
                 `hostnamectl hostname NAME`, or use ${{serial}} or ${{mac}}"
            )),
            _ => Ok(name),
        }
    }

    /// The value of a variable, or why there is none.
    pub fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "hostname" => self.hostname(),
            "serial" => self.serial().ok_or_else(|| self.no_serial(|file| std::fs::read(file))),
            "mac" => self.addresses().into_iter().next().ok_or_else(|| {
                "this machine has no network card with an address of its own: use ${hostname}"
                    .to_owned()
            }),
            _ => Err(format!(
                "the variable ${{{name}}} is not known: there are {VARIABLES}; for the text itself \
                 write $${{{name}}}"
            )),
        }
    }

    /// A text with its variables put in.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, behind) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                expanded += before;
                expanded += "${";
                rest = behind;
                continue;
            }
            let (name, behind) = behind.split_once('}').ok_or_else(|| {
                "a variable that begins with ${ has no }: for the text itself write $${".to_owned()
            })?;
            expanded += before;
            expanded += &self.variable(name)?;
            rest = behind;
        }
        Ok(expanded + rest)
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Card {
    on_usb: bool,
    interface: String,
    address: String,
}

/// `NET_ADDR_PERM` of the kernel: the card's own.
const PERMANENT: &str = "0";

fn card(interface: &Path) -> Option<Card> {
    // Bridges, tunnels and containers' interfaces have no device.
    let device = std::fs::canonicalize(interface.join("device")).ok()?;
    let read = |file| Some(std::fs::read_to_string(interface.join(file)).ok()?.trim().to_owned());
    if read("addr_assign_type")? != PERMANENT {
        return None;
    }
    let address = read("address")?.to_ascii_lowercase().replace(':', "");
    let is_one = address.len() == 12
        && address.bytes().all(|digit| digit.is_ascii_hexdigit())
        && address.bytes().any(|digit| digit != b'0');
    let interface = interface.file_name()?.to_str()?.to_owned();
    let on_usb = device.iter().any(|part| part.as_encoded_bytes().starts_with(b"usb"));
    is_one.then_some(Card { on_usb, interface, address })
}

/// What boards say that were never given a serial number: it tells none from another.
const PLACEHOLDERS: &[&str] = &[
    "0123456789",
    "123456789",
    "1234567890",
    "12345678",
    "default-string",
    "invalid",
    "n-a",
    "na",
    "none",
    "not-applicable",
    "not-specified",
    "system-serial-number",
    "to-be-filled-by-o.e.m.",
    "unknown",
];

/// The serial number in a file, if it is one.
fn serial_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let serial = text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_one = (1..=63).contains(&serial.len())
        && serial.bytes().all(fits)
        && serial.bytes().any(|b| !b"0-._".contains(&b) && b != b'f' && b != b'x')
        && !PLACEHOLDERS.contains(&serial.as_str());
    is_one.then_some(serial)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn add_card(root: &Path, interface: &str, device: &str, address: &str, assigned: &str) {
        let class = format!("sys/class/net/{interface}");
        fs::create_dir_all(root.join("sys/devices").join(device)).unwrap();
        write(root, &format!("{class}/address"), address);
        write(root, &format!("{class}/addr_assign_type"), assigned);
        let target = root.join("sys/devices").join(device);
        symlink(target, root.join(&class).join("device")).unwrap();
    }

    #[test]
    fn built_in_cards_come_first_and_virtual_or_random_ones_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        add_card(root.path(), "a-dongle", "pci0/usb1/1-1", "AA:00:00:00:00:01\n", "0\n");
        add_card(root.path(), "eth1", "pci0/1", "dc:a6:32:00:00:02\n", "0\n");
        add_card(root.path(), "eth0", "pci0/0", "dc:a6:32:00:00:01\n", "0\n");
        add_card(root.path(), "wlan0", "pci0/2", "12:34:56:00:00:01\n", "3\n");
        write(root.path(), "sys/class/net/docker0/address", "02:42:00:00:00:01\n");
        write(root.path(), "sys/class/net/docker0/addr_assign_type", "0\n");
        let machine = Machine::under(root.path());
        assert_eq!(machine.addresses(), ["dca632000001", "dca632000002", "aa0000000001"]);
        assert_eq!(machine.variable("mac").unwrap(), "dca632000001");
        let mut built_in = machine.board_addresses();
        built_in.sort();
        assert_eq!(built_in, ["dca632000001", "dca632000002"]);
    }

    #[test]
    fn a_serial_number_loses_its_nul_byte_and_zeros_are_none() {
        let root = tempfile::tempdir().unwrap();
        let file = "sys/firmware/devicetree/base/serial-number";
        write(root.path(), file, "100000003D1D1C36\0");
        let machine = Machine::under(root.path());
        assert_eq!(machine.expand("box-${serial}").unwrap(), "box-100000003d1d1c36");
        write(root.path(), file, "0000000000000000\0");
        let error = machine.expand("${serial}").unwrap_err();
        assert!(error.contains("no serial number") && error.contains("${mac}"), "{error}");
        for placeholder in ["System-Serial-Number\n", "0123456789\n", "None\n", "FFFFFFFF\n"] {
            write(root.path(), file, placeholder);
            assert_eq!(machine.serial(), None, "{placeholder}");
        }
    }

    #[test]
    fn a_pc_is_known_by_its_firmwares_serial_number_and_who_may_not_read_it_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let file = "sys/class/dmi/id/product_serial";
        write(root.path(), file, "8CC0230XYZ\n");
        let machine = Machine::under(root.path());
        assert_eq!(machine.expand("pc-${serial}").unwrap(), "pc-8cc0230xyz");
        write(root.path(), file, "To Be Filled By O.E.M.\n");
        let error = machine.expand("${serial}").unwrap_err();
        assert!(error.contains("no serial number of its own"), "{error}");
        let denied = machine.no_serial(|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(denied.contains("may not read") && denied.contains("as root"), "{denied}");
        // Root may read it all the same.
        fs::set_permissions(root.path().join(file), fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read(root.path().join(file)).is_err() {
            let error = machine.expand("${serial}").unwrap_err();
            assert!(error.contains("may not read") && error.contains("as root"), "{error}");
        }
    }

    #[test]
    fn a_host_that_nobody_named_gives_no_device_its_name() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/hostname", "Gate-7\n");
        let machine = Machine::under(root.path());
        assert_eq!(machine.expand("${hostname}.north").unwrap(), "gate-7.north");
        write(root.path(), "etc/hostname", "localhost\n");
        assert!(machine.expand("${hostname}").unwrap_err().contains("hostnamectl"));
    }

    #[test]
    fn what_is_no_variable_stays_and_what_is_unknown_is_refused() {
        let machine = Machine::under("/nowhere");
        for (text, expanded) in [
            ("a$b", "a$b"),
            ("$${hostname}", "${hostname}"),
            ("cost: 5$", "cost: 5$"),
            ("x$${a}$${b}", "x${a}${b}"),
        ] {
            assert_eq!(machine.expand(text).unwrap(), expanded);
        }
        let error = machine.expand("${host}").unwrap_err();
        assert!(error.contains("${host}") && error.contains("${serial}"), "{error}");
        assert!(machine.expand("${hostname").unwrap_err().contains("has no }"));
    }
}
