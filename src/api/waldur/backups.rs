//! `/api/openstack-backups/` and its alias `/api/openstack-backup/`.

use rusqlite::Connection;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::{Fields, Text};
use super::links::{self, BACKUPS, INSTANCES, SCHEDULES};
use super::listing::{link_filter, order, states, uuid_filter};
use super::{instances, uuid_segment};
use crate::api::text::{parse_timestamp, timestamp};
use crate::catalog::backups::{self, Backup};
use crate::catalog::list::{self, Filter};
use crate::catalog::{images, projects, repositories};
use crate::engine::orders::{self, NewMachine};
use crate::http::Response;
use crate::model::backup::{BackupAction, BackupKind, BackupState};
use crate::model::instance::InstanceState;
use crate::model::quota::mib;
use crate::model::role::Access;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| create(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| show(context, uuid)),
            ("PATCH", &|| modify(context, uuid)),
            ("DELETE", &|| delete(context, uuid, 202, json!({"detail": "Deletion was scheduled."}))),
        ]),
        [uuid, "restore"] => context.methods(&[("POST", &|| restore(context, uuid))]),
        [uuid, "delete"] => {
            context.methods(&[("POST", &|| delete(context, uuid, 200, json!({"status": "Backup deletion was started"})))])
        }
        _ => Err(ApiError::not_found()),
    }
}

/// The columns a list can be ordered by: Waldur's name and ours.
const ORDERS: [(&str, &str); 5] = [
    ("created_at", "b.created_at"),
    ("kept_until", "b.kept_until"),
    ("state", "b.state"),
    ("description", "b.description"),
    ("instance_name", "i.name"),
];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        for text in context.params("description") {
            filter.contains("b.description", text);
        }
        for name in context.params("name").into_iter().chain(context.params("instance_name")) {
            filter.contains("i.name", name);
        }
        link_filter(context, &mut filter, "instance", INSTANCES, "i.uuid")?;
        link_filter(context, &mut filter, "project", links::PROJECTS, "p.uuid")?;
        link_filter(context, &mut filter, "backup_schedule", SCHEDULES, "s.uuid")?;
        uuid_filter(context, &mut filter, "uuid", "b.uuid")?;
        let states = states(context.params("state"), BackupState::from_display)?;
        if !states.is_empty() {
            if !states.iter().any(|state| matches!(state, BackupState::Ready | BackupState::Erred)) {
                // In the words of the index backup_state, so that these few are found without looking at the many.
                filter.push("b.state NOT IN ('ready', 'erred')", []);
            }
            filter.one_of("b.state", states.into_iter().map(|state| state.as_str().to_string()));
        }
        let unfiltered = filter.is_empty();
        filter.push("b.instance_id IS NOT NULL", []); // Cinder's backups are of volumes alone
        context.only_visible(&mut filter, "b.project_id");
        let count = match unfiltered {
            true => projects::tally(c, "backups", context.identity.visible_projects().as_deref())?,
            false => list::count(c, backups::FROM, &filter)?,
        };
        let paging = context.page(count, &order(context, &ORDERS, "b.created_at", "b.id"))?;
        let rows = backups::rows(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|backup| view(context, backup)).collect()))
    })
}

fn create(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let instance = fields.link("instance", true, INSTANCES);
    let description = fields.text("description", &Text::optional(500)).unwrap_or_default();
    let repository = fields.text("repository", &Text::optional(64)).unwrap_or_default();
    let (uuid, response) = context.write(|tx| {
        let instance = instances::linked(context, tx, &mut fields, "instance", instance)?;
        check_repository(tx, &mut fields, &repository)?;
        fields.finish()?;
        let instance = instance.ok_or_else(ApiError::not_found)?;
        if context.identity.access(instance.project_id) < Access::Write {
            return Err(ApiError::forbidden());
        }
        check_room(context)?;
        let (id, uuid) = orders::back_up(tx, &instance, &context.identity.user.uuid, &description, None, &repository).map_err(|refusal| ApiError::refused("create", refusal))?;
        let backup = backups::by_id(tx, id)?.ok_or_else(ApiError::not_found)?;
        Ok((uuid, Response::json(201, &view(context, &backup))))
    })?;
    context.app.engine.wake();
    Ok(response.with_header("Location", context.link(BACKUPS, &uuid)))
}

