//! Which element decodes: hardware before software, of what this machine really has.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::CaptureError;

/// Decoders of H.264 in the order in which they are preferred.
pub const H264: &[&str] = &[
    "nvv4l2decoder",
    "v4l2slh264dec",
    "v4l2h264dec",
    "vah264dec",
    "vaapih264dec",
    "avdec_h264",
    "openh264dec",
];

/// Decoders of H.265 in the order in which they are preferred.
pub const H265: &[&str] = &[
    "nvv4l2decoder",
    "v4l2slh265dec",
    "v4l2h265dec",
    "vah265dec",
    "vaapih265dec",
    "avdec_h265",
    "libde265dec",
];

/// What a try of an element gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It is there and its device opens.
    Usable,
    /// GStreamer does not have it.
    Missing,
    /// GStreamer has it, and its device does not open.
    DoesNotOpen,
}

impl Probe {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Missing => "not installed",
            Self::DoesNotOpen => "installed, but its device does not open",
        }
    }
}

/// Tries an element by taking it to READY, where it opens its device.
pub fn probe(element: &str) -> Probe {
    let Ok(instance) = gst::ElementFactory::make(element).build() else {
        return Probe::Missing;
    };
    let ready = instance.set_state(gst::State::Ready).is_ok();
    // Back to NULL whatever came: an element must not be let go in any other state.
    let closed = instance.set_state(gst::State::Null).is_ok();
    if ready && closed { Probe::Usable } else { Probe::DoesNotOpen }
}

/// The first usable element of an order.
pub fn choose<'a>(order: &[&'a str], probe: impl Fn(&str) -> Probe) -> Option<&'a str> {
    order.iter().copied().find(|element| probe(element) == Probe::Usable)
}

/// The chosen decoder of each codec that has more than one; other codecs go by GStreamer's ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    h264: Option<String>,
    h265: Option<String>,
    wanted: Option<String>,
}

impl Choice {
    /// Chooses by probing; `wanted` stands above the order, and must be usable.
    pub fn probe(wanted: Option<&str>) -> Result<Self, CaptureError> {
        if let Some(element) = wanted {
            match probe(element) {
                Probe::Usable => {}
                failed => {
                    let (element, why) = (element.to_owned(), failed.as_str());
                    return Err(CaptureError::DecoderUnusable { element, why });
                }
            }
        }
        let choice = Self {
            h264: choose(H264, probe).map(str::to_owned),
            h265: choose(H265, probe).map(str::to_owned),
            wanted: wanted.map(str::to_owned),
        };
        for element in [&choice.h264, &choice.h265, &choice.wanted].into_iter().flatten() {
            make_eligible(element);
        }
        Ok(choice)
    }

    /// The elements that may take a stream, the first to be tried first: parsers and the like by
    /// rank, and of the decoders the chosen one alone.
    ///
    /// The chosen one is in the list also where it cannot take the stream in its present form, since a
    /// parser brings the stream into the form that the first decoder of the list takes. Refusing the
    /// others one by one ("autoplug-select") is too late for that: the form was settled before.
    pub fn candidates(&self, caps: &gst::Caps) -> Vec<gst::ElementFactory> {
        let decoders = gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO;
        let chosen = self.for_stream(caps);
        let every = gst::ElementFactory::factories_with_type(
            gst::ElementFactoryType::DECODABLE,
            gst::Rank::MARGINAL,
        );
        let mut candidates: Vec<_> = every
            .into_iter()
            .filter(|factory| match chosen {
                Some(chosen) if factory.has_type(decoders) => factory.name() == chosen,
                _ => factory.can_sink_any_caps(caps),
            })
            .collect();
        candidates.sort_by_key(|factory| std::cmp::Reverse(factory.rank()));
        candidates
    }

    fn for_stream(&self, caps: &gst::Caps) -> Option<&str> {
        let codec = caps.structure(0)?.name().as_str();
        let by_codec = match codec {
            "video/x-h264" => self.h264.as_deref(),
            "video/x-h265" => self.h265.as_deref(),
            _ => None,
        };
        self.wanted.as_deref().filter(|element| decodes(element, codec)).or(by_codec)
    }
}

/// Whether an element takes a codec, in whatever form: a parser before it changes the form.
fn decodes(element: &str, codec: &str) -> bool {
    let Some(factory) = gst::ElementFactory::find(element) else {
        return false;
    };
    let templates = factory.static_pad_templates();
    let mut inlets = templates.iter().filter(|pad| pad.direction() == gst::PadDirection::Sink);
    inlets.any(|pad| pad.caps().iter().any(|structure| structure.name() == codec))
}

/// Elements of rank NONE are never considered, also when they were chosen. The rank is the
/// process's, so that the lowest eligible one is given: the choice is made by name, not by rank.
fn make_eligible(element: &str) {
    if let Some(factory) = gst::ElementFactory::find(element)
        && factory.rank() < gst::Rank::MARGINAL
    {
        factory.set_rank(gst::Rank::MARGINAL);
    }
}

/// One decoder, as `doctor` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderReport {
    /// `H.264` or `H.265`.
    pub codec: &'static str,
    /// GStreamer element.
    pub element: &'static str,
    /// What trying it gave.
    pub probe: Probe,
    /// Whether it is the one that will be used.
    pub chosen: bool,
}

/// All decoders of the order, tried.
pub fn decoders() -> Result<Vec<DecoderReport>, CaptureError> {
    gst::init().map_err(CaptureError::Initialise)?;
    let mut reports = Vec::new();
    for (codec, order) in [("H.264", H264), ("H.265", H265)] {
        let mut chosen_before = false;
        for &element in order {
            let probe = probe(element);
            let chosen = probe == Probe::Usable && !chosen_before;
            chosen_before |= chosen;
            reports.push(DecoderReport { codec, element, probe, chosen });
        }
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_chosen_before_software_and_what_does_not_open_is_passed_over() {
        let machine = |element: &str| match element {
            "v4l2h264dec" => Probe::DoesNotOpen,
            "vah264dec" | "avdec_h264" | "openh264dec" => Probe::Usable,
            _ => Probe::Missing,
        };
        assert_eq!(choose(H264, machine), Some("vah264dec"));
        assert_eq!(choose(H264, |_| Probe::Missing), None);
    }

    #[test]
    fn a_decoder_asked_for_by_a_name_that_gstreamer_lacks_is_an_error_naming_it() {
        gst::init().unwrap();
        let error = Choice::probe(Some("nosuchdec")).unwrap_err().to_string();
        assert!(error.contains("nosuchdec") && error.contains("not installed"), "{error}");
    }
}
