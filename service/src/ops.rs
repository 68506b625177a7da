//! The local operations endpoint: `/metrics` and `/healthz`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::metrics::Render;

/// `[ops]`: the local endpoint for `/metrics` and `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OpsSettings {
    /// Address to listen on; must be a loopback one, since nothing here asks who is calling.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

impl OpsSettings {
    /// Refuses an address that others could reach.
    pub fn check(&self) -> Result<(), Problem> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        let problem = format!(
            "{} can be reached by others and this endpoint has no sign-in; use 127.0.0.1:{} or [::1]:{}",
            self.listen,
            self.listen.port(),
            self.listen.port(),
        );
        Err(Problem::new("ops.listen", problem))
    }
}

/// Says what is wrong, or nothing when all is well.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves the endpoint until the program ends.
pub async fn serve(
    listener: tokio::net::TcpListener,
    render: Render,
    health: Health,
) -> std::io::Result<()> {
    let router = Router::new().route("/metrics", get(async move || render())).route(
        "/healthz",
        get(async move || match health() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
        }),
    );
    axum::serve(listener, router).await
}
