//! What may be asked of the engine, by a user through either dialect or by a schedule: the checks and the promise (new
//! state, reservation, job, event) in the caller's one transaction. Refusals are typed; the dialects put them in words.

mod instances;
mod volume_backups;
mod volumes;

use rusqlite::Transaction;
use serde_json::{Value, json};

use crate::catalog::backups::{self, Backup};
use crate::catalog::events::{self, NewEvent, Severity};
use crate::catalog::projects;
use crate::catalog::schedules::Schedule;
use crate::catalog::volumes::Volume;
use crate::clock;
use crate::model::backup::{BackupAction, BackupKind, BackupState};
use crate::model::quota::QuotaName;
use crate::model::volume::VolumeState;
pub use instances::{NewMachine, back_up, restore_to_new_instance};
pub use volume_backups::{
    ImportedBackup, VolumeBackupOrder, back_up_volume, delete_volume_backup, force_delete, import, reset_status, restore_to_new_volume,
    restore_to_volume, take_snapshot,
};
pub use volumes::{create_volume, delete_volume, delete_volume_with_snapshots, discard_volume, extend, forget_volume, reset_volume};

/// Why a volume is not backed up that does not hold what it should, and what leads on.
pub const NOT_WHOLE: &str =
    "it does not hold what it should; restore to it once more, or have an administrator declare it available (os-reset_status)";

