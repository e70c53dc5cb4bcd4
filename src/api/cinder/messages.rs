//! `/messages` (since 3.3): why something failed, in full; they are the errors of the event log (Cinder contract 4.2).

use rusqlite::Connection;
use serde_json::{Value, json};

use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::wire::{Id, Time};
use crate::api::text::parse_uuid;
use crate::catalog::events::{self, Event};
use crate::catalog::list::{Filter, Page};
use crate::http::Response;

/// The newest, unless fewer are asked for.
const MAX_LIMIT: i64 = 1000;
/// How long a message is kept at least; the log keeps the newest hundred thousand.
const KEPT_MS: i64 = 30 * 86_400_000;

pub fn route(context: &Context, rest: &[&str]) -> CinderResult {
    match rest {
        [] => list(context),
        [id] => context.read(|c| Ok(Response::json(200, &json!({"message": view(context, &find(context, c, id)?)})))),
        _ => Err(CinderError::not_found()),
    }
}

fn visible(context: &Context) -> Filter {
    let mut filter = Filter::default();
    filter.equals("severity", "error".to_string());
    filter.equals("project_id", context.project_id());
    filter
}

fn list(context: &Context) -> CinderResult {
    let limit = match context.param("limit") {
        None => MAX_LIMIT,
        Some(text) => {
            let limit = text.parse().ok().filter(|limit| *limit >= 0);
            limit.ok_or_else(|| CinderError::bad_request(format!("limit: \"{text}\" is no whole number.")))?
        }
    };
    context.read(|c| {
        let mut filter = visible(context);
        if let Some(text) = context.param("resource_uuid") {
            match parse_uuid(text) {
                Some(uuid) => filter.equals("scope", uuid),
                None => filter.nothing(),
            }
        }
        let page = Page { order: "id DESC".into(), limit: limit.min(MAX_LIMIT), offset: 0 };
        let (_, events) = events::list(c, &filter, &page)?;
        let messages: Vec<Value> = events.iter().map(|event| view(context, event)).collect();
        Ok(Response::json(200, &json!({"messages": messages})))
    })
}

fn find(context: &Context, c: &Connection, id: &str) -> Result<Event, CinderError> {
    let missing = || CinderError::no_such("Message", id);
    let number = parse_uuid(id).filter(|uuid| uuid.starts_with(PREFIX)).and_then(|uuid| i64::from_str_radix(&uuid[20..], 16).ok());
    let mut filter = visible(context);
    filter.equals("id", number.ok_or_else(missing)?);
    let (_, mut events) = events::list(c, &filter, &Page { order: "id".into(), limit: 1, offset: 0 })?;
    events.pop().ok_or_else(missing)
}

/// An event's number in the shape of a UUID.
const PREFIX: &str = "00000000000040008000";

fn view(context: &Context, event: &Event) -> Value {
    let uuid = format!("{PREFIX}{:012x}", event.id);
    let resource_type = match () {
        () if event.kind.contains("_backup_") => "VOLUME_BACKUP",
        () if event.kind.contains("_snapshot_") => "VOLUME_SNAPSHOT",
        () => "VOLUME",
    };
    json!({
        "id": Id(&uuid),
        "event_id": event.kind,
        "message_level": "ERROR",
        "user_message": event.message,
        "request_id": format!("req-{}", Id(&uuid)),
        "resource_type": resource_type,
        "resource_uuid": Id(&event.scope),
        "created_at": Time(event.created),
        "guaranteed_until": Time(event.created + KEPT_MS),
        "links": context.links("messages", &uuid),
    })
}
