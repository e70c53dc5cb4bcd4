//! `POST /backups/{id}/action` and `/snapshots/{id}/action`: what an administrator does when the usual ways do not lead on, and how
//! he cancels what is running (Cinder contract 1.8).

use rusqlite::Connection;

use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use crate::catalog::volume_backups::VolumeBackup;
use crate::engine::orders;
use crate::http::Response;

enum Action {
    ResetStatus { available: bool },
    ForceDelete,
}

/// `noun`: "backup" or "snapshot"; `find` looks it up.
pub fn act(context: &Context, noun: &str, find: impl Fn(&Connection) -> Result<VolumeBackup, CinderError>) -> CinderResult {
    let body = body::parse(context.request)?;
    let action = match super::single_action(&body)?.as_str() {
        "os-reset_status" => Action::ResetStatus { available: wants_available(&body)? },
        "os-force_delete" => Action::ForceDelete,
        other => return Err(CinderError::bad_request(format!("There is no action \"{other}\" on a {noun}."))),
    };
    let (backup_id, cancel) = context.write(|tx| {
        let backup = find(tx)?;
        context.admin_only()?;
        let cancel = match action {
            Action::ResetStatus { available } => orders::reset_status(tx, &backup, available),
            Action::ForceDelete => orders::force_delete(tx, &backup),
        };
        Ok((backup.backup_id, cancel.map_err(|refusal| CinderError::refused(noun, refusal))?))
    })?;
    if cancel {
        context.app.engine.cancel(backup_id);
    }
    context.app.engine.wake();
    Ok(Response::empty(202))
}

/// Is the state that is asked for `available`, or else `error`?
fn wants_available(body: &Object) -> Result<bool, CinderError> {
    let fields = body.object("os-reset_status")?;
    let fields = fields.ok_or_else(|| CinderError::bad_request("os-reset_status: an object with a status is required."))?;
    fields.only(&["status"])?;
    match fields.text("status")?.flatten().map(|status| status.to_ascii_lowercase()).as_deref() {
        Some("available") => Ok(true),
        Some("error") => Ok(false),
        _ => Err(CinderError::bad_request("status: it can be reset to \"available\" or \"error\".")),
    }
}
