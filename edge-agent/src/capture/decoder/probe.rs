//! Whether an element decodes, found out by letting it decode a sample.
//!
//! An element that GStreamer lists, and whose device even opens, may still refuse every stream, give
//! green pictures, or never return: all of that shows here, and not first with the camera's own
//! stream. That it decodes holds for the process, since probing a machine takes a second or two; that
//! it does not, for a minute: a device may be busy, or its driver not be loaded yet.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::codec::Codec;
use super::decoding;
use crate::capture::planes::Planes;

/// How long a decoder may take for the sample. Software takes milliseconds; a driver may load
/// firmware first.
const LIMIT: Duration = Duration::from_secs(5);

/// How long loading its plugin may take before that: a slow disk holds it, and others read there.
const LOADING_LIMIT: Duration = Duration::from_secs(30);

/// For so long an element that does not decode is not tried again.
const HOLDS: Duration = Duration::from_secs(60);

/// So many of the sample's eight frames must come out: some decoders hold the last ones back.
const ENOUGH: u32 = 4;

/// How far the mean luma of a frame may be off. A decoder may round, or take the other range of
/// values; one that gives garbage is further off.
const LUMA_TOLERANCE: u8 = 16;

/// What a try of an element gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It decodes the sample right.
    Usable,
    /// GStreamer does not have it.
    Missing,
    /// It gives an error, or too few frames.
    Fails(String),
    /// It gives frames that do not show what the sample does.
    Wrong(String),
    /// It does not return.
    Hangs,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("decodes"),
            Self::Missing => f.write_str("not installed"),
            Self::Fails(why) => write!(f, "does not decode a sample: {why}"),
            Self::Wrong(what) => write!(f, "decodes a sample wrongly: {what}"),
            Self::Hangs => write!(f, "does not return from decoding a sample"),
        }
    }
}

/// What a probe gave, and when.
#[derive(Debug, Default)]
struct Outcome(Option<(Probe, Instant)>);

impl Outcome {
    /// What it gave, while that holds.
    fn holding(&self, now: Instant) -> Option<&Probe> {
        let (probe, at) = self.0.as_ref()?;
        (*probe == Probe::Usable || now.saturating_duration_since(*at) < HOLDS).then_some(probe)
    }
}

/// An element, and the media type that it is to decode.
type Tried = (String, &'static str);

/// What probing an element gives, or gave before in this process.
pub fn known(element: &str, codec: &'static Codec) -> Probe {
    static KNOWN: Mutex<BTreeMap<Tried, Arc<Mutex<Outcome>>>> = Mutex::new(BTreeMap::new());
    let place = Arc::clone(lock(&KNOWN).entry((element.to_owned(), codec.media)).or_default());
    // Cameras that ask for the same element wait for one probe; others do not.
    let mut outcome = lock(&place);
    if let Some(probe) = outcome.holding(Instant::now()) {
        return probe.clone();
    }
    let probe = anew(element, codec).recv().unwrap_or(Probe::Hangs);
    *outcome = Outcome(Some((probe.clone(), Instant::now())));
    probe
}

/// The probes that run, and when each hangs: each has a thread.
static RUNNING: Mutex<BTreeMap<u64, (Tried, Instant)>> = Mutex::new(BTreeMap::new());

/// A probe that runs, until it is let go.
struct Running(u64);

impl Running {
    fn begin(tried: Tried) -> Self {
        let mut running = lock(&RUNNING);
        let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
        running.insert(number, (tried, Instant::now() + LOADING_LIMIT));
        Self(number)
    }

    fn has_loaded(&self) {
        if let Some((_, hangs_at)) = lock(&RUNNING).get_mut(&self.0) {
            *hangs_at = Instant::now() + LIMIT;
        }
    }

    fn hangs(tried: &Tried) -> bool {
        let now = Instant::now();
        lock(&RUNNING).values().any(|(other, hangs_at)| other == tried && now >= *hangs_at)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&RUNNING).remove(&self.0);
    }
}

/// What is held here is replaced whole: a panic elsewhere leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probes an element anew, and gives the answer when it is there: after the time limits at the
/// latest. A probe that hangs keeps its thread; while it does, no other is begun.
pub fn anew(element: &str, codec: &'static Codec) -> Receiver<Probe> {
    let (tell, answer) = bounded(1);
    let tried = (element.to_owned(), codec.media);
    if Running::hangs(&tried) {
        let _ = tell.send(Probe::Hangs);
        return answer;
    }
    let judged = tell.clone();
    let watch = move || {
        let (done, outcome) = bounded(1);
        let (tell_loaded, loaded) = bounded(1);
        let probing = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
            let running = Running::begin(tried.clone());
            let probe = load(&tried.0, codec).and_then(|factory| {
                running.has_loaded();
                // Nobody listens any more after the time limits.
                let _ = tell_loaded.send(());
                decode_sample(factory, codec)
            });
            drop(running);
            let _ = done.send(probe.unwrap_or_else(|failed| failed));
        });
        let probe = match probing {
            Ok(_) if loaded.recv_timeout(LOADING_LIMIT) == Err(RecvTimeoutError::Timeout) => {
                Probe::Hangs
            }
            Ok(_) => outcome.recv_timeout(LIMIT).unwrap_or(Probe::Hangs),
            Err(error) => Probe::Fails(format!("no thread: {error}")),
        };
        let _ = judged.send(probe);
    };
    if let Err(error) = std::thread::Builder::new().name("probe-watch".to_owned()).spawn(watch) {
        let _ = tell.send(Probe::Fails(format!("no thread: {error}")));
    }
    answer
}

