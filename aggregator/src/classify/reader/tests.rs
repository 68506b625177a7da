use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// As in `run`, without a worker.
async fn turn(reader: &mut Reader, what: &str, is_so: impl Fn(&Reader) -> bool) {
    let consumer = reader.consumer.clone();
    let turning = async {
        while !is_so(reader) {
            tokio::select! {
                Some(change) = reader.changes.recv() => reader.change(change),
                message = consumer.recv() => reader.receive(message).unwrap(),
            }
        }
    };
    tokio::time::timeout(LIMIT, turning).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_went_while_reading_was_paused_is_read_when_it_comes_back() {
    let mock = MockCluster::<DefaultProducerContext>::new(1).unwrap();
    let brokers = mock.bootstrap_servers();
    let consume: ConsumeSettings = toml::from_str(&format!(
        "brokers = ['{brokers}']\nallow_plaintext = true\ngroup_protocol = 'classic'"
    ))
    .unwrap();
    // With no room at all each message pauses reading, and an empty queue has drained.
    let settings: Settings =
        toml::from_str("model = '/m.onnx'\nruntime_library = '/r.so'\nqueue_mib = 0").unwrap();
    let topic = consume.topics().name(Topic::Frames);
    mock.create_topic(&topic, 1, 1).unwrap();
    let producer: ThreadedProducer<_> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).key("k").payload("v");
    producer.send(record).map_err(|(e, _)| e).unwrap();
    producer.flush(LIMIT).unwrap();

    let mut reader = Reader::join(&consume, &settings, "test", Arc::default()).unwrap();
    turn(&mut reader, "the message, and a pause", |reader| reader.paused).await;
    reader.consumer.unsubscribe();
    turn(&mut reader, "the partition to go", |reader| reader.queue.partitions() == 0).await;
    reader.resume_drained();
    assert!(!reader.paused);
    reader.consumer.subscribe(&[&topic]).unwrap();
    turn(&mut reader, "the message once more", |reader| reader.paused).await;
}