/// Why an order is not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The instance is being changed.
    #[error("Instance should be in stable state.")]
    Unstable,
    /// The backup's state forbids the action.
    #[error("the backup is in state '{}'", .0.cinder_name())]
    State(BackupState),
    /// The volume's state forbids the action.
    #[error("the volume is in state '{}'; it must be {needed}", .state.as_str())]
    VolumeState { state: VolumeState, needed: &'static str },
    /// What is on the volume is nobody's data.
    #[error("volume {volume} is in state '{}': {NOT_WHOLE}", .state.as_str())]
    NotWhole { volume: String, state: VolumeState },
    /// Each sentence names a quota, what is required and the limit.
    #[error("{}", .0.join(" "))]
    Quota(Vec<String>),
    /// A machine boots from exactly one volume.
    #[error("exactly one bootable volume is needed, but there are {0}")]
    Bootable(usize),
    /// The chosen flavor or image does not fit.
    #[error("{message}")]
    Profile { field: &'static str, message: String },
    #[error("there is no available backup of this volume that it could be incremental to; make a full one first")]
    NoParent,
    #[error("incremental backups depend on it; delete those first")]
    HasChildren,
    #[error("it is part of backup {whole} of instance {instance}, with which it comes and goes; delete that one")]
    PartOfWhole { whole: String, instance: String },
    #[error("its data is not stored completely, so it can never be available")]
    NoData,
    /// Sizes in bytes.
    #[error("{what} has {needed} bytes, more than the volume's {found}")]
    TooSmall { what: &'static str, needed: i64, found: i64 },
    #[error("it has snapshots; delete those first")]
    HasSnapshots,
    #[error("it belongs to an instance; remove that first")]
    InInstance,
    #[error("it is in use by work that was promised; try again later")]
    Busy,
    #[error("it lies at a place of the host's own choice, so it is for the host's administrator to extend")]
    NotManaged,
    #[error("the new size must be greater than the present {0} GiB")]
    MustGrow(i64),
    #[error("there is no repository {0} in the configuration")]
    NoRepository(String),
    #[error("the backup with this id is there already")]
    Exists,
    #[error(transparent)]
    Catalog(#[from] rusqlite::Error),
}

/// The backup or snapshot and its data are to go, whatever depends on it in Cinder's eyes: its data does not.
pub fn delete(tx: &Transaction, backup: &Backup) -> Result<(), Refusal> {
    if !backup.state.allows(BackupAction::Delete) || !backups::begin_delete(tx, backup.id, clock::now_ms())? {
        return Err(Refusal::State(backup.state));
    }
    log_backup(tx, backup, "resource_backup_deletion_scheduled", Severity::Info, || {
        format!("Deletion of a {} of {} has been scheduled.", backup.kind.noun(), backup.subject)
    })?;
    Ok(())
}

/// One volume of the backup is to be written to a file or device; `target` says where (engine/restore.rs reads it), `volume_id`
/// is the volume that is registered there.
pub fn restore_to_path(tx: &Transaction, backup: &Backup, volume_id: Option<i64>, target: &Value) -> Result<(), Refusal> {
    begin_restore(tx, backup, volume_id, target)
}

fn begin_restore(tx: &Transaction, backup: &Backup, volume_id: Option<i64>, target: &Value) -> Result<(), Refusal> {
    if !backups::begin_restore(tx, backup.id, volume_id, target, clock::now_ms())? {
        return Err(Refusal::State(backup.state));
    }
    log_backup(tx, backup, "resource_backup_restoration_scheduled", Severity::Info, || {
        format!("Restoration of a {} of {} has been scheduled.", backup.kind.noun(), backup.subject)
    })?;
    Ok(())
}

/// Additions that a project's quotas must allow; the check and what it allows belong in one transaction.
pub fn fits(tx: &Transaction, project_id: i64, additions: &[(QuotaName, i64)]) -> Result<(), Refusal> {
    let refusals = projects::refusals(tx, project_id, additions)?;
    if refusals.is_empty() { Ok(()) } else { Err(Refusal::Quota(refusals)) }
}

/// Logs an event about a backup or snapshot in the same transaction as what it tells of.
pub fn log_backup(
    tx: &Transaction,
    backup: &Backup,
    kind: &str,
    severity: Severity,
    message: impl FnOnce() -> String,
) -> rusqlite::Result<()> {
    let mut context = json!({"backup_uuid": backup.uuid, "schedule_uuid": backup.schedule_uuid});
    match backup.kind {
        BackupKind::Instance => {
            context["instance_name"] = json!(backup.subject);
            context["instance_uuid"] = json!(backup.instance_uuid);
        }
        BackupKind::Volume | BackupKind::Snapshot => context["volume_name"] = json!(backup.subject),
    }
    let kind = kind.replace("_backup_", &format!("_{}_", backup.kind.noun()));
    log(tx, backup.project_id, &backup.uuid, &kind, severity, context, message)
}

/// Logs an event about a schedule.
pub fn log_schedule(
    tx: &Transaction,
    schedule: &Schedule,
    kind: &str,
    severity: Severity,
    message: impl FnOnce() -> String,
) -> rusqlite::Result<()> {
    let context = json!({"schedule_uuid": schedule.uuid, "instance_name": schedule.instance_name,
        "instance_uuid": schedule.instance_uuid});
    log(tx, schedule.project_id, &schedule.uuid, kind, severity, context, message)
}

/// Logs an event about a volume.
pub fn log_volume(
    tx: &Transaction,
    volume: &Volume,
    kind: &str,
    severity: Severity,
    message: impl FnOnce() -> String,
) -> rusqlite::Result<()> {
    let context = json!({"volume_name": volume.name, "volume_uuid": volume.uuid});
    log(tx, volume.project_id, &volume.uuid, kind, severity, context, message)
}

fn log(
    tx: &Transaction,
    project_id: i64,
    scope: &str,
    kind: &str,
    severity: Severity,
    context: Value,
    message: impl FnOnce() -> String,
) -> rusqlite::Result<()> {
    let message = message();
    let level = match severity {
        Severity::Info => log::Level::Info,
        Severity::Warning => log::Level::Warn,
        Severity::Error => log::Level::Error,
    };
    log::log!(level, "{kind}: {message} [{scope}]");
    events::insert(tx, clock::now_ms(), &NewEvent { kind, severity, message, context, project_id: Some(project_id), scope })
}
