//! Places for objects that the configuration names: which there are, and whether they work.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::tasks;
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::catalog::repositories::{self, Holdings};
use crate::http::Response;
use crate::objects::{self, Cancel, Settings, Step};

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context))]),
        [name] => context.methods(&[("GET", &|| show(context, name))]),
        [name, "test"] => context.methods(&[("POST", &|| test(context, name))]),
        [name, "attach"] => context.methods(&[("POST", &|| attach(context, name))]),
        _ => Err(ApiError::not_found()),
    }
}

fn list(context: &Context) -> ApiResult {
    let config = context.app.config();
    let all = config.repositories.iter().map(|(name, settings)| to_json(context, name, settings)).collect::<Result<Vec<_>, _>>()?;
    let count = all.len().to_string();
    Ok(Response::json(200, &Value::Array(all)).with_header("X-Result-Count", count))
}

fn show(context: &Context, name: &str) -> ApiResult {
    Ok(Response::json(200, &to_json(context, name, &find(context, name)?)?))
}

/// Puts a small object there, reads, lists and deletes it; how long each took is the result.
fn test(context: &Context, name: &str) -> ApiResult {
    let settings = find(context, name)?;
    let name = name.to_owned();
    tasks::spawn(context, "repository test", move |_, task| {
        let task = task.clone();
        let cancel: Cancel = Arc::new(move || task.cancel.load(Ordering::Relaxed));
        let objects = objects::open(&settings.impatient()).map_err(|error| error.to_string())?.until(cancel);
        let steps = objects::try_out(&*objects).map_err(|error| error.to_string())?;
        let steps: Vec<Value> = steps.iter().map(Step::to_json).collect();
        Ok(json!({"name": name, "place": settings.place_name(), "steps": steps}))
    })
}

/// Takes the repository over and takes all backups in it into the catalog.
fn attach(context: &Context, name: &str) -> ApiResult {
    find(context, name)?;
    let name = name.to_owned();
    tasks::spawn(context, "repository attach", move |app, task| {
        app.engine.attach(&name, &task.progress, &task.cancel).map_err(|error| error.to_string())
    })
}

fn find(context: &Context, name: &str) -> Result<Settings, ApiError> {
    context.app.config().repositories.get(name).cloned().ok_or_else(ApiError::not_found)
}

fn to_json(context: &Context, name: &str, settings: &Settings) -> Result<Value, ApiError> {
    let holds = context.read(|c| match repositories::by_name(c, name)? {
        Some(row) => Ok(repositories::holdings(c, row.id)?),
        None => Ok(Holdings::default()),
    })?;
    Ok(json!({
        "name": name,
        "kind": settings.kind.as_str(),
        "place": settings.place_name(),
        "prefix": settings.prefix,
        "default": settings.default,
        "connections": settings.connections,
        "upload_bytes_per_second": settings.upload_bytes_per_second,
        "download_bytes_per_second": settings.download_bytes_per_second,
        "copies": settings.copies,
        "backups": holds.backups,
        "backups_copied": holds.copies,
        "packs": holds.packs,
        "stored_bytes": holds.bytes,
        "waiting_bytes": holds.waiting_bytes,
        "trash_objects": holds.trash,
    }))
}
