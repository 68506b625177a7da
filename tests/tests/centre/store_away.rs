//! MongoDB that is away for a while.

use std::time::Duration;

use mongodb::bson::doc;
use picket_aggregator::consume;
use picket_tests::process::until;

use super::bench::{LIMIT, PARTITIONS, bench, complete, count};
use super::records::seen;

#[tokio::test]
async fn nothing_is_lost_while_mongodb_is_away() {
    let mut bench = bench().await;
    let store = bench.store().await;
    let centre = bench.centre(&store).await;
    let epoch = "away/front/1-0a1b2c3d";
    bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "away/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    for seq in 2..=300 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    bench.stack.start_mongodb().await.unwrap();
    let camera = complete(&store, "away/front", 300).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 300);
    assert_eq!(count(&store, "observations", doc! { "device": "away" }).await, 300);
    until("polling to go on", LIMIT, async || {
        let age = centre.progress().age();
        Ok(if age < Duration::from_secs(5) { Ok(()) } else { Err(format!("{age:?}")) })
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
}

#[tokio::test]
async fn a_centre_ends_in_time_while_mongodb_is_away_and_loses_nothing() {
    let mut bench = bench().await;
    let store = bench.store().await;
    let hasty = consume::Settings { release_s: 2, ..bench.settings() };
    let working = bench.centre(&store).await;
    working.stop().await.unwrap();
    let working = bench.spawn(&store, hasty.clone());
    let mut membership = working.membership();
    let all = PARTITIONS as usize * 3;
    let has_all = membership.wait_for(|m| m.partitions.len() == all);
    tokio::time::timeout(LIMIT, has_all).await.unwrap().unwrap();
    let epoch = "ends/front/1-0a1b2c3d";
    bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "ends/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    for seq in 2..=10 {
        bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    // Once with a batch in hand that cannot be written ...
    tokio::time::timeout(LIMIT, working.stop()).await.unwrap().unwrap();
    // ... and once with partitions in hand that cannot be taken over.
    let opening = bench.spawn(&store, hasty.clone());
    let mut membership = opening.membership();
    let joined = membership.wait_for(|m| m.joined);
    tokio::time::timeout(LIMIT, joined).await.unwrap().unwrap();
    tokio::time::timeout(LIMIT, opening.stop()).await.unwrap().unwrap();
    bench.stack.start_mongodb().await.unwrap();
    let centre = bench.centre(&store).await;
    let camera = complete(&store, "ends/front", 10).await;
    assert_eq!(camera.get_document("accounts").unwrap().get_i64("stored").unwrap(), 10);
    assert_eq!(count(&store, "observations", doc! { "device": "ends" }).await, 10);
    centre.stop().await.unwrap();
}
