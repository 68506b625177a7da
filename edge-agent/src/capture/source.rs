//! The elements of each kind of source, up to where decoding begins.
//!
//! As launch lines, to be tried by hand (`gst-launch-1.0 ... ! videoconvert ! autovideosink`):
//!
//! ```text
//! v4l2          v4l2src device=/dev/video0 io-mode=mmap ! image/jpeg,width=1280,height=720 ! decodebin
//! rtsp          rtspsrc location=rtsp://... protocols=tcp latency=200 ! decodebin
//! csi           nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),... ! nvvidconv
//! file          filesrc location=a.mp4 ! decodebin
//! uri           uridecodebin uri=https://...
//! test-pattern  videotestsrc is-live=true ! video/x-raw,format=I420,width=640,height=360
//! ```

use std::time::Duration;

use gstreamer as gst;
use gstreamer::element_factory::ElementBuilder;

use super::error::CaptureError;
use super::recording::open_file;
use super::rtsp::{self, Distrust, Limits};
use super::settings::{CsiSource, FileSource, RtspSource, Source, TestPatternSource, UriSource};
use super::v4l2::{self, V4l2Source};

/// The elements, and which of them decodes.
pub(super) struct Head {
    /// All of them, in order, to be added to the pipeline.
    pub elements: Vec<gst::Element>,
    /// Whether each is linked to the next at once; `rtspsrc` has no pads before it is connected.
    pub linked_later: bool,
    /// Whether the last one is a decoder whose pads come when the stream is known.
    pub decodes: bool,
    /// Of a network camera: what is wrong with its certificate.
    pub distrust: Option<Distrust>,
    /// Of a V4L2 camera: which one it is, and what it was told.
    pub opened: Option<v4l2::Opened>,
}

/// Builds the head of a pipeline, of a source that may be silent for so long.
pub(super) fn head(source: &Source, silence: Duration) -> Result<Head, CaptureError> {
    match source {
        Source::V4l2(v4l2) => head_v4l2(v4l2),
        Source::Rtsp(rtsp) => head_rtsp(rtsp, silence),
        Source::Csi(csi) => head_csi(csi),
        Source::File(file) => head_file(file),
        Source::Uri(uri) => head_uri(uri),
        Source::TestPattern(pattern) => head_pattern(pattern),
    }
}

/// What logs and errors call the source; never a secret.
pub fn name(source: &Source) -> String {
    match source {
        Source::V4l2(v4l2) => v4l2.title(),
        Source::Rtsp(rtsp) => rtsp.url.to_string(),
        Source::Csi(csi) => format!("the CSI camera {}", csi.sensor_id),
        Source::File(file) => file.path.display().to_string(),
        Source::Uri(uri) => uri.uri.to_string(),
        Source::TestPattern(_) => "the test pattern".to_owned(),
    }
}

/// A message of a library about the source, without what must not be shown.
pub(super) fn scrub(source: &Source, text: &str) -> String {
    match source {
        Source::Rtsp(rtsp) => rtsp.url.scrub(text),
        Source::Uri(uri) => uri.uri.scrub(text),
        Source::V4l2(_) | Source::Csi(_) | Source::File(_) | Source::TestPattern(_) => {
            text.to_owned()
        }
    }
}

pub(super) fn element(factory: &str) -> Result<ElementBuilder<'_>, CaptureError> {
    if gst::ElementFactory::find(factory).is_none() {
        return Err(CaptureError::ElementMissing { element: factory.to_owned() });
    }
    Ok(gst::ElementFactory::make(factory))
}

pub(super) fn finish(builder: ElementBuilder<'_>) -> Result<gst::Element, CaptureError> {
    builder.build().map_err(|error| CaptureError::ElementMissing { element: error.to_string() })
}

fn decodebin() -> Result<gst::Element, CaptureError> {
    // Without `expose-all-streams` the sound of a video is neither decoded nor waited for.
    let builder =
        element("decodebin")?.property("caps", video_caps()).property("expose-all-streams", false);
    finish(builder)
}

