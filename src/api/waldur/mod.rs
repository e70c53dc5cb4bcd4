//! The NodeConductor/Waldur dialect: `/api/` and `/api-auth/`. One file a resource, as the URL tree has it.

mod backups;
pub mod context;
pub mod error;
mod events;
pub mod fields;
mod flavors;
mod images;
pub mod instances;
pub mod links;
mod listing;
mod login;
mod permissions;
mod projects;
mod quotas;
mod root;
mod schedules;
mod users;

use std::sync::Arc;

use crate::api::auth;
use crate::api::text::parse_uuid;
use crate::app::App;
use crate::http::{Request, Response};
use context::{ApiResult, Context};
use error::ApiError;

/// Each may become a condition of a list, and SQLite's expressions have a depth.
const MAX_PARAMETERS: usize = 200;

/// Answers a request below `/api/`; `rest` are the path's segments after it.
pub fn handle(app: &Arc<App>, request: &Request, rest: &[&str]) -> Response {
    let result = match rest {
        ["version"] => root::version(request),
        ["openapi.json"] => root::openapi(request),
        _ => identify(app, request).and_then(|context| route(&context, rest)),
    };
    finish(result)
}

/// Answers a request below `/api-auth/`.
pub fn handle_login(app: &Arc<App>, request: &Request, rest: &[&str]) -> Response {
    finish(match rest {
        ["password"] => login::route(app, request),
        _ => Err(ApiError::not_found()),
    })
}

/// Authentication comes before everything else, even before the method is looked at.
pub fn identify<'a>(app: &'a Arc<App>, request: &'a Request) -> Result<Context<'a>, ApiError> {
    let query_token = match app.config().http.query_token {
        true => crate::api::text::form_pairs(&request.query).into_iter().find(|(key, _)| key == "x-auth-token").map(|(_, value)| value),
        false => None,
    };
    let identity = app.db.read(|c| auth::authenticate(c, request, query_token.as_deref()))?;
    let context = Context::new(app, request, identity);
    if context.query.len() > MAX_PARAMETERS {
        return Err(ApiError::detail(400, format!("Too many query parameters; at most {MAX_PARAMETERS} are taken.")));
    }
    Ok(context)
}

fn route(context: &Context, rest: &[&str]) -> ApiResult {
    let Some((first, rest)) = rest.split_first() else { return root::root(context) };
    match links::collection(first) {
        Some(links::BACKUPS) => backups::route(context, rest),
        Some(links::SCHEDULES) => schedules::route(context, rest),
        Some(links::INSTANCES) => instances::route(context, rest),
        Some(links::IMAGES) => images::route(context, rest),
        Some(links::FLAVORS) => flavors::route(context, rest),
        Some(links::USERS) => users::route(context, rest),
        Some(links::PROJECTS) => projects::route(context, rest),
        Some(links::CUSTOMERS) => projects::route_customers(context, rest),
        Some(links::QUOTAS) => quotas::route(context, rest),
        Some(links::PROJECT_PERMISSIONS) => permissions::route(context, rest, permissions::Scope::Project),
        Some(links::CUSTOMER_PERMISSIONS) => permissions::route(context, rest, permissions::Scope::Customer),
        Some(links::EVENTS) => events::route(context, rest),
        _ => Err(ApiError::not_found()),
    }
}

pub fn finish(result: ApiResult) -> Response {
    result.unwrap_or_else(ApiError::into_response).with_header("Vary", "Accept")
}

/// A uuid from a path, in any spelling; what is none is not there.
pub fn uuid_segment(segment: &str) -> Result<String, ApiError> {
    parse_uuid(segment).ok_or_else(ApiError::not_found)
}
