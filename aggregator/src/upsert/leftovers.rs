//! What a directory keeps after its pictures: directories that are empty, and files that a crash left
//! in the middle of being written. A bucket has neither.

use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind::NotFound, ErrorKind::PermissionDenied};
use std::path::Path;
use std::time::{Duration, SystemTime};

use picket_wire::DeviceName;

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Directories.
    pub directories: u64,
    /// Files that were never finished.
    pub files: u64,
}

/// Removes what is below `root` and has not changed for so long.
pub fn remove(root: &Path, age: Duration, now: SystemTime) -> io::Result<Leftovers> {
    let mut removed = Leftovers::default();
    let is_old = |entry: &DirEntry| {
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|since| since > age))
    };
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        // What is not a device's is not ours.
        let is_device = |name: &str| name.parse::<DeviceName>().is_ok();
        if entry.file_name().to_str().is_some_and(is_device) && entry.file_type()?.is_dir() {
            look_into(&entry, &is_old, &mut removed)?;
        }
    }
    Ok(removed)
}

fn look_into(
    entry: &DirEntry,
    is_old: &impl Fn(&DirEntry) -> bool,
    removed: &mut Leftovers,
) -> io::Result<()> {
    // Before what it holds is taken out: that changes it.
    let was_old = is_old(entry);
    look(&entry.path(), is_old, removed)?;
    // Fails where it holds anything, also what came this moment.
    if was_old && fs::remove_dir(entry.path()).is_ok() {
        removed.directories += 1;
    }
    Ok(())
}

fn look(
    directory: &Path,
    is_old: &impl Fn(&DirEntry) -> bool,
    removed: &mut Leftovers,
) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Another one that shares the pictures was faster, or somebody closed it to us.
        Err(e) if matches!(e.kind(), NotFound | PermissionDenied) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            look_into(&entry, is_old, removed)?;
        } else if is_unfinished(&path) && is_old(&entry) && fs::remove_file(&path).is_ok() {
            removed.files += 1;
        }
    }
    Ok(())
}

/// A picture is written as `<name>.jpg#<number>` and renamed once the disk has it.
fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split_once(".jpg#")).is_some_and(|(seq, number)| {
        !seq.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn empty_directories_and_unfinished_files_go_when_they_are_old_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in
            ["gate/north/1-0a1b2c3d", "gate/south/1-0a1b2c3d", "hall/west", "lost+found"]
        {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let kept = ["gate/north/1-0a1b2c3d/7.jpg", "gate/north/1-0a1b2c3d/notes#1", "gate/x.jpg#a"];
        for file in kept.iter().chain(&["gate/south/1-0a1b2c3d/8.jpg#1"]) {
            fs::write(at(file), "x").unwrap();
        }
        let now = SystemTime::now();
        assert_eq!(remove(root.path(), HOUR, now).unwrap(), Leftovers::default());
        let later = now + 2 * HOUR;
        let removed = remove(root.path(), HOUR, later).unwrap();
        assert_eq!(removed, Leftovers { directories: 4, files: 1 });
        assert!(kept.iter().all(|file| at(file).exists()));
        assert!(!at("gate/south").exists() && !at("hall").exists());
        assert!(at("lost+found").exists(), "it is not ours");
        assert_eq!(remove(root.path(), HOUR, later).unwrap(), Leftovers::default());
    }
}
