//! Restoring: to the volumes of a new instance, to a volume, or one volume to a file or device of the administrator's choice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Transaction;
use serde_json::{Map, Value, json};

use super::emit::emit;
use super::places::{Reach, create_target, open_target};
use super::{Engine, EngineError, Running, orders};
use crate::catalog::{backups, copies};
use crate::catalog::events::Severity;
use crate::catalog::instances;
use crate::catalog::jobs::{self, Job, JobKind};
use crate::catalog::volume_backups::{self, Part};
use crate::catalog::volumes::{self, Volume};
use crate::catalog::dashed;
use crate::{clock, durable};
use crate::model::backup::{BackupKind, BackupState};
use crate::model::instance::InstanceState;
use crate::model::volume::VolumeState;
use crate::source::Target;
use crate::store::StoreError;

/// Why a restore ended that an administrator has ended.
const CANCELLED: &str = "cancelled by an administrator; what was restored so far is incomplete";

/// The `target` of a restore job: what orders.rs and the administrator's API write.
pub(super) enum Goal {
    Instance { id: i64, start: bool },
    /// `part`: the volume_backup that is written. `fresh`: the volume is new and has no file yet. `rename`: it takes its source's
    /// name and description at the end.
    Volume { id: i64, part: i64, fresh: bool, rename: bool },
    Path { path: PathBuf, position: i64, create: bool, reach: Reach, task: u64 },
}

impl Goal {
    pub(super) fn read(target: &Value) -> Option<Goal> {
        if let Some(id) = target["instance"].as_i64() {
            return Some(Goal::Instance { id, start: target["start"].as_bool().unwrap_or(false) });
        }
        if let Some(id) = target["volume"].as_i64() {
            let flag = |name: &str| target[name].as_bool().unwrap_or(false);
            return Some(Goal::Volume { id, part: target["part"].as_i64()?, fresh: flag("fresh"), rename: flag("rename") });
        }
        Some(Goal::Path {
            path: PathBuf::from(target["path"].as_str()?),
            position: target["position"].as_i64()?,
            create: target["mode"] == "create",
            reach: if target["anywhere"] == true { Reach::Host } else { Reach::Roots },
            task: target["task"].as_u64()?,
        })
    }
}

/// The target of a job that restores one volume to a path.
pub fn path_target(path: &Path, position: i64, create: bool, reach: Reach, task: u64) -> Value {
    let mode = if create { "create" } else { "overwrite" };
    json!({"path": path, "position": position, "mode": mode, "anywhere": reach == Reach::Host, "task": task})
}

impl Engine {
    pub(super) fn run_restore(&self, job: &Job, running: &Running) {
        let Some(goal) = Goal::read(&job.target) else {
            return self.fail_restore(job, "the job's target cannot be read", None);
        };
        let outcome = match &goal {
            _ if running.cancel.load(Ordering::Relaxed) => Err(EngineError::Cancelled),
            Goal::Instance { id, .. } => self.restore_instance(job, *id, running),
            Goal::Volume { id, part, fresh, .. } => self.restore_volume(*id, *part, *fresh, running),
            Goal::Path { path, position, create, reach, .. } => self.restore_path(job, path, *position, *create, *reach, running),
        };
        match outcome {
            // It was complete before anybody noticed, but who has cancelled it does not expect that.
            Ok(()) if running.cancel.load(Ordering::Relaxed) && !self.is_stopping() => self.fail_restore(job, CANCELLED, None),
            Ok(()) => self.finish_restore(job, &goal, running),
            Err(EngineError::Cancelled) if self.is_stopping() => {
                self.fail_restore(job, "interrupted: the daemon was stopped during the restoration", None)
            }
            Err(EngineError::Cancelled) => self.fail_restore(job, CANCELLED, None),
            Err(error @ EngineError::Corrupt { .. }) => self.fail_restore(job, &error.to_string(), Some(&error.to_string())),
            Err(error) => self.fail_restore(job, &error.to_string(), None),
        }
    }

    fn restore_instance(&self, job: &Job, instance_id: i64, running: &Running) -> Result<(), EngineError> {
        self.db.write(|tx| instances::set_state(tx, instance_id, InstanceState::Provisioning, ""))?;
        let parts = self.parts(job)?;
        let new = self.db.read(|c| volumes::of_instance(c, instance_id))?;
        running.progress.total.store(parts.iter().map(|p| p.size as u64).sum(), Ordering::Relaxed);
        for part in &parts {
            let volume = new.iter().find(|v| v.position == part.position);
            let volume = volume.ok_or_else(|| EngineError::Told(format!("the new instance has lost its volume {}", part.position)))?;
            let path = Path::new(&volume.path);
            make_private_directory(path.parent().unwrap_or(Path::new("/")))?;
            let target = create_target(path, part.size as u64, Reach::Roots, &self.settings());
            let written = target.and_then(|target| self.emit_part(part, &target, true, running));
            written.map_err(|error| error.without_path(path, &format!("new {}", part.label())))?;
        }
        Ok(())
    }

