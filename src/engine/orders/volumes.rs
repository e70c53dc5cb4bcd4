//! Orders about volumes themselves: make, extend, remove.

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::{Refusal, fits, log_volume};
use crate::catalog::backups;
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, JobKind};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::clock;
use crate::model::backup::BackupState;
use crate::model::quota::{QuotaName, gib};
use crate::model::volume::VolumeState;

/// A new volume, empty or with another one's bytes. One from a backup or snapshot is a restore.
pub fn create_volume(tx: &Transaction, new: &NewVolume, source: Option<&Volume>) -> Result<i64, Refusal> {
    if let Some(source) = source {
        if !source.status.can_be_read(true) {
            return Err(Refusal::VolumeState { state: source.status, needed: "available or in-use" });
        }
        if source.size > new.size {
            return Err(Refusal::TooSmall { what: "the source volume", needed: source.size, found: new.size });
        }
    }
    fits_new(tx, new.project_id, new.size)?;
    let id = volumes::insert(tx, new)?;
    let kind = if source.is_some() { JobKind::Copy } else { JobKind::Provision };
    jobs::insert_volume_job(tx, kind, id, source.map(|source| source.id), &Value::Null, clock::now_ms())?;
    if let Some(volume) = volumes::by_id(tx, id)? {
        log_volume(tx, &volume, "resource_volume_creation_scheduled", Severity::Info, || {
            format!("Creation of volume {} has been scheduled.", volume.title())
        })?;
    }
    Ok(id)
}

/// Does a new volume of this size (bytes) fit the project's quotas?
pub(super) fn fits_new(tx: &Transaction, project_id: i64, size: i64) -> Result<(), Refusal> {
    let additions = [
        (QuotaName::Volumes, 1),
        (QuotaName::Gigabytes, gib(size)),
        (QuotaName::PerVolumeGigabytes, gib(size)),
        (QuotaName::Storage, size),
    ];
    fits(tx, project_id, &additions)
}

/// Makes a volume larger, to this many bytes.
pub fn extend(tx: &Transaction, volume: &Volume, size: i64) -> Result<(), Refusal> {
    if volume.status != VolumeState::Available {
        return Err(Refusal::VolumeState { state: volume.status, needed: "available" });
    }
    if gib(size) <= gib(volume.size) {
        return Err(Refusal::MustGrow(gib(volume.size)));
    }
    if !volume.managed {
        return Err(Refusal::NotManaged);
    }
    let additions = [
        (QuotaName::Gigabytes, gib(size) - gib(volume.size)),
        (QuotaName::PerVolumeGigabytes, gib(size)),
        (QuotaName::Storage, size - volume.size),
    ];
    fits(tx, volume.project_id, &additions)?;
    let now = clock::now_ms();
    volumes::set_size(tx, volume.id, size)?;
    volumes::set_state(tx, volume.id, VolumeState::Extending, "", now)?;
    jobs::insert_volume_job(tx, JobKind::Extend, volume.id, None, &json!({"before": volume.size}), now)?;
    Ok(())
}

/// Removes the volume, and its file if cofferd made it. `force`: from whatever state; what is being done with it ends first.
pub fn delete_volume(tx: &Transaction, volume: &Volume, force: bool) -> Result<(), Refusal> {
    if volumes::has_snapshots(tx, volume.id)? {
        return Err(Refusal::HasSnapshots);
    }
    erase(tx, volume, force)
}

fn erase(tx: &Transaction, volume: &Volume, force: bool) -> Result<(), Refusal> {
    if volume.instance_id.is_some() {
        return Err(Refusal::InInstance);
    }
    if !force && !volume.status.can_be_deleted() {
        return Err(Refusal::VolumeState { state: volume.status, needed: "available, or in an error state" });
    }
    if jobs::is_promised(tx, JobKind::Erase, volume.id)? {
        return Ok(());
    }
    let now = clock::now_ms();
    volumes::set_state(tx, volume.id, VolumeState::Deleting, "", now)?;
    jobs::insert_volume_job(tx, JobKind::Erase, volume.id, None, &Value::Null, now)?;
    log_volume(tx, volume, "resource_volume_deletion_scheduled", Severity::Info, || {
        format!("Deletion of volume {} has been scheduled.", volume.title())
    })?;
    Ok(())
}

/// An administrator's word on the state of a volume: he who takes it out of `deleting` wants it back, so its deletion is called off.
pub fn reset_volume(tx: &Transaction, volume: &Volume, state: VolumeState) -> rusqlite::Result<()> {
    if state != VolumeState::Deleting {
        jobs::revoke_on_volume(tx, volume.id, JobKind::Erase)?;
    }
    volumes::set_state(tx, volume.id, state, "", clock::now_ms())
}

/// Removes the record of a volume at once, as the administrator's commands and the removal of an instance do, if nothing stands against it.
pub fn forget_volume(tx: &Transaction, volume: &Volume) -> Result<(), Refusal> {
    if volumes::has_snapshots(tx, volume.id)? {
        return Err(Refusal::HasSnapshots);
    }
    if jobs::on_volume(tx, volume.id)? {
        return Err(Refusal::Busy);
    }
    Ok(volumes::delete(tx, volume.id)?)
}

/// The same, and if cofferd has made its file, that goes too: promised with the rest, so that no crash leaves it behind.
pub fn discard_volume(tx: &Transaction, volume: &Volume) -> Result<(), Refusal> {
    forget_volume(tx, volume)?;
    if volume.managed {
        // Those of an instance have a directory of their own.
        jobs::insert_file_removal(tx, &volume.path, volume.instance_id.is_some(), clock::now_ms())?;
    }
    Ok(())
}

/// Removes the volume and all its snapshots, if none of them is at work.
pub fn delete_volume_with_snapshots(tx: &Transaction, volume: &Volume, force: bool) -> Result<(), Refusal> {
    for backup in backups::snapshots_of(tx, volume.id)? {
        match backup.state {
            BackupState::Deleting => {}
            _ => super::delete(tx, &backup)?,
        }
    }
    erase(tx, volume, force)
}
