//! What waits, in groups: of each camera, epoch and kind one line.

use std::collections::BTreeMap;
use std::path::Path;

use picket_wire::{CameraKey, CameraName, EpochId, Topic};
use serde::Serialize;

use super::error::SpoolError;
use super::{schema, walk};

/// Which rows.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Of this camera, or of all.
    pub camera: Option<CameraName>,
    /// Of this kind, or of all.
    pub kind: Option<String>,
}

/// Rows that have camera, epoch and kind in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Where they go.
    pub topic: Topic,
    /// Whose they are.
    pub camera: CameraKey,
    /// Of which start of the agent.
    pub epoch: EpochId,
    /// As in `picket-kind`.
    pub kind: String,
    /// Lowest `seq` that they are about.
    pub first: u64,
    /// Highest.
    pub last: u64,
    /// How many.
    pub records: u64,
    /// Bytes of their headers and values.
    pub bytes: u64,
    /// When the oldest was committed, Unix milliseconds; null if no clock was set.
    pub oldest_ms: Option<i64>,
}

/// What waits, read without disturbing the agent. In memory is a group at a time and their list,
/// which grows with the starts of the agent that are still in the spool, and not with its rows.
pub fn list(state_dir: &Path, chosen: &Chosen) -> Result<Vec<Group>, SpoolError> {
    let connection = schema::open_for_reading(state_dir)?;
    let mut groups = BTreeMap::new();
    for topic in Topic::OF_CAMERAS {
        let mut failed = None;
        walk::outlines(&connection, topic, |waiting| match waiting {
            Ok(waiting) if chosen.has(&waiting) => add(&mut groups, topic, waiting),
            Ok(_) => {}
            Err(error) => failed = failed.take().or(Some(error)),
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(groups.into_values().collect())
}

impl Chosen {
    fn has(&self, waiting: &walk::Waiting) -> bool {
        let row = &waiting.outline;
        self.camera.as_ref().is_none_or(|camera| *camera == row.key.camera)
            && self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
    }
}

type Groups = BTreeMap<(CameraKey, EpochId, String), Group>;

fn add(groups: &mut Groups, topic: Topic, waiting: walk::Waiting) {
    let (row, at) = (waiting.outline, waiting.committed_at_ms);
    let name = (row.key.clone(), row.epoch, row.kind.clone());
    let group = groups.entry(name).or_insert_with(|| Group {
        topic,
        camera: row.key,
        epoch: row.epoch,
        kind: row.kind,
        first: row.first,
        last: row.last,
        records: 0,
        bytes: 0,
        oldest_ms: None,
    });
    group.first = group.first.min(row.first);
    group.last = group.last.max(row.last);
    group.records += 1;
    group.bytes += row.bytes;
    group.oldest_ms = [group.oldest_ms, at].into_iter().flatten().min();
}
