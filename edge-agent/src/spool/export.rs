//! Copies what waits into a file, to be carried by hand.
//!
//! Nothing is deleted: should the device's own link come back, it sends the same records, and the
//! centre knows each by its id. The file gets its name only when it is whole and on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use picket_service::logging::chain;
use picket_wire::{CameraKey, CameraName, Topic};

use super::carried::{CarriedWriter, Count};
use super::encryption::Keyring;
use super::error::SpoolError;
use super::pictures::Pictures;
use super::record::RowId;
use super::spooled::Spooled;
use super::{schema, totals, walk};

/// Rows that cannot be read are named, so many at most.
const NAMED: usize = 20;

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// How much.
    pub count: Count,
    /// Rows that cannot be read, and so are not in the file.
    pub unreadable: u64,
    /// Some of them, each with what is wrong.
    pub named: Vec<String>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It would be written over.
    #[error("{} is there already: name another file, or say --overwrite", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The disk.
    #[error("cannot {step} {}{}", path.display(), advice(source))]
    File {
        /// Which step.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The spool.
    #[error("cannot read the spool")]
    Spool(#[from] SpoolError),
}

/// What a person can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": there is no room left (`spool stat` says how many bytes wait); free some, take a \
             larger disk, or export one --camera at a time"
        }
        ErrorKind::FileTooLarge => {
            ": its file system takes no file so large (FAT32: 4 GiB); format the disk as exFAT or \
             ext4, or export one --camera at a time"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ": this user may not write there, or the disk is read-only"
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory => ": its folder is not there",
        _ => "",
    }
}

/// Copies what waits in the spool of a state directory to `to`, decrypted: of one camera, or of all. Rows from
/// `below` on are left out where it is given: those of a running agent that may still change.
pub fn export(
    state_dir: &Path,
    keyring: &Keyring,
    to: &Path,
    overwrite: bool,
    camera: Option<&CameraName>,
    below: Option<RowId>,
) -> Result<Exported, ExportError> {
    let failed = |step, path: &Path| {
        let path = path.to_path_buf();
        move |source| ExportError::File { step, path, source }
    };
    if !overwrite && fs::symlink_metadata(to).is_ok() {
        return Err(ExportError::Exists { path: to.to_path_buf() });
    }
    let connection = schema::open_for_reading(state_dir)?;
    let below = match below {
        Some(below) => below,
        None => totals::last_id(&connection)?.saturating_add(1),
    };
    let part = Part::create(to).map_err(failed("make", &part_of(to)))?;
    let out = BufWriter::with_capacity(1 << 20, &part.file);
    let pictures = Pictures::of(&state_dir.join(schema::FILE));
    let from = (&connection, &pictures, keyring);
    let written = copy(from, out, &part.path, camera, below)?;
    part.file.sync_all().map_err(failed("write", &part.path))?;
    part.rename(to).map_err(failed("put into its place", to))?;
    Ok(written)
}

fn copy(
    (connection, pictures, keyring): (&rusqlite::Connection, &Pictures, &Keyring),
    out: impl Write,
    path: &Path,
    camera: Option<&CameraName>,
    below: RowId,
) -> Result<Exported, ExportError> {
    let step = "write";
    let failed = |source| ExportError::File { step, path: path.to_path_buf(), source };
    let mut writer = CarriedWriter::begin(out, wall()).map_err(failed)?;
    let mut exported = Exported::default();
    for topic in Topic::OF_CAMERAS {
        walk::rows(connection, pictures, keyring, topic, 0..below, |id, row| {
            match row.and_then(|row| keyed(row, id)) {
                Ok((key, _)) if camera.is_some_and(|camera| *camera != key.camera) => Ok(()),
                Ok((_, row)) => writer.push(&row).map_err(failed),
                Err(error) if error.is_of_one_row() => {
                    exported.unreadable += 1;
                    if exported.named.len() < NAMED {
                        exported.named.push(chain(&error));
                    }
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        })?;
    }
    let (_, count) = writer.finish().map_err(failed)?;
    exported.count = count;
    Ok(exported)
}

fn keyed(row: Spooled, id: RowId) -> Result<(CameraKey, Spooled), SpoolError> {
    let topic = row.topic;
    let key = row.key.parse().map_err(|_| SpoolError::BadRow { topic, id, what: "key" })?;
    Ok((key, row))
}

/// None on a machine whose clock was plainly never set: a time that misleads is worse.
fn wall() -> Option<Timestamp> {
    let now = Timestamp::now();
    (now.as_second() > 1_600_000_000).then_some(now)
}

/// The file while it is written; removed if it does not come to its end.
struct Part {
    path: PathBuf,
    file: File,
    renamed: bool,
}

fn part_of(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

impl Part {
    /// For its owner alone: there are pictures of persons in it. One that a former try left behind
    /// is removed and not opened: in a folder of another user's it could be a link.
    fn create(to: &Path) -> io::Result<Self> {
        let path = part_of(to);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, renamed: false })
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.renamed {
            // It says by its name what it is, should this fail.
            let _ = fs::remove_file(&self.path);
        }
    }
}
