//! `/ops/`: what the administrator of the host does and the dialects have no words for. Staff only; conventions and error
//! shapes are Waldur's. Long work answers 202 with a task to ask about.

mod copies;
mod inspect;
mod repositories;
mod space;
mod tasks;
mod tokens;
mod users;
mod volume_backups;
mod volumes;

use std::sync::Arc;

use serde_json::{Value, json};

use super::text::timestamp;
use super::waldur::context::{ApiResult, Context};
use super::waldur::error::ApiError;
use super::waldur::{finish, identify};
use crate::app::App;
use crate::catalog::{list, meta};
use crate::clock;
use crate::http::{Request, Response};

/// Answers a request below `/ops/`; `rest` are the path's segments after it.
pub fn handle(app: &Arc<App>, request: &Request, rest: &[&str]) -> Response {
    finish(identify(app, request).and_then(|context| {
        context.staff_only()?;
        route(&context, rest)
    }))
}

fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        ["status"] => context.methods(&[("GET", &|| status(context))]),
        ["stats"] => context.methods(&[("GET", &|| stats(context))]),
        ["space", rest @ ..] => space::route(context, rest),
        ["inspect"] => context.methods(&[("GET", &|| inspect::inspect(context))]),
        ["copies"] => context.methods(&[("GET", &|| copies::list(context))]),
        ["replicate"] => context.methods(&[("POST", &|| copies::replicate(context))]),
        ["repositories", rest @ ..] => repositories::route(context, rest),
        ["tokens", rest @ ..] => tokens::route(context, rest),
        ["users", user, rest @ ..] => users::route(context, user, rest),
        ["volume-backups", rest @ ..] => volume_backups::route(context, rest),
        ["volumes", rest @ ..] => volumes::route(context, rest),
        ["restores"] => context.methods(&[("POST", &|| tasks::restore(context))]),
        ["check"] => context.methods(&[("POST", &|| tasks::check(context))]),
        ["scrub"] => context.methods(&[("POST", &|| tasks::scrub(context))]),
        ["gc"] => context.methods(&[("POST", &|| tasks::gc(context))]),
        ["snapshot"] => context.methods(&[("POST", &|| tasks::snapshot(context))]),
        ["tasks", id] => context.methods(&[("GET", &|| tasks::show(context, id))]),
        _ => Err(ApiError::not_found()),
    }
}

fn status(context: &Context) -> ApiResult {
    let app = context.app;
    let coffer = context.read(|c| Ok(meta::get(c, meta::COFFER_UUID)?))?;
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "coffer": app.db.path(),
        "coffer_uuid": coffer,
        "pid": std::process::id(),
        "started": timestamp(app.started),
        "timezone": app.config().timezone.name(),
        "listening": app.listening.get().map_or(&[][..], Vec::as_slice),
        "jobs": app.engine.running_count(),
        "timer_age_s": app.timer_heartbeat().as_secs(),
        "clock_doubted": app.engine.clock.doubt().map(|doubt| json!({
            "ahead_s": doubt.ahead.as_secs(),
            "confirmed": timestamp(app.engine.clock.confirmed_ms()),
            "left_s": doubt.left.as_secs(),
        })),
    });
    Ok(Response::json(200, &body))
}

/// Sizes in bytes.
fn stats(context: &Context) -> ApiResult {
    let space = context.app.engine.space()?;
    let store = context.app.store.stats()?;
    let body = context.read(|c| {
        let nothing = list::Filter::default();
        let number = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0));
        Ok(json!({
            "backups": number("SELECT count(*) FROM backup WHERE kind <> 'snapshot'")?,
            "snapshots": number("SELECT count(*) FROM backup WHERE kind = 'snapshot'")?,
            "instances": list::count(c, "instance", &nothing)?,
            "volumes": list::count(c, "volume", &nothing)?,
            "schedules": list::count(c, "schedule", &nothing)?,
            "logical_bytes": number("SELECT ifnull(sum(size), 0) FROM volume_backup WHERE map_id IS NOT NULL")?,
        }))
    })?;
    let mut body = body;
    let app = context.app;
    let every = app.config().scrub.every;
    let oldest = app.store.scrub_oldest()?;
    let store = json!({
        "data_bytes": space.data(),
        "unique_bytes": space.all().raw,
        "stored_bytes": store.stored_bytes,
        // Also what a backup that is being made has stored so far.
        "dead_bytes": store.stored_bytes.saturating_sub(space.all().stored),
        "file_bytes": store.pages * store.page_size,
        "free_bytes": store.free_pages * store.page_size,
        "packs": store.packs,
        "chunks": store.chunks,
        "segments": store.segments,
        "volume_maps": store.maps,
        "index_bytes": store.index_bytes,
        "scrub_oldest": oldest.filter(|at| *at > 0).map(timestamp),
        "scrub_due_bytes": app.store.scrub_due_bytes(clock::now_ms() - every.as_millis() as i64)?,
    });
    if let (Value::Object(body), Value::Object(store)) = (&mut body, store) {
        body.extend(store);
    }
    Ok(Response::json(200, &body))
}
