//! Pictures in the object store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use picket_wire::DeviceName;

use super::bucket;
use super::claims::{Claims, Writing};
use super::error::ImageError;
use super::place::Place;
use super::settings::{Kept, Settings};

/// Pictures that are written at a time, of all partitions: on a disk each takes a thread, of which the
/// runtime has 512, until the disk has it; in a bucket a connection.
const PUTS_AT_ONCE: usize = 128;
/// A file of our own, which tells the time by the store's clock. No device has such a name.
const CLOCK: &str = ".picket-sweep";

/// The pictures of all cameras. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    store: Arc<dyn ObjectStore>,
    /// The same for writing: whoever looks at pictures does not wait for those that come.
    puts: Arc<LimitStore<Arc<dyn ObjectStore>>>,
    place: Place,
    claims: Claims,
    orphans_after: Duration,
}

impl Images {
    /// Where the settings have them.
    pub fn open(settings: &Settings) -> Result<Self, ImageError> {
        let orphans_after = Duration::from_secs(settings.orphans_after_s.into());
        let images = match settings.kept().map_err(ImageError::Settings)? {
            Kept::Directory(directory) => Self::in_directory(directory)?,
            Kept::Bucket(url, s3) => Self::new(bucket::open(&url, s3)?, Place::bucket(&url, s3)),
        };
        Ok(Self { orphans_after, ..images })
    }

    /// Pictures below `directory`, which is made if it is missing.
    pub fn in_directory(directory: &Path) -> Result<Self, ImageError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| ImageError::Directory { path: directory.to_owned(), source })?;
        let store = LocalFileSystem::new_with_prefix(directory).map_err(|source| {
            ImageError::Open { place: directory.display().to_string(), source }
        })?;
        // Without fsync a document could outlive the picture that it points at.
        // Without cleanup the directories of all epochs would stay after their pictures.
        let store = store.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self::new(Arc::new(store), Place::Directory(directory.to_owned())))
    }

    fn new(store: Arc<dyn ObjectStore>, place: Place) -> Self {
        let puts = Arc::new(LimitStore::new(Arc::clone(&store), PUTS_AT_ONCE));
        let orphans_after = Duration::from_secs(super::settings::default_orphans_after_s().into());
        Self { store, puts, place, claims: Claims::default(), orphans_after }
    }

    /// The store below, for whoever only reads.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Where they are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether they are in a bucket.
    pub fn is_bucket(&self) -> bool {
        matches!(self.place, Place::Bucket { .. })
    }

    /// Who has which of them in hand.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The age at which a picture that no document points at is removed.
    pub fn orphans_after(&self) -> Duration {
        self.orphans_after
    }

    /// Takes these for writing, until what is returned is dropped: nobody in this process removes them.
    pub async fn claim(&self, paths: Vec<String>) -> Writing {
        self.claims.write(paths).await
    }

    /// A picture whose document is not written after so long is written again before it: somebody else
    /// may be about to take it for one that nothing points at.
    pub fn renew_after(&self) -> Duration {
        self.orphans_after / 4
    }

    /// Whether the store can be listed, takes what it is given, and gives it back.
    pub async fn check(&self) -> Result<(), ImageError> {
        match self.place {
            Place::Directory(_) => drop(self.parts().await?),
            Place::Bucket { .. } => {
                let first = self.store.list(None).try_next().await;
                first.map_err(|source| self.unusable(source))?;
            }
        }
        self.store_time().await.map(drop)
    }

    /// The time by the store's own clock, by which it tells the age of what it has.
    pub async fn store_time(&self) -> Result<ObjectMeta, ImageError> {
        let path = ObjectPath::from(CLOCK);
        let asked = async {
            self.store.put(&path, "When pictures were last looked through.\n".into()).await?;
            self.store.head(&path).await
        };
        asked.await.map_err(|source| self.unusable(source))
    }

    /// What together holds all pictures, each to be listed by itself. Below a directory there may be what
    /// is not ours and cannot be read, as `lost+found` of a disk: only devices are looked at.
    pub(super) async fn parts(&self) -> Result<Vec<Option<ObjectPath>>, ImageError> {
        if self.is_bucket() {
            return Ok(vec![None]);
        }
        let listed = self.store.list_with_delimiter(None).await;
        let found = listed.map_err(|source| self.unusable(source))?.common_prefixes;
        let is_device = |path: &ObjectPath| path.as_ref().parse::<DeviceName>().is_ok();
        Ok(found.into_iter().filter(is_device).map(Some).collect())
    }

    /// The store refused what is not about one picture.
    pub(super) fn unusable(&self, source: object_store::Error) -> ImageError {
        let advice = self.place.advice(&source);
        ImageError::Unusable { place: self.place.to_string(), advice, source: source.into() }
    }

    /// Writes a picture whole or not at all; returns once it is durable.
    pub async fn put(&self, path: &str, jpeg: PutPayload) -> Result<(), ImageError> {
        let place = ObjectPath::from(path);
        let result = self.puts.put(&place, jpeg).await;
        result.map(drop).map_err(|source| {
            let advice = self.place.advice(&source);
            ImageError::Put { path: path.to_owned(), advice, source: source.into() }
        })
    }

    /// Reads a picture.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let failed = |source| ImageError::Get { path: path.to_owned(), source };
        let place = ObjectPath::from(path);
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
        let images = Images::new(
            Arc::new(ThrottledStore::new(InMemory::new(), slow)),
            Place::Directory("/nowhere".into()),
        );
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
