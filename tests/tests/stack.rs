//! The stack keeps its word: what the demo and every other test rely on, on the real services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::time::{Duration, Instant};

use mongodb::bson::doc;
use picket_tests::stack::{Credentials, Stack, StackOptions};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tempfile::TempDir;

const ALL_TOPICS: [&str; 5] = [
    "picket.observations",
    "picket.frames",
    "picket.status",
    "picket.tracks",
    "picket.dead-letter",
];

/// How long anything may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A running stack with all topics, and the folder that goes when the test ends.
async fn stack() -> (Stack, TempDir) {
    let dir = TempDir::new().unwrap();
    let stack = Stack::start(dir.path(), StackOptions::default()).await.unwrap();
    let admin = stack.settings().kafka_client(Some(&stack.settings().admin));
    make_topics(&admin, &ALL_TOPICS).await.unwrap();
    (stack, dir)
}

async fn make_topics(client: &ClientConfig, names: &[&str]) -> Result<(), RDKafkaErrorCode> {
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let topics: Vec<_> =
        names.iter().map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1))).collect();
    let made = admin.create_topics(&topics, &AdminOptions::new()).await.unwrap();
    made.into_iter().try_for_each(|topic| topic.map(|_| ()).map_err(|(_, code)| code))
}

/// Writes one message as the edge agent does: idempotently, acknowledged by all.
async fn write(client: &ClientConfig, topic: &str) -> Result<(), KafkaError> {
    let mut config = client.clone();
    config.set("enable.idempotence", "true").set("message.timeout.ms", "120000");
    let producer: FutureProducer = config.create().unwrap();
    let record = FutureRecord::to(topic).key("demo/door").payload("hello");
    producer.send(record, Duration::from_secs(120)).await.map(|_| ()).map_err(|(error, _)| error)
}

/// Reads the first message of a topic, in a consumer group.
fn read(client: &ClientConfig, group: &str, topic: &str) -> Result<Vec<u8>, KafkaError> {
    let mut config = client.clone();
    config.set("group.id", group).set("auto.offset.reset", "earliest");
    // Nobody reads on from here.
    config.set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    first_answer(&consumer, &[])
}

/// Reads the first message of a partition without joining a group. The client asks for the group's
/// coordinator all the same, so a refusal of that is not yet the answer.
fn read_without_group(client: &ClientConfig, topic: &str) -> Result<Vec<u8>, KafkaError> {
    let mut config = client.clone();
    config.set("group.id", "none").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut partition = TopicPartitionList::new();
    partition.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&partition).unwrap();
    first_answer(&consumer, &[RDKafkaErrorCode::GroupAuthorizationFailed])
}

/// `poll` also returns early with nothing, when the group changed or a broker came or went.
fn first_answer(
    consumer: &BaseConsumer,
    passed_over: &[RDKafkaErrorCode],
) -> Result<Vec<u8>, KafkaError> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => return Ok(message.payload().unwrap_or_default().to_vec()),
            Some(Err(error)) if passing(&error, passed_over) => {}
            Some(Err(error)) => return Err(error),
            None => {}
        }
    }
    panic!("no answer from Kafka within {} s", LIMIT.as_secs());
}

/// A broker that was away is not an answer either; the client tries again by itself.
fn passing(error: &KafkaError, passed_over: &[RDKafkaErrorCode]) -> bool {
    let transport = [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown];
    error
        .rdkafka_error_code()
        .is_some_and(|code| passed_over.contains(&code) || transport.contains(&code))
}

fn client(stack: &Stack, who: &Credentials) -> ClientConfig {
    stack.settings().kafka_client(Some(who))
}

fn refused(result: Result<impl std::fmt::Debug, KafkaError>, code: RDKafkaErrorCode) {
    let error = result.expect_err("this must be refused");
    assert_eq!(error.rdkafka_error_code(), Some(code), "{error}");
}

// One stack for all claims about access: they only look at it, and starting it is the slow part.
#[tokio::test]
async fn each_role_may_do_its_own_work_and_nothing_else() {
    let (stack, _dir) = stack().await;
    let device = client(&stack, &stack.device_certificate("gate-7").await.unwrap());
    let aggregator = client(&stack, &stack.settings().aggregator);

    a_device_writes_its_three_topics(&device).await;
    a_device_that_writes_to_a_topic_that_is_not_its_to_write_is_refused(&device).await;
    a_device_that_reads_is_refused(&device);
    the_aggregator_reads_and_writes_what_is_its_own(&aggregator).await;
    nobody_but_the_admin_makes_topics(&device, &aggregator).await;
    a_client_without_a_certificate_is_refused(&stack);
    a_certificate_of_another_authority_is_refused(&stack);
    a_server_certificate_is_no_kafka_client(&stack);
    stack.stop().await.unwrap();
}

async fn a_device_writes_its_three_topics(device: &ClientConfig) {
    for topic in &ALL_TOPICS[..3] {
        write(device, topic).await.unwrap();
    }
}

async fn a_device_that_writes_to_a_topic_that_is_not_its_to_write_is_refused(
    device: &ClientConfig,
) {
    for topic in &ALL_TOPICS[3..] {
        refused(write(device, topic).await, RDKafkaErrorCode::TopicAuthorizationFailed);
    }
}

fn a_device_that_reads_is_refused(device: &ClientConfig) {
    let group = read(device, "picket-aggregator", "picket.observations");
    refused(group, RDKafkaErrorCode::GroupAuthorizationFailed);
    let topic = read_without_group(device, "picket.observations");
    refused(topic, RDKafkaErrorCode::TopicAuthorizationFailed);
}

