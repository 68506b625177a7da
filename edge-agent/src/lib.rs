pub mod spool;
pub mod uplink;
