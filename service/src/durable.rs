//! Small files that must survive a power cut whole.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

const ROOT: u32 = 0;
/// Read, write and execute, without set-user-id and its like.
const PERMISSIONS: u32 = 0o777;

/// Gives a file this content, on disk when it returns. A new file, beside it with `.new` at the end of
/// its name, is renamed over the old one and the directory synced, so that at every moment one of the
/// two is whole.
///
/// It gets the old one's owner and permissions. A new one, and one that root had left, gets the owner
/// of the directory: a command of root's must not lock out the service that the directory belongs to.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let old = match fs::symlink_metadata(path) {
        Ok(old) => Some(old).filter(Metadata::is_file),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // Made anew and never opened: where the directory is another user's, it could be a link to a file
    // of root's.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&new)?;
    file.write_all(content)?;
    match old {
        Some(old) => {
            let owner =
                if old.uid() == ROOT { fs::metadata(directory(path))? } else { old.clone() };
            give(&file, &owner)?;
            let permissions = Permissions::from_mode(old.mode() & PERMISSIONS);
            allow(&file, file.set_permissions(permissions))?;
        }
        None => give(&file, &fs::metadata(directory(path))?)?,
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory(path))?.sync_all()
}

/// Gives a file that was just made to the owner of its directory, if that is another.
pub fn give_to_owner_of_directory(file: &File, path: &Path) -> io::Result<()> {
    give(file, &fs::metadata(directory(path))?)
}

fn directory(path: &Path) -> PathBuf {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory.unwrap_or(Path::new(".")).to_owned()
}

fn give(file: &File, owner: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    allow(file, fchown(file, Some(owner.uid()), Some(owner.gid())))
}

/// Only root can give files away, and only of root's is it needed: a service's own file, in a group
/// that it may not give it to, or on a file system without owners, is as good.
fn allow(file: &File, done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if file.metadata()?.uid() == ROOT => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_torn_attempt_before_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(dir.path().join("state.json.new"), "torn, and longer than what follows").unwrap();
        for content in ["one", "", "three"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Only root can make it another's; without, it stays whose it was, which the claims hold for too.
    fn belongs(path: &Path, uid: u32) -> (u32, u32) {
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(uid));
        owner(path)
    }

    fn owner(path: &Path) -> (u32, u32) {
        let now = fs::symlink_metadata(path).unwrap();
        (now.uid(), now.gid())
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_owner_and_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "old").unwrap();
        let service = belongs(&path, 4321);
        for mode in [0o640, 0o600] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            replace(&path, b"new").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & PERMISSIONS, mode);
            assert_eq!(owner(&path), service);
        }
    }

    #[test]
    fn a_new_file_and_one_that_root_left_belong_to_the_owner_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let service = belongs(dir.path(), 4321);
        let path = dir.path().join("state.json");
        replace(&path, b"new").unwrap();
        assert_eq!(owner(&path), service);
        belongs(&path, ROOT);
        replace(&path, b"again").unwrap();
        assert_eq!(owner(&path), service);
    }

    #[test]
    fn a_link_where_the_new_file_is_made_leads_to_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state.json"), dir.path().join("victim"));
        fs::write(&victim, "its own").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("state.json.new")).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "its own");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        replace(&path, b"old").unwrap();
        fs::create_dir(dir.path().join("state.json.new")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
