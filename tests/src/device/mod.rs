//! A device as a virtual machine: Debian 12, systemd, Debian's kernel with a virtual camera.
//!
//! - [`machine`]: QEMU: power, network cable, clock, disk.
//! - [`guest`]: commands that run inside.
//! - [`site`]: such a device with the package installed, and the centre on this host.
//! - [`claims`]: what `make test-device` shows.

pub mod claims;
pub mod guest;
pub mod machine;
pub mod site;

pub use machine::{Boot, Emulation, Machine};
pub use site::Site;
