//! A camera and decoders that do what a test tells them: elements in the place of real ones.
//!
//! `rehearsed://NAME` is a live camera of 20 frames per second in H.264. A decoder is registered
//! under a name of its own. Both ask for their cue by that name, so that tests in one process do
//! not disturb each other.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::HashMap;
use std::sync::{Condvar, LazyLock, Mutex};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;

/// What an element does from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cue {
    /// Works.
    #[default]
    Work,
    /// Gives an error at the next frame, and then keeps silent, as one does that broke off.
    Fail,
    /// Takes frames and gives none.
    Silence,
    /// Does not return from the next frame.
    HangInFrame,
    /// Does not return from being started.
    HangInStart,
    /// Gives frames that say nothing.
    Garbage,
}

static CUES: LazyLock<(Mutex<HashMap<String, Cue>>, Condvar)> = LazyLock::new(Default::default);

/// Tells an element what to do; what hangs goes on when it is told anything else.
pub fn cue(name: &str, cue: Cue) {
    CUES.0.lock().unwrap().insert(name.to_owned(), cue);
    CUES.1.notify_all();
}

/// What it does now.
pub fn current(name: &str) -> Cue {
    CUES.0.lock().unwrap().get(name).copied().unwrap_or_default()
}

fn hang_while(name: &str, cue: Cue) {
    let told = CUES.0.lock().unwrap();
    let while_so = |told: &mut HashMap<String, Cue>| told.get(name) == Some(&cue);
    count_hanging(name, 1);
    drop(CUES.1.wait_while(told, while_so).unwrap());
    count_hanging(name, -1);
}

static HANGING: LazyLock<Mutex<HashMap<String, i32>>> = LazyLock::new(Default::default);

fn count_hanging(name: &str, change: i32) {
    *HANGING.lock().unwrap().entry(name.to_owned()).or_default() += change;
}

/// How many threads hang in it.
pub fn hanging(name: &str) -> i32 {
    HANGING.lock().unwrap().get(name).copied().unwrap_or_default()
}

/// What every frame of an element goes through.
fn act(element: &gst::Element, name: &str, info: &mut gst::PadProbeInfo) -> gst::PadProbeReturn {
    match current(name) {
        Cue::Fail => {
            gst::element_error!(element, gst::StreamError::Decode, ("failed on cue"));
            cue(name, Cue::Silence);
            gst::PadProbeReturn::Drop
        }
        Cue::Silence => gst::PadProbeReturn::Drop,
        Cue::HangInFrame => {
            hang_while(name, Cue::HangInFrame);
            gst::PadProbeReturn::Ok
        }
        Cue::Garbage => {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                let len = buffer.size();
                let garbage: Vec<u8> = (0..len).map(|n| (n * 151 % 251) as u8).collect();
                let flags = buffer.flags();
                let (pts, dts) = (buffer.pts(), buffer.dts());
                let mut other = gst::Buffer::from_mut_slice(garbage);
                let made = other.get_mut().unwrap();
                made.set_flags(flags);
                made.set_pts(pts);
                made.set_dts(dts);
                *buffer = other;
            }
            gst::PadProbeReturn::Ok
        }
        Cue::Work | Cue::HangInStart => gst::PadProbeReturn::Ok,
    }
}

/// Makes an inner pad the bin's own.
fn show(bin: &gst::Bin, pad: &gst::Pad) {
    let ghost = gst::GhostPad::with_target(pad).unwrap();
    bin.add_pad(&ghost).unwrap();
}

/// What an element says of itself.
fn metadata(class: &str, what: &str) -> gst::subclass::ElementMetadata {
    gst::subclass::ElementMetadata::new("Rehearsed", class, what, "Picket")
}

macro_rules! decoders {
    ($($module:ident: $name:literal,)*) => {
        $(decoder!($module, $name);)*

        /// By name.
        fn decoders() -> Vec<(&'static str, glib::Type)> {
            vec![$(($name, $module::Decoder::static_type())),*]
        }
    };
}

