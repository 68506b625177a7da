//! Messages: encoded by the agent, decoded and checked by the centre.
//!
//! A message is decoded whole or refused whole. Key, headers and body say some things twice, so
//! that a tool can route by key and filter by header without reading bodies; where they disagree
//! the message is refused, because no reader could know which of them is true.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::header::{self, Headers, Kind, Lane};
use crate::id::{CameraKey, ObservationId, number};
use crate::name::{CameraName, DeviceName};
use crate::observation::{
    ClockRelation, DeviceCertificate, EpochStart, Gap, MAX_FRAME_PX, Observation, Skip, Stamp,
};
use crate::reject::Reject;
use crate::status::Status;
use crate::topic::Topic;

/// A record of a camera's ordered log.
#[derive(Debug, Clone, PartialEq)]
pub enum CameraRecord {
    /// A frame that was looked at.
    Observation(Observation),
    /// Frames that were not.
    Skip(Skip),
    /// What was dropped.
    Gap(Gap),
    /// Begin of an epoch.
    Epoch(EpochStart),
    /// Relation of the clocks.
    Clock(ClockRelation),
    /// The device's chain.
    Certificate(DeviceCertificate),
}

impl CameraRecord {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Observation(_) => Kind::Observation,
            Self::Skip(_) => Kind::Skip,
            Self::Gap(_) => Kind::Gap,
            Self::Epoch(_) => Kind::Epoch,
            Self::Clock(_) => Kind::Clock,
            Self::Certificate(_) => Kind::Certificate,
        }
    }

    /// Its place in the log.
    pub fn id(&self) -> &ObservationId {
        match self {
            Self::Observation(r) => &r.id,
            Self::Skip(r) => &r.id,
            Self::Gap(r) => &r.id,
            Self::Epoch(r) => &r.id,
            Self::Clock(r) => &r.id,
            Self::Certificate(r) => &r.id,
        }
    }

    /// When it was made.
    pub fn stamp(&self) -> &Stamp {
        match self {
            Self::Observation(r) => &r.stamp,
            Self::Skip(r) => &r.stamp,
            Self::Gap(r) => &r.stamp,
            Self::Epoch(r) => &r.stamp,
            Self::Clock(r) => &r.stamp,
            Self::Certificate(r) => &r.stamp,
        }
    }

    /// First and last `seq` that the record settles among observations, if it settles any.
    pub fn settles(&self) -> Option<(u64, u64)> {
        match self {
            Self::Observation(r) => Some((r.id.seq, r.id.seq)),
            Self::Skip(r) => Some((r.first, r.last)),
            Self::Gap(r) if r.of == crate::observation::GapOf::Observations => {
                Some((r.first, r.last))
            }
            _ => None,
        }
    }

    fn decode(kind: Kind, value: &[u8]) -> Result<Self, Reject> {
        let record = match kind {
            Kind::Observation => Self::Observation(json(value)?),
            Kind::Skip => Self::Skip(json(value)?),
            Kind::Gap => Self::Gap(json(value)?),
            Kind::Epoch => Self::Epoch(json(value)?),
            Kind::Clock => Self::Clock(json(value)?),
            Kind::Certificate => Self::Certificate(json(value)?),
            Kind::Frame | Kind::Crop | Kind::Status | Kind::Track | Kind::Complete => {
                return Err(Reject::KindOnWrongTopic {
                    kind: kind.as_str(),
                    topic: Topic::Observations,
                });
            }
        };
        match &record {
            Self::Observation(r) => r.check()?,
            Self::Skip(r) => r.check()?,
            Self::Gap(r) => r.check()?,
            Self::Epoch(r) => r.check()?,
            Self::Clock(r) => r.check()?,
            Self::Certificate(r) => r.check()?,
        }
        Ok(record)
    }

    /// The record as a message.
    pub fn encode(&self) -> Result<Outgoing, EncodeError> {
        let value = match self {
            Self::Observation(r) => to_json(r),
            Self::Skip(r) => to_json(r),
            Self::Gap(r) => to_json(r),
            Self::Epoch(r) => to_json(r),
            Self::Clock(r) => to_json(r),
            Self::Certificate(r) => to_json(r),
        }?;
        let id = self.id();
        Ok(Outgoing {
            topic: Topic::Observations,
            key: id.key.to_string(),
            headers: camera_headers(self.kind(), id, id.to_string(), self.stamp()),
            value,
        })
    }
}

