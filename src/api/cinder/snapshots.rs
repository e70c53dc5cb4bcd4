//! `/snapshots`: a volume's bytes at one moment, kept in the store, to make volumes and backups from (Cinder contract 4.2).

use serde::Serialize;
use serde_json::{Value, json};

use super::admin_actions;
use super::body;
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::listing::{Collection, Column, Listing};
use super::metadata::{self, Labels, Owner};
use super::wire::{Id, Time};
use crate::catalog::volume_backups::{self, VolumeBackup};
use crate::catalog::dashed;
use crate::clock;
use crate::engine::orders::{self, VolumeBackupOrder};
use crate::http::Response;
use crate::model::backup::BackupState;
use crate::model::quota::gib;

pub const COLLECTION: Collection = Collection {
    name: "snapshots",
    noun: "Snapshot",
    from: volume_backups::FROM,
    uuid: "vb.uuid",
    created: "vb.created",
    project: "vb.project_id",
    condition: "vb.kind = 'snapshot'",
    columns: &[
        ("id", Column::Uuid("vb.uuid")),
        ("name", Column::Text("vb.title")),
        ("display_name", Column::Text("vb.title")),
        ("description", Column::Text("vb.description")),
        ("status", Column::Text(super::backups::STATE)),
        ("volume_id", Column::Uuid("vb.volume_uuid")),
        ("volume_size", Column::Number("((vb.size + 1073741823) >> 30)")),
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
        ("GET", [id]) => show(context, super::member(id)),
        ("PUT", [id]) => update(context, super::member(id)),
        ("DELETE", [id]) => delete(context, super::member(id)),
        ("POST", [id, "action"]) => admin_actions::act(context, "snapshot", |c| context.snapshot(c, id)),
        (_, [id, "metadata", rest @ ..]) => metadata::route(context, Owner::Snapshot, method, id, rest),
        _ => Err(CinderError::not_found()),
    }
}

fn list(context: &Context, detailed: bool) -> CinderResult {
    context.read(|c| {
        let listing = Listing::read(context, c, &COLLECTION, |_, _, _| Ok(false))?;
        let rows = listing.rows(|filter, page| volume_backups::rows(c, filter, page))?;
        let items: Vec<View> = rows.iter().map(|snapshot| view(context, snapshot, detailed)).collect();
        let last = rows.last().map(|snapshot| snapshot.uuid.as_str());
        listing.answer(context, &COLLECTION, &items, last, |filter| volume_backups::count(c, filter))
    })
}

fn show(context: &Context, id: &str) -> CinderResult {
    context.read(|c| Ok(Response::json(200, &json!({"snapshot": view(context, &context.snapshot(c, id)?, true)}))))
}

fn create(context: &Context) -> CinderResult {
    let fields = body::unwrap(context.request, "snapshot")?;
    fields.only(&["volume_id", "name", "display_name", "description", "display_description", "force", "metadata"])?;
    // Clients that leave the volume out send null, and look for a 404.
    if matches!(fields.get("volume_id"), Some(Value::Null)) {
        return Err(CinderError::no_such("Volume", "null"));
    }
    let volume_id = fields.required_uuid("volume_id")?;
    let name = fields.name("name")?.flatten().or(fields.name("display_name")?.flatten());
    let description = fields.description("description")?.flatten().or(fields.description("display_description")?.flatten());
    let labels = fields.labels("metadata")?.flatten();
    let force = force(context, &fields)?;
    let snapshot = context.write(|tx| {
        let volume = context.volume(tx, &dashed(&volume_id))?;
        context.member_only()?;
        let order = VolumeBackupOrder {
            volume: &volume,
            project_id: context.project_id(),
            snapshot: None,
            user_uuid: context.user_uuid(),
            title: name.as_deref(),
            description: description.as_deref(),
            labels: labels.as_deref().unwrap_or_default(),
            container: None,
            zone: None,
            incremental: false,
            force,
        };
        orders::take_snapshot(tx, &order).map_err(|refusal| CinderError::refused("volume", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"snapshot": view(context, &snapshot, false)})))
}

