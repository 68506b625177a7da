//! Every metric of the agent: name, labels, and what it tells.

use picket_service::metrics::{Metric, MetricKind};

const fn metric(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

/// All of them, for `/metrics` and the reference page.
pub const TABLE: &[Metric] = &[
    metric(
        "picket_agent_capture_decoded_total",
        MetricKind::Counter,
        &["camera"],
        "Frames that the source gave, sampled or not.",
    ),
    metric(
        "picket_agent_capture_frames_total",
        MetricKind::Counter,
        &["camera"],
        "Frames that were captured (sampled, and given a `seq`).",
    ),
    metric(
        "picket_agent_capture_skipped_total",
        MetricKind::Counter,
        &["camera", "reason"],
        "Captured frames that nobody looked at; each is in a skip record.",
    ),
    metric(
        "picket_agent_capture_unnumbered_total",
        MetricKind::Counter,
        &["camera"],
        "Frames that were not captured because no `seq` could be reserved on disk.",
    ),
    metric(
        "picket_agent_capture_lost_total",
        MetricKind::Counter,
        &["camera"],
        "Captured frames that could not be handed on at the agent's end; the next start reports them as a gap.",
    ),
    metric(
        "picket_agent_capture_reopened_total",
        MetricKind::Counter,
        &["camera"],
        "How often the source was opened again after a failure.",
    ),
    metric("picket_agent_capture_running", MetricKind::Gauge, &["camera"], "1 while frames flow."),
    metric(
        "picket_agent_detect_seconds",
        MetricKind::Histogram,
        &[],
        "Time to look at a frame, in seconds.",
    ),
    metric(
        "picket_agent_detect_frames_total",
        MetricKind::Counter,
        &["camera"],
        "Frames that were looked at.",
    ),
    metric("picket_agent_detect_objects_total", MetricKind::Counter, &["camera"], "Detections."),
    metric(
        "picket_agent_detect_failed_total",
        MetricKind::Counter,
        &["camera"],
        "Frames on which the detector failed; each is in a skip record.",
    ),
    metric(
        "picket_agent_detect_encode_seconds",
        MetricKind::Histogram,
        &[],
        "Time to encode a picture, in seconds.",
    ),
    metric(
        "picket_agent_detect_pictures_total",
        MetricKind::Counter,
        &["camera"],
        "Pictures encoded for publishing.",
    ),
    metric(
        "picket_agent_detect_pictures_failed_total",
        MetricKind::Counter,
        &["camera"],
        "Pictures that could not be encoded; each is in a gap record.",
    ),
    metric(
        "picket_agent_books_frames",
        MetricKind::Gauge,
        &["camera", "place"],
        "The books, in frames: `captured`, and where they are (`in-memory`, `spooled`, `acknowledged`, `dropped`).",
    ),
    metric(
        "picket_agent_books_dropped_frames",
        MetricKind::Gauge,
        &["camera", "reason"],
        "Dropped frames by reason, since the spool was made.",
    ),
    metric(
        "picket_agent_spool_records",
        MetricKind::Gauge,
        &[],
        "Records that wait for the broker.",
    ),
    metric(
        "picket_agent_spool_pictures",
        MetricKind::Gauge,
        &[],
        "Pictures that wait for the broker.",
    ),
    metric("picket_agent_spool_bytes", MetricKind::Gauge, &[], "Bytes of what waits."),
    metric(
        "picket_agent_spool_used_bytes",
        MetricKind::Gauge,
        &[],
        "Bytes of the database that are in use.",
    ),
    metric(
        "picket_agent_spool_log_pages",
        MetricKind::Gauge,
        &[],
        "Pages of the write-ahead log that are not in the database yet.",
    ),
    metric(
        "picket_agent_spool_commit_seconds",
        MetricKind::Histogram,
        &[],
        "Time of a commit, its fsync included, in seconds.",
    ),
    metric(
        "picket_agent_spool_failed_commits_total",
        MetricKind::Counter,
        &[],
        "Commits that the disk refused; they are tried again.",
    ),
    metric(
        "picket_agent_spool_failing",
        MetricKind::Gauge,
        &[],
        "1 while the disk refuses commits.",
    ),
    metric(
        "picket_agent_spool_corrupt_databases_total",
        MetricKind::Counter,
        &[],
        "Damaged databases that were set aside.",
    ),
    metric("picket_agent_uplink_up", MetricKind::Gauge, &[], "1 while the broker acknowledges."),
    metric(
        "picket_agent_uplink_outages_total",
        MetricKind::Counter,
        &[],
        "How often the link went down.",
    ),
    metric(
        "picket_agent_uplink_acknowledged_total",
        MetricKind::Counter,
        &["topic", "lane"],
        "Messages that the broker has taken.",
    ),
    metric(
        "picket_agent_uplink_acknowledged_bytes_total",
        MetricKind::Counter,
        &["topic", "lane"],
        "Bytes of these.",
    ),
    metric(
        "picket_agent_uplink_acknowledge_seconds",
        MetricKind::Histogram,
        &["topic", "lane"],
        "From handing over to acknowledgement, in seconds.",
    ),
    metric(
        "picket_agent_uplink_delivery_errors_total",
        MetricKind::Counter,
        &["code"],
        "Deliveries that failed and are tried again.",
    ),
    metric(
        "picket_agent_uplink_refused_total",
        MetricKind::Counter,
        &["topic", "reason"],
        "Messages that the broker will never take; each is dropped and in a gap record.",
    ),
    metric(
        "picket_agent_uplink_producer_restarts_total",
        MetricKind::Counter,
        &[],
        "How often the producer was made anew after a fatal error.",
    ),
    metric(
        "picket_agent_uplink_in_flight_records",
        MetricKind::Gauge,
        &[],
        "Messages handed over and not acknowledged.",
    ),
    metric("picket_agent_uplink_in_flight_bytes", MetricKind::Gauge, &[], "Bytes of these."),
    metric(
        "picket_agent_uplink_certificate_days_left",
        MetricKind::Gauge,
        &[],
        "Days until the device's certificate expires.",
    ),
    metric(
        "picket_agent_spool_crash_lost_bound_total",
        MetricKind::Counter,
        &["camera"],
        "At most so many frames were lost between the last commit and a crash; each start after one adds its bound.",
    ),
];
