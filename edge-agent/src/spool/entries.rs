//! Writes what a batch holds, within a transaction.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use picket_wire::Topic;
use picket_wire::observation::Reason;

use super::batch::{Entry, Offered};
use super::error::SpoolError;
use super::making_room::RoomFor;
use super::record::{Dropped, Row, RowId, frames};
use super::recordings::{self, Positions};
use super::transaction::Transaction;

/// Writes what came in, in its order; the positions follow all that they stand for.
pub fn write(
    tx: &mut Transaction<'_>,
    entries: &VecDeque<Entry>,
    in_memory: &BTreeMap<RowId, Arc<Row>>,
    room: RoomFor,
) -> Result<Positions, SpoolError> {
    let mut positions = Positions::new();
    for entry in entries {
        match entry {
            Entry::Row(row) if has_no_room(row, room) => {
                let dropped = row.dropped(Reason::SPOOL_FULL.into(), tx.now);
                drop_now(tx, &dropped)?;
            }
            Entry::Row(row) => {
                tx.insert(row)?;
                tx.account(&row.key).kept(row.kind, row.first, row.last);
            }
            Entry::Offered(offered) => match in_memory.get(&offered.id) {
                Some(row) => keep_offered(tx, offered, row, room)?,
                None => book_settled(tx, offered)?,
            },
            Entry::Dropped(dropped) => drop_now(tx, dropped)?,
            Entry::Position(key, position) => {
                positions.insert((key.clone(), position.fingerprint.clone()), position.clone());
            }
        }
    }
    recordings::store(tx.connection, &positions)
        .map_err(|source| SpoolError::Commit { step: "write the recordings' positions", source })?;
    Ok(positions)
}

fn has_no_room(row: &Row, room: RoomFor) -> bool {
    row.topic == Topic::Frames && room == RoomFor::RowsOnly
}

fn drop_now(tx: &mut Transaction<'_>, dropped: &Dropped) -> Result<(), SpoolError> {
    tx.account(&dropped.key).lost_in_memory(dropped);
    tx.gap(dropped)
}

/// One that the link has not carried away in time.
fn keep_offered(
    tx: &mut Transaction<'_>,
    offered: &Offered,
    row: &Row,
    room: RoomFor,
) -> Result<(), SpoolError> {
    let is_in_flight = tx.held.as_ref().is_some_and(|held| held.is_in_flight(offered.id));
    if has_no_room(row, room) && !is_in_flight {
        let dropped = row.dropped(Reason::SPOOL_FULL.into(), tx.now);
        drop_now(tx, &dropped)?;
    } else {
        tx.insert_as(offered.id, row)?;
        tx.account(&offered.key).kept(offered.kind, offered.first, offered.last);
    }
    tx.left_memory.push(offered.id);
    Ok(())
}

/// One that was acknowledged, or refused, before it was written.
fn book_settled(tx: &mut Transaction<'_>, offered: &Offered) -> Result<(), SpoolError> {
    let Offered { ref key, kind, first, last, ref refused, .. } = *offered;
    match refused {
        None => {
            tx.account(key).kept(kind, first, last);
            tx.account(key).acknowledged(frames(kind, first, last));
            Ok(())
        }
        Some(reason) => {
            let dropped = offered.dropped(tx.epoch, reason.clone(), tx.now);
            drop_now(tx, &dropped)
        }
    }
}
