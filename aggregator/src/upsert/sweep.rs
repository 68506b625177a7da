//! Pictures that no document points at go: those whose documents MongoDB has deleted as their time was
//! over, and orphans, of which a crash came between the picture and its document.
//!
//! All pictures are looked through, a page at a time, and only what is old enough is asked about. Their
//! age is told by the store's own clock. Whoever writes a picture writes it again before its document
//! where that takes long ([`Images::renew_after`]), so that what is old and has no document gets none;
//! but for a batch that is read again, which claims its pictures first ([`super::claims`]). Among several
//! aggregators, nobody asks MongoDB about a picture and removes it in the very moment in which another
//! one, that had left it behind for hours, writes it anew: that is short, and not excluded.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use metrics::counter;
use object_store::ObjectMeta;
use object_store::path::Path;
use picket_wire::ObservationId;

use super::error::ImageError;
use super::images::Images;
use super::leftovers;
use super::place::Place;
use super::settings::Retention;
use crate::metrics::{PICTURES_REMOVED, SWEEPS};
use crate::store::{Store, StoreError};

/// Pictures that are looked at in a turn; as many as a store lists at a time.
const PAGE: usize = 1000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whoever knows which pictures have documents.
pub trait Documents {
    /// Those of these ids that have one.
    fn of(
        &self,
        ids: &[String],
    ) -> impl Future<Output = Result<BTreeSet<String>, StoreError>> + Send;
}

impl Documents for Store {
    async fn of(&self, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
        self.recorded_pictures(ids).await
    }
}

