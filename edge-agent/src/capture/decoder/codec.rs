//! The codecs that have more than one decoder, and the order in which these are preferred.

use gstreamer as gst;

/// A codec.
#[derive(Debug)]
pub struct Codec {
    /// As people call it.
    pub name: &'static str,
    /// As GStreamer calls it.
    pub media: &'static str,
    /// Its decoders: those of a Jetson, those that the kernel offers (stateless, then stateful),
    /// VA-API, software. What a machine lacks is passed over.
    pub order: &'static [&'static str],
    /// The caps of the sample.
    pub sample_caps: &'static str,
    /// 320x240 pixels, eight frames (of JPEG one), made from GStreamer's `ball` pattern.
    pub sample: &'static [u8],
    /// How often the sample is given.
    pub repeat: usize,
    /// Mean luma of each frame of the sample.
    pub luma: u8,
}

/// All of them; other codecs go by GStreamer's ranks.
pub static CODECS: &[Codec] = &[
    Codec {
        name: "H.264",
        media: "video/x-h264",
        order: &[
            "nvv4l2decoder",
            "v4l2slh264dec",
            "v4l2h264dec",
            "vah264dec",
            "vaapih264dec",
            "avdec_h264",
            "openh264dec",
        ],
        sample_caps: "video/x-h264,stream-format=byte-stream",
        sample: include_bytes!("samples/h264.bin"),
        repeat: 1,
        luma: 94,
    },
    Codec {
        name: "H.265",
        media: "video/x-h265",
        order: &[
            "nvv4l2decoder",
            "v4l2slh265dec",
            "v4l2h265dec",
            "vah265dec",
            "vaapih265dec",
            "avdec_h265",
            "libde265dec",
        ],
        sample_caps: "video/x-h265,stream-format=byte-stream",
        sample: include_bytes!("samples/h265.bin"),
        repeat: 1,
        luma: 94,
    },
    Codec {
        name: "JPEG",
        media: "image/jpeg",
        order: &["nvjpegdec", "v4l2jpegdec", "vajpegdec", "vaapijpegdec", "jpegdec", "avdec_mjpeg"],
        sample_caps: "image/jpeg,width=320,height=240,framerate=25/1",
        sample: include_bytes!("samples/jpeg.bin"),
        repeat: 8,
        luma: 94,
    },
];

impl Codec {
    /// By GStreamer's name for it.
    pub fn of(media: &str) -> Option<&'static Self> {
        CODECS.iter().find(|codec| codec.media == media)
    }
}

/// Whether an element takes a codec, in whatever form: a parser before it changes the form.
pub(super) fn takes(element: &str, media: &str) -> bool {
    let Some(factory) = gst::ElementFactory::find(element) else {
        return false;
    };
    let templates = factory.static_pad_templates();
    let mut inlets = templates.iter().filter(|pad| pad.direction() == gst::PadDirection::Sink);
    inlets.any(|pad| pad.caps().iter().any(|structure| structure.name() == media))
}

/// Whether an element is there, and decodes video.
pub(super) fn is_decoder(element: &str) -> bool {
    gst::ElementFactory::find(element).is_some_and(|factory| decodes_video(&factory))
}

/// Whether an element's maker says that it decodes video.
pub(super) fn decodes_video(factory: &gst::ElementFactory) -> bool {
    factory.has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO)
        // JPEG decoders say that they decode pictures.
        || factory.has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_IMAGE)
}

/// What turns a decoder's memory into memory that a processor can read, by the feature of its caps.
pub fn converter(feature: &str) -> Option<&'static str> {
    match feature {
        "memory:NVMM" => Some("nvvidconv"),
        "memory:VAMemory" => Some("vapostproc"),
        "memory:VASurface" => Some("vaapipostproc"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_stands_before_software_in_every_order() {
        for codec in CODECS {
            let software = |element: &&str| {
                element.starts_with("avdec")
                    || ["jpegdec", "openh264dec", "libde265dec"].contains(element)
            };
            let first = codec.order.iter().position(software).unwrap();
            assert!(codec.order[first..].iter().all(software), "{}", codec.name);
            assert!(first > 0, "{}", codec.name);
        }
    }

    #[test]
    fn what_a_jetson_decodes_into_is_brought_into_readable_memory() {
        assert_eq!(converter("memory:NVMM"), Some("nvvidconv"));
        assert_eq!(converter("memory:SystemMemory"), None);
    }
}
