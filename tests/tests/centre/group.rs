//! Who owns a partition, and how it changes hands.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_aggregator::consume::{self, Membership};
use picket_aggregator::store::Store;
use picket_aggregator::store::checkpoints::LogNote;
use picket_tests::process::until;
use picket_wire::{Topic, TopicNames};

use super::bench::{LIMIT, PARTITIONS, bench, complete, count, one};
use super::records::seen;

#[tokio::test]
async fn two_centres_share_the_partitions_and_one_takes_over_from_the_other() {
    let bench = bench().await;
    let store = bench.store().await;
    let first = bench.centre(&store).await;
    let second = bench.spawn(&store, bench.settings());
    let all = PARTITIONS as usize * 3;
    let (mut a, mut b) = (first.membership(), second.membership());
    let shared = async {
        b.wait_for(|m| !m.partitions.is_empty()).await.unwrap();
        a.wait_for(|m| m.partitions.len() < all).await.unwrap();
    };
    tokio::time::timeout(LIMIT, shared).await.unwrap();
    let epochs: Vec<_> = (0..6).map(|n| format!("move/cam{n}/1-0a1b2c3d")).collect();
    for seq in 1..=10 {
        for epoch in &epochs {
            bench.send(seen(epoch, seq).encode().unwrap()).await;
        }
    }
    first.stop().await.unwrap();
    for seq in 11..=20 {
        for epoch in &epochs {
            bench.send(seen(epoch, seq).encode().unwrap()).await;
        }
    }
    let whole = b.wait_for(|m| m.partitions.len() == all);
    tokio::time::timeout(LIMIT, whole).await.unwrap().unwrap();
    for n in 0..6 {
        let camera = complete(&store, &format!("move/cam{n}"), 20).await;
        assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 20);
    }
    assert_eq!(count(&store, "observations", doc! { "device": "move" }).await, 120);
    assert_eq!(count(&store, "tracks", doc! { "device": "move" }).await, 6);
    second.stop().await.unwrap();
}

/// Who owns each partition, and since which epoch of owners.
async fn owners(store: &Store) -> BTreeMap<String, (String, i64)> {
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let found = checkpoints.find(doc! { "_id": { "$regex": "^partition/" } }).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let text = |d: &Document, field: &str| d.get_str(field).unwrap().to_owned();
    let owner = |d: &Document| (text(d, "owner"), d.get_i64("owner_epoch").unwrap());
    found.iter().map(|document| (text(document, "_id"), owner(document))).collect()
}

#[tokio::test]
async fn a_static_member_that_starts_again_finds_its_partitions_and_its_name_is_nobody_elses() {
    let bench = bench().await;
    let store = bench.store().await;
    let named = |name: &str| {
        let member = Some(name.to_owned());
        bench.spawn(&store, consume::Settings { static_member: member, ..bench.settings() })
    };
    let all = PARTITIONS as usize * 3;
    let (a, b) = (named("centre-a"), named("centre-b"));
    let mut memberships = [a.membership(), b.membership()];
    until("both to have a part, and the partitions an owner", LIMIT, async || {
        let counts = memberships.each_mut().map(|m| m.borrow_and_update().partitions.len());
        let owned = owners(&store).await.into_values().filter(|(o, _)| o.starts_with("centre-"));
        let done = !counts.contains(&0) && counts[0] + counts[1] == all && owned.count() == all;
        Ok(if done { Ok(()) } else { Err(format!("{counts:?}")) })
    })
    .await
    .unwrap();

    let mut namesake = named("centre-a");
    let error = tokio::time::timeout(LIMIT, namesake.ended()).await.unwrap().unwrap_err();
    let said = picket_service::logging::chain(&error).to_string();
    assert!(said.contains("consume.static_member") && said.contains("centre-a"), "{said}");

    let before = owners(&store).await;
    let parts = [&a, &b].map(|centre| centre.membership().borrow().clone());
    let mut other = b.membership();
    let others = parts[1].partitions.clone();
    let other_has_more = tokio::spawn(async move {
        let more = |m: &Membership| m.partitions.keys().any(|id| !others.contains_key(id));
        // Until it is gone.
        other.wait_for(more).await.is_ok()
    });
    a.stop().await.unwrap();
    let again = named("centre-a");
    let mut membership = again.membership();
    let back = membership.wait_for(|m| m.partitions.keys().eq(parts[0].partitions.keys()));
    tokio::time::timeout(LIMIT, back).await.unwrap().unwrap();
    until("its partitions to be taken over", LIMIT, async || {
        let after = owners(&store).await;
        let is_taken = |(id, (owner, epoch)): (&String, &(String, i64))| match owner.as_str() {
            "centre-a" => after[id].0 == *owner && after[id].1 > *epoch,
            _ => after[id] == (owner.clone(), *epoch),
        };
        let is_as_it_was = before.iter().all(is_taken);
        Ok(if is_as_it_was { Ok(()) } else { Err(format!("{before:?} {after:?}")) })
    })
    .await
    .unwrap();
    again.stop().await.unwrap();
    b.stop().await.unwrap();
    assert!(!other_has_more.await.unwrap(), "one of them went to the other meanwhile");
}

