//! Who has a turn at being corrected, and for how long.

use mongodb::bson::{Document, doc};
use picket_aggregator::remedy::Remedy;
use picket_aggregator::store::clocks::Due;
use picket_aggregator::store::relations::Relation;
use picket_aggregator::upsert::{Corrector, Limits};
use picket_tests::faults::{Bench, on_bench};
use picket_wire::observation::ClockState;

use super::epoch::{Epoch, relations, store};

/// So little in one go that few documents are many.
const LITTLE: Limits = Limits { page: 5, pages_in_a_turn: 3, most_begun: 1 };

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
            .bypass_document_validation(true)
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
        waiting.pictures_came(&store, ClockState::Unset, 0, i64::MAX).await;

        for _ in 0..TURNS {
            for epoch in &mut busy {
                epoch.learn(&store, free).await;
                epoch.pictures_came(&store, ClockState::Unset, 0, i64::MAX).await;
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
        // The ninth page of a thousand, an empty one, and those of pictures and tracks.
        corrector.turn().await?;
        assert!(!corrector.has_begun());
        assert!(!long.is_due(&store).await);
        let wrong = doc! { "camera": "day", "corrected": { "$exists": false } };
        assert_eq!(documents("observations").count_documents(wrong).await?, 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn long_epochs_have_their_turns_in_parts_also_where_too_many_are_begun_to_remember() {
    const LONG: u64 = 50;
    /// Each takes 13 pages: 11 of observations, one of pictures, one of tracks.
    const TURNS: usize = 3 * 5;
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "many-long").await;
        let mut corrector = Corrector::with_limits(store.clone(), LITTLE);
        let documents = |name: &str| store.database().collection::<Document>(name);
        let mut long = ["day/1", "day/2", "day/3"].map(Epoch::new);
        for epoch in &mut long {
            let day: Vec<_> = (1..=LONG as i64).map(|seq| epoch.unsure(seq)).collect();
            documents("observations").insert_many(day).await?;
            epoch.learn(&store, relations()[1]).await;
        }
        let mut short = Epoch::new("short/moment");
        for name in ["frames", "observations", "tracks"] {
            documents(name).insert_one(short.track(1)).await?;
        }
        short.learn(&store, relations()[1]).await;
        corrector.turn().await?;
        short.is_right(&store, 1, "after its turn").await;
        for epoch in &long {
            let right =
                doc! { "camera": epoch.key.camera.as_str(), "corrected": { "$exists": true } };
            assert_eq!(documents("observations").count_documents(right).await?, 15, "{}", epoch.id);
        }
        for _ in 1..TURNS {
            corrector.turn().await?;
        }
        assert!(!corrector.has_begun());
        assert!(store.due_epochs(Due::Relation, "", 1).await?.is_empty());
        let right = doc! { "corrected": { "$exists": true } };
        assert_eq!(documents("observations").count_documents(right).await?, 3 * LONG + 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_store_that_fails_has_no_long_epoch_begin_anew() {
    on_bench(async |bench: &mut Bench| {
        let store = store(&bench.fleet, "fails").await;
        let limits = Limits { pages_in_a_turn: 1, ..LITTLE };
        let mut corrector = Corrector::with_limits(store.clone(), limits);
        let documents = |name: &str| store.database().collection::<Document>(name);
        let mut epoch = Epoch::new("gate/north");
        for name in ["observations", "elsewhere", "tracks"] {
            documents(name).insert_one(epoch.track(1)).await?;
        }
        // Pictures can be read and not written.
        documents("frames").drop().await?;
        let view = store.database().create_collection("frames");
        view.view_on("elsewhere".to_owned()).pipeline(Vec::new()).await?;
        epoch.learn(&store, relations()[1]).await;
        corrector.turn().await?;
        let failed = corrector.turn().await.unwrap_err();
        assert_eq!(failed.remedy(), Remedy::Retry, "{failed:?}");
        // The round ends behind the epoch at which it failed.
        corrector.turn().await?;
        assert!(corrector.has_begun(), "its observations are looked at anew");
        documents("frames").drop().await?;
        store.prepare().await?;
        documents("frames").insert_one(epoch.track(1)).await?;
        // Pictures and tracks are left.
        corrector.turn().await?;
        corrector.turn().await?;
        epoch.is_right(&store, 1, "after the store came back").await;
        assert!(!corrector.has_begun() && !epoch.is_due(&store).await);
        Ok(())
    })
    .unwrap();
}
