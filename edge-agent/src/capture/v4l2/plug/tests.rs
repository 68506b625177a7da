//! On a folder that is laid out as sysfs is: entries that link to devices deep in a tree.

use std::os::unix::fs::symlink;

use super::*;

/// Two C920 and a camera of the platform, as Linux shows them; each C920 has a second device file for
/// metadata.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["class", "dev", "devices", "by-id"] {
            fs::create_dir(folder.path().join(sub)).unwrap();
        }
        Self { folder }
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs { class: self.folder.path().join("class"), dev: self.folder.path().join("dev") }
    }

    /// Plugs a device in; `usb` is its port and serial number.
    fn plug(&self, number: u32, usb: Option<(&str, &str)>) {
        let name = format!("video{number}");
        let devices = self.folder.path().join("devices");
        let interface = match usb {
            Some((port, serial)) => {
                let device = devices.join("0000:00:14.0/usb1").join(port);
                fs::create_dir_all(device.join("interface")).unwrap();
                fs::write(device.join("idVendor"), "046d\n").unwrap();
                let ports = port.split_once('-').unwrap().1;
                fs::write(device.join("devpath"), format!("{ports}\n")).unwrap();
                fs::write(device.join("serial"), format!("{serial}\n")).unwrap();
                device.join("interface")
            }
            None => devices.join("platform"),
        };
        let node = interface.join("video4linux").join(&name);
        fs::create_dir_all(&node).unwrap();
        symlink(&interface, node.join("device")).unwrap();
        if usb.is_some() {
            let driver = devices.join("uvcvideo");
            fs::create_dir_all(&driver).unwrap();
            let _ = symlink(driver, interface.join("driver"));
            fs::write(node.join("name"), "HD Pro Webcam C920\n").unwrap();
        }
        symlink(&node, self.folder.path().join("class").join(&name)).unwrap();
        fs::write(self.folder.path().join("dev").join(&name), "").unwrap();
    }

    fn unplug(&self, number: u32) {
        let entry = self.folder.path().join("class").join(format!("video{number}"));
        // Moved away: a file system may give what is made next the number of what was removed.
        let pulled = self.folder.path().join("pulled");
        fs::create_dir_all(&pulled).unwrap();
        let count = fs::read_dir(&pulled).unwrap().count();
        fs::rename(fs::canonicalize(&entry).unwrap(), pulled.join(count.to_string())).unwrap();
        fs::remove_file(entry).unwrap();
        fs::remove_file(self.folder.path().join("dev").join(format!("video{number}"))).unwrap();
    }

    fn find(&self, source: V4l2Source) -> Result<String, String> {
        let found = self.sysfs().find(&source, answers).map_err(|error| error.to_string())?;
        Ok(found.0.path.file_name().unwrap().to_str().unwrap().to_owned())
    }
}

fn answers(path: &Path) -> Result<Abilities, V4l2Error> {
    let number = path.file_name().unwrap().to_str().unwrap().strip_prefix("video").unwrap();
    let (name, bus, captures) = match number {
        "0" => ("HD Pro Webcam C920", "usb-0000:00:14.0-1", true),
        "1" => ("HD Pro Webcam C920", "usb-0000:00:14.0-1", false),
        "2" | "6" => ("HD Pro Webcam C920", "usb-0000:00:14.0-2", true),
        _ => ("vivid", "platform:vivid-000", true),
    };
    let (name, bus) = (name.to_owned(), bus.to_owned());
    Ok(Abilities { name, bus, driver: "uvcvideo".to_owned(), captures, ..Abilities::default() })
}

fn by(key: &str, value: &str) -> V4l2Source {
    let value = Some(value.to_owned());
    match key {
        "serial" => V4l2Source { serial: value, ..V4l2Source::default() },
        "bus" => V4l2Source { bus: value, ..V4l2Source::default() },
        "name" => V4l2Source { name: value, ..V4l2Source::default() },
        _ => V4l2Source { device: value.map(PathBuf::from), ..V4l2Source::default() },
    }
}

fn three_cameras() -> Machine {
    let machine = Machine::new();
    machine.plug(0, Some(("1-1", "A1B2")));
    machine.plug(1, Some(("1-1", "A1B2")));
    machine.plug(2, Some(("1-2", "C3D4")));
    machine.plug(10, None);
    machine
}