/// A place for backups must be one of the configuration.
pub fn check_repository(c: &Connection, fields: &mut Fields, name: &str) -> Result<(), ApiError> {
    if !repositories::is_place(c, name)? {
        let hint = "The configuration of the daemon has no repository of this name; after a change it must be reloaded.";
        fields.error("repository", format!("\"{name}\" is not a valid choice. {hint}"));
    }
    Ok(())
}

fn check_room(context: &Context) -> Result<(), ApiError> {
    if context.app.db.has_room_for(0) {
        return Ok(());
    }
    Err(ApiError::non_field(vec!["The disk of the coffer is almost full; delete backups or make room, then try again.".into()]))
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<Backup, ApiError> {
    let backup = backups::get(c, &uuid_segment(uuid)?)?.filter(|backup| backup.kind == BackupKind::Instance);
    let backup = backup.ok_or_else(ApiError::not_found)?;
    context.can_see(backup.project_id)?;
    Ok(backup)
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| Ok(Response::json(200, &view(context, &find(context, c, uuid)?))))
}

fn modify(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let backup = find(context, tx, uuid)?;
        context.can_write(backup.project_id)?;
        let mut fields = context.fields(true)?;
        let description = fields.text("description", &Text::optional(500)).unwrap_or_else(|| backup.description.clone());
        let kept_until = match fields.get("kept_until").cloned() {
            None => backup.kept_until,
            Some(Value::Null) => None,
            Some(value) => match value.as_str().and_then(parse_timestamp) {
                Some(time) => Some(time.timestamp_millis()),
                None => {
                    fields.error("kept_until", "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].");
                    None
                }
            },
        };
        fields.finish()?;
        if !backup.state.allows(BackupAction::Modify) {
            return Err(ApiError::detail(409, "Modification allowed in stable states only."));
        }
        backups::set_texts(tx, backup.id, &description, kept_until)?;
        let backup = find(context, tx, uuid)?;
        Ok(Response::json(200, &view(context, &backup)))
    })
}

