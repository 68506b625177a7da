//! What the centre tells others, on the topic `tracks`: of tracks as they begin, go on, end or are
//! replaced, and up to where a camera is complete.
//!
//! Each is told at least once. Of several messages of one track the one with the highest `rev` stands;
//! of several of one camera and epoch that a track is complete up to a `seq`, the highest.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::header::{self, Kind};
use crate::id::{CameraKey, EpochId};
use crate::message::{EncodeError, Outgoing, to_json};
use crate::topic::Topic;

/// What became of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was seen for the first time.
    Begin,
    /// It was seen again.
    Update,
    /// It will not be seen again.
    End,
    /// It was provisional, and the final tracks do not have it. After a crash of the centre that may be
    /// told of one of which nothing was told before.
    Replaced,
}

/// A version of a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Track {
    /// The observation in which it was first seen, `#`, the index of the detection there.
    pub track: String,
    /// Whose camera.
    pub camera: CameraKey,
    /// Which start of the agent.
    pub epoch: EpochId,
    /// What became of it.
    pub change: Change,
    /// Number of the version: the highest stands.
    pub rev: i64,
    /// Whether nothing that comes later makes it another track.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Of a replaced track: the final track of the detection with which it began, if that has one.
    #[serde(default)]
    pub replaced_by: Option<String>,
    /// What is known of it; null of a replaced one.
    pub summary: Option<Summary>,
}

/// What is known of a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// What it is.
    pub class: String,
    /// First seen; null where nothing tells the time.
    #[schemars(with = "Option<String>")]
    pub first_seen: Option<Timestamp>,
    /// Last seen.
    #[schemars(with = "Option<String>")]
    pub last_seen: Option<Timestamp>,
    /// First seen, microseconds since the epoch's start.
    pub first_mono_us: u64,
    /// Last seen, microseconds since the epoch's start.
    pub last_mono_us: u64,
    /// The observation in which it was last seen.
    pub last_observation: String,
    /// In how many observations it was seen.
    pub observations: u64,
    /// Highest score of its detections, 0 to 1.
    pub best_score: f32,
    /// Where it was last seen: x, y, width, height in pixels of the captured frame.
    pub last_box: [f32; 4],
}

/// Up to where a camera is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Complete {
    /// Whose camera.
    pub camera: CameraKey,
    /// In which start of the agent.
    pub epoch: EpochId,
    /// Up to this `seq` every id is stored or told to be lost, and every track is final.
    pub complete_until: u64,
    /// Since when something has been missing, in any start of the agent; null if nothing is.
    #[schemars(with = "Option<String>")]
    pub waiting_since: Option<Timestamp>,
}

impl Track {
    /// The version as a message.
    pub fn encode(&self) -> Result<Outgoing, EncodeError> {
        outgoing(Kind::Track, self.track.clone(), &self.camera, to_json(self)?)
    }
}

impl Complete {
    /// The place as a message.
    pub fn encode(&self) -> Result<Outgoing, EncodeError> {
        let id = format!("{}/{}", self.camera, self.epoch);
        outgoing(Kind::Complete, id, &self.camera, to_json(self)?)
    }
}

fn outgoing(
    kind: Kind,
    id: String,
    camera: &CameraKey,
    value: Vec<u8>,
) -> Result<Outgoing, EncodeError> {
    let headers = vec![
        (header::SCHEMA, kind.schema()),
        (header::KIND, kind.as_str().to_owned()),
        (header::ID, id),
        (header::DEVICE, camera.device.to_string()),
        (header::CAMERA, camera.camera.to_string()),
    ];
    Ok(Outgoing { topic: Topic::Tracks, key: camera.to_string(), headers, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_track_reads_back_and_goes_the_way_of_its_camera() {
        let track = Track {
            track: "gate/north/12-0a1b2c3d/7#0".to_owned(),
            camera: "gate/north".parse().unwrap(),
            epoch: "12-0a1b2c3d".parse().unwrap(),
            change: Change::Replaced,
            rev: (1 << 52) + 2,
            is_final: true,
            replaced_by: Some("gate/north/12-0a1b2c3d/5#1".to_owned()),
            summary: None,
        };
        let message = track.encode().unwrap();
        assert_eq!((message.topic, message.key.as_str()), (Topic::Tracks, "gate/north"));
        assert_eq!(serde_json::from_slice::<Track>(&message.value).unwrap(), track);
        let kind = message.headers.iter().find(|(name, _)| *name == header::KIND).unwrap();
        assert_eq!(kind.1, "track");
    }
}
