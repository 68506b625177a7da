//! Many writes in few commands, and every error of the replies read.
//!
//! The driver's own `bulk_write` needs a server of 8.0; these are the `insert` and `update` commands that
//! servers have had for ten years. Their reply is not an error when some of the writes failed: a batch
//! counts as written only after `writeErrors` and `writeConcernError` were read and are empty.
//!
//! Documents whose ids follow from the log go by `insert`, which a server does many at a time: an upsert
//! of each costs it three times as much.

use std::borrow::Cow;

use mongodb::ClientSession;
use mongodb::bson::raw::{CStr, cstr};
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use serde::Serialize;

use super::client::Store;
use super::encode_raw;
use super::error::StoreError;

/// Most writes in one command.
const MAX_WRITES: usize = 1000;
/// Most bytes of BSON in one command; a message may have 48 MB.
const MAX_BYTES: usize = 12 * 1024 * 1024;

/// One write of an `update` command, which changes one document at most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Update {
    /// Which document.
    #[serde(rename = "q")]
    pub filter: Document,
    /// What becomes of it: operators, or a pipeline.
    #[serde(rename = "u")]
    pub change: Bson,
    /// Whether to make it if it is not there.
    pub upsert: bool,
}

impl Update {
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

/// A command: its name, and that of the field that holds its writes.
type Verb = (&'static CStr, &'static CStr);
const INSERT: Verb = (cstr!("insert"), cstr!("documents"));
const UPDATE: Verb = (cstr!("update"), cstr!("updates"));

/// Cuts writes into commands that the server takes.
fn split<'a>(writes: impl IntoIterator<Item = Cow<'a, RawDocument>>) -> Vec<RawArrayBuf> {
    let mut commands: Vec<RawArrayBuf> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for write in writes {
        let size = write.as_bytes().len();
        match commands.last_mut() {
            Some(last) if count < MAX_WRITES && bytes + size <= MAX_BYTES => {
                last.push(&*write);
                (count, bytes) = (count + 1, bytes + size);
            }
            _ => {
                commands.push(RawArrayBuf::from_iter([&*write]));
                (count, bytes) = (1, size);
            }
        }
    }
    commands
}

fn command(
    (name, field): Verb,
    collection: &str,
    writes: &RawArrayBuf,
    ordered: bool,
) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(name, collection);
    command.append(field, writes);
    command.append(cstr!("ordered"), ordered);
    command
}

fn encoded(
    collection: &'static str,
    updates: &[Update],
) -> Result<Vec<RawDocumentBuf>, StoreError> {
    updates.iter().map(|update| encode_raw(collection, update)).collect()
}

fn borrowed(documents: &[RawDocumentBuf]) -> impl Iterator<Item = Cow<'_, RawDocument>> {
    documents.iter().map(Into::into)
}

impl Store {
    /// Stores documents unless their ids are there already; returns after all are durable.
    pub async fn insert_once(
        &self,
        collection: &'static str,
        documents: &[RawDocumentBuf],
    ) -> Result<(), StoreError> {
        self.carry_out(INSERT, collection, documents, is_there_already).await
    }

    /// Carries out writes in any order; returns after all are durable.
    pub async fn write(
        &self,
        collection: &'static str,
        updates: &[Update],
    ) -> Result<(), StoreError> {
        self.carry_out(UPDATE, collection, &encoded(collection, updates)?, |_| false).await
    }

