//! One of two cameras is away and comes back: its tracks are those of a run without the outage, and the
//! other one waits for nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use picket_aggregator::store::documents::TrackDocument;
use picket_tests::drain::Latency;
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, nothing_is_lost, on_bench, short_or_long, stored, ten_a_second,
    ten_a_second_without_pictures, tracks_are_final, wait_for_drained, wait_for_spooled,
    wait_for_stored,
};
use picket_tests::fleet::{Agent, Fleet, settled};
use picket_tests::process::{Process, output_within, program, until};
use picket_tests::proxy::Fault;
use picket_wire::track::{Change, Complete, Track};
use picket_wire::{Topic, header};
use rdkafka::Message;
use rdkafka::message::Headers;

/// How long one camera is away, in observations at ten a second.
const AWAY: (u64, u64) = (100, 6000);
/// The backlog stands beside what is live for some seconds.
const SLOW_BACKLOG: &str = "backlog_speed = 2";

/// An agent behind the proxy, and one that is not; both deliver.
async fn two(bench: &Bench, name: &str, uplink: &str) -> Result<[(Agent, Process); 2]> {
    let camera = ten_a_second_without_pictures("north")?;
    let away = bench.fleet.enrol_behind_proxy(&format!("{name}-away"), &camera).await?;
    away.configure("uplink", &format!("stall_ms = 3000\n{uplink}"))?;
    let other = bench.fleet.enrol(&format!("{name}-other"), &ten_a_second("north")?).await?;
    let (mut away_process, mut other_process) = (away.start()?, other.start()?);
    wait_for_stored(&bench.fleet, &away, &mut away_process, 20).await?;
    wait_for_stored(&bench.fleet, &other, &mut other_process, 20).await?;
    Ok([(away, away_process), (other, other_process)])
}

/// Ends both once the one that was away has sent what it had.
async fn both_end(away: &Agent, process: &mut Process, other: &mut Process) -> Result<()> {
    wait_for_drained(away, process, LIMIT).await?;
    end(process).await?;
    end(other).await
}

/// What was captured before the outage and amid it came to the store alike.
async fn other_did_not_wait(
    fleet: &Fleet,
    other: &Agent,
    (before, began, ended): (Timestamp, Timestamp, Timestamp),
) -> Result<()> {
    let latency = async |captured| Latency::ask(&fleet.database, &other.device, captured).await;
    let calm = latency(before..began).await?.ms(90).context("nothing before")?;
    let amid = latency(began..ended).await?.ms(90).context("nothing meanwhile")?;
    println!("the other camera, p90 in ms: {calm} before, {amid} meanwhile");
    ensure!(amid < 2 * calm + 1000, "the other camera waited: {amid} ms, {calm} before");
    Ok(())
}

/// The camera as the centre has it.
async fn camera(fleet: &Fleet, agent: &Agent) -> Result<Document> {
    let cameras = fleet.database.collection::<Document>("cameras");
    let found = cameras.find_one(doc! { "device": &agent.device }).await?;
    found.ok_or_else(|| anyhow::anyhow!("the centre does not know the camera"))
}

/// Waits until what is live of a camera stands at the centre while what was captured before is missing.
async fn wait_for_provisional(fleet: &Fleet, agent: &Agent) -> Result<()> {
    until("provisional tracks", LIMIT, async || {
        let camera = camera(fleet, agent).await?;
        let provisional = doc! { "device": &agent.device, "kind": "observation", "final": false };
        let observations = fleet.database.collection::<Document>("observations");
        let count = observations.count_documents(provisional).await?;
        let waits = camera.get_datetime("waiting_since").is_ok();
        Ok(if waits && count > 0 { Ok(()) } else { Err(format!("{count}: {camera}")) })
    })
    .await
}

/// What `picket-aggregator replay` says of a device, and how it ends.
fn replay(fleet: &Fleet, agent: &Agent, more: &[&str]) -> Result<(String, Option<i32>)> {
    let mut command = Command::new(program("picket-aggregator")?);
    let of = ["replay", "--device", &agent.device, "--config"];
    command.args(of).arg(fleet.aggregator_config()).args(more);
    let output = output_within(&mut command, LIMIT)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8(said)?, output.status.code()))
}

