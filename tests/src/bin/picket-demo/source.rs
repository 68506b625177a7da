//! What the demo's agent captures.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use picket_tests::checkout;

/// What the agent captures.
pub enum Source {
    Clip(PathBuf),
    Video(PathBuf),
    Folder(PathBuf),
    Rtsp(String),
    Camera(String),
}

impl Source {
    pub fn from_environment() -> Result<Self> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (set("VIDEO"), set("RTSP"), set("CAMERA")) {
            (Some(path), None, None) => {
                let path = std::fs::canonicalize(&path).with_context(|| format!("VIDEO={path}"))?;
                Ok(if path.is_dir() { Self::Folder(path) } else { Self::Video(path) })
            }
            (None, Some(url), None) => Ok(Self::Rtsp(url)),
            (None, None, Some(device)) => Ok(Self::Camera(device)),
            (None, None, None) => Ok(Self::Clip(checkout::clip()?)),
            _ => bail!("give one of VIDEO, RTSP and CAMERA, not several"),
        }
    }

    pub fn config(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let camera = |source: String| format!("[[camera]]\nname = \"front\"\n{source}\n");
        match self {
            Self::Clip(path) | Self::Video(path) => camera(format!(
                "source.file = {{ path = {}, repeat = true }}",
                quoted(&path.to_string_lossy())
            )),
            Self::Folder(path) => {
                format!("[[folder]]\npath = {}\npace = \"none\"\n", quoted(&path.to_string_lossy()))
            }
            Self::Rtsp(url) => camera(format!("source.rtsp = {{ url = {} }}", quoted(url))),
            Self::Camera(device) => {
                camera(format!("source.v4l2 = {{ device = {} }}", quoted(device)))
            }
        }
    }

    /// For people; an address may hold a password, so it is not repeated.
    pub fn describe(&self) -> String {
        match self {
            Self::Clip(_) => "a real clip of a man in a car, as a camera, over and over".to_owned(),
            Self::Video(path) => format!("{} as a camera, over and over", path.display()),
            Self::Folder(path) => format!("each video in {}, as fast as it goes", path.display()),
            Self::Rtsp(_) => "the network camera at RTSP".to_owned(),
            Self::Camera(device) => device.clone(),
        }
    }
}
