//! `/api/projects/` and the one customer they all belong to, `/api/customers/`.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::Text;
use super::links::{self, CUSTOMERS, PROJECTS};
use super::listing::{order, uuid_filter};
use super::{quotas, uuid_segment};
use crate::api::text::{parse_uuid, timestamp};
use crate::catalog::list::Filter;
use crate::catalog::projects::{self, Project};
use crate::clock;
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| create(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| show(context, uuid)),
            ("PUT", &|| update(context, uuid, false)),
            ("PATCH", &|| update(context, uuid, true)),
            ("DELETE", &|| delete(context, uuid)),
        ]),
        _ => Err(ApiError::not_found()),
    }
}

const ORDERS: [(&str, &str); 2] = [("name", "p.name"), ("created", "p.created")];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        for text in context.params("name") {
            filter.contains("p.name", text);
        }
        for text in context.params("description") {
            filter.contains("p.description", text);
        }
        uuid_filter(context, &mut filter, "uuid", "p.uuid")?;
        let customer = context.params("customer").into_iter().chain(context.params("customer_uuid"));
        for text in customer.filter(|text| !text.is_empty()) {
            let uuid = parse_uuid(text).or_else(|| links::resolve(text, CUSTOMERS).ok());
            match uuid {
                Some(uuid) if uuid == context.app.customer_uuid => {}
                Some(_) => filter.nothing(),
                None => return Err(ApiError::field("customer", links::NO_MATCH)),
            }
        }
        context.only_visible(&mut filter, "p.id");
        let count = crate::catalog::list::count(c, "project p", &filter)?;
        let paging = context.page(count, &order(context, &ORDERS, "p.created", "p.id"))?;
        let (_, rows) = projects::list(c, &filter, &paging.page)?;
        let items = rows.iter().map(|project| to_json(context, c, project)).collect::<Result<_, _>>()?;
        Ok(context.list(&paging, items))
    })
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<Project, ApiError> {
    let project = projects::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?;
    context.can_see(project.id)?;
    Ok(project)
}

fn owner_only(context: &Context) -> Result<(), ApiError> {
    if context.identity.is_owner() { Ok(()) } else { Err(ApiError::forbidden()) }
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| Ok(Response::json(200, &to_json(context, c, &find(context, c, uuid)?)?)))
}

fn create(context: &Context) -> ApiResult {
    owner_only(context)?;
    let mut fields = context.fields(false)?;
    let name = fields.text("name", &Text::required(150));
    let description = fields.text("description", &Text::optional(500)).unwrap_or_default();
    if fields.has("customer")
        && let Some(uuid) = fields.link("customer", false, CUSTOMERS)
        && uuid != context.app.customer_uuid
    {
        fields.error("customer", links::DOES_NOT_EXIST);
    }
    fields.finish()?;
    context.write(|tx| {
        let project = projects::insert(tx, name.as_deref().unwrap_or_default(), &description, clock::now_ms())?;
        Ok(context.created(&context.link(PROJECTS, &project.uuid), &to_json(context, tx, &project)?))
    })
}

fn update(context: &Context, uuid: &str, partial: bool) -> ApiResult {
    context.write(|tx| {
        let mut project = find(context, tx, uuid)?;
        owner_only(context)?;
        let mut fields = context.fields(partial)?;
        project.name = fields.text("name", &Text::required(150)).unwrap_or(project.name);
        project.description = fields.text("description", &Text::optional(500)).unwrap_or(project.description);
        fields.finish()?;
        projects::update(tx, &project)?;
        Ok(Response::json(200, &to_json(context, tx, &project)?))
    })
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let project = find(context, tx, uuid)?;
        owner_only(context)?;
        // Of backups also those that Cinder made, of volumes alone.
        for name in ["instances", "volumes", "volume_backups", "snapshots"] {
            if projects::tally(tx, name, Some(&[project.id]))? == 0 {
                continue;
            }
            return Err(ApiError::detail(409, "Cannot delete project with existing instances, volumes or backups."));
        }
        projects::delete(tx, project.id)?;
        Ok(Response::empty(204))
    })
}

fn to_json(context: &Context, c: &Connection, project: &Project) -> Result<Value, ApiError> {
    let quotas: Vec<Value> = projects::quotas(c, project)?.iter().map(|quota| quotas::to_json(context, quota, false)).collect();
    Ok(json!({
        "url": context.link(PROJECTS, &project.uuid),
        "uuid": project.uuid,
        "name": project.name,
        "customer": context.link(CUSTOMERS, &context.app.customer_uuid),
        "customer_uuid": context.app.customer_uuid,
        "customer_name": CUSTOMER_NAME,
        "description": project.description,
        "quotas": quotas,
        "services": [],
        "created": timestamp(project.created),
    }))
}

// ---- the customer

const CUSTOMER_NAME: &str = "local";

/// A host has one customer; it is there because clients ask for it.
pub fn route_customers(context: &Context, rest: &[&str]) -> ApiResult {
    let customer = || {
        json!({"url": context.link(CUSTOMERS, &context.app.customer_uuid), "uuid": context.app.customer_uuid,
            "name": CUSTOMER_NAME, "native_name": "", "abbreviation": "", "contact_details": ""})
    };
    match rest {
        [] => context.methods(&[("GET", &|| Ok(context.list(&context.page(1, "1")?, vec![customer()])))]),
        [uuid] => context.methods(&[("GET", &|| {
            if uuid_segment(uuid)? == context.app.customer_uuid {
                Ok(Response::json(200, &customer()))
            } else {
                Err(ApiError::not_found())
            }
        })]),
        _ => Err(ApiError::not_found()),
    }
}