    fn parts(&self, job: &Job) -> rusqlite::Result<Vec<Part>> {
        self.db.read(|c| volume_backups::parts(c, job.backup_id.unwrap_or_default()))
    }

    fn restore_volume(&self, volume_id: i64, part_id: i64, fresh: bool, running: &Running) -> Result<(), EngineError> {
        let (volume, parts) = self.db.read(|c| {
            let parts = volume_backups::parts(c, running.job.backup_id.unwrap_or_default())?;
            Ok::<_, rusqlite::Error>((volumes::by_id(c, volume_id)?, parts))
        })?;
        let volume = volume.ok_or_else(|| EngineError::Told("the volume is no longer registered".into()))?;
        let part = parts.into_iter().find(|part| part.id == part_id);
        let part = part.ok_or_else(|| EngineError::Told("the backup has no such volume".into()))?;
        running.progress.total.store(part.size as u64, Ordering::Relaxed);
        let path = Path::new(&volume.path);
        let written = self.open_target(&volume, &part, fresh).and_then(|target| self.emit_part(&part, &target, fresh, running));
        written.map_err(|error| error.without_path(path, &volume.label()))
    }

    fn open_target(&self, volume: &Volume, part: &Part, fresh: bool) -> Result<Target, EngineError> {
        let path = Path::new(&volume.path);
        if fresh {
            make_private_directory(path.parent().unwrap_or(Path::new("/")))?;
            return create_target(path, volume.size as u64, Reach::Roots, &self.settings());
        }
        open_target(path, part.size as u64, Reach::Roots, &self.settings())
    }

    fn restore_path(&self, job: &Job, path: &Path, position: i64, create: bool, reach: Reach, running: &Running) -> Result<(), EngineError> {
        let parts = self.parts(job)?;
        let part = parts.iter().find(|part| part.position == position);
        let part = part.ok_or_else(|| EngineError::Told(format!("the backup has no volume {position}")))?;
        running.progress.total.store(part.size as u64, Ordering::Relaxed);
        if !create {
            let target = open_target(path, part.size as u64, reach, &self.settings())?;
            running.touched.store(true, Ordering::Relaxed);
            return self.emit_part(part, &target, false, running);
        }
        let target = create_target(path, part.size as u64, reach, &self.settings())?;
        let outcome = self.emit_part(part, &target, true, running);
        if outcome.is_err() {
            target.discard();
        }
        outcome
    }

    fn emit_part(&self, part: &Part, target: &Target, fresh: bool, running: &Running) -> Result<(), EngineError> {
        let map_id = part.map_id.ok_or_else(|| EngineError::Told(format!("volume {} of the backup has no data", part.position)))?;
        let emit = |map_id| emit(&self.store, map_id, target, fresh, self.settings().workers, &running.progress, &running.cancel);
        let before = running.progress.read.load(Ordering::Relaxed);
        let error = match emit(map_id) {
            Err(error @ (EngineError::Corrupt { .. } | EngineError::Store(StoreError::Repository(..)))) => error,
            done => return done,
        };
        // What was written until then is right, wherever the rest comes from.
        for (copy, map_id) in self.whole_copies(part)? {
            log::warn!("{} cannot be read where it lies, so its copy in {} is taken: {error}", part.label(), copy.repository);
            running.progress.read.store(before, Ordering::Relaxed);
            match emit(map_id) {
                Ok(()) => return self.note_use_of_copy(&copy, part, &error),
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
                Err(other @ (EngineError::Corrupt { .. } | EngineError::Store(_))) => log::warn!("nor can the copy in {}: {other}", copy.repository),
                Err(other) => return Err(other),
            }
        }
        Err(error)
    }

    fn finish_restore(&self, job: &Job, goal: &Goal, running: &Running) {
        self.write_down("record a finished restoration", |tx| {
            match goal {
                Goal::Instance { id, start } => {
                    let state = if *start { InstanceState::Online } else { InstanceState::Offline };
                    instances::set_state(tx, *id, state, "")?;
                    for volume in volumes::of_instance(tx, *id)? {
                        volumes::leave(tx, volume.id, VolumeState::Available, "", clock::now_ms())?;
                    }
                }
                Goal::Volume { id, part, fresh, rename } => take_over(tx, *id, *part, *fresh, *rename)?,
                Goal::Path { .. } => job.volume_id.map_or(Ok(()), |id| mend(tx, id))?,
            }
            release(tx, job, "resource_backup_restoration_succeeded", Severity::Info, None)
        });
        self.finish_task(Some(goal), Ok(super::tasks::progress_json(&running.progress)));
    }

