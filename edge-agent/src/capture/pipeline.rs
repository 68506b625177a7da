//! One opened source: a GStreamer pipeline that ends in planes.
//!
//! ```text
//! <source> ! decodebin ! videoconvert ! <orientation> ! appsink caps=video/x-raw,format=I420
//! ```
//! `videoconvert` passes I420 on untouched, which is what the software decoders give; what another
//! decoder gives is converted there, once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::decoder::chain::Turn;
use super::decoder::decoding::{Decoding, link_when_known};
use super::decoder::{DecoderOrder, DecoderWish, Decoders};
use super::error::CaptureError;
use super::orientation::{self, PictureSettings};
use super::planes::Planes;
use super::rtsp::{self, Distrust, Limits};
use super::settings::{Pace, Source};
use super::source;
use super::standstill::Standstill;
use super::v4l2::Opened;

/// Frames that wait decoded. More would only hold memory: who is too slow skips or waits anyway.
const DECODED_WAITING: u32 = 2;

/// After an error, what was decoded of a recording before it still comes out; the wait for it.
const DRAIN: Duration = Duration::from_secs(2);

/// How often it is looked whether a V4L2 camera is still plugged in.
const PLUG_LOOK: Duration = Duration::from_millis(500);

/// For so long a source may be silent that is no camera of the agent: as the settings' default.
const OPENED_BY_HAND: Duration = Duration::from_secs(15);

/// A decoded frame.
#[derive(Debug)]
pub struct Picture {
    /// Its planes.
    pub planes: Planes,
    /// Its place in the stream, nanoseconds.
    pub media_time_ns: u64,
    /// How long ago a live source gave it; zero of a recording.
    pub age: Duration,
    /// Whether its planes lie in a buffer of the camera's driver, which then is not closed as long as
    /// anybody holds them.
    pub lent: bool,
}

/// What decodes a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// The element, if one is needed.
    pub element: Option<String>,
    /// Why it is that one, of a codec that has several.
    pub turn: Option<Turn>,
}

/// What a look at the pipeline gave.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Picture(Picture),
    /// Nothing yet.
    Nothing,
    /// The stream is over.
    End,
}

/// What is to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub source: Source,
    /// How its picture is turned and cut.
    pub picture: PictureSettings,
    pub decoders: Arc<Decoders>,
    /// What is told of the decoder.
    pub decoding: Arc<Decoding>,
    /// Of a recording that is gone on with: what is done of it.
    pub after_ns: Option<u64>,
    /// For so long it may be silent.
    pub silence: Duration,
}

/// A running pipeline. It is stopped when it is let go.
pub struct Pipeline {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
    bus: gst::Bus,
    source: Source,
    source_name: String,
    silence: Duration,
    decoding: Arc<Decoding>,
    distrust: Option<Distrust>,
    opened: Option<Opened>,
    looked: Instant,
    pictures: u64,
    last_media_time_ns: Option<u64>,
    failing: Option<Failing>,
    standstill: Standstill,
    /// What the driver said of the camera's signal, until it is asked for.
    signal: Option<bool>,
}

/// An error that was heard, while what was decoded before it still comes out.
struct Failing {
    error: CaptureError,
    since: Instant,
    /// Frames that came out since.
    pictures: u32,
}

impl Failing {
    fn new(error: CaptureError) -> Self {
        Self { error, since: Instant::now(), pictures: 0 }
    }

    /// Whether it is time to say so, when a frame is there and when none is. A camera is not waited
    /// for: what is wrong with it is to be said before it counts as silent.
    fn is_due(&self, live: bool, picture_there: bool, over: bool) -> bool {
        let decoder = matches!(self.error, CaptureError::DecoderFailed { .. });
        match picture_there {
            true => live || (decoder && self.pictures > DECODED_WAITING),
            // Another decoder is to take over at once.
            false => live || decoder || over || self.since.elapsed() >= DRAIN,
        }
    }
}

impl Pipeline {
    /// Opens a source and starts it, with these decoders or in the order of this machine. Of a
    /// recording that is gone on with, reading begins at the key frame before `after_ns`.
    pub fn open(
        source: &Source,
        decoder: Option<&DecoderOrder>,
        after_ns: Option<u64>,
    ) -> Result<Self, CaptureError> {
        Self::open_turned(source, decoder, &PictureSettings::default(), after_ns)
    }

