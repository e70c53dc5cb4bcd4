//! What backups take of the coffer, and what deleting them would free. Counting takes some seconds in a large coffer; whoever
//! asks while somebody else does is told to come back (503).

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::uuid_segment;
use crate::catalog::backups::{self, Backup};
use crate::catalog::list::{self, Filter};
use crate::engine::space::{Report, SpaceError};
use crate::http::Response;

/// Backups that one request may ask about together.
const MOST: usize = 10_000;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| freed(context))]),
        [uuid] => context.methods(&[("GET", &|| show(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

impl From<SpaceError> for ApiError {
    fn from(error: SpaceError) -> ApiError {
        match error {
            SpaceError::Busy => ApiError::detail(503, "The space is being counted; ask again in a moment.").with_header("Retry-After", "1".into()),
            SpaceError::Store(error) => error.into(),
        }
    }
}

fn find(c: &Connection, uuid: &str) -> Result<Backup, ApiError> {
    backups::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)
}

/// All backups and snapshots, of instances and of volumes alone, oldest first.
fn list(context: &Context) -> ApiResult {
    let report = context.app.engine.space()?;
    context.read(|c| {
        let all = Filter::default();
        let paging = context.page(list::count(c, "backup", &all)?, "b.id")?;
        let items = backups::rows(c, &all, &paging.page)?.iter().map(|backup| to_json(&report, backup)).collect();
        Ok(context.list(&paging, items))
    })
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    let backup = context.read(|c| find(c, uuid))?;
    Ok(Response::json(200, &to_json(&*context.app.engine.space()?, &backup)))
}

/// {backups: [uuid, ...]}: what deleting them together would free. Nothing is deleted.
fn freed(context: &Context) -> ApiResult {
    let fields = context.fields(false)?;
    let refuse = |message: &str| ApiError::field("backups", message);
    let Some(Value::Array(uuids)) = fields.get("backups") else { return Err(refuse("A list of uuids is required.")) };
    if !(1..=MOST).contains(&uuids.len()) {
        return Err(refuse(&format!("From 1 to {MOST} uuids are required.")));
    }
    let found = context.read(|c| {
        uuids
            .iter()
            .map(|uuid| find(c, uuid.as_str().unwrap_or_default()).map_err(|_| refuse(&format!("There is no backup {uuid}."))))
            .collect::<Result<Vec<Backup>, ApiError>>()
    })?;
    let mut ids: Vec<i64> = found.iter().map(|backup| backup.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let freed = context.app.engine.freed_by(&ids)?;
    Ok(Response::json(200, &json!({"backups": ids.len(), "unique_bytes": freed.raw, "exclusive_bytes": freed.stored})))
}

fn to_json(report: &Report, backup: &Backup) -> Value {
    let share = report.of(backup.id);
    json!({
        "uuid": backup.uuid,
        "logical_bytes": backup.size,
        "data_bytes": share.data,
        "stored_bytes": backup.stored,
        "unique_bytes": share.exclusive.raw,
        "exclusive_bytes": share.exclusive.stored,
    })
}