#[test]
fn a_camera_is_found_by_what_it_is_whatever_its_number() {
    let machine = three_cameras();
    assert_eq!(machine.find(by("serial", "C3D4")), Ok("video2".to_owned()));
    assert_eq!(machine.find(by("bus", "usb-0000:00:14.0-1")), Ok("video0".to_owned()));
    assert_eq!(machine.find(by("name", "vivid")), Ok("video10".to_owned()));
    machine.unplug(2);
    machine.plug(6, Some(("1-2", "C3D4")));
    assert_eq!(machine.find(by("serial", "C3D4")), Ok("video6".to_owned()));
}

#[test]
fn a_link_of_udev_leads_to_the_device_behind_it() {
    let machine = three_cameras();
    let link = machine.folder.path().join("by-id/usb-046d_HD_Pro_Webcam_C920_C3D4-video-index0");
    symlink("../dev/video2", &link).unwrap();
    assert_eq!(machine.find(by("device", link.to_str().unwrap())), Ok("video2".to_owned()));
}

#[test]
fn two_cameras_of_one_name_are_not_told_apart_by_chance() {
    let refused = three_cameras().find(by("name", "HD Pro Webcam C920")).unwrap_err();
    for part in ["more than one", "A1B2", "C3D4", "serial or bus"] {
        assert!(refused.contains(part), "{part} not in {refused}");
    }
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let refused = three_cameras().find(by("serial", "E5F6")).unwrap_err();
    for part in ["serial = \"E5F6\"", "there are", "\"C3D4\"", "\"vivid\""] {
        assert!(refused.contains(part), "{part} not in {refused}");
    }
    let refused = Machine::new().find(by("device", "/nowhere/video0")).unwrap_err();
    assert!(refused.contains("/nowhere/video0") && refused.contains("no camera"), "{refused}");
}

#[test]
fn a_device_file_for_metadata_is_no_camera() {
    let machine = three_cameras();
    let path = machine.folder.path().join("dev/video1");
    let refused = machine.find(by("device", path.to_str().unwrap())).unwrap_err();
    assert!(refused.contains("no camera"), "{refused}");
}

#[test]
fn a_camera_that_was_pulled_is_gone_also_when_it_is_back_already() {
    let machine = three_cameras();
    let (node, _) = machine.sysfs().find(&by("serial", "C3D4"), answers).unwrap();
    let plug = node.plug();
    assert!(!plug.is_gone());
    machine.unplug(2);
    assert!(plug.is_gone());
    machine.plug(2, Some(("1-2", "C3D4")));
    assert!(plug.is_gone());
}

#[test]
fn what_is_plugged_in_shows_and_what_is_pulled_does_not() {
    let machine = three_cameras();
    let before = Arrivals::now(&machine.sysfs());
    assert!(!before.anything_new(&machine.sysfs()));
    machine.unplug(0);
    assert!(!before.anything_new(&machine.sysfs()));
    machine.plug(7, Some(("1-1", "A1B2")));
    assert!(before.anything_new(&machine.sysfs()));
}

/// Those of the ports 2 and 9 hang.
fn some_hang(path: &Path) -> Result<Abilities, V4l2Error> {
    if path.ends_with("video2") || path.ends_with("video9") {
        let _ = crossbeam_channel::never::<()>().recv();
    }
    answers(path)
}

#[test]
fn a_device_whose_driver_hangs_is_not_opened_to_find_one_that_is_told_by_sysfs() {
    let machine = three_cameras();
    let began = std::time::Instant::now();
    for (key, value) in [("serial", "A1B2"), ("bus", "usb-0000:00:14.0-1")] {
        let (node, _) = machine.sysfs().find(&by(key, value), some_hang).unwrap();
        assert!(node.path.ends_with("video0"), "{key}: {node:?}");
    }
    // Of this one sysfs does not tell what its driver says; but that it is none of the others.
    let (node, _) = machine.sysfs().find(&by("name", "vivid"), some_hang).unwrap();
    assert!(node.path.ends_with("video10"), "{node:?}");
    assert!(began.elapsed() < LIMIT, "nothing was waited for");
}

#[test]
fn a_device_whose_driver_hangs_is_given_up_after_a_while_and_not_asked_again() {
    let machine = three_cameras();
    machine.plug(9, None);
    let (node, _) = machine.sysfs().find(&by("name", "vivid"), some_hang).unwrap();
    assert!(node.path.ends_with("video10"), "{node:?}");
    let began = std::time::Instant::now();
    let (node, _) = machine.sysfs().find(&by("name", "vivid"), some_hang).unwrap();
    assert!(node.path.ends_with("video10"), "{node:?}");
    assert!(began.elapsed() < LIMIT, "it hangs still");
    let refused = machine.sysfs().find(&by("serial", "C3D4"), some_hang).unwrap_err().to_string();
    assert!(refused.contains("video2 does not say") && refused.contains("hangs"), "{refused}");
}