    /// The same, with the picture in the form asked for.
    pub fn open_turned(
        source: &Source,
        decoder: Option<&DecoderOrder>,
        picture: &PictureSettings,
        after_ns: Option<u64>,
    ) -> Result<Self, CaptureError> {
        let wish = DecoderWish { order: decoder.cloned(), retry: vec![Duration::ZERO] };
        Self::open_as(&Opening {
            source: source.clone(),
            picture: *picture,
            decoders: Decoders::new(wish),
            decoding: Arc::default(),
            after_ns,
            silence: OPENED_BY_HAND,
        })
    }

    /// The same, with what is known of the decoders from before.
    pub(super) fn open_as(opening: &Opening) -> Result<Self, CaptureError> {
        let mut opened = Self::build(opening)?;
        match opening.after_ns {
            Some(place_ns) => {
                opened.set_state(gst::State::Paused)?;
                opened.wait_for_first_frame(&opening.decoders)?;
                opened.wind(place_ns, gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE)?;
                opened.set_state(gst::State::Playing)?;
            }
            None => opened.set_state(gst::State::Playing)?,
        }
        Ok(opened)
    }

    fn build(opening: &Opening) -> Result<Self, CaptureError> {
        gst::init().map_err(CaptureError::Initialise)?;
        let Opening { source, picture, decoders, decoding, silence, .. } = opening;
        decoders.check()?;
        let source_name = source::name(source);
        let head = source::head(source, *silence)?;
        let convert = source::finish(source::element("videoconvert")?)?;
        let sink = sink(in_real_time(source));
        orientation::watch_size(&convert, picture);
        let tail =
            [vec![convert.clone()], orientation::elements(picture)?, vec![sink.clone().upcast()]];
        let tail = tail.concat();
        let pipeline = gst::Pipeline::new();
        let failed = |step| CaptureError::Build { source_name: source_name.clone(), step };

        for element in head.elements.iter().chain(&tail) {
            pipeline.add(element).map_err(|_| failed("adding an element"))?;
        }
        gst::Element::link_many(&tail).map_err(|_| failed("linking the sink"))?;
        let last = head.elements.last().ok_or_else(|| failed("no element"))?;
        if head.decodes {
            decoding.begin(&pipeline, last, Arc::clone(decoders));
            link_when_known(last, &convert);
        } else {
            last.link(&convert).map_err(|_| failed("linking the source"))?;
        }
        for pair in head.elements.windows(2) {
            if head.linked_later {
                link_when_known(&pair[0], &pair[1]);
            } else {
                pair[0].link(&pair[1]).map_err(|_| failed("linking the source's parts"))?;
            }
        }
        let bus = pipeline.bus().ok_or_else(|| failed("no bus"))?;
        Ok(Self {
            pipeline,
            sink,
            bus,
            source: source.clone(),
            source_name,
            silence: *silence,
            decoding: Arc::clone(decoding),
            distrust: head.distrust,
            opened: head.opened,
            looked: Instant::now(),
            pictures: 0,
            last_media_time_ns: None,
            failing: None,
            standstill: Standstill::default(),
            signal: None,
        })
    }

    /// The next frame, waiting for it so long at most.
    ///
    /// What was decoded before an error comes first: of a recording that was cut off, all that is
    /// there.
    pub fn next(&mut self, wait: Duration) -> Result<Next, CaptureError> {
        if self.looked.elapsed() >= PLUG_LOOK {
            self.looked = Instant::now();
            self.check_plug()?;
        }
        let wait = gst::ClockTime::from_nseconds(u64::try_from(wait.as_nanos()).unwrap_or(0));
        let sample = self.sink.try_pull_sample(wait);
        // Before the messages: an error comes before the end that it brings about.
        let over = self.sink.is_eos();
        self.hear();
        if over || self.failing.is_some() {
            // A pulled camera shows first as an end or an error like any other.
            self.check_plug()?;
        }
        let live = is_live(&self.source);
        if let Some(failing) = self.failing.take_if(|it| it.is_due(live, sample.is_some(), over)) {
            return Err(failing.error);
        }
        if let Some(sample) = sample {
            if let Some(failing) = &mut self.failing {
                failing.pictures += 1;
            }
            return self.picture(&sample).map(Next::Picture);
        }
        match &self.failing {
            Some(_) => Ok(Next::Nothing),
            None if over && self.pictures == 0 => Err(CaptureError::NotVideo {
                source_name: self.source_name.clone(),
                why: "it ends without a picture".to_owned(),
            }),
            None if over => Ok(Next::End),
            None => self.nothing(),
        }
    }

