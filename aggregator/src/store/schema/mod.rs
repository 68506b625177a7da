//! Collections, validators and indexes: made at start, and changed after an upgrade that has others.
//!
//! Everything is compared first, and only what differs is changed: a start that changes nothing needs no
//! right but to read and to write, and any number of aggregators may do this at once. Which form the
//! documents have stands in the collection `schema`, as a number that only rises. Whoever begins raises
//! it before anything else and looks at it again before each change, so that of two builds the newer one
//! has the last word; an older one ends.
//!
//! Indexes that somebody made by hand stay, and one that does what ours does takes its place. A unique one
//! of the keys of ours would refuse documents: it is named, and nothing is made.

mod indexes;
mod validators;

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc, serialize_to_document};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ReturnDocument;
use serde::Deserialize;

use super::client::Store;
use super::decode;
use super::documents::collection;
use super::error::StoreError;
use indexes::indexes;
use validators::{Action, validator_document};
pub use validators::{Date, validator};

/// The form of the documents that this build writes. Raised where older builds could not go on from what
/// a newer one wrote; a field that older builds may overlook does not raise it.
pub const SCHEMA_VERSION: i64 = 1;

/// Id of the only document of `schema`.
const THE_ONE: &str = "schema";

/// `NamespaceExists`: another instance was faster.
const NAMESPACE_EXISTS: i32 = 48;
/// `Unauthorized`.
const UNAUTHORISED: i32 = 13;
/// `IndexOptionsConflict`, `IndexKeySpecsConflict`: one of the same keys or name does something else.
const INDEX_CONFLICTS: [i32; 2] = [85, 86];

const ALL: [&str; 11] = [
    // First: it says who may go on.
    collection::SCHEMA,
    collection::OBSERVATIONS,
    collection::TRACKS,
    collection::FRAMES,
    collection::DEVICES,
    collection::CAMERAS,
    collection::CHECKPOINTS,
    collection::LEDGER,
    collection::CLOCKS,
    collection::DEAD_LETTERS,
    collection::UNCLAIMED_CLASSES,
];

/// Names of the centre's collections.
pub fn collections() -> impl Iterator<Item = &'static str> {
    ALL.into_iter()
}

