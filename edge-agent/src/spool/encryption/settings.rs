//! The config's `spool.encryption` table, and where the keys lie that it names.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::KeyError;

/// Encrypts what waits on the disk: observations and pictures, not ids, times and sizes. What has no
/// key any more cannot be read, so keep a copy of the master key if the box may break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptionSettings {
    /// File that holds the master key: 32 random bytes in base64, as
    /// `head -c 32 /dev/urandom | base64` writes them. Nobody but the agent may be able to read it.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// In place of `key_file`: the name of the systemd credential that holds the same, as in
    /// `LoadCredentialEncrypted=`.
    #[serde(default)]
    pub credential: Option<String>,
    /// Files of former master keys, after the key was changed: they open what still waits under them.
    #[serde(default)]
    pub former_key_files: Vec<PathBuf>,
    /// Credentials of former master keys.
    #[serde(default)]
    pub former_credentials: Vec<String>,
    /// `false` keeps in the clear what comes from now on; what is encrypted can still be sent.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// A table that names no key, or two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spool.encryption.{field} is not valid: {problem}")]
pub struct EncryptionError {
    field: &'static str,
    problem: &'static str,
}

/// Where one key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The field that names it.
    pub field: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl EncryptionSettings {
    /// Refuses what cannot work, without looking at any file.
    pub fn check(&self) -> Result<(), EncryptionError> {
        let refuse = |field, problem| Err(EncryptionError { field, problem });
        match (&self.key_file, &self.credential) {
            (None, None) => {
                return refuse("key_file", "there is none: name it, or a credential in its place");
            }
            (Some(_), Some(_)) => {
                return refuse("credential", "there is a key_file too: name one of them");
            }
            _ => {}
        }
        let credentials = self.credential.iter().map(|name| ("credential", name));
        let former = self.former_credentials.iter().map(|name| ("former_credentials", name));
        for (field, name) in credentials.chain(former) {
            if name.is_empty() || name.starts_with('.') || name.contains('/') {
                return refuse(field, "it must be a credential's name, without a folder");
            }
        }
        Ok(())
    }

    /// Where the keys lie, the one in use first. `credentials` is systemd's folder for this process.
    pub(super) fn sources(&self, credentials: Option<&Path>) -> Result<Vec<Source>, KeyError> {
        let file = |field, path: &PathBuf| Source { field, path: path.clone() };
        let credential = |field, name: &String| match credentials {
            Some(folder) => Ok(Source { field, path: folder.join(name) }),
            None => Err(KeyError::NoCredentials { field, name: name.clone() }),
        };
        let mut sources = Vec::new();
        sources.extend(self.key_file.iter().map(|path| file("key_file", path)));
        if let Some(name) = &self.credential {
            sources.push(credential("credential", name)?);
        }
        sources.extend(self.former_key_files.iter().map(|path| file("former_key_files", path)));
        for name in &self.former_credentials {
            sources.push(credential("former_credentials", name)?);
        }
        Ok(sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> EncryptionSettings {
        toml::from_str(lines).unwrap()
    }

    #[test]
    fn a_table_names_one_key_and_says_so_otherwise() {
        assert_eq!(settings("key_file = \"/k\"").check(), Ok(()));
        assert_eq!(settings("credential = \"k\"\nformer_key_files = [\"/k\"]").check(), Ok(()));
        for (wrong, named) in [
            ("", "spool.encryption.key_file"),
            ("key_file = \"/k\"\ncredential = \"k\"", "spool.encryption.credential"),
            ("credential = \"../k\"", "without a folder"),
            ("credential = \"k\"\nformer_credentials = [\"\"]", "former_credentials"),
        ] {
            let error = settings(wrong).check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_credential_lies_in_systemds_folder_and_without_one_is_said_to_be_missing() {
        let of = settings("credential = \"spool-key\"\nformer_key_files = [\"/old\"]");
        let sources = of.sources(Some(Path::new("/run/credentials/agent.service"))).unwrap();
        let paths: Vec<_> = sources.iter().map(|source| source.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/run/credentials/agent.service/spool-key", "/old"]);
        let error = of.sources(None).unwrap_err().to_string();
        assert!(error.contains("spool.encryption.credential") && error.contains("spool-key"));
    }
}
