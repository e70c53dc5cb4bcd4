//! Orders about backups and snapshots of single volumes, as Cinder has them.

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::{Refusal, begin_restore, delete, fits, log_backup};
use crate::catalog::backups::{self, Backup, NewBackup};
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, JobKind};
use crate::catalog::{copies, new_uuid, repositories};
use crate::catalog::volume_backups::{self, Face, NewVolumeBackup, VolumeBackup, ZONE};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::clock;
use crate::engine::create;
use crate::model::backup::{BackupAction, BackupKind, BackupState};
use crate::model::quota::{QuotaName, gib};
use crate::model::volume::VolumeState;
use crate::store::Store;

/// A backup or a snapshot of one volume.
pub struct VolumeBackupOrder<'a> {
    pub volume: &'a Volume,
    /// Whose the backup is: an administrator's, of another project's volume, is his own.
    pub project_id: i64,
    /// Back up what this snapshot of the volume has instead.
    pub snapshot: Option<&'a VolumeBackup>,
    pub user_uuid: &'a str,
    pub title: Option<&'a str>,
    pub description: Option<&'a str>,
    /// JSON object of strings.
    pub labels: &'a str,
    /// Of backups only, as are the next two.
    pub container: Option<&'a str>,
    pub zone: Option<&'a str>,
    pub incremental: bool,
    /// Although something uses the volume.
    pub force: bool,
}

/// Promises the backup and returns its row. One of a snapshot is Ready at once if it lies in the same place, because its data is stored
/// already.
pub fn back_up_volume(tx: &Transaction, order: &VolumeBackupOrder) -> Result<VolumeBackup, Refusal> {
    let (volume, project_id) = (order.volume, order.project_id);
    match order.snapshot {
        Some(snapshot) if snapshot.state != BackupState::Ready => return Err(Refusal::State(snapshot.state)),
        Some(_) => {}
        None if !volume.status.can_be_read(order.force) => {
            return Err(Refusal::VolumeState { state: volume.status, needed: "available, or in-use and the backup forced" });
        }
        None => {}
    }
    let size = order.snapshot.map_or(volume.size, |snapshot| snapshot.size);
    let additions = [(QuotaName::Backups, 1), (QuotaName::BackupGigabytes, gib(size)), (QuotaName::Storage, size)];
    fits(tx, project_id, &additions)?;
    let before = order.snapshot.map(|snapshot| snapshot.created);
    let parent_id = match order.incremental {
        true => Some(volume_backups::newest_parent(tx, project_id, volume.id, before)?.ok_or(Refusal::NoParent)?),
        false => None,
    };
    let now = clock::now_ms();
    let uuid = new_uuid();
    let face = Face {
        title: order.title,
        description: order.description,
        labels: order.labels,
        container: order.container,
        zone: order.zone,
        parent_id,
        snapshot_uuid: order.snapshot.map(|snapshot| snapshot.uuid.as_str()),
        data_timestamp: Some(before.unwrap_or(now)),
    };
    let repository_id = repositories::destination(tx, order.container)?.map(|repository| repository.id);
    let backup_id = insert_backup(tx, &uuid, BackupKind::Volume, project_id, size, order.user_uuid, repository_id, now)?;
    let new = NewVolumeBackup { project_id, size, position: 0, ..NewVolumeBackup::of(volume, &uuid, backup_id, BackupKind::Volume, now, face) };
    let id = volume_backups::insert(tx, &new)?;
    logged(tx, backup_id, "resource_backup_creation_scheduled", "has been scheduled")?;
    match (order.zone, order.snapshot.and_then(|snapshot| snapshot.map_id)) {
        // As if a scheduler had looked for a service there and found none (Cinder contract 1.1).
        (Some(zone), _) if zone != ZONE => {
            let reason = format!("there is no backup service in availability zone {zone}; the only one is {ZONE}");
            create::fail(tx, backup_id, &reason)?;
        }
        (_, Some(map_id)) if repository_id.is_none() && Store::map_repository(tx, map_id)? == Some(0) => {
            volume_backups::complete(tx, id, map_id, 0, 0)?;
            backups::complete(tx, backup_id, 0, now)?;
            copies::order_wanted(tx, Some(backup_id), now)?;
            logged(tx, backup_id, "resource_backup_creation_succeeded", "has been created")?;
        }
        // Elsewhere it has to be stored once more, and not from the volume, which may have changed since.
        (_, Some(map_id)) => jobs::insert(tx, JobKind::Create, backup_id, None, &json!({"map": map_id}), now)?,
        _ => jobs::insert(tx, JobKind::Create, backup_id, None, &Value::Null, now)?,
    }
    find(tx, id)
}

