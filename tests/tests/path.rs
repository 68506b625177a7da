//! The whole path: real clip, real agent, real Kafka, real aggregator, real MongoDB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use picket_tests::checkout;
use picket_tests::faults::{LIMIT, end, on_bench, stored, wait_for_spooled};
use picket_tests::fleet::{self, Agent, Fleet, settled};
use picket_tests::oracle::open_spool;
use picket_tests::process::{Process, output_within, program, until};
use picket_wire::Topic;
use rdkafka::Message;

/// The clip as a camera that ends.
fn one_pass() -> String {
    let clip = checkout::clip().unwrap();
    format!(
        "[[camera]]\nname = \"front\"\nsource.file = {{ path = {clip:?}, pace = \"none\" }}\n\
         start_time = \"2026-01-02T03:04:05Z\"\n"
    )
}

/// The clip as a camera that never ends, ten frames a second.
fn endless() -> String {
    let clip = checkout::clip().unwrap();
    format!(
        "[[camera]]\nname = \"front\"\nsource.file = {{ path = {clip:?}, repeat = true }}\n\
         sampling.fps = 10.0\n"
    )
}

async fn documents(fleet: &Fleet, collection: &str, filter: Document) -> Vec<Document> {
    let collection = fleet.database.collection::<Document>(collection);
    collection.find(filter).await.unwrap().try_collect().await.unwrap()
}

/// All observations of a device.
async fn observations(fleet: &Fleet, agent: &Agent) -> Vec<Document> {
    let filter = doc! { "kind": "observation", "device": &agent.device };
    documents(fleet, "observations", filter).await
}

/// Waits until the centre has stored this many observations of a device.
async fn wait_for_stored(fleet: &Fleet, agent: &Agent, least: u64) {
    until(&format!("{least} stored observations"), LIMIT, async || {
        let stored = stored(fleet, agent).await?;
        Ok(if stored >= least { Ok(()) } else { Err(format!("{stored}")) })
    })
    .await
    .unwrap();
}

#[test]
fn the_one_face_in_the_clip_keeps_one_track_id_and_a_second_run_adds_nothing() {
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let agent = fleet.enrol("one-pass", &one_pass()).await.unwrap();
        agent.run_to_end(LIMIT).await.unwrap();
        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        assert_eq!(findings.of(&agent).count(), 1, "one camera, one epoch: {findings:?}");
        let (_, account) = findings.of(&agent).next().unwrap();
        // The books end where the clip does, and not with what the agent knows of alone.
        assert_eq!(account.last_seq as usize, frames_of_the_clip());

        let observations = observations(fleet, &agent).await;
        let mut ids = BTreeSet::new();
        let mut with_face = 0;
        for observation in &observations {
            for detection in observation.get_array("detections").unwrap() {
                let track = detection.as_document().unwrap().get("track").and_then(|t| t.as_str());
                ids.extend(track.map(str::to_owned));
                with_face += 1;
            }
        }
        assert!(with_face * 10 > observations.len() * 9, "{with_face} of {}", observations.len());
        assert_eq!(ids.len(), 1, "one face, one id: {ids:?}");
        let tracks = documents(fleet, "tracks", doc! { "device": &agent.device }).await;
        assert_eq!(tracks.len(), 1);
        assert_eq!(tracks[0].get_i64("observations").unwrap(), with_face as i64);

        agent.run_to_end(LIMIT).await.unwrap();
        settled(fleet, &[&agent], LIMIT).await.unwrap();
        let after = stored(fleet, &agent).await?;
        assert_eq!(after as usize, observations.len(), "the second run added some");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_one_face_keeps_one_track_id_through_each_pass_of_the_repeated_clip() {
    const PASS_US: i64 = 4_004_000;
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let agent = fleet.enrol("passes", &endless()).await.unwrap();
        let mut process = agent.start().unwrap();
        wait_for_stored(fleet, &agent, 130).await;
        end(&mut process).await?;
        settled(fleet, &[&agent], LIMIT).await.unwrap();

        let mut observations = observations(fleet, &agent).await;
        observations.sort_by_key(|observation| observation.get_i64("seq").unwrap());
        let mut runs: Vec<String> = Vec::new();
        for observation in &observations {
            for detection in observation.get_array("detections").unwrap() {
                let track = detection.as_document().unwrap().get_str("track").unwrap();
                if runs.last().is_none_or(|last| last != track) {
                    runs.push(track.to_owned());
                }
            }
        }
        let time = |observation: &Document| observation.get_i64("mono_us").unwrap();
        let played_us = time(observations.last().unwrap()) - time(&observations[0]);
        let passes = usize::try_from(played_us / PASS_US).unwrap() + 1;
        assert!(passes >= 3, "{played_us} us");
        assert!(runs.len() <= passes, "more ids than passes, or one that came back: {runs:?}");
        Ok(())
    })
    .unwrap();
}

