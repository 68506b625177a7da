//! Partitions of the status topic: the newest heartbeat of each device.

use std::collections::HashMap;

use picket_wire::Message;

use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry};
use crate::store::bulk::Update;
use crate::store::documents::collection;
use crate::store::encode;
use crate::upsert;

/// Heartbeats are not kept: this only gives `ingest` its shape.
const UNUSED_RETENTION_DAYS: u32 = 36_500;

/// Takes the batch in: of each device, the last heartbeat. The broker's time decides against what
/// is stored, because the device's clock may be wrong.
pub fn apply(entries: Vec<Entry>) -> Effects {
    let mut effects = Effects::default();
    let mut newest: HashMap<String, Update> = HashMap::new();
    for entry in entries {
        let status = match &entry.message {
            Ok(Message::Status(status)) => status,
            Ok(_) => continue,
            Err(reject) => {
                let reject = reject.clone();
                effects.dead_letters.push(DeadLetter::unreadable(entry.record, &reject));
                continue;
            }
        };
        let ingest = entry.origin.ingest(UNUSED_RETENTION_DAYS);
        let document = upsert::device(status, ingest)
            .and_then(|device| Ok((device.id.clone(), encode(collection::DEVICES, &device)?)));
        match document {
            Ok((id, document)) => {
                let update = Update::keep_higher(&id, "ingest.broker_time", document);
                newest.insert(id, update);
            }
            Err(error) => effects.dead_letters.push(entry.unstorable(&error)),
        }
    }
    effects.writes.push((collection::DEVICES, newest.into_values().collect()));
    effects
}
