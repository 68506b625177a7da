//! The page's own files, part of the program: plain HTML, CSS and JavaScript, no build step, nothing
//! from elsewhere.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// Asked for anew each time, so that a page after an upgrade is of one piece.
const CACHE: &str = "no-cache";

fn file(content_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, CACHE)], content)
        .into_response()
}

pub(super) async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("assets/index.html"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("assets/app.js"))
}

pub(super) async fn view_script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("assets/view.js"))
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("assets/style.css"))
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", include_str!("assets/icon.svg"))
}
