//! `/types`: the one kind of volume there is (Cinder contract 4.2).

use serde_json::{Value, json};

use super::body::Object;
use super::context::{CinderResult, Context};
use super::error::CinderError;
use crate::api::text::parse_uuid;
use crate::http::Response;

pub const NAME: &str = "__DEFAULT__";
/// A constant, so that it stays the same over restarts and hosts.
pub const ID: &str = "7a8c5d8e-3c6f-4e3a-9d3f-c0ffe4d00001";

pub fn route(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", []) => {
            let filtered = context.query.iter().any(|(name, value)| match name.as_str() {
                "is_public" => matches!(super::body::boolean_word(value), Some(false)),
                "name" => value != NAME,
                _ => false,
            });
            let types: Vec<Value> = (!filtered).then(|| view(context)).into_iter().collect();
            Ok(Response::json(200, &json!({"volume_types": types})))
        }
        ("GET", ["default"]) => Ok(Response::json(200, &json!({"volume_type": view(context)}))),
        ("GET", [id]) if is_ours(super::member(id)) => Ok(Response::json(200, &json!({"volume_type": view(context)}))),
        ("GET", [id, "extra_specs"]) if is_ours(id) => Ok(Response::json(200, &json!({"extra_specs": {}}))),
        ("GET", [id]) => Err(CinderError::no_such("Volume type", super::member(id))),
        _ => Err(CinderError::not_found()),
    }
}

fn is_ours(id: &str) -> bool {
    parse_uuid(id).is_some() && parse_uuid(id) == parse_uuid(ID)
}

fn view(context: &Context) -> Value {
    let mut view = json!({
        "id": ID,
        "name": NAME,
        "description": "Sparse raw file or registered disk",
        "is_public": true,
        "os-volume-type-access:is_public": true,
        "extra_specs": {},
    });
    if context.is_admin() {
        view["qos_specs_id"] = Value::Null;
    }
    view
}

/// The type that a new volume is asked to have, by name or id.
pub fn check(fields: &Object) -> Result<(), CinderError> {
    match fields.text("volume_type")?.flatten() {
        Some(wanted) if wanted != NAME && !is_ours(&wanted) => Err(CinderError::no_such("Volume type", &wanted)),
        _ => Ok(()),
    }
}