fn delete(context: &Context, uuid: &str, status: u16, answer: Value) -> ApiResult {
    context.write(|tx| {
        let backup = find(context, tx, uuid)?;
        context.can_write(backup.project_id)?;
        orders::delete(tx, &backup).map_err(|refusal| ApiError::refused("delete", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::json(status, &answer))
}

fn restore(context: &Context, uuid: &str) -> ApiResult {
    let config = context.app.config();
    let machine = context.write(|tx| {
        let backup = find(context, tx, uuid)?;
        context.can_write(backup.project_id)?;
        // The state comes before the input: a client that is too early learns that first.
        if !backup.state.allows(BackupAction::Restore) {
            return Err(ApiError::wrong_state("restore", backup.state));
        }
        let mut fields = context.fields(false)?;
        for name in ["image", "flavor", "name", "start"] {
            fields.drop_null(name);
        }
        let image = match fields.link("image", true, links::IMAGES) {
            Some(uuid) => images::image(tx, &uuid)?.or_else(|| {
                fields.error("image", links::DOES_NOT_EXIST);
                None
            }),
            None => None,
        };
        let flavor = match fields.link("flavor", true, links::FLAVORS) {
            Some(uuid) => images::flavor(tx, &uuid)?.or_else(|| {
                fields.error("flavor", links::DOES_NOT_EXIST);
                None
            }),
            None => None,
        };
        let name = fields.text("name", &Text::not_blank(150));
        let start = fields.boolean("start").unwrap_or(false);
        fields.finish()?;
        let (Some(image), Some(flavor)) = (image, flavor) else { return Err(ApiError::not_found()) };
        let machine =
            NewMachine {
                name: name.as_deref(),
                image: &image,
                flavor: &flavor,
                start,
                user_uuid: &context.identity.user.uuid,
                directory: &config.volumes.restore_directory,
            };
        orders::restore_to_new_instance(tx, &backup, &machine).map_err(|refusal| ApiError::refused("restore", refusal))
    })?;
    context.app.engine.wake();
    let body = json!({"status": "Backup restoration process was started", "instance": context.link(INSTANCES, &machine),
        "instance_uuid": machine});
    Ok(Response::json(200, &body))
}

/// A backup as everybody who sees it may see it: the fields of the Waldur contract, then ours.
#[derive(Serialize)]
pub struct View<'b> {
    url: String,
    uuid: &'b str,
    description: &'b str,
    created_at: String,
    kept_until: Option<String>,
    instance: String,
    instance_name: &'b str,
    instance_uuid: &'b str,
    state: &'static str,
    /// null for a backup by hand.
    backup_schedule: Option<String>,
    backup_schedule_uuid: Option<&'b str>,
    project: String,
    project_uuid: &'b str,
    project_name: &'b str,
    metadata: Option<Box<RawValue>>,
    error_message: &'b str,
    /// MiB
    size: i64,
    size_bytes: i64,
    /// MiB
    stored_size: i64,
    stored_bytes: i64,
    finished_at: Option<String>,
    /// Bytes; null unless work is under way.
    progress: Option<Value>,
    restorations: Vec<Value>,
    /// Where its data lies.
    repository: &'b str,
    /// Where else it is or is to be.
    copies: Vec<Value>,
}

pub fn view<'b>(context: &Context, backup: &'b Backup) -> View<'b> {
    let busy = matches!(backup.state, BackupState::BackingUp | BackupState::Restoring);
    let running = if busy { context.app.engine.running(backup.id) } else { None };
    View {
        url: context.link(BACKUPS, &backup.uuid),
        uuid: &backup.uuid,
        description: &backup.description,
        created_at: timestamp(backup.created_at),
        kept_until: backup.kept_until.map(timestamp),
        instance: context.link(INSTANCES, &backup.instance_uuid),
        instance_name: &backup.subject,
        instance_uuid: &backup.instance_uuid,
        state: backup.state.display(),
        backup_schedule: backup.schedule_uuid.as_ref().map(|uuid| context.link(SCHEDULES, uuid)),
        backup_schedule_uuid: backup.schedule_uuid.as_deref(),
        project: context.link(links::PROJECTS, &backup.project_uuid),
        project_uuid: &backup.project_uuid,
        project_name: &backup.project_name,
        metadata: metadata(context, &backup.metadata),
        error_message: &backup.error_message,
        size: mib(backup.size),
        size_bytes: backup.size,
        stored_size: mib(backup.stored),
        stored_bytes: backup.stored,
        finished_at: backup.finished_at.map(timestamp),
        progress: running.map(|running| running.to_json()),
        restorations: restorations(context, &backup.restorations),
        repository: &backup.repository,
        copies: copies(context, &backup.copies),
    }
}

fn copies(context: &Context, stored: &str) -> Vec<Value> {
    if stored == "[]" {
        return Vec::new();
    }
    let mut rows: Vec<Value> = serde_json::from_str(stored).unwrap_or_default();
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        let id = row.remove("id").and_then(|id| id.as_i64());
        if row["state"] != "ready" && id.is_some_and(|id| context.app.engine.copies.running(id).is_some()) {
            row.insert("state".into(), json!("copying"));
        }
    }
    rows
}

/// The stored JSON as it is; only staff see user_data, which often holds secrets.
fn metadata(context: &Context, stored: &str) -> Option<Box<RawValue>> {
    if context.identity.is_staff() {
        return RawValue::from_string(stored.to_string()).ok();
    }
    let mut metadata: serde_json::Map<String, Value> = serde_json::from_str(stored).ok()?;
    metadata.remove("user_data");
    serde_json::value::to_raw_value(&metadata).ok()
}

fn restorations(context: &Context, stored: &str) -> Vec<Value> {
    if stored == "[]" {
        return Vec::new();
    }
    let rows: Vec<Value> = serde_json::from_str(stored).unwrap_or_default();
    let restoration = |row: &Value| {
        let uuid = row["uuid"].as_str()?;
        let state = InstanceState::from_stored(row["state"].as_str()?)?;
        Some(json!({"instance": context.link(INSTANCES, uuid), "instance_uuid": uuid, "instance_name": row["name"],
            "instance_state": state.display(), "created": timestamp(row["created"].as_i64()?)}))
    };
    rows.iter().filter_map(restoration).collect()
}
