//! Batch keys for reading: found by number, read once.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cipher::{Key, KeyNumber};
use super::error::KeyError;
use super::folder::{Folder, KeyFile};
use super::master::{Master, Masters};
use super::settings::EncryptionSettings;

/// After this a file that cannot be read counts as lost: what waits behind its batch must not wait for
/// a sector that no longer reads.
const UNREADABLE_FOR: Duration = Duration::from_secs(60);

/// The keys of one state directory. Shared by the uplink's reader, the salvage and the writer.
pub struct Keyring {
    folder: Folder,
    masters: Masters,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// As many as there are files at most: one for each hour and start that something waits of.
    keys: BTreeMap<KeyNumber, Arc<Key>>,
    unreadable_since: BTreeMap<KeyNumber, Instant>,
}

impl Keyring {
    /// The keys of a state directory, with the master keys that the config names.
    pub fn open(state_dir: &Path, settings: Option<&EncryptionSettings>) -> Result<Self, KeyError> {
        Ok(Self::with(state_dir, Masters::read(settings)?))
    }

    /// With no master key: what is encrypted cannot be read.
    pub fn without_masters(state_dir: &Path) -> Self {
        Self::with(state_dir, Masters::default())
    }

    fn with(state_dir: &Path, masters: Masters) -> Self {
        Self { folder: Folder::of(state_dir), masters, known: Mutex::default() }
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The master key that new batch keys are encrypted by.
    pub(super) fn master_in_use(&self) -> Option<&Master> {
        self.masters.in_use()
    }

    /// Whether the config has encryption on.
    pub fn encrypts(&self) -> bool {
        self.masters.in_use().is_some()
    }

    /// Refuses to begin where a key needs a master key that is not there: nothing is lost as long as
    /// nobody takes what it encrypted for unreadable.
    pub(super) fn check_masters(&self, files: &[KeyFile]) -> Result<(), KeyError> {
        let mut unknown = files.iter().filter(|file| self.masters.get(file.master).is_none());
        match unknown.next() {
            None => Ok(()),
            Some(file) => Err(self.other_master(*file, 1 + unknown.count())),
        }
    }

    fn other_master(&self, file: KeyFile, count: usize) -> KeyError {
        KeyError::OtherMaster {
            count,
            folder: self.folder.path().to_path_buf(),
            master: file.master,
            configured: self.masters.configured(),
        }
    }

    /// Opens a value that lies under a batch key.
    pub fn decrypt(
        &self,
        number: KeyNumber,
        bound_to: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let key = self.key(number, Instant::now())?;
        key.decrypt(bound_to, sealed).map_err(|_| KeyError::DoesNotOpen { number })
    }

    fn key(&self, number: KeyNumber, now: Instant) -> Result<Arc<Key>, KeyError> {
        let mut known = self.known();
        if let Some(key) = known.keys.get(&number) {
            return Ok(Arc::clone(key));
        }
        match self.read(number) {
            Ok(key) => {
                known.unreadable_since.remove(&number);
                Ok(Arc::clone(known.keys.entry(number).or_insert(Arc::new(key))))
            }
            Err(error) if error.may_pass() => {
                let since = *known.unreadable_since.entry(number).or_insert(now);
                let for_s = now.saturating_duration_since(since);
                match for_s > UNREADABLE_FOR {
                    true => Err(KeyError::StaysUnreadable { number, for_s: for_s.as_secs() }),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, number: KeyNumber) -> Result<Key, KeyError> {
        let files = self.folder.list()?;
        let file = files.iter().find(|file| file.number == number);
        let file = *file.ok_or(KeyError::Gone { number })?;
        let master = self.masters.get(file.master).ok_or_else(|| self.other_master(file, 1))?;
        let path = self.folder.path_of(file);
        match self.folder.read(file) {
            Ok(content) => master.unwrap(number, &content).map_err(|_| KeyError::Damaged { path }),
            // Destroyed since the folder was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(KeyError::Gone { number }),
            Err(source) => Err(KeyError::File { step: "read", path, source }),
        }
    }

    /// The writer has destroyed its file.
    pub(super) fn forget(&self, number: KeyNumber) {
        let mut known = self.known();
        known.keys.remove(&number);
        known.unreadable_since.remove(&number);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each entry is whole by itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the master keys and says what they are for; an error where the agent would not start.
pub fn in_words(
    state_dir: &Path,
    settings: Option<&EncryptionSettings>,
) -> Result<String, KeyError> {
    let keyring = Keyring::open(state_dir, settings)?;
    let files = keyring.folder.list()?;
    keyring.check_masters(&files)?;
    let wait = match files.len() {
        0 => "nothing waits under a batch key".to_owned(),
        count => format!("records wait under {count} batch keys"),
    };
    Ok(match keyring.master_in_use() {
        Some(master) => format!("on, master key {}; {wait}", master.id),
        None => format!("off; {wait}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const NUMBER: KeyNumber = 7;

    fn ring() -> (TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master");
        fs::write(&path, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let settings: EncryptionSettings = toml::from_str(&format!("key_file = {path:?}")).unwrap();
        let ring = Keyring::open(dir.path(), Some(&settings)).unwrap();
        let master = ring.master_in_use().unwrap();
        let content = master.wrap(NUMBER, &[3; 32]).unwrap();
        let file = KeyFile { number: NUMBER, master: master.id };
        ring.folder.create(file, &content).unwrap();
        (dir, ring)
    }

    fn file(ring: &Keyring) -> std::path::PathBuf {
        ring.folder.path_of(ring.folder.list().unwrap()[0])
    }

    #[test]
    fn a_key_that_was_destroyed_opens_nothing_though_the_master_key_is_there() {
        let (_dir, ring) = ring();
        let sealed = Key::new(&[3; 32]).unwrap().encrypt([0; 12], b"row", b"value").unwrap();
        assert_eq!(ring.decrypt(NUMBER, b"row", &sealed).unwrap(), b"value");
        let elsewhere = ring.decrypt(NUMBER, b"other", &sealed).unwrap_err();
        assert!(matches!(elsewhere, KeyError::DoesNotOpen { .. }) && !elsewhere.is_lost());
        ring.folder.destroy(ring.folder.list().unwrap()[0]).unwrap();
        ring.forget(NUMBER);
        let error = ring.decrypt(NUMBER, b"row", &sealed).unwrap_err();
        assert!(matches!(error, KeyError::Gone { number: NUMBER }) && error.is_lost());
    }

    #[test]
    fn a_key_file_that_is_damaged_torn_or_exchanged_is_lost() {
        let (_dir, ring) = ring();
        let path = file(&ring);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[30] ^= 1;
        let other = ring.master_in_use().unwrap().wrap(NUMBER + 1, &[4; 32]).unwrap();
        for content in [flipped.as_slice(), &whole[..40], &[], &other] {
            fs::write(&path, content).unwrap();
            let error = ring.key(NUMBER, Instant::now()).err().unwrap();
            assert!(matches!(&error, KeyError::Damaged { .. }) && error.is_lost(), "{error}");
        }
    }

    #[test]
    fn a_key_file_that_cannot_be_read_is_tried_again_and_lost_after_a_minute() {
        let (_dir, ring) = ring();
        let path = file(&ring);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // Reading a folder fails, for root too.
        fs::create_dir(&path).unwrap();
        let began = Instant::now();
        let at = |s: u64| ring.key(NUMBER, began + Duration::from_secs(s));
        for s in [0, 30, 60] {
            let error = at(s).err().unwrap();
            assert!(error.may_pass() && !error.is_lost(), "{error}");
        }
        assert!(at(61).err().unwrap().is_lost());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, whole).unwrap();
        assert!(at(62).is_ok(), "it can be read again");
    }

    #[test]
    fn a_key_under_another_master_key_is_not_lost() {
        let (dir, _) = ring();
        let ring = Keyring::without_masters(dir.path());
        let error = ring.key(NUMBER, Instant::now()).err().unwrap();
        assert!(matches!(error, KeyError::OtherMaster { count: 1, .. }) && !error.is_lost());
        let text = error.to_string();
        assert!(text.contains("names none") && text.contains("former_key_files"), "{text}");
    }
}
