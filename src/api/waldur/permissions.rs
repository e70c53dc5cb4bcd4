//! `/api/project-permissions/` and `/api/customer-permissions/`: who has which role.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::Text;
use super::links::{self, CUSTOMER_PERMISSIONS, CUSTOMERS, PROJECT_PERMISSIONS, PROJECTS, USERS};
use super::listing::link_filter;
use super::uuid_segment;
use crate::api::text::timestamp;
use crate::catalog::list::{Filter, Page};
use crate::catalog::users::{self, RoleRow};
use crate::catalog::{new_uuid, projects};
use crate::clock;
use crate::http::Response;
use crate::model::role::Role;

/// Whose roles: those on projects or those on the one customer.
#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    Project,
    Customer,
}

impl Scope {
    fn collection(self) -> &'static str {
        match self {
            Scope::Project => PROJECT_PERMISSIONS,
            Scope::Customer => CUSTOMER_PERMISSIONS,
        }
    }
}

pub fn route(context: &Context, rest: &[&str], scope: Scope) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context, scope)), ("POST", &|| create(context, scope))]),
        [uuid] => context.methods(&[
            ("GET", &|| context.read(|c| Ok(Response::json(200, &to_json(context, &find(context, c, uuid, scope)?))))),
            ("DELETE", &|| delete(context, uuid, scope)),
        ]),
        _ => Err(ApiError::not_found()),
    }
}

/// The roles of this scope that the user may know of.
fn visible(context: &Context, scope: Scope) -> Filter {
    let mut filter = Filter::default();
    match scope {
        Scope::Project => {
            filter.push("r.project_id IS NOT NULL", []);
            context.only_visible(&mut filter, "r.project_id");
        }
        Scope::Customer => {
            filter.push("r.project_id IS NULL", []);
            if !context.identity.is_owner() {
                filter.equals("r.user_id", context.identity.user.id);
            }
        }
    }
    filter
}

fn list(context: &Context, scope: Scope) -> ApiResult {
    context.read(|c| {
        let mut filter = visible(context, scope);
        link_filter(context, &mut filter, "user", USERS, "u.uuid")?;
        if scope == Scope::Project {
            link_filter(context, &mut filter, "project", PROJECTS, "p.uuid")?;
        }
        for name in context.params("role") {
            match Role::from_waldur_name(name).or(Role::from_stored(name).filter(|role| *role == Role::Owner)) {
                Some(role) => filter.equals("r.role", role.as_str().to_string()),
                None => return Err(ApiError::field("role", format!("\"{name}\" is not a valid choice."))),
            }
        }
        let (count, _) = users::list_roles(c, &filter, &Page { order: "r.id".into(), limit: 0, offset: 0 })?;
        let paging = context.page(count, "r.id")?;
        let (_, rows) = users::list_roles(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|row| to_json(context, row)).collect()))
    })
}

fn find(context: &Context, c: &Connection, uuid: &str, scope: Scope) -> Result<RoleRow, ApiError> {
    let mut filter = visible(context, scope);
    filter.equals("r.uuid", uuid_segment(uuid)?);
    let (_, rows) = users::list_roles(c, &filter, &Page { order: "r.id".into(), limit: 1, offset: 0 })?;
    rows.into_iter().next().ok_or_else(ApiError::not_found)
}

fn owner_only(context: &Context) -> Result<(), ApiError> {
    if context.identity.is_owner() { Ok(()) } else { Err(ApiError::forbidden()) }
}

fn create(context: &Context, scope: Scope) -> ApiResult {
    owner_only(context)?;
    let mut fields = context.fields(false)?;
    let user = fields.link("user", true, USERS);
    let project = match scope {
        Scope::Project => fields.link("project", true, PROJECTS),
        Scope::Customer => None,
    };
    let name = fields.text("role", &Text::required(30));
    let role = match (scope, name.as_deref()) {
        (Scope::Project, Some(name)) => Role::from_waldur_name(name),
        (Scope::Customer, Some("owner")) => Some(Role::Owner),
        _ => None,
    };
    if let (Some(name), None) = (&name, role) {
        fields.error("role", format!("\"{name}\" is not a valid choice."));
    }
    if role == Some(Role::Owner) && !context.identity.is_staff() {
        return Err(ApiError::forbidden());
    }
    context.write(|tx| {
        let user = match user {
            Some(uuid) => users::get(tx, &uuid)?.or_else(|| {
                fields.error("user", links::DOES_NOT_EXIST);
                None
            }),
            None => None,
        };
        let project = match project {
            Some(uuid) => projects::get(tx, &uuid)?.or_else(|| {
                fields.error("project", links::DOES_NOT_EXIST);
                None
            }),
            None => None,
        };
        fields.finish()?;
        let (Some(user), Some(role)) = (user, role) else { return Err(ApiError::not_found()) };
        let uuid = new_uuid();
        if users::insert_role(tx, &uuid, user.id, project.map(|p| p.id), role, clock::now_ms())?.is_none() {
            return Err(ApiError::non_field(vec!["The fields project, user, role must make a unique set.".into()]));
        }
        let row = find(context, tx, &uuid, scope)?;
        Ok(context.created(&context.link(scope.collection(), &uuid), &to_json(context, &row)))
    })
}

fn delete(context: &Context, uuid: &str, scope: Scope) -> ApiResult {
    context.write(|tx| {
        let row = find(context, tx, uuid, scope)?;
        owner_only(context)?;
        if scope == Scope::Customer {
            context.staff_only()?;
        }
        users::delete_role(tx, row.id)?;
        Ok(Response::empty(204))
    })
}

fn to_json(context: &Context, row: &RoleRow) -> Value {
    let mut body = json!({
        "uuid": row.uuid,
        "role": row.role.waldur_name(),
        "user": context.link(USERS, &row.user.uuid),
        "user_uuid": row.user.uuid,
        "user_username": row.user.username,
        "user_full_name": row.user.full_name,
        "user_native_name": row.user.native_name,
        "user_email": row.user.email,
        "created": timestamp(row.created),
    });
    match &row.project {
        Some((uuid, name)) => {
            body["url"] = json!(context.link(PROJECT_PERMISSIONS, &row.uuid));
            body["project"] = json!(context.link(PROJECTS, uuid));
            body["project_uuid"] = json!(uuid);
            body["project_name"] = json!(name);
        }
        None => {
            body["url"] = json!(context.link(CUSTOMER_PERMISSIONS, &row.uuid));
            body["customer"] = json!(context.link(CUSTOMERS, &context.app.customer_uuid));
        }
    }
    body
}
