//! Which element decodes: hardware before software, of what really works on this machine.
//!
//! - `codec.rs`: the codecs that have more than one decoder, and the order of these.
//! - `probe.rs`: whether an element decodes a sample right, here and now.
//! - `chain.rs`: how the decoders of a codec fared with one camera, and whose turn it is.
//! - `comeback.rs`: the way back to a better decoder.
//! - `decoding.rs`: the decoder of one opened source: which it is, and whether it still gives.

pub mod chain;
pub mod codec;
pub(super) mod comeback;
pub(super) mod decoding;
pub mod probe;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::CaptureError;
use chain::{Chain, Turn, Verdict};
use codec::Codec;
use probe::Probe;

/// Which elements may decode, first the one that is tried first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DecoderOrder {
    /// This one and no other.
    One(String),
    /// These and no others.
    Several(Vec<String>),
}

impl DecoderOrder {
    /// Their names.
    pub fn elements(&self) -> &[String] {
        match self {
            Self::One(element) => std::slice::from_ref(element),
            Self::Several(elements) => elements,
        }
    }
}

/// How a camera's decoders are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderWish {
    /// Instead of the order of this machine; for the codecs that these elements take.
    pub order: Option<DecoderOrder>,
    /// After so long a decoder that failed is tried again: after its first failure, its second, and
    /// so on; the last one stands for all further ones.
    pub retry: Vec<Duration>,
}

/// One camera's decoders, for as long as the camera runs: what failed stays known when the source is
/// opened again. Of no other camera: hardware often bears a few streams and no more.
#[derive(Debug)]
pub struct Decoders {
    wish: DecoderWish,
    chains: Mutex<BTreeMap<&'static str, Chain>>,
    /// Whether a stream waits for what probes give.
    probing: AtomicBool,
}

impl Decoders {
    /// Nothing is tried before a stream asks for it.
    pub fn new(wish: DecoderWish) -> Arc<Self> {
        Arc::new(Self { wish, chains: Mutex::default(), probing: AtomicBool::new(false) })
    }

    /// Refuses a wish that no stream can fulfil: none of its elements is installed, or none decodes.
    pub fn check(&self) -> Result<(), CaptureError> {
        let Some(order) = &self.wish.order else {
            return Ok(());
        };
        let mut elements = order.elements().iter();
        if elements.any(|element| codec::is_decoder(element)) {
            return Ok(());
        }
        let element = order.elements().join(", ");
        let why = "not installed, or no decoder of video (`doctor` lists what there is)".to_owned();
        Err(CaptureError::DecoderUnusable { element, why })
    }

    /// Whose turn it is to decode a stream; `None` for a codec that goes by GStreamer's own ranks.
    /// The first time for a codec, its decoders are probed, which takes a while.
    pub fn turn(&self, caps: &gst::CapsRef) -> Option<Result<Turn, CaptureError>> {
        let media = caps.structure(0)?.name().as_str();
        let wanted = self.wanted(media);
        let codec = match Codec::of(media) {
            Some(codec) => codec,
            // A codec without an order of its own, of which there is no sample either.
            None => return wanted.first().map(|element| Ok(Turn::asked_for(element))),
        };
        if let Some(chain) = self.lock().get(codec.media) {
            return Some(Ok(chain.turn(Instant::now())));
        }
        // Without the lock: a probe may take seconds, and the camera asks for its state meanwhile.
        self.probing.store(true, Ordering::Relaxed);
        let chain = self.probed(codec, &wanted);
        self.probing.store(false, Ordering::Relaxed);
        let chain = match chain {
            Ok(chain) => chain,
            Err(error) => return Some(Err(error)),
        };
        let turn = chain.turn(Instant::now());
        self.lock().insert(codec.media, chain);
        Some(Ok(turn))
    }

    /// Whether they are being tried, so that the source's stream waits and says nothing of the source.
    pub fn are_probed(&self) -> bool {
        self.probing.load(Ordering::Relaxed)
    }

    /// A decoder failed while it decoded. Whether another takes over.
    pub fn failed(&self, element: &str, why: &str) -> Verdict {
        self.chain_of(element, |chain| chain.failed(element, why, Instant::now()))
            .unwrap_or(Verdict::NoneLeft)
    }