    /// The backup is Ready again (its data is fine) unless `corrupt` says that it is not; what was being made is Erred.
    pub(super) fn fail_restore(&self, job: &Job, reason: &str, corrupt: Option<&str>) {
        let goal = Goal::read(&job.target);
        self.remove_half_written(goal.as_ref());
        // A volume at this path that was not written to is what it was.
        let untouched = |running: &Arc<Running>| !running.touched.load(Ordering::Relaxed);
        let untouched = matches!(goal, Some(Goal::Path { .. })) && self.dispatch().running.get(&job.id).is_some_and(untouched);
        self.write_down("record a failed restoration", |tx| fail(tx, job, reason, corrupt, untouched));
        self.finish_task(goal.as_ref(), Err(reason.to_string()));
    }

    /// Tells the administrator who waits for a restore to a path.
    pub(super) fn finish_task(&self, goal: Option<&Goal>, outcome: Result<Value, String>) {
        if let Some(Goal::Path { task, .. }) = goal
            && let Some(task) = self.tasks.get(*task)
        {
            task.finish(outcome);
        }
    }

    /// Half-written files of a restore that failed would only fill the disk.
    pub(super) fn remove_half_written(&self, goal: Option<&Goal>) {
        match goal {
            Some(Goal::Instance { id, .. }) => self.remove_new_files(*id),
            Some(Goal::Volume { id, fresh: true, .. }) => self.remove_new_file(*id),
            _ => {}
        }
    }

    pub(super) fn remove_new_file(&self, volume_id: i64) {
        match self.db.read(|c| volumes::by_id(c, volume_id)) {
            Ok(volume) => remove_files(volume.as_slice()),
            Err(error) => super::log_catalog("find the file of a failed restoration", &error),
        }
    }

    fn remove_new_files(&self, instance_id: i64) {
        match self.db.read(|c| volumes::of_instance(c, instance_id)) {
            Ok(new) => remove_files(&new),
            Err(error) => super::log_catalog("find the files of a failed restoration", &error),
        }
    }
}

/// A restored volume gets what the backup remembers of its source (Cinder contract 1.7): labels, whether it boots, and its name
/// if it has none of its own.
fn take_over(tx: &Transaction, volume_id: i64, part_id: i64, fresh: bool, rename: bool) -> rusqlite::Result<()> {
    let now = clock::now_ms();
    volumes::leave(tx, volume_id, VolumeState::Available, "", now)?;
    let (Some(volume), Some(backup)) = (volumes::by_id(tx, volume_id)?, volume_backups::by_id(tx, part_id)?) else { return Ok(()) };
    if backup.kind == BackupKind::Snapshot {
        return volumes::set_flags(tx, volume_id, backup.bootable, volume.readonly, now);
    }
    let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (recorded, mut labels) = (parse(&backup.volume_labels), parse(&volume.labels));
    if fresh {
        let own = std::mem::replace(&mut labels, recorded);
        labels.extend(own);
    } else if !recorded.is_empty() {
        labels = recorded;
    }
    if volume.uuid != backup.volume_uuid {
        labels.insert("src_backup_id".into(), dashed(&backup.uuid).into());
    }
    let nameless = rename || volume.name.is_empty() || volume.name.starts_with("restore_backup_");
    let named_after_source = nameless && !backup.volume_name.is_empty();
    let (name, description) = match named_after_source {
        true => (&backup.volume_name, &backup.volume_description),
        false => (&volume.name, &volume.description),
    };
    volumes::set_texts(tx, volume_id, name, description.as_deref(), &Value::Object(labels).to_string(), now)?;
    if volume.instance_id.is_none() {
        volumes::set_flags(tx, volume_id, backup.bootable, volume.readonly, now)?;
    }
    Ok(())
}

/// A volume that was written over by its path is good, whatever an earlier restore has left of it.
fn mend(tx: &Transaction, volume_id: i64) -> rusqlite::Result<()> {
    match volumes::by_id(tx, volume_id)? {
        Some(volume) if matches!(volume.state, VolumeState::Error | VolumeState::ErrorRestoring) => {
            volumes::leave(tx, volume_id, VolumeState::Available, "", clock::now_ms())
        }
        _ => Ok(()),
    }
}

