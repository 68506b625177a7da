//! Documents of pictures.

use picket_wire::Picture;

use crate::store::documents::{FrameDocument, Ingest};
use crate::upsert::origin::{date, nanoseconds, pixels, signed};

/// Path of a picture in the object store. Names are checked where they enter, so that a path made
/// of them cannot leave its directory.
pub fn path(picture: &Picture) -> String {
    let id = &picture.id;
    match picture.crop {
        None => format!("{}/{}/{}.jpg", id.key, id.epoch, id.seq),
        Some(index) => format!("{}/{}/{}-{index}.jpg", id.key, id.epoch, id.seq),
    }
}

/// A picture as a document, with the device's own time: what its clock records say of it is told on
/// another topic, and corrected afterwards.
pub fn frame(picture: &Picture, digest: &str, ingest: Ingest) -> FrameDocument {
    let captured_ns = nanoseconds(picture.stamp.captured_at);
    let kind = if picture.crop.is_some() { "crop" } else { "frame" };
    FrameDocument {
        id: picture.id_text(),
        kind: kind.to_owned(),
        observation: picture.id.to_string(),
        device: picture.id.key.device.to_string(),
        camera: picture.id.key.camera.to_string(),
        captured_at: date(captured_ns),
        captured_ns,
        epoch: picture.id.epoch.to_string(),
        mono_us: signed(picture.stamp.mono_us),
        clock: picture.stamp.clock.as_str().to_owned(),
        corrected: None,
        width: pixels(picture.width),
        height: pixels(picture.height),
        redacted: picture.redacted.clone(),
        path: path(picture),
        bytes: signed(picture.jpeg.len() as u64),
        digest: digest.to_owned(),
        ingest,
    }
}
