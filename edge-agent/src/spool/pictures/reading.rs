//! Reading pictures out of the segments of a database, while it is written or not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use picket_wire::Topic;

use super::{Place, file_of, folder_of};
use crate::spool::error::SpoolError;
use crate::spool::record::RowId;

/// Longer than any picture that the topic takes: a length beyond it is damage.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// Tries after which a disk that fails to read a picture is believed.
const MOST_TRIES: u32 = 6;
/// Rows of which that is counted: more than there are queues.
const MOST_TRIED: usize = 64;

/// Whether this says that the bytes are not there, or are not the ones that were written; anything
/// else may pass.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// The pictures of one database.
#[derive(Debug)]
pub struct Pictures {
    folder: PathBuf,
    /// The last segment that was read: its neighbours come next.
    open: RefCell<Option<(RowId, File)>>,
    /// Rows that could not be read for a reason that may pass, and how often.
    tries: RefCell<BTreeMap<RowId, u32>>,
}

impl Pictures {
    /// Of the database at `path`.
    pub fn of(database: &Path) -> Self {
        let folder = folder_of(database);
        Self { folder, open: RefCell::default(), tries: RefCell::default() }
    }

    /// The bytes of a row.
    pub fn read(&self, id: RowId, place: Place) -> Result<Vec<u8>, SpoolError> {
        let (topic, what) = (Topic::Frames, "picture");
        match self.bytes(place) {
            Ok(bytes) => {
                self.tries.borrow_mut().remove(&id);
                Ok(bytes)
            }
            Err(error) if is_damage(&error) || self.stays_away(id) => {
                Err(SpoolError::BadRow { topic, id, what })
            }
            Err(source) => {
                let path = file_of(&self.folder, place.segment);
                Err(SpoolError::PictureFile { step: "read", path, source })
            }
        }
    }

    /// Counts a try that failed; whether it was one too many.
    fn stays_away(&self, id: RowId) -> bool {
        let mut tries = self.tries.borrow_mut();
        while tries.len() >= MOST_TRIED {
            tries.pop_first();
        }
        let count = tries.entry(id).or_default();
        *count += 1;
        *count >= MOST_TRIES
    }

    fn bytes(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut open = self.open.borrow_mut();
        let file = match open.take_if(|(segment, _)| *segment == place.segment) {
            Some((_, file)) => file,
            None => File::open(file_of(&self.folder, place.segment))?,
        };
        let (_, file) = open.insert((place.segment, file));
        if place.length > MOST_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "no picture is as long"));
        }
        let mut bytes = vec![0; usize::try_from(place.length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, place.position)?;
        if !place.is_of(&bytes) {
            return Err(io::Error::new(ErrorKind::InvalidData, "they are not what was written"));
        }
        Ok(bytes)
    }
}