/// A snapshot: the volume's bytes as they are, kept in the store.
pub fn take_snapshot(tx: &Transaction, order: &VolumeBackupOrder) -> Result<VolumeBackup, Refusal> {
    let (volume, project_id) = (order.volume, order.project_id);
    if !volume.status.can_be_read(order.force) {
        return Err(Refusal::VolumeState { state: volume.status, needed: "available, or in-use and the snapshot forced" });
    }
    let additions =
        [(QuotaName::Snapshots, 1), (QuotaName::Gigabytes, gib(volume.size)), (QuotaName::Storage, volume.size)];
    fits(tx, project_id, &additions)?;
    let now = clock::now_ms();
    let uuid = new_uuid();
    let backup_id = insert_backup(tx, &uuid, BackupKind::Snapshot, project_id, volume.size, order.user_uuid, None, now)?;
    let face = Face {
        title: order.title,
        description: order.description,
        labels: order.labels,
        data_timestamp: Some(now),
        ..Face::default()
    };
    let new = NewVolumeBackup { project_id, position: 0, ..NewVolumeBackup::of(volume, &uuid, backup_id, BackupKind::Snapshot, now, face) };
    let id = volume_backups::insert(tx, &new)?;
    jobs::insert(tx, JobKind::Create, backup_id, None, &Value::Null, now)?;
    logged(tx, backup_id, "resource_backup_creation_scheduled", "has been scheduled")?;
    find(tx, id)
}

/// Cinder's order to delete a backup or a snapshot. Unlike retention it respects what was asked to be incremental to it.
pub fn delete_volume_backup(tx: &Transaction, backup: &VolumeBackup) -> Result<(), Refusal> {
    alone(backup)?;
    if !backup.state.allows(BackupAction::Delete) {
        return Err(Refusal::State(backup.state));
    }
    if volume_backups::is_parent(tx, backup.id)? {
        return Err(Refusal::HasChildren);
    }
    delete(tx, &whole(tx, backup.backup_id)?)
}

/// Deletes it from whatever state. True: something is being done with it, which the caller must cancel ([`Engine::cancel`]) after
/// the commit; the deletion comes after that.
///
/// [`Engine::cancel`]: crate::engine::Engine::cancel
pub fn force_delete(tx: &Transaction, backup: &VolumeBackup) -> Result<bool, Refusal> {
    alone(backup)?;
    if volume_backups::is_parent(tx, backup.id)? {
        return Err(Refusal::HasChildren);
    }
    if backup.state == BackupState::Deleting {
        return Ok(false);
    }
    create::revoke(tx, backup.backup_id)?;
    backups::reset(tx, backup.backup_id, BackupState::Erred, clock::now_ms())?;
    delete(tx, &whole(tx, backup.backup_id)?)?;
    Ok(matches!(backup.state, BackupState::BackingUp | BackupState::Restoring))
}

