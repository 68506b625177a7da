//! A track as it is stored beside one as it is made. Pure.

use mongodb::bson::{Bson, Document};
use picket_wire::{CameraKey, EpochId};

use super::report::Difference;
use super::walk::Made;
use crate::store::clocks::ClockDocument;
use crate::store::documents::{TrackDocument, collection};
use crate::store::relations::Relations;
use crate::store::{StoreError, decode, encode};
use crate::upsert::{self, Origin};

/// What of a track stays as it is while it goes on.
const BEGINNING: [&str; 8] =
    ["_id", "device", "camera", "epoch", "class", "first_mono_us", "first_observation", "final"];
/// What follows from the clocks of the device.
const TIMES: [&str; 3] = ["first_seen", "last_seen", "corrected"];
/// What of a track changes when its epoch ends.
pub const STATE: [&str; 2] = ["state", "rev"];

/// An epoch, as far as tracks of it depend on it.
pub struct Epoch<'a> {
    /// Of which camera.
    pub key: &'a CameraKey,
    /// Which.
    pub epoch: EpochId,
    /// What is known of its clocks.
    pub relations: &'a Relations,
    /// Whether nothing stored is yet to be corrected by that.
    pub times_are_settled: bool,
    /// Whether the camera has left it, and something of it is still missing: some of its tracks have ended
    /// by that, and some have not.
    pub is_leaving: bool,
}

/// What of an epoch's clocks is known, and whether all that is stored goes by it.
pub fn clocks(document: Option<ClockDocument>) -> (Relations, bool) {
    let Some(document) = document else { return (Relations::default(), true) };
    let is_settled = document.due.is_none() && document.pictures_due.is_none();
    (document.relations.into_iter().collect(), is_settled)
}

/// In what a stored track differs from one that is made, and whether it still goes on.
pub fn compare(
    epoch: &Epoch,
    made: &Made,
    stored: &Document,
) -> Result<(Vec<Difference>, bool), StoreError> {
    let read: TrackDocument = match decode(collection::TRACKS, stored.clone()) {
        Ok(read) => read,
        Err(StoreError::Unreadable { field, source, .. }) => {
            let (stored, replayed) = (source.to_string(), "what can be read".to_owned());
            let id = made.summary.id.to_string();
            return Ok((vec![Difference { of: "track", id, field, stored, replayed }], false));
        }
        Err(error) => return Err(error),
    };
    let goes_on = !made.summary.ended && seq_of(&read.last_observation) > Some(made.until);
    let nowhere = Origin {
        topic: String::new(),
        partition: 0,
        offset: 0,
        broker_time_ms: 0,
        stored_at_ms: 0,
    };
    let Epoch { key, epoch: id, relations, .. } = epoch;
    let (summary, wall) = (&made.summary, made.wall.as_ref());
    let must = upsert::track(summary, key, *id, wall, true, relations, nowhere.ingest(0));
    let (must, is) = (encode(collection::TRACKS, &must)?, encode(collection::TRACKS, &read)?);
    let is_compared = |field: &str| {
        field != "ingest"
            && (!goes_on || BEGINNING.contains(&field))
            && (epoch.times_are_settled || !TIMES.contains(&field))
            && (!epoch.is_leaving || !STATE.contains(&field))
    };
    let others = is.keys().filter(|field| !must.contains_key(*field));
    let fields = must.keys().chain(others).filter(|field| is_compared(field));
    let differing = fields.filter(|field| is.get(*field) != must.get(*field));
    let text = |value: Option<&Bson>| value.map_or_else(|| "nothing".to_owned(), Bson::to_string);
    let difference = |field: &String| Difference {
        of: "track",
        id: made.summary.id.to_string(),
        field: field.clone(),
        stored: text(is.get(field)),
        replayed: text(must.get(field)),
    };
    Ok((differing.map(difference).collect(), goes_on))
}

/// The number at the end of an observation's id.
pub fn seq_of(observation: &str) -> Option<u64> {
    observation.rsplit_once('/')?.1.parse().ok()
}

