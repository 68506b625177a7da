//! Every metric of the aggregator: name, labels, and what it tells.

use picket_service::metrics::{Metric, MetricKind, metric};

/// Records read from the broker.
pub const RECORDS: &str = "picket_aggregator_consume_records_total";
/// Bytes of their values.
pub const BYTES: &str = "picket_aggregator_consume_bytes_total";
/// Records put aside.
pub const DEAD_LETTERS: &str = "picket_aggregator_consume_dead_letters_total";
/// Records that were there already.
pub const DUPLICATES: &str = "picket_aggregator_consume_duplicates_total";
/// Observations that came too late to be tracked.
pub const LATE: &str = "picket_aggregator_track_late_total";
/// Observations that are not waited for any more.
pub const GIVEN_UP: &str = "picket_aggregator_track_given_up_total";
/// States of trackers that this build could not take over.
pub const TRACKERS_DISCARDED: &str = "picket_aggregator_track_states_discarded_total";
/// Stored documents that cannot be read.
pub const UNREADABLE: &str = "picket_aggregator_store_documents_unreadable_total";
/// Frames that devices dropped.
pub const DROPPED: &str = "picket_aggregator_consume_dropped_frames_total";
/// Time from the first record of a batch to its checkpoint.
pub const BATCH: &str = "picket_aggregator_upsert_batch_seconds";
/// The same of each step of a batch.
pub const BATCH_STEP: &str = "picket_aggregator_upsert_batch_step_seconds";
/// Records of a batch.
pub const BATCH_RECORDS: &str = "picket_aggregator_upsert_batch_records_total";
/// Batches.
pub const BATCHES: &str = "picket_aggregator_upsert_batches_total";
/// From capture to checkpoint.
pub const CAPTURE_TO_STORE: &str = "picket_aggregator_upsert_capture_to_store_seconds";
/// Pictures that nothing points at, and were removed.
pub const PICTURES_REMOVED: &str = "picket_aggregator_upsert_pictures_removed_total";
/// Looks through all pictures.
pub const SWEEPS: &str = "picket_aggregator_upsert_sweeps_total";
/// Times that followed from a device's clock records.
pub const TIMES_CORRECTED: &str = "picket_aggregator_upsert_times_corrected_total";
/// Times that could not be corrected.
pub const TIMES_NOT_CORRECTED: &str = "picket_aggregator_upsert_times_not_corrected_total";
/// Steps that failed and were repeated.
pub const RETRIES: &str = "picket_aggregator_upsert_retries_total";
/// Partitions that stopped.
pub const PARTITIONS_STOPPED: &str = "picket_aggregator_consume_partitions_stopped_total";
/// Partitions of this instance.
pub const PARTITIONS: &str = "picket_aggregator_consume_partitions";
/// Records that wait in the broker.
pub const LAG: &str = "picket_aggregator_consume_lag_records";
/// Partitions that wait for their writes.
pub const PAUSED: &str = "picket_aggregator_consume_paused_partitions";
/// Logs that do not go on where their checkpoint says.
pub const LOGS_BROKEN: &str = "picket_aggregator_consume_logs_broken_total";
/// How often changed files were taken up.
pub const RENEWALS: &str = "picket_aggregator_consume_renewals_total";
/// Whether changed files cannot be.
pub const FILES_REFUSED: &str = "picket_aggregator_consume_files_refused";
/// Of the certificate in use.
pub const CERTIFICATE_DAYS_LEFT: &str = "picket_aggregator_consume_certificate_days_left";

/// Heartbeats of two agents that run as one device.
pub const TWINS: &str = "picket_aggregator_consume_twin_heartbeats_total";

