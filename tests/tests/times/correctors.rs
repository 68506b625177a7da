//! Those who correct what is stored: killed, several at once, and with more to do than they manage.

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use picket_aggregator::store::bulk::Update;
use picket_aggregator::store::clocks::{Due, EpochClock, look_at_pictures};
use picket_aggregator::store::relations::{Relation, Stretch};
use picket_aggregator::store::{Settings, Store};
use picket_aggregator::upsert::{Corrector, Place};
use picket_tests::faults::{Bench, on_bench, short_or_long};
use picket_tests::fleet::Fleet;
use picket_wire::observation::ClockState;
use picket_wire::{CameraKey, EpochId};

use super::{RIGHT_US, WRONG_US, wait_for_corrected, wait_for_count};

#[test]
fn a_day_of_wrong_times_is_corrected_in_parts_also_by_an_aggregator_that_is_killed() {
    on_bench(async |bench: &mut Bench| {
        let fleet = &mut bench.fleet;
        let count = short_or_long(12_000, 300_000);
        let epoch = "day/north/1-0a1b2c3d";
        let observations = fleet.database.collection::<Document>("observations");
        let wrong: Vec<_> = (1..=count).map(|seq| stored_unsure(epoch, seq)).collect();
        observations.insert_many(wrong).await?;
        // Held, so that it is not done with all of them before it is killed.
        let mut session = fleet.database.client().start_session().await?;
        session.start_transaction().await?;
        let last = observations
            .update_one(doc! { "_id": format!("{epoch}/{count}") }, doc! { "$set": { "held": true } });
        last.session(&mut session).await?;
        let clocks = fleet.database.collection::<Document>("clocks");
        clocks
            .insert_one(doc! {
                "_id": epoch, "device": "day", "camera": "north", "epoch": "1-0a1b2c3d",
                "relations": [{ "mono_us": i64::MAX / 4, "offset_us": RIGHT_US, "clock": "synchronised" }],
                "due": { "from_us": 0_i64, "to_us": i64::MAX }, "version": 1_i64,
            })
            .await?;
        let corrected = doc! { "device": "day", "corrected": { "$exists": true } };
        wait_for_count(fleet, "observations", corrected.clone(), 1).await;
        fleet.aggregator.kill()?;
        let so_far = observations.count_documents(corrected.clone()).await?;
        assert!(so_far < count as u64, "killed too late: all {so_far} are right already");
        session.abort_transaction().await?;
        fleet.restart_aggregator().await?;
        wait_for_count(fleet, "observations", corrected, count as u64).await;
        wait_for_corrected(fleet, "day").await;
        let mut found = observations.find(doc! { "device": "day" }).await?;
        while let Some(document) = found.try_next().await? {
            let mono_us = document.get_i64("mono_us")?;
            assert_eq!(document.get_i64("captured_ns")?, (RIGHT_US + mono_us) * 1000, "{document}");
            let said = document.get_document("corrected")?.get_i64("device_captured_ns")?;
            assert_eq!(said, (WRONG_US + mono_us) * 1000, "{document}");
        }
        // No agent captured them: the books of the other tests are not theirs.
        observations.delete_many(doc! { "device": "day" }).await?;
        Ok(())
    })
    .unwrap();
}

