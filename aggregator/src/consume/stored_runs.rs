//! An epoch's tracking runs as their checkpoint holds them. Pure.

use mongodb::bson::{self, Bson};
use picket_wire::{CameraKey, EpochId};
use serde::{Deserialize, Serialize};

use super::runs::{EpochRuns, Noticed, Run};
use crate::store::bulk::Update;
use crate::store::checkpoints::{Claim, RunsCheckpoint, runs_checkpoint_id};
use crate::store::documents::collection;
use crate::store::{StoreError, encode};
use crate::track::{Settings, TRACKER_VERSION, Tracker};
use crate::upsert::{self, WallTimes};

#[derive(Debug, Serialize, Deserialize)]
struct RunState {
    until: u64,
    walls: Vec<WallTimes>,
    /// BSON holds floats bit by bit, which JSON text does not promise.
    tracker: Bson,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    finals: RunState,
    live: Option<RunState>,
    holes: Vec<Noticed>,
    aside: Vec<(u64, u64)>,
    has_begun: bool,
    end: Option<u64>,
    superseded_ms: Option<i64>,
    is_over: bool,
    #[serde(default)]
    anew_after: Option<u64>,
}

/// A tracker's settings, and their digest.
#[derive(Debug, Clone)]
pub struct Tracking {
    /// How to track.
    pub settings: Settings,
    /// SHA-256 of them, hex.
    pub sha256: String,
}

impl Tracking {
    /// Settings with their digest.
    pub fn new(settings: Settings) -> Result<Self, StoreError> {
        let text = encode(collection::CHECKPOINTS, &settings)?;
        Ok(Self { sha256: upsert::digest(text.to_string().as_bytes()), settings })
    }
}

/// Runs whose tracker cannot go on.
#[derive(Debug)]
pub struct Discarded {
    /// Why, as a word.
    pub label: &'static str,
    /// Why.
    pub why: String,
    /// Its living tracks.
    pub tracks: Vec<String>,
}

impl Discarded {
    fn new(label: &'static str, why: impl Into<String>) -> Self {
        Self { label, why: why.into(), tracks: Vec::new() }
    }
}

/// Takes over stored runs. A tracker's state of another version or other settings cannot go on: its
/// tracks end, and a new one goes on where it stood. `complete_until` is where that was, if not even
/// that can be read.
pub fn restored(
    checkpoint: RunsCheckpoint,
    tracking: &Tracking,
    complete_until: u64,
) -> (EpochRuns, Option<Discarded>) {
    let mut runs = EpochRuns::new(tracking.settings.clone());
    let state: State = match bson::deserialize_from_bson(checkpoint.state) {
        Ok(state) => state,
        Err(e) => {
            runs.begin_anew(complete_until);
            return (runs, Some(Discarded::new("unreadable", e.to_string())));
        }
    };
    runs.holes = state.holes;
    for (first, last) in state.aside {
        runs.aside.insert(first, last);
    }
    (runs.has_begun, runs.end, runs.superseded_ms, runs.is_over) =
        (state.has_begun, state.end, state.superseded_ms, state.is_over);
    (runs.finals.until, runs.anew_after) = (state.finals.until, state.anew_after);
    let version = checkpoint.tracker_version;
    let mut discarded = if version != i64::from(TRACKER_VERSION) {
        let is_newer = version > i64::from(TRACKER_VERSION);
        let label = if is_newer { "newer-version" } else { "version" };
        let why = format!(
            "its state is of version {version} of the tracker, and this aggregator has version \
             {TRACKER_VERSION}"
        );
        Some(Discarded::new(label, why))
    } else if checkpoint.tracker_settings != tracking.sha256 {
        Some(Discarded::new("settings", "the tracker's settings have changed"))
    } else {
        None
    };
    let walls = [Some(&state.finals), state.live.as_ref()].into_iter().flatten();
    let tracks = walls.flat_map(|run| &run.walls).map(|wall| wall.track.clone()).collect();
    if discarded.is_none() {
        match (run(state.finals), state.live.map(run).transpose()) {
            (Ok(finals), Ok(live)) => (runs.finals, runs.live) = (finals, live),
            (Err(e), _) | (_, Err(e)) => {
                discarded = Some(Discarded::new("unreadable", e.to_string()));
            }
        }
    }
    if discarded.is_some() {
        runs.begin_anew(runs.finals.until);
    }
    (runs, discarded.map(|discarded| Discarded { tracks, ..discarded }))
}

fn run(state: RunState) -> bson::error::Result<Run> {
    let tracker: Tracker = bson::deserialize_from_bson(state.tracker)?;
    Ok(Run { tracker, until: state.until, walls: state.walls })
}

