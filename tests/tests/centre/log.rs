//! A log that does not go on where it was read to.

use mongodb::bson::{Document, doc};
use picket_aggregator::consume;
use picket_aggregator::store::Store;
use picket_tests::process::until;
use picket_wire::{Topic, TopicNames};
use rdkafka::admin::AdminOptions;
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};

use super::bench::{Bench, LIMIT, bench, complete, one};
use super::records::seen;

/// As if the topic's retention had taken what stands before this offset.
async fn expire_before(bench: &Bench, topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    bench.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
}

/// Waits for an observation behind a hole.
async fn stored(store: &Store, id: &str) {
    until("the record behind the hole", LIMIT, async || {
        Ok(one(store, "observations", id).await.ok_or("not there".to_owned()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn records_that_expired_unread_are_a_named_state_and_reading_goes_on() {
    let bench = bench().await;
    let store = bench.store().await;
    let epoch = "expired/front/1-0a1b2c3d";
    let centre = bench.centre(&store).await;
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "expired/front", 1).await;
    centre.stop().await.unwrap();
    let (_, lost) = bench.send(seen(epoch, 2).encode().unwrap()).await;
    bench.send(seen(epoch, 3).encode().unwrap()).await;
    let topic = TopicNames::default().name(Topic::Observations);
    expire_before(&bench, &topic, partition, lost + 1).await;
    let centre = bench.centre(&store).await;
    stored(&store, &format!("{epoch}/3")).await;
    centre.stop().await.unwrap();
    let id = format!("partition/{topic}/{partition}");
    let checkpoint = one(&store, "checkpoints", &id).await.unwrap();
    let hole = checkpoint.get_array("broken").unwrap()[0].as_document().unwrap();
    assert_eq!(hole.get_str("state").unwrap(), "log-out-of-range");
    assert_eq!(hole.get_i64("from_offset").unwrap(), lost);
    assert_eq!(hole.get_i64("to_offset").unwrap(), lost + 1);
    let ledger = one(&store, "ledger", epoch).await.unwrap();
    assert_eq!(ledger.get_array("accounted").unwrap().len(), 2, "the hole stays open");
}

#[tokio::test]
async fn records_that_expire_before_the_first_of_their_partition_is_stored_are_a_named_state_too() {
    let bench = bench().await;
    let store = bench.store().await;
    bench.centre(&store).await.stop().await.unwrap();
    let topic = TopicNames::default().name(Topic::Status);
    let checkpoints = store.database().collection::<Document>("checkpoints");
    let empty = doc! { "topic": &topic, "next_offset": 0_i64 };
    let empty = checkpoints.find_one(empty).await.unwrap().unwrap();
    let partition = empty.get_i32("partition").unwrap();
    let record = FutureRecord::<str, str>::to(&topic).partition(partition).payload("unread");
    assert_eq!(bench.producer.send(record, LIMIT).await.unwrap().offset, 0);
    expire_before(&bench, &topic, partition, 1).await;
    let centre = bench.centre(&store).await;
    let id = empty.get_str("_id").unwrap();
    let checkpoint = until("the hole to be noted", LIMIT, async || {
        let checkpoint = one(&store, "checkpoints", id).await.unwrap();
        let is_noted = checkpoint.get_array("broken").is_ok();
        Ok(if is_noted { Ok(checkpoint) } else { Err(checkpoint.to_string()) })
    })
    .await
    .unwrap();
    centre.stop().await.unwrap();
    let hole = checkpoint.get_array("broken").unwrap()[0].as_document().unwrap();
    assert_eq!(hole.get_str("state").unwrap(), "log-out-of-range");
    assert_eq!(hole.get_i64("from_offset").unwrap(), 0);
    assert_eq!(hole.get_i64("to_offset").unwrap(), 1);
}

#[tokio::test]
async fn records_that_expire_under_a_reader_that_waits_are_a_named_state_too() {
    let mut bench = bench().await;
    let store = bench.store().await;
    // So little memory that reading pauses long before the end of the log.
    let settings = consume::Settings { queue_mib: 1, ..bench.settings() };
    let centre = bench.spawn(&store, settings);
    let epoch = "waits/front/1-0a1b2c3d";
    let (partition, _) = bench.send(seen(epoch, 1).encode().unwrap()).await;
    complete(&store, "waits/front", 1).await;
    bench.stack.kill_mongodb().unwrap();
    let mut last = 0;
    for seq in 2..=900 {
        (_, last) = bench.send(seen(epoch, seq).encode().unwrap()).await;
    }
    let mut membership = centre.membership();
    let paused = membership.wait_for(|m| m.partitions.values().any(|state| state.paused));
    tokio::time::timeout(LIMIT, paused).await.unwrap().unwrap();
    let topic = TopicNames::default().name(Topic::Observations);
    expire_before(&bench, &topic, partition, last).await;
    bench.stack.start_mongodb().await.unwrap();
    stored(&store, &format!("{epoch}/900")).await;
    centre.stop().await.unwrap();
    let id = format!("partition/{topic}/{partition}");
    let checkpoint = one(&store, "checkpoints", &id).await.unwrap();
    let holes = checkpoint.get_array("broken").unwrap();
    let hole = holes.last().unwrap().as_document().unwrap();
    assert_eq!(hole.get_i64("to_offset").unwrap(), last);
}
