//! Real Kafka and MongoDB for the centre, and what is stored there.

use std::path::PathBuf;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use picket_aggregator::consume::{self, Centre, topics};
use picket_aggregator::store::{self, Store};
use picket_aggregator::track::Settings as TrackSettings;
use picket_aggregator::upsert::{Images, Retention};
use picket_tests::process::until;
use picket_tests::stack::{Stack, StackOptions};
use picket_tests::topics::headers;
use picket_wire::header::Lane;
use picket_wire::{Outgoing, TopicNames};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

pub const LIMIT: Duration = Duration::from_secs(180);
pub const RETENTION: Retention =
    Retention { observations_days: 30, frames_days: 7, tracks_days: 90 };
pub const PARTITIONS: u32 = 3;

/// Real services, one set for all tests of the centre: they use devices of their own, one after the
/// other.
pub struct Bench {
    pub stack: Stack,
    pub dir: PathBuf,
    pub producer: FutureProducer,
}

pub async fn bench() -> MutexGuard<'static, Bench> {
    static BENCH: OnceCell<Mutex<Bench>> = OnceCell::const_new();
    let mut bench =
        BENCH.get_or_init(|| async { Mutex::new(Bench::start().await) }).await.lock().await;
    bench.stack.start_what_is_stopped().await.unwrap();
    bench
}

impl Bench {
    async fn start() -> Self {
        let dir = picket_tests::scratch::until_exit().unwrap();
        let stack = StackOptions::with_quick_group();
        let stack = Stack::start(&dir.join("stack"), stack).await.unwrap();
        let admin = &stack.settings().admin;
        let connection = consume::Connection {
            brokers: vec![stack.settings().kafka.bootstrap.clone()],
            ca_file: Some(admin.ca.clone()),
            certificate_file: Some(admin.certificate.clone()),
            key_file: Some(admin.key.clone()),
            allow_plaintext: false,
            sasl: None,
            extra: Default::default(),
        };
        let options =
            topics::Options { topics: TopicNames::default(), partitions: PARTITIONS, replicas: 1 };
        let made = topics::create(&connection, &options).await.unwrap();
        assert!(made.is_as_designed(), "{made}");
        // The broker tells of what was made a moment ago piece by piece.
        until("the topics to be there as they were made", LIMIT, async || {
            let again = topics::create(&connection, &options).await?;
            let is_same = again.topics.iter().all(|(_, o)| *o == topics::Outcome::Unchanged);
            Ok(if is_same { Ok(()) } else { Err(again.to_string()) })
        })
        .await
        .unwrap();
        let many = topics::Options { replicas: 3, ..options.clone() };
        let error = topics::create(&connection, &many).await.unwrap_err();
        assert!(error.to_string().contains("3 replicas: the cluster has 1 brokers"), "{error}");
        let device = stack.device_certificate("demo").await.unwrap();
        let producer = stack
            .settings()
            .kafka_client(Some(&device))
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .create()
            .unwrap();
        Self { stack, dir, producer }
    }

    pub fn settings(&self) -> consume::Settings {
        let who = &self.stack.settings().aggregator;
        let text = format!(
            "brokers = ['{}']\nca_file = '{}'\ncertificate_file = '{}'\nkey_file = '{}'",
            self.stack.settings().kafka.bootstrap,
            who.ca.display(),
            who.certificate.display(),
            who.key.display()
        );
        let settings: consume::Settings = toml::from_str(&text).unwrap();
        settings.check().unwrap();
        settings
    }

    pub fn store_settings(&self) -> store::Settings {
        let mongodb = &self.stack.settings().mongodb;
        let host = mongodb.uri.split_once("://").unwrap().1;
        let text = format!(
            "hosts = ['{}']\ndatabase = '{db}'\nuser = '{}'\n\
             password_file = '{}'\nca_file = '{}'",
            host.split(['/', '?']).next().unwrap(),
            mongodb.user,
            mongodb.password_file.display(),
            mongodb.ca.display(),
            db = mongodb.database,
        );
        let settings: store::Settings = toml::from_str(&text).unwrap();
        settings.check().unwrap();
        settings
    }

    pub async fn store(&self) -> Store {
        let store = Store::connect(&self.store_settings()).await.unwrap();
        store.prepare().await.unwrap();
        store
    }

    pub fn spawn(&self, store: &Store, settings: consume::Settings) -> Centre {
        let images = Images::in_directory(&self.dir.join("images")).unwrap();
        let tracker = TrackSettings::default();
        Centre::spawn(settings, tracker, RETENTION, store.clone(), images).unwrap()
    }

    pub async fn centre(&self, store: &Store) -> Centre {
        let centre = self.spawn(store, self.settings());
        let mut membership = centre.membership();
        let all = PARTITIONS as usize * 3;
        let complete = membership.wait_for(|m| m.partitions.len() == all);
        tokio::time::timeout(LIMIT, complete).await.unwrap().unwrap();
        centre
    }

    pub async fn send(&self, message: Outgoing) -> (i32, i64) {
        let headers = headers(&message, Lane::Live);
        let name = TopicNames::default().name(message.topic);
        let record = FutureRecord::to(&name);
        let record = record.key(&message.key).headers(headers).payload(&message.value);
        let delivery = self.producer.send(record, LIMIT).await.unwrap();
        (delivery.partition, delivery.offset)
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        let settings = self.stack.settings();
        settings.kafka_client(Some(&settings.admin)).create().unwrap()
    }
}

pub async fn count(store: &Store, collection: &str, filter: Document) -> u64 {
    let target = store.database().collection::<Document>(collection);
    target.count_documents(filter).await.unwrap()
}

pub async fn one(store: &Store, collection: &str, id: &str) -> Option<Document> {
    let target = store.database().collection::<Document>(collection);
    target.find_one(doc! { "_id": id }).await.unwrap()
}

/// Waits until a camera's document says that everything up to `seq` is accounted for.
pub async fn complete(store: &Store, camera: &str, seq: i64) -> Document {
    until("the camera's accounts", LIMIT, async || {
        let found = one(store, "cameras", camera).await;
        Ok(match found {
            Some(found) if found.get_i64("complete_until")? >= seq => Ok(found),
            other => Err(format!("{other:?}")),
        })
    })
    .await
    .unwrap()
}
