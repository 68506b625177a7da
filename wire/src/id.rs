//! Ids: `<device>/<camera>/<epoch>-<instance>/<seq>`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{CameraName, DeviceName};

/// Why an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the id {text:?} is not valid: it must read {form}")]
pub struct IdError {
    text: String,
    form: &'static str,
}

fn refuse(text: &str, form: &'static str) -> IdError {
    IdError { text: text.chars().take(250).collect(), form }
}

/// A decimal number without sign or leading zeros that fits the 63 bits a BSON int64 has.
pub(crate) fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    let value = text.parse::<u64>().ok()?;
    (plain && i64::try_from(value).is_ok()).then_some(value)
}

macro_rules! text_type {
    ($name:ident, $pattern:literal) => {
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

/// Key of observations and frames: one camera of one device, and so one ordered partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CameraKey {
    /// The device.
    pub device: DeviceName,
    /// Its camera.
    pub camera: CameraName,
}

impl fmt::Display for CameraKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.camera)
    }
}

impl FromStr for CameraKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (device, camera) = text.split_once('/')?;
            Some(Self { device: device.parse().ok()?, camera: camera.parse().ok()? })
        };
        parse().ok_or_else(|| refuse(text, "<device>/<camera>"))
    }
}

text_type!(CameraKey, r"^[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}$");

/// One start of an agent: a counter that rises at each start, and eight random hex digits, so that
/// a reflashed box, a lost spool or a cloned card never repeats an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EpochId {
    /// Rises by at least one at each start of the agent.
    pub number: u64,
    /// Drawn at each start.
    pub instance: u32,
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.number, self.instance)
    }
}

impl FromStr for EpochId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let parse = || {
            let (epoch, instance) = text.split_once('-')?;
            let well_formed = instance.len() == 8 && instance.bytes().all(hex);
            let instance = u32::from_str_radix(instance, 16).ok().filter(|_| well_formed)?;
            Some(Self { number: number(epoch)?, instance })
        };
        parse().ok_or_else(|| refuse(text, "<epoch>-<8 hex digits>"))
    }
}

text_type!(EpochId, r"^(0|[1-9][0-9]{0,18})-[0-9a-f]{8}$");

/// Id of one captured frame, and of what was seen in it.
///
/// `seq` counts the captured (sampled) frames of a camera from 1 in each epoch. 0 is the place
/// before the first frame, where the epoch record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObservationId {
    /// Whose camera.
    pub key: CameraKey,
    /// Which start of the agent.
    pub epoch: EpochId,
    /// Which frame of it.
    pub seq: u64,
}

impl ObservationId {
    /// The id of a crop of this frame: of the detection at `index` in its list.
    pub fn crop(&self, index: usize) -> String {
        format!("{self}#{index}")
    }
}

impl fmt::Display for ObservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.key, self.epoch, self.seq)
    }
}

impl FromStr for ObservationId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (rest, seq) = text.rsplit_once('/')?;
            let (key, epoch) = rest.rsplit_once('/')?;
            Some(Self { key: key.parse().ok()?, epoch: epoch.parse().ok()?, seq: number(seq)? })
        };
        parse().ok_or_else(|| refuse(text, "<device>/<camera>/<epoch>-<8 hex digits>/<seq>"))
    }
}

text_type!(
    ObservationId,
    r"^[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}/(0|[1-9][0-9]{0,18})-[0-9a-f]{8}/(0|[1-9][0-9]{0,18})$"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        let text = "gate/north-1/12-0a1b2c3d/345";
        let id: ObservationId = text.parse().unwrap();
        assert_eq!((id.epoch.number, id.epoch.instance, id.seq), (12, 0x0a1b_2c3d, 345));
        assert_eq!(id.to_string(), text);
        assert_eq!(id.crop(2), "gate/north-1/12-0a1b2c3d/345#2");
    }

    #[test]
    fn there_is_one_way_only_to_write_an_id() {
        for text in [
            "",
            "gate/north/1-0a1b2c3d",
            "gate/north/1-0A1B2C3D/1",
            "gate/north/01-0a1b2c3d/1",
            "gate/north/1-0a1b2c3/1",
            "gate/north/1-0a1b2c3d/+1",
            "gate/north/1-0a1b2c3d/01",
            "gate/north/1-0a1b2c3d/9223372036854775808",
            "gate/north/x/1-0a1b2c3d/1",
            "gate/north/1-0a1b2c3d/1#0",
        ] {
            assert!(text.parse::<ObservationId>().is_err(), "{text}");
        }
    }
}
