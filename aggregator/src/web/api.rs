//! `/api/…`: the fleet, tracks and observations as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, doc};
use picket_wire::{CameraKey, ObservationId};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::books::{BooksRow, Verdict};
use super::error::WebError;
use super::events::{Alive, FRESHNESS};
use super::fleet::{self, Fleet, readable, within_limit};
use super::views::{CameraView, DeviceView, ObservationView, StoredPicture, TrackView};
use crate::store::documents::{FrameDocument, ObservationDocument, TrackDocument, collection};
use crate::upsert::TrackState;

const DEFAULT_LIMIT: u32 = 100;
const MOST: u32 = 500;

/// A list, and how to get the rest of it.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    /// `before=` of the next page; null at the end.
    next: Option<String>,
}

/// `camera`, `limit`, `before`, validated.
#[derive(Debug, PartialEq)]
pub(super) struct ListQuery {
    camera: Option<CameraKey>,
    limit: u32,
    before: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuery {
    camera: Option<String>,
    limit: Option<String>,
    before: Option<String>,
}

impl ListQuery {
    fn checked(raw: RawQuery) -> Result<Self, WebError> {
        let invalid = |field, problem| WebError::Invalid { field, problem };
        let camera = match raw.camera {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|e: picket_wire::id::IdError| invalid("camera", e.to_string()))?,
            ),
        };
        let limit = raw.limit.map_or(Some(DEFAULT_LIMIT), |text| text.parse().ok());
        let limit = limit
            .filter(|n| (1..=MOST).contains(n))
            .ok_or_else(|| invalid("limit", format!("must be a number from 1 to {MOST}")))?;
        if raw.before.as_ref().is_some_and(|id| id.len() > 256) {
            return Err(invalid("before", "must be an id from this list".to_owned()));
        }
        Ok(Self { camera, limit, before: raw.before })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ListQuery {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        let Query(raw) =
            Query::<RawQuery>::from_request_parts(parts, state).await.map_err(|e| {
                let problem = format!("{}; known are camera, limit and before", e.body_text());
                WebError::Invalid { field: "query", problem }
            })?;
        Self::checked(raw)
    }
}

/// Selects what comes after the document with `key` and `id` in a list sorted by `field` and `_id`,
/// both falling, where those without a key come last.
fn after(field: &str, key: Option<&Bson>, id: &str) -> Document {
    match key {
        None | Some(Bson::Null) => doc! { field: Bson::Null, "_id": { "$lt": id } },
        Some(key) => doc! { "$or": [
            { field: { "$lt": key.clone() } },
            { field: key.clone(), "_id": { "$lt": id } },
            { field: Bson::Null },
        ] },
    }
}

/// One page of a collection, newest first.
async fn list(
    shared: &Shared,
    name: &'static str,
    what: &'static str,
    field: &'static str,
    mut filter: Document,
    query: &ListQuery,
) -> Result<(Vec<Document>, Option<String>), WebError> {
    let documents = shared.database.collection::<Document>(name);
    if let Some(camera) = &query.camera {
        filter.insert("device", camera.device.as_str());
        filter.insert("camera", camera.camera.as_str());
    }
    if let Some(before) = &query.before {
        let key = documents.find_one(doc! { "_id": before }).projection(doc! { field: 1 });
        let last = within_limit(what, key).await?.ok_or_else(|| WebError::Invalid {
            field: "before",
            problem: format!("{before:?} is not in this list, or no longer"),
        })?;
        filter.extend(after(field, last.get(field), before));
    }
    let found = within_limit(what, async {
        let newest_first = documents.find(filter).sort(doc! { field: -1, "_id": -1 });
        let page = newest_first.limit(i64::from(query.limit)).await?;
        page.try_collect::<Vec<_>>().await
    })
    .await?;
    let full = u32::try_from(found.len()).is_ok_and(|n| n == query.limit);
    let last = found.last().and_then(|document| document.get_str("_id").ok());
    let next = last.filter(|_| full).map(str::to_owned);
    Ok((found, next))
}

