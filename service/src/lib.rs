//! What both of Picket's programs need to be a good service.
//!
//! - [`config`]: one strict TOML file and its drop-ins, errors that name the file, the line, the field and what would
//!   be right. [`reference`]: the reference page, made from the types, and [`published`], which keeps it true.
//! - [`durable`]: small files that survive a power cut whole.
//! - [`renewed`]: small files that others renew; [`certificate`]: when one is valid; [`kafka`]: what both programs' configs say of Kafka.
//! - [`machine`]: what tells this machine from others.
//! - [`logging`], [`metrics`], [`ops`]: what an operator sees.
//! - [`shutdown`]: SIGTERM and SIGINT; [`notify`]: the service manager.

pub mod certificate;
pub mod config;
pub mod durable;
pub mod kafka;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod notify;
pub mod ops;
pub mod published;
pub mod reference;
pub mod renewed;
pub mod shutdown;
