//! Partitions of the status topic: the newest heartbeat of each device.

use std::collections::HashMap;

use metrics::counter;
use picket_wire::Message;
use picket_wire::status::Status;

use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry};
use super::twins::Twins;
use crate::metrics::TWINS;
use crate::store::bulk::Update;
use crate::store::documents::collection;
use crate::store::encode;
use crate::upsert;

/// Heartbeats are not kept: this only gives `ingest` its shape.
const UNUSED_RETENTION_DAYS: u32 = 36_500;

/// Takes the batch in: of each device, the last heartbeat. The broker's time decides against what
/// is stored, because the device's clock may be wrong.
pub fn apply(entries: Vec<Entry>, twins: &mut Twins) -> Effects {
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
        look_for_twin(status, entry.origin.broker_time_ms, twins);
        let ingest = entry.origin.ingest(UNUSED_RETENTION_DAYS);
        let document = upsert::device(status, ingest)
            .and_then(|device| Ok((device.id.clone(), encode(collection::DEVICES, &device)?)));
        match document {
            Ok((id, document)) => {
                let update = Update::keep_higher(&id, &["ingest.broker_time"], document);
                newest.insert(id, update);
            }
            Err(error) => effects.dead_letters.push(entry.unstorable(&error)),
        }
    }
    effects.writes.push((collection::DEVICES, newest.into_values().collect()));
    effects
}

/// Says so when two agents run as one device.
fn look_for_twin(status: &Status, at_ms: i64, twins: &mut Twins) {
    let Some(twin) = twins.heed(&status.device, status.epoch, at_ms) else {
        return;
    };
    counter!(TWINS).increment(1);
    if twin.is_news {
        let [one, other] = twin.epochs.map(|epoch| epoch.to_string());
        tracing::warn!(device = %status.device, one, other,
            "two agents run as device {}, in the epochs {one} and {other}: a copied card, or one \
             certificate on two boxes. Give one of them a name and a certificate of its own",
            status.device);
    }
}
