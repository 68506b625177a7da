//! Picket's centre.

pub mod consume;
pub mod metrics;
pub mod remedy;
pub mod store;
pub mod track;
pub mod upsert;