pub(super) fn make_private_directory(path: &Path) -> Result<(), EngineError> {
    durable::make_directory(path, 0o700).map_err(|error| {
        log::error!("{} cannot be made: {error}", path.display());
        EngineError::Told(format!("the directory for the new volumes cannot be made: {error}"))
    })
}

/// Removes the files of managed volumes.
pub fn remove_files(gone: &[Volume]) {
    // Those of an instance have a directory of their own.
    gone.iter().filter(|v| v.managed).for_each(|volume| remove_file(Path::new(&volume.path), volume.instance_id.is_some()));
}

/// Removes a file that cofferd has made, if it is there, and its own directory if that is empty then. Returns when that is on the disk,
/// so that no power cut brings back what the coffer has forgotten.
pub(super) fn remove_file(path: &Path, own_directory: bool) {
    let missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let removed = std::fs::remove_file(path).or_else(|error| if missing(&error) { Ok(()) } else { Err(error) });
    match removed.and_then(|()| durable::sync_name(path)) {
        Err(error) if !missing(&error) => log::error!("cannot remove {}: {error}", path.display()),
        _ => {}
    }
    if let Some(directory) = path.parent().filter(|_| own_directory) {
        let _ = std::fs::remove_dir(directory); // only if it is empty by now
    }
}

/// Records that a restoration failed; also used at the next start after a crash.
pub(super) fn fail(tx: &Transaction, job: &Job, reason: &str, corrupt: Option<&str>, untouched: bool) -> rusqlite::Result<()> {
    let now = clock::now_ms();
    let backup_id = job.backup_id.unwrap_or_default();
    let goal = Goal::read(&job.target);
    let told = match &goal {
        // Everybody who sees the backup sees its events; where on the host an administrator restores to is not theirs to know.
        Some(Goal::Path { path, .. }) => reason.replace(&path.display().to_string(), "the target"),
        _ => reason.to_string(),
    };
    match goal {
        Some(Goal::Instance { id, .. }) => {
            instances::set_state(tx, id, InstanceState::Erred, reason)?;
            for volume in volumes::of_instance(tx, id)? {
                volumes::leave(tx, volume.id, VolumeState::ErrorRestoring, reason, now)?;
            }
        }
        Some(Goal::Volume { id, .. }) => fail_volume(tx, id, reason, now)?,
        Some(Goal::Path { .. }) if untouched => {}
        Some(Goal::Path { .. }) => job.volume_id.map_or(Ok(()), |id| fail_volume(tx, id, &told, now))?,
        None => {}
    }
    release(tx, job, "resource_backup_restoration_failed", Severity::Error, Some(&told))?;
    match corrupt {
        Some(finding) => {
            backups::mark_corrupt(tx, backup_id, finding)?;
            copies::order_mending(tx, backup_id)?;
        }
        None => backups::set_fail_reason(tx, backup_id, &told)?,
    }
    Ok(())
}

fn fail_volume(tx: &Transaction, id: i64, reason: &str, now: i64) -> rusqlite::Result<()> {
    let Some(volume) = volumes::by_id(tx, id)? else { return Ok(()) };
    // One that was to be made is in error, like one that an administrator ended the restore of (Cinder contract 6.2).
    let state = match volume.state {
        VolumeState::Creating => VolumeState::Error,
        _ if reason == CANCELLED => VolumeState::Error,
        _ => VolumeState::ErrorRestoring,
    };
    volumes::leave(tx, id, state, reason, now)?;
    orders::log_volume(tx, &volume, "resource_volume_restoration_failed", Severity::Error, || {
        format!("Volume {} could not be restored: {reason}", volume.title())
    })
}

/// The backup is as it was before the restore; one that was given another state meanwhile keeps that.
fn release(tx: &Transaction, job: &Job, kind: &str, severity: Severity, reason: Option<&str>) -> rusqlite::Result<()> {
    let backup_id = job.backup_id.unwrap_or_default();
    jobs::remove(tx, job.id)?;
    // An administrator may have reset it, and another restore been ordered since.
    if !jobs::of_backup(tx, backup_id)?.iter().any(|job| job.kind == JobKind::Restore) {
        backups::transition(tx, backup_id, BackupState::Restoring, BackupState::Ready)?;
    }
    let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
    orders::log_backup(tx, &backup, kind, severity, || match reason {
        None => format!("A {} of {} has been restored.", backup.kind.noun(), backup.subject),
        Some(reason) => format!("Restoration of a {} of {} has failed: {reason}", backup.kind.noun(), backup.subject),
    })
}
