//! What can go wrong with keys.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::cipher::{CipherError, KeyNumber};
use super::master::MasterId;

/// A key that cannot be had, made or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The process was not started by systemd, or with another unit.
    #[error(
        "spool.encryption.{field}: systemd gives this process no credentials, and {name} is one: \
         start it as the service, or by `systemd-run` with the same LoadCredential line"
    )]
    NoCredentials {
        /// Which field.
        field: &'static str,
        /// The credential.
        name: String,
    },
    /// The master key's file cannot be read.
    #[error("spool.encryption.{field}: cannot read the master key {}", path.display())]
    Master {
        /// Which field.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The master key's file is not as it must be.
    #[error("spool.encryption.{field}: {} {problem}", path.display())]
    BadMaster {
        /// Which field.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Keys that only another master key opens.
    #[error(
        "{count} batch keys in {} are encrypted by the master key {master}, and {configured}: name \
         that key's file in spool.encryption (key_file or former_key_files). Nothing is lost while it \
         can be found. If it is gone for good, remove that folder: what waits under these keys is then \
         dropped, counted as spool-key-lost and told to the centre", folder.display()
    )]
    OtherMaster {
        /// How many.
        count: usize,
        /// The folder of the keys.
        folder: PathBuf,
        /// Which master key they need.
        master: MasterId,
        /// Which there are, in words.
        configured: String,
    },
    /// A file of a batch key.
    #[error("cannot {step} the batch key {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The batch key is not there: it was destroyed.
    #[error("the batch key {number} is not there any more")]
    Gone {
        /// Which.
        number: KeyNumber,
    },
    /// The file of the batch key is not what was written.
    #[error("the batch key {} is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The file of the batch key could not be read for a while.
    #[error("the batch key {number} could not be read for {for_s} s")]
    StaysUnreadable {
        /// Which.
        number: KeyNumber,
        /// How long.
        for_s: u64,
    },
    /// The key is there, and the value is not what it encrypted for that row.
    #[error("it does not open under the batch key {number}")]
    DoesNotOpen {
        /// Which key.
        number: KeyNumber,
    },
    /// A value was to be encrypted before there was a key.
    #[error("there is no batch key in use")]
    NoneInUse,
    /// The system gives no random numbers.
    #[error("cannot draw a batch key")]
    Random(#[source] getrandom::Error),
    /// The cipher refused to encrypt.
    #[error("cannot encrypt")]
    Encrypt(#[source] CipherError),
}

impl KeyError {
    /// Whether what the key encrypted can never be read again.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Damaged { .. } | Self::StaysUnreadable { .. })
    }

    /// Whether it may be well the next time.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// Whether the disk has no room for another key.
    pub fn is_full(&self) -> bool {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        matches!(self, Self::File { source, .. } if full.contains(&source.kind()))
    }
}
