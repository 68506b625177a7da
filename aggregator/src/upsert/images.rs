//! Pictures in the object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::remedy::Remedy;

/// Pictures that are written at a time, of all partitions: each takes a thread, of which the runtime has
/// 512, until the disk has it.
const PUTS_AT_ONCE: usize = 128;

/// A step with pictures that failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The directory could not be made.
    #[error("cannot make the directory for pictures {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory could not be used.
    #[error("cannot use the directory for pictures {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A picture could not be written.
    #[error("cannot write the picture {path}")]
    Put {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A picture could not be read.
    #[error("cannot read the picture {path}")]
    Get {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// Old pictures could not be looked for or removed.
    #[error("cannot remove old pictures")]
    Sweep(#[source] object_store::Error),
}

impl ImageError {
    /// What to do next. A full or absent disk may come back.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Directory { .. } | Self::Open { .. } => Remedy::Stop,
            Self::Put { .. } => Remedy::Retry,
            Self::Get { .. } | Self::Sweep(_) => Remedy::Discard,
        }
    }
}

/// The pictures of all cameras. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    store: Arc<dyn ObjectStore>,
    /// The same for writing: whoever looks at pictures does not wait for those that come.
    puts: Arc<LimitStore<Arc<dyn ObjectStore>>>,
}

impl Images {
    /// Pictures below `directory`, which is made if it is missing.
    pub fn in_directory(directory: &Path) -> Result<Self, ImageError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| ImageError::Directory { path: directory.to_owned(), source })?;
        let store = LocalFileSystem::new_with_prefix(directory)
            .map_err(|source| ImageError::Open { path: directory.to_owned(), source })?;
        // Without fsync a document could outlive the picture that it points at.
        // Without cleanup the directories of all epochs would stay after their pictures.
        Ok(Self::new(Arc::new(store.with_fsync(true).with_automatic_cleanup(true))))
    }

    fn new(store: Arc<dyn ObjectStore>) -> Self {
        let puts = Arc::new(LimitStore::new(Arc::clone(&store), PUTS_AT_ONCE));
        Self { store, puts }
    }

    /// The store below, for whoever only reads.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a picture whole or not at all; returns once it is durable.
    pub async fn put(&self, path: &str, jpeg: PutPayload) -> Result<(), ImageError> {
        let place = object_store::path::Path::from(path);
        let result = self.puts.put(&place, jpeg).await;
        result.map(drop).map_err(|source| ImageError::Put { path: path.to_owned(), source })
    }

    /// Reads a picture.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let failed = |source| ImageError::Get { path: path.to_owned(), source };
        let place = object_store::path::Path::from(path);
        let found = self.store.get(&place).await.map_err(failed)?;
        Ok(found.bytes().await.map_err(failed)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use futures_util::future::join_all;
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;

    #[tokio::test]
    async fn pictures_of_all_partitions_leave_threads_to_others() {
        const PUT: Duration = Duration::from_millis(200);
        let slow = ThrottleConfig { wait_put_per_call: PUT, ..ThrottleConfig::default() };
        let images = Images::new(Arc::new(ThrottledStore::new(InMemory::new(), slow)));
        let begin = Instant::now();
        let paths: Vec<_> = (0..3 * PUTS_AT_ONCE).map(|n| format!("{n}.jpg")).collect();
        let puts = join_all(paths.iter().map(|path| images.put(path, vec![0xff].into()))).await;
        assert!(puts.iter().all(Result::is_ok));
        // One after the other in three parts, and all at once if nothing held them back.
        assert!(begin.elapsed() >= 3 * PUT, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_picture_reads_back_and_lies_where_its_id_says() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::in_directory(&directory.path().join("images")).unwrap();
        let path = "gate/north.1/3-0a1b2c3d/7.jpg";
        images.put(path, vec![0xff, 0xd8, 0xff].into()).await.unwrap();
        images.put(path, vec![0xff, 0xd8, 0xff].into()).await.unwrap();
        assert_eq!(images.get(path).await.unwrap(), [0xff, 0xd8, 0xff]);
        assert!(directory.path().join("images").join(path).is_file());
    }
}
