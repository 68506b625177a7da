//! Whose pictures lie in a place. Nothing there is removed for a database that is not known to be the
//! one whose documents point at them: another one knows none of them, and would have them all go.
//!
//! Each database draws an id when it is made, and writes it beside the pictures once: where there are
//! no old ones yet, or where some are found at which it points. Where neither is so, that is written down too,
//! before pictures of its own make the place look like its own; then a person decides.

use std::time::SystemTime;

use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::error::ImageError;
use super::images::Images;
use super::sweep::{Documents, SweepError, picture_id};

/// Its first line is the database's id. No device has such a name.
pub(super) const FILE: &str = ".picket-database";
/// Stands there until a person has written an id.
const NOBODY: &str = "unclaimed";

/// Whether pictures here may be removed when no document of this database points at them. `now` is by the
/// store's clock.
pub async fn prove(
    images: &Images,
    documents: &impl Documents,
    now: SystemTime,
) -> Result<(), SweepError> {
    let own = documents.database_id().await.map_err(SweepError::Documents)?;
    let mut found = read(images).await.map_err(SweepError::Images)?;
    if found.is_none() {
        let id = if is_ours(images, documents, now).await? { own.as_str() } else { NOBODY };
        write(images, id).await.map_err(SweepError::Images)?;
        // As it reads by now: somebody else may have written it in the same moment.
        found = read(images).await.map_err(SweepError::Images)?;
    }
    match found.unwrap_or_default() {
        found if found == own => Ok(()),
        found => {
            let (place, field) = (images.place().to_string(), images.place().field());
            Err(SweepError::Elsewhere { place, field, found, own })
        }
    }
}

async fn read(images: &Images) -> Result<Option<String>, ImageError> {
    let store = images.object_store();
    let bytes = match store.get(&Path::from(FILE)).await {
        Ok(found) => found.bytes().await,
        Err(error) if is_missing(images, &error) => return Ok(None),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|source| images.unusable(source))?;
    let text = String::from_utf8_lossy(&bytes);
    // Quoted in an error: whatever somebody put there.
    Ok(Some(text.lines().next().unwrap_or_default().trim().chars().take(80).collect()))
}

async fn write(images: &Images, id: &str) -> Result<(), ImageError> {
    let text = format!(
        "{id}\nThe line above is the id of the database whose documents point at these pictures \
         (database_id in its collection schema). For no other one is any of them removed.\n"
    );
    let written = images.object_store().put(&Path::from(FILE), text.into()).await;
    written.map(drop).map_err(|source| images.unusable(source))
}

/// S3 says 403 of what is missing to whoever may not list everything. That the key may read at all is
/// known by then: the store's time was read.
fn is_missing(images: &Images, error: &object_store::Error) -> bool {
    match error {
        object_store::Error::NotFound { .. } => true,
        object_store::Error::PermissionDenied { .. } => images.is_bucket(),
        _ => false,
    }
}

async fn is_ours(
    images: &Images,
    documents: &impl Documents,
    now: SystemTime,
) -> Result<bool, SweepError> {
    let store = images.object_store();
    let unusable = |source| SweepError::Images(images.unusable(source));
    for path in documents.some_paths().await.map_err(SweepError::Documents)? {
        match store.head(&Path::from(path)).await {
            Ok(_) => return Ok(true),
            Err(error) if is_missing(images, &error) => {}
            Err(error) => return Err(unusable(error)),
        }
    }
    for part in images.parts().await.map_err(SweepError::Images)? {
        let mut listed = store.list(part.as_ref());
        while let Some(object) = listed.try_next().await.map_err(unusable)? {
            // Those that were written just now may be ours and get their documents yet.
            let age = now.duration_since(object.last_modified.into()).unwrap_or_default();
            if picture_id(&object.location).is_some() && age > images.orphans_after() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::store::StoreError;

    /// A database of this id, whose documents point at these.
    struct Database(&'static str, &'static [&'static str]);

    impl Documents for Database {
        async fn of(&self, _: &[String]) -> Result<BTreeSet<String>, StoreError> {
            Ok(BTreeSet::new())
        }

        async fn database_id(&self) -> Result<String, StoreError> {
            Ok(self.0.to_owned())
        }

        async fn some_paths(&self) -> Result<Vec<String>, StoreError> {
            Ok(self.1.iter().map(|path| (*path).to_owned()).collect())
        }
    }

    const HERE: &str = "gate/north/3-0a1b2c3d/7.jpg";
    const GONE: &str = "gate/north/3-0a1b2c3d/8.jpg";

    /// When what is written now is old.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3 * 60 * 60)
    }

    async fn place(pictures: &[&str]) -> (tempfile::TempDir, Images) {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::in_directory(directory.path()).unwrap();
        for path in pictures {
            images.put(path, vec![0xff].into()).await.unwrap();
        }
        (directory, images)
    }

    async fn refusal(images: &Images, database: &Database) -> String {
        let error = prove(images, database, later()).await.unwrap_err();
        assert!(matches!(error, SweepError::Elsewhere { .. }), "{error:?}");
        error.to_string()
    }

    #[tokio::test]
    async fn an_empty_place_is_the_first_database_s_and_no_other_s() {
        let (_directory, images) = place(&[]).await;
        prove(&images, &Database("first", &[]), later()).await.unwrap();
        images.put(HERE, vec![0xff].into()).await.unwrap();
        // Also one that points at the same pictures by now.
        let said = refusal(&images, &Database("second", &[HERE])).await;
        for part in ["first", "second", FILE, "upsert.images_directory"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        prove(&images, &Database("first", &[]), later()).await.unwrap();
    }

    #[tokio::test]
    async fn pictures_without_a_name_are_of_the_database_that_points_at_them() {
        let (_directory, images) = place(&[HERE]).await;
        prove(&images, &Database("first", &[GONE, HERE]), later()).await.unwrap();
        refusal(&images, &Database("second", &[HERE])).await;
    }

    #[tokio::test]
    async fn pictures_that_a_database_knows_nothing_of_stay_until_a_person_says_whose_they_are() {
        let (directory, images) = place(&[HERE]).await;
        refusal(&images, &Database("new", &[GONE])).await;
        // Nor do pictures of its own that come in between make it so.
        images.put(GONE, vec![0xff].into()).await.unwrap();
        refusal(&images, &Database("new", &[GONE])).await;
        std::fs::write(directory.path().join(FILE), "new\n").unwrap();
        prove(&images, &Database("new", &[GONE]), later()).await.unwrap();
    }

    #[tokio::test]
    async fn pictures_that_come_before_their_place_has_an_owner_are_nobody_else_s() {
        let (_directory, images) = place(&[HERE]).await;
        prove(&images, &Database("first", &[]), SystemTime::now()).await.unwrap();
    }
}