/// The number of the observation with which a track began.
pub fn birth_of(track: &str) -> Option<u64> {
    seq_of(track.rsplit_once('#')?.0)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;
    use crate::consume::replay::walk::Walk;
    use crate::consume::runs::Frame;
    use crate::track::{Detection, Settings};

    fn made(ended: bool) -> Made {
        let mut walk = Walk::new(Settings::default(), 0);
        let clock = picket_wire::observation::ClockState::Synchronised;
        let class = "face";
        let detections = [Detection { box_px: [1.0, 2.0, 30.0, 40.0], score: 0.9, class }];
        for seq in 1..=3 {
            let id = format!("gate/north/1-00000001/{seq}");
            let (mono_us, captured_ns) = (seq * 100_000, Some(seq as i64));
            let frame =
                Frame { id: &id, seq, mono_us, captured_ns, clock, detections: &detections };
            walk.observe(&frame, 0, true);
        }
        walk.finish(ended);
        walk.take_ended().pop().unwrap()
    }

    fn epoch<'a>(key: &'a CameraKey, relations: &'a Relations) -> Epoch<'a> {
        let epoch = "1-00000001".parse().unwrap();
        Epoch { key, epoch, relations, times_are_settled: true, is_leaving: false }
    }

    fn stored(made: &Made) -> Document {
        let (key, relations) = ("gate/north".parse().unwrap(), Relations::default());
        let origin = Origin {
            topic: "t".to_owned(),
            partition: 1,
            offset: 2,
            broker_time_ms: 3,
            stored_at_ms: 4,
        };
        let id = "1-00000001".parse().unwrap();
        let wall = made.wall.as_ref();
        let track =
            upsert::track(&made.summary, &key, id, wall, true, &relations, origin.ingest(1));
        encode(collection::TRACKS, &track).unwrap()
    }

    fn fields(made: &Made, stored: &Document, is_leaving: bool) -> (Vec<String>, bool) {
        let (key, relations) = ("gate/north".parse().unwrap(), Relations::default());
        let epoch = Epoch { is_leaving, ..epoch(&key, &relations) };
        let (differences, goes_on) = compare(&epoch, made, stored).unwrap();
        (differences.into_iter().map(|difference| difference.field).collect(), goes_on)
    }

    #[test]
    fn a_track_equals_itself_whatever_ingest_says_and_a_changed_field_is_named() {
        let made = made(true);
        assert_eq!(fields(&made, &stored(&made), false), (vec![], false));
        for (field, value) in [
            ("observations", Bson::Int64(4)),
            ("class", "dog".into()),
            ("best_score", Bson::Double(0.5)),
            ("replaced_by", "another".into()),
            ("state", "active".into()),
            ("last_seen", Bson::Null),
            ("rev", "spoilt".into()),
        ] {
            let mut changed = stored(&made);
            changed.insert(field, value);
            assert_eq!(fields(&made, &changed, false), (vec![field.to_owned()], false));
        }
        let mut later = stored(&made);
        later.insert("of_a_later_build", 1);
        assert_eq!(fields(&made, &later, false).0, Vec::<String>::new());
    }

    #[test]
    fn of_a_track_that_goes_on_the_beginning_is_compared_and_of_one_that_is_left_not_its_state() {
        let made = made(false);
        let mut later = stored(&made);
        let set = doc! { "observations": 9_i64, "last_observation": "gate/north/1-00000001/9" };
        later.extend(set);
        assert_eq!(fields(&made, &later, false), (vec![], true));
        later.insert("first_mono_us", 7_i64);
        assert_eq!(fields(&made, &later, false), (vec!["first_mono_us".to_owned()], true));
        let mut left = stored(&made);
        left.extend(doc! { "state": "ended", "rev": 3_i64 });
        assert_eq!(fields(&made, &left, true), (vec![], false));
        assert_eq!(fields(&made, &left, false).0.len(), 2);
    }
}
