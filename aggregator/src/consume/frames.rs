//! Partitions of the frames topic: pictures and their documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use picket_wire::observation::ClockState;
use picket_wire::{CameraKey, EpochId, Message, Picture};

use super::camera::Known;
use super::dead_letter::DeadLetter;
use super::effects::{Effects, Entry, Image, Stored};
use crate::store::bulk::Update;
use crate::store::clocks::look_at_pictures;
use crate::store::documents::collection;
use crate::store::relations::Stretch;
use crate::store::{Store, StoreError, encode_raw};
use crate::upsert::{self, Retention};

/// Pictures have no state but what is stored.
pub struct Frames {
    store: Store,
    retention: Retention,
}

impl Frames {
    /// Of one partition.
    pub fn new(store: Store, retention: Retention) -> Self {
        Self { store, retention }
    }

    /// The pictures of the batch that are stored already.
    pub async fn load(&self, entries: &[Entry]) -> Result<HashMap<String, Known>, StoreError> {
        let ids: BTreeSet<String> = entries
            .iter()
            .filter_map(|entry| match &entry.message {
                Ok(Message::Picture { picture, .. }) => Some(picture.id_text()),
                _ => None,
            })
            .collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let fields = Some(Stored::fields());
        let found =
            self.store.find_readable_by_ids::<Stored>(collection::FRAMES, &ids, fields).await?;
        Ok(found.into_iter().map(Stored::known).collect())
    }

    /// Takes the batch in. A document stands only where its picture is durable, so that what has a
    /// document needs nothing more.
    pub fn apply(
        &self,
        entries: Vec<Entry>,
        mut known: HashMap<String, Known>,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut documents = Vec::new();
        let mut unsure = Unsure::default();
        for entry in entries {
            let picture = match &entry.message {
                Ok(Message::Picture { picture, .. }) => picture,
                Ok(_) => continue,
                Err(reject) => {
                    let reject = reject.clone();
                    effects.dead_letters.push(DeadLetter::unreadable(entry.record, &reject));
                    continue;
                }
            };
            let id = picture.id_text();
            unsure.note(picture);
            match known.get(&id) {
                Some(stored) if stored.digest != entry.digest => {
                    effects.dead_letters.push(entry.conflict(&id));
                    continue;
                }
                // Its own document, of a batch that is read again, is no second picture.
                Some(stored) => {
                    effects.duplicates += u64::from(!stored.is_from(&entry.origin));
                    continue;
                }
                None => {}
            }
            let ingest = entry.origin.ingest(self.retention.frames_days);
            let document = upsert::frame(picture, &entry.digest, ingest);
            documents.push(encode_raw(collection::FRAMES, &document)?);
            known.insert(id, Known::new(&entry.digest, &entry.origin));
            let path = document.path;
            let jpeg = entry.record.value.unwrap_or_default().into();
            effects.images.push(Image { path, jpeg });
        }
        effects.inserts.push((collection::FRAMES, documents));
        // After them: whoever learns of their epoch's clocks before this finds them, and whoever knew
        // already is told of them.
        effects.writes.push((collection::CLOCKS, unsure.updates()));
        Ok(effects)
    }
}

/// Pictures whose time may be corrected: in which stretch of which epoch, by the state of the clock.
#[derive(Default)]
struct Unsure(BTreeMap<(CameraKey, EpochId), Vec<(ClockState, Stretch)>>);

impl Unsure {
    fn note(&mut self, picture: &Picture) {
        if picture.stamp.clock == ClockState::Synchronised {
            return;
        }
        let mono_us = i64::try_from(picture.stamp.mono_us).unwrap_or(i64::MAX);
        let here = Stretch { from_us: mono_us, to_us: mono_us };
        let clock = picture.stamp.clock;
        let epoch = self.0.entry((picture.id.key.clone(), picture.id.epoch)).or_default();
        match epoch.iter_mut().find(|(state, _)| *state == clock) {
            Some((_, stretch)) => *stretch = stretch.and(here),
            None => epoch.push((clock, here)),
        }
    }

    fn updates(self) -> Vec<Update> {
        let mut updates = Vec::new();
        for ((key, epoch), stretches) in self.0 {
            for (clock, stretch) in stretches {
                updates.push(look_at_pictures(&key, epoch, clock, stretch));
            }
        }
        updates
    }
}

#[cfg(test)]
mod tests {
    use picket_wire::observation::Stamp;

    use super::*;

    fn picture(camera: &str, mono_us: u64, clock: ClockState) -> Picture {
        Picture {
            id: format!("{camera}/1-0a1b2c3d/{mono_us}").parse().unwrap(),
            crop: None,
            stamp: Stamp { mono_us, captured_at: None, clock },
            width: 640,
            height: 360,
            redacted: "none".to_owned(),
            jpeg: Vec::new(),
        }
    }

    #[test]
    fn pictures_of_each_state_of_a_clock_are_looked_at_where_they_are_and_of_a_kept_one_none() {
        use ClockState::{Synchronised, Unset, Unsynchronised};
        let mut unsure = Unsure::default();
        for (camera, mono_us, clock) in [
            ("gate/north", 7, Unset),
            ("gate/north", 1, Synchronised),
            ("gate/north", 40, Unsynchronised),
            ("gate/south", 5, Unsynchronised),
            ("gate/north", 3, Unset),
            ("gate/north", 20, Unsynchronised),
        ] {
            unsure.note(&picture(camera, mono_us, clock));
        }
        let epoch = "1-0a1b2c3d".parse().unwrap();
        let look = |camera: &str, clock, from_us, to_us| {
            look_at_pictures(&camera.parse().unwrap(), epoch, clock, Stretch { from_us, to_us })
        };
        let wanted = [
            look("gate/north", Unset, 3, 7),
            look("gate/north", Unsynchronised, 20, 40),
            look("gate/south", Unsynchronised, 5, 5),
        ];
        assert_eq!(unsure.updates(), wanted);
    }
}
