//! `POST /api-auth/password/`: a user name and a password for a token.

use std::sync::Arc;

use serde_json::json;

use super::context::{ApiResult, describe, parse_body};
use super::error::ApiError;
use super::fields::{Fields, Text};
use crate::api::auth;
use crate::api::proxy::client;
use crate::app::App;
use crate::catalog::users;
use crate::clock;
use crate::http::{Request, Response};

/// Login tokens of one user that stay valid side by side.
const LOGINS_KEPT: i64 = 50;
/// Name of tokens made here.
pub const LOGIN: &str = "login";

pub fn route(app: &Arc<App>, request: &Request) -> ApiResult {
    let answer = match request.method.as_str() {
        "POST" => login(app, request),
        "OPTIONS" => Ok(describe(&["POST"])),
        other => Err(ApiError::detail(405, format!("Method \"{other}\" not allowed."))),
    };
    let allow = "POST, OPTIONS";
    answer.map(|response| response.with_header("Allow", allow)).map_err(|error| error.with_header("Allow", allow.into()))
}

fn login(app: &Arc<App>, request: &Request) -> ApiResult {
    let mut fields = Fields::new(parse_body(request)?, false);
    let username = fields.text("username", &Text::required(128));
    // A password is taken as it is: blanks at its ends belong to it.
    let password = fields.get("password").and_then(|v| v.as_str()).map(str::to_string);
    fields.text("password", &Text::required(1024));
    fields.finish()?;
    let (Some(username), Some(password)) = (username, password) else {
        return Err(ApiError::field("password", "Not a valid string."));
    };
    let peer = client(&app.config(), request);
    let throttled = |seconds: u64| {
        let message = format!("Request was throttled. Expected available in {seconds} seconds.");
        ApiError::detail(429, message).with_header("Retry-After", seconds.to_string())
    };
    app.throttle.check(&username, peer).map_err(throttled)?;
    let _permit = auth::HashPermit::take().ok_or_else(|| {
        ApiError::detail(503, "Too many logins at once; try again in a second.").with_header("Retry-After", "1".into())
    })?;
    let user = app.db.read(|c| users::by_name(c, &username))?;
    let right = auth::verify_password(&password, user.as_ref().and_then(|user| user.password.as_deref()));
    app.throttle.record(&username, peer, right);
    let Some(user) = user.filter(|_| right) else {
        return Err(unauthorized("Invalid username/password"));
    };
    if !user.is_active {
        return Err(unauthorized("User account is disabled"));
    }
    let token = auth::new_token().map_err(|e| ApiError::detail(503, format!("No randomness from the kernel: {e}")))?;
    let now = clock::now_ms();
    let expires = app.config().auth.token_lifetime.map(|life| now.saturating_add(life.as_millis() as i64));
    app.db.write(|tx| {
        users::insert_token(tx, user.id, &auth::token_hash(&token), LOGIN, now, expires)?;
        users::prune_tokens(tx, user.id, LOGIN, LOGINS_KEPT, app.engine.clock.confirmed_ms())
    })?;
    Ok(Response::json(200, &json!({"token": token})))
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::detail(401, message).with_header("WWW-Authenticate", "Token".into())
}
