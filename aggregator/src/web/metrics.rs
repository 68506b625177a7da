//! The web stage's metrics: the table that the reference is made from, and the one place that
//! records them.

use std::time::Duration;

use picket_service::metrics::{Metric, MetricKind, metric};

use super::error::WebError;

const REQUESTS: &str = "picket_aggregator_web_requests_total";
const REQUEST_SECONDS: &str = "picket_aggregator_web_request_seconds";
const FAILURES: &str = "picket_aggregator_web_failures_total";
const VIEWERS: &str = "picket_aggregator_web_viewers";
const EVENTS: &str = "picket_aggregator_web_events_total";
const RESYNCS: &str = "picket_aggregator_web_resyncs_total";
const FEED_UP: &str = "picket_aggregator_web_feed_up";
const FEED_INTERRUPTIONS: &str = "picket_aggregator_web_feed_interruptions_total";

/// All metrics of this stage.
pub const METRICS: &[Metric] = &[
    metric(
        REQUESTS,
        MetricKind::Counter,
        &["route", "status"],
        "Requests answered, by route and HTTP status.",
    ),
    metric(
        REQUEST_SECONDS,
        MetricKind::Histogram,
        &["route"],
        "Seconds until the answer began, by route.",
    ),
    metric(
        FAILURES,
        MetricKind::Counter,
        &["cause"],
        "Requests that could not be served, by cause: database, pictures, viewers.",
    ),
    metric(VIEWERS, MetricKind::Gauge, &[], "Pages that follow the live feed now."),
    metric(
        EVENTS,
        MetricKind::Counter,
        &["event"],
        "Events put on the live feed, by event; each goes to all viewers.",
    ),
    metric(
        RESYNCS,
        MetricKind::Counter,
        &["reason"],
        "Times that viewers were told to read everything anew, by reason: lagged (one viewer was too \
         slow), flood (more tracks at once than the feed carries), interrupted (the feed lost its place).",
    ),
    metric(
        FEED_UP,
        MetricKind::Gauge,
        &[],
        "1 while the pages follow MongoDB's changes, 0 while they do not.",
    ),
    metric(
        FEED_INTERRUPTIONS,
        MetricKind::Counter,
        &[],
        "Times that the change stream broke off or could not be opened.",
    ),
];

/// A request was answered.
pub(super) fn answered(route: &'static str, status: u16, took: Duration) {
    metrics::counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
    metrics::histogram!(REQUEST_SECONDS, "route" => route).record(took.as_secs_f64());
}

/// A request could not be served.
pub(super) fn failed(error: &WebError) {
    let cause = match error {
        WebError::Picture(_) => "pictures",
        WebError::TooManyViewers(_) => "viewers",
        _ => "database",
    };
    metrics::counter!(FAILURES, "cause" => cause).increment(1);
}

/// Counts a page as a viewer for as long as it lives.
pub(super) struct Viewer;

impl Viewer {
    pub(super) fn new() -> Self {
        metrics::gauge!(VIEWERS).increment(1.0);
        Self
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        metrics::gauge!(VIEWERS).decrement(1.0);
    }
}

/// An event was put on the feed.
pub(super) fn event(name: &'static str) {
    metrics::counter!(EVENTS, "event" => name).increment(1);
}

/// Viewers were told to read everything anew.
pub(super) fn resync(reason: &'static str) {
    metrics::counter!(RESYNCS, "reason" => reason).increment(1);
}

/// The feed follows MongoDB, or does not.
pub(super) fn feed_up(up: bool) {
    metrics::gauge!(FEED_UP).set(if up { 1.0 } else { 0.0 });
}

/// The change stream broke off.
pub(super) fn feed_interrupted() {
    metrics::counter!(FEED_INTERRUPTIONS).increment(1);
}
