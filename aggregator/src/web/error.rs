//! What a request is answered when it cannot be served: a status and `{error, field?}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use picket_service::logging::chain;
use serde::Serialize;

use super::metrics;

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A part of the request is not valid.
    #[error("{problem}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// What was asked for is not there.
    #[error("there is no such {0}")]
    Missing(&'static str),
    /// MongoDB refused, or could not be reached.
    #[error("MongoDB does not answer: cannot read {what}")]
    Database {
        /// What was to be read.
        what: &'static str,
        /// Why.
        #[source]
        source: mongodb::error::Error,
    },
    /// MongoDB took too long.
    #[error("MongoDB does not answer: reading {0} took too long")]
    DatabaseLate(&'static str),
    /// A picture is recorded and cannot be read now.
    #[error("the picture cannot be read from the object store")]
    Picture(#[source] object_store::Error),
    /// A picture is recorded, and whoever else can write to the object store has removed it.
    #[error("the picture is recorded, and no longer in the object store")]
    PictureGone,
    /// As many pages are open as are served at once.
    #[error("{0} pages are open already; close one and try again")]
    TooManyViewers(usize),
    /// Sent to a name that is not this machine's own.
    #[error("this server answers to localhost and loopback addresses only, not to the host {0:?}")]
    ForeignHost(String),
}

#[derive(Serialize)]
struct Body {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

impl WebError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::PictureGone => StatusCode::GONE,
            Self::Database { .. }
            | Self::DatabaseLate(_)
            | Self::Picture(_)
            | Self::TooManyViewers(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            metrics::failed(&self);
            // WARN: the page tells its viewer and asks again; no data is lost by it.
            tracing::warn!(target: "web", error = chain(&self), "a request could not be served");
        }
        let field = match &self {
            Self::Invalid { field, .. } => Some(*field),
            _ => None,
        };
        // The source stays in the log: a driver's message may hold addresses or names of servers.
        (status, Json(Body { error: self.to_string(), field })).into_response()
    }
}
