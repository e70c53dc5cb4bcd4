//! Which versions there are: clients ask this before they log in.

use serde_json::{Value, json};

use super::Context;
use super::fault::IdentityResult;
use crate::http::Response;

/// The newest version of Keystone's API, whose requests are understood here as far as they are offered.
const VERSION: &str = "v3.14";
const UPDATED: &str = "2020-04-07T00:00:00Z";

/// 300: a choice, though of one.
pub fn versions(context: &Context) -> IdentityResult {
    Ok(Response::json(300, &json!({"versions": {"values": [describe(context)]}})))
}

pub fn version(context: &Context) -> IdentityResult {
    Ok(Response::json(200, &json!({"version": describe(context)})))
}

fn describe(context: &Context) -> Value {
    json!({
        "id": VERSION,
        "status": "stable",
        "updated": UPDATED,
        "links": [{"rel": "self", "href": context.url("/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}