/// A picture: of a whole frame, or of one detection in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Of which observation.
    pub id: ObservationId,
    /// Of which detection; null for a whole frame.
    pub crop: Option<u32>,
    /// When it was captured.
    pub stamp: Stamp,
    /// Pixels of the picture, which may be smaller than the captured frame.
    pub width: u32,
    /// Pixels of the picture.
    pub height: u32,
    /// What was made unrecognisable in it, `none` if nothing.
    pub redacted: String,
    /// The JPEG.
    pub jpeg: Vec<u8>,
}

impl Picture {
    /// Text of its id: that of the observation, or `<observation>#<index>`.
    pub fn id_text(&self) -> String {
        match self.crop {
            Some(index) => self.id.crop(index as usize),
            None => self.id.to_string(),
        }
    }

    /// The picture as a message.
    pub fn encode(self) -> Outgoing {
        let kind = if self.crop.is_some() { Kind::Crop } else { Kind::Frame };
        let mut headers = camera_headers(kind, &self.id, self.id_text(), &self.stamp);
        headers.push((header::WIDTH, self.width.to_string()));
        headers.push((header::HEIGHT, self.height.to_string()));
        headers.push((header::REDACTED, self.redacted));
        headers.push((header::CONTENT_TYPE, "image/jpeg".to_owned()));
        Outgoing { topic: Topic::Frames, key: self.id.key.to_string(), headers, value: self.jpeg }
    }

    fn decode(kind: Kind, headers: Headers<'_>, value: &[u8]) -> Result<Self, Reject> {
        let text = headers.text(header::ID)?;
        let (observation, crop) = match (kind, text.split_once('#')) {
            (Kind::Frame, None) => (text, None),
            (Kind::Crop, Some((observation, index))) => {
                let index = number(index).and_then(|index| u32::try_from(index).ok());
                (observation, Some(index.ok_or_else(|| header::invalid(header::ID, text))?))
            }
            (Kind::Frame | Kind::Crop, _) => return Err(header::invalid(header::ID, text)),
            _ => {
                return Err(Reject::KindOnWrongTopic { kind: kind.as_str(), topic: Topic::Frames });
            }
        };
        let id = observation.parse().map_err(|_| header::invalid(header::ID, text))?;
        let px = |name| {
            let px = headers.number(name)?;
            let fits = u32::try_from(px).ok().filter(|px| (1..=MAX_FRAME_PX).contains(px));
            fits.ok_or_else(|| header::invalid(name, px))
        };
        let (width, height) = (px(header::WIDTH)?, px(header::HEIGHT)?);
        if headers.text(header::CONTENT_TYPE)? != "image/jpeg" || !value.starts_with(&JPEG_HEAD) {
            return Err(Reject::NotJpeg);
        }
        Ok(Self {
            id,
            crop,
            stamp: headers.stamp()?,
            width,
            height,
            redacted: headers.text(header::REDACTED)?.to_owned(),
            jpeg: value.to_owned(),
        })
    }
}

const JPEG_HEAD: [u8; 3] = [0xff, 0xd8, 0xff];

impl Status {
    /// The heartbeat as a message.
    pub fn encode(&self) -> Result<Outgoing, EncodeError> {
        let id = format!("{}/{}", self.device, self.epoch);
        let mut headers = vec![
            (header::SCHEMA, Kind::Status.schema()),
            (header::KIND, Kind::Status.as_str().to_owned()),
            (header::ID, id),
            (header::DEVICE, self.device.to_string()),
        ];
        push_stamp(&mut headers, &self.stamp);
        let key = self.device.to_string();
        Ok(Outgoing { topic: Topic::Status, key, headers, value: to_json(self)? })
    }
}

/// A message ready to be kept and sent. The lane is not part of it: a record that was to go live
/// may have to wait, and its bytes do not change for that.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: Topic,
    /// The Kafka key.
    pub key: String,
    /// All headers but the lane.
    pub headers: Vec<(&'static str, String)>,
    /// The Kafka value.
    pub value: Vec<u8>,
}

/// A body that could not be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the body as JSON")]
pub struct EncodeError(#[source] serde_json::Error);

pub(crate) fn to_json(body: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    serde_json::to_vec(body).map_err(EncodeError)
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T, Reject> {
    serde_json::from_slice(value)
        .map_err(|e| Reject::BodyInvalid { why: e.to_string().chars().take(300).collect() })
}

fn camera_headers(
    kind: Kind,
    id: &ObservationId,
    id_text: String,
    stamp: &Stamp,
) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        (header::SCHEMA, kind.schema()),
        (header::KIND, kind.as_str().to_owned()),
        (header::ID, id_text),
        (header::DEVICE, id.key.device.to_string()),
        (header::CAMERA, id.key.camera.to_string()),
    ];
    push_stamp(&mut headers, stamp);
    headers
}