fn stored_unsure(epoch: &str, seq: i64) -> Document {
    let mono_us = seq * 100_000;
    let said_ns = (WRONG_US + mono_us) * 1000;
    doc! {
        "_id": format!("{epoch}/{seq}"), "kind": "observation", "device": "day", "camera": "north",
        "epoch": "1-0a1b2c3d", "seq": seq, "mono_us": mono_us, "clock": "unsynchronised",
        "captured_at": DateTime::from_millis(said_ns / 1_000_000), "captured_ns": said_ns,
    }
}
/// A store in which no other program corrects anything.
async fn store(fleet: &Fleet, database: &str) -> Store {
    let stack = fleet.stack.settings();
    let host = stack.mongodb.uri.split_once("://").unwrap().1;
    let text = format!(
        "hosts = ['{}']\ndatabase = '{database}'\nuser = 'admin'\npassword_file = '{}'\nca_file = '{}'",
        host.split(['/', '?']).next().unwrap(),
        stack.dir.join("mongodb/admin.password").display(),
        stack.mongodb.ca.display(),
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    settings.check().unwrap();
    let store = Store::connect(&settings).await.unwrap();
    store.prepare().await.unwrap();
    store
}

/// What tells the time of all before it: first wrongly, and once the second is known, rightly.
fn relations() -> [Relation; 2] {
    let clock = ClockState::Synchronised;
    let wrong_us = WRONG_US + 7_000_000;
    [
        Relation { mono_us: 9_000_000, offset_us: wrong_us, clock },
        Relation { mono_us: 8_000_000, offset_us: RIGHT_US, clock },
    ]
}

/// An epoch with a clock whose owner learns of relations.
struct Epoch {
    id: String,
    key: CameraKey,
    epoch: EpochId,
    owner: EpochClock,
}

impl Epoch {
    fn new(camera: &str) -> Self {
        let key: CameraKey = camera.parse().unwrap();
        let epoch: EpochId = "1-0a1b2c3d".parse().unwrap();
        Self { id: format!("{key}/{epoch}"), key, epoch, owner: EpochClock::default() }
    }

    /// A document of this epoch at this time, of which nobody knows but the device.
    fn unsure(&self, seq: i64) -> Document {
        let mut document = stored_unsure(&self.id, seq);
        document.extend(doc! {
            "device": self.key.device.as_str(),
            "camera": self.key.camera.as_str(),
        });
        document
    }

    fn track(&self, seq: i64) -> Document {
        let mono_us = seq * 100_000;
        let said = DateTime::from_millis((WRONG_US + mono_us) / 1000);
        let mut track = self.unsure(seq);
        track.extend(doc! {
            "first_mono_us": mono_us, "last_mono_us": mono_us, "first_seen": said, "last_seen": said,
            "first_clock": "unsynchronised", "last_clock": "unsynchronised", "rev": seq,
        });
        track
    }

    /// As a batch of its partition ends that brought a clock record.
    async fn learn(&mut self, store: &Store, relation: Relation) {
        self.owner.learn(relation);
        let update = self.owner.take_update(&self.key, self.epoch).unwrap().unwrap();
        store.write("clocks", vec![update]).await.unwrap();
    }

    async fn is_due(&self, store: &Store) -> bool {
        let due = doc! { "_id": &self.id, "due": { "$exists": true } };
        let clocks = store.database().collection::<Document>("clocks");
        clocks.find_one(due).await.unwrap().is_some()
    }

    /// Stores a record as its owner does that knows both relations already.
    async fn store_known(&self, store: &Store, collection: &'static str, seq: i64) {
        let right_ns = (RIGHT_US + seq * 100_000) * 1000;
        let right = DateTime::from_millis(right_ns / 1_000_000);
        let mut document = self.track(seq);
        let said = document.get_i64("captured_ns").unwrap();
        document.extend(doc! {
            "captured_at": right, "captured_ns": right_ns, "first_seen": right, "last_seen": right,
            "ingest": { "relations": 2_i64 },
            "corrected": {
                "device_captured_at": DateTime::from_millis(said / 1_000_000),
                "device_captured_ns": said, "by_clock": "synchronised",
                "device_first_seen": DateTime::from_millis(said / 1_000_000),
                "device_last_seen": DateTime::from_millis(said / 1_000_000),
            },
        });
        let id = document.get_str("_id").unwrap().to_owned();
        store.write(collection, vec![Update::insert_once(&id, document)]).await.unwrap();
    }

    /// Its documents, all of which must have their right times.
    async fn is_right(&self, store: &Store, wanted: usize, when: &str) {
        for (collection, field) in
            [("observations", "captured_at"), ("frames", "captured_at"), ("tracks", "last_seen")]
        {
            let documents = store.database().collection::<Document>(collection);
            let all = documents.find(doc! { "camera": self.key.camera.as_str() }).await.unwrap();
            let all: Vec<Document> = all.try_collect().await.unwrap();
            assert_eq!(all.len(), wanted, "{collection}");
            for document in all {
                let right_us = RIGHT_US + document.get_i64("seq").unwrap() * 100_000;
                let right = DateTime::from_millis(right_us / 1000);
                let stands = document.get_datetime(field).unwrap();
                assert_eq!(*stands, right, "{when}, {collection}: {document}");
            }
        }
    }
}

/// Each errand has three steps, of observations, pictures and tracks; it can stand still before it looks
/// at what a step is about, and before it writes it.
const STANDS: usize = 6;

#[test]
fn a_corrector_that_stood_still_undoes_nothing_that_was_corrected_meanwhile() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "stood-still").await;
        let (slow, fast) = (Corrector::new(store.clone()), Corrector::new(store.clone()));
        let [wrong, right] = relations();
        for stand in 0..STANDS {
            let mut epoch = Epoch::new(&format!("gate/north-{stand}"));
            let documents = |name: &str| store.database().collection::<Document>(name);
            for seq in [1, 2] {
                documents("observations").insert_one(epoch.unsure(seq)).await?;
                documents("frames").insert_one(epoch.unsure(seq)).await?;
                documents("tracks").insert_one(epoch.track(seq)).await?;
            }
            epoch.learn(&store, wrong).await;
            let errand = slow.errand(Due::Relation, &epoch.id).await?.unwrap();
            let mut place = Some(Place::default());
            for _ in 0..stand / 2 {
                let step = slow.look(&errand, place.take().unwrap()).await?;
                place = slow.write(step).await?;
            }
            let held = match stand % 2 {
                1 => Some(slow.look(&errand, place.take().unwrap()).await?),
                _ => None,
            };

            // The batch that brings the other relation also brings records, which are stored first.
            for collection in ["observations", "frames", "tracks"] {
                epoch.store_known(&store, collection, 3).await;
            }
            epoch.learn(&store, right).await;
            let newer = fast.errand(Due::Relation, &epoch.id).await?.unwrap();
            fast.work_off(newer).await?;
            for collection in ["observations", "frames", "tracks"] {
                epoch.store_known(&store, collection, 4).await;
            }
            epoch.is_right(&store, 4, "before the slow one goes on").await;
            assert!(!epoch.is_due(&store).await);

            if let Some(held) = held {
                place = slow.write(held).await?;
            }
            while let Some(here) = place {
                let step = slow.look(&errand, here).await?;
                place = slow.write(step).await?;
            }
            epoch.is_right(&store, 4, &format!("it had stood at {stand}")).await;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_became_due_while_a_corrector_worked_stays_due() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "meanwhile").await;
        let corrector = Corrector::new(store.clone());
        let mut epoch = Epoch::new("gate/north");
        let [wrong, right] = relations();
        epoch.learn(&store, wrong).await;
        let errand = corrector.errand(Due::Relation, &epoch.id).await?.unwrap();
        // Pictures that come meanwhile are another errand, and do not have this one begin anew.
        let pictures = Stretch { from_us: 5, to_us: 6 };
        store.write("clocks", vec![look_at_pictures(&epoch.key, epoch.epoch, pictures)]).await?;
        corrector.work_off(errand).await?;
        assert!(!epoch.is_due(&store).await);
        let pictures = corrector.errand(Due::Pictures, &epoch.id).await?.unwrap();
        corrector.work_off(pictures).await?;
        assert!(corrector.errand(Due::Pictures, &epoch.id).await?.is_none());
        // Another relation is more to do for this very errand.
        epoch.learn(&store, right).await;
        let errand = corrector.errand(Due::Relation, &epoch.id).await?.unwrap();
        epoch.learn(&store, wrong).await;
        corrector.work_off(errand).await?;
        assert!(epoch.is_due(&store).await);
        Ok(())
    })
    .unwrap();
}

