//! Restoring: to the volumes of a new instance, or one volume to a file or device of the administrator's choice.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::emit::emit;
use super::{Engine, EngineError, Running, orders};
use crate::catalog::backups::{self, VolumeBackup};
use crate::catalog::events::Severity;
use crate::catalog::instances;
use crate::catalog::jobs::{self, Job};
use crate::catalog::volumes::{self, Volume};
use crate::model::backup::BackupState;
use crate::model::instance::InstanceState;
use crate::source::Target;

/// The `target` of a restore job: what orders.rs and the administrator's API write.
pub(super) enum Goal {
    Instance { id: i64, start: bool },
    Path { path: PathBuf, position: i64, create: bool, task: u64 },
}

impl Goal {
    pub(super) fn read(target: &Value) -> Option<Goal> {
        if let Some(id) = target["instance"].as_i64() {
            return Some(Goal::Instance { id, start: target["start"].as_bool().unwrap_or(false) });
        }
        Some(Goal::Path {
            path: PathBuf::from(target["path"].as_str()?),
            position: target["position"].as_i64()?,
            create: target["mode"] == "create",
            task: target["task"].as_u64()?,
        })
    }
}

/// The target of a job that restores one volume to a path.
pub fn path_target(path: &Path, position: i64, create: bool, task: u64) -> Value {
    json!({"path": path, "position": position, "mode": if create { "create" } else { "overwrite" }, "task": task})
}

impl Engine {
    pub(super) fn run_restore(&self, job: &Job, running: &Running) {
        let Some(goal) = Goal::read(&job.target) else {
            return self.fail_restore(job, "the job's target cannot be read", None);
        };
        let outcome = match &goal {
            Goal::Instance { id, .. } => self.restore_instance(job, *id, running),
            Goal::Path { path, position, create, .. } => self.restore_path(job, path, *position, *create, running),
        };
        match outcome {
            Ok(()) => self.finish_restore(job, &goal, running),
            Err(EngineError::Cancelled) => self.fail_restore(job, "interrupted: the daemon was stopped during the restoration", None),
            Err(error @ EngineError::Corrupt { .. }) => self.fail_restore(job, &error.to_string(), Some(&error.to_string())),
            Err(error) => self.fail_restore(job, &error.to_string(), None),
        }
    }

    fn restore_instance(&self, job: &Job, instance_id: i64, running: &Running) -> Result<(), EngineError> {
        self.db.write(|tx| instances::set_state(tx, instance_id, InstanceState::Provisioning, ""))?;
        let parts = self.db.read(|c| backups::parts(c, job.backup_id))?;
        let new = self.db.read(|c| volumes::of_instance(c, instance_id))?;
        running.progress.total.store(parts.iter().map(|p| p.size as u64).sum(), Ordering::Relaxed);
        for part in &parts {
            let volume = new.iter().find(|v| v.position == part.position);
            let volume = volume.ok_or_else(|| EngineError::Told(format!("the new instance has lost its volume {}", part.position)))?;
            let path = Path::new(&volume.path);
            make_private_directory(path.parent().unwrap_or(Path::new("/")))?;
            let target = Target::create(path, part.size as u64).map_err(EngineError::Target);
            let written = target.and_then(|target| self.emit_part(part, &target, true, running));
            written.map_err(|error| error.without_path(path, &format!("new {}", part.label())))?;
        }
        Ok(())
    }

    fn restore_path(&self, job: &Job, path: &Path, position: i64, create: bool, running: &Running) -> Result<(), EngineError> {
        let parts = self.db.read(|c| backups::parts(c, job.backup_id))?;
        let part = parts.iter().find(|part| part.position == position);
        let part = part.ok_or_else(|| EngineError::Told(format!("the backup has no volume {position}")))?;
        running.progress.total.store(part.size as u64, Ordering::Relaxed);
        if !create {
            let target = Target::open(path, part.size as u64).map_err(EngineError::Target)?;
            return self.emit_part(part, &target, false, running);
        }
        let target = Target::create(path, part.size as u64).map_err(EngineError::Target)?;
        let outcome = self.emit_part(part, &target, true, running);
        if outcome.is_err() {
            let _ = std::fs::remove_file(path); // it is ours, new and incomplete
        }
        outcome
    }

