//! Picket's private certificate authority: one root, and a certificate for each part of a fleet.
//!
//! # For operators
//! ```text
//! picket pki init       --dir pki                                   the authority; keep pki/ca.key offline
//! picket pki broker     kafka-1 --dir pki --san kafka-1.example.org a Kafka broker
//! picket pki server     mongo   --dir pki --san mongo.example.org   MongoDB, or the aggregator's web page
//! picket pki admin      alice   --dir pki                           a person who makes topics and ACLs
//! picket pki aggregator centre  --dir pki                           one aggregator
//! picket pki device     gate-7  --dir pki                           one edge agent, key made here, or
//! picket pki device     gate-7  --dir pki --csr gate-7.csr          key made on the device, which keeps it
//! picket pki show pki/device/gate-7.crt                             what a certificate says, and days left
//! ```
//! On disk:
//! ```text
//! pki/ca.crt                 trusted by every part; give it to all
//! pki/ca.key                 signs certificates; give it to none
//! pki/<role>/<name>.crt      the certificate
//! pki/<role>/<name>.key      its key, PKCS#8 PEM, mode 0600
//! pki/<role>/<name>.pem      key and certificate in one file, for MongoDB and Kafka's PEM key stores
//! ```
//! Nothing is ever overwritten: to renew, move the old files away first, or issue into another folder
//! that holds the same `ca.crt` and `ca.key`.
//!
//! # What a certificate means
//! The subject is `CN=<name>,OU=<role>` and nothing else, in the order in which Kafka prints it, so that
//! one mapping rule per role turns it into the principal `<role>-<name>` (see [`Role::principal`]). The
//! role comes from the command, never from a request: a device that asks for `OU=admin` is refused.

mod authority;
mod describe;
mod error;
mod role;

pub use authority::{Authority, Identity, IssueOptions, MAX_DAYS};
pub use describe::Description;
pub use error::PkiError;
pub use role::{Role, check_name};
