//! The decoder of one opened source: which it is, and whether it still gives what it should.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::chain::Turn;
use super::{Decoders, codec};
use crate::capture::error::CaptureError;
use crate::capture::pipeline::InUse;

/// A decoder that took so many frames that it can decode, and gave none...
const SILENT_FRAMES: u32 = 50;
/// ...for so long, has failed. Decoders hold back a few frames, never so many.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// What decodes a source, as far as it is known.
#[derive(Debug, Default)]
pub struct Decoding(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The decoder whose turn it was, of a codec that has several.
    turn: Option<Turn>,
    /// That there is none.
    unusable: Option<CaptureError>,
    element: Option<gst::glib::WeakRef<gst::Element>>,
    name: Option<String>,
    /// Frames that it gave.
    given: u64,
    /// Whether what comes can be decoded: from a key frame on, until something is missing.
    decodable: bool,
    /// Whether it took a frame since it gave the last one.
    holds: bool,
    /// Decodable frames that it took since it gave the last one, and since when.
    taken: Option<(u32, Instant)>,
}

impl Decoding {
    /// Lets a decoding bin use the decoders whose turn it is, and watches the one that it uses.
    pub fn begin(
        self: &Arc<Self>,
        pipeline: &gst::Pipeline,
        decodebin: &gst::Element,
        decoders: Arc<Decoders>,
    ) {
        let choosing = Arc::clone(self);
        keep_to(decodebin, move |caps| choosing.choose(&decoders, caps));
        let watching = Arc::clone(self);
        pipeline.connect_deep_element_added(move |_, _, element| {
            if element.factory().is_some_and(|factory| codec::decodes_video(&factory)) {
                keep_to_one_thread(element);
                watching.watch(element);
            }
        });
    }

    fn choose(&self, decoders: &Decoders, caps: &gst::Caps) -> Vec<gst::ElementFactory> {
        let chosen = match decoders.turn(caps) {
            None => return candidates(caps, None),
            Some(Ok(turn)) => turn,
            Some(Err(error)) => {
                self.lock().unusable = Some(error);
                return Vec::new();
            }
        };
        if let Some(factory) = gst::ElementFactory::find(&chosen.element) {
            make_eligible(&factory);
        }
        let found = candidates(caps, Some(&chosen.element));
        self.lock().turn = Some(chosen);
        found
    }

