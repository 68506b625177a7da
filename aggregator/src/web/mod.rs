//! # Web: what operators see
//!
//! **In**: MongoDB's collections and their change streams, pictures from the object store, the place
//! in the consumer group, the rendered metrics. Nothing from the stages of this process, so that every
//! instance shows the whole fleet.
//!
//! **Out**: the page at `/`, the JSON API and live feed under `/api/`, pictures under `/images/`,
//! `/metrics`, `/healthz`, `/readyz`.
//!
//! **Promises**: reads only. A picture and its boxes belong to the same moment; an older one never
//! replaces a newer one; the page shows the age of everything and says when it is no longer live. A
//! viewer that was cut off or too slow reads everything anew, so nothing that it shows stays wrong. All
//! names from devices are checked before they get into a path, and enter the page as text only.
//!
//! **Limits**: 64 pages at once, 500 entries per list, 2000 cameras and devices, ten updates per second
//! and camera, three seconds for MongoDB to answer (then 503). Loopback only, and only under loopback
//! names: a page of another site cannot read this one through a name that points here.

mod api;
mod assets;
pub mod books;
pub mod error;
pub mod events;
pub mod fleet;
mod health;
mod images;
pub mod live;
pub mod membership;
mod metrics;
pub mod pairing;
pub mod pending;
mod settings;
pub mod views;

use std::future::{Future, IntoFuture};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use mongodb::Database;
use object_store::ObjectStore;
use picket_service::metrics::Render;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use error::WebError;
use live::Live;
pub use membership::{GroupState, Membership};
pub use metrics::METRICS;
pub use settings::Settings;

/// How long open requests may take to end after the program was asked to stop.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What the pages are made from.
pub struct WebContext {
    /// The collections.
    pub database: Database,
    /// The pictures.
    pub images: Arc<dyn ObjectStore>,
    /// Tells the place in the consumer group.
    pub membership: Membership,
    /// Renders `/metrics`.
    pub render_metrics: Render,
    /// Version of the program.
    pub version: &'static str,
}

struct Shared {
    database: Database,
    images: Arc<dyn ObjectStore>,
    membership: Membership,
    render_metrics: Render,
    version: &'static str,
    live: Live,
    viewers: Arc<Semaphore>,
}

/// Becomes true when the server stops: live feeds never end by themselves.
#[derive(Clone)]
struct Closing(watch::Receiver<bool>);

/// All routes. Starts the live feed, which ends with the router; needs a running runtime.
pub fn router(context: WebContext) -> Router {
    let live = Live::start(&context.database);
    let shared = Arc::new(Shared {
        database: context.database,
        images: context.images,
        membership: context.membership,
        render_metrics: context.render_metrics,
        version: context.version,
        live,
        viewers: Arc::new(Semaphore::new(events::MOST_VIEWERS)),
    });
    Router::new()
        .route("/", get(assets::page))
        .route("/app.js", get(assets::script))
        .route("/view.js", get(assets::view_script))
        .route("/style.css", get(assets::style))
        .route("/icon.svg", get(assets::icon))
        .route("/api/cameras", get(api::cameras))
        .route("/api/devices", get(api::devices))
        .route("/api/tracks", get(api::tracks))
        .route("/api/observations", get(api::observations))
        .route("/api/observations/{device}/{camera}/{epoch}/{seq}", get(api::observation))
        .route("/api/books", get(api::books))
        .route("/api/summary", get(api::summary))
        .route("/api/events", get(events::events))
        .route("/images/{device}/{camera}/{epoch}/{file}", get(images::image))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(async || WebError::Missing("page"))
        .with_state(shared)
        .layer(from_fn(guard))
        .layer(from_fn(count))
}

/// Serves until `shutdown` is over, then lets open requests end within a limit.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (close, closing) = watch::channel(false);
    let router = router.layer(Extension(Closing(closing.clone())));
    let mut graceful = closing;
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async move { drop(graceful.wait_for(|closing| *closing).await) });
    let limit = async move {
        shutdown.await;
        close.send_replace(true);
        tokio::time::sleep(CLOSE_WITHIN).await;
    };
    tokio::select! {
        result = server.into_future() => result,
        () = limit => {
            tracing::warn!(target: "web", "a request did not end in time and is cut off");
            Ok(())
        }
    }
}

/// Names under which this machine reaches itself. Any other comes from a page of another site whose
/// name was made to point here, and would read what it may not.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses foreign hosts, and tells browsers what this page may do: load from here, nothing else.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = match host {
        Some(host) if !is_local(host) => {
            let host = host.chars().take(80).collect();
            WebError::ForeignHost(host).into_response()
        }
        _ => next.run(request).await,
    };
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A label of few values: paths hold ids.
fn route_of(path: &str) -> &'static str {
    const ROUTES: [&str; 11] = [
        "/api/cameras",
        "/api/devices",
        "/api/tracks",
        "/api/observations",
        "/api/books",
        "/api/summary",
        "/api/events",
        "/images",
        "/metrics",
        "/healthz",
        "/readyz",
    ];
    let is_of = |route: &&&str| {
        path.strip_prefix(**route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    ROUTES.iter().find(is_of).copied().unwrap_or("page")
}

async fn count(request: Request, next: Next) -> Response {
    let route = route_of(request.uri().path());
    let began = Instant::now();
    let response = next.run(request).await;
    metrics::answered(route, response.status().as_u16(), began.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.0.0.1", "[::1]:8080"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example:8080", "192.168.1.4:8080", "[::2]"]
        {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_path_with_an_id_counts_under_its_route() {
        assert_eq!(route_of("/images/gate/north/3-0000000a/1.jpg"), "/images");
        assert_eq!(route_of("/api/tracks"), "/api/tracks");
        assert_eq!(route_of("/imagesx"), "page");
    }
}
