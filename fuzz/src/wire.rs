//! Messages, as the centre reads them.
//!
//! An input reads like HTTP: the topic, the key, then a header a line, an empty line, and the value.

use picket_aggregator::track::{self, ObservationRef, Tracker};
use picket_aggregator::upsert;
use picket_wire::observation::Observation;
use picket_wire::{CameraRecord, Lane, Message, Outgoing, Topic, decode, header};

/// Two detections more than a tracker of these settings has tracks for.
const TRACKS: usize = 8;

/// Decodes; what was taken must be the same when it is written and read again.
pub fn target(input: &[u8]) {
    let Some(parts) = Parts::of(input) else { return };
    let Ok(message) = decode(parts.topic, parts.key, &parts.headers, parts.value) else { return };
    let again = match message.clone() {
        Message::Record { lane, record } => {
            follow(&record);
            (record.encode().unwrap(), Some(lane))
        }
        Message::Picture { lane, picture } => {
            let path = upsert::frame_path(&picture);
            assert!(path.split('/').all(|part| !part.is_empty() && part != ".."), "{path}");
            (picture.encode(), Some(lane))
        }
        Message::Status(status) => {
            let _ = status.cameras.values().all(|camera| camera.books.balanced());
            (status.encode().unwrap(), None)
        }
    };
    let Outgoing { topic, key, headers, value } = again.0;
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
    headers.extend(again.1.map(|lane: Lane| (header::LANE.to_owned(), lane.as_str().into())));
    let read = decode(topic, key.as_bytes(), &headers, &value);
    assert_eq!(read.as_ref(), Ok(&message), "what was written is not what was read");
}

/// What an observation says goes through the tracker, twice, so that tracks are continued.
fn follow(record: &CameraRecord) {
    let CameraRecord::Observation(observation) = record else { return };
    let settings = track::Settings { max_tracks: TRACKS, ..track::Settings::default() };
    let mut tracker = Tracker::new(settings);
    for mono_us in [observation.stamp.mono_us, observation.stamp.mono_us.saturating_add(100_000)] {
        observe(&mut tracker, observation, mono_us);
    }
    assert!(tracker.finish().len() <= TRACKS, "more tracks than there may be");
}

fn observe(tracker: &mut Tracker, observation: &Observation, mono_us: u64) {
    let detections: Vec<_> = observation
        .detections
        .iter()
        .map(|d| track::Detection { box_px: d.box_px, score: d.score, class: &d.class })
        .collect();
    let id = observation.id.to_string();
    let outcome = tracker.observe(ObservationRef { id: &id }, mono_us, &detections);
    assert_eq!(outcome.assigned.len(), detections.len(), "an answer for each detection");
    let mut given: Vec<_> = outcome.assigned.into_iter().flatten().collect();
    let count = given.len();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), count, "a track has one detection in a frame");
}

struct Parts<'a> {
    topic: Topic,
    key: &'a [u8],
    headers: Vec<(String, Vec<u8>)>,
    value: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(input: &'a [u8]) -> Option<Self> {
        let mut rest = input;
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            Some(line)
        };
        let name = line()?;
        let topic = Topic::ALL.into_iter().find(|topic| topic.suffix().as_bytes() == name)?;
        let key = line()?;
        let mut headers = Vec::new();
        while let Some(header) = line().filter(|line| !line.is_empty()) {
            let colon = header.windows(2).position(|pair| pair == b": ")?;
            let name = String::from_utf8(header[..colon].to_vec()).ok()?;
            headers.push((name, header[colon + 2..].to_vec()));
        }
        Some(Self { topic, key, headers, value: rest })
    }
}

/// A message as an input.
pub fn input(
    topic: Topic,
    key: &str,
    headers: impl IntoIterator<Item = (String, String)>,
    value: &[u8],
) -> Vec<u8> {
    let mut input = format!("{}\n{key}\n", topic.suffix());
    for (name, text) in headers {
        input += &format!("{name}: {text}\n");
    }
    [input.as_bytes(), b"\n", value].concat()
}