/// An administrator's word on the state of a backup or snapshot. What is not stored cannot be declared available. True: something
/// is being done with it that is to be cancelled, see [`force_delete`].
pub fn reset_status(tx: &Transaction, backup: &VolumeBackup, available: bool) -> Result<bool, Refusal> {
    alone(backup)?;
    let now = clock::now_ms();
    match (backup.state, available) {
        // It is on its way.
        (BackupState::BackingUp, true) => return Ok(false),
        (BackupState::BackingUp, false) => {
            create::revoke(tx, backup.backup_id)?;
            backups::fail(tx, backup.backup_id, "cancelled: an administrator has reset its state", now)?;
        }
        (_, true) if backup.map_id.is_none() => return Err(Refusal::NoData),
        (_, available) => {
            jobs::revoke(tx, backup.backup_id, JobKind::Delete)?;
            let state = if available { BackupState::Ready } else { BackupState::Erred };
            backups::reset(tx, backup.backup_id, state, now)?;
        }
    }
    let word = if available { "available" } else { "error" };
    let whole = whole(tx, backup.backup_id)?;
    log_backup(tx, &whole, "resource_backup_state_reset", Severity::Warning, || {
        format!("The state of a {} of {} has been reset to {word} by an administrator.", whole.kind.noun(), whole.subject)
    })?;
    Ok(matches!(backup.state, BackupState::BackingUp | BackupState::Restoring))
}

/// The backup is to be written over an existing volume.
pub fn restore_to_volume(tx: &Transaction, backup: &VolumeBackup, volume: &Volume) -> Result<(), Refusal> {
    if backup.state != BackupState::Ready {
        return Err(Refusal::State(backup.state));
    }
    if volume.status == VolumeState::ErrorRestoring {
        let needed = "available; if its file or device is there again, an administrator can say so (os-reset_status)";
        return Err(Refusal::VolumeState { state: volume.status, needed });
    }
    if volume.status != VolumeState::Available {
        return Err(Refusal::VolumeState { state: volume.status, needed: "available" });
    }
    if backup.size > volume.size {
        return Err(Refusal::TooSmall { what: "the backup", needed: backup.size, found: volume.size });
    }
    let target = json!({"volume": volume.id, "part": backup.id, "fresh": false});
    begin_restore(tx, &whole(tx, backup.backup_id)?, Some(volume.id), &target)
}

/// The backup or snapshot is to be written to a new volume, whose row this inserts. Returns its id.
pub fn restore_to_new_volume(tx: &Transaction, backup: &VolumeBackup, new: &NewVolume, rename: bool) -> Result<i64, Refusal> {
    if backup.state != BackupState::Ready {
        return Err(Refusal::State(backup.state));
    }
    if backup.size > new.size {
        return Err(Refusal::TooSmall { what: if backup.kind == BackupKind::Snapshot { "the snapshot" } else { "the backup" }, needed: backup.size, found: new.size });
    }
    super::volumes::fits_new(tx, new.project_id, new.size)?;
    let volume_id = volumes::insert(tx, new)?;
    let target = json!({"volume": volume_id, "part": backup.id, "fresh": true, "rename": rename});
    begin_restore(tx, &whole(tx, backup.backup_id)?, Some(volume_id), &target)?;
    Ok(volume_id)
}

/// A backup's record from elsewhere, or of this coffer's own earlier days.
pub struct ImportedBackup<'a> {
    pub uuid: &'a str,
    pub project_id: i64,
    pub user_uuid: &'a str,
    pub face: Face<'a>,
    pub volume_uuid: &'a str,
    pub volume_name: &'a str,
    pub volume_description: Option<&'a str>,
    pub volume_labels: &'a str,
    pub bootable: bool,
    pub objects: i64,
    /// Bytes, for a record whose data is not here.
    pub size: i64,
    /// Hash of the content, if the record names one of ours.
    pub map_hash: Option<&'a [u8]>,
}

