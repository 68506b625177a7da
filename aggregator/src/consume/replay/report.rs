//! What a replay finds.

use serde::Serialize;

/// Differences that are told one by one; of more only how many there are.
const MOST_TOLD: usize = 10;

/// Something that is stored otherwise than the tracker makes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// `track` or `observation`.
    pub of: &'static str,
    /// Its id.
    pub id: String,
    /// In which field.
    pub field: String,
    /// What is stored.
    pub stored: String,
    /// What the replay gives.
    pub replayed: String,
}

/// A stretch that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incomparable {
    /// The first `seq` of it.
    pub from_seq: u64,
    /// The last one; 0 if that is open.
    pub to_seq: u64,
    /// Why.
    pub reason: String,
}

/// One epoch of a camera.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EpochReport {
    /// `<device>/<camera>`.
    pub camera: String,
    /// `<epoch>-<instance>`.
    pub epoch: String,
    /// Observations that were tracked again.
    pub observations: u64,
    /// Of these in the range, and so compared.
    pub observations_compared: u64,
    /// Tracks that were compared.
    pub tracks: u64,
    /// Of these such as still go on, of which only the beginning is compared.
    pub going_on: u64,
    /// Of the tracks and observations those that differ.
    pub differing: u64,
    /// The first of the differences.
    pub differences: Vec<Difference>,
    /// Observations that came too late to be tracked.
    pub late: u64,
    /// Observations beyond what is final.
    pub provisional: u64,
    /// Tracks that are neither compared nor wrong: cut off by what is missing, expired, or provisional
    /// ones that nobody replaced.
    pub tracks_not_compared: u64,
    /// What cannot be compared, and why: the first stretches.
    pub incomparable: Vec<Incomparable>,
    /// How many such stretches there are.
    pub incomparable_stretches: u64,
}

impl EpochReport {
    /// Notes that one thing differs, in these fields.
    pub fn differs(&mut self, differences: Vec<Difference>) {
        self.differing += u64::from(!differences.is_empty());
        let room = MOST_TOLD.saturating_sub(self.differences.len());
        self.differences.extend(differences.into_iter().take(room));
    }

    /// Notes a stretch that cannot be compared.
    pub fn cannot(&mut self, from_seq: u64, to_seq: u64, reason: impl Into<String>) {
        self.incomparable_stretches += 1;
        if self.incomparable.len() < MOST_TOLD {
            self.incomparable.push(Incomparable { from_seq, to_seq, reason: reason.into() });
        }
    }

    /// Whether anything was compared.
    pub fn has_compared(&self) -> bool {
        self.tracks + self.observations_compared > 0
    }
}
