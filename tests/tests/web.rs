//! The pages keep their word on a real MongoDB: pictures with their boxes, live, in either order; and
//! an honest answer while MongoDB is away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc, serialize_to_document};
use object_store::local::LocalFileSystem;
use picket_aggregator::store::documents::{
    CameraDocument, CentreAccounts, DetectionDocument, FrameDocument, Ingest, ObservationDocument,
    collection,
};
use picket_aggregator::web::{self, GroupState, WebContext};
use picket_tests::fleet::{Fleet, database, get};
use picket_tests::process::{Process, until};
use picket_tests::stack::{Stack, StackOptions};
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(120);
const EPOCH: &str = "3-0a1b2c3d";
const JPEG: &[u8] = b"\xff\xd8\xff\xd9";

/// A server of pages on a stack, without the stages that write.
struct Pages {
    stack: Stack,
    database: Database,
    address: String,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    dir: TempDir,
}

async fn pages() -> Pages {
    let dir = TempDir::new().unwrap();
    let stack = Stack::start(&dir.path().join("stack"), StackOptions::default()).await.unwrap();
    let database = database(stack.settings()).await.unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let router = web::router(WebContext {
        database: database.clone(),
        images: Arc::new(LocalFileSystem::new_with_prefix(&images).unwrap()),
        membership: Arc::new(|| GroupState::Member {
            by_topic: BTreeMap::new(),
            stopped: Vec::new(),
        }),
        render_metrics: Arc::new(String::new),
        version: "test",
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(web::serve(listener, router, async { drop(stopped.await) }));
    let pages = Pages { stack, database, address, stop, server, dir };
    pages.until_it_says("/readyz", "200 OK").await;
    pages
}

impl Pages {
    async fn until_it_says(&self, page: &str, wanted: &str) -> String {
        until(&format!("{page} to say {wanted}"), LIMIT, async || {
            let answer = get(&self.address, page).await?;
            Ok(if answer.contains(wanted) { Ok(answer) } else { Err(answer) })
        })
        .await
        .unwrap()
    }

    async fn write<T: Serialize>(&self, name: &str, document: &T) {
        let mut document = serialize_to_document(document).unwrap();
        let id = document.remove("_id").unwrap();
        let target = self.database.collection::<Document>(name);
        let update = target.update_one(doc! { "_id": id }, doc! { "$set": document });
        update.upsert(true).await.unwrap();
    }

    async fn write_picture(&self, seq: i64) {
        let path = format!("gate/north/{EPOCH}/{seq}.jpg");
        let file = self.dir.path().join("images").join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, JPEG).unwrap();
        let document = FrameDocument {
            id: id(seq),
            kind: "frame".to_owned(),
            observation: id(seq),
            device: "gate".to_owned(),
            camera: "north".to_owned(),
            captured_at: Some(DateTime::now()),
            captured_ns: Some(seq),
            epoch: EPOCH.to_owned(),
            mono_us: seq,
            clock: "synchronised".to_owned(),
            corrected: None,
            width: 640,
            height: 360,
            redacted: "none".to_owned(),
            path,
            bytes: 4,
            digest: format!("digest-{seq}"),
            ingest: ingest(),
        };
        self.write(collection::FRAMES, &document).await;
    }

    async fn write_observation(&self, seq: i64) {
        let detection = DetectionDocument {
            box_px: [1.0, 2.0, 30.0, 40.0],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: None,
            track: Some(format!("{}#0", id(1))),
        };
        let document = ObservationDocument {
            id: id(seq),
            kind: "observation".to_owned(),
            device: "gate".to_owned(),
            camera: "north".to_owned(),
            epoch: EPOCH.to_owned(),
            seq,
            captured_at: Some(DateTime::now()),
            captured_ns: Some(seq),
            mono_us: seq,
            clock: "synchronised".to_owned(),
            corrected: None,
            frame_width: 640,
            frame_height: 360,
            detector: "yunet".to_owned(),
            model_sha256: String::new(),
            motion_score: None,
            frame: "published".to_owned(),
            detections: vec![detection],
            late: false,
            is_final: true,
            digest: String::new(),
            classes: None,
            classified_by: None,
            ingest: ingest(),
        };
        self.write(collection::OBSERVATIONS, &document).await;
        let camera = CameraDocument {
            id: "gate/north".to_owned(),
            device: "gate".to_owned(),
            camera: "north".to_owned(),
            newest_observation: Some(id(seq)),
            newest_captured_at: Some(DateTime::now()),
            epoch: Some(EPOCH.to_owned()),
            complete_until: seq,
            waiting_since: None,
            clock_ahead_ms: None,
            accounts: CentreAccounts { stored: seq, ..CentreAccounts::default() },
            rev: seq,
        };
        self.write(collection::CAMERAS, &camera).await;
    }

    async fn watch(&self) -> Feed {
        let mut connection = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        connection.write_all(request.as_bytes()).await.unwrap();
        Feed { connection, text: String::new() }
    }
}

fn id(seq: i64) -> String {
    format!("gate/north/{EPOCH}/{seq}")
}

fn ingest() -> Ingest {
    Ingest {
        topic: "picket.observations".to_owned(),
        partition: 0,
        offset: 0,
        broker_time: DateTime::now(),
        stored_at: DateTime::now(),
        expire_at: DateTime::MAX,
        relations: None,
        again: None,
    }
}

/// An open live feed.
struct Feed {
    connection: TcpStream,
    text: String,
}

impl Feed {
    /// Reads on until an event holds all of these; what came before is used up.
    async fn until(&mut self, parts: &[&str]) {
        let reading = async {
            loop {
                let lines: Vec<_> = self.text.split("\n\n").collect();
                let (unfinished, events) = lines.split_last().unwrap();
                if events.iter().any(|event| parts.iter().all(|part| event.contains(part))) {
                    self.text = (*unfinished).to_owned();
                    return;
                }
                let mut bytes = vec![0; 65536];
                let n = self.connection.read(&mut bytes).await.unwrap();
                assert!(n > 0, "the feed ended; it had said:\n{}", self.text);
                self.text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
            }
        };
        let found = tokio::time::timeout(LIMIT, reading).await;
        assert!(found.is_ok(), "waited for {parts:?}; the feed said:\n{}", self.text);
    }
}

#[tokio::test]
async fn a_picture_comes_live_with_its_boxes_whichever_half_is_stored_first() {
    let pages = pages().await;
    let mut feed = pages.watch().await;
    feed.until(&["event: hello"]).await;
    pages.until_it_says("/api/summary", "\"feed_up\":true").await;

    pages.write_observation(1).await;
    pages.write_picture(1).await;
    feed.until(&["event: camera", "\"picture\"", "/1.jpg", "[1.0,2.0,30.0,40.0]"]).await;
    pages.write_picture(2).await;
    pages.write_observation(2).await;
    feed.until(&["event: camera", "\"picture\"", "/2.jpg", "#0"]).await;

    let cameras = get(&pages.address, "/api/cameras").await.unwrap();
    assert!(cameras.contains("/images/gate/north/3-0a1b2c3d/2.jpg"), "{cameras}");
    let ready = get(&pages.address, "/readyz").await.unwrap();
    assert!(ready.contains("no partition"), "{ready}");

    // Open feeds do not hold up a stop.
    pages.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(60), pages.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn without_mongodb_the_pages_say_so_and_nothing_is_missing_after() {
    let mut pages = pages().await;
    let mut feed = pages.watch().await;
    pages.until_it_says("/api/summary", "\"feed_up\":true").await;
    pages.write_observation(1).await;
    pages.write_picture(1).await;
    feed.until(&["event: camera", "\"picture\"", "/1.jpg"]).await;

    pages.stack.stop_mongodb().await.unwrap();
    feed.until(&["event: alive", "\"database_up\":false"]).await;
    let answer = get(&pages.address, "/api/tracks").await.unwrap();
    assert!(answer.contains("503") && answer.contains("{\"error\":\"MongoDB"), "{answer}");
    assert!(get(&pages.address, "/readyz").await.unwrap().contains("503"));
    assert!(get(&pages.address, "/healthz").await.unwrap().contains("200"));

    pages.stack.start_mongodb().await.unwrap();
    pages.write_observation(2).await;
    pages.write_picture(2).await;
    feed.until(&["\"picture\"", "/2.jpg"]).await;
    pages.until_it_says("/readyz", "200 OK").await;
}

#[tokio::test]
async fn an_aggregator_that_starts_without_mongodb_answers_and_becomes_ready_by_itself() {
    let dir = TempDir::new().unwrap();
    let mut fleet = Fleet::start(dir.path()).await.unwrap();
    fleet.aggregator.terminate(LIMIT).await.unwrap();
    fleet.stack.stop_mongodb().await.unwrap();
    let config = dir.path().join("aggregator.toml");
    let args = ["run", "--config", config.to_str().unwrap()];
    let log = dir.path().join("without-mongodb.log");
    fleet.aggregator = Process::start("picket-aggregator", &args, &log).unwrap();
    let page = fleet.page().await.unwrap();
    for (path, status) in [("/healthz", "200"), ("/metrics", "200"), ("/readyz", "503")] {
        let answer = get(&page, path).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    fleet.stack.start_mongodb().await.unwrap();
    fleet.aggregator_ready().await.unwrap();
}
