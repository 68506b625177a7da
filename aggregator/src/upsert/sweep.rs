//! Pictures that no document points at go: those whose documents MongoDB has deleted as their time was
//! over, and orphans, of which a crash came between the picture and its document.
//!
//! All pictures are looked through, a page at a time, and only what is old enough is asked about. Their
//! age is told by the store's own clock. Whoever writes a picture writes it again before its document
//! where that takes long ([`Images::renew_after`]), so that what is old and has no document gets none;
//! but for a batch that is read again, which claims its pictures first ([`super::claims`]). Among several
//! aggregators, nobody asks MongoDB about a picture and removes it in the very moment in which another
//! one, that had left it behind for hours, writes it anew: that is short, and not excluded.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use metrics::counter;
use object_store::ObjectMeta;
use object_store::path::Path;
use picket_service::logging::chain;
use picket_wire::ObservationId;

use super::error::ImageError;
use super::images::Images;
use super::leftovers;
use super::owner;
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

    /// What no other database has.
    fn database_id(&self) -> impl Future<Output = Result<String, StoreError>> + Send;

    /// Where some of the pictures lie that have one.
    fn some_paths(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;
}

impl Documents for Store {
    async fn of(&self, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
        self.recorded_pictures(ids).await
    }

    async fn database_id(&self) -> Result<String, StoreError> {
        Store::database_id(self).await
    }

    async fn some_paths(&self) -> Result<Vec<String>, StoreError> {
        self.some_picture_paths().await
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
    /// They are another database's, or nobody knows whose.
    #[error(
        "pictures in {place} that nothing points at stay: {} there says {found:?}, and the database of \
         store.database is {own:?}; give it a place of its own ({field}), or, if the pictures are this \
         database's, write {own} into that file",
        owner::FILE
    )]
    Elsewhere {
        /// Where they lie.
        place: String,
        /// The field that names the place.
        field: &'static str,
        /// What stands beside them.
        found: String,
        /// Of the database in use.
        own: String,
    },
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
}

struct Round {
    /// When it began, by the store's clock.
    began: SystemTime,
    /// What is to be listed yet.
    parts: VecDeque<Option<Path>>,
    part: Option<Part>,
    /// Listed, and not yet looked at.
    page: Vec<ObjectMeta>,
    removed: Removed,
}

struct Part {
    path: Option<Path>,
    listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
    /// The last that was listed.
    last: Option<Path>,
}

impl Round {
    /// Lists up to a page. In a bucket a listing that fails goes on where it ended; that of a directory is
    /// in no order, and what is left of its part waits for the next round.
    async fn fill(&mut self, images: &Images) -> Result<(), SweepError> {
        let store = images.object_store();
        while self.page.len() < PAGE {
            let part = match &mut self.part {
                Some(part) => part,
                None => {
                    let Some(path) = self.parts.pop_front() else { break };
                    let listing = store.list(path.as_ref());
                    self.part.insert(Part { path, listing, last: None })
                }
            };
            match part.listing.next().await {
                Some(Ok(object)) => {
                    part.last = Some(object.location.clone());
                    self.page.push(object);
                }
                None => self.part = None,
                Some(Err(e)) => {
                    if !images.is_bucket() {
                        self.part = None;
                    } else if let Some(last) = &part.last {
                        part.listing = store.list_with_offset(part.path.as_ref(), last);
                    } else {
                        part.listing = store.list(part.path.as_ref());
                    }
                    return Err(SweepError::Images(images.unusable(e)));
                }
            }
        }
        Ok(())
    }
}

impl<D: Documents> Sweeper<D> {
    /// Of all of these.
    pub fn new(images: Images, documents: D, retention: Retention) -> Self {
        let expired_after = DAY * retention.frames_days / 2;
        Self { images, documents, expired_after, round: None }
    }

    /// Writes down whose pictures these are where that is not known yet, and says so where they are not
    /// this database's.
    pub async fn prove_owner(&mut self) -> Result<(), SweepError> {
        let clock = self.images.store_time().await.map_err(SweepError::Images)?;
        owner::prove(&self.images, &self.documents, clock.last_modified.into()).await
    }

    /// Looks at some more pictures. After a failure it goes on behind them.
    pub async fn turn(&mut self) -> Result<Turn, SweepError> {
        let turn = self.look().await;
        match &turn {
            Ok(Turn::More) => {}
            Ok(Turn::Done(_)) => counter!(SWEEPS, "outcome" => "done").increment(1),
            Err(_) => counter!(SWEEPS, "outcome" => "failed").increment(1),
        }
        turn
    }

    async fn look(&mut self) -> Result<Turn, SweepError> {
        let mut round = match self.round.take() {
            Some(round) => round,
            None => self.begin().await?,
        };
        let filled = round.fill(&self.images).await;
        let is_last = filled.is_ok() && round.page.len() < PAGE;
        let looked = self.look_at(&mut round).await;
        if !is_last || looked.is_err() {
            self.round = Some(round);
            return filled.and(looked).map(|()| Turn::More);
        }
        match self.leftovers(round.began).await {
            Ok(leftovers) => round.removed.leftovers = leftovers,
            Err(error) => tracing::warn!("{}", chain(&error)),
        }
        Ok(Turn::Done(round.removed))
    }

    async fn begin(&mut self) -> Result<Round, SweepError> {
        let clock = self.images.store_time().await.map_err(SweepError::Images)?;
        let began = clock.last_modified.into();
        owner::prove(&self.images, &self.documents, began).await?;
        let parts = self.images.parts().await.map_err(SweepError::Images)?.into();
        Ok(Round { began, parts, part: None, page: Vec::new(), removed: Removed::default() })
    }

    /// Removes of a page what nothing points at. Where MongoDB does not say what that is, its turn comes
    /// with the next round: whoever writes one of them again meanwhile makes it young.
    async fn look_at(&mut self, round: &mut Round) -> Result<(), SweepError> {
        let mut old = HashMap::new();
        for ObjectMeta { location, last_modified, .. } in round.page.drain(..) {
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
        let mut outcome = Ok(());
        let gone = claim.paths.iter().filter(|path| !known.contains(&old[*path].0));
        let gone: Vec<_> = gone.map(|path| Ok(Path::from(path.as_str()))).collect();
        let mut deleted = self.images.object_store().delete_stream(stream::iter(gone).boxed());
        while let Some(path) = deleted.next().await {
            let path = match path {
                Ok(path) => path,
                // Another instance that shares the pictures was faster.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(e) => {
                    outcome = outcome.and(Err(SweepError::Images(self.images.unusable(e))));
                    continue;
                }
            };
            let age = old.get(path.as_ref()).map(|(_, age)| *age).unwrap_or_default();
            round.removed.count(&path, age >= self.expired_after);
        }
        outcome
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
pub(super) fn picture_id(path: &Path) -> Option<String> {
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
mod tests;