/// Inserts the backup beside others that may refer to the same data. If its data is not in this coffer it is Erred.
pub fn import(tx: &Transaction, record: &ImportedBackup) -> Result<VolumeBackup, Refusal> {
    if volume_backups::get(tx, record.uuid)?.is_some() || backups::get(tx, record.uuid)?.is_some() {
        return Err(Refusal::Exists);
    }
    let named = match record.face.container {
        Some(name) => repositories::by_name(tx, name)?,
        None => None,
    };
    let found = match record.map_hash {
        Some(hash) => Store::find_map(tx, hash, named.as_ref().map_or(0, |named| named.id))?,
        None => None,
    };
    // What only failed backups refer to may lack something.
    let found = match found {
        Some((map, ..)) if !volume_backups::is_map_whole(tx, map)? => None,
        found => found,
    };
    let size = found.map_or(record.size, |(_, size, _)| size);
    let repository_id = found.map(|(.., repository)| repository).filter(|repository| *repository != 0);
    fits(tx, record.project_id, &[(QuotaName::Backups, 1), (QuotaName::BackupGigabytes, gib(size)), (QuotaName::Storage, size)])?;
    let now = clock::now_ms();
    let backup_id = insert_backup(tx, record.uuid, BackupKind::Volume, record.project_id, size, record.user_uuid, repository_id, now)?;
    let new = NewVolumeBackup {
        uuid: record.uuid,
        backup_id,
        kind: BackupKind::Volume,
        project_id: record.project_id,
        position: 0,
        volume_id: volumes::get(tx, record.volume_uuid)?.map(|volume| volume.id),
        volume_uuid: record.volume_uuid,
        volume_name: record.volume_name,
        volume_description: record.volume_description,
        volume_labels: record.volume_labels,
        bootable: record.bootable,
        size,
        created: now,
        face: record.face,
    };
    let id = volume_backups::insert(tx, &new)?;
    match found {
        // It gets a manifest of its own there.
        Some((map_id, ..)) if repository_id.is_some() => {
            volume_backups::complete(tx, id, map_id, 0, record.objects)?;
            jobs::insert(tx, JobKind::Create, backup_id, None, &Value::Null, now)?;
        }
        Some((map_id, ..)) => {
            volume_backups::complete(tx, id, map_id, 0, record.objects)?;
            backups::complete(tx, backup_id, 0, now)?;
            copies::order_wanted(tx, Some(backup_id), now)?;
            logged(tx, backup_id, "resource_backup_creation_succeeded", "has been imported")?;
        }
        None => {
            let reason = match named {
                Some(named) => format!(
                    "the record names no data that this coffer knows of; if it is in repository {}, let an administrator take that in \
                     with `cofferd repository attach {}` first", named.name, named.name
                ),
                None => "the record names no data that is in this coffer".into(),
            };
            backups::fail(tx, backup_id, &reason, now)?;
            logged(tx, backup_id, "resource_backup_creation_failed", "has been imported, but its data is not in this coffer")?;
        }
    }
    find(tx, id)
}

/// A part of an instance's backup comes and goes with the others.
fn alone(backup: &VolumeBackup) -> Result<(), Refusal> {
    match &backup.whole {
        Some((whole, instance)) => Err(Refusal::PartOfWhole { whole: whole.clone(), instance: instance.clone() }),
        None => Ok(()),
    }
}

fn insert_backup(
    tx: &Transaction,
    uuid: &str,
    kind: BackupKind,
    project_id: i64,
    size: i64,
    user_uuid: &str,
    repository_id: Option<i64>,
    now: i64,
) -> rusqlite::Result<i64> {
    let new = NewBackup {
        uuid,
        kind,
        project_id,
        user_uuid,
        instance_id: None,
        schedule: None,
        description: "",
        created_at: now,
        kept_until: None,
        metadata: json!({}),
        size,
        repository_id,
    };
    backups::insert(tx, &new)
}

fn logged(tx: &Transaction, backup_id: i64, kind: &str, words: &str) -> rusqlite::Result<Backup> {
    let backup = whole(tx, backup_id)?;
    let severity = if kind.ends_with("_failed") { Severity::Error } else { Severity::Info };
    log_backup(tx, &backup, kind, severity, || format!("A {} of {} {words}.", backup.kind.noun(), backup.subject))?;
    Ok(backup)
}

fn whole(tx: &Transaction, backup_id: i64) -> rusqlite::Result<Backup> {
    backups::by_id(tx, backup_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn find(tx: &Transaction, id: i64) -> Result<VolumeBackup, Refusal> {
    Ok(volume_backups::by_id(tx, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
}
