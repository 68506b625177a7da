//! Many writes in few commands, and every error of the replies read.
//!
//! The driver's own `bulk_write` needs a server of 8.0; this is the `update` command that servers
//! have had for ten years. Its reply is not an error when some of the writes failed: a batch counts
//! as written only after `writeErrors` and `writeConcernError` were read and are empty.

use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};

use super::client::Store;
use super::error::StoreError;

/// Most writes in one command.
const MAX_WRITES: usize = 1000;
/// Most bytes of BSON in one command; a message may have 48 MB.
const MAX_BYTES: usize = 12 * 1024 * 1024;

/// One write of an `update` command.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which document.
    pub filter: Document,
    /// What becomes of it: operators, or a pipeline.
    pub change: Bson,
    /// Whether to make it if it is not there.
    pub upsert: bool,
}

impl Update {
    /// Stores a document unless its id is there already: a repeated write changes nothing.
    pub fn insert_once(id: &str, document: Document) -> Self {
        let mut fields = document;
        fields.remove("_id");
        Self {
            filter: doc! { "_id": id },
            change: doc! { "$setOnInsert": fields }.into(),
            upsert: true,
        }
    }

    /// Replaces the fields of a document.
    pub fn set(id: &str, document: Document) -> Self {
        let mut fields = document;
        fields.remove("_id");
        Self { filter: doc! { "_id": id }, change: doc! { "$set": fields }.into(), upsert: true }
    }

    /// Stores a document unless the one that is there has a higher `order`, so that a former owner
    /// that wakes up late changes nothing. Of several fields the first decides in which they differ; one
    /// that is missing comes before all others.
    pub fn keep_higher(id: &str, order: &[&str], document: Document) -> Self {
        let old: Vec<String> = order.iter().map(|field| format!("${field}")).collect();
        let new: Vec<Bson> =
            order.iter().map(|field| doc! { "$literal": path(&document, field) }.into()).collect();
        let stays = doc! { "$gt": [old, new] };
        let choice = doc! { "$cond": [stays, "$$ROOT", { "$literal": document }] };
        Self {
            filter: doc! { "_id": id },
            change: Bson::Array(vec![doc! { "$replaceWith": choice }.into()]),
            upsert: true,
        }
    }

    fn into_document(self) -> Document {
        doc! { "q": self.filter, "u": self.change, "upsert": self.upsert, "multi": false }
    }
}

fn path(document: &Document, dotted: &str) -> Bson {
    let mut names = dotted.split('.');
    let first = names.next().and_then(|name| document.get(name));
    let found = names.fold(first, |value, name| value?.as_document()?.get(name));
    found.cloned().unwrap_or(Bson::Null)
}

/// What a command did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Documents that were found or made.
    pub matched: i64,
}

/// Cuts writes into commands that the server takes.
fn split(updates: Vec<Update>) -> Vec<Vec<Document>> {
    let mut commands: Vec<Vec<Document>> = Vec::new();
    let mut bytes = 0;
    for update in updates {
        let document = update.into_document();
        let size = mongodb::bson::serialize_to_vec(&document).map_or(0, |raw| raw.len());
        match commands.last_mut() {
            Some(last) if last.len() < MAX_WRITES && bytes + size <= MAX_BYTES => {
                last.push(document);
                bytes += size;
            }
            _ => {
                commands.push(vec![document]);
                bytes = size;
            }
        }
    }
    commands
}

impl Store {
    /// Carries out writes in any order; returns after all are durable.
    pub async fn write(
        &self,
        collection: &'static str,
        updates: Vec<Update>,
    ) -> Result<(), StoreError> {
        for command in split(updates) {
            let command = doc! {
                "update": collection,
                "updates": command,
                "ordered": false,
                "writeConcern": { "w": "majority", "j": true },
            };
            let reply = self.database.run_command(command).await;
            let reply = reply.map_err(|e| StoreError::Write { collection, source: Box::new(e) })?;
            read_reply(collection, &reply)?;
        }
        Ok(())
    }

    /// The same within a transaction, whose end decides when it is durable.
    pub(super) async fn write_in(
        &self,
        session: &mut ClientSession,
        collection: &'static str,
        updates: Vec<Update>,
    ) -> Result<Written, StoreError> {
        let mut written = Written::default();
        for command in split(updates) {
            let command = doc! { "update": collection, "updates": command, "ordered": true };
            let reply = self.database.run_command(command).session(&mut *session).await;
            let reply = reply.map_err(|e| StoreError::Write { collection, source: Box::new(e) })?;
            written.matched += read_reply(collection, &reply)?.matched;
        }
        Ok(written)
    }
}

fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "servers write small counts as doubles"
        )]
        Bson::Double(n) => Some(*n as i64),
        _ => None,
    }
}

fn read_reply(collection: &'static str, reply: &Document) -> Result<Written, StoreError> {
    if let Ok(errors) = reply.get_array("writeErrors")
        && !errors.is_empty()
    {
        return Err(write_errors(collection, errors));
    }
    if let Ok(error) = reply.get_document("writeConcernError") {
        let reason = error.get_str("errmsg").unwrap_or("no reason given").to_owned();
        return Err(StoreError::NotDurable { collection, reason });
    }
    let matched = integer(reply.get("n")).ok_or(StoreError::Reply { collection, field: "n" })?;
    Ok(Written { matched })
}

/// Two instances that insert the same id at once: the loser is told of a duplicate key, and finds
/// the document there when it tries again.
const DUPLICATE_KEY: i64 = 11000;

fn write_errors(collection: &'static str, errors: &[Bson]) -> StoreError {
    let code = |error: &Bson| integer(error.as_document().and_then(|e| e.get("code")));
    // The gravest decides: a duplicate key cures itself.
    let worst = errors.iter().find(|e| code(e) != Some(DUPLICATE_KEY)).or_else(|| errors.first());
    let message = worst.and_then(|e| e.as_document()?.get_str("errmsg").ok());
    StoreError::WriteErrors {
        collection,
        count: errors.len(),
        code: worst.and_then(code).and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
        message: message.unwrap_or("no reason given").chars().take(300).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_with_a_write_error_is_an_error_although_ok_is_1() {
        let reply = doc! { "ok": 1, "n": 3, "writeErrors": [
            { "index": 0, "code": 11000, "errmsg": "duplicate" },
            { "index": 2, "code": 121, "errmsg": "validation" },
        ]};
        match read_reply("observations", &reply) {
            Err(StoreError::WriteErrors { count: 2, code: 121, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_write_that_no_majority_has_is_an_error_although_ok_is_1() {
        let reply =
            doc! { "ok": 1, "n": 1, "writeConcernError": { "code": 64, "errmsg": "timeout" } };
        assert!(matches!(read_reply("tracks", &reply), Err(StoreError::NotDurable { .. })));
    }

    #[test]
    fn a_large_batch_is_cut_by_count_and_by_bytes_and_loses_nothing() {
        let update = |n: usize, size: usize| {
            Update::insert_once(&n.to_string(), doc! { "_id": "x", "fill": "x".repeat(size) })
        };
        let many = split((0..2500).map(|n| update(n, 1)).collect());
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
        let large = split((0..5).map(|n| update(n, 5 * 1024 * 1024)).collect());
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn the_order_of_a_document_is_found_below_a_subdocument() {
        let document = doc! { "_id": "a", "ingest": { "broker_time": 7 } };
        assert_eq!(path(&document, "ingest.broker_time"), Bson::Int32(7));
        assert_eq!(path(&document, "rev"), Bson::Null);
    }
}
