//! The files of the batch keys: `spool.keys/<number>.<master key's id>.key`.
//!
//! The name says which master key a file needs, so that a start knows by listing the folder whether it
//! can read what waits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use picket_service::durable;

use super::cipher::KeyNumber;
use super::error::KeyError;
use super::master::MasterId;

/// In the state directory.
pub const NAME: &str = "spool.keys";

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyFile {
    pub number: KeyNumber,
    pub master: MasterId,
}

impl KeyFile {
    fn name(self) -> String {
        format!("{}.{}.key", self.number, self.master)
    }

    fn named(name: &str) -> Option<Self> {
        let (number, master) = name.strip_suffix(".key")?.split_once('.')?;
        let file = Self { number: number.parse().ok()?, master: master.parse().ok()? };
        // "+1" is a number too, and no name that was ever given.
        (file.name() == name).then_some(file)
    }
}

/// The folder, which need not be there.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join(NAME) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn path_of(&self, file: KeyFile) -> PathBuf {
        self.path.join(file.name())
    }

    /// All keys, by number.
    pub fn list(&self) -> Result<Vec<KeyFile>, KeyError> {
        let mut files: Vec<_> =
            self.names()?.iter().filter_map(|name| KeyFile::named(name)).collect();
        files.sort_unstable();
        Ok(files)
    }

    /// Destroys what a crash left half made.
    pub fn clear_half_made(&self) -> Result<(), KeyError> {
        let mut half = self.names()?.into_iter().filter(|name| name.ends_with(".key.new"));
        half.try_for_each(|name| self.destroy_path(&self.path.join(name)))
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        let failed = |source| KeyError::File { step: "list", path: self.path.clone(), source };
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        Ok(names)
    }

    pub fn read(&self, file: KeyFile) -> io::Result<Vec<u8>> {
        fs::read(self.path_of(file))
    }

    /// On disk when it returns, so that no row is committed whose key a power cut would take.
    pub fn create(&self, file: KeyFile, content: &[u8]) -> Result<(), KeyError> {
        let path = self.path_of(file);
        let made = self.make().and_then(|()| durable::replace(&path, content));
        made.map_err(|source| KeyError::File { step: "make", path, source })
    }

    fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Overwritten, and gone from the folder, on disk when it returns. What flash keeps of it all the
    /// same no program can say.
    pub fn destroy(&self, file: KeyFile) -> Result<(), KeyError> {
        self.destroy_path(&self.path_of(file))
    }

    fn destroy_path(&self, path: &Path) -> Result<(), KeyError> {
        match overwrite(path).and_then(|()| fs::remove_file(path)) {
            // It was removed by hand.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.path).and_then(|folder| folder.sync_all()),
        }
        .map_err(|source| KeyError::File {
            step: "destroy",
            path: path.to_path_buf(),
            source,
        })
    }
}

/// How many keys there are; none also where nobody may look.
pub fn count(state_dir: &Path) -> usize {
    Folder::of(state_dir).list().map_or(0, |files| files.len())
}

/// Moves the keys away as `spool.keys.<word>-<n>`, with the database that they belong to.
pub fn set_aside(state_dir: &Path, word: &str) -> Result<(), KeyError> {
    let path = state_dir.join(NAME);
    let name = |n: u32| state_dir.join(format!("{NAME}.{word}-{n}"));
    let to = name((1..).find(|n| !name(*n).exists()).unwrap_or(u32::MAX));
    match fs::rename(&path, to) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(KeyError::File { step: "set aside", path, source })
        }
        _ => Ok(()),
    }
}

fn overwrite(path: &Path) -> io::Result<()> {
    // A link would lead to a file that is none of ours.
    let mut file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let bytes = file.metadata()?.len();
    file.write_all(&vec![0; usize::try_from(bytes.min(4096)).unwrap_or(4096)])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(number: KeyNumber) -> KeyFile {
        KeyFile { number, master: "0a1b2c3d".parse().unwrap() }
    }

    #[test]
    fn keys_are_listed_by_number_and_what_else_lies_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        assert_eq!(folder.list().unwrap(), []);
        for number in [10, 9, 100] {
            folder.create(file(number), b"key").unwrap();
        }
        for other in ["+9.0a1b2c3d.key", "9.key", "notes", "8.0a1b2c3d.key.new"] {
            fs::write(folder.path.join(other), "").unwrap();
        }
        assert_eq!(folder.list().unwrap(), [9, 10, 100].map(file));
        folder.clear_half_made().unwrap();
        assert!(!folder.path.join("8.0a1b2c3d.key.new").exists());
        assert!(folder.path.join("notes").exists());
        let mode = fs::metadata(&folder.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_key_that_is_destroyed_is_overwritten_before_its_name_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        folder.create(file(7), b"secret").unwrap();
        // A second name for the same bytes on disk.
        fs::hard_link(folder.path_of(file(7)), dir.path().join("same")).unwrap();
        folder.destroy(file(7)).unwrap();
        assert_eq!(folder.list().unwrap(), []);
        assert_eq!(fs::read(dir.path().join("same")).unwrap(), [0; 6]);
        folder.destroy(file(7)).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_a_key_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        folder.create(file(7), b"secret").unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "its own").unwrap();
        fs::remove_file(folder.path_of(file(7))).unwrap();
        std::os::unix::fs::symlink(&victim, folder.path_of(file(7))).unwrap();
        assert!(folder.destroy(file(7)).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "its own");
    }
}