/// The write that stores them.
pub fn update(
    runs: &EpochRuns,
    key: &CameraKey,
    epoch: EpochId,
    claim: &Claim,
    tracking: &Tracking,
) -> Result<Update, StoreError> {
    let failed =
        |e| StoreError::Encode { collection: collection::CHECKPOINTS, source: Box::new(e) };
    let run_state = |run: &Run| -> Result<RunState, StoreError> {
        let tracker = bson::serialize_to_bson(&run.tracker).map_err(failed)?;
        Ok(RunState { until: run.until, walls: run.walls.clone(), tracker })
    };
    let state = State {
        finals: run_state(&runs.finals)?,
        live: runs.live.as_ref().map(run_state).transpose()?,
        holes: runs.holes.clone(),
        aside: runs.aside.as_slice().to_vec(),
        has_begun: runs.has_begun,
        end: runs.end,
        superseded_ms: runs.superseded_ms,
        is_over: runs.is_over,
        anew_after: runs.anew_after,
    };
    let checkpoint = RunsCheckpoint {
        id: runs_checkpoint_id(key, epoch),
        topic: claim.topic.clone(),
        partition: claim.partition,
        owner_epoch: claim.owner_epoch,
        tracker_version: i64::from(TRACKER_VERSION),
        tracker_settings: tracking.sha256.clone(),
        state: bson::serialize_to_bson(&state).map_err(failed)?,
    };
    Ok(Update::set(&checkpoint.id, encode(collection::CHECKPOINTS, &checkpoint)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracking(sha256: &str) -> Tracking {
        Tracking { settings: Settings::default(), sha256: sha256.to_owned() }
    }

    fn stored(runs: &EpochRuns) -> RunsCheckpoint {
        let claim = Claim { topic: "t".to_owned(), partition: 0, owner_epoch: 1 };
        let (key, epoch) = ("gate/north".parse().unwrap(), "1-00000001".parse().unwrap());
        let update = update(runs, &key, epoch, &claim, &tracking("a")).unwrap();
        let change = update.change.as_document().unwrap().get_document("$set").unwrap();
        let mut document = change.clone();
        document.insert("_id", update.filter.get_str("_id").unwrap());
        crate::store::decode("checkpoints", document).unwrap()
    }

    fn runs() -> EpochRuns {
        let mut runs = EpochRuns::new(Settings::default());
        runs.finals.until = 7;
        runs.live = Some(Run::new(Settings::default()));
        runs.holes.push(Noticed { before: 12, at_ms: 3 });
        runs.aside.insert(20, 21);
        (runs.has_begun, runs.end, runs.superseded_ms) = (true, Some(30), Some(4));
        runs.anew_after = Some(2);
        let wall = WallTimes {
            track: "gate/north/1-00000001/7#0".to_owned(),
            first_ns: None,
            last_ns: Some(5),
            first_clock: None,
            last_clock: None,
        };
        runs.finals.walls.push(wall);
        runs
    }

    #[test]
    fn what_was_stored_is_restored_whole() {
        let (restored, discarded) = restored(stored(&runs()), &tracking("a"), 0);
        assert_eq!(restored, runs());
        assert!(discarded.is_none(), "{discarded:?}");
    }

    #[test]
    fn a_tracker_of_other_settings_or_version_begins_anew_where_it_stood_and_names_its_tracks() {
        let of_settings = restored(stored(&runs()), &tracking("b"), 0);
        let newer = RunsCheckpoint { tracker_version: i64::MAX, ..stored(&runs()) };
        let of_version = restored(newer, &tracking("a"), 0);
        let older = RunsCheckpoint { tracker_version: 0, ..stored(&runs()) };
        let of_older = restored(older, &tracking("a"), 0);
        for (label, (runs, discarded)) in
            [("settings", of_settings), ("newer-version", of_version), ("version", of_older)]
        {
            let discarded = discarded.unwrap();
            assert_eq!(discarded.label, label);
            assert_eq!(discarded.tracks, ["gate/north/1-00000001/7#0"]);
            assert_eq!((runs.finals.until, runs.end, runs.live), (7, Some(30), None));
            assert_eq!(runs.anew_after, Some(7));
        }
    }

    #[test]
    fn a_state_that_nobody_can_read_goes_on_where_the_ledger_says() {
        let spoilt = RunsCheckpoint { state: Bson::Int32(3), ..stored(&runs()) };
        let (runs, discarded) = restored(spoilt, &tracking("a"), 9);
        assert_eq!((runs.finals.until, discarded.unwrap().label), (9, "unreadable"));
        assert_eq!(runs.anew_after, Some(9));
    }
}
