//! `/backups`: what Cinder calls a backup is one volume in a backup; those of instances are listed too (Cinder contract 1, 2).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::admin_actions;
use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::listing::{Collection, Column, Listing};
use super::volume_create::{NewFile, pool_path};
use super::wire::{Id, Links, Time};
use crate::catalog::list::Filter;
use crate::catalog::volume_backups::{self, VolumeBackup};
use crate::catalog::{dashed, new_uuid};
use crate::clock;
use crate::engine::orders::{self, VolumeBackupOrder};
use crate::http::Response;
use crate::model::backup::BackupState;
use crate::model::quota::gib;
use crate::model::volume::VolumeState;

/// Characters of a reason for failure.
const MAX_REASON: usize = 255;

/// The state as SQL, in Cinder's words.
pub const STATE: &str = "CASE b.state WHEN 'ready' THEN 'available' WHEN 'backing_up' THEN 'creating' WHEN 'erred' THEN 'error' ELSE b.state END";

pub const COLLECTION: Collection = Collection {
    name: "backups",
    noun: "Backup",
    from: volume_backups::FROM,
    uuid: "vb.uuid",
    created: "vb.created",
    project: "vb.project_id",
    condition: "vb.kind <> 'snapshot'",
    columns: &[
        ("id", Column::Uuid("vb.uuid")),
        ("name", Column::Text("vb.title")),
        ("display_name", Column::Text("vb.title")),
        ("description", Column::Text("vb.description")),
        ("display_description", Column::Text("vb.description")),
        ("status", Column::Text(STATE)),
        ("size", Column::Number("((vb.size + 1073741823) >> 30)")),
        ("object_count", Column::Number("vb.objects")),
        ("volume_id", Column::Uuid("vb.volume_uuid")),
        ("snapshot_id", Column::Uuid("vb.snapshot_uuid")),
        ("parent_id", Column::Uuid("parent.uuid")),
        ("container", Column::Text("vb.container")),
        ("availability_zone", Column::Text("vb.zone")),
        ("host", Column::Text("''")), // one, and it is this one
        ("fail_reason", Column::Text("b.fail_reason")),
        ("data_timestamp", Column::Time("vb.data_timestamp")),
        ("created_at", Column::Time("vb.created")),
        ("updated_at", Column::Time("b.updated_at")),
        ("project_id", Column::Uuid("p.uuid")),
        ("user_id", Column::Uuid("b.user_uuid")),
    ],
    filters: &["name", "status", "volume_id"],
    like: &["name", "status", "volume_id", "description"],
};

pub fn route(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", []) => list(context, false),
        ("GET", ["detail"]) => list(context, true),
        ("POST", []) => create(context),
        ("POST", ["import_record"]) => super::records::import(context),
        ("GET", [id]) => show(context, super::member(id)),
        ("PUT", [id]) if context.since(9) => update(context, super::member(id)),
        ("DELETE", [id]) => delete(context, super::member(id)),
        ("POST", [id, "restore"]) => restore(context, id),
        ("POST", [id, "action"]) => admin_actions::act(context, "backup", |c| context.backup(c, id)),
        ("GET", [id, "export_record"]) => super::records::export(context, id),
        _ => Err(CinderError::not_found()),
    }
}

