//! Old pictures go, some time after MongoDB has deleted their documents.
//!
//! By their own age and not by a look at the documents: a picture is written after its record came to
//! the broker, so one that is older than its document may become has none. The day on top is for
//! clocks that differ.

use futures_util::TryStreamExt;
use jiff::Timestamp;
use metrics::counter;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use picket_wire::ObservationId;

use super::images::{ImageError, Images};
use super::settings::Retention;
use crate::metrics::PICTURES_REMOVED;

const DAY_S: i64 = 24 * 60 * 60;

impl Images {
    /// Removes the pictures that have outlived their documents; returns how many. Whatever does not
    /// lie where a picture would is not touched.
    pub async fn sweep(&self, retention: Retention, now: Timestamp) -> Result<u64, ImageError> {
        let keep_s = (i64::from(retention.frames_days) + 1) * DAY_S;
        let store = self.object_store();
        let mut all = store.list(None);
        let mut removed = 0;
        while let Some(object) = all.try_next().await.map_err(ImageError::Sweep)? {
            let age_s = now.as_second().saturating_sub(object.last_modified.timestamp());
            if age_s <= keep_s || !is_picture(&object.location) {
                continue;
            }
            match store.delete(&object.location).await {
                Ok(()) => {}
                // Another instance that shares the pictures was faster.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(e) => return Err(ImageError::Sweep(e)),
            }
            counter!(PICTURES_REMOVED).increment(1);
            removed += 1;
        }
        Ok(removed)
    }
}

/// `<device>/<camera>/<epoch>/<seq>.jpg`, or `<seq>-<index>.jpg` of a crop.
fn is_picture(path: &Path) -> bool {
    let Some(name) = path.as_ref().strip_suffix(".jpg") else { return false };
    let Some((directory, file)) = name.rsplit_once('/') else { return false };
    let seq = file.split_once('-').map_or(file, |(seq, _)| seq);
    format!("{directory}/{seq}").parse::<ObservationId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Retention = Retention { observations_days: 1, frames_days: 7, tracks_days: 1 };

    #[tokio::test]
    async fn a_picture_goes_a_day_after_its_document_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::in_directory(directory.path()).unwrap();
        let pictures = ["gate/north/3-0a1b2c3d/7.jpg", "gate/north/3-0a1b2c3d/7-2.jpg"];
        let others = ["gate/north/3-0a1b2c3d/notes.txt", "gate/holiday.jpg"];
        for path in pictures.iter().chain(&others) {
            images.put(path, vec![0xff].into()).await.unwrap();
        }
        let after = |days: i64| Timestamp::from_second(Timestamp::now().as_second() + days * DAY_S);
        assert_eq!(images.sweep(WEEK, after(7).unwrap()).await.unwrap(), 0);
        assert_eq!(images.sweep(WEEK, after(9).unwrap()).await.unwrap(), 2);
        for path in pictures {
            assert!(images.get(path).await.is_err(), "{path}");
        }
        for path in others {
            assert!(images.get(path).await.is_ok(), "{path}");
        }
    }
}