/// A look at pictures that failed. What is left over has its turn again.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The object store.
    #[error("pictures that nothing points at stay for now")]
    Images(#[source] ImageError),
    /// MongoDB.
    #[error("pictures that nothing points at stay for now")]
    Documents(#[source] StoreError),
    /// The directory's own leftovers.
    #[error("empty directories below {} stay for now (upsert.images_directory)", path.display())]
    Leftovers {
        /// Below which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There are more pictures to look at.
    More,
    /// All were looked at.
    Done(Removed),
}

/// What a round removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pictures whose documents' time was over.
    pub expired: u64,
    /// Pictures that never got a document, or lost it before its time.
    pub orphans: u64,
    /// Directories that were empty, and files that were never finished.
    pub leftovers: u64,
}

impl Removed {
    fn count(&mut self, path: &Path, is_expired: bool) {
        let (why, count) = match is_expired {
            true => ("expired", &mut self.expired),
            false => ("orphan", &mut self.orphans),
        };
        *count += 1;
        counter!(PICTURES_REMOVED, "why" => why).increment(1);
        if !is_expired {
            tracing::debug!(path = path.as_ref(), "removed a picture that nothing points at");
        }
    }
}

/// Looks through all pictures, round after round.
pub struct Sweeper<D> {
    images: Images,
    documents: D,
    /// Half of what documents are kept: an orphan is found long before.
    expired_after: Duration,
    round: Option<Round>,
    /// Where a round that failed goes on.
    last: Option<Path>,
}

struct Round {
    /// When it began, by the store's clock.
    began: SystemTime,
    listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
    removed: Removed,
}

impl<D: Documents> Sweeper<D> {
    /// Of all of these.
    pub fn new(images: Images, documents: D, retention: Retention) -> Self {
        let expired_after = DAY * retention.frames_days / 2;
        Self { images, documents, expired_after, round: None, last: None }
    }

    /// Looks at some more pictures. After a failure it goes on behind them.
    pub async fn turn(&mut self) -> Result<Turn, SweepError> {
        let mut round = match self.round.take() {
            Some(round) => round,
            None => self.begin().await?,
        };
        let outcome = self.page(&mut round).await;
        if outcome.is_err() {
            counter!(SWEEPS, "outcome" => "failed").increment(1);
        }
        if outcome? {
            self.round = Some(round);
            return Ok(Turn::More);
        }
        self.last = None;
        round.removed.leftovers = self.leftovers(round.began).await?;
        counter!(SWEEPS, "outcome" => "done").increment(1);
        Ok(Turn::Done(round.removed))
    }

    async fn begin(&mut self) -> Result<Round, SweepError> {
        let clock = self.images.store_time().await.map_err(SweepError::Images)?;
        let store = self.images.object_store();
        let listing = match &self.last {
            Some(last) => store.list_with_offset(None, last),
            None => store.list(None),
        };
        let began = clock.last_modified.into();
        Ok(Round { began, listing, removed: Removed::default() })
    }

    /// A page; false where it is the last one.
    async fn page(&mut self, round: &mut Round) -> Result<bool, SweepError> {
        let mut listed = Vec::new();
        let mut end = Ok(true);
        while listed.len() < PAGE {
            match round.listing.next().await {
                Some(Ok(object)) => listed.push(object),
                Some(Err(e)) => {
                    end = Err(SweepError::Images(self.images.unusable(e)));
                    break;
                }
                None => {
                    end = Ok(false);
                    break;
                }
            }
        }
        if let Some(object) = listed.last() {
            self.last = Some(object.location.clone());
        }
        self.look_at(listed, round).await?;
        end
    }

    /// Removes of these what nothing points at.
    async fn look_at(
        &mut self,
        listed: Vec<ObjectMeta>,
        round: &mut Round,
    ) -> Result<(), SweepError> {
        let mut old = HashMap::new();
        for ObjectMeta { location, last_modified, .. } in listed {
            let age = round.began.duration_since(last_modified.into()).unwrap_or_default();
            if let Some(id) = picture_id(&location)
                && age > self.images.orphans_after()
            {
                old.insert(location.to_string(), (id, age));
            }
        }
        // Before MongoDB is asked: whoever had one of these in hand has written its document by then.
        let claim = self.images.claims().remove(old.keys().cloned());
        let ids: Vec<_> = claim.paths.iter().map(|path| old[path].0.clone()).collect();
        let known = self.documents.of(&ids).await.map_err(SweepError::Documents)?;
        let gone = claim.paths.iter().filter(|path| !known.contains(&old[*path].0));
        let gone: Vec<_> = gone.map(|path| Ok(Path::from(path.as_str()))).collect();
        let mut deleted = self.images.object_store().delete_stream(stream::iter(gone).boxed());
        while let Some(path) = deleted.next().await {
            let path = match path {
                Ok(path) => path,
                // Another instance that shares the pictures was faster.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(e) => return Err(SweepError::Images(self.images.unusable(e))),
            };
            let age = old.get(path.as_ref()).map(|(_, age)| *age).unwrap_or_default();
            round.removed.count(&path, age >= self.expired_after);
        }
        Ok(())
    }

    async fn leftovers(&mut self, now: SystemTime) -> Result<u64, SweepError> {
        let Place::Directory(path) = self.images.place() else { return Ok(0) };
        let (root, age) = (path.clone(), self.images.orphans_after());
        let looked = tokio::task::spawn_blocking(move || leftovers::remove(&root, age, now));
        let looked = looked.await.map_err(std::io::Error::other).flatten();
        let removed =
            looked.map_err(|source| SweepError::Leftovers { path: path.clone(), source })?;
        Ok(removed.directories + removed.files)
    }
}

/// The id of the document that points at what lies here: `<device>/<camera>/<epoch>/<seq>.jpg`, or
/// `<seq>-<index>.jpg` of a crop. Whatever does not lie where a picture would has none.
fn picture_id(path: &Path) -> Option<String> {
    let name = path.as_ref().strip_suffix(".jpg")?;
    let (directory, file) = name.rsplit_once('/')?;
    let (seq, index) = match file.split_once('-') {
        Some((seq, index)) => {
            let number = index.parse::<u32>().ok().filter(|n| n.to_string() == index)?;
            (seq, Some(number))
        }
        None => (file, None),
    };
    let id: ObservationId = format!("{directory}/{seq}").parse().ok()?;
    Some(index.map_or_else(|| id.to_string(), |index| format!("{id}#{index}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    const WEEK: Retention = Retention { observations_days: 1, frames_days: 7, tracks_days: 1 };
    const HOUR: Duration = Duration::from_secs(3600);

    /// Documents of these ids; none where MongoDB is away.
    #[derive(Default)]
    struct Recorded(Mutex<Option<BTreeSet<String>>>);

    impl Documents for &Recorded {
        async fn of(&self, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
            let known = self.0.lock().unwrap();
            let known = known.as_ref().ok_or(StoreError::NoReplicaSet { hosts: "away".into() })?;
            Ok(ids.iter().filter(|id| known.contains(*id)).cloned().collect())
        }
    }

    struct Bench {
        directory: tempfile::TempDir,
        images: Images,
        recorded: Recorded,
    }

    impl Bench {
        fn new(recorded: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let images = Images::in_directory(directory.path()).unwrap();
            let recorded = recorded.iter().map(|id| (*id).to_owned()).collect();
            Self { directory, images, recorded: Recorded(Mutex::new(Some(recorded))) }
        }

        fn put(&self, path: &str, age: Duration) {
            let path = self.directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }

        fn has(&self, path: &str) -> bool {
            self.directory.path().join(path).exists()
        }

        fn sweeper(&self) -> Sweeper<&Recorded> {
            Sweeper::new(self.images.clone(), &self.recorded, WEEK)
        }
    }

    async fn round(sweeper: &mut Sweeper<&Recorded>) -> Removed {
        loop {
            if let Turn::Done(removed) = sweeper.turn().await.unwrap() {
                return removed;
            }
        }
    }

    #[tokio::test]
    async fn what_no_document_points_at_goes_once_it_is_old_and_nothing_else_does() {
        let bench = Bench::new(&["gate/north/3-0a1b2c3d/7", "gate/north/3-0a1b2c3d/7#2"]);
        let here = |file: &str| format!("gate/north/3-0a1b2c3d/{file}");
        let kept = [
            (here("7.jpg"), 30 * DAY),
            (here("7-2.jpg"), 3 * HOUR),
            (here("8.jpg"), HOUR),
            (here("8-02.jpg"), 30 * DAY),
            (here("notes.txt"), 30 * DAY),
            ("gate/holiday.jpg".to_owned(), 30 * DAY),
        ];
        let orphans = [(here("9.jpg"), 3 * HOUR), (here("9-2.jpg"), 3 * HOUR)];
        let expired = (here("1.jpg"), 7 * DAY);
        for (path, age) in kept.iter().chain(&orphans).chain([&expired]) {
            bench.put(path, *age);
        }
        let removed = round(&mut bench.sweeper()).await;
        assert_eq!(removed, Removed { expired: 1, orphans: 2, leftovers: 0 });
        for (path, _) in &kept {
            assert!(bench.has(path), "{path}");
        }
        for (path, _) in orphans.iter().chain([&expired]) {
            assert!(!bench.has(path), "{path}");
        }
    }

    #[tokio::test]
    async fn what_is_written_again_after_a_crash_is_not_removed_before_it_has_its_document() {
        let path = "gate/north/3-0a1b2c3d/7.jpg";
        let bench = Bench::new(&[]);
        bench.put(path, 30 * DAY);
        let writing = bench.images.claim(vec![path.to_owned()]).await;
        let mut sweeper = bench.sweeper();
        assert_eq!(round(&mut sweeper).await, Removed::default());
        drop(writing);
        assert_eq!(round(&mut sweeper).await.expired, 1);
        // Nor does the removal keep the next one from writing it.
        bench.images.claim(vec![path.to_owned()]).await;
    }

    #[tokio::test]
    async fn while_mongodb_is_away_nothing_goes_and_afterwards_the_rest_has_its_turn() {
        let bench = Bench::new(&[]);
        for seq in 0..=PAGE {
            bench.put(&format!("gate/north/3-0a1b2c3d/{}.jpg", seq + 1), 3 * HOUR);
        }
        let known = bench.recorded.0.lock().unwrap().take();
        let mut sweeper = bench.sweeper();
        assert!(matches!(sweeper.turn().await, Err(SweepError::Documents(_))));
        assert!((0..=PAGE).all(|n| bench.has(&format!("gate/north/3-0a1b2c3d/{}.jpg", n + 1))));
        *bench.recorded.0.lock().unwrap() = known;
        round(&mut sweeper).await;
        round(&mut sweeper).await;
        assert!(!bench.has("gate"), "and their directories");
    }

    #[tokio::test]
    async fn a_round_is_done_in_pages() {
        let bench = Bench::new(&[]);
        for seq in 0..=PAGE {
            bench.put(&format!("gate/north/3-0a1b2c3d/{}.jpg", seq + 1), 3 * HOUR);
        }
        let mut sweeper = bench.sweeper();
        assert_eq!(sweeper.turn().await.unwrap(), Turn::More);
        let done = sweeper.turn().await.unwrap();
        let orphans = PAGE as u64 + 1;
        assert_eq!(done, Turn::Done(Removed { orphans, ..Removed::default() }));
    }
}
