//! What was captured before the clock was set gets its right time at the centre once it is known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

mod correctors;
mod epoch;
mod sent;
mod turns;

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use picket_tests::clock::Clock;
use picket_tests::faults::{
    Bench, LIMIT, end, nothing_is_lost, on_bench, short_or_long, spooled, stored, ten_a_second,
    wait_for_stored,
};
use picket_tests::fleet::{Fleet, get};
use picket_tests::process::until;

/// The time of day at the epoch's start, by the clock that was never set and by the right one.
const WRONG_US: i64 = 1_708_300_800_000_000;
const RIGHT_US: i64 = 1_777_627_800_000_000;

const HOUR: Duration = Duration::from_secs(3600);

async fn documents(fleet: &Fleet, collection: &str, device: &str) -> Vec<Document> {
    let documents = fleet.database.collection::<Document>(collection);
    let of_device = documents.find(doc! { "device": device });
    of_device.sort(doc! { "_id": 1 }).await.unwrap().try_collect().await.unwrap()
}

fn says(document: &Document, field: &str, word: &str) -> bool {
    document.get_str(field).is_ok_and(|said| said == word)
}

/// Milliseconds from capture to the broker by a document's own time.
fn way_ms(document: &Document) -> i64 {
    let captured = document.get_datetime("captured_at").unwrap().timestamp_millis();
    let broker = document.get_document("ingest").unwrap().get_datetime("broker_time").unwrap();
    broker.timestamp_millis() - captured
}

/// Documents of a collection whose own clock was in this state, clock records left out.
fn of_clock<'a>(documents: &'a [Document], state: &str) -> Vec<&'a Document> {
    let is_so = |d: &&Document| says(d, "clock", state) && !says(d, "kind", "clock");
    documents.iter().filter(is_so).collect()
}

/// Waits until no document of a device has a time that its clock records tell better.
async fn wait_for_corrected(fleet: &Fleet, device: &str) {
    let unsure = doc! {
        "device": device, "kind": { "$ne": "clock" },
        "clock": { "$gt": "synchronised" }, "corrected": { "$exists": false },
    };
    let due = [doc! { "due": { "$exists": true } }, doc! { "pictures_due": { "$exists": true } }];
    let due = doc! { "device": device, "$or": due.to_vec() };
    until("all times to be right", LIMIT, async || {
        let mut left = Vec::new();
        for (name, filter) in [("observations", &unsure), ("frames", &unsure), ("clocks", &due)] {
            let documents = fleet.database.collection::<Document>(name);
            left.push(documents.count_documents(filter.clone()).await?);
        }
        Ok(if left.iter().all(|count| *count == 0) { Ok(()) } else { Err(format!("{left:?}")) })
    })
    .await
    .unwrap();
}

#[test]
fn what_was_captured_before_the_clock_was_set_gets_its_right_time_at_the_centre() {
    on_bench(async |bench: &mut Bench| {
        let fleet = &mut bench.fleet;
        let dir = tempfile::tempdir()?;
        let clock = Clock::right(dir.path())?;
        let agent = fleet.enrol("unset", &ten_a_second("north")?).await?;
        // The battery clock is empty: this is in the seventies.
        clock.fall_behind(56 * 365 * 24 * HOUR)?;
        let mut process = agent.start_by(&clock)?;
        let wait = short_or_long(20, 600);
        until("records without a time", LIMIT, async || {
            let (spooled, stored) = (spooled(&agent), stored(fleet, &agent).await?);
            let so_far = spooled.as_ref().map_or(0, |spooled| *spooled) + stored;
            Ok(if so_far >= wait { Ok(()) } else { Err(format!("{spooled:?}, {stored}")) })
        })
        .await?;
        // Somebody sets it by hand, and is twenty hours wrong.
        clock.fall_behind(20 * HOUR)?;
        wait_for_stored(fleet, &agent, &mut process, wait).await?;
        let wrong = documents(fleet, "observations", "unset").await;
        let wrong = of_clock(&wrong, "unsynchronised");
        assert!(wrong.iter().all(|d| way_ms(d) > 19 * 3_600_000), "stored with the wrong time");
        assert!(!wrong.is_empty());

        clock.find_time()?;
        wait_for_stored(fleet, &agent, &mut process, wait).await?;
        end(&mut process).await?;
        nothing_is_lost(fleet, &[&agent]).await?;
        wait_for_corrected(fleet, "unset").await;

        let observations = documents(fleet, "observations", "unset").await;
        let frames = documents(fleet, "frames", "unset").await;
        for (state, off) in [("unset", None), ("unsynchronised", Some(20 * 3_600_000))] {
            for (what, all) in [("observations", &observations), ("frames", &frames)] {
                let documents = of_clock(all, state);
                assert!(!documents.is_empty(), "no {what} of a clock that was {state}");
                for document in documents {
                    is_corrected(document, off);
                }
            }
        }
        for collection in [&observations, &frames] {
            let known = of_clock(collection, "synchronised");
            assert!(!known.is_empty() && known.iter().all(|d| d.get("corrected").is_none()));
            assert!(collection.iter().filter(|d| !says(d, "kind", "clock")).all(|d| {
                // A file's frames come when they are due; an outage of a minute is long here.
                (-1000..i64::try_from(LIMIT.as_millis()).unwrap()).contains(&way_ms(d))
            }));
        }
        in_the_order_of_capture(&observations);
        of_the_same_time_as_their_observations(&frames, &observations);
        tracks_too(fleet, &observations).await;
        pages_too(fleet, &observations).await;
        Ok(())
    })
    .unwrap();
}

