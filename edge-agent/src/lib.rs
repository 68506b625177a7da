//! Picket's edge agent: a camera's frames become observations at the broker.
//!
//! A frame's path: [`capture`] takes it from the camera, [`detect`] looks at it, [`spool`] keeps what
//! was found on disk, [`uplink`] sends it and lets the spool delete what the broker has acknowledged.
//! Only [`wiring`] knows all stages.
//!
//! An acknowledgement promises that the broker's in-sync replicas have the record, not that the
//! centre has stored it.

pub mod capture;
pub mod config;
pub mod control;
pub mod detect;
pub mod doctor;
pub mod drill;
pub mod estimate;
pub mod heartbeat;
pub mod identity;
pub mod look;
pub mod metrics;
pub mod spool;
pub mod spool_command;
pub mod uplink;
pub mod wiring;
