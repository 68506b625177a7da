//! The centre's stages on real Kafka and MongoDB: what is stored, once, whatever happens between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

mod bench;
mod books;
mod crash;
mod group;
mod log;
mod records;
mod store_away;