    async fn carry_out(
        &self,
        verb: Verb,
        collection: &'static str,
        writes: &[RawDocumentBuf],
        is_harmless: fn(&Document) -> bool,
    ) -> Result<(), StoreError> {
        for writes in split(borrowed(writes)) {
            let mut command = command(verb, collection, &writes, false);
            command.append(cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
            let reply = self.database.run_raw_command(command).await;
            let reply = reply.map_err(|e| StoreError::Write { collection, source: Box::new(e) })?;
            read_reply(collection, &reply, is_harmless)?;
        }
        Ok(())
    }

    /// The same within a transaction, whose end decides when it is durable.
    pub(super) async fn write_in(
        &self,
        session: &mut ClientSession,
        collection: &'static str,
        updates: &[Update],
    ) -> Result<Written, StoreError> {
        let mut written = Written::default();
        for writes in split(borrowed(&encoded(collection, updates)?)) {
            let command = command(UPDATE, collection, &writes, true);
            let reply = self.database.run_raw_command(command).session(&mut *session).await;
            let reply = reply.map_err(|e| StoreError::Write { collection, source: Box::new(e) })?;
            written.matched += read_reply(collection, &reply, |_| false)?.matched;
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

fn read_reply(
    collection: &'static str,
    reply: &Document,
    is_harmless: fn(&Document) -> bool,
) -> Result<Written, StoreError> {
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let is_harmless = |error: &&Bson| error.as_document().is_some_and(is_harmless);
    let errors: Vec<&Bson> = errors.iter().filter(|error| !is_harmless(error)).collect();
    if !errors.is_empty() {
        return Err(write_errors(collection, &errors));
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

/// Whether an insert failed because the document's own id is there, and not for an index that somebody
/// else made.
fn is_there_already(error: &Document) -> bool {
    let is_id = |pattern: &Document| pattern.keys().eq(["_id"]);
    integer(error.get("code")) == Some(DUPLICATE_KEY)
        && error.get_document("keyPattern").is_ok_and(is_id)
}

fn write_errors(collection: &'static str, errors: &[&Bson]) -> StoreError {
    let code = |error: &&Bson| integer(error.as_document().and_then(|e| e.get("code")));
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
        match read_reply("observations", &reply, |_| false) {
            Err(StoreError::WriteErrors { count: 2, code: 121, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_write_that_no_majority_has_is_an_error_although_ok_is_1() {
        let reply =
            doc! { "ok": 1, "n": 1, "writeConcernError": { "code": 64, "errmsg": "timeout" } };
        assert!(matches!(
            read_reply("tracks", &reply, |_| false),
            Err(StoreError::NotDurable { .. })
        ));
    }

    #[test]
    fn a_large_batch_is_cut_by_count_and_by_bytes_and_loses_nothing() {
        let write = |n: usize, size: usize| rawdoc! { "_id": n as i64, "fill": "x".repeat(size) };
        let cut = |writes: Vec<RawDocumentBuf>| {
            let counts =
                split(borrowed(&writes)).into_iter().map(|array| array.into_iter().count());
            counts.collect::<Vec<_>>()
        };
        assert_eq!(cut((0..2500).map(|n| write(n, 1)).collect()), [1000, 1000, 500]);
        assert_eq!(cut((0..5).map(|n| write(n, 5 * 1024 * 1024)).collect()), [2, 2, 1]);
    }

    #[test]
    fn of_an_insert_an_id_that_is_there_is_no_error_and_any_other_duplicate_is() {
        let twice = |pattern: Document| {
            doc! { "index": 0, "code": 11000, "errmsg": "duplicate", "keyPattern": pattern }
        };
        let read = |errors: Vec<Document>| {
            let reply = doc! { "ok": 1, "n": 3, "writeErrors": errors };
            read_reply("observations", &reply, is_there_already)
        };
        assert_eq!(read(vec![twice(doc! { "_id": 1 })]).unwrap(), Written { matched: 3 });
        let invalid = doc! { "index": 1, "code": 121, "errmsg": "validation" };
        for other in [twice(doc! { "seq": 1 }), twice(doc! { "_id": 1, "seq": 1 }), invalid] {
            let read = read(vec![twice(doc! { "_id": 1 }), other.clone()]);
            assert!(matches!(read, Err(StoreError::WriteErrors { count: 1, .. })), "{other}");
        }
    }

    #[test]
    fn the_order_of_a_document_is_found_below_a_subdocument() {
        let document = doc! { "_id": "a", "ingest": { "broker_time": 7 } };
        assert_eq!(path(&document, "ingest.broker_time"), Bson::Int32(7));
        assert_eq!(path(&document, "rev"), Bson::Null);
    }
}
