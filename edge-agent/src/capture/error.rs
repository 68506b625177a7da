//! What can go wrong between a camera and its frames.

use std::path::PathBuf;
use std::time::Duration;

use super::planes::PlanesError;
use super::v4l2::V4l2Error;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Open the source again after a while: it may come back.
    Retry,
    /// Give this source up: trying again gives the same.
    Stop,
}

/// The step that failed, and on what. Addresses are shown without their secrets.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// GStreamer does not start.
    #[error("cannot initialise GStreamer")]
    Initialise(#[source] gstreamer::glib::Error),
    /// GStreamer lacks an element.
    #[error("GStreamer has no element {element:?}: {}", install_hint(element))]
    ElementMissing {
        /// Which element.
        element: String,
    },
    /// The decoder asked for cannot be used.
    #[error("no decoder can be used (asked for: {element}): {why}")]
    DecoderUnusable {
        /// Which elements, or of which codec.
        element: String,
        /// Why not.
        why: String,
    },
    /// The decoder in use failed. Another may take over.
    #[error("the decoder {element} of {source_name} failed: {why}")]
    DecoderFailed {
        /// Of which source.
        source_name: String,
        /// Which element.
        element: String,
        /// What it says, or what was seen.
        why: String,
    },
    /// The last decoder failed, too.
    #[error("{source_name} cannot be decoded: no decoder is left; {element} failed: {why}")]
    NoDecoderLeft {
        /// Of which source.
        source_name: String,
        /// Which element was the last.
        element: String,
        /// What it says, or what was seen.
        why: String,
    },
    /// The elements cannot be joined.
    #[error("cannot build the pipeline for {source_name}: {step}")]
    Build {
        /// Of which source.
        source_name: String,
        /// Which step.
        step: &'static str,
    },
    /// The file is not there, or cannot be read.
    #[error("{field}: cannot read {}", path.display())]
    File {
        /// Which setting names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can be read, and is no video.
    #[error("{source_name} is not a video that can be decoded: {why}")]
    NotVideo {
        /// Which source.
        source_name: String,
        /// What GStreamer says.
        why: String,
    },
    /// The source cannot be reached, or went away.
    #[error("{source_name} cannot be read: {why}")]
    Unreachable {
        /// Which source.
        source_name: String,
        /// What GStreamer says.
        why: String,
    },
    /// A network camera does not let us in.
    #[error("{source_name} refuses the login (401): {login}")]
    LoginRefused {
        /// Which source.
        source_name: String,
        /// Which login, without its secret.
        login: String,
    },
    /// A network camera has no stream at this path.
    #[error("{source_name} has no such stream (404): the path in its address is wrong")]
    NoSuchStream {
        /// Which source.
        source_name: String,
    },
    /// A network camera's certificate is not accepted.
    #[error("{source_name} is not trusted: its certificate was refused because {why}")]
    Distrusted {
        /// Which source.
        source_name: String,
        /// What is wrong with the certificate.
        why: String,
    },
    /// A call into GStreamer or a driver does not return.
    #[error("{source_name} is stuck: nothing was heard from its driver for {} s", silence.as_secs())]
    Stuck {
        /// Which source.
        source_name: String,
        /// For how long.
        silence: Duration,
    },
    /// Too many threads were left behind in its driver.
    #[error(
        "{source_name} is stuck: {threads} threads hang in its driver; it is opened again when one \
         of them comes back"
    )]
    AllStuck {
        /// Which source.
        source_name: String,
        /// How many.
        threads: usize,
    },
    /// The thread that read the source broke off.
    #[error("the thread that read {source_name} broke off; the log says where")]
    BrokeOff {
        /// Which source.
        source_name: String,
    },
    /// A V4L2 camera is not there, or cannot give what is asked.
    #[error("{source_name} cannot be opened")]
    Device {
        /// Which source.
        source_name: String,
        /// Why.
        source: V4l2Error,
    },
    /// A V4L2 camera is not there any more.
    #[error("{source_name} was unplugged")]
    Unplugged {
        /// Which source.
        source_name: String,
    },
    /// The picture cannot be brought into the form asked for.
    #[error("{source_name}: picture: {why}")]
    Picture {
        /// Which source.
        source_name: String,
        /// What does not fit.
        why: String,
    },
    /// The stream broke.
    #[error("{source_name} broke off: {why}")]
    Broken {
        /// Which source.
        source_name: String,
        /// What GStreamer says.
        why: String,
    },
    /// A live source ended.
    #[error("{source_name} ended, which a live source should not")]
    LiveEnded {
        /// Which source.
        source_name: String,
    },
    /// A live source is open and gives nothing.
    #[error("{source_name} gave no frame for {} s", silence.as_secs())]
    Stalled {
        /// Which source.
        source_name: String,
        /// For how long.
        silence: Duration,
    },
    /// A frame cannot be read.
    #[error("{source_name} gave a frame that cannot be read")]
    Frame {
        /// Which source.
        source_name: String,
        /// Why.
        source: PlanesError,
    },
    /// The source cannot go to a place in its recording.
    #[error("{source_name} cannot be wound to {to_ms} ms")]
    Wind {
        /// Which source.
        source_name: String,
        /// Where to.
        to_ms: u64,
    },
    /// The camera's thread cannot be started.
    #[error("cannot start the thread of camera {camera}")]
    Thread {
        /// Which camera.
        camera: String,
        /// Why.
        source: std::io::Error,
    },
}

