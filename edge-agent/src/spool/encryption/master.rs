//! The master key, which encrypts the keys of batches.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::cipher::{CipherError, KEY_BYTES, Key, KeyNumber};
use super::error::KeyError;
use super::settings::{EncryptionSettings, Source};

/// What the content of a batch key's file begins with.
const MAGIC: &[u8; 8] = b"PkSpKey1";
/// A key takes 44 characters.
const MOST_BYTES: u64 = 1024;
const OTHERS: u32 = 0o007;

/// Tells master keys apart without telling anything of them: the beginning of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterId([u8; 4]);

impl MasterId {
    fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        let digest = Sha256::new_with_prefix(b"picket spool master key\0").chain_update(bytes);
        let [a, b, c, d, ..]: [u8; 32] = digest.finalize().into();
        Self([a, b, c, d])
    }
}

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl FromStr for MasterId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 8 || !text.bytes().all(lower) {
            return Err(());
        }
        u32::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| ())
    }
}

/// A master key.
pub struct Master {
    pub id: MasterId,
    key: Key,
}

impl Master {
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, CipherError> {
        Ok(Self { id: MasterId::of(bytes), key: Key::new(bytes)? })
    }

    fn read(source: &Source) -> Result<Self, KeyError> {
        let Source { field, path } = source;
        let bad = |problem| KeyError::BadMaster { field, path: path.clone(), problem };
        let (text, mode) =
            read(path).map_err(|source| KeyError::Master { field, path: path.clone(), source })?;
        if mode & OTHERS != 0 {
            return Err(bad(format!(
                "can be used by everybody (mode {:03o}): `chmod o-rwx` it",
                mode & 0o777
            )));
        }
        let key = BASE64_STANDARD.decode(text.trim_ascii()).map_err(|_| {
            bad("must hold 32 bytes in base64, as `head -c 32 /dev/urandom | base64` writes them, \
                 and is no base64"
                .to_owned())
        })?;
        let key: &[u8; KEY_BYTES] = key.as_slice().try_into().map_err(|_| {
            bad(format!(
                "must hold 32 bytes in base64, as `head -c 32 /dev/urandom | base64` writes them, and \
                 holds {}",
                key.len()
            ))
        })?;
        Self::new(key).map_err(KeyError::Encrypt)
    }

    /// A batch key as it lies in its file.
    pub fn wrap(&self, number: KeyNumber, key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(KeyError::Random)?;
        let wrapped = self.key.encrypt(nonce, &bound_to(number), key).map_err(KeyError::Encrypt)?;
        Ok([MAGIC.as_slice(), &wrapped].concat())
    }

    /// The batch key that lies in a file.
    pub fn unwrap(&self, number: KeyNumber, content: &[u8]) -> Result<Key, CipherError> {
        let wrapped = content.strip_prefix(MAGIC).ok_or(CipherError)?;
        let key = self.key.decrypt(&bound_to(number), wrapped)?;
        Key::new(key.as_slice().try_into().map_err(|_| CipherError)?)
    }
}

/// So that a file under another key's name opens nothing.
fn bound_to(number: KeyNumber) -> Vec<u8> {
    [b"picket spool batch key\0".as_slice(), &number.to_be_bytes()].concat()
}

/// The content and the mode of a file; of a file only, since a pipe would be waited for.
fn read(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    // Without waiting for somebody who writes into it, should it be a pipe after all.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut content = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut content)?;
    Ok((content, meta.permissions().mode()))
}

/// The master keys that the config names.
#[derive(Default)]
pub struct Masters {
    keys: Vec<Master>,
    encrypts: bool,
}

impl Masters {
    /// Reads them; none where there is no `spool.encryption`.
    pub fn read(settings: Option<&EncryptionSettings>) -> Result<Self, KeyError> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        let sources = settings.sources(credentials.as_deref().map(Path::new))?;
        let keys = sources.iter().map(Master::read).collect::<Result<_, _>>()?;
        Ok(Self { keys, encrypts: settings.enabled })
    }

    /// The one that new batch keys are encrypted by; none where nothing is to be encrypted.
    pub fn in_use(&self) -> Option<&Master> {
        self.keys.first().filter(|_| self.encrypts)
    }

    pub fn get(&self, id: MasterId) -> Option<&Master> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Which there are, in words.
    pub fn configured(&self) -> String {
        let ids: Vec<_> = self.keys.iter().map(|key| key.id.to_string()).collect();
        match ids.is_empty() {
            true => "spool.encryption names none".to_owned(),
            false => format!("spool.encryption names {}", ids.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn read_with(content: &str, mode: u32) -> Result<Master, KeyError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Master::read(&Source { field: "key_file", path })
    }

    /// 32 bytes of 1.
    const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

    #[test]
    fn a_key_file_holds_32_bytes_in_base64_and_is_named_with_what_is_wrong_otherwise() {
        let ones = Master::new(&[1; KEY_BYTES]).unwrap();
        for mode in [0o400, 0o600, 0o640] {
            assert_eq!(read_with(ONES, mode).ok().map(|key| key.id), Some(ones.id));
        }
        for (content, mode, named) in [
            ("", 0o600, "holds 0"),
            ("a passphrase!", 0o600, "no base64"),
            ("AQEBAQ==", 0o600, "holds 4"),
            (ONES, 0o644, "mode 644"),
            (ONES, 0o602, "chmod o-rwx"),
        ] {
            let error = read_with(content, mode).err().unwrap().to_string();
            assert!(
                error.contains("spool.encryption.key_file") && error.contains(named),
                "{error}"
            );
            assert!(!error.contains("passphrase"), "{error}");
        }
        for path in ["/nowhere/key", "/dev/null", "/"] {
            let error =
                Master::read(&Source { field: "key_file", path: path.into() }).err().unwrap();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn a_batch_key_opens_under_its_master_key_and_its_number_only() {
        let (one, two) = (Master::new(&[1; 32]).unwrap(), Master::new(&[2; 32]).unwrap());
        let file = one.wrap(7, &[9; KEY_BYTES]).unwrap();
        let sealed = Key::new(&[9; 32]).unwrap().encrypt([0; 12], b"", b"value").unwrap();
        assert_eq!(one.unwrap(7, &file).unwrap().decrypt(b"", &sealed).unwrap(), b"value");
        assert!(one.unwrap(8, &file).is_err() && two.unwrap(7, &file).is_err());
        for length in 0..file.len() {
            assert!(one.unwrap(7, &file[..length]).is_err());
        }
        assert_ne!(one.wrap(7, &[9; 32]).unwrap(), file, "a nonce is drawn each time");
    }

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = Master::new(&[1; 32]).unwrap().id;
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "1234567", "123456789", "1234567G", "ABCDEF01", "+1234567"] {
            assert_eq!(wrong.parse::<MasterId>(), Err(()));
        }
    }
}