/// A document's time is right, and what the device said stands beside it.
fn is_corrected(document: &Document, off_ms: Option<i64>) {
    let corrected = document.get_document("corrected").unwrap();
    assert_eq!(corrected.get_str("by_clock").unwrap(), "synchronised", "{document}");
    let right = document.get_datetime("captured_at").unwrap().timestamp_millis();
    let ns = document.get_i64("captured_ns").unwrap();
    assert_eq!(ns.div_euclid(1_000_000), right);
    match (off_ms, corrected.get("device_captured_at").unwrap()) {
        (None, Bson::Null) => {}
        (Some(off_ms), Bson::DateTime(said)) => {
            let off = right - said.timestamp_millis();
            assert!((off - off_ms).abs() < 1000, "off by {off} ms: {document}");
        }
        (_, said) => panic!("the device said {said}: {document}"),
    }
}

fn in_the_order_of_capture(observations: &[Document]) {
    let mut seen: Vec<_> = observations
        .iter()
        .filter(|d| says(d, "kind", "observation"))
        .map(|d| (d.get_i64("seq").unwrap(), d.get_i64("captured_ns").unwrap()))
        .collect();
    seen.sort_unstable();
    // Both clocks are read one after the other, and a loaded machine may stop between the two.
    for pair in seen.windows(2) {
        assert!(pair[0].1 < pair[1].1 + 250_000_000, "{pair:?}");
    }
}

fn of_the_same_time_as_their_observations(frames: &[Document], observations: &[Document]) {
    for frame in frames {
        let id = frame.get_str("observation").unwrap();
        let observation = observations.iter().find(|d| says(d, "_id", id)).unwrap();
        assert_eq!(frame.get("captured_ns"), observation.get("captured_ns"), "{id}");
    }
}

/// A track was first and last seen when its first and last observations were captured.
async fn tracks_too(fleet: &Fleet, observations: &[Document]) {
    let tracks = documents(fleet, "tracks", "unset").await;
    assert!(tracks.iter().any(|track| track.get("corrected").is_some()));
    let captured = |id: &str| {
        let found = observations.iter().find(|d| says(d, "_id", id));
        *found.unwrap().get_datetime("captured_at").unwrap()
    };
    for track in &tracks {
        for (seen, by) in [("first_seen", "first_observation"), ("last_seen", "last_observation")] {
            let seen = *track.get_datetime(seen).unwrap();
            assert_eq!(seen, captured(track.get_str(by).unwrap()), "{track}");
        }
    }
}

/// The API says the right time, and what the device said.
async fn pages_too(fleet: &mut Fleet, observations: &[Document]) {
    let corrected = of_clock(observations, "unsynchronised");
    let corrected = corrected.iter().find(|d| says(d, "kind", "observation")).unwrap();
    let id = corrected.get_str("_id").unwrap();
    let page = fleet.page().await.unwrap();
    let answer = get(&page, &format!("/api/observations/{id}")).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let start = body.find('{').unwrap();
    let body = &body[start..=body.rfind('}').unwrap()];
    let view: serde_json::Value = serde_json::from_str(body).unwrap();
    let ms = |name: &str| {
        let at: jiff::Timestamp = view[name].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    assert_eq!(view["corrected"], true);
    assert_eq!(
        ms("captured_at"),
        corrected.get_datetime("captured_at").unwrap().timestamp_millis()
    );
    assert!(ms("captured_at") - ms("device_captured_at") > 19 * 3_600_000);
}

async fn wait_for_count(fleet: &Fleet, collection: &str, filter: Document, wanted: u64) {
    // Longer for the many of a long form, on a machine that has other work.
    let limit = LIMIT + Duration::from_secs(wanted / 250);
    until(&format!("{wanted} {collection}"), limit, async || {
        let documents = fleet.database.collection::<Document>(collection);
        let found = documents.count_documents(filter.clone()).await?;
        Ok(if found >= wanted { Ok(()) } else { Err(format!("{found} of {filter}")) })
    })
    .await
    .unwrap();
}