    fn nothing(&mut self) -> Result<Next, CaptureError> {
        if let Some((element, why)) = self.decoding.silent(Instant::now()) {
            return Err(self.decoder_failed(element, why));
        }
        // A camera that is silent is the watch's concern.
        if !is_live(&self.source) && self.standstill.is_sure(&self.pipeline) {
            let why = "GStreamer stopped reading it without saying why".to_owned();
            return Err(self.unreadable(why));
        }
        Ok(Next::Nothing)
    }

    /// Asked of the kernel: some drivers let a reader wait for ever for a camera that is gone.
    fn check_plug(&self) -> Result<(), CaptureError> {
        match &self.opened {
            Some(opened) if opened.plug.is_gone() => {
                Err(CaptureError::Unplugged { source_name: self.source_name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Of a V4L2 camera: which one it is, and what it was told.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// What decodes, once frames came.
    pub fn in_use(&self) -> InUse {
        self.decoding.in_use()
    }

    /// Frames it gave since it was opened.
    pub fn pictures(&self) -> u64 {
        self.pictures
    }

    /// How long the source says that it is.
    pub fn duration_ns(&self) -> Option<u64> {
        self.pipeline.query_duration::<gst::ClockTime>().map(gst::ClockTime::nseconds)
    }

    /// Whether the camera's input has a signal, if that changed: `v4l2src` asks its driver.
    pub fn signal(&mut self) -> Option<bool> {
        self.signal.take()
    }

    /// Hears all that the pipeline says. Nothing else may ask for one kind of message while it runs:
    /// a bus throws away whatever it passes over.
    fn hear(&mut self) {
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning, gst::MessageType::Info];
        while let Some(message) = self.bus.pop_filtered(&kinds) {
            match message.view() {
                // What follows the first one comes of it.
                gst::MessageView::Error(error) if self.failing.is_none() => {
                    self.failing = Some(Failing::new(self.error(error)));
                }
                gst::MessageView::Warning(it) if it.error().message() == "Signal lost" => {
                    self.signal = Some(false);
                }
                gst::MessageView::Info(it) if it.error().message() == "Signal recovered" => {
                    self.signal = Some(true);
                }
                _ => {}
            }
        }
    }

    /// Begins again.
    pub fn rewind(&mut self) -> Result<(), CaptureError> {
        self.wind(0, gst::SeekFlags::KEY_UNIT)?;
        self.last_media_time_ns = None;
        Ok(())
    }

    fn wind(&self, to_ns: u64, flags: gst::SeekFlags) -> Result<(), CaptureError> {
        let to = gst::ClockTime::from_nseconds(to_ns);
        self.pipeline.seek_simple(gst::SeekFlags::FLUSH | flags, to).map_err(|_| {
            CaptureError::Wind { source_name: self.source_name.clone(), to_ms: to_ns / 1_000_000 }
        })
    }

    fn set_state(&mut self, state: gst::State) -> Result<(), CaptureError> {
        if self.pipeline.set_state(state).is_ok() {
            return Ok(());
        }
        self.hear();
        let said = self.failing.take().map(|failing| failing.error);
        Err(said.unwrap_or_else(|| CaptureError::Unreachable {
            source_name: self.source_name.clone(),
            why: "it does not start".to_owned(),
        }))
    }

    /// A pipeline can be wound only once its first frame was decoded.
    fn wait_for_first_frame(&self, decoders: &Decoders) -> Result<(), CaptureError> {
        let limit = gst::ClockTime::from_seconds(10);
        let kinds = [gst::MessageType::AsyncDone, gst::MessageType::Error, gst::MessageType::Eos];
        loop {
            match self.bus.timed_pop_filtered(limit, &kinds) {
                Some(message) => match message.view() {
                    gst::MessageView::Error(error) => return Err(self.error(error)),
                    _ => return Ok(()),
                },
                None if decoders.are_probed() => {}
                None => {
                    return Err(CaptureError::Stalled {
                        source_name: self.source_name.clone(),
                        silence: Duration::from_secs(10),
                    });
                }
            }
        }
    }

    fn error(&self, message: &gst::message::Error) -> CaptureError {
        let (source_name, error) = (self.source_name.clone(), message.error());
        let why = source::scrub(&self.source, error.message());
        if let Some(unusable) = self.decoding.unusable() {
            return unusable;
        }
        if let Some(element) = self.decoding.blamed(message) {
            return self.decoder_failed(element, why);
        }
        let explained = match &self.source {
            Source::Rtsp(rtsp) => {
                let limits = Limits::within(self.silence);
                rtsp::explain(rtsp, &error, self.distrust.as_ref(), limits)
            }
            _ => None,
        };
        if let Some(explained) = explained {
            explained
        } else if error.kind::<gst::LibraryError>() == Some(gst::LibraryError::Settings) {
            CaptureError::Picture { source_name, why }
        } else if error.kind::<gst::ResourceError>().is_some() {
            CaptureError::Unreachable { source_name, why }
        } else {
            self.unreadable(why)
        }
    }

    fn unreadable(&self, why: String) -> CaptureError {
        let source_name = self.source_name.clone();
        match self.pictures {
            0 => CaptureError::NotVideo { source_name, why },
            _ => CaptureError::Broken { source_name, why },
        }
    }

    fn decoder_failed(&self, element: String, why: String) -> CaptureError {
        CaptureError::DecoderFailed { source_name: self.source_name.clone(), element, why }
    }

    fn picture(&mut self, sample: &gst::Sample) -> Result<Picture, CaptureError> {
        let failed = |source| CaptureError::Frame { source_name: self.source_name.clone(), source };
        let info = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok());
        let (Some(info), Some(buffer)) = (info, sample.buffer_owned()) else {
            return Err(failed(super::planes::PlanesError::Map(gst::glib::bool_error!(
                "a sample without caps or buffer"
            ))));
        };
        let pts = buffer.pts();
        let planes = Planes::map(buffer, &info).map_err(failed)?;
        let (media_time_ns, age) = self.times(sample, pts);
        self.pictures += 1;
        self.standstill.moved();
        self.last_media_time_ns = Some(media_time_ns);
        // All other formats are converted, into memory of this program.
        let lent = self.opened.as_ref().is_some_and(|opened| opened.mode.is_i420());
        Ok(Picture { planes, media_time_ns, age, lent })
    }

    fn times(&self, sample: &gst::Sample, pts: Option<gst::ClockTime>) -> (u64, Duration) {
        let segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>());
        let stream_time = segment.and_then(|s| s.to_stream_time(pts));
        // A still has no time, and a bare H.264 stream may lack it: each frame then stands just
        // behind the one before.
        let media_time_ns = match (stream_time, self.last_media_time_ns) {
            (Some(time), _) => time.nseconds(),
            (None, Some(last)) => last + 1,
            (None, None) => 0,
        };
        let now = self.pipeline.current_running_time();
        let made = segment.and_then(|s| s.to_running_time(pts));
        let age = match (now, made) {
            (Some(now), Some(made)) if is_live(&self.source) => now.saturating_sub(made),
            _ => gst::ClockTime::ZERO,
        };
        (media_time_ns, Duration::from_nanos(age.nseconds()))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(target: "capture", source = %self.source_name, "the pipeline does not stop");
        }
    }
}

fn is_live(source: &Source) -> bool {
    matches!(source, Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) | Source::TestPattern(_))
}

