//! How far each recording was read, so that a second run goes on where the first one ended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use picket_wire::CameraKey;
use rusqlite::{Connection, params};

use super::books::{parsed, signed, unsigned};
use super::error::SpoolError;
use crate::capture::SourcePosition;

/// By camera and fingerprint of the recording.
pub type Positions = BTreeMap<(CameraKey, String), SourcePosition>;

/// The positions that are durable; shared with capture.
#[derive(Debug, Default)]
pub struct Recordings(Mutex<Positions>);

impl Recordings {
    /// With what is on disk.
    pub fn load(connection: &Connection) -> Result<Self, SpoolError> {
        let read = |source| SpoolError::Read { what: "the recordings", source };
        let mut statement = connection
            .prepare("SELECT key, fingerprint, media_time_ns, at_end FROM recordings")
            .map_err(read)?;
        let mut rows = statement.query([]).map_err(read)?;
        let mut positions = Positions::new();
        while let Some(row) = rows.next().map_err(read)? {
            let key: CameraKey = parsed("key", &row.get::<_, String>(0).map_err(read)?)?;
            let fingerprint: String = row.get(1).map_err(read)?;
            let media_time_ns = unsigned(row.get(2).map_err(read)?);
            let at_end = row.get(3).map_err(read)?;
            let position =
                SourcePosition { fingerprint: fingerprint.clone(), media_time_ns, at_end };
            positions.insert((key, fingerprint), position);
        }
        Ok(Self(Mutex::new(positions)))
    }

    /// How far a recording was read.
    pub fn get(&self, key: &CameraKey, fingerprint: &str) -> Option<SourcePosition> {
        let positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.get(&(key.clone(), fingerprint.to_owned())).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Positions {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what a transaction has made durable.
    pub fn settle(&self, changed: Positions) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, new) in changed {
            let known = positions.entry(key).or_insert_with(|| new.clone());
            known.media_time_ns = known.media_time_ns.max(new.media_time_ns);
            known.at_end |= new.at_end;
        }
    }
}

/// Writes positions, within the transaction that keeps the frames up to there. A recording that
/// was read to its end stays so: reading it again (a loop) does not open it anew.
pub fn store(connection: &Connection, positions: &Positions) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO recordings VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key, fingerprint) DO UPDATE \
         SET media_time_ns = max(media_time_ns, excluded.media_time_ns), \
         at_end = max(at_end, excluded.at_end)",
    )?;
    for ((key, fingerprint), position) in positions {
        let time = signed(position.media_time_ns);
        statement.execute(params![key.to_string(), fingerprint, time, position.at_end])?;
    }
    Ok(())
}