/// Answers `/api/tracks`. Provisional tracks that others have replaced are left out.
pub(super) async fn tracks(
    State(shared): State<Arc<Shared>>,
    query: ListQuery,
) -> Result<Json<Page<TrackView>>, WebError> {
    let theirs = doc! { "state": { "$ne": TrackState::Replaced.as_str() } };
    let found = list(&shared, collection::TRACKS, "tracks", "first_seen", theirs, &query);
    let (found, next) = found.await?;
    let items = readable::<TrackDocument>("track", found).iter().map(Into::into).collect();
    Ok(Json(Page { items, next }))
}

/// Answers `/api/observations`.
pub(super) async fn observations(
    State(shared): State<Arc<Shared>>,
    query: ListQuery,
) -> Result<Json<Page<ObservationView>>, WebError> {
    let only = doc! { "kind": "observation" };
    let name = collection::OBSERVATIONS;
    let found = list(&shared, name, "observations", "captured_at", only, &query);
    let (found, next) = found.await?;
    let items =
        readable::<ObservationDocument>("observation", found).iter().map(Into::into).collect();
    Ok(Json(Page { items, next }))
}

/// Answers `/api/observations/{device}/{camera}/{epoch}/{seq}`.
pub(super) async fn observation(
    State(shared): State<Arc<Shared>>,
    Path((device, camera, epoch, seq)): Path<(String, String, String, String)>,
) -> Result<Json<ObservationView>, WebError> {
    let id = format!("{device}/{camera}/{epoch}/{seq}")
        .parse::<ObservationId>()
        .map_err(|e| WebError::Invalid { field: "id", problem: e.to_string() })?;
    let by_id = doc! { "_id": id.to_string() };
    let observations = shared.database.collection::<ObservationDocument>(collection::OBSERVATIONS);
    let frames = shared.database.collection::<FrameDocument>(collection::FRAMES);
    let (observation, frame) = tokio::try_join!(
        within_limit("observations", observations.find_one(by_id.clone())),
        within_limit("pictures", frames.find_one(by_id)),
    )?;
    let mut view = ObservationView::from(&observation.ok_or(WebError::Missing("observation"))?);
    view.picture = frame.map(|frame| StoredPicture::of(&frame, &id));
    Ok(Json(view))
}