/// Tells the running agent something, and waits until it is done.
fn order(agent: &Agent, args: &[&str]) {
    let mut command = Command::new(program("picket-edge-agent").unwrap());
    command.args(args).arg("--config").arg(&agent.config);
    let output = output_within(&mut command, LIMIT).unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_centre_takes_a_pause_and_a_camera_that_comes_by_a_reload_and_the_books_balance() {
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let agent = fleet.enrol("paused", &endless()).await.unwrap();
        let mut process = agent.start().unwrap();
        wait_for_stored(fleet, &agent, 10).await;
        order(&agent, &["pause", "front"]);
        let gap = doc! { "kind": "gap", "reason": "paused", "device": &agent.device };
        until("the pause at the centre", LIMIT, async || {
            process.expect_running()?;
            let gaps = documents(fleet, "observations", gap.clone()).await;
            Ok(if gaps.len() == 1 { Ok(()) } else { Err(format!("{gaps:?}")) })
        })
        .await
        .unwrap();
        let config = std::fs::read_to_string(&agent.config).unwrap();
        let both = config + "\n" + &endless().replace("front", "side");
        std::fs::write(&agent.config, both).unwrap();
        order(&agent, &["reload"]);
        wait_for_stored(fleet, &agent, stored(fleet, &agent).await? + 10).await;
        let of = |camera| doc! { "kind": "observation", "device": &agent.device, "camera": camera };
        assert!(!documents(fleet, "observations", of("side")).await.is_empty());
        order(&agent, &["resume", "front"]);
        let paused = documents(fleet, "observations", of("front")).await.len();
        until("observations after the pause", LIMIT, async || {
            process.expect_running()?;
            let now = documents(fleet, "observations", of("front")).await.len();
            Ok(if now > paused + 5 { Ok(()) } else { Err(format!("{now} after {paused}")) })
        })
        .await
        .unwrap();
        end(&mut process).await?;

        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        let drops: Vec<_> = findings.of(&agent).map(|(_, account)| account.drops()).collect();
        assert_eq!(
            drops,
            [[("paused".to_owned(), 1)].into(), [].into()],
            "one epoch of each camera"
        );
        assert_eq!(fleet.dead_letters().unwrap(), 0);
        Ok(())
    })
    .unwrap();
}

