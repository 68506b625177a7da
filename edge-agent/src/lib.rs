//! Picket's edge agent.

pub mod capture;
pub mod detect;
