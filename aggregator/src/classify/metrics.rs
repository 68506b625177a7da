//! The classifier's metrics: name, labels, and what each tells.

use picket_service::metrics::{Metric, MetricKind, metric};

/// Messages read from the broker.
pub const MESSAGES: &str = "picket_aggregator_classify_messages_total";
/// Pictures that have labels.
pub const PICTURES: &str = "picket_aggregator_classify_pictures_total";
/// Pictures that get none.
pub const SKIPPED: &str = "picket_aggregator_classify_skipped_total";
/// Those that waited and have their observation.
pub const SETTLED: &str = "picket_aggregator_classify_settled_total";
/// Those that waited in vain.
pub const GIVEN_UP: &str = "picket_aggregator_classify_given_up_total";
/// Those that wait.
pub const WAITING: &str = "picket_aggregator_classify_waiting";
/// Batches.
pub const BATCHES: &str = "picket_aggregator_classify_batches_total";
/// Time of a batch's steps.
pub const BATCH_STEP: &str = "picket_aggregator_classify_batch_step_seconds";
/// Steps that failed and were repeated.
pub const RETRIES: &str = "picket_aggregator_classify_retries_total";
/// Partitions of this instance.
pub const PARTITIONS: &str = "picket_aggregator_classify_partitions";
/// Messages that wait in the broker.
pub const LAG: &str = "picket_aggregator_classify_lag_messages";
/// Whether reading waits.
pub const PAUSED: &str = "picket_aggregator_classify_paused";

/// All of them, for `/metrics` and the reference page.
pub const TABLE: &[Metric] = &[
    metric(
        MESSAGES,
        MetricKind::Counter,
        &[],
        "Messages of the frames topic that the command `classify` has read and dealt with: each is then in \
         `pictures` or in `skipped`, where those that it never read are too (`lost-in-broker`).",
    ),
    metric(
        PICTURES,
        MetricKind::Counter,
        &["outcome"],
        "Frames that were given labels: `stored` in their observation, `waiting` for it, or `conflict`: \
         its observation has those of another picture with the same id, or they wait for it.",
    ),
    metric(
        SKIPPED,
        MetricKind::Counter,
        &["reason"],
        "Messages that were given no labels: `crop`, `expired` (older than `upsert.observations_days`), \
         `undecodable`, `too-large`, `not-resizable`, `no-scores`, `lost-in-broker` (the broker deleted them \
         before they were read), or why a message cannot be read, as with dead letters. The log names \
         the first of each reason, and then one in ten seconds.",
    ),
    metric(
        SETTLED,
        MetricKind::Counter,
        &[],
        "Labels that waited for their observation, which has them now.",
    ),
    metric(
        GIVEN_UP,
        MetricKind::Counter,
        &["reason"],
        "Labels that waited for `classify.wait_hours` and were given up, because there is `no-observation`: \
         it was refused, lost on the device, or has expired.",
    ),
    metric(
        WAITING,
        MetricKind::Gauge,
        &[],
        "Labels that wait for their observation, of all classifiers together.",
    ),
    metric(BATCHES, MetricKind::Counter, &[], "Batches that were written."),
    metric(
        BATCH_STEP,
        MetricKind::Histogram,
        &["step"],
        "Time of a batch's steps: `decode`, `compute`, and `write`, which waits for MongoDB.",
    ),
    metric(
        RETRIES,
        MetricKind::Counter,
        &["step"],
        "Steps that failed and are repeated: `write`, `settle`. Reading pauses meanwhile and nothing is lost.",
    ),
    metric(PARTITIONS, MetricKind::Gauge, &[], "Partitions of frames that this classifier reads."),
    metric(LAG, MetricKind::Gauge, &[], "Messages of these in the broker that were not read yet."),
    metric(PAUSED, MetricKind::Gauge, &[], "1 while reading waits for what was read."),
];