impl Store {
    /// Makes what is missing and changes what differs. Collections are made here because a transaction
    /// cannot.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.prepare_as(SCHEMA_VERSION, env!("CARGO_PKG_VERSION")).await
    }

    /// The same as a build of another version would.
    pub async fn prepare_as(&self, version: i64, program: &str) -> Result<(), StoreError> {
        // Before anything is made: what is newer stays as it is.
        self.check_version(version, program).await?;
        let existing = self.existing().await?;
        for name in ALL {
            match existing.iter().find(|found| found.get_str("name").is_ok_and(|its| its == name)) {
                None => self.create(name).await?,
                Some(found) if !is_validated(name, found) => {
                    self.check_version(version, program).await?;
                    self.change(name, "the validator", validation(name, "collMod")).await?;
                }
                Some(_) => {}
            }
            if name == collection::SCHEMA {
                self.raise_version(version, program).await?;
            }
            self.index(name, (version, program)).await?;
        }
        self.check_version(version, program).await
    }

    /// What no other database has, but for a copy of it; drawn when it was first prepared.
    pub async fn database_id(&self) -> Result<String, StoreError> {
        #[derive(Deserialize)]
        struct Identity {
            database_id: String,
        }
        let name = collection::SCHEMA;
        let schemas = self.database.collection::<Document>(name);
        let found = schemas.find_one(doc! { "_id": THE_ONE }).await;
        let found =
            found.map_err(|e| StoreError::Read { collection: name, source: Box::new(e) })?;
        let Identity { database_id } = decode(name, found.unwrap_or(doc! { "_id": THE_ONE }))?;
        Ok(database_id)
    }

    async fn existing(&self) -> Result<Vec<Document>, StoreError> {
        let name = collection::SCHEMA;
        let failed = |e| prepare_error(name, "listCollections", e);
        let command = doc! { "listCollections": 1 };
        let found = self.database.run_cursor_command(command).await.map_err(failed)?;
        found.try_collect().await.map_err(failed)
    }

    async fn create(&self, name: &'static str) -> Result<(), StoreError> {
        let made = self.database.run_command(validation(name, "create")).await;
        match made {
            Err(e) if code(&e) == Some(NAMESPACE_EXISTS) => Ok(()),
            Err(e) => Err(prepare_error(name, "createCollection", e)),
            Ok(_) => {
                tracing::info!(collection = name, "made the collection {name}");
                Ok(())
            }
        }
    }

    async fn change(
        &self,
        name: &'static str,
        what: &str,
        command: Document,
    ) -> Result<(), StoreError> {
        let changed = self.database.run_command(command).await;
        changed.map_err(|e| prepare_error(name, "collMod", e))?;
        tracing::info!(collection = name, "changed {what} of the collection {name}");
        Ok(())
    }

    async fn index(&self, name: &'static str, build: (i64, &str)) -> Result<(), StoreError> {
        let target = self.database.collection::<Document>(name);
        let failed = |e| prepare_error(name, "listIndexes", e);
        let found: Vec<IndexModel> =
            target.list_indexes().await.map_err(failed)?.try_collect().await.map_err(failed)?;
        let mut missing = Vec::new();
        let own = own_collation(&found);
        for wanted in indexes(name) {
            if let Some(there) = found.iter().find(|there| refuses(there, &wanted)) {
                let index = name_of(there).unwrap_or_default();
                return Err(StoreError::UniqueIndex { collection: name, index });
            }
            let does_the_same = |there: &&IndexModel| does_the_same(there, &wanted, own.as_ref());
            let Some(there) = found.iter().find(does_the_same) else {
                missing.push(wanted);
                continue;
            };
            if let Some(expires) = expires(&wanted)
                && self::expires(there) != Some(expires)
            {
                self.check_version(build.0, build.1).await?;
                let its_name = name_of(there);
                let seconds = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
                let change = doc! { "name": its_name, "expireAfterSeconds": seconds };
                let command = doc! { "collMod": name, "index": change };
                self.change(name, "the expiry", command).await?;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let made = target.create_indexes(missing).await;
        made.map_err(|e| prepare_error(name, "createIndex", e))?;
        Ok(())
    }

    async fn check_version(&self, own: i64, program: &str) -> Result<(), StoreError> {
        let schemas = self.database.collection::<Document>(collection::SCHEMA);
        let found = schemas.find_one(doc! { "_id": THE_ONE }).await;
        let found = found.map_err(|e| prepare_error(collection::SCHEMA, "find", e))?;
        let Some(found) = found else { return Ok(()) };
        judge(&found, own, program, self.database.name())
    }

    /// It never falls: the higher of two stays, with the program that it is of.
    async fn raise_version(&self, own: i64, program: &str) -> Result<(), StoreError> {
        let schemas = self.database.collection::<Document>(collection::SCHEMA);
        let is_higher = doc! { "$gt": [own, "$version"] };
        let raised = |new: Bson, old: &str| doc! { "$cond": [&is_higher, new, old] };
        let change = vec![doc! { "$set": {
            "by": raised(program.into(), "$by"),
            "at": raised(DateTime::now().into(), "$at"),
            "version": raised(own.into(), "$version"),
            "database_id": { "$ifNull": ["$database_id", ObjectId::new().to_hex()] },
        }}];
        let raised = schemas
            .find_one_and_update(doc! { "_id": THE_ONE }, change)
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await
            .map_err(|e| prepare_error(collection::SCHEMA, "update", e))?;
        let missing = StoreError::Reply { collection: collection::SCHEMA, field: "value" };
        judge(&raised.ok_or(missing)?, own, program, self.database.name())
    }
}

/// Whether a build may work on what another one made.
fn judge(found: &Document, own: i64, program: &str, database: &str) -> Result<(), StoreError> {
    let version = match found.get("version") {
        Some(Bson::Int64(version)) => *version,
        Some(Bson::Int32(version)) => i64::from(*version),
        other => {
            let found = other.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            return Err(StoreError::SchemaVersion { database: database.to_owned(), found });
        }
    };
    if version <= own {
        return Ok(());
    }
    Err(StoreError::NewerSchema {
        database: database.to_owned(),
        found: version,
        by: found.get_str("by").unwrap_or("an unnamed version").to_owned(),
        own,
        program: program.to_owned(),
    })
}

/// The command that makes a collection, or changes what it holds documents to. Documents that are not
/// valid already may be changed all the same (`moderate`): a hand that slipped does not hold up what
/// comes after.
fn validation(name: &str, command: &str) -> Document {
    doc! {
        command: name,
        "validator": validator_document(name),
        "validationLevel": "moderate",
        "validationAction": Action::of(name).as_str(),
    }
}

fn is_validated(name: &str, found: &Document) -> bool {
    let wanted = validation(name, "create");
    let options = found.get_document("options");
    ["validator", "validationLevel", "validationAction"]
        .iter()
        .all(|field| options.as_ref().is_ok_and(|options| options.get(field) == wanted.get(field)))
}

fn expires(index: &IndexModel) -> Option<Duration> {
    index.options.as_ref()?.expire_after
}

fn name_of(index: &IndexModel) -> Option<String> {
    index.options.as_ref()?.name.clone()
}

/// How it orders texts; none if byte by byte.
fn collation(index: &IndexModel) -> Option<Document> {
    let collation = index.options.as_ref()?.collation.as_ref()?;
    Some(serialize_to_document(collation).unwrap_or_default())
}

/// How a collection orders texts where nothing else is asked for: as its index of ids does.
fn own_collation(found: &[IndexModel]) -> Option<Document> {
    found.iter().find(|index| index.keys == doc! { "_id": 1 }).and_then(collation)
}

/// Whether one of the keys of ours refuses documents: none of ours is unique.
fn refuses(there: &IndexModel, wanted: &IndexModel) -> bool {
    let is_unique = there.options.as_ref().and_then(|options| options.unique).unwrap_or_default();
    is_unique && same_keys(&there.keys, &wanted.keys)
}

/// Whether queries find in one what they would in the other; whether it expires can be changed.
fn does_the_same(there: &IndexModel, wanted: &IndexModel, own: Option<&Document>) -> bool {
    let partial = |index: &IndexModel| {
        index.options.as_ref().and_then(|options| options.partial_filter_expression.clone())
    };
    let is_sparse = there.options.as_ref().and_then(|options| options.sparse).unwrap_or_default();
    // One that is asked for by its name must have it.
    let is_named = name_of(wanted).is_none_or(|wanted| name_of(there) == Some(wanted));
    same_keys(&there.keys, &wanted.keys)
        && partial(there) == partial(wanted)
        && collation(there).as_ref() == own
        && is_named
        && !is_sparse
}

/// Shells write 1 as a double.
fn same_keys(a: &Document, b: &Document) -> bool {
    let number = |value: &Bson| match value {
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Double(n) => Some(*n),
        #[expect(clippy::cast_precision_loss, reason = "1 or -1")]
        Bson::Int64(n) => Some(*n as f64),
        _ => None,
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|((a_name, a), (b_name, b))| {
            a_name == b_name && (a == b || number(a).is_some() && number(a) == number(b))
        })
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn prepare_error(name: &'static str, action: &'static str, source: Error) -> StoreError {
    let source = Box::new(source);
    match code(&source) {
        Some(UNAUTHORISED) => StoreError::NoRight { collection: name, action, source },
        Some(code) if INDEX_CONFLICTS.contains(&code) => {
            StoreError::IndexInTheWay { collection: name, source }
        }
        _ => StoreError::Prepare { collection: name, source },
    }
}

#[cfg(test)]
mod tests {
    use mongodb::options::{Collation, IndexOptions};

    use super::*;

    #[test]
    fn an_older_build_is_told_which_versions_differ_and_what_to_do() {
        let found = doc! { "version": 3_i64, "by": "0.4.0" };
        let error = judge(&found, 1, "0.1.0", "picket").unwrap_err().to_string();
        for part in ["version 3", "0.4.0", "version 1", "0.1.0", "store.database"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(judge(&found, 3, "0.4.1", "picket").is_ok());
        assert!(judge(&doc! { "version": 2 }, 3, "0.4.1", "picket").is_ok(), "from a shell");
        for spoilt in [doc! {}, doc! { "version": "3" }] {
            let error = judge(&spoilt, 3, "0.4.1", "picket").unwrap_err();
            assert!(matches!(error, StoreError::SchemaVersion { .. }), "{error}");
        }
    }

    #[test]
    fn an_index_made_by_hand_serves_if_it_finds_the_same() {
        let model = |keys: Document| IndexModel::builder().keys(keys).build();
        let keys = || doc! { "device": 1, "camera": 1 };
        let wanted = model(keys());
        let serves = |there: &IndexModel| does_the_same(there, &wanted, None);
        assert!(serves(&model(doc! { "device": 1.0, "camera": 1.0 })));
        assert!(!serves(&model(doc! { "camera": 1, "device": 1 })));
        assert!(!serves(&model(doc! { "device": 1, "camera": -1 })));
        let with = |options| IndexModel::builder().keys(keys()).options(options).build();
        assert!(!serves(&with(IndexOptions::builder().sparse(true).build())));
        let partial = indexes(collection::CHECKPOINTS).remove(0);
        assert!(!does_the_same(&model(partial.keys.clone()), &partial, None));

        // Its order of texts is that of its collection, or queries do not use it.
        let german = Collation::builder().locale("de").build();
        let ids = IndexOptions::builder().collation(german.clone()).build();
        let ids = IndexModel::builder().keys(doc! { "_id": 1 }).options(ids).build();
        let own = own_collation(&[wanted.clone(), ids]);
        assert!(own.is_some());
        let collated = with(IndexOptions::builder().collation(german).build());
        assert!(!serves(&collated));
        assert!(does_the_same(&collated, &wanted, own.as_ref()));
        assert!(!does_the_same(&wanted, &wanted, own.as_ref()));
    }

    #[test]
    fn an_index_that_refuses_documents_is_told_from_one_that_does_not() {
        let model = |keys: Document, unique: bool| {
            let options = IndexOptions::builder().unique(unique).build();
            IndexModel::builder().keys(keys).options(options).build()
        };
        let wanted = IndexModel::builder().keys(doc! { "device": 1, "camera": 1 }).build();
        assert!(refuses(&model(doc! { "device": 1.0, "camera": 1 }, true), &wanted));
        assert!(!refuses(&model(doc! { "device": 1, "camera": 1 }, false), &wanted));
        assert!(!refuses(&model(doc! { "device": 1 }, true), &wanted));
    }
}