    /// A bin that decodes holds elements that decode: the outer one is meant, and comes first.
    fn watch(self: &Arc<Self>, element: &gst::Element) {
        let mut inner = self.lock();
        let known = inner.element.as_ref().and_then(gst::glib::WeakRef::upgrade);
        if known.is_some_and(|known| element.has_as_ancestor(&known)) {
            return;
        }
        inner.element = Some(element.downgrade());
        inner.name = element.factory().map(|factory| factory.name().to_string());
        (inner.given, inner.decodable, inner.holds, inner.taken) = (0, false, false, None);
        drop(inner);
        let (taken, given) = (Arc::downgrade(self), Arc::downgrade(self));
        for pad in element.sink_pads() {
            let taken = taken.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let (Some(decoding), Some(buffer)) = (taken.upgrade(), info.buffer()) {
                    decoding.took(buffer.flags(), Instant::now());
                }
                gst::PadProbeReturn::Ok
            });
        }
        for pad in element.src_pads() {
            let given = given.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                if let Some(decoding) = given.upgrade() {
                    decoding.gave();
                }
                gst::PadProbeReturn::Ok
            });
        }
    }

    fn took(&self, flags: gst::BufferFlags, now: Instant) {
        let mut inner = self.lock();
        inner.holds = true;
        // Where a stream was joined midway, or lost something, nothing can be decoded before the
        // next key frame.
        if !flags.contains(gst::BufferFlags::DELTA_UNIT) {
            inner.decodable = true;
        } else if flags.contains(gst::BufferFlags::DISCONT) {
            (inner.decodable, inner.taken) = (false, None);
        }
        if inner.decodable {
            let (frames, since) = inner.taken.unwrap_or((0, now));
            inner.taken = Some((frames.saturating_add(1), since));
        }
    }

    fn gave(&self) {
        let mut inner = self.lock();
        inner.given += 1;
        (inner.decodable, inner.holds, inner.taken) = (true, false, None);
    }

    /// What decodes.
    pub fn in_use(&self) -> InUse {
        let inner = self.lock();
        InUse { element: inner.name.clone(), turn: inner.turn.clone() }
    }

    /// The decoder, if a thread that does not return may hang in it: it never gave a frame, or holds
    /// one. A source that hangs leaves it with nothing.
    pub fn may_hang(&self) -> Option<String> {
        let inner = self.lock();
        let turn = inner.turn.as_ref()?;
        (inner.given == 0 || inner.holds).then(|| turn.element.clone())
    }

    /// Why there is none.
    pub fn unusable(&self) -> Option<CaptureError> {
        self.lock().unusable.take()
    }

    /// Whether a message of the pipeline tells of the decoder: it comes from it, or from around it
    /// because the decoder was not taken, or ended the stream. Then, which decoder it is.
    pub fn blamed(&self, message: &gst::message::Error) -> Option<String> {
        let inner = self.lock();
        let chosen = inner.turn.as_ref()?.element.clone();
        let element = inner.element.as_ref().and_then(gst::glib::WeakRef::upgrade);
        let from_within = element.zip(message.src()).is_some_and(|(element, src)| {
            src == element.upcast_ref::<gst::Object>() || src.has_as_ancestor(&element)
        });
        let error = message.error();
        let not_taken = error.matches(gst::StreamError::CodecNotFound)
            || error.matches(gst::CoreError::MissingPlugin)
            || error.matches(gst::CoreError::StateChange);
        // The source only reports what came back to it from the elements behind.
        let debug = message.debug().unwrap_or_default();
        let refused_downstream = debug.contains("reason not-negotiated");
        let silent_so_far = inner.given == 0;
        (from_within || (silent_so_far && (not_taken || refused_downstream))).then_some(chosen)
    }

    /// Whether it takes frames and gives none any more: which decoder, and what was seen.
    pub fn silent(&self, now: Instant) -> Option<(String, String)> {
        let inner = self.lock();
        let (frames, since) = inner.taken?;
        let silence = now.saturating_duration_since(since);
        if frames < SILENT_FRAMES || silence < SILENT_FOR {
            return None;
        }
        let element = inner.turn.as_ref()?.element.clone();
        Some((element, format!("took {frames} frames in {} s and gave none", silence.as_secs())))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each field is replaced in one assignment: a panic elsewhere leaves whole ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The elements that may take a stream, the first to be tried first: parsers and the like by rank,
/// and of the decoders the chosen one alone, if one was chosen.
///
/// The chosen one is in the list also where it cannot take the stream in its present form, since a
/// parser brings the stream into the form that the first decoder of the list takes. Refusing the
/// others one by one ("autoplug-select") is too late for that: the form was settled before.
pub(super) fn candidates(caps: &gst::CapsRef, chosen: Option<&str>) -> Vec<gst::ElementFactory> {
    let every = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::DECODABLE,
        gst::Rank::MARGINAL,
    );
    let may_take = |factory: &gst::ElementFactory| match chosen {
        Some(chosen) if codec::decodes_video(factory) => factory.name() == chosen,
        _ => factory.can_sink_any_caps(caps),
    };
    let mut candidates: Vec<_> = every.into_iter().filter(may_take).collect();
    candidates.sort_by_key(|factory| std::cmp::Reverse(factory.rank()));
    candidates
}

/// Makes a decoding bin use the elements that `choose` gives.
pub(super) fn keep_to(
    decodebin: &gst::Element,
    choose: impl Fn(&gst::Caps) -> Vec<gst::ElementFactory> + Send + Sync + 'static,
) {
    decodebin.connect("autoplug-factories", false, move |values| {
        let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
        let candidates = caps.map(|caps| choose(&caps)).unwrap_or_default();
        let candidates = candidates.iter().map(|factory| factory.to_value());
        Some(gst::glib::ValueArray::new(candidates).to_value())
    });
}

const LINK_CHECKS: gst::PadLinkCheck =
    gst::PadLinkCheck::HIERARCHY.union(gst::PadLinkCheck::TEMPLATE_CAPS);

