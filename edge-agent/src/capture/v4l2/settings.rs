//! What the config says of a camera that the kernel knows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format::Kind;

/// A camera that the kernel knows.
///
/// Named by one of `device`, or any of `serial`, `bus` and `name`, all of which must then fit.
/// `/dev/videoN` names whatever was plugged in as the N-th; the others name the camera itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct V4l2Source {
    /// Device file, such as `/dev/v4l/by-id/...`, `/dev/v4l/by-path/...` or `/dev/video0`.
    #[serde(default)]
    pub device: Option<PathBuf>,
    /// Serial number of a USB camera, as `cameras` shows it.
    #[serde(default)]
    pub serial: Option<String>,
    /// Where it is plugged in, as `cameras` shows it, such as `usb-0000:00:14.0-1.2`.
    #[serde(default)]
    pub bus: Option<String>,
    /// What it calls itself, such as `HD Pro Webcam C920`.
    #[serde(default)]
    pub name: Option<String>,
    /// Width to ask for, pixels; 1280 if unset. The nearest that the camera has is taken.
    #[serde(default)]
    pub width_px: Option<u32>,
    /// Height to ask for, pixels; 720 if unset.
    #[serde(default)]
    pub height_px: Option<u32>,
    /// Frames per second to ask for; 15 if unset. The nearest above is taken, else the fastest.
    #[serde(default)]
    pub fps: Option<u32>,
    /// Only this kind of format; if unset H.264 before MJPEG before raw, as far as the camera gives
    /// them at the size and rate asked for.
    #[serde(default)]
    pub format: Option<Kind>,
    /// Settings of the camera by their names, such as `{ brightness = 128, auto_exposure = "manual_mode" }`;
    /// `cameras` lists them. One that the camera does not take is said in the status, and the camera
    /// runs without it.
    #[serde(default)]
    pub controls: BTreeMap<String, ControlValue>,
}

/// What a camera's setting is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ControlValue {
    /// Of a switch, or a button to be pressed.
    Switch(bool),
    /// Of a number, or an item of a list by its number.
    Number(i64),
    /// An item of a list by its name.
    Item(String),
}

impl V4l2Source {
    /// What logs and errors call it.
    pub fn title(&self) -> String {
        if let Some(device) = &self.device {
            return device.display().to_string();
        }
        let keys = [("serial", &self.serial), ("bus", &self.bus), ("name", &self.name)];
        let keys =
            keys.iter().filter_map(|(key, value)| Some(format!("{key} {:?}", value.as_ref()?)));
        format!("the camera with {}", keys.collect::<Vec<_>>().join(" and "))
    }

    /// What is wrong with how it is named, if anything.
    pub(in crate::capture) fn naming_problem(&self) -> Option<&'static str> {
        let by_nature = self.serial.is_some() || self.bus.is_some() || self.name.is_some();
        match &self.device {
            Some(_) if by_nature => Some(
                "source.v4l2: device names the camera alone; remove it, or serial, bus and name",
            ),
            Some(device) if device.as_os_str().as_encoded_bytes().contains(&0) => {
                Some("source.v4l2.device: a path cannot hold a NUL character")
            }
            None if !by_nature => Some(
                "source.v4l2: say which camera: device, or serial, bus or name (`cameras` lists them)",
            ),
            _ => None,
        }
    }
}
