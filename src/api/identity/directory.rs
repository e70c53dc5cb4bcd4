//! What clients look names up in: projects, users, and the domain and roles that there always are. Nothing is changed here.
//!
//! Everybody sees the projects he has a role in, and himself; an administrator sees all.

use serde_json::{Value, json};

use super::Context;
use super::claim::{DOMAIN_ID, DOMAIN_NAME, is_domain_id};
use super::fault::{Fault, IdentityResult};
use crate::api::auth::openstack::{Caller, Level};
use crate::api::text::parse_uuid;
use crate::catalog::list::{Filter, Page};
use crate::catalog::projects::Project;
use crate::catalog::users::{self, User};
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> IdentityResult {
    match rest {
        [kind @ ("projects" | "users" | "domains" | "roles")] => context.methods(&[("GET", &|| list(context, kind))]),
        [kind @ ("projects" | "users" | "domains" | "roles"), id] => context.methods(&[("GET", &|| show(context, kind, id))]),
        _ => Err(Fault::not_found()),
    }
}

pub fn my_projects(context: &Context) -> IdentityResult {
    let caller = context.caller()?;
    let projects = all(context, &caller, "projects")?;
    Ok(collection(context, "projects", "/auth/projects", projects))
}

fn list(context: &Context, kind: &str) -> IdentityResult {
    let caller = context.caller()?;
    let mut entries = all(context, &caller, kind)?;
    if let Some(name) = context.param("name") {
        entries.retain(|entry| entry["name"] == name.as_str());
    }
    if matches!(kind, "projects" | "users") && context.param("domain_id").is_some_and(|id| !is_domain_id(&id)) {
        entries.clear();
    }
    if let Some(enabled) = context.param("enabled") {
        entries.retain(|entry| entry["enabled"] != enabled.eq_ignore_ascii_case("false"));
    }
    Ok(collection(context, kind, &format!("/{kind}"), entries))
}

fn show(context: &Context, kind: &str, id: &str) -> IdentityResult {
    let caller = context.caller()?;
    let wanted = parse_uuid(id).unwrap_or_else(|| id.to_owned());
    let found = all(context, &caller, kind)?.into_iter().find(|entry| entry["id"] == wanted.as_str());
    let found = found.ok_or_else(Fault::not_found)?;
    Ok(Response::json(200, &json!({kind.trim_end_matches('s'): found})))
}

/// All of a kind that the caller sees.
fn all(context: &Context, caller: &Caller, kind: &str) -> Result<Vec<Value>, Fault> {
    Ok(match kind {
        "projects" => {
            let projects = context.app.db.read(|c| caller.projects(c))?;
            projects.iter().map(|project| describe_project(context, project)).collect()
        }
        "users" => visible_users(context, caller)?.iter().map(|user| describe_user(context, user)).collect(),
        "domains" => vec![json!({
            "id": DOMAIN_ID, "name": DOMAIN_NAME, "description": "", "enabled": true, "tags": [], "options": {},
            "links": {"self": context.url("/domains/default")},
        })],
        _ => Level::Admin.roles().iter().map(|name| describe_role(context, name)).collect(),
    })
}

fn visible_users(context: &Context, caller: &Caller) -> Result<Vec<User>, Fault> {
    let mut filter = Filter::default();
    if !caller.is_admin() {
        filter.equals("id", caller.identity.user.id);
    }
    // -1: as many as there are.
    let page = Page { order: "id".into(), limit: -1, offset: 0 };
    Ok(context.app.db.read(|c| users::list(c, &filter, &page))?.1)
}

fn describe_project(context: &Context, project: &Project) -> Value {
    json!({
        "id": project.uuid,
        "name": project.name,
        "description": project.description,
        "domain_id": DOMAIN_ID,
        "parent_id": DOMAIN_ID,
        "is_domain": false,
        "enabled": true,
        "tags": [],
        "options": {},
        "links": {"self": context.url(&format!("/projects/{}", project.uuid))},
    })
}

fn describe_user(context: &Context, user: &User) -> Value {
    json!({
        "id": user.uuid,
        "name": user.username,
        "description": user.description,
        "email": user.email,
        "domain_id": DOMAIN_ID,
        "enabled": user.is_active,
        "password_expires_at": null,
        "options": {},
        "links": {"self": context.url(&format!("/users/{}", user.uuid))},
    })
}

fn describe_role(context: &Context, name: &str) -> Value {
    json!({
        "id": name,
        "name": name,
        "description": "",
        "domain_id": null,
        "options": {},
        "links": {"self": context.url(&format!("/roles/{name}"))},
    })
}

/// A list on one page.
fn collection(context: &Context, kind: &str, path: &str, entries: Vec<Value>) -> Response {
    let links = json!({"self": context.url(path), "previous": null, "next": null});
    Response::json(200, &json!({kind: entries, "links": links}))
}
