//! `/os-quota-sets/{project}` and `/os-quota-class-sets/{class}`: limits of projects, and of those that have none of their own
//! (Cinder contract 4.2). They are the same limits that Waldur's face shows.

use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use crate::api::text::parse_uuid;
use crate::catalog::projects::{self, Project, Quota};
use crate::http::Response;
use crate::model::quota::{QuotaName, UNLIMITED};

const MAX_LIMIT: i64 = i32::MAX as i64;
/// The one quota class.
const CLASS: &str = "default";

pub fn route(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", [project]) => show(context, project),
        ("GET", [project, "defaults"]) => context.read(|c| {
            let project = find(context, c, project)?;
            let mut set = defaults(c)?;
            set.insert("id".into(), project.uuid.into());
            Ok(Response::json(200, &json!({"quota_set": set})))
        }),
        ("PUT", [project]) => update(context, project),
        ("DELETE", [project]) => {
            context.admin_only()?;
            context.write(|tx| {
                let project = find(context, tx, project)?;
                projects::clear_limits(tx, project.id, QuotaName::of_cinder())?;
                Ok(Response::empty(200))
            })
        }
        _ => Err(CinderError::not_found()),
    }
}

pub fn route_classes(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", [class]) => context.read(|c| {
            let mut set = defaults(c)?;
            set.insert("id".into(), Value::from(*class));
            Ok(Response::json(200, &json!({"quota_class_set": set})))
        }),
        ("PUT", [class]) => update_class(context, class),
        _ => Err(CinderError::not_found()),
    }
}

/// The caller's own project, or for administrators any.
fn find(context: &Context, c: &Connection, id: &str) -> Result<Project, CinderError> {
    let id = super::member(id);
    if let Some(uuid) = parse_uuid(id) {
        if uuid != context.project_uuid() && !context.is_admin() {
            return Err(CinderError::forbidden("The quotas of other projects are for administrators."));
        }
        if let Some(project) = projects::get(c, &uuid)? {
            return Ok(project);
        }
    }
    let own = projects::by_id(c, context.project_id())?;
    if own.name == id { Ok(own) } else { Err(CinderError::no_such("Project", id)) }
}

fn defaults(c: &Connection) -> Result<Map<String, Value>, CinderError> {
    let limit = |name: QuotaName| Ok((name.as_str().to_string(), Value::from(projects::default_limit(c, name)?)));
    QuotaName::of_cinder().map(limit).collect()
}

fn of_project(c: &Connection, project: &Project) -> Result<Vec<Quota>, CinderError> {
    let mut quotas = projects::quotas(c, project)?;
    quotas.retain(|quota| QuotaName::of_cinder().any(|name| name == quota.standing.name));
    Ok(quotas)
}

fn show(context: &Context, id: &str) -> CinderResult {
    let usage = context.flag("usage")?;
    context.read(|c| {
        let project = find(context, c, id)?;
        let mut set = Map::new();
        for quota in of_project(c, &project)? {
            let standing = quota.standing;
            let value = match usage {
                true => json!({"limit": standing.limit, "in_use": standing.usage, "reserved": 0}),
                false => Value::from(standing.limit),
            };
            set.insert(standing.name.as_str().into(), value);
        }
        set.insert("id".into(), project.uuid.into());
        Ok(Response::json(200, &json!({"quota_set": set})))
    })
}

/// The limits that a body sets; all of them are right before any is set.
fn limits(fields: &Object) -> Result<Vec<(QuotaName, i64)>, CinderError> {
    let mut limits = Vec::new();
    for key in fields.keys().filter(|key| *key != "tenant_id") {
        let name = QuotaName::from_stored(key).filter(|name| QuotaName::of_cinder().any(|known| known == *name));
        let name = name.ok_or_else(|| CinderError::bad_request(format!("\"{key}\" is no quota.")))?;
        let limit = fields.integer(key)?.filter(|limit| (UNLIMITED..=MAX_LIMIT).contains(limit));
        let limit = limit.ok_or_else(|| CinderError::bad_request(format!("{key}: a whole number from {UNLIMITED} to {MAX_LIMIT} is required.")))?;
        limits.push((name, limit));
    }
    if limits.is_empty() {
        return Err(CinderError::bad_request("There is no limit to set."));
    }
    Ok(limits)
}

fn update(context: &Context, id: &str) -> CinderResult {
    let fields = body::unwrap(context.request, "quota_set")?;
    let limits = limits(&fields)?;
    context.admin_only()?;
    context.write(|tx| {
        let project = find(context, tx, id)?;
        let quotas = of_project(tx, &project)?;
        for (name, limit) in &limits {
            let Some(quota) = quotas.iter().find(|quota| quota.standing.name == *name) else { continue };
            if *limit != UNLIMITED && *limit < quota.standing.usage {
                let used = quota.standing.usage;
                return Err(CinderError::bad_request(format!("{}: {used} are in use, more than the limit {limit}.", name.as_str())));
            }
            projects::set_limit(tx, &quota.uuid, *limit)?;
        }
        let set: Map<String, Value> =
            of_project(tx, &project)?.iter().map(|quota| (quota.standing.name.as_str().into(), quota.standing.limit.into())).collect();
        Ok(Response::json(200, &json!({"quota_set": set})))
    })
}

fn update_class(context: &Context, class: &str) -> CinderResult {
    let fields = body::unwrap(context.request, "quota_class_set")?;
    let limits = limits(&fields)?;
    context.admin_only()?;
    if class != CLASS {
        return Err(CinderError::no_such("Quota class", class));
    }
    context.write(|tx| {
        for (name, limit) in &limits {
            projects::set_default_limit(tx, *name, *limit)?;
        }
        Ok(Response::json(200, &json!({"quota_class_set": defaults(tx)?})))
    })
}
