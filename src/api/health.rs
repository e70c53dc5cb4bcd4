//! `/healthz`: can the daemon answer, and can it read its coffer? No credentials, no details.

use std::sync::Arc;

use serde_json::json;

use crate::app::App;
use crate::catalog::meta;
use crate::http::{Request, Response};

pub fn healthz(app: &Arc<App>, request: &Request) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Response::json(405, &json!({"detail": format!("Method \"{}\" not allowed.", request.method)}))
            .with_header("Allow", "GET, HEAD");
    }
    match app.db.read(|c| meta::get(c, meta::COFFER_UUID)) {
        Ok(Some(_)) => Response::json(200, &json!({"status": "ok"})),
        Ok(None) | Err(_) => Response::json(503, &json!({"status": "the coffer cannot be read"})),
    }
}
