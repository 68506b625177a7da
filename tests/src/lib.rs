//! End-to-end and fault tests, and what they and the demo share.
//!
//! - [`fleet`]: agents and aggregators as processes, with their configs.
//! - [`oracle`]: what became of every `seq`, asked of MongoDB and the spool.
//! - [`stack`]: Kafka and MongoDB, with certificates, on free ports.

pub mod fleet;
pub mod oracle;
pub mod stack;
