//! `/healthz`: can the daemon answer, read its coffer, and write to it? No credentials, no details. What it says of writing is what
//! came of the last change, so asking costs no write.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::catalog::meta;
use crate::http::{Request, Response};

/// A change that takes longer is taken for stuck.
const STUCK: Duration = Duration::from_secs(60);

pub fn healthz(app: &Arc<App>, request: &Request) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Response::json(405, &json!({"detail": format!("Method \"{}\" not allowed.", request.method)}))
            .with_header("Allow", "GET, HEAD");
    }
    // For a watchdog: starting anew mends no disk.
    let reads_only = request.query == "reads";
    let status = match app.db.read(|c| meta::get(c, meta::COFFER_UUID)) {
        Ok(None) | Err(_) => "the coffer cannot be read",
        Ok(Some(_)) if !reads_only && app.db.is_failing() => "the coffer cannot be written",
        Ok(Some(_)) if !reads_only && app.db.busy() > STUCK => "writing to the coffer does not come to an end",
        Ok(Some(_)) => return Response::json(200, &json!({"status": "ok"})),
    };
    Response::json(503, &json!({"status": status}))
}