macro_rules! decoder {
    ($module:ident, $name:literal) => {
        /// A decoder of H.264.
        mod $module {
            use super::*;

            #[derive(Default)]
            pub struct Imp;

            #[glib::object_subclass]
            impl ObjectSubclass for Imp {
                const NAME: &'static str = concat!("Rehearsed-", $name);
                type Type = Decoder;
                type ParentType = gst::Bin;
            }

            impl ObjectImpl for Imp {
                fn constructed(&self) {
                    self.parent_constructed();
                    let bin = self.obj().clone().upcast::<gst::Bin>();
                    let inner = gst::ElementFactory::make("avdec_h264").build().unwrap();
                    bin.add(&inner).unwrap();
                    for pad in ["sink", "src"] {
                        show(&bin, &inner.static_pad(pad).unwrap());
                    }
                    let element = bin.upcast::<gst::Element>().downgrade();
                    let out = inner.static_pad("src").unwrap();
                    out.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                        match element.upgrade() {
                            Some(element) => act(&element, $name, info),
                            None => gst::PadProbeReturn::Ok,
                        }
                    });
                }
            }

            impl GstObjectImpl for Imp {}

            impl ElementImpl for Imp {
                fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
                    static METADATA: LazyLock<gst::subclass::ElementMetadata> =
                        LazyLock::new(|| {
                            metadata("Codec/Decoder/Video/Hardware", "Does what a test tells it")
                        });
                    Some(&*METADATA)
                }

                fn pad_templates() -> &'static [gst::PadTemplate] {
                    static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                        let of = |element: &str| {
                            let factory = gst::ElementFactory::find(element).unwrap();
                            let templates = factory.static_pad_templates();
                            templates.iter().map(|template| template.get()).collect()
                        };
                        of("avdec_h264")
                    });
                    &TEMPLATES
                }

                fn change_state(
                    &self,
                    change: gst::StateChange,
                ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
                    if change == gst::StateChange::ReadyToPaused {
                        hang_while($name, Cue::HangInStart);
                    }
                    self.parent_change_state(change)
                }
            }

            impl BinImpl for Imp {}

            glib::wrapper! {
                pub struct Decoder(ObjectSubclass<Imp>) @extends gst::Bin, gst::Element, gst::Object;
            }
        }
    };
}

decoders! {
    fails: "rehearsed-fails",
    returns: "rehearsed-returns",
    silent: "rehearsed-silent",
    hangs: "rehearsed-hangs",
    broken: "rehearsed-broken",
    corrupt: "rehearsed-corrupt",
    midway: "rehearsed-midway",
    alone: "rehearsed-alone",
    asleep: "rehearsed-asleep",
    later: "rehearsed-later",
}

mod camera {
    use super::*;

    #[derive(Default)]
    pub struct Imp {
        name: Mutex<String>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "RehearsedCamera";
        type Type = Camera;
        type ParentType = gst::Bin;
        type Interfaces = (gst::URIHandler,);
    }

    impl ObjectImpl for Imp {
        fn constructed(&self) {
            self.parent_constructed();
            let bin = self.obj().clone().upcast::<gst::Bin>();
            let line = "videotestsrc is-live=true pattern=ball \
                 ! video/x-raw,format=I420,width=160,height=120,framerate=20/1 \
                 ! openh264enc gop-size=10 ! h264parse config-interval=-1 name=last";
            let inner = gst::parse::bin_from_description(line, false).unwrap();
            bin.add(&inner).unwrap();
            let last = inner.by_name("last").unwrap().static_pad("src").unwrap();
            let out = gst::GhostPad::with_target(&last).unwrap();
            inner.add_pad(&out).unwrap();
            show(&bin, out.upcast_ref());
            let camera = self.obj().downgrade();
            last.add_probe(gst::PadProbeType::BUFFER, move |_, info| match camera.upgrade() {
                Some(camera) => {
                    let name = camera.imp().name.lock().unwrap().clone();
                    act(camera.upcast_ref(), &name, info)
                }
                None => gst::PadProbeReturn::Ok,
            });
        }
    }

    impl GstObjectImpl for Imp {}

    impl ElementImpl for Imp {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> =
                LazyLock::new(|| metadata("Source/Video", "A camera"));
            Some(&*METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst::Caps::builder("video/x-h264").build();
                let (direction, always) = (gst::PadDirection::Src, gst::PadPresence::Always);
                vec![gst::PadTemplate::new("src", direction, always, &caps).unwrap()]
            });
            &TEMPLATES
        }

        fn change_state(
            &self,
            change: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            if change == gst::StateChange::ReadyToPaused {
                let name = self.name.lock().unwrap().clone();
                hang_while(&name, Cue::HangInStart);
            }
            self.parent_change_state(change)
        }
    }

    impl BinImpl for Imp {}

    impl URIHandlerImpl for Imp {
        const URI_TYPE: gst::URIType = gst::URIType::Src;

        fn protocols() -> &'static [&'static str] {
            &["rehearsed"]
        }

        fn uri(&self) -> Option<String> {
            Some(format!("rehearsed://{}", self.name.lock().unwrap()))
        }

        fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
            *self.name.lock().unwrap() = uri.trim_start_matches("rehearsed://").to_owned();
            Ok(())
        }
    }

    glib::wrapper! {
        pub struct Camera(ObjectSubclass<Imp>)
            @extends gst::Bin, gst::Element, gst::Object, @implements gst::URIHandler;
    }
}

/// Registers all of them, once.
pub fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        for (name, kind) in decoders() {
            gst::Element::register(None, name, gst::Rank::NONE, kind).unwrap();
        }
        let camera = camera::Camera::static_type();
        gst::Element::register(None, "rehearsedsrc", gst::Rank::PRIMARY, camera).unwrap();
    });
}