/// Whether the sink has to keep the stream's pace: a live source keeps its own.
fn in_real_time(source: &Source) -> bool {
    match source {
        Source::File(file) => file.pace == Pace::Timestamps,
        Source::Uri(uri) => uri.pace == Pace::Timestamps,
        Source::V4l2(_) | Source::Rtsp(_) | Source::Csi(_) | Source::TestPattern(_) => false,
    }
}

fn sink(sync: bool) -> gst_app::AppSink {
    let caps = gst::Caps::builder("video/x-raw").field("format", "I420").build();
    let sink = gst_app::AppSink::builder()
        .caps(&caps)
        .max_buffers(DECODED_WAITING)
        .drop(false)
        .sync(sync)
        // With QoS a decoder leaves frames out when the sink is late: a loss that nobody counts.
        .qos(false)
        .enable_last_sample(false)
        .build();
    take_frames_as_they_lie(&sink);
    sink
}

/// Says that frames may have gaps between their rows, which the element itself does not: FFmpeg's
/// decoders, whose frames have them, would else copy each frame, looked at or not.
fn take_frames_as_they_lie(sink: &gst_app::AppSink) {
    let Some(pad) = sink.static_pad("sink") else {
        return;
    };
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
        match info.query_mut().map(|query| query.view_mut()) {
            Some(gst::QueryViewMut::Allocation(query)) => {
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                gst::PadProbeReturn::Handled
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}
