//! Volumes on their own: registered before they belong to an instance, and forgotten.

use serde_json::{Value, json};

use crate::api::text::{parse_uuid, timestamp};
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::fields::Text;
use crate::api::waldur::{instances, links, uuid_segment};
use crate::catalog::list::{self, Filter};
use crate::catalog::projects::{self, Project};
use crate::catalog::volumes::{self, Volume};
use crate::engine::orders;
use crate::engine::restore::remove_files;
use crate::http::Response;
use crate::model::quota::{QuotaName, gib};

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| register(context))]),
        [uuid] => context.methods(&[("GET", &|| show(context, uuid)), ("DELETE", &|| forget(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let filter = Filter::default();
        let paging = context.page(volumes::count(c, &filter)?, "v.created, v.id")?;
        let rows = volumes::rows(c, &filter, &paging.page)?;
        let items = rows.iter().map(|volume| to_json(c, volume)).collect::<Result<_, _>>()?;
        Ok(context.list(&paging, items))
    })
}

fn find(c: &rusqlite::Connection, uuid: &str) -> Result<Volume, ApiError> {
    volumes::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| Ok(Response::json(200, &to_json(c, &find(c, uuid)?)?)))
}

/// {path, project: uuid, link or name, name}
fn register(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let path = fields.text("path", &Text::required(4096));
    let project = fields.text("project", &Text::required(200));
    let name = fields.text("name", &Text::optional(150)).unwrap_or_default();
    let probe = path.map(|path| instances::probe(context, &path));
    context.write(|tx| {
        let project = match &project {
            Some(text) => {
                let found = find_project(tx, text)?;
                if found.is_none() {
                    fields.error("project", format!("There is no one project \"{text}\"."));
                }
                found
            }
            None => None,
        };
        let probe = match probe {
            Some(Ok(probe)) => Some(instances::check_free(tx, probe)?),
            Some(Err(message)) => Some(Err(message)),
            None => None,
        };
        let probe = probe.and_then(|probe| probe.map_err(|message| fields.error("path", message)).ok());
        fields.finish()?;
        let (Some(project), Some(probe)) = (project, probe) else { return Err(ApiError::not_found()) };
        let size = probe.size as i64;
        let additions = [(QuotaName::Storage, size), (QuotaName::Volumes, 1), (QuotaName::Gigabytes, gib(size))];
        orders::fits(tx, project.id, &additions).map_err(|refusal| ApiError::refused("create", refusal))?;
        let path = probe.path.to_string_lossy().into_owned();
        let (_, uuid) = instances::insert_volume(context, tx, project.id, &path, &name, &probe)?;
        let url = context.url(&format!("/ops/volumes/{uuid}/"));
        Ok(context.created(&url, &to_json(tx, &find(tx, &uuid)?)?))
    })
}

fn find_project(c: &rusqlite::Connection, text: &str) -> Result<Option<Project>, ApiError> {
    let uuid = parse_uuid(text).or_else(|| links::resolve(text, links::PROJECTS).ok());
    if let Some(uuid) = uuid {
        return Ok(projects::get(c, &uuid)?);
    }
    let mut named = Filter::default();
    named.equals("p.name", text.to_string());
    let (count, mut rows) = projects::list(c, &named, &list::Page { order: "p.id".into(), limit: 1, offset: 0 })?;
    Ok(if count == 1 { rows.pop() } else { None })
}

/// The file or device itself is left alone, unless cofferd made it.
fn forget(context: &Context, uuid: &str) -> ApiResult {
    let gone = context.write(|tx| {
        let volume = find(tx, uuid)?;
        if volume.instance_id.is_some() {
            return Err(ApiError::detail(409, "The volume belongs to an instance; remove that first."));
        }
        orders::discard_volume(tx, &volume).map_err(|refusal| ApiError::refused("delete", refusal))?;
        Ok(volume)
    })?;
    remove_files(&[gone]);
    context.app.engine.wake();
    Ok(Response::empty(204))
}

/// Size in bytes.
fn to_json(c: &rusqlite::Connection, volume: &Volume) -> Result<Value, ApiError> {
    let project = projects::by_id(c, volume.project_id)?;
    let instance = match volume.instance_id {
        Some(id) => Some(crate::catalog::instances::by_id(c, id)?),
        None => None,
    };
    Ok(json!({
        "uuid": volume.uuid,
        "name": volume.name,
        "path": volume.path,
        "kind": volume.kind,
        "size": volume.size,
        "state": volume.status.as_str(),
        "error_message": volume.error_message,
        "managed": volume.managed,
        "bootable": volume.bootable,
        "project_uuid": project.uuid,
        "project_name": project.name,
        "instance_uuid": instance.as_ref().map(|i| i.uuid.clone()),
        "instance_name": instance.as_ref().map(|i| i.name.clone()),
        "created": timestamp(volume.created),
    }))
}