fn push_stamp(headers: &mut Vec<(&'static str, String)>, stamp: &Stamp) {
    let captured_at = stamp.captured_at.map(|t| t.to_string()).unwrap_or_default();
    headers.push((header::MONO_US, stamp.mono_us.to_string()));
    headers.push((header::CAPTURED_AT, captured_at));
    headers.push((header::CLOCK, stamp.clock.as_str().to_owned()));
}

/// A message that was read and holds together.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// From the observations topic.
    Record {
        /// Which queue it took.
        lane: Lane,
        /// The record.
        record: CameraRecord,
    },
    /// From the frames topic.
    Picture {
        /// Which queue it took.
        lane: Lane,
        /// The picture.
        picture: Picture,
    },
    /// From the status topic.
    Status(Box<Status>),
}

/// Reads a message from one of the topics that devices write.
pub fn decode(
    topic: Topic,
    key: &[u8],
    headers: &[(String, Vec<u8>)],
    value: &[u8],
) -> Result<Message, Reject> {
    let limit = topic.max_message_bytes();
    if value.is_empty() {
        return Err(Reject::Empty);
    }
    if value.len() > limit as usize {
        return Err(Reject::TooLarge { bytes: value.len(), limit });
    }
    let headers = Headers(headers);
    headers.check_once()?;
    let kind = headers.kind()?;
    headers.check_schema(kind)?;
    let stamp = headers.stamp()?;
    match topic {
        Topic::Observations => {
            let record = CameraRecord::decode(kind, value)?;
            if headers.text(header::ID)? != record.id().to_string() {
                return Err(Reject::Disagree { what: "the id in the headers and the body" });
            }
            if stamp != *record.stamp() {
                return Err(Reject::Disagree { what: "the times in the headers and the body" });
            }
            check_camera(key, headers, &record.id().key)?;
            Ok(Message::Record { lane: headers.lane()?, record })
        }
        Topic::Frames => {
            let picture = Picture::decode(kind, headers, value)?;
            check_camera(key, headers, &picture.id.key)?;
            Ok(Message::Picture { lane: headers.lane()?, picture })
        }
        Topic::Status => {
            if kind != Kind::Status {
                return Err(Reject::KindOnWrongTopic { kind: kind.as_str(), topic });
            }
            let status: Status = json(value)?;
            check_device(key, headers, &status, &stamp)?;
            Ok(Message::Status(Box::new(status)))
        }
        Topic::Tracks | Topic::DeadLetter => {
            Err(Reject::KindOnWrongTopic { kind: kind.as_str(), topic })
        }
    }
}

fn check_camera(key: &[u8], headers: Headers<'_>, camera: &CameraKey) -> Result<(), Reject> {
    if key != camera.to_string().as_bytes() {
        return Err(Reject::Disagree { what: "the key and the id" });
    }
    let device: Result<DeviceName, _> = headers.text(header::DEVICE)?.parse();
    if device.as_ref() != Ok(&camera.device) {
        return Err(Reject::Disagree { what: "the device in the headers and the id" });
    }
    let name: Result<CameraName, _> = headers.text(header::CAMERA)?.parse();
    if name.as_ref() != Ok(&camera.camera) {
        return Err(Reject::Disagree { what: "the camera in the headers and the id" });
    }
    Ok(())
}

fn check_device(
    key: &[u8],
    headers: Headers<'_>,
    status: &Status,
    stamp: &Stamp,
) -> Result<(), Reject> {
    if key != status.device.as_str().as_bytes() {
        return Err(Reject::Disagree { what: "the key and the device in the body" });
    }
    if headers.text(header::DEVICE)? != status.device.as_str() {
        return Err(Reject::Disagree { what: "the device in the headers and the body" });
    }
    if headers.text(header::ID)? != format!("{}/{}", status.device, status.epoch) {
        return Err(Reject::Disagree { what: "the id in the headers and the body" });
    }
    if *stamp != status.stamp {
        return Err(Reject::Disagree { what: "the times in the headers and the body" });
    }
    if !headers.is_absent(header::CAMERA) {
        return Err(header::invalid(header::CAMERA, "a status has none"));
    }
    Ok(())
}
