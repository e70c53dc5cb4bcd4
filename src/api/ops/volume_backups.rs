//! Backups and snapshots of volumes alone, which Cinder's face made: for the administrator's commands, beside those of instances.

use serde_json::{Value, json};

use crate::api::text::timestamp;
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::uuid_segment;
use crate::catalog::list::Filter;
use crate::catalog::volume_backups::{self, VolumeBackup};
use crate::catalog::{projects, volumes};
use crate::engine::orders;
use crate::http::Response;
use crate::model::backup::BackupState;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context))]),
        [uuid] => context.methods(&[("GET", &|| show(context, uuid)), ("DELETE", &|| delete(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

/// `volume`: uuid of the volume that they are of.
fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        filter.push("vb.kind <> 'instance'", []);
        if let Some(volume) = context.param("volume") {
            filter.equals("vb.volume_uuid", uuid_segment(volume)?);
        }
        let paging = context.page(volume_backups::count(c, &filter)?, "vb.created, vb.uuid")?;
        let rows = volume_backups::rows(c, &filter, &paging.page)?;
        let items = rows.iter().map(|backup| to_json(context, c, backup)).collect::<Result<_, _>>()?;
        Ok(context.list(&paging, items))
    })
}

fn find(c: &rusqlite::Connection, uuid: &str) -> Result<VolumeBackup, ApiError> {
    let found = volume_backups::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?;
    match &found.whole {
        Some((whole, instance)) => Err(ApiError::detail(409, format!("This is one volume in backup {whole} of instance {instance}; name that."))),
        None => Ok(found),
    }
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| Ok(Response::json(200, &to_json(context, c, &find(c, uuid)?)?)))
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let backup = find(tx, uuid)?;
        orders::delete_volume_backup(tx, &backup).map_err(|refusal| ApiError::refused("delete", refusal))
    })?;
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"detail": "Deletion was scheduled."})))
}

/// Sizes in bytes; states in Waldur's words, as the commands show those of instances' backups.
fn to_json(context: &Context, c: &rusqlite::Connection, backup: &VolumeBackup) -> Result<Value, ApiError> {
    let volume = backup.volume_id.map(|id| volumes::by_id(c, id)).transpose()?.flatten();
    let running = context.app.engine.running(backup.backup_id);
    Ok(json!({
        "uuid": backup.uuid,
        "kind": backup.kind.as_str(),
        "name": backup.title,
        "description": backup.description,
        "state": backup.state.display(),
        "error_message": if backup.state == BackupState::Erred { backup.fail_reason.as_deref().unwrap_or_default() } else { "" },
        "is_incremental": backup.parent_uuid.is_some(),
        "volume_uuid": backup.volume_uuid,
        "volume_name": volume.map_or_else(|| backup.volume_name.clone(), |volume| volume.name),
        "project_uuid": backup.project_uuid,
        "project_name": projects::by_id(c, backup.project_id)?.name,
        "created_at": timestamp(backup.created),
        "size_bytes": backup.size,
        "stored_bytes": backup.stored,
        "copies": super::copies::of_backup(context, c, backup.backup_id)?,
        "progress": running.map(|running| running.to_json()),
    }))
}