impl CaptureError {
    /// What to do about it where the source is read once: a live one is opened again whatever it
    /// was, since a person may see to the camera meanwhile.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unreachable { .. }
            | Self::LoginRefused { .. }
            | Self::NoSuchStream { .. }
            | Self::Distrusted { .. }
            | Self::DecoderFailed { .. }
            | Self::Stuck { .. }
            | Self::AllStuck { .. }
            | Self::Device { .. }
            | Self::Unplugged { .. }
            | Self::Stalled { .. }
            | Self::LiveEnded { .. } => Advice::Retry,
            Self::Initialise(_)
            | Self::Thread { .. }
            | Self::ElementMissing { .. }
            | Self::DecoderUnusable { .. }
            | Self::NoDecoderLeft { .. }
            | Self::NotVideo { .. }
            | Self::Build { .. }
            | Self::File { .. }
            | Self::BrokeOff { .. }
            | Self::Picture { .. }
            | Self::Broken { .. }
            | Self::Frame { .. }
            | Self::Wind { .. } => Advice::Stop,
        }
    }

    /// Whether a recording is over with it: its content breaks off, and is the same at every try.
    /// Anything else, such as a disk that cannot be read, leaves a rest that can still be read.
    pub fn ends_a_recording(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// What to install where an element is missing, by Debian's names.
fn install_hint(element: &str) -> &'static str {
    match element {
        "nvarguscamerasrc" | "nvvidconv" | "nvv4l2decoder" | "nvjpegdec" => {
            "it comes with a Jetson's JetPack, in the package nvidia-l4t-gstreamer"
        }
        "rtspsrc" | "v4l2src" => "install the package gstreamer1.0-plugins-good",
        "decodebin" | "uridecodebin" | "videoconvert" | "videotestsrc" => {
            "install the package gstreamer1.0-plugins-base"
        }
        _ => "is its plugin installed?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_broken_content_is_the_end_of_a_recording() {
        let (source_name, why) = ("a.mp4".to_owned(), "it says".to_owned());
        let broken = CaptureError::Broken { source_name: source_name.clone(), why: why.clone() };
        assert!(broken.ends_a_recording());
        let unreadable = CaptureError::Unreachable { source_name: source_name.clone(), why };
        assert!(!unreadable.ends_a_recording());
        assert!(!CaptureError::Wind { source_name, to_ms: 1 }.ends_a_recording());
        let (source_name, why) = ("a.mp4".to_owned(), "it says".to_owned());
        let left = CaptureError::NoDecoderLeft { source_name, element: "dec".to_owned(), why };
        assert!(!left.ends_a_recording());
    }
}
