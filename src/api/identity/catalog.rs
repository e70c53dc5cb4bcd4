//! The service catalog: where the APIs of this daemon are.

use serde_json::{Value, json};

use super::Context;
use super::fault::IdentityResult;
use crate::http::Response;

const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

pub fn show(context: &Context) -> IdentityResult {
    let caller = context.caller()?;
    let scope = context.app.db.read(|c| caller.in_project(c, None))?;
    let body = json!({"catalog": of_project(context, &scope.project.uuid), "links": {"self": context.url("/auth/catalog")}});
    Ok(Response::json(200, &body))
}

/// The catalog in a token for this project. Clients of different ages look for the volume API under different types.
pub fn of_project(context: &Context, project: &str) -> Value {
    let volumes = format!("{}/v3/{project}", context.base);
    let identity = format!("{}/identity/v3", context.base);
    json!([
        service(context, "block-storage", "cinder", &volumes),
        service(context, "volumev3", "cinderv3", &volumes),
        service(context, "identity", "keystone", &identity),
    ])
}

fn service(context: &Context, kind: &str, name: &str, url: &str) -> Value {
    let region = &context.app.config().auth.region;
    let endpoint = |interface: &&str| {
        json!({"id": format!("{kind}-{interface}"), "interface": interface, "region": region, "region_id": region, "url": url})
    };
    json!({"id": kind, "type": kind, "name": name, "endpoints": INTERFACES.iter().map(endpoint).collect::<Vec<_>>()})
}
