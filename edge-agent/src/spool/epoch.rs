//! The epoch: a counter that rises at each start, and a random instance.
//!
//! The counter stands twice, in the database and in a small file beside it, and the greater wins:
//! a database that was set aside or deleted does not take the counter with it. Should both be lost
//! (a reflashed box), the instance still tells the epochs apart.

use std::fs;
use std::io;
use std::path::Path;

use picket_service::durable;
use picket_wire::EpochId;

use super::error::SpoolError;

const FILE: &str = "epoch";

/// A start each second for 68 years. A row's number has room for 2^32 rows of each.
pub const MOST: u64 = 1 << 31;

/// Draws the epoch that follows both `in_database` and the file, and makes the file durable.
///
/// The file is written before the database, so that a crash between the two costs a number and
/// never repeats one.
pub fn begin(state_dir: &Path, in_database: u64) -> Result<EpochId, SpoolError> {
    let in_file = read(state_dir)?;
    let number = in_database.max(in_file) + 1;
    let instance = getrandom::u32().map_err(SpoolError::Random)?;
    write(state_dir, number).map_err(|source| SpoolError::EpochFile {
        step: "write",
        path: state_dir.join(FILE),
        source,
    })?;
    Ok(EpochId { number, instance })
}

/// The number in the file, for whoever looks from outside; none if the file is not there, or holds
/// no number.
pub fn noted(state_dir: &Path) -> Option<u64> {
    fs::read_to_string(state_dir.join(FILE)).ok()?.trim().parse().ok()
}

/// The number in the file; 0 if there is none, or if a torn write left something else in it. That
/// is no reason not to start: the database has the number too, and the instance is random.
fn read(state_dir: &Path) -> Result<u64, SpoolError> {
    let path = state_dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let number = String::from_utf8_lossy(&bytes).trim().parse().ok();
            Ok(number.filter(|number| *number <= MOST).unwrap_or_else(|| {
                tracing::warn!(target: "spool", file = %path.display(),
                    "the epoch file holds no number: going by the database alone");
                0
            }))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(SpoolError::EpochFile { step: "read", path, source }),
    }
}

fn write(state_dir: &Path, number: u64) -> io::Result<()> {
    durable::replace(&state_dir.join(FILE), format!("{number}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_of_database_and_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(begin(dir.path(), 0).unwrap().number, 1);
        assert_eq!(begin(dir.path(), 0).unwrap().number, 2);
        assert_eq!(begin(dir.path(), 9).unwrap().number, 10);
        assert_eq!(begin(dir.path(), 3).unwrap().number, 11);
    }

    #[test]
    fn two_starts_at_the_same_number_differ_by_instance() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) = (begin(a.path(), 4).unwrap(), begin(b.path(), 4).unwrap());
        assert_eq!(a.number, b.number);
        assert_ne!(a.instance, b.instance);
    }

    #[test]
    fn a_torn_epoch_file_does_not_stop_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), [0xff, b'x']).unwrap();
        assert_eq!(begin(dir.path(), 6).unwrap().number, 7);
        fs::write(dir.path().join(FILE), "18446744073709551615").unwrap();
        assert_eq!(begin(dir.path(), 7).unwrap().number, 8);
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(begin(dir.path(), 7).unwrap().number, 8);
    }
}
