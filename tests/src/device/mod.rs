//! A device as a virtual machine: Debian 12, systemd, Debian's kernel with a virtual camera.
//!
//! - [`machine`]: QEMU: power, network cable, clock, disk.
//! - [`guest`]: commands that run inside.

pub mod guest;
pub mod machine;

pub use machine::{Boot, Machine};