fn list(context: &Context, detailed: bool) -> CinderResult {
    context.read(|c| {
        let listing = Listing::read(context, c, &COLLECTION, |_, _, _| Ok(false))?;
        let rows = listing.rows(|filter, page| volume_backups::rows(c, filter, page))?;
        let last = rows.last().map(|backup| backup.uuid.as_str());
        let count = |filter: &Filter| volume_backups::count(c, filter);
        match detailed {
            true => {
                let items: Vec<Detail> = rows.iter().map(|backup| detail(context, backup)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
            false => {
                let items: Vec<Summary> = rows.iter().map(|backup| summary(context, backup)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
        }
    })
}

fn show(context: &Context, id: &str) -> CinderResult {
    context.read(|c| Ok(Response::json(200, &json!({"backup": detail(context, &context.backup(c, id)?)}))))
}

fn create(context: &Context) -> CinderResult {
    let fields = body::unwrap(context.request, "backup")?;
    let mut allowed = vec!["volume_id", "name", "description", "container", "incremental", "force", "snapshot_id"];
    allowed.extend(context.since(43).then_some("metadata"));
    allowed.extend(context.since(51).then_some("availability_zone"));
    fields.only(&allowed)?;
    let volume_id = fields.required_uuid("volume_id")?;
    let name = fields.name("name")?.flatten();
    let description = fields.description("description")?.flatten();
    let container = fields.text("container")?.flatten();
    let (incremental, force) = (fields.boolean("incremental")?, fields.boolean("force")?);
    let snapshot_id = fields.uuid("snapshot_id")?;
    let labels = fields.labels("metadata")?.flatten();
    let zone = fields.text("availability_zone")?.flatten();
    let backup = context.write(|tx| {
        let volume = context.volume(tx, &dashed(&volume_id))?;
        context.member_only()?;
        let snapshot = snapshot_id.as_ref().map(|uuid| context.snapshot(tx, &dashed(uuid))).transpose()?;
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.volume_id != Some(volume.id)) {
            return Err(CinderError::bad_request("Invalid snapshot: it is of another volume."));
        }
        let order = VolumeBackupOrder {
            volume: &volume,
            project_id: context.project_id(),
            snapshot: snapshot.as_ref(),
            user_uuid: context.user_uuid(),
            title: name.as_deref(),
            description: description.as_deref(),
            labels: labels.as_deref().unwrap_or_default(),
            container: container.as_deref(),
            zone: zone.as_deref(),
            incremental,
            force,
        };
        orders::back_up_volume(tx, &order).map_err(|refusal| CinderError::refused("backup", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"backup": summary(context, &backup)})))
}

/// name, description and metadata. Some clients leave the wrapper out (Cinder contract 1.4).
fn update(context: &Context, id: &str) -> CinderResult {
    let body = body::parse(context.request)?;
    let fields = match body.has("backup") {
        true => {
            body.only(&["backup"])?;
            body.object("backup")?.ok_or_else(|| CinderError::bad_request("backup: null is no object."))?
        }
        false if body.is_empty() => return Err(CinderError::bad_request("\"backup\" is required.")),
        false => body,
    };
    let mut allowed = vec!["name", "description"];
    allowed.extend(context.since(43).then_some("metadata"));
    fields.only(&allowed)?;
    let name = fields.name("name")?;
    let description = fields.description("description")?;
    let labels = fields.labels("metadata")?;
    if labels == Some(None) {
        return Err(CinderError::bad_request("metadata: null is no object of strings."));
    }
    context.write(|tx| {
        let backup = context.backup(tx, id)?;
        context.member_only()?;
        if !fields.is_empty() {
            let name = name.unwrap_or_else(|| backup.title.clone());
            let description = description.unwrap_or_else(|| backup.description.clone());
            let labels = labels.flatten().unwrap_or_else(|| backup.labels.clone());
            volume_backups::set_texts(tx, &backup, name.as_deref(), description.as_deref(), &labels, clock::now_ms())?;
        }
        Ok(Response::json(200, &json!({"backup": summary(context, &context.backup(tx, id)?)})))
    })
}

fn delete(context: &Context, id: &str) -> CinderResult {
    context.write(|tx| {
        let backup = context.backup(tx, id)?;
        context.member_only()?;
        orders::delete_volume_backup(tx, &backup).map_err(|refusal| CinderError::refused("backup", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::empty(202))
}

/// Over a volume, to a new one with a name, or to a new one that is named after the source in the end.
fn restore(context: &Context, id: &str) -> CinderResult {
    let body = body::parse(context.request)?;
    body.only(&["restore"])?;
    if !body.has("restore") {
        return Err(CinderError::bad_request("\"restore\" is required."));
    }
    let fields = body.object("restore")?.unwrap_or_else(|| Object::empty("restore"));
    fields.only(&["name", "volume_id"])?;
    let name = fields.name("name")?.flatten();
    let volume_id = fields.uuid("volume_id")?;
    let (volume_uuid, volume_name) = context.write(|tx| {
        let backup = context.backup(tx, id)?;
        context.member_only()?;
        let refused = |refusal| CinderError::refused("restore", refusal);
        if backup.state != BackupState::Ready {
            return Err(refused(orders::Refusal::State(backup.state)));
        }
        if let Some(uuid) = &volume_id {
            let volume = context.volume(tx, &dashed(uuid))?;
            orders::restore_to_volume(tx, &backup, &volume).map_err(refused)?;
            return Ok((volume.uuid, volume.name));
        }
        let uuid = new_uuid();
        let rename = name.is_none();
        let name = name.clone().unwrap_or_else(|| format!("restore_backup_{}", dashed(&backup.uuid)));
        let description = rename.then(|| format!("made by restoring backup {}", dashed(&backup.uuid)));
        let new = NewFile {
            uuid: &uuid,
            name: &name,
            description: description.as_deref(),
            size: backup.size,
            state: VolumeState::RestoringBackup,
            bootable: false,
            labels: "{}",
            origin: "{}",
        };
        let path = pool_path(context, &uuid);
        orders::restore_to_new_volume(tx, &backup, &new.row(context, &path), rename).map_err(refused)?;
        Ok((uuid, name))
    })?;
    context.app.engine.wake();
    let restore = json!({"backup_id": super::canonical(id), "volume_id": dashed(&volume_uuid), "volume_name": volume_name});
    Ok(Response::json(202, &json!({"restore": restore})))
}

// ---- out

#[derive(Serialize)]
pub struct Summary<'b> {
    id: Id<'b>,
    name: Option<&'b str>,
    links: Links<'b>,
}

pub fn summary<'b>(context: &'b Context, backup: &'b VolumeBackup) -> Summary<'b> {
    Summary { id: Id(&backup.uuid), name: backup.title.as_deref(), links: context.links("backups", &backup.uuid) }
}

/// Exactly the keys of Cinder contract 2.2: clients forbid others.
#[derive(Serialize)]
struct Detail<'b> {
    id: Id<'b>,
    name: Option<&'b str>,
    links: Links<'b>,
    status: &'static str,
    /// GiB of the volume.
    size: i64,
    object_count: i64,
    availability_zone: Option<&'b str>,
    container: Option<&'b str>,
    created_at: Time,
    updated_at: Option<Time>,
    description: Option<&'b str>,
    fail_reason: Option<String>,
    volume_id: Id<'b>,
    is_incremental: bool,
    has_dependent_backups: bool,
    snapshot_id: Option<Id<'b>>,
    data_timestamp: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, Value>>,
    #[serde(rename = "os-backup-project-attr:project_id", skip_serializing_if = "Option::is_none")]
    project_id: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'b str>,
}

fn detail<'b>(context: &'b Context, backup: &'b VolumeBackup) -> Detail<'b> {
    Detail {
        id: Id(&backup.uuid),
        name: backup.title.as_deref(),
        links: context.links("backups", &backup.uuid),
        status: backup.state.cinder_name(),
        size: gib(backup.size),
        object_count: backup.objects,
        availability_zone: backup.zone.as_deref(),
        container: backup.container.as_deref(),
        created_at: Time(backup.created),
        updated_at: backup.updated.map(Time),
        description: backup.description.as_deref(),
        fail_reason: backup.fail_reason.as_ref().map(|reason| reason.chars().take(MAX_REASON).collect()),
        volume_id: Id(&backup.volume_uuid),
        is_incremental: backup.parent_uuid.is_some(),
        has_dependent_backups: backup.has_children,
        snapshot_id: backup.snapshot_uuid.as_deref().map(Id),
        data_timestamp: backup.data_timestamp.map(Time),
        metadata: context.since(43).then(|| labels(backup)),
        project_id: (context.since(18) && context.is_admin()).then_some(&backup.project_uuid),
        user_id: (context.since(56) && context.is_admin()).then_some(&backup.user_uuid),
    }
}

/// A part of an instance's backup says so.
fn labels(backup: &VolumeBackup) -> BTreeMap<String, Value> {
    let mut labels: BTreeMap<String, Value> = serde_json::from_str(&backup.labels).unwrap_or_default();
    if let Some((whole, instance)) = &backup.whole {
        labels.entry("instance".into()).or_insert_with(|| instance.clone().into());
        labels.entry("instance_backup".into()).or_insert_with(|| whole.clone().into());
    }
    labels
}
