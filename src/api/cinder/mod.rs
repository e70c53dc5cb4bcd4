//! The Cinder v3 dialect: `/`, `/v3` and `/v3/{project_id}`. One file a resource, as the URL tree has it.

mod admin_actions;
mod backups;
mod body;
mod context;
mod error;
mod extensions;
mod limits;
mod listing;
mod messages;
mod metadata;
mod microversion;
mod quotas;
mod records;
#[cfg(fuzzing)]
pub use {body::fuzz as fuzz_body, microversion::Microversion as Version, records::fuzz as fuzz_record};
mod resource_filters;
mod services;
mod snapshots;
mod types;
mod versions;
mod volume_actions;
mod volume_create;
mod volume_view;
mod volumes;
mod wire;

use std::sync::Arc;

use crate::api::auth::openstack::{self, CallerError, Level, ScopeError};
use crate::api::proxy::base_url;
use crate::api::identity;
use crate::api::text::parse_uuid;
use crate::app::App;
use crate::catalog::dashed;
use crate::http::{Request, Response};
use body::Object;
use context::{CinderResult, Context};
use error::CinderError;
use microversion::Microversion;

/// What can follow `/v3`; anything else there is a project.
const RESOURCES: [&str; 13] = [
    "backups",
    "volumes",
    "snapshots",
    "types",
    "os-quota-sets",
    "os-quota-class-sets",
    "limits",
    "os-availability-zone",
    "os-services",
    "resource_filters",
    "messages",
    "extensions",
    "scheduler-stats",
];

/// Answers a request for `/` or below `/v3`; `segments` are those of the whole path.
pub fn handle(app: &Arc<App>, request: &Request, segments: &[&str]) -> Response {
    let version = Microversion::from_header(request.header("openstack-api-version"));
    let echoed = *version.as_ref().unwrap_or(&Microversion::MIN);
    let response = match version {
        Ok(version) => answer(app, request, segments, version),
        Err(error) => error.into_response(),
    };
    labelled(response, echoed)
}

/// The answer to a request that came no further than to the gate.
pub fn refusal(status: u16, message: &str) -> Response {
    labelled(CinderError::new(status, message).into_response(), Microversion::MIN)
}

/// What each answer has.
fn labelled(response: Response, version: Microversion) -> Response {
    let id = format!("req-{}", uuid::Uuid::new_v4());
    response
        .with_header("x-openstack-request-id", id.as_str())
        .with_header("x-compute-request-id", id.as_str())
        .with_header("OpenStack-API-Version", format!("volume {version}"))
        .with_header("Vary", "OpenStack-API-Version")
}

fn answer(app: &Arc<App>, request: &Request, segments: &[&str], version: Microversion) -> Response {
    let base = base_url(app, request);
    match (request.method.as_str(), segments) {
        ("GET", []) => return versions::versions(&base, 300),
        ("GET", ["v3"]) => return versions::versions(&base, 200),
        ("GET", ["healthcheck"]) => return Response::json(200, &serde_json::json!({"status": "ok"})),
        _ => {}
    }
    let rest = match segments {
        ["v3", rest @ ..] if !request.path.ends_with('/') => rest,
        _ => return CinderError::not_found().into_response(),
    };
    let (project, rest) = match rest {
        [resource, ..] if RESOURCES.contains(resource) => (None, rest),
        [project, rest @ ..] => (Some(*project), rest),
        [] => (None, rest),
    };
    match context(app, request, version, base, project) {
        Ok(context) => route(&context, rest).unwrap_or_else(CinderError::into_response),
        Err(response) => response,
    }
}

/// Who asks, and in which project; or the answer to somebody who must not know more.
fn context<'a>(
    app: &'a Arc<App>,
    request: &'a Request,
    version: Microversion,
    base: String,
    project: Option<&str>,
) -> Result<Context<'a>, Response> {
    let caller = openstack::authenticate(app, request).map_err(|error| match error {
        CallerError::Unauthorized(message) => identity::unauthorized(app, request, &message),
        CallerError::Busy(seconds) => CinderError::throttled(seconds).into_response(),
        CallerError::Catalog(error) => CinderError::from(error).into_response(),
    })?;
    let scope = app.db.read(|c| caller.in_project(c, project)).map_err(|error| match error {
        ScopeError::Mismatch(message) => CinderError::bad_request(message).into_response(),
        ScopeError::NoRole(message) => CinderError::forbidden(message).into_response(),
        ScopeError::Catalog(error) => CinderError::from(error).into_response(),
    })?;
    Ok(Context::new(app, request, version, caller, scope, base, project))
}

fn route(context: &Context, rest: &[&str]) -> CinderResult {
    context.needs(Level::Reader)?;
    let method = context.request.method.as_str();
    match rest {
        ["backups", rest @ ..] => backups::route(context, method, rest),
        ["volumes", rest @ ..] => volumes::route(context, method, rest),
        ["snapshots", rest @ ..] => snapshots::route(context, method, rest),
        ["types", rest @ ..] => types::route(context, method, rest),
        ["os-quota-sets", rest @ ..] => quotas::route(context, method, rest),
        ["os-quota-class-sets", rest @ ..] => quotas::route_classes(context, method, rest),
        ["limits"] if method == "GET" => limits::show(context),
        ["os-availability-zone"] if method == "GET" => services::zones(context),
        ["os-services"] if method == "GET" => services::list(context),
        ["resource_filters"] if method == "GET" && context.since(33) => resource_filters::list(context),
        ["messages", rest @ ..] if method == "GET" && context.since(3) => messages::route(context, rest),
        ["extensions", rest @ ..] if method == "GET" => extensions::route(rest),
        _ => Err(CinderError::not_found()),
    }
}

/// The id in the last segment of a member's URL, which may end in `.json`.
fn member(segment: &str) -> &str {
    segment.strip_suffix(".json").unwrap_or(segment)
}

/// An id that was found, as we write it.
fn canonical(id: &str) -> String {
    parse_uuid(id).map_or_else(|| id.to_string(), |uuid| dashed(&uuid))
}

/// The one key of an action's body.
fn single_action(body: &Object) -> Result<String, CinderError> {
    let mut keys = body.keys();
    match (keys.next(), keys.next()) {
        (Some(action), None) => Ok(action.to_string()),
        _ => Err(CinderError::bad_request("The body of an action is an object with exactly one key, the action.")),
    }
}
