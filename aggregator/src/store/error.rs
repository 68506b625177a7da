//! What can fail in the store, and what to do then.

use std::path::PathBuf;

use mongodb::error::{Error as Driver, ErrorKind};

use crate::remedy::Remedy;

/// A step of the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The password's file.
    #[error("cannot read MongoDB's password from {}", path.display())]
    Password {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the connection's.
    #[error("cannot read the file of {field}, {}", path.display())]
    File {
        /// The field that names it.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// DNS does not name the servers.
    #[error("DNS does not name the MongoDB servers of {name}")]
    Srv {
        /// As configured.
        name: String,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// A host that is not `host:port`.
    #[error("{host:?} is not the host:port of a MongoDB server")]
    Host {
        /// As configured.
        host: String,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// The driver refused its options, such as an unreadable CA file.
    #[error("cannot set up the MongoDB client")]
    Client(#[source] Box<Driver>),
    /// The first contact.
    #[error("cannot reach MongoDB at {hosts}")]
    Connect {
        /// As configured.
        hosts: String,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// The servers end the connection as soon as they see the certificate.
    #[error(
        "MongoDB at {hosts} ends the connection when it sees the certificate in {}; if it stays so, that must be \
         signed by an authority that the servers trust (their tlsCAFile), and not be out of its time",
        file.display()
    )]
    Untrusted {
        /// As configured.
        hosts: String,
        /// Of the certificate.
        file: PathBuf,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// The servers answer and do not let this aggregator in.
    #[error("MongoDB at {hosts} does not let in {who}")]
    LogIn {
        /// As configured.
        hosts: String,
        /// Who asked.
        who: String,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// A server by itself, which has no transactions.
    #[error(
        "MongoDB at {hosts} is not a replica set, and transactions need one; a single server becomes \
         a replica set of one by --replSet and rs.initiate()"
    )]
    NoReplicaSet {
        /// As configured.
        hosts: String,
    },
    /// Collections and indexes.
    #[error("cannot prepare the collection {collection}")]
    Prepare {
        /// Which.
        collection: &'static str,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// Who logged in may not do what is to be done.
    #[error(
        "MongoDB does not let this aggregator's user {action} on {collection}: give it the role dbAdmin \
         beside readWrite, both on the database of store.database"
    )]
    NoRight {
        /// Which.
        collection: &'static str,
        /// As MongoDB calls it.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// Somebody made an index that ours cannot stand beside.
    #[error(
        "an index of {collection} that was made by hand has the keys or the name of one that the \
         aggregator needs, and does something else: drop it (db.{collection}.dropIndex), it is made anew"
    )]
    IndexInTheWay {
        /// Where.
        collection: &'static str,
        /// Which.
        #[source]
        source: Box<Driver>,
    },
    /// Somebody made an index that refuses what is to be stored.
    #[error(
        "the index {index} of {collection} was made by hand, has the keys of one that the aggregator \
         needs, and is unique, so that documents would be refused: drop it \
         (db.{collection}.dropIndex), it is made anew"
    )]
    UniqueIndex {
        /// Where.
        collection: &'static str,
        /// Which.
        index: String,
    },
    /// A newer build was here.
    #[error(
        "the database {database} has schema version {found}, made by picket-aggregator {by}, and this is \
         {program}, which knows schema version {own}: run {by} or newer here, or give this one a database \
         of its own (store.database), and a place of its own for pictures (upsert.images_directory, \
         or upsert.images_url)"
    )]
    NewerSchema {
        /// Which.
        database: String,
        /// Its version.
        found: i64,
        /// Whose it is.
        by: String,
        /// That of this build.
        own: i64,
        /// Version of this build.
        program: String,
    },
    /// Somebody changed the number by which builds know each other.
    #[error(
        "the document `schema` of the collection schema in the database {database} must have a whole \
         number in the field version, not {found}: put it right, or delete the document"
    )]
    SchemaVersion {
        /// Which.
        database: String,
        /// What stands there.
        found: String,
    },
    /// A read.
    #[error("cannot read {collection}")]
    Read {
        /// From where.
        collection: &'static str,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// A write that did not take place, or of which nothing is known.
    #[error("cannot write {collection}")]
    Write {
        /// Where to.
        collection: &'static str,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// A write that a single server took and that may yet be undone.
    #[error("a write to {collection} is not yet durable: {reason}")]
    NotDurable {
        /// Where to.
        collection: &'static str,
        /// What the server says.
        reason: String,
    },
    /// Some documents of a write were refused.
    #[error("{count} writes to {collection} failed, the first with code {code}: {message}")]
    WriteErrors {
        /// Where to.
        collection: &'static str,
        /// How many.
        count: usize,
        /// Of the first.
        code: i32,
        /// Of the first.
        message: String,
    },
    /// A reply without the fields that every reply has.
    #[error("the reply to a write to {collection} lacks {field}")]
    Reply {
        /// Where to.
        collection: &'static str,
        /// What is missing.
        field: &'static str,
    },
    /// The transaction that ends a batch.
    #[error("cannot write the checkpoint of {partition}")]
    Checkpoint {
        /// Which.
        partition: String,
        /// Why.
        #[source]
        source: Box<Driver>,
    },
    /// Another instance owns the partition by now: nothing was changed.
    #[error("{partition} belongs to another aggregator since: nothing was written")]
    Fenced {
        /// Which.
        partition: String,
    },
    /// A document that does not read back as what it should be.
    #[error(
        "the document {id} in {collection} is not readable at {field}: whoever changed it puts it right, \
         or deletes it where docs/running.md says so"
    )]
    Unreadable {
        /// Where.
        collection: &'static str,
        /// Which.
        id: String,
        /// Where in it; `.` for the document itself, which lacks something.
        field: String,
        /// Why.
        #[source]
        source: Box<mongodb::bson::error::Error>,
    },
    /// A value that BSON cannot hold.
    #[error("a document for {collection} cannot be written as BSON")]
    Encode {
        /// Where to.
        collection: &'static str,
        /// Why.
        #[source]
        source: Box<mongodb::bson::error::Error>,
    },
}