    fn emit_part(&self, part: &VolumeBackup, target: &Target, fresh: bool, running: &Running) -> Result<(), EngineError> {
        let map_id = part.map_id.ok_or_else(|| EngineError::Told(format!("volume {} of the backup has no data", part.position)))?;
        emit(&self.store, map_id, target, fresh, self.settings().workers, &running.progress, &running.cancel)
    }

    fn finish_restore(&self, job: &Job, goal: &Goal, running: &Running) {
        self.write_down("record a finished restoration", |tx| {
            if let Goal::Instance { id, start } = goal {
                let state = if *start { InstanceState::Online } else { InstanceState::Offline };
                instances::set_state(tx, *id, state, "")?;
                for volume in volumes::of_instance(tx, *id)? {
                    volumes::set_state(tx, volume.id, "available", "")?;
                }
            }
            release(tx, job.backup_id, "resource_backup_restoration_succeeded", Severity::Info, None)
        });
        if let Goal::Path { task, .. } = goal
            && let Some(task) = self.tasks.get(*task)
        {
            task.finish(Ok(super::tasks::progress_json(&running.progress)));
        }
    }

    /// The backup is Ready again (its data is fine) unless `corrupt` says that it is not; what was being made is Erred.
    pub(super) fn fail_restore(&self, job: &Job, reason: &str, corrupt: Option<&str>) {
        let goal = Goal::read(&job.target);
        if let Some(Goal::Instance { id, .. }) = goal {
            self.remove_new_files(id);
        }
        self.write_down("record a failed restoration", |tx| fail(tx, job, reason, corrupt));
        if let Some(Goal::Path { task, .. }) = goal
            && let Some(task) = self.tasks.get(task)
        {
            task.finish(Err(reason.to_string()));
        }
    }

    /// Half-written files of a restore that failed would only fill the disk.
    pub(super) fn remove_new_files(&self, instance_id: i64) {
        match self.db.read(|c| volumes::of_instance(c, instance_id)) {
            Ok(new) => remove_files(&new),
            Err(error) => super::log_catalog("find the files of a failed restoration", &error),
        }
    }
}

fn make_private_directory(path: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| {
        log::error!("{} cannot be made: {error}", path.display());
        EngineError::Told(format!("the directory for the new volumes cannot be made: {error}"))
    })
}

/// Removes the files of managed volumes and their directories if those are empty then.
pub fn remove_files(gone: &[Volume]) {
    for volume in gone.iter().filter(|v| v.managed) {
        let path = Path::new(&volume.path);
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => log::error!("cannot remove {}: {error}", path.display()),
        }
        if let Some(directory) = path.parent() {
            let _ = std::fs::remove_dir(directory); // only if it is empty by now
        }
    }
}

/// Records that a restoration failed; also used at the next start after a crash.
pub(super) fn fail(tx: &Transaction, job: &Job, reason: &str, corrupt: Option<&str>) -> rusqlite::Result<()> {
    if let Some(Goal::Instance { id, .. }) = Goal::read(&job.target) {
        instances::set_state(tx, id, InstanceState::Erred, reason)?;
        for volume in volumes::of_instance(tx, id)? {
            volumes::set_state(tx, volume.id, "error_restoring", reason)?;
        }
    }
    // Everybody who sees the backup sees its events; where on the host an administrator restores to is not theirs to know.
    let told = match Goal::read(&job.target) {
        Some(Goal::Path { path, .. }) => reason.replace(&path.display().to_string(), "the target"),
        _ => reason.to_string(),
    };
    release(tx, job.backup_id, "resource_backup_restoration_failed", Severity::Error, Some(&told))?;
    if let Some(finding) = corrupt {
        backups::mark_corrupt(tx, job.backup_id, finding)?;
    }
    Ok(())
}

fn release(tx: &Transaction, backup_id: i64, kind: &str, severity: Severity, reason: Option<&str>) -> rusqlite::Result<()> {
    backups::transition(tx, backup_id, BackupState::Restoring, BackupState::Ready)?;
    jobs::remove(tx, backup_id)?;
    let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
    orders::log_backup(tx, &backup, kind, severity, || match reason {
        None => format!("A backup of {} has been restored.", backup.instance_name),
        Some(reason) => format!("Restoration of a backup of {} has failed: {reason}", backup.instance_name),
    })
}
