//! What the API is: its versions (Cinder contract 3.1). Needs no token, because clients ask before they have one.

use serde_json::json;

use super::microversion::Microversion;
use crate::http::Response;

pub fn versions(base: &str, status: u16) -> Response {
    let entry = json!({
        "id": "v3.0",
        "status": "CURRENT",
        "version": Microversion::MAX.to_string(),
        "min_version": Microversion::MIN.to_string(),
        "updated": "2026-11-01T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": format!("{base}/v3/")},
        ],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    });
    Response::json(status, &json!({"versions": [entry]}))
}