#[test]
fn each_epoch_has_its_turn_although_many_are_always_due_and_one_cannot_be_read() {
    /// More than have their turn at once, and all of them before the one that waits.
    const BUSY: usize = 40;
    const TURNS: usize = 4;
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "turns").await;
        let mut corrector = Corrector::new(store.clone());
        let clocks = store.database().collection::<Document>("clocks");
        clocks
            .insert_one(doc! {
                "_id": "a-first/north/1-0a1b2c3d", "relations": "none of these",
                "due": { "from_us": 0_i64, "to_us": 1_i64 },
                "pictures_due": { "from_us": 0_i64, "to_us": 1_i64 },
            })
            .await?;
        let free = Relation { clock: ClockState::Unsynchronised, ..relations()[0] };
        let mut busy = Vec::new();
        for number in 0..BUSY {
            let mut epoch = Epoch::new(&format!("busy/camera-{number:02}"));
            epoch.learn(&store, free).await;
            busy.push(epoch);
        }
        let mut waiting = Epoch::new("waiting/north");
        let documents = |name: &str| store.database().collection::<Document>(name);
        documents("observations").insert_one(waiting.unsure(1)).await?;
        documents("tracks").insert_one(waiting.track(1)).await?;
        waiting.learn(&store, relations()[1]).await;
        documents("frames").insert_one(waiting.unsure(1)).await?;
        let all = Stretch { from_us: 0, to_us: i64::MAX };
        store.write("clocks", vec![look_at_pictures(&waiting.key, waiting.epoch, all)]).await?;

        for _ in 0..TURNS {
            for epoch in &mut busy {
                epoch.learn(&store, free).await;
                let pictures = look_at_pictures(&epoch.key, epoch.epoch, all);
                store.write("clocks", vec![pictures]).await?;
            }
            corrector.turn().await?;
        }
        waiting.is_right(&store, 1, "after its turn").await;
        for due in Due::ALL {
            assert!(corrector.errand(due, &waiting.id).await?.is_none(), "{due:?}");
            let first = store.due_epochs(due, "", 1).await?;
            assert_eq!(first, ["a-first/north/1-0a1b2c3d"], "what failed is tried again");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_epoch_of_a_day_keeps_no_other_waiting_and_comes_to_its_end() {
    /// More than one turn takes.
    const DAY: i64 = 9000;
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "long").await;
        let mut corrector = Corrector::new(store.clone());
        let documents = |name: &str| store.database().collection::<Document>(name);
        let (mut long, mut short) = (Epoch::new("a-long/day"), Epoch::new("short/moment"));
        let day: Vec<_> = (1..=DAY).map(|seq| long.unsure(seq)).collect();
        documents("observations").insert_many(day).await?;
        for name in ["frames", "observations", "tracks"] {
            documents(name).insert_one(short.track(1)).await?;
        }
        for epoch in [&mut long, &mut short] {
            epoch.learn(&store, relations()[1]).await;
        }
        let right = corrector.turn().await?;
        assert!(right < DAY as u64, "all of the day in one turn, before the other one");
        short.is_right(&store, 1, "after its turn").await;
        assert!(corrector.has_begun());
        while corrector.has_begun() {
            corrector.turn().await?;
        }
        assert!(!long.is_due(&store).await);
        let wrong = doc! { "camera": "day", "corrected": { "$exists": false } };
        assert_eq!(documents("observations").count_documents(wrong).await?, 0);
        Ok(())
    })
    .unwrap();
}