/// Tracking it all again comes to what is stored, from either source; and what somebody changes in the
/// store is named.
async fn replays_to_the_same(fleet: &Fleet, agent: &Agent) -> Result<()> {
    let observed = stored(fleet, agent).await?;
    for source in ["mongodb", "kafka"] {
        let (said, code) = replay(fleet, agent, &["--source", source])?;
        ensure!(code == Some(0) && said.contains("all that was compared is equal"), "{said}");
        ensure!(said.contains(&format!("{observed} observations and ")), "{observed}: {said}");
        ensure!(!said.contains("cannot be compared"), "{said}");
    }
    let tracks = fleet.database.collection::<TrackDocument>("tracks");
    let of_device = doc! { "device": &agent.device, "state": { "$ne": "replaced" } };
    let whole = tracks.find_one(of_device).await?.ok_or_else(|| anyhow::anyhow!("no track"))?;
    let by_hand = doc! { "$inc": { "observations": 1_i64 } };
    tracks.update_one(doc! { "_id": &whole.id }, by_hand).await?;
    for source in ["mongodb", "kafka"] {
        let (said, code) = replay(fleet, agent, &["--source", source])?;
        let (is, was) = (whole.observations + 1, whole.observations);
        let told = format!("track {}: observations is {is}, replayed {was}", whole.id);
        ensure!(code == Some(1) && said.contains(&told) && said.contains("1 differ"), "{said}");
    }
    // What was not captured in the range is not compared.
    let first_seen = whole.first_seen.ok_or_else(|| anyhow::anyhow!("a track without a time"))?;
    let before = Timestamp::from_millisecond(first_seen.timestamp_millis() - 1)?.to_string();
    let (said, code) = replay(fleet, agent, &["--to", &before])?;
    ensure!(code != Some(1) && !said.contains("differ;"), "{said}");
    tracks.replace_one(doc! { "_id": &whole.id }, &whole).await?;

    let observations = fleet.database.collection::<Document>("observations");
    let seen = doc! { "_id": &whole.first_observation };
    let retracked = doc! { "$set": { "detections.$[].track": "somebody" } };
    observations.update_one(seen.clone(), retracked).await?;
    let (said, code) = replay(fleet, agent, &["--json"])?;
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap_or_default())?;
    let difference = &line["differences"][0];
    ensure!(code == Some(1) && difference["id"] == whole.first_observation.as_str(), "{said}");
    ensure!(difference["stored"] == "somebody", "{said}");
    let wrong = ["--camera", "gate/nowhere"];
    let (said, code) = replay(fleet, agent, &wrong)?;
    ensure!(code == Some(2) && said.contains(&format!("{}/north", agent.device)), "{said}");

    // An observation that is gone leaves the tracks unknown that it may have been of.
    observations.delete_one(seen).await?;
    let (said, code) = replay(fleet, agent, &[])?;
    ensure!(code != Some(1) && said.contains("1 that the ledger has are stored no more"), "{said}");
    Ok(())
}

/// The aggregator tells others of tracks from now on.
async fn publish_tracks(fleet: &mut Fleet) -> Result<()> {
    let folder = fleet.aggregator_config().with_extension("conf.d");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("tracks.toml"), "consume.publish_tracks = true\n")?;
    fleet.aggregator.terminate(LIMIT).await?;
    fleet.restart_aggregator().await
}

/// What readers know of a device's tracks and of its camera who keep of each the highest.
fn told(fleet: &Fleet, agent: &Agent) -> Result<(BTreeMap<String, Track>, Option<Complete>)> {
    let (mut tracks, mut complete) = (BTreeMap::<String, Track>::new(), None::<Complete>);
    for message in fleet.messages(Topic::Tracks)? {
        let key = std::str::from_utf8(message.key().unwrap_or_default())?;
        if !key.starts_with(&agent.prefix()) {
            continue;
        }
        let value = message.payload().unwrap_or_default();
        let headers: BTreeMap<_, _> =
            message.headers().unwrap().iter().map(|h| (h.key, h.value)).collect();
        match headers[header::KIND].unwrap() {
            b"track" => {
                let track: Track = serde_json::from_slice(value)?;
                assert_eq!(headers[header::ID], Some(track.track.as_bytes()));
                let known = tracks.get(&track.track);
                if known.is_none_or(|known| known.rev <= track.rev) {
                    tracks.insert(track.track.clone(), track);
                }
            }
            b"complete" => {
                let new: Complete = serde_json::from_slice(value)?;
                if complete.as_ref().is_none_or(|old| old.complete_until <= new.complete_until) {
                    complete = Some(new);
                }
            }
            other => anyhow::bail!("a message of the kind {}", other.escape_ascii()),
        }
    }
    Ok((tracks, complete))
}