/// How far an agent has read its recordings, in ns of all of them together, and how many to the end.
fn read_so_far(agent: &Agent) -> Result<(u64, u64)> {
    let read = "SELECT coalesce(sum(media_time_ns), 0), coalesce(sum(at_end), 0) FROM recordings";
    let spool = open_spool(&agent.spool())?;
    Ok(spool.query_row(read, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Waits until an agent has read on for a second of its recordings, or has read all.
async fn wait_for_reading(agent: &Agent, process: &mut Process, before: u64) {
    until("the agent to read on", LIMIT, async || {
        // An agent that has just begun has no spool yet, or an empty file.
        let seen = read_so_far(agent);
        if seen.as_ref().is_ok_and(|(read, at_end)| *read > before + 1_000_000_000 || *at_end == 2)
        {
            return Ok(Ok(()));
        }
        process.expect_running()?;
        Ok(Err(format!("{seen:?}")))
    })
    .await
    .unwrap();
}

#[test]
fn a_folder_survives_kill_9_and_stores_each_frame_of_each_video_once() {
    on_bench(async |bench| {
        let dir = tempfile::tempdir()?;
        let videos = dir.path().join("videos");
        std::fs::create_dir(&videos).unwrap();
        for name in ["Gate North.mp4", "yard.mp4"] {
            std::fs::copy(checkout::clip().unwrap(), videos.join(name)).unwrap();
        }
        let fleet = &bench.fleet;
        let folder = format!(
            "[[folder]]\npath = {videos:?}\npace = \"none\"\nstart_time = \"2026-01-02T03:04:05Z\"\n"
        );
        let agent = fleet.enrol("folder", &folder).await.unwrap();
        let mut killed_at = Vec::new();
        for _ in 1..=3 {
            let (before, _) = killed_at.last().copied().unwrap_or_default();
            let mut process = agent.start().unwrap();
            wait_for_reading(&agent, &mut process, before).await;
            process.kill().unwrap();
            killed_at.push(read_so_far(&agent).unwrap());
        }
        println!("killed with so many ns and recordings read: {killed_at:?}");
        let at_work = killed_at.iter().filter(|(_, at_end)| *at_end < 2).count();
        assert!(at_work > 0, "all was read at the first kill: {killed_at:?}");
        agent.run_to_end(LIMIT).await.unwrap();
        agent.run_to_end(LIMIT).await.unwrap();
        settled(fleet, &[&agent], LIMIT).await.unwrap();

        let cameras = documents(fleet, "cameras", doc! { "device": &agent.device }).await;
        let names: BTreeSet<_> = cameras.iter().map(|c| c.get_str("camera").unwrap()).collect();
        assert_eq!(names, BTreeSet::from(["gate-north", "yard"]));
        let frames = frames_of_the_clip();
        for camera in names {
            let filter = doc! { "kind": "observation", "device": &agent.device, "camera": camera };
            let observations = documents(fleet, "observations", filter).await;
            let times: BTreeSet<_> =
                observations.iter().map(|o| o.get_i64("captured_ns").unwrap()).collect();
            assert_eq!(times.len(), observations.len(), "{camera}: a frame is stored twice");
            assert_eq!(times.len(), frames, "{camera}: not each frame is stored");
        }
        Ok(())
    })
    .unwrap();
}

/// Counted by a tool that is not ours.
fn frames_of_the_clip() -> usize {
    let clip = checkout::clip().unwrap();
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-v", "filesrc", &format!("location={}", clip.display())]).args([
        "!",
        "decodebin",
        "!",
        "identity",
        "silent=false",
        "!",
        "fakesink",
    ]);
    let output = output_within(&mut command, LIMIT).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains("last-message = chain")).count()
}

#[test]
fn an_outage_of_the_broker_loses_nothing_and_doubles_nothing() {
    on_bench(async |bench| {
        let fleet = &mut bench.fleet;
        let agent = fleet.enrol("outage", &endless()).await.unwrap();
        let mut process = agent.start().unwrap();
        wait_for_stored(fleet, &agent, 20).await;

        fleet.stack.kill_kafka().unwrap();
        wait_for_spooled(&agent, &mut process, 60).await?;
        fleet.stack.start_kafka().await.unwrap();
        let before = stored(fleet, &agent).await?;
        wait_for_stored(fleet, &agent, before + 80).await;
        end(&mut process).await?;
        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        let (_, account) = findings.of(&agent).next().unwrap();
        assert!(account.dropped.is_empty(), "{:?}", account.drops());
        assert!(account.spooled.is_empty(), "a drained agent leaves nothing behind");
        Ok(())
    })
    .unwrap();
}

/// Waits until the agent has committed something in its run of this number. What is stored meanwhile may
/// be of a former one.
async fn wait_for_commit(agent: &Agent, process: &mut Process, run: u64) {
    let epoch = format!("{run}-");
    until(&format!("a commit in run {run}"), LIMIT, async || {
        process.expect_running()?;
        let spool = open_spool(&agent.spool())?;
        let account = |row: &rusqlite::Row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?));
        // There is none before the first commit.
        let seen = spool.query_row("SELECT epoch, last_committed FROM accounts", [], account);
        let is_there = seen.as_ref().is_ok_and(|(of, last)| of.starts_with(&epoch) && *last > 0);
        Ok(if is_there { Ok(()) } else { Err(format!("{seen:?}")) })
    })
    .await
    .unwrap();
}