/// Links the first video pad that appears, through a converter where its memory is not readable.
pub fn link_when_known(from: &gst::Element, to: &gst::Element) {
    let to = to.downgrade();
    from.connect_pad_added(move |from, pad| {
        let Some(to) = to.upgrade() else {
            return;
        };
        let Some(inlet) = to.static_pad("sink").filter(|inlet| !inlet.is_linked()) else {
            return;
        };
        let linked = match converter_for(pad) {
            // Not the caps of now: whether the stream fits all that follows shows when it begins, and
            // as an error that says why it does not. Here it would be passed over without a word.
            None => {
                pad.link_full(&inlet, LINK_CHECKS).map(|_| ()).map_err(|error| error.to_string())
            }
            Some(converter) => link_through(converter, pad, &to),
        };
        if let Err(why) = linked {
            // Sound, subtitles: not ours. That no picture comes shows at the end of the stream.
            tracing::debug!(target: "capture", pad = %pad.name(), from = %from.name(), why,
                "a stream that is not taken");
        }
    });
}

/// FFmpeg's decoders otherwise work on as many frames at once as there are cores: each comes out
/// later by that many, all of them stay in memory, and the work is a fifth more. One core decodes a
/// 1080p camera several times over; the others are for the other cameras and the detector.
fn keep_to_one_thread(decoder: &gst::Element) {
    if decoder.has_property_with_type("max-threads", i32::static_type()) {
        decoder.set_property("max-threads", 1i32);
    }
}

fn converter_for(pad: &gst::Pad) -> Option<&'static str> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let features = caps.features(0)?;
    features.iter().find_map(|feature| codec::converter(feature))
}

fn link_through(converter: &str, pad: &gst::Pad, to: &gst::Element) -> Result<(), String> {
    let failed = |step: &str| format!("{converter}: {step}");
    let made = gst::ElementFactory::make(converter).build();
    let element = made.map_err(|_| failed("not installed"))?;
    let bin = to.parent().and_then(|parent| parent.downcast::<gst::Bin>().ok());
    let bin = bin.ok_or_else(|| failed("nothing to put it into"))?;
    bin.add(&element).map_err(|_| failed("cannot be added"))?;
    element.link(to).map_err(|_| failed("cannot be linked"))?;
    let inlet = element.static_pad("sink").ok_or_else(|| failed("has no inlet"))?;
    pad.link(&inlet).map_err(|_| failed("does not take what the decoder gives"))?;
    element.sync_state_with_parent().map_err(|_| failed("does not start"))
}

/// Elements of rank NONE are never considered, also when they were chosen. The rank is the
/// process's, so that the lowest eligible one is given: the choice is made by name, not by rank.
pub(super) fn make_eligible(factory: &gst::ElementFactory) {
    if factory.rank() < gst::Rank::MARGINAL {
        factory.set_rank(gst::Rank::MARGINAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: gst::BufferFlags = gst::BufferFlags::empty();
    const DELTA: gst::BufferFlags = gst::BufferFlags::DELTA_UNIT;

    fn chosen() -> Decoding {
        let decoding = Decoding::default();
        decoding.lock().turn = Some(Turn::asked_for("hard"));
        decoding
    }

    /// It takes a minute of such frames.
    fn takes_a_minute(decoding: &Decoding, flags: gst::BufferFlags) -> Option<String> {
        let now = Instant::now();
        for second in 0..60 {
            decoding.took(flags, now + Duration::from_secs(second));
        }
        decoding.silent(now + Duration::from_secs(60)).map(|(element, _)| element)
    }

    #[test]
    fn a_decoder_that_gave_frames_is_blamed_also_when_it_stops_between_two_key_frames() {
        let decoding = chosen();
        decoding.took(KEY, Instant::now());
        decoding.gave();
        assert_eq!(decoding.may_hang(), None, "it holds nothing");
        decoding.took(DELTA, Instant::now());
        assert_eq!(decoding.may_hang().as_deref(), Some("hard"));
        assert_eq!(takes_a_minute(&decoding, DELTA).as_deref(), Some("hard"));
        decoding.gave();
        assert_eq!(decoding.silent(Instant::now() + Duration::from_secs(60)), None);
    }

    #[test]
    fn a_decoder_is_not_blamed_for_what_nothing_can_decode() {
        let decoding = chosen();
        assert_eq!(takes_a_minute(&decoding, DELTA), None, "a stream that was joined midway");
        decoding.took(KEY, Instant::now());
        decoding.gave();
        decoding.took(DELTA | gst::BufferFlags::DISCONT, Instant::now());
        assert_eq!(takes_a_minute(&decoding, DELTA), None, "a stream that lost something");
        assert_eq!(takes_a_minute(&decoding, KEY).as_deref(), Some("hard"));
    }
}
