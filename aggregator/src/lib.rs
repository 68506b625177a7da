//! Picket's centre: observations from Kafka become tracks in MongoDB and pages for operators.
//!
//! A record's path: [`consume`] reads it and finds its place, [`track`] gives its detections an
//! identity, [`upsert`] turns it into documents and pictures, [`web`] shows them. [`classify`] looks at
//! frames once more, in a process of its own. [`store`] owns the collections, the checkpoints and the ledger; only [`wiring`] knows all stages.

pub mod classify;
pub mod config;
pub mod consume;
pub mod metrics;
pub mod mot;
pub mod remedy;
pub mod store;
pub mod track;
pub mod upsert;
pub mod web;
pub mod wiring;
