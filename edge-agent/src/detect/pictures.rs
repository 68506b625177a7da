//! Pictures as they are published: redacted, encoded, counted.

use std::time::Instant;

use picket_service::logging::chain;
use picket_wire::Picture;
use picket_wire::observation::{Detection, FrameFate, Reason};

use super::best_crop::BestCrop;
use super::camera::Camera;
use super::jpeg::{Encoder, Jpeg, JpegError};
use super::look::{Shown, brightness};
use super::privacy::{Masked, Redacted};
use super::quality::sharpness;
use crate::capture::Frame;
use crate::capture::planes::PlanesError;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It may not be shown as it is.
    #[error("what must not be seen cannot be made unrecognisable")]
    Redact(#[source] PlanesError),
    /// There is no JPEG.
    #[error("the picture cannot be encoded")]
    Encode(#[source] JpegError),
    /// Only of one that is to be shown: no width makes it small enough.
    #[error("the picture has more than {SHOWN_BYTES} bytes at any width")]
    TooLarge,
}

impl PictureError {
    /// As gap records have it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Redact(_) => Reason::REDACT_FAILED.into(),
            Self::Encode(_) | Self::TooLarge => Reason::ENCODE_FAILED.into(),
        }
    }
}

/// Width, quality and most bytes of a picture for whoever looks along: the first width at which it
/// is small enough is taken.
const SHOWN_WIDTHS_PX: [u32; 3] = [1280, 640, 320];
const SHOWN_QUALITY: u8 = 80;
const SHOWN_BYTES: usize = 512 * 1024;

/// Makes pictures.
pub(super) struct Pictures {
    pub encoder: Encoder,
}

impl Pictures {
    /// The picture of a frame that has this fate. An error is counted and logged here.
    pub fn whole(
        &mut self,
        camera: &Camera,
        frame: &Frame,
        masked: &Masked,
        fate: FrameFate,
    ) -> Result<Picture, PictureError> {
        let made = timed(|| {
            let redacted = camera.redactor.redact(masked).map_err(PictureError::Redact)?;
            let (width_px, quality) = (camera.publish.width_px, camera.publish.quality);
            let encoded = self.encoder.encode(&redacted, width_px, quality);
            let jpeg = encoded.map_err(PictureError::Encode)?;
            Ok(picture(frame, None, jpeg, redacted.done()))
        });
        counted(camera, frame, fate, made)
    }

    /// Lets whoever looks along see a frame, which came at this time, with what was found in it.
    pub fn show(
        &mut self,
        camera: &Camera,
        masked: &Masked,
        redacted: Result<Redacted, PlanesError>,
        detections: &[Detection],
        at: Instant,
    ) {
        let redacted = redacted.map_err(PictureError::Redact);
        let picture = redacted.and_then(|redacted| self.outlined(&redacted, detections));
        let planes = masked.planes();
        camera.eyepiece.show(Shown {
            at,
            size_px: (planes.width(), planes.height()),
            brightness: brightness(planes),
            sharpness: sharpness(planes.y()),
            found: detections.iter().map(Into::into).collect(),
            picture: picture.map_err(|error| chain(&error)),
        });
    }

    fn outlined(
        &mut self,
        redacted: &Redacted,
        detections: &[Detection],
    ) -> Result<(Vec<u8>, &'static str), PictureError> {
        let boxes: Vec<_> = detections.iter().map(|detection| detection.box_px).collect();
        let drawn = redacted.outlined(&boxes).map_err(PictureError::Redact)?;
        for width_px in SHOWN_WIDTHS_PX {
            let jpeg = self.encoder.encode(&drawn, Some(width_px), SHOWN_QUALITY);
            let Jpeg { bytes, .. } = jpeg.map_err(PictureError::Encode)?;
            if bytes.len() <= SHOWN_BYTES {
                return Ok((bytes, drawn.done()));
            }
        }
        Err(PictureError::TooLarge)
    }

    /// Cuts the best face of a frame out, if it is better than what its window has.
    pub fn keep_best(
        &mut self,
        camera: &mut Camera,
        frame: &Frame,
        masked: &Masked,
        detections: &[Detection],
    ) {
        let frame_px = (masked.planes().width(), masked.planes().height());
        let better = camera
            .best_crop
            .as_ref()
            .and_then(|best| Some((best.better(detections, frame_px)?, best.width_px())));
        let Some(((index, quality, part), width_px)) = better else { return };
        let made = timed(|| {
            let redacted = camera.redactor.redact(masked).map_err(PictureError::Redact)?;
            let encoded =
                self.encoder.encode_part(&redacted, part, width_px, camera.publish.quality);
            let jpeg = encoded.map_err(PictureError::Encode)?;
            Ok(picture(frame, u32::try_from(index).ok(), jpeg, redacted.done()))
        });
        // One that cannot be made leaves the window with the one before: none was promised.
        if let (Ok(crop), Some(best)) =
            (counted(camera, frame, FrameFate::Possible, made), &mut camera.best_crop)
        {
            BestCrop::keep(best, crop, quality);
        }
    }
}

fn picture(frame: &Frame, crop: Option<u32>, jpeg: Jpeg, redacted: &str) -> Picture {
    let Jpeg { width, height, bytes } = jpeg;
    let redacted = redacted.to_owned();
    Picture { id: frame.id.clone(), crop, stamp: frame.stamp, width, height, redacted, jpeg: bytes }
}

fn timed<T>(make: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let made = make();
    metrics::histogram!("picket_agent_detect_encode_seconds").record(began.elapsed().as_secs_f64());
    made
}

/// Counts and logs by what was to become of it: one that was only possible is no loss.
fn counted(
    camera: &Camera,
    frame: &Frame,
    fate: FrameFate,
    made: Result<Picture, PictureError>,
) -> Result<Picture, PictureError> {
    let (name, seq) = (&camera.name, frame.id.seq);
    match &made {
        Ok(_) => {
            metrics::counter!("picket_agent_detect_pictures_total", "camera" => name.to_string())
                .increment(1);
        }
        Err(error) => {
            metrics::counter!(
                "picket_agent_detect_pictures_failed_total",
                "camera" => name.to_string(), "reason" => error.reason().to_string(),
                "fate" => if fate == FrameFate::Published { "published" } else { "possible" }
            )
            .increment(1);
            let error = error as &dyn std::error::Error;
            match fate {
                FrameFate::Published => tracing::error!(
                    target: "detect", camera = %name, seq, error,
                    "camera {name}: the picture of frame {seq} is lost"
                ),
                FrameFate::Possible | FrameFate::Withheld => tracing::warn!(
                    target: "detect", camera = %name, seq, error,
                    "camera {name}: a picture of frame {seq}, which might have been published, \
                     cannot be made"
                ),
            }
        }
    }
    made
}
