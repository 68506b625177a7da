//! `/healthz`, `/readyz` and `/metrics`: for systemd, balancers and Prometheus.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mongodb::bson::doc;
use picket_service::logging::chain;
use serde::Serialize;

use super::Shared;
use super::fleet::within_limit;
use super::membership::{GroupState, GroupView};

/// Answers as long as the process can answer.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Why not; empty when ready.
    reasons: Vec<String>,
    /// What an operator should know although it is ready.
    notes: Vec<String>,
    group: GroupView,
}

/// Ready: MongoDB answers, and the group has this aggregator. A member without a partition is ready:
/// its pages work, and it takes over when another leaves.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let mut reasons = Vec::new();
    let ping = shared.database.run_command(doc! { "ping": 1 });
    if let Err(error) = within_limit("a ping", ping).await {
        tracing::debug!(target: "web", error = chain(&error), "not ready");
        reasons.push("MongoDB does not answer".to_owned());
    }
    let state = (shared.membership)();
    if let GroupState::Unknown(problem) = &state {
        reasons.push(format!("the consumer group: {problem}"));
    }
    let group = GroupView::from(state);
    let mut notes = Vec::new();
    if group.member && group.partitions == 0 {
        notes.push("no partition: other members of the group hold them all".to_owned());
    }
    if !group.stopped.is_empty() {
        notes.push(format!(
            "work on {} has stopped and is tried again: the log says why",
            group.stopped.join(", ")
        ));
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, notes, group })).into_response()
}

/// Metrics as Prometheus text.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = (shared.render_metrics)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
