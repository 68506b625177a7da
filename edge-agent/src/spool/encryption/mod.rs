//! # Encryption at rest
//!
//! With `[spool.encryption]` the values of observations, skips and pictures are encrypted before they
//! reach the database, so that neither it, its log nor free pages in it show them. What the centre's
//! accounts stand on (gap, epoch, clock and certificate records) holds times and counts only and is
//! not encrypted: it must outlive every key. Nor are the columns and headers, which the uplink, the
//! eviction and the books work with.
//!
//! A **batch key** is made for each start of the agent and each hour of it, used for what is captured
//! then, and kept in a file of its own in `spool.keys/`, itself encrypted by the **master key**, which
//! the config names. Once no row of a batch is left (acknowledged, evicted, too old), its key is
//! destroyed, and with it whatever the disk still holds of the batch. Destroying keys rather than
//! overwriting pages: it is some bytes instead of gigabytes, and flash does not overwrite in place.
//!
//! **Which rows are a batch's.** Row numbers rise, and the number of a batch key is that of the first
//! row that it may encrypt. So its rows lie between its number and the next key's, and whether any is
//! left is one look into each table: no counters that each commit would have to write, and nothing
//! that a crash could leave untrue. A key whose rows were never committed is found in the same way.
//! Numbers of rows begin above all keys that are there.
//!
//! **Why a nonce never repeats.** A batch key encrypts only in the run that made it, and there counts
//! its values; a commit that failed does not turn the count back. What is read from a file only
//! decrypts. Under the master key nonces are random: it encrypts one value an hour, and 96 bits repeat
//! with a chance of one in 2^32 after 2^32 values.
//!
//! **What a value is bound to.** Its queue, its Kafka key and its headers, which hold the record's id and
//! kind: a value that was moved to another row does not open there. Not to the other columns: those are
//! made from the record anew where a salvage finds a flipped bit in them.
//!
//! ChaCha20-Poly1305, because the boards that this is for (Raspberry Pi 4) have no AES instructions;
//! that of `ring`, which has it in assembly for ARM.

mod batches;
mod cipher;
mod error;
mod folder;
mod keyring;
mod master;
mod settings;

pub use batches::BatchKeys;
pub use cipher::{Cipher, KeyNumber, Stored, bound_to};
pub use error::KeyError;
pub use folder::{count, set_aside};
pub use keyring::{Keyring, in_words};
pub use settings::{EncryptionError, EncryptionSettings};