#[tokio::test]
async fn a_former_owner_that_wakes_up_changes_nothing() {
    use picket_aggregator::store::StoreError;
    use picket_aggregator::store::bulk::Update;
    use picket_aggregator::store::checkpoints::BatchEnd;
    let bench = bench().await;
    let store = bench.store().await;
    let (mut old, _) = store.claim("picket.test", 0, "a").await.unwrap();
    let ledger = |offset: i64| {
        let accounts = doc! {
            "stored": 0_i64, "skipped": 0_i64, "dropped": {}, "pictures_dropped": {}, "refused": {},
        };
        doc! {
            "device": "fence", "camera": "a", "accounted": [[1_i64, 1_i64]], "accounts": accounts,
            "offset": offset,
        }
    };
    let end = |offset| BatchEnd {
        next_offset: offset,
        ledger: vec![Update::set("fence/a/1-0a1b2c3d", ledger(offset))],
        ..BatchEnd::default()
    };
    store.end_batch(&mut old, &end(10)).await.unwrap();
    let (mut new, checkpoint) = store.claim("picket.test", 0, "b").await.unwrap();
    assert_eq!(checkpoint.next_offset, Some(10));
    let error = store.end_batch(&mut old, &end(20)).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let error = store.prove(&old.claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let note = LogNote { cluster: "elsewhere", next_offset: 0, broken: None, is_another: true };
    let error = store.note_log(&old.claim, note).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    store.prove(&new.claim).await.unwrap();
    let ledger = one(&store, "ledger", "fence/a/1-0a1b2c3d").await.unwrap();
    assert_eq!(ledger.get_i64("offset").unwrap(), 10);
    store.end_batch(&mut new, &end(30)).await.unwrap();
}

#[tokio::test]
async fn a_partition_that_another_claimed_in_passing_is_taken_over_again() {
    let bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "fenced/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "fenced/front", 1).await;
    let topic = TopicNames::default().name(Topic::Observations);
    store.claim(&topic, partition, "passer-by").await.unwrap();
    for seq in 2..=20 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let camera = complete(&store, "fenced/front", 20).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 20);
    assert_eq!(count(&store, "observations", doc! { "device": "fenced" }).await, 20);
    assert_eq!(count(&store, "tracks", doc! { "device": "fenced" }).await, 1);
    centre.stop().await.unwrap();
}

/// What the client has paused it keeps paused, whoever reads next.
#[tokio::test]
async fn a_partition_that_another_claimed_while_reading_waited_for_room_is_read_on() {
    let bench = bench().await;
    let store = bench.store().await;
    let settings = consume::Settings { queue_mib: 1, ..bench.settings() };
    let centre = bench.spawn(&store, settings);
    let epoch = "fenced-full/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "fenced-full/front", 1).await;
    // A claim that does not come to its end: no batch does meanwhile.
    let topic = TopicNames::default().name(Topic::Observations);
    let mut session = store.database().client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let partition = doc! { "_id": format!("partition/{topic}/{partition}") };
    let claim = doc! { "$inc": { "owner_epoch": 1_i64 }, "$set": { "owner": "passer-by" } };
    let checkpoints = store.database().collection::<Document>("checkpoints");
    checkpoints.update_one(partition, claim).session(&mut session).await.unwrap();
    for seq in 2..=900 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let mut membership = centre.membership();
    let paused = membership.wait_for(|m| m.partitions.values().any(|state| state.paused));
    tokio::time::timeout(LIMIT, paused).await.unwrap().unwrap();
    session.commit_transaction().await.unwrap();
    let camera = complete(&store, "fenced-full/front", 900).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 900);
    assert_eq!(count(&store, "observations", doc! { "device": "fenced-full" }).await, 900);
    centre.stop().await.unwrap();
}
