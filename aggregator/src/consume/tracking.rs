//! What a camera makes of its observations: which run of which epoch tracks them, when an epoch is
//! over, and how long anything is waited for. Pure, as all of a camera is.

use metrics::counter;
use mongodb::bson::doc;
use picket_service::logging::chain;
use picket_wire::observation::{EpochStart, Observation};
use picket_wire::{EpochId, ObservationId, Outgoing};
use serde::{Deserialize, Serialize};

use super::camera::{Camera, Changes, Newest};
use super::provisional::{StoredObservation, replaced, retracked, set};
use super::runs::{EpochRuns, Frame, Standing, Stretch, Tracked, detections};
use crate::metrics::TRACKERS_DISCARDED;
use crate::store::documents::collection;
use crate::store::encode_raw;
use crate::track::TrackSummary;
use crate::upsert::{self, LostRun, Origin, WallTimes};

/// Epochs of a camera that may wait for something at one time; of more, the one that has waited
/// longest is given up.
const MOST_OPEN: usize = 16;
/// Epochs of a camera that are in memory because something of them is missing or not read back.
const MOST_READ_BACK: usize = 64;

/// An epoch that waits for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Which.
    pub epoch: EpochId,
    /// Since when, by the broker's time, milliseconds since 1970.
    pub since_ms: i64,
}

impl Camera {
    /// Tracks an observation, unless it is late; returns the tracks of its detections, and how it stands.
    /// One that `is_known` was stored before, by a batch that did not come to its end.
    pub(super) fn observe(
        &mut self,
        record: &Observation,
        is_known: bool,
        origin: &Origin,
        changes: &mut Changes,
    ) -> (Vec<Option<String>>, Standing) {
        let (epoch, seq) = (record.id.epoch, record.id.seq);
        self.enter(epoch, origin, changes);
        let detections = detections(record);
        let id = record.id.to_string();
        let frame = Frame::of(record, &id, &detections);
        let given_up_ms = self.given_up_ms(origin);
        let runs = self.runs_of(epoch);
        let standing = runs.standing(seq, given_up_ms);
        let tracked = match standing {
            Standing::Late => Tracked::default(),
            Standing::Next => runs.track_final(&frame),
            Standing::Ahead => runs.track_live(&frame),
        };
        let is_final = standing == Standing::Next;
        self.note_tracks(tracked.tracks, epoch, is_final, origin, changes);
        match standing {
            Standing::Next if is_known => {
                changes.retracked.push(retracked(&id, &tracked.assigned));
                changes.replaced.extend(replaced(&id, epoch, &tracked.assigned, |_, _| true));
            }
            Standing::Ahead if is_known => {
                changes.retracked.push(set(&id, doc! { "ingest.again": true }));
            }
            _ => {}
        }
        if standing != Standing::Late && self.is_newest(&record.id) {
            let Frame { captured_ns, mono_us, clock, .. } = frame;
            self.place.newest = Some(Newest { id, captured_ns, mono_us, clock: Some(clock) });
        }
        (tracked.assigned, standing)
    }

    fn is_newest(&self, id: &ObservationId) -> bool {
        let newest = self.place.newest.as_ref().and_then(|n| n.id.parse::<ObservationId>().ok());
        let is_after = newest.is_none_or(|n| n.epoch != id.epoch || n.seq < id.seq);
        is_after && self.place.epoch == Some(id.epoch)
    }

    pub(super) fn runs_of(&mut self, epoch: EpochId) -> &mut EpochRuns {
        let settings = &self.settings;
        self.runs.entry(epoch).or_insert_with(|| EpochRuns::new(settings.clone()))
    }

    /// What has been missing since before is not waited for any more.
    fn given_up_ms(&self, origin: &Origin) -> i64 {
        origin.broker_time_ms.saturating_sub(self.horizon_ms)
    }

    /// What was put aside is not waited for; should it be put back one day, it is late.
    pub(super) fn pass_aside(
        &mut self,
        id: &ObservationId,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        if !self.ledgers.entry(id.epoch).or_default().accounted.contains(id.seq) {
            self.runs_of(id.epoch).set_aside(id.seq);
            self.move_on(id.epoch, origin, changes);
        }
    }

