//! The published JSON Schemas, generated from the types. A test keeps `schemas/` equal to them.

use schemars::{Schema, schema_for};

use crate::header::Kind;
use crate::observation::{ClockRelation, DeviceCertificate, EpochStart, Gap, Observation, Skip};
use crate::status::Status;
use crate::track::{Complete, Track};

/// The schema of each JSON body.
pub fn all() -> Vec<(Kind, Schema)> {
    vec![
        (Kind::Observation, schema_for!(Observation)),
        (Kind::Skip, schema_for!(Skip)),
        (Kind::Gap, schema_for!(Gap)),
        (Kind::Epoch, schema_for!(EpochStart)),
        (Kind::Clock, schema_for!(ClockRelation)),
        (Kind::Certificate, schema_for!(DeviceCertificate)),
        (Kind::Status, schema_for!(Status)),
        (Kind::Track, schema_for!(Track)),
        (Kind::Complete, schema_for!(Complete)),
    ]
}
