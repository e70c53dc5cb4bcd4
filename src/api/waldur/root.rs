//! `/api/`, `/api/version/` and the OpenAPI document.

use serde_json::{Map, Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::links::COLLECTIONS;
use crate::http::{Request, Response};

/// The methods of what everybody may read.
const ALLOW: &str = "GET, HEAD, OPTIONS";

/// Every collection with its URL, in alphabetical order.
pub fn root(context: &Context) -> ApiResult {
    context.methods(&[("GET", &|| {
        let entry = |name: &str| (name.to_string(), Value::String(context.url(&format!("/api/{name}/"))));
        let collections: Map<String, Value> = COLLECTIONS.into_iter().map(entry).collect();
        Ok(Response::json(200, &Value::Object(collections)))
    })])
}

/// Anybody may ask which version this is.
pub fn version(request: &Request) -> ApiResult {
    get_only(request)?;
    Ok(Response::json(200, &json!({"version": env!("CARGO_PKG_VERSION")})).with_header("Allow", ALLOW))
}

/// The description of this API in OpenAPI 3.1, as it is kept beside the code and checked by a test.
pub fn openapi(request: &Request) -> ApiResult {
    get_only(request)?;
    let body = include_bytes!("../openapi.json").to_vec();
    let response = Response { status: 200, headers: vec![("Content-Type".into(), "application/json".into())], body };
    Ok(response.with_header("Allow", ALLOW))
}

fn get_only(request: &Request) -> Result<(), ApiError> {
    match request.method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => Ok(()),
        other => Err(ApiError::detail(405, format!("Method \"{other}\" not allowed.")).with_header("Allow", ALLOW.into())),
    }
}