/// All of them, for `/metrics` and the reference page.
pub const TABLE: &[Metric] = &[
    metric(
        RECORDS,
        MetricKind::Counter,
        &["topic", "kind"],
        "Records read from the broker, by topic and kind; `unreadable` are those put aside.",
    ),
    metric(BYTES, MetricKind::Counter, &["topic"], "Bytes of the values of these records."),
    metric(
        DEAD_LETTERS,
        MetricKind::Counter,
        &["topic", "reason"],
        "Records put aside on the dead-letter topic, by reason.",
    ),
    metric(
        DUPLICATES,
        MetricKind::Counter,
        &["topic"],
        "Records that came again and were stored already. Harmless: a resend, or a log read anew.",
    ),
    metric(
        LATE,
        MetricKind::Counter,
        &[],
        "Observations stored without a track, because they came after they had been given up \
         (`consume.horizon_hours`).",
    ),
    metric(
        GIVEN_UP,
        MetricKind::Counter,
        &[],
        "Observations that have been missing for longer than `consume.horizon_hours`, of which nobody has \
         told why. They are in their camera's accounts until they come after all.",
    ),
    metric(
        TRACKERS_DISCARDED,
        MetricKind::Counter,
        &["why"],
        "Cameras whose tracks were ended early, because this build could not go on from their state: it is \
         of a `newer-version` of the tracker or of another `version`, of other `settings`, `unreadable`, or \
         far too many `epochs` waited.",
    ),
    metric(
        UNREADABLE,
        MetricKind::Counter,
        &["collection"],
        "Stored documents that cannot be read, because somebody changed them, and were passed over. The \
         log names each with its field.",
    ),
    metric(
        DROPPED,
        MetricKind::Counter,
        &["of", "reason"],
        "Frames that devices report as lost, of observations and of pictures, by reason. After a crash it is \
         what may have been lost at most.",
    ),
    metric(
        BATCH,
        MetricKind::Histogram,
        &["topic"],
        "Time from the first record of a batch to its checkpoint.",
    ),
    metric(
        BATCH_STEP,
        MetricKind::Histogram,
        &["topic", "step"],
        "Time of a batch's steps: `work` reads what is stored and tracks, `dead-letters` puts aside what \
         cannot be read, `images` writes pictures, `documents` and `checkpoint` wait for MongoDB, `tracks` \
         tells others of tracks (`consume.publish_tracks`).",
    ),
    metric(BATCHES, MetricKind::Counter, &["topic"], "Batches whose checkpoint is written."),
    metric(BATCH_RECORDS, MetricKind::Counter, &["topic"], "Records in these batches."),
    metric(
        CAPTURE_TO_STORE,
        MetricKind::Histogram,
        &[],
        "Time from capture to checkpoint, of live observations with a synchronised clock.",
    ),
    metric(
        TIMES_CORRECTED,
        MetricKind::Counter,
        &["collection"],
        "Stored documents whose wall time was corrected, because the device's clock was set, and told, \
         after they were made.",
    ),
    metric(
        TIMES_NOT_CORRECTED,
        MetricKind::Counter,
        &["of"],
        "Corrections that failed: of an `epoch`, which has its turn again, and of a `document` that \
         cannot be read and keeps its time. The log names such an epoch once until it succeeds (a \
         thousand of them at most), and of a thousand documents of one epoch the first that cannot be read.",
    ),
    metric(
        RETRIES,
        MetricKind::Counter,
        &["step"],
        "Steps that failed and are repeated: `load`, `dead-letter`, `image`, `write`, `tracks`, \
         `checkpoint`, `claim`. Reading pauses meanwhile and nothing is lost.",
    ),
    metric(
        PARTITIONS_STOPPED,
        MetricKind::Counter,
        &["why"],
        "Partitions that this instance stopped working on: `fenced` by another owner, `unreadable` where a \
         document of their books is, `stuck` where the client had ceased to read, or `failed`. They are \
         tried again.",
    ),
    metric(PARTITIONS, MetricKind::Gauge, &[], "Partitions that this instance works on."),
    metric(
        LAG,
        MetricKind::Gauge,
        &["topic", "partition"],
        "Records in the broker that are not yet stored.",
    ),
    metric(PAUSED, MetricKind::Gauge, &[], "Partitions whose reading waits for their writes."),
    metric(
        RENEWALS,
        MetricKind::Counter,
        &[],
        "How often the group was joined anew with changed certificates or a changed password.",
    ),
    metric(
        FILES_REFUSED,
        MetricKind::Gauge,
        &[],
        "1 while the certificate, key, CA or password on disk cannot be used, and the former stay in use.",
    ),
    metric(
        CERTIFICATE_DAYS_LEFT,
        MetricKind::Gauge,
        &[],
        "Days from when it was taken up until the aggregator's certificate expires.",
    ),
    metric(
        LOGS_BROKEN,
        MetricKind::Counter,
        &["topic", "state"],
        "Partitions whose log does not go on where their checkpoint says: `log-out-of-range` (records \
         expired before they were read, or the topic was made anew), `topic-recreated`, \
         `other-cluster`. The checkpoint and an ERROR in the log say which offsets.",
    ),
    metric(
        TWINS,
        MetricKind::Counter,
        &[],
        "Heartbeats that show two agents running at once as one device: a copied card, or one \
         certificate on two boxes. A WARN in the log names the device.",
    ),
    metric(
        PICTURES_REMOVED,
        MetricKind::Counter,
        &["why"],
        "Pictures removed because no document points at them: `expired` where MongoDB deleted it as its \
         time was over, `orphan` where a picture less than half as old as documents are kept has none, \
         as a crash came between the two.",
    ),
    metric(
        SWEEPS,
        MetricKind::Counter,
        &["outcome"],
        "Looks through all pictures for those: `done` once for each round, `failed` for each time that \
         MongoDB or the object store was away or refused something, and the round then goes on a minute \
         later; or that the pictures are another database's.",
    ),
];
