//! End-to-end and fault tests, and what they and the demo share.
//!
//! - [`fleet`]: agents and aggregators on a stack, with their configs; [`process`]: as processes.
//! - [`feed`]: made-up cameras that write to the topics themselves.
//! - [`oracle`]: what became of every `seq`, asked of MongoDB and the spool.
//! - [`drain`]: how fast a backlog drained, and how late what was live came meanwhile.
//! - [`faults`]: what fault tests share: how long they last, what they feed in, what they wait for.
//! - [`clock`]: a time of day that a test sets, for one program.
//! - [`device`]: a device as a virtual machine, for `make test-device`.
//! - [`checkout`]: the repository, and what was fetched into its cache.
//! - [`proxy`]: a TCP proxy before Kafka that fails on cue.
//! - [`sameness`]: comparing what is stored with an undisturbed run over the same log.
//! - [`scratch`]: folders that go when the test process ends.
//! - [`topics`]: what a test does with topics at the broker.
//! - [`stack`]: Kafka and MongoDB, with certificates, on free ports.

pub mod checkout;
pub mod clock;
pub mod device;
pub mod drain;
pub mod faults;
pub mod feed;
pub mod fleet;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod sameness;
pub mod scratch;
pub mod stack;
pub mod topics;
