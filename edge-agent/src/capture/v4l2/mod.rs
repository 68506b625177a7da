//! Cameras that the kernel knows: found by what they are, asked what they can, and told what to do.
//!
//! From the config to frames: [`plug`] finds the camera's device file, [`driver`] asks what the camera
//! can give, [`mode`] chooses of that, [`control`] checks the settings asked for, and [`opening`] joins
//! them. While frames flow, and while they do not, [`plug`] watches the socket.

pub mod command;
pub mod control;
pub mod driver;
pub mod error;
pub mod format;
pub mod mode;
pub mod opening;
mod patience;
pub mod plug;
pub mod settings;
pub mod survey;

pub use driver::Driver;
pub use error::V4l2Error;
pub use opening::Opened;
pub use plug::{Arrivals, Plug, Sysfs};
pub use settings::{ControlValue, V4l2Source};