/// Answers `/api/cameras`.
pub(super) async fn cameras(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Page<CameraView>>, WebError> {
    Ok(Json(Page { items: fleet::read(&shared.database).await?.cameras, next: None }))
}

/// Answers `/api/devices`.
pub(super) async fn devices(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Page<DeviceView>>, WebError> {
    Ok(Json(Page { items: fleet::read(&shared.database).await?.devices, next: None }))
}

/// Answers `/api/books`.
pub(super) async fn books(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Page<BooksRow>>, WebError> {
    Ok(Json(Page { items: fleet::read(&shared.database).await?.rows(), next: None }))
}

/// The fleet in some numbers.
#[derive(Debug, PartialEq, Serialize)]
struct Totals {
    cameras: usize,
    cameras_live: usize,
    devices: usize,
    devices_reporting: usize,
    captured: u64,
    in_memory: u64,
    spooled: u64,
    acknowledged: u64,
    on_the_way: u64,
    stored: u64,
    skipped: u64,
    dropped: u64,
    refused: u64,
    /// Dead letters that are in the books and were not put back, or were and are refused again.
    refused_by_reason: BTreeMap<String, u64>,
    /// Worst of all cameras.
    verdict: Verdict,
}

fn by_reason(rows: &[BooksRow]) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in rows.iter().flat_map(|row| &row.refused_by_reason) {
        let sum = all.entry(reason.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    all
}

fn totals(fleet: &Fleet, now: Timestamp) -> Totals {
    let rows = fleet.rows();
    let fresh = |at: Option<Timestamp>, limit_ms: i64| {
        at.is_some_and(|at| now.as_millisecond() - at.as_millisecond() <= limit_ms)
    };
    let of_device = |f: fn(&picket_wire::status::Books) -> u64| {
        rows.iter().filter_map(|r| r.device.as_ref()).fold(0u64, |sum, b| sum.saturating_add(f(b)))
    };
    let sum = |f: fn(&BooksRow) -> u64| rows.iter().fold(0u64, |s, r| s.saturating_add(f(r)));
    let seen = |c: &&CameraView| {
        let at = c.newest.as_ref().and_then(|n| n.captured_at);
        fresh(at, FRESHNESS.observation_ms)
    };
    let reporting = |d: &&DeviceView| fresh(d.status_at, FRESHNESS.status_ms);
    Totals {
        cameras: fleet.cameras.len(),
        cameras_live: fleet.cameras.iter().filter(seen).count(),
        devices: fleet.devices.len(),
        devices_reporting: fleet.devices.iter().filter(reporting).count(),
        captured: of_device(|b| b.captured),
        in_memory: of_device(|b| b.in_memory),
        spooled: of_device(|b| b.spooled),
        acknowledged: of_device(|b| b.acknowledged),
        on_the_way: sum(|r| r.on_the_way),
        stored: sum(|r| r.stored),
        skipped: sum(|r| r.skipped_at_centre),
        dropped: sum(|r| r.dropped),
        refused: sum(|r| r.refused),
        refused_by_reason: by_reason(&rows),
        verdict: rows.iter().map(|r| r.verdict).max().unwrap_or(Verdict::Unknown),
    }
}

#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    alive: Alive,
    totals: Totals,
    /// Documents in MongoDB, by its own estimate.
    documents: Documents,
}

#[derive(Serialize)]
struct Documents {
    observations_and_other_records: u64,
    tracks: u64,
    frames: u64,
}

/// Answers `/api/summary`.
pub(super) async fn summary(State(shared): State<Arc<Shared>>) -> Result<Json<Summary>, WebError> {
    let estimate = async |name: &'static str| {
        let documents = shared.database.collection::<Document>(name);
        within_limit("counts", documents.estimated_document_count()).await
    };
    let (fleet, observations, tracks, frames) = tokio::try_join!(
        fleet::read(&shared.database),
        estimate(collection::OBSERVATIONS),
        estimate(collection::TRACKS),
        estimate(collection::FRAMES),
    )?;
    Ok(Json(Summary {
        alive: Alive::of(&shared),
        totals: totals(&fleet, Timestamp::now()),
        documents: Documents { observations_and_other_records: observations, tracks, frames },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(camera: Option<&str>, limit: Option<&str>) -> RawQuery {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        RawQuery { camera: owned(camera), limit: owned(limit), before: None }
    }

    #[test]
    fn a_list_is_bounded_also_when_nobody_asks_for_a_bound() {
        assert_eq!(ListQuery::checked(raw(None, None)).unwrap().limit, DEFAULT_LIMIT);
        assert_eq!(ListQuery::checked(raw(None, Some("500"))).unwrap().limit, 500);
    }

    #[test]
    fn a_bad_part_of_a_query_is_refused_by_its_name() {
        for (query, field) in [
            (raw(None, Some("0")), "limit"),
            (raw(None, Some("501")), "limit"),
            (raw(None, Some("ten")), "limit"),
            (raw(Some("north"), None), "camera"),
            (raw(Some("gate/{\"$ne\":1}"), None), "camera"),
        ] {
            match ListQuery::checked(query) {
                Err(WebError::Invalid { field: refused, .. }) => assert_eq!(refused, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn those_without_a_time_come_last_and_none_is_left_out() {
        let key = Bson::DateTime(mongodb::bson::DateTime::from_millis(5));
        let dated = after("first_seen", Some(&key), "x");
        assert_eq!(dated.get_array("$or").unwrap().len(), 3);
        let undated = after("first_seen", None, "x");
        assert_eq!(undated, doc! { "first_seen": Bson::Null, "_id": { "$lt": "x" } });
    }

    #[test]
    fn what_is_refused_is_summed_by_reason_over_all_cameras() {
        let mut fleet = Fleet::default();
        for (camera, count) in [("gate/north", 2), ("gate/south", 3)] {
            let mut accounts = crate::store::documents::CentreAccounts::default();
            accounts.refused.insert("unknown-major".to_owned(), count);
            fleet.books.set_centre(&camera.parse().unwrap(), &accounts);
        }
        let totals = totals(&fleet, Timestamp::UNIX_EPOCH);
        assert_eq!(totals.refused, 5);
        assert_eq!(totals.refused_by_reason, BTreeMap::from([("unknown-major".to_owned(), 5)]));
    }

    #[test]
    fn an_empty_fleet_has_no_verdict() {
        assert_eq!(totals(&Fleet::default(), Timestamp::UNIX_EPOCH).verdict, Verdict::Unknown);
    }
}
