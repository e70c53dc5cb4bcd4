//! What a request means. One port serves all dialects; the first part of the path tells which.

pub mod auth;
mod cinder;
#[cfg(fuzzing)]
pub mod fuzz;
mod health;
pub mod identity;
mod ops;
mod proxy;
mod text;
mod waldur;

use std::sync::Arc;

use serde_json::json;

use crate::app::App;
use crate::http::{Handler, Request, Response};

/// The application as the HTTP server's handler.
pub struct Api(pub Arc<App>);

impl Handler for Api {
    fn handle(&self, request: Request) -> Response {
        self.0.handle(request)
    }

    fn refuse(&self, path: &str, status: u16, detail: &str) -> Response {
        match path.split(['/', '?']).nth(1) {
            Some("v3") => cinder::refusal(status, detail),
            Some("identity") => identity::refusal(status, detail),
            _ => Response::json(status, &json!({"detail": detail})),
        }
    }
}

/// Answers one request.
pub fn handle(app: &Arc<App>, request: Request) -> Response {
    let path = request.path.clone();
    let mut segments: Vec<String> = path.split('/').skip(1).map(text::percent_decode).collect();
    if segments.last().is_some_and(String::is_empty) {
        segments.pop(); // with and without the final slash are the same
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["healthz"] => health::healthz(app, &request),
        ["api", rest @ ..] => waldur::handle(app, &request, rest),
        ["api-auth", rest @ ..] => waldur::handle_login(app, &request, rest),
        ["identity", rest @ ..] => identity::handle(app, &request, rest),
        ["ops", rest @ ..] => ops::handle(app, &request, rest),
        [] | ["v3" | "healthcheck", ..] => cinder::handle(app, &request, &segments),
        _ => Response::json(404, &json!({"detail": "Not found."})),
    }
}