#[test]
fn who_reads_the_topic_of_tracks_knows_the_same_as_the_store_after_an_outage_and_a_crash() {
    on_bench(async |bench| {
        publish_tracks(&mut bench.fleet).await?;
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "told", SLOW_BACKLOG).await?;
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        bench.fleet.aggregator.kill()?;
        bench.fleet.restart_aggregator().await?;
        both_end(&away, &mut process, &mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await?;
        for agent in [&away, &other] {
            let (mut tracks, complete) = told(&bench.fleet, agent)?;
            let stored = bench.fleet.database.collection::<TrackDocument>("tracks");
            let stored = stored.find(doc! { "device": &agent.device }).await?;
            let stored: Vec<TrackDocument> = stored.try_collect().await?;
            assert!(!stored.is_empty());
            for document in stored {
                let track = tracks.remove(&document.id).unwrap();
                assert_eq!((track.rev, track.is_final), (document.rev, document.is_final));
                assert_eq!(track.replaced_by, document.replaced_by);
                let seen = track.summary.map(|summary| summary.observations as i64);
                let replaced = document.state == "replaced";
                assert_eq!(seen, (!replaced).then_some(document.observations), "{}", document.id);
            }
            // After a crash one that nobody was told of may be replaced.
            let others = tracks.values().filter(|track| track.change != Change::Replaced);
            assert_eq!(others.count(), 0, "not in the store: {tracks:?}");
            let camera = camera(&bench.fleet, agent).await?;
            let complete = complete.unwrap();
            assert_eq!(complete.complete_until as i64, camera.get_i64("complete_until")?);
            assert_eq!(complete.waiting_since, None);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_camera_that_was_away_gets_the_tracks_of_a_run_without_the_outage_and_no_other_waits() {
    on_bench(async |bench| {
        let before = Timestamp::now();
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "whole", SLOW_BACKLOG).await?;
        let began = Timestamp::now();
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        let missing_from = camera(&bench.fleet, &away).await?.get_i64("complete_until")?;
        wait_for_drained(&away, &mut process, LIMIT).await?;
        let ended = Timestamp::now();
        end(&mut process).await?;
        end(&mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await?;
        let camera = camera(&bench.fleet, &away).await?;
        assert!(camera.get_datetime("waiting_since").is_err(), "{camera}");
        let complete = camera.get_i64("complete_until")?;
        assert!(complete > missing_from + 50, "{missing_from} to {complete}");

        other_did_not_wait(&bench.fleet, &other, (before, began, ended)).await?;
        replays_to_the_same(&bench.fleet, &away).await
    })
    .unwrap();
}

#[test]
fn a_centre_that_is_killed_while_it_reads_back_comes_to_the_same_tracks() {
    on_bench(async |bench| {
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "killed", SLOW_BACKLOG).await?;
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        let mut chance = Chance::new()?;
        for _ in 0..short_or_long(2, 30) {
            let so_far = stored(&bench.fleet, &away).await?;
            wait_for_stored(&bench.fleet, &away, &mut process, so_far + chance.below(20)).await?;
            bench.fleet.aggregator.kill()?;
            bench.fleet.restart_aggregator().await?;
        }
        both_end(&away, &mut process, &mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await.map(drop)
    })
    .unwrap();
}

#[test]
fn a_link_that_flaps_makes_no_other_tracks() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "flapping", "backlog_speed = 5").await?;
        let flaps = short_or_long(6, 50);
        let lasting: Vec<_> = (0..flaps * 2).map(|_| chance.between_ms(200, 2500)).collect();
        bench.proxy.flap(flaps, &lasting).await;
        both_end(&away, &mut process, &mut other_process).await?;
        nothing_is_lost(&bench.fleet, &[&away, &other]).await.map(drop)
    })
    .unwrap();
}

/// Rows of the backlog that the disk does not give back.
const DAMAGED: u64 = 20;

#[test]
fn a_camera_that_comes_back_with_a_gap_gets_the_tracks_of_what_there_is_and_no_other_waits() {
    on_bench(async |bench| {
        let before = Timestamp::now();
        let [(away, mut process), (other, mut other_process)] =
            two(bench, "gap", SLOW_BACKLOG).await?;
        let began = Timestamp::now();
        bench.proxy.set(Fault::Refuse);
        wait_for_spooled(&away, &mut process, short_or_long(AWAY.0, AWAY.1)).await?;
        let spool = rusqlite::Connection::open(away.spool())?;
        let damage = "UPDATE records SET headers = 'x' WHERE id IN (
            SELECT id FROM records WHERE kind = 'observation' ORDER BY id LIMIT ?1 OFFSET 40)";
        ensure!(spool.execute(damage, [DAMAGED])? as u64 == DAMAGED);
        drop(spool);
        bench.proxy.set(Fault::None);
        wait_for_provisional(&bench.fleet, &away).await?;
        both_end(&away, &mut process, &mut other_process).await?;
        let ended = Timestamp::now();

        let findings = settled(&bench.fleet, &[&away, &other], LIMIT).await?;
        for (agent, dropped) in [(&away, DAMAGED), (&other, 0)] {
            let told: u64 =
                findings.of(agent).map(|(_, account)| account.dropped.len() as u64).sum();
            ensure!(told == dropped, "{}: {told} are told as dropped", agent.device);
        }
        tracks_are_final(&bench.fleet, &[&away, &other]).await?;
        let camera = camera(&bench.fleet, &away).await?;
        assert!(camera.get_datetime("waiting_since").is_err(), "{camera}");
        other_did_not_wait(&bench.fleet, &other, (before, began, ended)).await
    })
    .unwrap();
}