    /// An epoch's own record.
    pub(super) fn begin_epoch(
        &mut self,
        start: &EpochStart,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        let epoch = start.id.epoch;
        let known = self.runs.get(&epoch);
        let is_in_line = known.is_some_and(|r| r.end.is_some() || r.superseded_ms.is_some());
        let is_awaited = |runs: &EpochRuns| runs.end.is_some() && !runs.has_begun && !runs.is_over;
        let has_begun = |at| at != epoch && self.runs.get(&at).is_some_and(|runs| runs.has_begun);
        // A box that was set up anew counts its epochs from 1 again. So does the first start of a box
        // whose later ones came first, but then one of them has told of it, or of one between.
        let is_new_line = start.previous.is_none()
            && !is_in_line
            && !self.runs.values().any(is_awaited)
            && self.place.epoch.is_some_and(has_begun);
        let runs = self.runs_of(epoch);
        (runs.has_begun, runs.dirty) = (true, true);
        if is_new_line {
            self.go_to(epoch, origin, changes);
        } else {
            self.enter(epoch, origin, changes);
        }
    }

    /// The camera goes on to an epoch, if that is newer than the one in which it stands.
    pub(super) fn enter(&mut self, epoch: EpochId, origin: &Origin, changes: &mut Changes) {
        let is_newer = self.place.epoch.is_none_or(|at| {
            let was_left = self.runs.get(&epoch).is_some_and(|r| r.superseded_ms.is_some());
            epoch != at && epoch.number >= at.number && !was_left
        });
        if is_newer {
            self.go_to(epoch, origin, changes);
        }
    }

    /// Its tracks end with the epoch that it leaves: for good, unless something of that is missing.
    fn go_to(&mut self, epoch: EpochId, origin: &Origin, changes: &mut Changes) {
        let Some(before) = self.place.epoch.replace(epoch) else { return };
        let runs = self.runs_of(before);
        runs.supersede(origin.broker_time_ms);
        if runs.is_over {
            return;
        }
        let living = runs.finals.living();
        let provisional = runs.live.as_mut().map(|live| live.finish()).unwrap_or_default();
        self.note_tracks(living, before, true, origin, changes);
        self.note_tracks(provisional, before, false, origin, changes);
        self.move_on(before, origin, changes);
    }

    /// The last `seq` that an epoch can have is known.
    pub(super) fn end_epoch(
        &mut self,
        epoch: EpochId,
        end: u64,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        let runs = self.runs_of(epoch);
        (runs.end, runs.dirty) = (Some(end), true);
        // It may never have been the newest.
        runs.supersede(origin.broker_time_ms);
        self.move_on(epoch, origin, changes);
    }

    /// Goes on as far as can be without reading back.
    pub(super) fn move_on(&mut self, epoch: EpochId, origin: &Origin, changes: &mut Changes) {
        let accounted = &self.ledgers.entry(epoch).or_default().accounted;
        let new = || EpochRuns::new(self.settings.clone());
        let runs = self.runs.entry(epoch).or_insert_with(new);
        let mut tracks = runs.move_on(accounted);
        if runs.is_complete(accounted) {
            tracks = runs.finish();
        }
        let since = runs.waiting_since();
        self.dirty |= runs.dirty;
        self.note_tracks(tracks, epoch, true, origin, changes);
        self.place.open.retain(|open| open.epoch != epoch);
        if let Some(since_ms) = since {
            self.place.open.push(Open { epoch, since_ms });
        }
        self.bound_open(origin, changes);
    }

    /// Of too many epochs that wait the oldest are not waited for any more; of far too many not even
    /// what is stored of them is read back.
    fn bound_open(&mut self, origin: &Origin, changes: &mut Changes) {
        let current = self.place.epoch;
        let oldest = |open: &[Open], is_in: fn(&Open) -> bool| {
            let others = open.iter().filter(|o| Some(o.epoch) != current && is_in(o));
            others.min_by_key(|o| (o.since_ms, o.epoch)).map(|o| o.epoch)
        };
        let waits = |open: &Open| open.since_ms > i64::MIN;
        if self.place.open.iter().filter(|open| waits(open)).count() > MOST_OPEN
            && let Some(epoch) = oldest(&self.place.open, waits)
        {
            tracing::warn!(camera = %self.key, %epoch,
                "too many epochs of the camera wait for something: this one is given up");
            self.runs_of(epoch).hasten();
            self.place.open.retain(|open| open.epoch != epoch);
            self.place.open.push(Open { epoch, since_ms: i64::MIN });
        }
        if self.place.open.len() > MOST_READ_BACK
            && let Some(epoch) = oldest(&self.place.open, |_| true)
        {
            counter!(TRACKERS_DISCARDED, "why" => "epochs").increment(1);
            tracing::warn!(camera = %self.key, %epoch,
                "far too many epochs of the camera wait: what is stored of this one stays provisional");
            let tracks = self.runs_of(epoch).finish();
            self.note_tracks(tracks, epoch, true, origin, changes);
            self.place.open.retain(|open| open.epoch != epoch);
        }
    }

