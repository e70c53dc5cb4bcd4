//! Copies of backups in further places: which there are or are to be, and those that somebody asks for.

use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::tasks;
use crate::api::text::timestamp;
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::fields::Text;
use crate::api::waldur::uuid_segment;
use crate::catalog::backups::{self, Backup};
use crate::catalog::copies::{self, Copy};
use crate::catalog::list::Filter;
use crate::catalog::repositories::{self, COFFER};
use crate::clock;
use crate::engine::tasks::progress_json;
use crate::model::backup::{BackupKind, BackupState};

/// `repository`: those in this place.
pub fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        if let Some(name) = context.param("repository") {
            filter.equals("ifnull(r.name, 'coffer')", name.to_owned());
        }
        let paging = context.page(copies::count(c, &filter)?, "c.id")?;
        let rows = copies::rows(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|copy| to_json(context, copy)).collect()))
    })
}

/// Those of one backup, in short.
pub fn of_backup(context: &Context, c: &Connection, backup_id: i64) -> Result<Value, ApiError> {
    let short = |copy: &Copy| {
        let all = to_json(context, copy);
        json!({"repository": all["repository"], "state": all["state"], "error_message": all["error_message"]})
    };
    Ok(copies::of_backup(c, backup_id)?.iter().map(short).collect())
}

/// {to, backups}: these backups, or all, are to be in this place too. The task ends when they are; what is not there then is tried
/// again by itself.
pub fn replicate(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let to = fields.text("to", &Text::required(64)).unwrap_or_default();
    let wanted = match fields.get("backups").cloned() {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        }
        Some(_) => {
            fields.error("backups", "A list of uuids is required.");
            None
        }
    };
    let place = context.read(|c| Ok(repositories::by_name(c, &to)?))?;
    // What the configuration does not name any more has a row, but cannot be sent to.
    let known = to == COFFER || place.as_ref().is_some_and(|place| context.app.config().repositories.contains_key(&place.name));
    if !known && !to.is_empty() {
        fields.error("to", format!("There is no repository {to:?} in the configuration."));
    }
    fields.finish()?;
    let place = place.map(|place| place.id);
    let ordered = context.write(|tx| {
        let chosen = match &wanted {
            Some(uuids) => uuids.iter().map(|uuid| find(tx, uuid, place, &to)).collect::<Result<Vec<_>, _>>()?,
            None => everything(tx, place)?,
        };
        let order = |id: &i64| copies::order(tx, *id, place, clock::now_ms());
        Ok(chosen.iter().map(order).collect::<Result<Vec<_>, _>>()?)
    })?;
    tasks::spawn(context, "replicate", move |app, task| app.engine.wait_for_copies(&ordered, task).map_err(|error| error.to_string()))
}

fn find(tx: &Transaction, uuid: &str, place: Option<i64>, to: &str) -> Result<i64, ApiError> {
    let refuse = |why: String| Err(ApiError::detail(409, why));
    let Some(backup) = backups::get(tx, &uuid_segment(uuid)?)? else {
        return Err(ApiError::field("backups", format!("There is no backup {uuid}.")));
    };
    match &backup {
        Backup { kind: BackupKind::Snapshot, .. } => refuse(format!("{uuid} is a snapshot, which stays on this host; back it up there.")),
        Backup { state, .. } if !can_be_copied(*state) => refuse(format!("Cannot copy backup {uuid} in state '{}'.", state.display())),
        Backup { repository_id, .. } if *repository_id == place => refuse(format!("Backup {uuid} lies in {to} already.")),
        backup => Ok(backup.id),
    }
}

fn can_be_copied(state: BackupState) -> bool {
    matches!(state, BackupState::Ready | BackupState::Restoring)
}

fn everything(tx: &Transaction, place: Option<i64>) -> rusqlite::Result<Vec<i64>> {
    let mut chosen = Vec::new();
    for state in [BackupState::Ready, BackupState::Restoring] {
        let found = backups::in_state(tx, state)?.into_iter();
        chosen.extend(found.filter(|backup| backup.kind != BackupKind::Snapshot && backup.repository_id != place).map(|backup| backup.id));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn to_json(context: &Context, copy: &Copy) -> Value {
    let running = context.app.engine.copies.running(copy.id);
    json!({
        "backup": copy.backup_uuid,
        "repository": copy.repository,
        "state": if running.is_some() && copy.finished.is_none() { "copying" } else { copy.state() },
        "error_message": copy.error_message,
        "automatic": copy.automatic,
        "created": timestamp(copy.created),
        "finished": copy.finished.map(timestamp),
        "next_try": (copy.finished.is_none() && copy.next_at > 0).then(|| timestamp(copy.next_at)),
        "stored_bytes": copy.stored,
        "progress": running.map(|running| progress_json(&running.progress)),
    })
}
