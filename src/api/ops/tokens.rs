//! Tokens: made, listed without their secret, revoked.

use serde_json::{Value, json};

use crate::api::auth;
use crate::api::text::timestamp;
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::fields::Text;
use crate::catalog::users::{self, Token};
use crate::clock;
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| create(context))]),
        [id] => context.methods(&[("DELETE", &|| revoke(context, id))]),
        _ => Err(ApiError::not_found()),
    }
}

fn list(context: &Context) -> ApiResult {
    let tokens = context.read(|c| Ok(users::tokens(c, context.param("user"))?))?;
    Ok(Response::json(200, &Value::Array(tokens.iter().map(to_json).collect())).with_header("X-Result-Count", tokens.len().to_string()))
}

/// {user, name, lifetime_h}: the answer is the only time that the token is shown. Lifetime in hours, 0 is for ever.
fn create(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let username = fields.text("user", &Text::required(128)).unwrap_or_default();
    let name = fields.text("name", &Text::optional(150)).unwrap_or_default();
    let hours = fields.integer("lifetime_h", false, 0, 1_000_000);
    let secret = auth::new_token().map_err(|e| ApiError::detail(503, format!("No randomness from the kernel: {e}")))?;
    let configured = context.app.config().auth.token_lifetime.map(|life| life.as_millis() as i64);
    let lifetime = match hours {
        Some(0) => None,
        Some(hours) => Some(hours * 3_600_000),
        None => configured,
    };
    context.write(|tx| {
        let user = users::by_name(tx, &username)?;
        if user.is_none() && !username.is_empty() {
            fields.error("user", format!("There is no user \"{username}\"."));
        }
        fields.finish()?;
        let user = user.ok_or_else(ApiError::not_found)?;
        let now = clock::now_ms();
        let expires = lifetime.map(|life| now.saturating_add(life));
        let id = users::insert_token(tx, user.id, &auth::token_hash(&secret), &name, now, expires)?;
        let mut body = to_json(&Token { id, username: user.username, name: name.clone(), created: now, expires });
        body["token"] = json!(secret);
        Ok(Response::json(201, &body))
    })
}

fn revoke(context: &Context, id: &str) -> ApiResult {
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    let gone = context.write(|tx| Ok(users::delete_token(tx, id)?))?;
    if gone { Ok(Response::empty(204)) } else { Err(ApiError::not_found()) }
}

fn to_json(token: &Token) -> Value {
    json!({"id": token.id, "user": token.username, "name": token.name, "created": timestamp(token.created),
        "expires": token.expires.map(timestamp)})
}