    /// Gives up what has been missing for longer than the horizon.
    pub(super) fn give_up_overdue(&mut self, origin: &Origin, changes: &mut Changes) {
        let given_up_ms = self.given_up_ms(origin);
        let open = self.place.open.iter().filter(|open| open.since_ms <= given_up_ms);
        for epoch in open.map(|open| open.epoch).collect::<Vec<_>>() {
            self.give_up(epoch, given_up_ms, origin, changes);
        }
    }

    fn give_up(
        &mut self,
        epoch: EpochId,
        given_up_ms: i64,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        let accounted = self.ledgers.entry(epoch).or_default().accounted.clone();
        while let Some((first, last)) = self.runs_of(epoch).give_up(&accounted, given_up_ms) {
            tracing::warn!(camera = %self.key, %epoch, first, last,
                "these observations have been missing for longer than consume.horizon_hours: tracks \
                 go on without them");
            self.count_given_up(epoch, (first, last));
            let ingest = origin.ingest(self.retention.observations_days);
            let lost = LostRun { epoch, first, last };
            let document = upsert::given_up(&self.key, lost, &ingest);
            match document.and_then(|d| encode_raw(collection::OBSERVATIONS, &d)) {
                Ok(document) => changes.records.push(document),
                Err(error) => tracing::error!(error = chain(&error), "a gap cannot be stored"),
            }
        }
        self.move_on(epoch, origin, changes);
    }

    /// Since when something has been missing, milliseconds since 1970.
    pub(super) fn waiting_since_ms(&self) -> Option<i64> {
        let since = self.place.open.iter().map(|open| open.since_ms);
        since.filter(|since_ms| *since_ms > i64::MIN).min()
    }

    /// What others are told of how complete it is: of the epoch in which it stands, if that is news, and
    /// of those that have gone on.
    pub(super) fn tell_complete(&mut self) -> Vec<Outgoing> {
        let waiting_since_ms = self.waiting_since_ms();
        let mut news = Vec::new();
        for (epoch, runs) in &self.runs {
            let now = (runs.finals.until, waiting_since_ms);
            let is_told = self.told.get(epoch).is_some_and(|told| *told == now);
            if !is_told && (runs.dirty || self.place.epoch == Some(*epoch)) {
                self.told.insert(*epoch, now);
                news.extend(upsert::tell_complete(&self.key, *epoch, now.0, now.1));
            }
        }
        self.told.retain(|epoch, _| self.runs.contains_key(epoch));
        news
    }

    /// What is to be read back.
    pub(super) fn behind(&self) -> Option<(EpochId, Stretch)> {
        let behind = |(epoch, runs): (&EpochId, &EpochRuns)| {
            let ledger = self.ledgers.get(epoch)?;
            Some((*epoch, runs.behind(&ledger.accounted)?))
        };
        self.runs.iter().find_map(behind)
    }

    /// Tracks what was read back, in the order of `seq`: all that there is in a stretch.
    pub(super) fn read_back(
        &mut self,
        (epoch, stretch): (EpochId, Stretch),
        observations: &[StoredObservation],
        origin: &Origin,
        changes: &mut Changes,
    ) {
        for observation in observations {
            let detections = observation.detections();
            let tracked = self.runs_of(epoch).track_final(&observation.frame(&detections));
            self.note_tracks(tracked.tracks, epoch, true, origin, changes);
            changes.retracked.extend(observation.finalised(&tracked.assigned));
            changes.replaced.extend(observation.replaced(epoch, &tracked.assigned));
        }
        self.runs_of(epoch).pass(stretch.after.saturating_add(1), stretch.until);
        self.move_on(epoch, origin, changes);
    }

    /// Documents of tracks: of those of one id the final one stands, and of these the newer.
    fn note_tracks(
        &self,
        tracks: Vec<(TrackSummary, Option<WallTimes>)>,
        epoch: EpochId,
        is_final: bool,
        origin: &Origin,
        changes: &mut Changes,
    ) {
        let is_left = self.runs.get(&epoch).is_some_and(|runs| runs.superseded_ms.is_some());
        for (mut summary, wall) in tracks {
            // Nothing is in view of an epoch that the camera has left, though it may be seen again in
            // what comes late.
            summary.ended |= is_left;
            let ingest = origin.ingest(self.retention.tracks_days);
            let relations = self.relations(epoch);
            let document = upsert::track(
                &summary,
                &self.key,
                epoch,
                wall.as_ref(),
                is_final,
                relations,
                ingest,
            );
            let known = changes.tracks.get(&document.id);
            if known.is_none_or(|known| known.rev <= document.rev) {
                changes.tracks.insert(document.id.clone(), document);
            }
        }
    }
}

#[cfg(test)]
mod tests;