/// Since 3.66 a snapshot of a volume in use needs no force, and to say that there is none makes no sense.
fn force(context: &Context, fields: &body::Object) -> Result<bool, CinderError> {
    match fields.get("force") {
        None => Ok(context.since(66)),
        Some(_) if !context.since(66) => fields.boolean("force"),
        Some(_) if fields.boolean("force")? => Ok(true),
        Some(_) => Err(CinderError::bad_request("force: since version 3.66 snapshots are always forced; leave it out.")),
    }
}

fn update(context: &Context, id: &str) -> CinderResult {
    let fields = body::unwrap(context.request, "snapshot")?;
    let name = fields.name("name")?.or(fields.name("display_name")?);
    let description = fields.description("description")?.or(fields.description("display_description")?);
    if name.is_none() && description.is_none() {
        return Err(CinderError::bad_request("snapshot: there is nothing to change; name and description can be."));
    }
    fields.only(&["name", "display_name", "description", "display_description"])?;
    context.write(|tx| {
        let snapshot = context.snapshot(tx, id)?;
        context.member_only()?;
        let name = name.unwrap_or_else(|| snapshot.title.clone());
        let description = description.unwrap_or_else(|| snapshot.description.clone());
        volume_backups::set_texts(tx, &snapshot, name.as_deref(), description.as_deref(), &snapshot.labels, clock::now_ms())?;
        Ok(Response::json(200, &json!({"snapshot": view(context, &context.snapshot(tx, id)?, false)})))
    })
}

fn delete(context: &Context, id: &str) -> CinderResult {
    context.write(|tx| {
        let snapshot = context.snapshot(tx, id)?;
        context.member_only()?;
        orders::delete_volume_backup(tx, &snapshot).map_err(|refusal| CinderError::refused("snapshot", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::empty(202))
}

// ---- out

/// Exactly the keys of Cinder contract 4.2.
#[derive(Serialize)]
struct View<'s> {
    id: Id<'s>,
    name: Option<&'s str>,
    description: Option<&'s str>,
    volume_id: Id<'s>,
    status: &'static str,
    /// GiB
    size: i64,
    created_at: Time,
    updated_at: Option<Time>,
    metadata: Labels,
    #[serde(rename = "os-extended-snapshot-attributes:project_id", skip_serializing_if = "Option::is_none")]
    project_id: Option<&'s str>,
    #[serde(rename = "os-extended-snapshot-attributes:progress", skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_snapshot_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
}

fn view<'s>(context: &Context, snapshot: &'s VolumeBackup, detailed: bool) -> View<'s> {
    View {
        id: Id(&snapshot.uuid),
        name: snapshot.title.as_deref(),
        description: snapshot.description.as_deref(),
        volume_id: Id(&snapshot.volume_uuid),
        status: snapshot.state.cinder_name(),
        size: gib(snapshot.size),
        created_at: Time(snapshot.created),
        updated_at: snapshot.updated.map(Time),
        metadata: metadata::parse(&snapshot.labels),
        project_id: detailed.then_some(&snapshot.project_uuid),
        progress: detailed.then(|| progress(context, snapshot)),
        group_snapshot_id: (detailed && context.since(14)).then_some(Value::Null),
        user_id: (detailed && context.since(41)).then_some(&snapshot.user_uuid),
        consumes_quota: (detailed && context.since(65)).then_some(true),
    }
}

/// How much of the volume has been read.
fn progress(context: &Context, snapshot: &VolumeBackup) -> String {
    use std::sync::atomic::Ordering::Relaxed;
    let percent = match snapshot.state {
        BackupState::BackingUp => context.app.engine.running(snapshot.backup_id).map_or(0, |running| {
            let (read, total) = (running.progress.read.load(Relaxed), running.progress.total.load(Relaxed));
            (read * 100).checked_div(total).unwrap_or(0).min(99)
        }),
        BackupState::Erred if snapshot.map_id.is_none() => 0,
        _ => 100,
    };
    format!("{percent}%")
}
