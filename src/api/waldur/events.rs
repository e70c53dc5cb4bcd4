//! `/api/events/`: what happened. Users other than staff name the object they ask about.

use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::links::COLLECTIONS;
use super::{links, uuid_segment};
use crate::api::text::{parse_uuid, timestamp};
use crate::catalog::events::{self, Event};
use crate::catalog::list::{Filter, Page};
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context))]),
        ["count"] => context.methods(&[("GET", &|| {
            context.read(|c| Ok(Response::json(200, &json!({"count": events::count(c, &filter(context)?)?}))))
        })]),
        _ => Err(ApiError::not_found()),
    }
}

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let filter = filter(context)?;
        let order = if context.param("o") == Some("created") { "id ASC" } else { "id DESC" };
        let (count, _) = events::list(c, &filter, &Page { order: order.into(), limit: 0, offset: 0 })?;
        let paging = context.page(count, order)?;
        let (_, rows) = events::list(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(to_json).collect()))
    })
}

fn filter(context: &Context) -> Result<Filter, ApiError> {
    let mut filter = Filter::default();
    context.only_visible(&mut filter, "project_id");
    let kinds = context.params("event_type");
    if !kinds.is_empty() {
        filter.one_of("type", kinds.into_iter().map(str::to_string));
    }
    for text in context.params("message") {
        filter.contains("message", text);
    }
    for (name, comparison) in [("created_from", ">="), ("created_to", "<=")] {
        if let Some(text) = context.param(name) {
            let seconds: i64 = text.parse().map_err(|_| ApiError::field(name, "A valid integer is required."))?;
            filter.push(format!("created {comparison} ?"), [SqlValue::Integer(seconds.saturating_mul(1000))]);
        }
    }
    match context.param("scope") {
        Some(scope) => filter.equals("scope", scope_uuid(scope)?),
        None if !context.identity.is_staff() => return Err(ApiError::field("scope", "This field is required.")),
        None => {}
    }
    Ok(filter)
}

fn scope_uuid(scope: &str) -> Result<String, ApiError> {
    if parse_uuid(scope).is_some() {
        return uuid_segment(scope);
    }
    let found = COLLECTIONS.into_iter().find_map(|collection| links::resolve(scope, collection).ok());
    found.ok_or_else(|| ApiError::field("scope", links::NO_MATCH))
}

fn to_json(event: &Event) -> Value {
    let mut body = json!({
        "uuid": format!("{:032x}", event.id),
        "created": timestamp(event.created),
        "@timestamp": timestamp(event.created),
        "event_type": event.kind,
        "importance": event.severity,
        "message": event.message,
    });
    body["context"] = event.context.clone();
    body
}
