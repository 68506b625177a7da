//! One epoch: tracked again, and its tracks compared as they end.

use jiff::Timestamp;
use picket_wire::{CameraKey, EpochId};

use super::compare::{Epoch, STATE, birth_of, compare};
use super::log::Log;
use super::observed::{from_log, note};
use super::past::Past;
use super::report::{Difference, EpochReport};
use super::stored::Record;
use super::walk::{Made, Walk};
use super::{Range, Replay, ReplayError};

/// Tracks that are compared at a time.
const TRACKS_AT_ONCE: usize = 500;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl Replay {
    /// Tracks an epoch again. Without a log, by the stored observations themselves.
    pub async fn epoch(
        &self,
        key: &CameraKey,
        epoch: EpochId,
        range: Range,
        mut log: Option<&mut Log>,
    ) -> Result<EpochReport, ReplayError> {
        let mut report = EpochReport {
            camera: key.to_string(),
            epoch: epoch.to_string(),
            ..EpochReport::default()
        };
        let Some(span) = self.reader.span(key, epoch, range).await? else { return Ok(report) };
        let Some(past) = self.past(key, epoch, &mut report).await? else { return Ok(report) };
        let this = Epoch {
            key,
            epoch,
            relations: &past.relations,
            times_are_settled: past.times_are_settled,
            is_leaving: past.is_left && !past.is_over,
        };
        let mut walk = Walk::new(self.tracking.settings.clone(), past.after);
        let mut explained = past.after;
        let mut records = self.reader.records(key, epoch, (past.after, past.until)).await?;
        let mut is_whole = true;
        while let Some(record) = records.next().await? {
            let (first, last) = record.run();
            if first > span.1 && !walk.has_wanted() {
                is_whole = false;
                break;
            }
            if first > explained.saturating_add(1) {
                past.miss(explained + 1, first - 1, &mut walk, &mut report);
            }
            explained = explained.max(last);
            if let Record::Observation { observation, captured, broker_ms, place, is_late } = record
            {
                if is_late {
                    report.late += 1;
                    continue;
                }
                let is_wanted = range.holds(captured);
                let step = match log.as_deref_mut() {
                    None => {
                        let found = observation.detections();
                        Some(walk.observe(&observation.frame(&found), broker_ms, is_wanted))
                    }
                    Some(log) => {
                        let stored = (&observation, place.as_ref());
                        from_log(log, stored, broker_ms, is_wanted, &mut walk, &mut report)?
                    }
                };
                note(step, &observation, is_wanted, &mut report);
            } else if let Record::Unreadable { seq, why } = record {
                walk.miss();
                report.cannot(seq, seq, why);
            }
            if walk.ended() >= TRACKS_AT_ONCE {
                self.compare_tracks(&this, &past, walk.take_ended(), &mut report).await?;
            }
        }
        if is_whole {
            if past.until > explained {
                past.miss(explained + 1, past.until, &mut walk, &mut report);
            }
            walk.finish(past.is_over);
        }
        self.compare_tracks(&this, &past, walk.take_ended(), &mut report).await?;
        self.compare_others(&this, &walk, span, &mut report).await?;
        report.tracks_not_compared += walk.cut_off();
        report.provisional = self.reader.beyond(key, epoch, past.until).await?;
        Ok(report)
    }

    async fn compare_tracks(
        &self,
        epoch: &Epoch<'_>,
        past: &Past,
        made: Vec<Made>,
        report: &mut EpochReport,
    ) -> Result<(), ReplayError> {
        let ids: Vec<String> = made.iter().map(|made| made.summary.id.to_string()).collect();
        let mut stored = self.reader.tracks(&ids).await?;
        let now_ms = Timestamp::now().as_millisecond();
        for made in made {
            let id = made.summary.id.to_string();
            let Some(stored) = stored.remove(&id) else {
                let kept_ms = i64::from(self.tracks_days) * DAY_MS;
                if made.broker_ms.saturating_add(kept_ms) < now_ms {
                    report.tracks_not_compared += 1;
                    continue;
                }
                report.tracks += 1;
                let replayed = format!("a track of {} observations", made.summary.observations);
                report.differs(vec![missing(id, nothing(made.broker_ms, now_ms), replayed)]);
                continue;
            };
            let (mut differences, mut goes_on) = compare(epoch, &made, &stored)?;
            let is_of_state = |difference: &Difference| STATE.contains(&difference.field.as_str());
            // The epoch may have ended while it was read.
            if !made.summary.ended
                && !differences.is_empty()
                && differences.iter().all(is_of_state)
                && self.has_moved(epoch, past).await?
            {
                (differences, goes_on) = (Vec::new(), true);
            }
            report.tracks += 1;
            report.going_on += u64::from(goes_on);
            report.differs(differences);
        }
        Ok(())
    }

    async fn has_moved(&self, epoch: &Epoch<'_>, past: &Past) -> Result<bool, ReplayError> {
        let now = self.past(epoch.key, epoch.epoch, &mut EpochReport::default()).await?;
        Ok(now.is_none_or(|now| !now.is_as(past)))
    }

    /// Stored tracks that no tracker makes.
    async fn compare_others(
        &self,
        epoch: &Epoch<'_>,
        walk: &Walk,
        span: (u64, u64),
        report: &mut EpochReport,
    ) -> Result<(), ReplayError> {
        let mut stored = self.reader.all_tracks(epoch.key, epoch.epoch).await?;
        while let Some(document) = stored.next().await? {
            let id = document.get_str("_id").unwrap_or_default();
            let seq = birth_of(id).unwrap_or_default();
            let is_known = walk.knows(seq) && (span.0..=span.1).contains(&seq);
            if !is_known || walk.has_made(id) {
                continue;
            }
            if document.get_bool("final").unwrap_or_default() {
                report.tracks += 1;
                let is = "a track".to_owned();
                report.differs(vec![missing(id.to_owned(), is, "nothing".to_owned())]);
            } else {
                report.tracks_not_compared += 1;
            }
        }
        Ok(())
    }
}

/// What is stored of a track that should not have expired yet. How long it was to be kept by the settings
/// of its time nobody knows any more.
fn nothing(last_ms: i64, now_ms: i64) -> String {
    match now_ms.saturating_sub(last_ms) / DAY_MS {
        ..1 => "nothing".to_owned(),
        days => format!("nothing (it has expired if upsert.tracks_days was {days} or less then)"),
    }
}

fn missing(id: String, stored: String, replayed: String) -> Difference {
    Difference { of: "track", id, field: "document".to_owned(), stored, replayed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_that_is_not_stored_may_have_expired_by_settings_of_its_time() {
        assert_eq!(nothing(5, 5 + DAY_MS - 1), "nothing");
        let old = nothing(5, 5 + 8 * DAY_MS);
        assert!(old.contains("upsert.tracks_days was 8 or less"), "{old}");
    }
}
