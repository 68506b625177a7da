//! `/images/…`: pictures from the object store.
//!
//! The way to a picture leads over its document: its path is what the writer recorded and never what
//! a request says, so no request can name a file; and a picture whose document was deleted is no
//! longer served, even while its file is still being cleaned up. One that is recorded and not there is
//! told as such (410), and so is a store that does not answer (503).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mongodb::bson::doc;
use object_store::ObjectStoreExt;
use picket_wire::ObservationId;

use super::Shared;
use super::error::WebError;
use super::fleet::within_limit;
use crate::store::documents::{FrameDocument, collection};

/// A picture's bytes never change, and they may show people: a browser keeps them for an hour, a
/// shared cache never.
const CACHE: &str = "private, max-age=3600, immutable";

/// What a URL's last three parts and the file name say; `<seq>.jpg` is a frame and
/// `<seq>.<index>.jpg` a crop (`#` ends a URL's path, so the id itself cannot stand there).
fn picture_id(
    device: &str,
    camera: &str,
    epoch: &str,
    file: &str,
) -> Result<(ObservationId, Option<u32>), WebError> {
    let invalid = |problem: String| WebError::Invalid { field: "image", problem };
    let name = file
        .strip_suffix(".jpg")
        .ok_or_else(|| invalid("a picture's name ends in .jpg".to_owned()))?;
    let (seq, index) = match name.split_once('.') {
        None => (name, None),
        Some((seq, index)) => {
            let index = index
                .parse::<u32>()
                .ok()
                .filter(|i| i.to_string() == index)
                .ok_or_else(|| invalid("a crop's name is <seq>.<index>.jpg".to_owned()))?;
            (seq, Some(index))
        }
    };
    let id = format!("{device}/{camera}/{epoch}/{seq}");
    let id = id.parse::<ObservationId>().map_err(|e| invalid(e.to_string()))?;
    Ok((id, index))
}

/// Answers `/images/{device}/{camera}/{epoch}/{file}`.
pub(super) async fn image(
    State(shared): State<Arc<Shared>>,
    Path((device, camera, epoch, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, WebError> {
    let (id, index) = picture_id(&device, &camera, &epoch, &file)?;
    let id = index.map_or_else(|| id.to_string(), |i| format!("{id}#{i}"));
    let frames = shared.database.collection::<FrameDocument>(collection::FRAMES);
    let found = within_limit("pictures", frames.find_one(doc! { "_id": &id })).await?;
    let frame = found.ok_or(WebError::Missing("picture"))?;
    let etag = format!("\"{}\"", frame.digest);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let path = object_store::path::Path::parse(&frame.path)
        .map_err(|e| WebError::Picture(object_store::Error::from(e)))?;
    let object = match shared.images.get(&path).await {
        Ok(object) => object,
        Err(object_store::Error::NotFound { .. }) => {
            tracing::warn!(target: "web", id, "the picture is recorded, and no longer in the store");
            return Err(WebError::PictureGone);
        }
        Err(error) => return Err(WebError::Picture(error)),
    };
    let headers = [
        (header::CONTENT_TYPE, "image/jpeg".to_owned()),
        (header::CONTENT_LENGTH, object.meta.size.to_string()),
        (header::CACHE_CONTROL, CACHE.to_owned()),
        (header::ETAG, etag),
    ];
    Ok((headers, Body::from_stream(object.into_stream())).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_a_crop_have_one_name_each() {
        let (id, index) = picture_id("gate", "north", "3-0000000a", "17.jpg").unwrap();
        assert_eq!((id.to_string().as_str(), index), ("gate/north/3-0000000a/17", None));
        let (_, index) = picture_id("gate", "north", "3-0000000a", "17.2.jpg").unwrap();
        assert_eq!(index, Some(2));
    }

    #[test]
    fn anything_that_is_not_a_picture_s_name_is_refused() {
        for (device, camera, epoch, file) in [
            ("..", "north", "3-0000000a", "17.jpg"),
            ("gate", "..", "3-0000000a", "17.jpg"),
            ("gate", "north", "..", "17.jpg"),
            ("gate", "north", "3-0000000a", "..jpg"),
            ("gate", "north", "3-0000000a", "../../etc/passwd"),
            ("gate/north", "x", "3-0000000a", "17.jpg"),
            ("gate", "north/x", "3-0000000a", "17.jpg"),
            ("gate", "north", "3-0000000a", "017.jpg"),
            ("gate", "north", "3-0000000a", "17.02.jpg"),
            ("gate", "north", "3-0000000a", "17.+2.jpg"),
            ("gate", "north", "3-0000000a", "17"),
            ("gate\0", "north", "3-0000000a", "17.jpg"),
        ] {
            assert!(
                picture_id(device, camera, epoch, file).is_err(),
                "{device} {camera} {epoch} {file}"
            );
        }
    }
}
