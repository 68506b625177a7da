//! Those who correct what is stored: killed, several at once, and with more becoming due meanwhile.

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::store::bulk::Update;
use picket_aggregator::store::clocks::Due;
use picket_aggregator::store::documents::TrackDocument;
use picket_aggregator::store::relations::{Relation, Stretch};
use picket_aggregator::upsert::{Corrector, Position};
use picket_tests::faults::{Bench, on_bench, short_or_long};
use picket_wire::observation::ClockState;

use super::epoch::{Epoch, relations, store, stored_unsure};
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
            let mut place = Some(Position::default());
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
            // What the slow one began with, and what became due since.
            while let Some(errand) = fast.errand(Due::Relation, &epoch.id).await? {
                fast.work_off(errand).await?;
            }
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
        epoch.pictures_came(&store, ClockState::Unset, 5, 6).await;
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
fn what_is_worked_off_gets_no_longer_by_what_becomes_due_meanwhile() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "no-longer").await;
        let (slow, fast) = (Corrector::new(store.clone()), Corrector::new(store.clone()));
        let mut epoch = Epoch::new("gate/north");
        let (due, unset) = (Due::Pictures, ClockState::Unset);
        let stretch = |from_us, to_us| Some(Stretch { from_us, to_us });
        epoch.learn(&store, relations()[1]).await;
        epoch.pictures_came(&store, unset, 5, 6).await;
        let first = slow.errand(due, &epoch.id).await?.unwrap();
        epoch.pictures_came(&store, unset, 7, 8).await;
        // Whoever comes next, when the first one may be gone, finds the same and no more.
        let again = fast.errand(due, &epoch.id).await?.unwrap();
        assert_eq!(epoch.doing(&store, due).await, stretch(5, 6));
        fast.work_off(again).await?;
        let second = fast.errand(due, &epoch.id).await?.unwrap();
        assert_eq!(epoch.doing(&store, due).await, stretch(7, 8), "not what is done already");
        // The slow one has done its own, which is not what is set apart by now.
        slow.work_off(first).await?;
        assert_eq!(epoch.doing(&store, due).await, stretch(7, 8));
        epoch.pictures_came(&store, unset, 9, 9).await;
        epoch.pictures_came(&store, unset, 3, 4).await;
        fast.work_off(second).await?;
        let third = fast.errand(due, &epoch.id).await?.unwrap();
        assert_eq!(epoch.doing(&store, due).await, stretch(3, 9));
        fast.work_off(third).await?;
        assert!(fast.errand(due, &epoch.id).await?.is_none());
        assert!(store.due_epochs(due, "", 1).await?.is_empty(), "nothing is left of it");
        Ok(())
    })
    .unwrap();
}

#[test]
fn pictures_are_due_only_where_something_is_known_that_tells_their_time() {
    use ClockState::{Synchronised, Unset, Unsynchronised};
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "tells").await;
        let corrector = Corrector::new(store.clone());
        for (known, clock, is_due) in [
            (None, Unset, false),
            (Some(Unsynchronised), Unset, true),
            (Some(Unsynchronised), Unsynchronised, false),
            (Some(Synchronised), Unset, true),
            (Some(Synchronised), Unsynchronised, true),
        ] {
            let mut epoch = Epoch::new(&format!("gate/{}-{}", known.is_some(), is_due));
            if let Some(clock) = known {
                epoch.learn(&store, Relation { clock, ..relations()[1] }).await;
            }
            epoch.pictures_came(&store, clock, 5, 6).await;
            let errand = corrector.errand(Due::Pictures, &epoch.id).await?;
            assert_eq!(errand.is_some(), is_due, "{known:?}, pictures {clock:?}");
            let clocks = store.database().collection::<Document>("clocks");
            clocks.delete_many(doc! {}).await?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_former_owner_that_wakes_up_undoes_no_correction_of_a_track() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "former").await;
        let corrector = Corrector::new(store.clone());
        let mut epoch = Epoch::new("gate/north");
        let write = async |track: &Document| {
            let id = track.get_str("_id").unwrap();
            let update = Update::keep_higher(id, &TrackDocument::ORDER, track.clone());
            store.write("tracks", &[update]).await.unwrap();
        };
        for name in ["observations", "frames"] {
            store.database().collection::<Document>(name).insert_one(epoch.unsure(1)).await?;
        }
        let track = epoch.track(1);
        // By both owners; then the next one learns of the clock.
        write(&track).await;
        write(&track).await;
        epoch.learn(&store, relations()[1]).await;
        let errand = corrector.errand(Due::Relation, &epoch.id).await?.unwrap();
        corrector.work_off(errand).await?;
        epoch.is_right(&store, 1, "before the former owner wakes up").await;
        write(&track).await;
        epoch.is_right(&store, 1, "after it wrote what it knew").await;
        // What the track becomes later is another version.
        let mut later = track.clone();
        later.insert("rev", 2_i64);
        write(&later).await;
        let tracks = store.database().collection::<Document>("tracks");
        assert_eq!(tracks.find_one(doc! {}).await?, Some(later));
        Ok(())
    })
    .unwrap();
}