#[test]
fn kill_9_of_agent_and_aggregator_loses_nothing_unsaid_and_doubles_nothing() {
    on_bench(async |bench| {
        let fleet = &mut bench.fleet;
        let agent = fleet.enrol("killed", &endless()).await.unwrap();
        let mut process = agent.start().unwrap();
        for round in 1..=3 {
            wait_for_stored(fleet, &agent, round * 25).await;
            wait_for_commit(&agent, &mut process, round).await;
            fleet.aggregator.kill().unwrap();
            process.kill().unwrap();
            process = agent.start().unwrap();
            fleet.restart_aggregator().await.unwrap();
        }
        wait_for_stored(fleet, &agent, 120).await;
        end(&mut process).await?;
        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        assert_eq!(findings.of(&agent).count(), 4, "four starts, four epochs");
        let mut told = 0;
        for (epoch, account) in findings.of(&agent) {
            for reason in account.drops().keys() {
                assert_eq!(reason, "crash", "{epoch}");
                told += 1;
            }
        }
        assert_eq!(told, 3, "each of the three crashes is told, with its bound");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_tool_that_is_not_ours_reads_frames_and_observations() {
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let agent = fleet.enrol("tool", &one_pass()).await.unwrap();
        agent.run_to_end(LIMIT).await.unwrap();

        let schema = checkout::repository().join("wire/schemas/observation.schema.json");
        let schema = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let own = format!("picket-device={}", agent.device);
        let text = String::from_utf8(kcat(fleet, Topic::Observations, "%h\t%s\n")).unwrap();
        let mut checked = 0;
        for line in text.lines() {
            let (headers, body) = line.split_once('\t').unwrap();
            if !headers.contains("picket-kind=observation") || !headers.contains(&own) {
                continue;
            }
            let body = serde_json::from_str(body).unwrap();
            validator.validate(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
            checked += 1;
        }
        assert!(checked > 100, "{checked} observations");

        let frames = kcat(fleet, Topic::Frames, "%s");
        let end = frames.windows(2).position(|pair| pair == [0xff, 0xd9]).unwrap() + 2;
        let dir = tempfile::tempdir()?;
        let picture = dir.path().join("frame.jpg");
        std::fs::write(&picture, &frames[..end]).unwrap();
        let mut command = Command::new("gst-launch-1.0");
        command
            .args(["-q", "filesrc", &format!("location={}", picture.display())])
            .args(["!", "jpegdec", "!", "fakesink"]);
        let output = output_within(&mut command, LIMIT).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
    .unwrap();
}

/// All messages of a topic as kcat prints them.
fn kcat(fleet: &Fleet, topic: Topic, format: &str) -> Vec<u8> {
    let settings = fleet.stack.settings();
    let name = format!("{}.{topic}", settings.kafka.topic_prefix);
    let mut command = Command::new("kcat");
    command
        .args(["-b", &settings.kafka.bootstrap, "-X", "security.protocol=ssl"])
        .args(["-X", &format!("ssl.ca.location={}", settings.admin.ca.display())])
        .args(["-X", &format!("ssl.certificate.location={}", settings.admin.certificate.display())])
        .args(["-X", &format!("ssl.key.location={}", settings.admin.key.display())])
        .args(["-C", "-q", "-e", "-o", "beginning", "-t", &name, "-f", format]);
    let output = output_within(&mut command, LIMIT).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_password_in_an_address_reaches_no_log_no_metric_and_no_topic() {
    const PASSWORD: &str = "Tr0ub4dor";
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let url = format!("rtsp://viewer:{PASSWORD}@127.0.0.1:1/stream?token={PASSWORD}");
        let camera = format!("[[camera]]\nname = \"gate\"\nsource.rtsp = {{ url = \"{url}\" }}\n");
        let agent = fleet.enrol("locked", &camera).await.unwrap();
        let mut process = agent.start().unwrap();
        until("a status that tells of the camera's failure", LIMIT, async || {
            let own = doc! { "_id": &agent.device };
            let devices = format!("{:?}", documents(fleet, "devices", own).await);
            Ok(if devices.contains("failed") { Ok(()) } else { Err(devices) })
        })
        .await
        .unwrap();
        let ops = fleet::address(&mut process, "operations endpoint at ").await.unwrap();
        let metrics = fleet::get(&ops, "/metrics").await.unwrap();
        assert!(metrics.contains("picket_agent_"), "{metrics}");
        end(&mut process).await?;
        for text in [process.log(), metrics] {
            assert!(!text.contains(PASSWORD), "{text}");
        }
        for topic in Topic::OF_DEVICES {
            for message in fleet.messages(topic).unwrap() {
                let value =
                    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
                assert!(!value.contains(PASSWORD), "{topic}: {value}");
            }
        }
        Ok(())
    })
    .unwrap();
}
