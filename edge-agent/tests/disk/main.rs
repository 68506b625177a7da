//! The spool on a disk that fails, and after a power cut. Each test is one fault; the test's own
//! [`ledger`] says at its end what became of everything.
//!
//! Short by default; `PICKET_FAULTS=long` runs the same with more rounds.

// Helpers of tests may unwrap as tests do: a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod clock;
mod faults;
mod full_disk;
mod ledger;
mod model;
mod offline;
mod player;
mod power_cut;
mod salvage;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::time::Duration;

use picket_edge_agent::spool::{EncryptionSettings, Settings};
use tempfile::TempDir;

/// No step of a test takes this long, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether the long form is asked for.
fn long() -> bool {
    std::env::var("PICKET_FAULTS").is_ok_and(|form| form == "long")
}

/// The same with encryption, under a master key that lies on another disk.
fn encrypted(settings: Settings) -> Settings {
    static DISK: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    static KEY: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let path = DISK.path().join("master");
        fs::write(&path, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    });
    let encryption = EncryptionSettings {
        key_file: Some(KEY.clone()),
        credential: None,
        former_key_files: Vec::new(),
        former_credentials: Vec::new(),
        enabled: true,
    };
    Settings { encryption: Some(encryption), ..settings }
}

/// A folder in memory where there is one: a test that opens hundreds of spools should wait for its
/// subject, and not for this machine's disk.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}
