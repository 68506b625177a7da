//! What Picket reads from others, held against bytes that nobody meant.
//!
//! A target takes bytes and gives them to the product as the product gets them: a message from the
//! broker, a row or a file of the spool, a file that was carried by hand, a config. It panics where a
//! promise is broken, and so does the product where it must not.
//!
//! `corpus/<target>/` holds inputs that reach something of their own, and each one that once broke a
//! promise (`found-*`). `make test` runs all of them and the [`seeds`] through their targets, `make fuzz`
//! looks for more.

// A panic is what a target is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod carried;
mod config;
pub mod seeds;
mod spool_file;
mod spool_rows;
mod spool_state;
mod wire;

/// Bytes in, a panic out if a promise is broken.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("wire", wire::target),
    ("spool-rows", spool_rows::target),
    ("spool-file", spool_file::target),
    ("carried-file", carried::target),
    ("config-edge-agent", config::edge_agent),
    ("config-aggregator", config::aggregator),
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