impl StoreError {
    /// What to do next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Connect { source, .. }
            | Self::Srv { source, .. }
            | Self::Untrusted { source, .. }
            | Self::Prepare { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Checkpoint { source, .. } => of_driver(source),
            Self::NotDurable { .. } | Self::Reply { .. } => Remedy::Retry,
            Self::WriteErrors { code, .. } => of_code(*code),
            Self::Encode { .. } => Remedy::Discard,
            Self::Password { .. }
            | Self::File { .. }
            | Self::LogIn { .. }
            | Self::Host { .. }
            | Self::Client(_)
            | Self::NoReplicaSet { .. }
            | Self::NoRight { .. }
            | Self::IndexInTheWay { .. }
            | Self::UniqueIndex { .. }
            | Self::NewerSchema { .. }
            | Self::SchemaVersion { .. }
            | Self::Fenced { .. }
            | Self::Unreadable { .. } => Remedy::Stop,
        }
    }
}

/// A refused log-in or a malformed command stays refused; everything else is the weather.
fn of_driver(error: &Driver) -> Remedy {
    match &*error.kind {
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::BsonSerialization(_)
        | ErrorKind::BsonDeserialization(_) => Remedy::Stop,
        ErrorKind::Command(command) => of_code(command.code),
        _ => Remedy::Retry,
    }
}

/// Codes that no repetition cures: bad value, failed to parse, unauthorised, document too large,
/// failed validation, and field names that cannot be stored.
const PERMANENT: [i32; 9] = [2, 9, 13, 14, 52, 55, 56, 57, 121];
const TOO_LARGE: [i32; 2] = [10334, 17419];

fn of_code(code: i32) -> Remedy {
    if PERMANENT.contains(&code) || TOO_LARGE.contains(&code) {
        Remedy::Stop
    } else {
        Remedy::Retry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_owner_stops_and_an_undurable_write_is_repeated() {
        assert_eq!(StoreError::Fenced { partition: "p".to_owned() }.remedy(), Remedy::Stop);
        let write = StoreError::NotDurable { collection: "c", reason: "timeout".to_owned() };
        assert_eq!(write.remedy(), Remedy::Retry);
    }

    #[test]
    fn a_refused_document_is_not_repeated_and_a_stepped_down_primary_is() {
        let errors = |code| StoreError::WriteErrors {
            collection: "c",
            count: 1,
            code,
            message: String::new(),
        };
        assert_eq!(errors(121).remedy(), Remedy::Stop);
        assert_eq!(errors(10107).remedy(), Remedy::Retry);
    }
}
