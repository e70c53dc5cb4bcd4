//! `/api/quotas/`: what projects may use. Storage and ram in MiB, -1 is unlimited.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::links::{PROJECTS, QUOTAS};
use super::listing::link_filter;
use super::uuid_segment;
use crate::catalog::list::{Filter, Page};
use crate::catalog::projects::{self, Quota};
use crate::http::Response;
use crate::model::quota::{QuotaName, UNLIMITED};

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| context.read(|c| Ok(Response::json(200, &to_json(context, &find(context, c, uuid)?, true))))),
            ("PUT", &|| update(context, uuid, false)),
            ("PATCH", &|| update(context, uuid, true)),
        ]),
        _ => Err(ApiError::not_found()),
    }
}

/// Unpaginated unless `page_size` is given.
fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        context.only_visible(&mut filter, "p.id");
        link_filter(context, &mut filter, "scope", PROJECTS, "p.uuid")?;
        link_filter(context, &mut filter, "project", PROJECTS, "p.uuid")?;
        let all = Page { order: "p.created, p.id".into(), limit: -1, offset: 0 };
        let (_, projects) = projects::list(c, &filter, &all)?;
        let mut quotas = Vec::new();
        for project in &projects {
            quotas.extend(projects::quotas(c, project)?);
        }
        let names = context.params("name");
        quotas.retain(|quota| names.iter().all(|name| quota.standing.name.as_str().contains(&name.to_ascii_lowercase())));
        let items: Vec<Value> = quotas.iter().map(|quota| to_json(context, quota, true)).collect();
        if context.param("page_size").is_none() {
            return Ok(Response::json(200, &Value::Array(items)).with_header("X-Result-Count", quotas.len().to_string()));
        }
        let paging = context.page(items.len() as i64, "")?;
        let page = &paging.page;
        let items: Vec<Value> = items.into_iter().skip(page.offset as usize).take(page.limit as usize).collect();
        Ok(context.list(&paging, items))
    })
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<Quota, ApiError> {
    let uuid = uuid_segment(uuid)?;
    let project = projects::quota_project(c, &uuid)?.ok_or_else(ApiError::not_found)?;
    context.can_see(project.id)?;
    projects::quotas(c, &project)?.into_iter().find(|quota| quota.uuid == uuid).ok_or_else(ApiError::not_found)
}

fn update(context: &Context, uuid: &str, partial: bool) -> ApiResult {
    context.write(|tx| {
        let quota = find(context, tx, uuid)?;
        context.staff_only()?;
        let mut fields = context.fields(partial)?;
        let limit = fields.integer("limit", true, UNLIMITED, i64::from(i32::MAX) << 20);
        let used = usage(&quota);
        if let Some(limit) = limit
            && limit != UNLIMITED
            && (limit as f64) < used
        {
            fields.error("limit", "Current quota usage exceeds new limit.");
        }
        fields.finish()?;
        if let Some(limit) = limit {
            projects::set_limit(tx, &quota.uuid, limit)?;
        }
        let quota = find(context, tx, uuid)?;
        Ok(Response::json(200, &to_json(context, &quota, true)))
    })
}

/// In the unit of the limit.
fn usage(quota: &Quota) -> f64 {
    match quota.standing.name {
        QuotaName::Storage => quota.standing.usage as f64 / f64::from(1 << 20),
        _ => quota.standing.usage as f64,
    }
}

/// Inside a project the scope is left out.
pub fn to_json(context: &Context, quota: &Quota, with_scope: bool) -> Value {
    let mut body = json!({
        "url": context.link(QUOTAS, &quota.uuid),
        "uuid": quota.uuid,
        "name": quota.standing.name.as_str(),
        "limit": quota.standing.limit as f64,
        "usage": usage(quota),
    });
    if with_scope {
        body["scope"] = json!(context.link(PROJECTS, &quota.project_uuid));
    }
    body
}
