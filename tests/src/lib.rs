//! End-to-end and fault tests, and what they and the demo share.
//!
//! - [`fleet`]: agents and aggregators on a stack, with their configs; [`process`]: as processes.
//! - [`oracle`]: what became of every `seq`, asked of MongoDB and the spool.
//! - [`device`]: a device as a virtual machine, for `make test-device`.
//! - [`checkout`]: the repository, and what was fetched into its cache.
//! - [`stack`]: Kafka and MongoDB, with certificates, on free ports.

pub mod checkout;
pub mod device;
pub mod fleet;
pub mod oracle;
pub mod process;
pub mod stack;
