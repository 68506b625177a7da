//! Which indexes each collection has. Pure.
//!
//! TTL of what comes from devices stands on `ingest.expire_at` and nowhere else: broker time plus
//! retention. A box whose clock says 1970 would otherwise see its observations deleted as they arrive.
//! What people did with dead letters expires by the clock of whoever did it, labels without an
//! observation by the broker time of their frame. The ledger and the
//! checkpoints never expire.

use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use crate::store::clocks::Due;
use crate::store::documents::collection;

fn index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn expiry(field: &str) -> IndexModel {
    let options = IndexOptions::builder().expire_after(Duration::ZERO).build();
    IndexModel::builder().keys(doc! { field: 1 }).options(options).build()
}

/// Only of records whose time may be corrected: a fleet whose clocks are kept has none. Of the states
/// of a clock `synchronised` comes first in the alphabet; a partial index knows no "not equal".
fn correctable() -> IndexModel {
    let partial = doc! { "clock": { "$gt": "synchronised" } };
    let options = IndexOptions::builder().partial_filter_expression(partial).build();
    let keys = doc! { "device": 1, "camera": 1, "epoch": 1, "mono_us": 1, "_id": 1 };
    IndexModel::builder().keys(keys).options(options).build()
}

/// Only of the cameras of which time alone may change something.
fn waiting() -> IndexModel {
    let partial = doc! { "waits": true };
    let options = IndexOptions::builder().partial_filter_expression(partial).build();
    IndexModel::builder().keys(doc! { "topic": 1, "partition": 1 }).options(options).build()
}

/// Only of the few epochs of which something is due, in the order in which they have their turn. The
/// version stands there because an index of ids alone cannot be partial, nor can there be two.
fn due(due: Due) -> IndexModel {
    let options = IndexOptions::builder()
        .name(due.field().to_owned())
        .partial_filter_expression(doc! { due.field(): { "$exists": true } })
        .build();
    IndexModel::builder().keys(doc! { "_id": 1, due.version(): 1 }).options(options).build()
}

/// The indexes of a collection, beside that of ids.
pub fn indexes(collection: &str) -> Vec<IndexModel> {
    // With `_id` at the end as the pages sort: a list that goes on where the last one ended.
    let by_time = |field: &str| index(doc! { field: -1, "_id": -1 });
    let of_camera = |field: &str| index(doc! { "device": 1, "camera": 1, field: -1, "_id": -1 });
    match collection {
        collection::OBSERVATIONS => vec![
            expiry("ingest.expire_at"),
            by_time("captured_at"),
            of_camera("captured_at"),
            index(doc! { "device": 1, "camera": 1, "epoch": 1, "seq": 1 }),
            correctable(),
        ],
        collection::TRACKS => vec![
            expiry("ingest.expire_at"),
            by_time("first_seen"),
            of_camera("first_seen"),
            index(doc! { "device": 1, "camera": 1, "epoch": 1, "last_mono_us": 1, "_id": 1 }),
        ],
        collection::FRAMES => vec![
            expiry("ingest.expire_at"),
            of_camera("captured_at"),
            index(doc! { "observation": 1 }),
            correctable(),
        ],
        collection::CHECKPOINTS => vec![waiting()],
        collection::CLOCKS => Due::ALL.map(due).into(),
        collection::DEAD_LETTERS => {
            vec![expiry("expire_at"), index(doc! { "camera": 1, "state": 1 })]
        }
        collection::UNCLAIMED_CLASSES => vec![expiry("expire_at")],
        collection::CAMERAS | collection::LEDGER => {
            vec![index(doc! { "device": 1, "camera": 1 })]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_piles_up_expires_and_the_ledger_never_does() {
        let expires = |name: &str| {
            indexes(name)
                .iter()
                .any(|m| m.options.as_ref().is_some_and(|o| o.expire_after.is_some()))
        };
        for name in [
            collection::OBSERVATIONS,
            collection::TRACKS,
            collection::FRAMES,
            collection::DEAD_LETTERS,
            collection::UNCLAIMED_CLASSES,
        ] {
            assert!(expires(name), "{name}");
        }
        for name in
            [collection::LEDGER, collection::CHECKPOINTS, collection::CAMERAS, collection::CLOCKS]
        {
            assert!(!expires(name), "{name}");
        }
    }
}