fn video_caps() -> gst::Caps {
    gst::Caps::builder("video/x-raw").any_features().build()
}

fn head_v4l2(source: &V4l2Source) -> Result<Head, CaptureError> {
    let opened = v4l2::opening::open(source)
        .map_err(|error| CaptureError::Device { source_name: source.title(), source: error })?;
    let io_mode = if opened.streams { "mmap" } else { "rw" };
    let camera = element("v4l2src")?
        .property("device", &opened.device)
        .property_from_str("io-mode", io_mode);
    let filter = element("capsfilter")?.property("caps", &opened.caps);
    let elements = vec![finish(camera)?, finish(filter)?, decodebin()?];
    let opened = Some(opened);
    Ok(Head { elements, linked_later: false, decodes: true, distrust: None, opened })
}

fn head_rtsp(rtsp: &RtspSource, silence: Duration) -> Result<Head, CaptureError> {
    let (receiver, distrust) = rtsp::receiver(rtsp, Limits::within(silence))?;
    let elements = vec![receiver, decodebin()?];
    Ok(Head { elements, linked_later: true, decodes: true, distrust: Some(distrust), opened: None })
}

fn head_csi(csi: &CsiSource) -> Result<Head, CaptureError> {
    let sensor = i32::try_from(csi.sensor_id).unwrap_or(i32::MAX);
    let camera = finish(element("nvarguscamerasrc")?.property("sensor-id", sensor))?;
    // The camera's processor writes where only Nvidia's own elements can read.
    let caps = gst::Caps::builder("video/x-raw")
        .features(["memory:NVMM"])
        .field("width", csi.width_px as i32)
        .field("height", csi.height_px as i32)
        .field("framerate", gst::Fraction::new(csi.fps as i32, 1))
        .build();
    let mode = finish(element("capsfilter")?.property("caps", caps))?;
    let fetch = finish(element("nvvidconv")?)?;
    let readable = gst::Caps::builder("video/x-raw").field("format", "I420").build();
    let filter = finish(element("capsfilter")?.property("caps", readable))?;
    let elements = vec![camera, mode, fetch, filter];
    Ok(Head { elements, linked_later: false, decodes: false, distrust: None, opened: None })
}

fn head_file(file: &FileSource) -> Result<Head, CaptureError> {
    // GStreamer's own message for a missing file says less than this.
    open_file(&file.path).map_err(|source| CaptureError::File {
        field: "source.file.path",
        path: file.path.clone(),
        source,
    })?;
    let reader = finish(element("filesrc")?.property("location", &file.path))?;
    Ok(Head {
        elements: vec![reader, decodebin()?],
        linked_later: false,
        decodes: true,
        distrust: None,
        opened: None,
    })
}

fn head_uri(uri: &UriSource) -> Result<Head, CaptureError> {
    let builder = element("uridecodebin")?
        .property("uri", uri.uri.expose())
        .property("caps", video_caps())
        .property("expose-all-streams", false);
    Ok(Head {
        elements: vec![finish(builder)?],
        linked_later: false,
        decodes: true,
        distrust: None,
        opened: None,
    })
}

fn head_pattern(pattern: &TestPatternSource) -> Result<Head, CaptureError> {
    let frames = pattern.frames.and_then(|frames| i32::try_from(frames).ok()).unwrap_or(-1);
    let maker = element("videotestsrc")?
        .property("is-live", true)
        .property("num-buffers", frames)
        .property_from_str("pattern", pattern.pattern.nick());
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", pattern.width_px as i32)
        .field("height", pattern.height_px as i32)
        .field("framerate", gst::Fraction::new(pattern.fps as i32, 1))
        .build();
    let filter = finish(element("capsfilter")?.property("caps", caps))?;
    Ok(Head {
        elements: vec![finish(maker)?, filter],
        linked_later: false,
        decodes: false,
        distrust: None,
        opened: None,
    })
}
