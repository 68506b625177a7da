//! Picket's centre.

pub mod remedy;
pub mod store;
