//! Pictures in the object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::remedy::Remedy;

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
        Ok(Self { store: Arc::new(store.with_fsync(true).with_automatic_cleanup(true)) })
    }

    /// The store below, for whoever only reads.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a picture whole or not at all; returns once it is durable.
    pub async fn put(&self, path: &str, jpeg: PutPayload) -> Result<(), ImageError> {
        let place = object_store::path::Path::from(path);
        let result = self.store.put(&place, jpeg).await;
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
    use super::*;

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