async fn the_aggregator_reads_and_writes_what_is_its_own(aggregator: &ClientConfig) {
    for topic in &ALL_TOPICS[3..] {
        write(aggregator, topic).await.unwrap();
    }
    for topic in ["picket.observations", "picket.frames", "picket.status", "picket.dead-letter"] {
        assert_eq!(read(aggregator, &format!("picket-{topic}"), topic).unwrap(), b"hello");
    }
    for topic in &ALL_TOPICS[..3] {
        refused(write(aggregator, topic).await, RDKafkaErrorCode::TopicAuthorizationFailed);
    }
    let foreign = read(aggregator, "others", "picket.observations");
    refused(foreign, RDKafkaErrorCode::GroupAuthorizationFailed);
}

async fn nobody_but_the_admin_makes_topics(device: &ClientConfig, aggregator: &ClientConfig) {
    for client in [device, aggregator] {
        let made = make_topics(client, &["picket.more"]).await;
        assert_eq!(made, Err(RDKafkaErrorCode::TopicAuthorizationFailed));
    }
}

fn a_client_without_a_certificate_is_refused(stack: &Stack) {
    cannot_connect(stack, &stack.settings().kafka_client(None));
}

fn a_certificate_of_another_authority_is_refused(stack: &Stack) {
    let other = TempDir::new().unwrap();
    let authority = picket_pki::Authority::init(other.path(), 3650).unwrap();
    let options = picket_pki::IssueOptions::default();
    let forged = authority.issue(picket_pki::Role::Admin, "admin", &options).unwrap();
    cannot_connect(stack, &client(stack, &Credentials::from(forged)));
}

fn a_server_certificate_is_no_kafka_client(stack: &Stack) {
    let authority = picket_pki::Authority::open(&stack.settings().pki_dir()).unwrap();
    let server = authority.identity(picket_pki::Role::Server, "mongodb");
    cannot_connect(stack, &client(stack, &Credentials::from(server)));
}

/// No answer within some time is no refusal: the broker may be slow. So who may ask has to have an answer
/// right after, within as long a time.
fn cannot_connect(stack: &Stack, stranger: &ClientConfig) {
    let admin = client(stack, &stack.settings().admin);
    let ask = |client: &ClientConfig, limit: Duration| {
        let consumer: BaseConsumer = client.create().unwrap();
        consumer.fetch_metadata(None, limit).map(drop)
    };
    let mut limit = Duration::from_secs(5);
    loop {
        assert!(ask(stranger, limit).is_err(), "the broker let it in");
        match ask(&admin, limit) {
            Ok(()) => return,
            Err(error) => assert!(limit < LIMIT, "the broker answers nobody: {error}"),
        }
        limit *= 2;
    }
}

#[tokio::test]
async fn two_stacks_run_at_once_and_parts_come_back_with_their_data_and_ports() {
    let (mut stack, _dir) = stack().await;
    let (other, _other_dir) = self::stack().await;
    assert_ne!(stack.settings().kafka.bootstrap, other.settings().kafka.bootstrap);
    assert_ne!(stack.settings().ports, other.settings().ports);
    other.stop().await.unwrap();

    let device = client(&stack, &stack.device_certificate("demo").await.unwrap());
    let aggregator = client(&stack, &stack.settings().aggregator);
    write(&device, "picket.observations").await.unwrap();
    let uri = std::fs::read_to_string(&stack.settings().mongodb.uri_file).unwrap();
    let mongodb = mongodb::Client::with_uri_str(&uri).await.unwrap();
    let things = mongodb.database("picket").collection::<mongodb::bson::Document>("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();

    stack.stop_kafka().await.unwrap();
    stack.kill_mongodb().unwrap();
    stack.start_kafka().await.unwrap();
    stack.start_mongodb().await.unwrap();
    assert_eq!(things.count_documents(doc! {}).await.unwrap(), 1);

    stack.kill_kafka().unwrap();
    stack.stop_mongodb().await.unwrap();
    stack.start_mongodb().await.unwrap();
    stack.start_kafka().await.unwrap();
    assert_eq!(things.count_documents(doc! {}).await.unwrap(), 1);
    // A member of a group would also wait for its coordinator, at its end even without a limit.
    assert_eq!(read_without_group(&aggregator, "picket.observations").unwrap(), b"hello");

    let foreign = mongodb.database("other").collection::<mongodb::bson::Document>("things");
    foreign.insert_one(doc! {}).await.expect_err("the user owns one database only");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn mongodb_refuses_plaintext_and_clients_without_a_password() {
    let (stack, _dir) = stack().await;
    let mut options =
        mongodb::options::ClientOptions::parse(&stack.settings().mongodb.uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(3));
    let stranger = mongodb::Client::with_options(options.clone()).unwrap();
    let things = stranger.database("picket").collection::<mongodb::bson::Document>("things");
    let error = things.insert_one(doc! {}).await.expect_err("no password, no entry");
    assert!(error.to_string().contains("authentication"), "{error}");

    options.tls = None;
    let plain = mongodb::Client::with_options(options).unwrap();
    plain.database("admin").run_command(doc! { "ping": 1 }).await.expect_err("no TLS, no entry");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_failed_start_shows_the_parts_own_log() {
    let dir = TempDir::new().unwrap();
    let stack = Stack::start(dir.path(), StackOptions::default()).await.unwrap();
    stack.stop().await.unwrap();
    // What no broker can start on.
    std::fs::write(dir.path().join("kafka/data/meta.properties"), "version=1\n").unwrap();
    let error = Stack::start(dir.path(), StackOptions::default()).await.err().unwrap();
    let text = format!("{error:#}");
    assert!(text.contains("No readable meta.properties files found"), "{text}");
}
