//! Picket's aggregator: observations from Kafka become tracks in MongoDB and pages for operators.

pub mod store;
pub mod web;