    /// The source was decoded for a while: what failed before counts as past.
    pub fn lasted(&self) {
        self.lock().values_mut().for_each(Chain::lasted);
    }

    /// A decoder better than the one in use, whose time to be tried again has come, with its codec.
    pub fn due(&self, in_use: &str) -> Option<(String, &'static Codec)> {
        let now = Instant::now();
        let chains = self.lock();
        let (media, chain) = chains.iter().find(|(_, chain)| chain.has(in_use))?;
        Some((chain.due(in_use, now)?, Codec::of(media)?))
    }

    /// What the probe of a due decoder gave. Whether it takes over again.
    pub fn probed_again(&self, element: &str, probe: &Probe) -> bool {
        let again =
            self.chain_of(element, |chain| chain.probed_again(element, probe, Instant::now()));
        again.unwrap_or(false)
    }

    fn chain_of<T>(&self, element: &str, act: impl FnOnce(&mut Chain) -> T) -> Option<T> {
        self.lock().values_mut().find(|chain| chain.has(element)).map(act)
    }

    /// Of the wish, what takes this codec.
    fn wanted(&self, media: &str) -> Vec<String> {
        let wish = self.wish.order.as_ref().map(DecoderOrder::elements).unwrap_or_default();
        wish.iter().filter(|element| codec::takes(element, media)).cloned().collect()
    }

    fn probed(&self, codec: &'static Codec, wanted: &[String]) -> Result<Chain, CaptureError> {
        let order: Vec<String> = match wanted {
            [] => codec.order.iter().map(|&element| element.to_owned()).collect(),
            wanted => wanted.to_vec(),
        };
        let probes = order.into_iter().map(|element| {
            let probe = probe::known(&element, codec);
            (element, probe)
        });
        let probes: Vec<_> = probes.filter(|(_, probe)| *probe != Probe::Missing).collect();
        let all = probes.iter().map(|(element, probe)| format!("{element}: {probe}"));
        let all: Vec<_> = all.collect();
        Chain::new(probes, self.wish.retry.clone(), Instant::now()).ok_or_else(|| {
            let why = match all.as_slice() {
                [] => "nothing that decodes it is installed".to_owned(),
                all => all.join("; "),
            };
            CaptureError::DecoderUnusable { element: codec.name.to_owned(), why }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Chain>> {
        // Nothing panics while it is held.
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One decoder, as `doctor` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderReport {
    /// `H.264`, `H.265` or `JPEG`.
    pub codec: &'static str,
    /// GStreamer element.
    pub element: &'static str,
    /// What trying it gave.
    pub probe: Probe,
    /// Whether it is the one that will be used.
    pub chosen: bool,
}

/// All decoders of this machine's order, tried.
pub fn decoders() -> Result<Vec<DecoderReport>, CaptureError> {
    gst::init().map_err(CaptureError::Initialise)?;
    let mut reports = Vec::new();
    for codec in codec::CODECS {
        let mut chosen_before = false;
        for &element in codec.order {
            let probe = probe::known(element, codec);
            let chosen = probe == Probe::Usable && !chosen_before;
            chosen_before |= chosen;
            reports.push(DecoderReport { codec: codec.name, element, probe, chosen });
        }
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_asked_for_by_a_name_that_gstreamer_lacks_is_an_error_naming_it() {
        gst::init().unwrap();
        let order = Some(DecoderOrder::One("nosuchdec".to_owned()));
        let decoders = Decoders::new(DecoderWish { order, retry: vec![Duration::from_secs(60)] });
        let error = decoders.check().unwrap_err().to_string();
        assert!(error.contains("nosuchdec") && error.contains("not installed"), "{error}");
    }

    #[test]
    fn an_order_is_one_name_or_a_list_of_them() {
        let of = |text: &str| -> DecoderOrder { serde_json::from_str(text).unwrap() };
        assert_eq!(of(r#""a""#).elements(), ["a"]);
        assert_eq!(of(r#"["a", "b"]"#).elements(), ["a", "b"]);
    }
}