/// Loads the plugins of an element and of what may stand before it.
fn load(element: &str, codec: &'static Codec) -> Result<gst::ElementFactory, Probe> {
    let factory = gst::ElementFactory::find(element).ok_or(Probe::Missing)?;
    let caps: gst::Caps = codec.sample_caps.parse().map_err(failed)?;
    decoding::make_eligible(&factory);
    for factory in decoding::candidates(&caps, Some(element)) {
        // Of the others, what cannot be loaded is not used either.
        let _ = factory.load();
    }
    factory.load().map_err(failed)
}

fn failed(error: gst::glib::BoolError) -> Probe {
    Probe::Fails(error.to_string())
}

fn decode_sample(factory: gst::ElementFactory, codec: &'static Codec) -> Result<Probe, Probe> {
    let pipeline = gst::Pipeline::new();
    let sink = build(&pipeline, &factory, codec).map_err(failed)?;
    let probe = match pipeline.set_state(gst::State::Playing) {
        Ok(_) => look_at_frames(&pipeline, &sink, codec),
        Err(_) => Probe::Fails("it does not start".to_owned()),
    };
    match pipeline.set_state(gst::State::Null) {
        Ok(_) => Ok(probe),
        Err(_) => Err(Probe::Fails("it does not stop".to_owned())),
    }
}

/// The same way from the parser to readable planes as a camera's stream takes.
fn build(
    pipeline: &gst::Pipeline,
    factory: &gst::ElementFactory,
    codec: &'static Codec,
) -> Result<gst_app::AppSink, gst::glib::BoolError> {
    let caps: gst::Caps = codec.sample_caps.parse()?;
    let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
    let bin = gst::ElementFactory::make("decodebin").build()?;
    let convert = gst::ElementFactory::make("videoconvert").build()?;
    let raw = gst::Caps::builder("video/x-raw").field("format", "I420").build();
    let sink = gst_app::AppSink::builder().caps(&raw).sync(false).build();
    let name = factory.name().to_string();
    let media = codec.media;
    decoding::keep_to(&bin, move |caps| {
        let this = caps.structure(0).is_some_and(|structure| structure.name() == media);
        decoding::candidates(caps, this.then_some(&*name))
    });
    pipeline.add_many([source.upcast_ref(), &bin, &convert, sink.upcast_ref()])?;
    source.link(&bin)?;
    convert.link(&sink)?;
    decoding::link_when_known(&bin, &convert);
    for number in 0..codec.repeat {
        let mut buffer = gst::Buffer::from_slice(codec.sample);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::from_mseconds(40 * number as u64));
        }
        // Before the start the source only keeps what it is given.
        let _ = source.push_buffer(buffer);
    }
    let _ = source.end_of_stream();
    Ok(sink)
}

fn look_at_frames(
    pipeline: &gst::Pipeline,
    sink: &gst_app::AppSink,
    codec: &'static Codec,
) -> Probe {
    let bus = pipeline.bus();
    let mut frames = 0;
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(50)) {
            match mean_luma(&sample) {
                Some(luma) if luma.abs_diff(codec.luma) <= LUMA_TOLERANCE => frames += 1,
                Some(luma) => {
                    let expected = codec.luma;
                    return Probe::Wrong(format!("mean luma {luma} instead of {expected}"));
                }
                None => return Probe::Wrong("not 320x240 pixels, or not readable".to_owned()),
            }
            continue;
        }
        let error = bus.as_ref().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        if let Some(gst::MessageView::Error(error)) = error.as_ref().map(|message| message.view()) {
            return Probe::Fails(error.error().message().to_owned());
        }
        if sink.is_eos() {
            break;
        }
    }
    if frames >= ENOUGH {
        return Probe::Usable;
    }
    Probe::Fails(format!("{frames} frames of the eight it was given"))
}

fn mean_luma(sample: &gst::Sample) -> Option<u8> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let planes = Planes::map(sample.buffer_owned()?, &info).ok()?;
    if (planes.width(), planes.height()) != (320, 240) {
        return None;
    }
    let luma = planes.y();
    let rows = luma.data.chunks(luma.stride).take(luma.height as usize);
    let sum: u64 = rows.flat_map(|row| &row[..luma.width as usize]).map(|&y| u64::from(y)).sum();
    u8::try_from(sum / (u64::from(luma.width) * u64::from(luma.height))).ok()
}

#[cfg(test)]
mod tests {
    use super::super::codec::CODECS;
    use super::*;

    #[test]
    fn software_decodes_the_sample_of_every_codec() {
        gst::init().unwrap();
        for (codec, element) in CODECS.iter().zip(["avdec_h264", "avdec_h265", "jpegdec"]) {
            assert_eq!(known(element, codec), Probe::Usable, "{element}");
        }
    }

    #[test]
    fn that_an_element_decodes_holds_for_good_and_that_it_does_not_for_a_minute() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(59), now + Duration::from_secs(61));
        let failed = Outcome(Some((Probe::Fails("busy".to_owned()), now)));
        assert!(failed.holding(soon).is_some());
        assert_eq!(failed.holding(later), None);
        let usable = Outcome(Some((Probe::Usable, now)));
        assert_eq!(usable.holding(later), Some(&Probe::Usable));
        assert_eq!(Outcome::default().holding(now), None);
    }

    #[test]
    fn an_element_that_is_missing_or_takes_another_codec_is_not_usable() {
        gst::init().unwrap();
        assert_eq!(known("nosuchdec", &CODECS[0]), Probe::Missing);
        assert!(matches!(known("avdec_h265", &CODECS[0]), Probe::Fails(_)));
    }
}
