//! # Uplink: from the spool to Kafka
//!
//! **In**: rows of the spool, by a [`SpoolReader`](crate::spool::SpoolReader); the newest heartbeat.
//! **Out**: messages on the three topics that devices write; back to the spool, which rows the broker
//! has or will never take; the link's state, to everyone.
//!
//! **Promises**
//! - *Crash*: a row is settled only after the broker's acknowledgement (`acks=all`, idempotent), so
//!   a crash at any moment leaves it in the spool or at the broker, or at both.
//! - *Order*: each camera has two lanes, and per topic the rows of a lane are sent in `seq` order.
//!   What is committed while the link is up is live; what was spooled at the start or during an
//!   outage, of the link or of the camera's partition, is backlog, behind it. Records go before
//!   pictures in both; where the backlog's records keep to their pace and the link has room, its
//!   pictures go too, but none before the records that were captured before it, also where the broker
//!   does not take these. A message that fails alone and is sent again may come after its successors.
//!   Nothing of a key goes over new producers while something of it is on its way at the former ones.
//! - *Fairness*: of the cameras that have something to send in a lane, the one that was given the
//!   fewest bytes is next. One whose partition takes nothing holds up no other.
//! - *Duplicates*: after a crash or a replaced producer a message may be sent twice, with the same
//!   bytes; the centre knows it by its id.
//! - *Loss*: past `monthly_budget_bytes` pictures, which are then dropped as their turn comes, counted
//!   and told as gaps; the spool keeps no new ones. Else only what the broker will never take, each
//!   tried alone before it is given up, and rows that the spool cannot read any more; counted, and told
//!   as a gap. A gap, epoch or clock record is tried for ever: nothing could stand for it.
//!
//! **Limits**: `max_in_flight_bytes` in memory at the producer; of pictures and backlog less, where
//! live records feel it: these are to be acknowledged within 0.75 s. At most `max_bytes_per_second`
//! are handed over in the long run, and of a camera's backlog, records and pictures each,
//! `backlog_speed` times as much as was captured in that time. For each camera the numbers of at most
//! 4 times 256 rows (16 KiB). While the link is down nothing is handed over but one message at a time
//! that tries the way. A heartbeat may be lost without a trace, and one old one may arrive after an
//! outage. After a start the heads of all rows of the backlog are read once, in steps, in search of
//! cameras behind the backlog of others.
//!
//! Beside the running uplink: [`probe`] asks the broker for `doctor`, and [`import`] publishes what was
//! carried by hand from another device's spool.

mod budget;
mod bulk;
mod ceiling;
mod cut;
mod files;
mod handle;
mod import;
mod lanes;
mod link;
mod news;
mod outcomes;
mod pairs;
mod polled;
mod probe;
mod producer;
mod queues;
mod renewal;
mod security;
mod sender;
mod settings;
mod shelves;
mod speed;
mod troubles;
mod window;

pub use files::Snapshot;
pub use handle::{Drained, LONGEST_DRAIN, Uplink, UplinkError, UplinkHandle};
pub use import::{ImportError, Imported, import};
pub use probe::{ProbeError, ProbeReport, probe};
pub use security::{SecurityError, dates_problem, days_left};
pub use settings::{Settings, SettingsError};
