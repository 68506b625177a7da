//! What can go wrong, each variant a step and its subject. Nothing here heals by trying again: every
//! one needs a person to change the command or the files.

use std::io;
use std::path::PathBuf;

use crate::Role;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error(
        "{what} {name:?} is not a name: use a-z, 0-9, '.', '_', '-', first a letter or digit, at most 63"
    )]
    Name { what: &'static str, name: String },
    #[error("--days {days} is out of range: 1 to {max}")]
    Days { days: u32, max: u32 },
    #[error("--san {san:?} is neither an IP address nor a host name")]
    San { san: String },
    #[error("{path} exists already and is not overwritten; move it away to issue it anew")]
    Exists { path: PathBuf },
    #[error(
        "no certificate authority in {dir}: {missing} is missing (make one with `picket pki init --dir {dir}`)"
    )]
    NoAuthority { dir: PathBuf, missing: PathBuf },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not a PEM private key of a kind that can sign")]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{path} is not a PEM certificate: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("{key} is not the key of {certificate}")]
    KeyMismatch { key: PathBuf, certificate: PathBuf },
    #[error(
        "a certificate of {days} days would outlive its authority, which has {left} left; use --days {left} or less"
    )]
    OutlivesAuthority { days: u32, left: i64 },
    #[error("{path} is not a certificate request with a valid signature")]
    Request { path: PathBuf, source: rcgen::Error },
    #[error(
        "the request {path} asks for {field}={found:?}; only {field}={wanted:?} is signed here"
    )]
    RequestSubject { path: PathBuf, field: &'static str, found: String, wanted: String },
    #[error("the request {path} asks to be an authority; a device's certificate is not one")]
    RequestAuthority { path: PathBuf },
    #[error("cannot make a key for {role} {name:?}")]
    MakeKey { role: Role, name: String, source: rcgen::Error },
    #[error("cannot make a key for the authority")]
    MakeAuthorityKey { source: rcgen::Error },
    #[error("cannot sign the certificate of {role} {name:?}")]
    Sign { role: Role, name: String, source: rcgen::Error },
    #[error("cannot sign the authority's own certificate")]
    SignAuthority { source: rcgen::Error },
}
