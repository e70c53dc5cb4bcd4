//! `POST /volumes/{id}/action` (Cinder contract 4.2). Attaching is a note that something on the host uses the volume.

use rusqlite::Transaction;
use serde_json::json;

use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::volume_create::MAX_SIZE;
use crate::catalog::volumes::{self, Volume};
use crate::catalog::{dashed, new_uuid};
use crate::clock;
use crate::engine::orders;
use crate::http::Response;
use crate::model::volume::VolumeState;

/// An action whose body has been understood.
enum Action {
    SetBootable(bool),
    /// GiB
    Extend(i64),
    ResetStatus { status: Option<VolumeState>, detach: bool },
    ForceDelete,
    Attach { server_id: Option<String>, host_name: Option<String>, device: Option<String> },
    Detach,
    /// From one state to another.
    Move(VolumeState, VolumeState),
    SetReadonly(bool),
}

pub fn act(context: &Context, id: &str) -> CinderResult {
    let body = body::parse(context.request)?;
    let action = read(&body)?;
    let status = if matches!(action, Action::SetBootable(_)) { 200 } else { 202 };
    context.write(|tx| {
        let volume = context.volume(tx, id)?;
        match action {
            Action::ResetStatus { .. } | Action::ForceDelete => context.admin_only()?,
            _ => context.member_only()?,
        }
        apply(tx, &volume, action)
    })?;
    context.app.engine.wake();
    Ok(Response::empty(status))
}

fn read(body: &Object) -> Result<Action, CinderError> {
    let name = super::single_action(body)?;
    let fields = |key: &'static str| {
        body.object(key)?.ok_or_else(|| CinderError::bad_request(format!("{key}: an object is required.")))
    };
    Ok(match name.as_str() {
        "os-set_bootable" => Action::SetBootable(fields("os-set_bootable")?.required_boolean("bootable")?),
        "os-update_readonly_flag" => Action::SetReadonly(fields("os-update_readonly_flag")?.required_boolean("readonly")?),
        "os-extend" => Action::Extend(new_size(&fields("os-extend")?)?),
        "os-reset_status" => reset(&fields("os-reset_status")?)?,
        "os-force_delete" => Action::ForceDelete,
        "os-attach" => attach(&fields("os-attach")?)?,
        "os-detach" => Action::Detach,
        "os-reserve" => Action::Move(VolumeState::Available, VolumeState::Attaching),
        "os-unreserve" => Action::Move(VolumeState::Attaching, VolumeState::Available),
        "os-begin_detaching" => Action::Move(VolumeState::InUse, VolumeState::Detaching),
        "os-roll_detaching" => Action::Move(VolumeState::Detaching, VolumeState::InUse),
        other => return Err(CinderError::bad_request(format!("There is no action \"{other}\" on a volume."))),
    })
}

fn new_size(fields: &Object) -> Result<i64, CinderError> {
    fields.only(&["new_size"])?;
    let size = fields.integer("new_size")?.filter(|size| (1..=MAX_SIZE).contains(size));
    size.ok_or_else(|| CinderError::bad_request(format!("new_size: a whole number of GiB from 1 to {MAX_SIZE} is required.")))
}

fn reset(fields: &Object) -> Result<Action, CinderError> {
    fields.only(&["status", "attach_status", "migration_status"])?;
    if fields.keys().all(|key| fields.get(key).is_none_or(serde_json::Value::is_null)) {
        return Err(CinderError::bad_request("os-reset_status: one of status, attach_status and migration_status is required."));
    }
    let status = match fields.text("status")?.flatten().map(|status| status.to_ascii_lowercase()) {
        None => None,
        Some(status) => {
            let state = VolumeState::from_stored(&status);
            Some(state.ok_or_else(|| CinderError::bad_request(format!("status: \"{status}\" is no state of a volume.")))?)
        }
    };
    let attach = fields.text("attach_status")?.flatten();
    match attach.as_deref() {
        None | Some("attached" | "detached" | "attaching" | "error_attaching" | "error_detaching") => {}
        Some(other) => return Err(CinderError::bad_request(format!("attach_status: \"{other}\" is no such state."))),
    }
    Ok(Action::ResetStatus { status, detach: attach.as_deref() == Some("detached") })
}

fn attach(fields: &Object) -> Result<Action, CinderError> {
    fields.only(&["instance_uuid", "host_name", "mountpoint", "mode"])?;
    let server_id = fields.uuid("instance_uuid")?.map(|uuid| dashed(&uuid));
    let host_name = fields.text("host_name")?.flatten();
    if server_id.is_some() == host_name.is_some() {
        return Err(CinderError::bad_request("os-attach: exactly one of instance_uuid and host_name is required."));
    }
    match fields.text("mode")?.flatten().as_deref() {
        None | Some("rw" | "ro") => {}
        Some(other) => return Err(CinderError::bad_request(format!("mode: \"{other}\" is neither rw nor ro."))),
    }
    Ok(Action::Attach { server_id, host_name, device: fields.text("mountpoint")?.flatten() })
}

fn apply(tx: &Transaction, volume: &Volume, action: Action) -> Result<(), CinderError> {
    let now = clock::now_ms();
    let refused = |refusal| CinderError::refused("volume", refusal);
    match action {
        Action::SetBootable(_) if volume.instance_id.is_some() => {
            return Err(CinderError::bad_request("Invalid volume: which volume of an instance it boots from is the instance's."));
        }
        Action::SetBootable(flag) => volumes::set_flags(tx, volume.id, flag, volume.readonly, now)?,
        Action::SetReadonly(_) if volume.status != VolumeState::Available => return Err(wrong_state(volume, "available")),
        Action::SetReadonly(flag) => volumes::set_flags(tx, volume.id, volume.bootable, Some(flag), now)?,
        Action::Extend(size) => orders::extend(tx, volume, size << 30).map_err(refused)?,
        Action::ForceDelete => orders::delete_volume(tx, volume, true).map_err(refused)?,
        Action::ResetStatus { status, detach } => {
            if detach {
                volumes::set_attachment(tx, volume.id, None, now)?;
            }
            if let Some(state) = status {
                orders::reset_volume(tx, volume, state)?;
            }
        }
        Action::Attach { server_id, host_name, device } => {
            if !matches!(volume.status, VolumeState::Available | VolumeState::Attaching) {
                return Err(wrong_state(volume, "available or attaching"));
            }
            let note = json!({"id": dashed(&new_uuid()), "server_id": server_id, "host_name": host_name, "device": device, "at": now});
            volumes::set_attachment(tx, volume.id, Some(&note.to_string()), now)?;
            volumes::set_state(tx, volume.id, VolumeState::InUse, "", now)?;
        }
        Action::Detach => {
            if volume.attachment.is_none() || !matches!(volume.status, VolumeState::InUse | VolumeState::Detaching) {
                return Err(CinderError::bad_request("Invalid volume: nothing that was attached with os-attach uses it."));
            }
            volumes::set_attachment(tx, volume.id, None, now)?;
            volumes::set_state(tx, volume.id, VolumeState::Available, "", now)?;
        }
        Action::Move(from, to) if volume.status == from => volumes::set_state(tx, volume.id, to, "", now)?,
        // To give up what was never begun is no error.
        Action::Move(VolumeState::Attaching, _) => {}
        Action::Move(from, _) => return Err(wrong_state(volume, from.as_str())),
    }
    Ok(())
}

fn wrong_state(volume: &Volume, needed: &str) -> CinderError {
    CinderError::bad_request(format!("Invalid volume: it is in state '{}'; it must be {needed}.", volume.status.as_str()))
}
