//! Making, copying, extending and removing volumes.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::Transaction;

use super::places::{Reach, create_target, open_source, open_target};
use super::restore::{self, Goal, make_private_directory, remove_file, remove_files};
use super::{Engine, EngineError, Running, orders};
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, Job, JobKind};
use crate::catalog::volumes::{self, Volume};
use crate::{clock, durable};
use crate::model::volume::VolumeState;
use crate::source::{Buffer, Source, SourceError, Target};

/// Why work ends whose volume goes before its turn comes.
const VOLUME_GONE: &str = "the volume that it needs has been deleted";

/// Bytes copied at once.
const SPAN: usize = 1 << 20;

impl Engine {
    /// The empty file of a new volume. One that a crash left behind is used.
    pub(super) fn run_provision(&self, job: &Job) {
        let made = self.volume_of(job).and_then(|volume| {
            let path = Path::new(&volume.path);
            match path.try_exists() {
                // Its name may not have reached the disk then.
                Ok(true) => self
                    .set_length(path, volume.size)
                    .and_then(|()| durable::sync_name(path).map_err(|e| EngineError::Target(SourceError::of(path, e)))),
                _ => self.create_file(&volume).and_then(|target| target.sync().map_err(EngineError::Target)),
            }
            .map_err(|error| error.without_path(path, &volume.label()))
        });
        self.conclude(job, made);
    }

    pub(super) fn run_copy(&self, job: &Job, running: &Running) {
        let copied = self.volume_of(job).and_then(|volume| {
            let path = Path::new(&volume.path);
            self.copy(job, &volume, running).map_err(|error| error.without_path(path, &volume.label()))
        });
        self.conclude(job, copied);
    }

    fn copy(&self, job: &Job, volume: &Volume, running: &Running) -> Result<(), EngineError> {
        let source = self.db.read(|c| volumes::by_id(c, job.source_id.unwrap_or_default()))?;
        let source = source.ok_or_else(|| EngineError::Told("the source volume is no longer registered".into()))?;
        let path = Path::new(&source.path);
        let from = open_source(path, &self.settings()).map_err(|error| error.without_path(path, &source.label()))?;
        if from.size() > volume.size as u64 {
            return Err(EngineError::Told(format!("{} has become larger than the new volume", source.label())));
        }
        running.progress.total.store(from.size(), Ordering::Relaxed);
        let to = self.create_file(volume)?;
        let copied = copy_data(&from, &to, running).map_err(|error| error.without_path(path, &source.label()));
        copied.and_then(|()| to.sync().map_err(EngineError::Target))
    }

    pub(super) fn run_extend(&self, job: &Job) {
        let extended = self.volume_of(job).and_then(|volume| {
            let path = Path::new(&volume.path);
            self.set_length(path, volume.size).map_err(|error| error.without_path(path, &volume.label()))
        });
        self.conclude(job, extended);
    }

    /// The file first: a row without a file says what is missing, a file without a row is lost room.
    pub(super) fn run_erase(&self, job: &Job) {
        if let Some(forgotten) = job.target["file"].as_str() {
            remove_file(Path::new(forgotten), job.target["own_directory"].as_bool().unwrap_or(false));
            self.write_down("note that a file is removed", |tx| jobs::remove(tx, job.id));
            return;
        }
        match self.volume_of(job) {
            Ok(volume) if volume.state != VolumeState::Deleting || volume.instance_id.is_some() => {
                // An administrator has thought better of it, or it is the disk of an instance by now.
                self.write_down("keep a volume", |tx| jobs::remove(tx, job.id));
            }
            Ok(volume) => {
                remove_files(std::slice::from_ref(&volume));
                if volume.managed && Path::new(&volume.path).symlink_metadata().is_ok() {
                    return self.fail_volume_job(job, "its file cannot be removed; the daemon's log says why");
                }
                let ended = self.write_down("remove a volume", |tx| remove(tx, job, &volume)).unwrap_or_default();
                for job in &ended {
                    self.finish_task(Goal::read(&job.target).as_ref(), Err(VOLUME_GONE.into()));
                }
            }
            Err(error) => self.fail_volume_job(job, &error.to_string()),
        }
    }

    fn create_file(&self, volume: &Volume) -> Result<Target, EngineError> {
        let path = Path::new(&volume.path);
        make_private_directory(path.parent().unwrap_or(Path::new("/")))?;
        create_target(path, volume.size as u64, Reach::Roots, &self.settings())
    }

    /// A longer file reads as zeros where it was not before.
    fn set_length(&self, path: &Path, size: i64) -> Result<(), EngineError> {
        let target = open_target(path, 0, Reach::Roots, &self.settings())?;
        target.grow(size as u64).map_err(EngineError::Target)
    }

    fn volume_of(&self, job: &Job) -> Result<Volume, EngineError> {
        let volume = self.db.read(|c| volumes::by_id(c, job.volume_id.unwrap_or_default()))?;
        volume.ok_or_else(|| EngineError::Told("the volume is no longer registered".into()))
    }

    fn conclude(&self, job: &Job, outcome: Result<(), EngineError>) {
        match outcome {
            Ok(()) => {
                self.write_down("record a finished volume", |tx| succeed(tx, job));
            }
            Err(EngineError::Cancelled) => self.fail_volume_job(job, "interrupted: the daemon was stopped while this was running"),
            Err(error) => self.fail_volume_job(job, &error.to_string()),
        }
    }

    /// The volume is in the error state that its users know what to do with, and what was half made is removed.
    pub(super) fn fail_volume_job(&self, job: &Job, reason: &str) {
        log::error!("{} of volume {} failed: {reason}", job.kind.as_str(), job.volume_id.unwrap_or_default());
        if job.kind == JobKind::Copy {
            self.remove_new_file(job.volume_id.unwrap_or_default());
        }
        self.write_down("record a failed volume", |tx| fail(tx, job, reason));
    }
}

/// Removes the volume and returns the work that was promised on it and ends with that.
fn remove(tx: &Transaction, erasure: &Job, volume: &Volume) -> rusqlite::Result<Vec<Job>> {
    jobs::remove(tx, erasure.id)?;
    let rest = jobs::of_volume(tx, volume.id)?;
    for job in &rest {
        match job.kind {
            JobKind::Restore => restore::fail(tx, job, VOLUME_GONE, None, false)?,
            _ => fail(tx, job, VOLUME_GONE)?,
        }
    }
    volumes::delete(tx, volume.id)?;
    orders::log_volume(tx, volume, "resource_volume_deletion_succeeded", Severity::Info, || {
        format!("Volume {} has been deleted.", volume.title())
    })?;
    Ok(rest)
}

fn succeed(tx: &Transaction, job: &Job) -> rusqlite::Result<()> {
    jobs::remove(tx, job.id)?;
    let Some(volume) = volumes::by_id(tx, job.volume_id.unwrap_or_default())? else { return Ok(()) };
    // One that was given another state meanwhile keeps that.
    if matches!(volume.state, VolumeState::Creating | VolumeState::Extending) {
        volumes::set_state(tx, volume.id, VolumeState::Available, "", clock::now_ms())?;
    }
    let (kind, word) = match job.kind {
        JobKind::Extend => ("resource_volume_extension_succeeded", "extended"),
        _ => ("resource_volume_creation_succeeded", "created"),
    };
    orders::log_volume(tx, &volume, kind, Severity::Info, || format!("Volume {} has been {word}.", volume.title()))
}

/// Also used at the next start after a crash.
pub(super) fn fail(tx: &Transaction, job: &Job, reason: &str) -> rusqlite::Result<()> {
    jobs::remove(tx, job.id)?;
    let Some(volume) = volumes::by_id(tx, job.volume_id.unwrap_or_default())? else { return Ok(()) };
    let (state, kind, word) = match job.kind {
        JobKind::Extend => (VolumeState::ErrorExtending, "resource_volume_extension_failed", "extended"),
        JobKind::Erase => (VolumeState::ErrorDeleting, "resource_volume_deletion_failed", "deleted"),
        _ => (VolumeState::Error, "resource_volume_creation_failed", "created"),
    };
    if let Some(before) = job.target["before"].as_i64() {
        volumes::set_size(tx, volume.id, before)?;
    }
    match job.kind {
        JobKind::Erase => volumes::set_state(tx, volume.id, state, reason, clock::now_ms())?,
        _ => volumes::leave(tx, volume.id, state, reason, clock::now_ms())?,
    }
    orders::log_volume(tx, &volume, kind, Severity::Error, || format!("Volume {} could not be {word}: {reason}", volume.title()))
}

fn copy_data(from: &Source, to: &Target, running: &Running) -> Result<(), EngineError> {
    let mut buffer = Buffer::new(SPAN);
    let mut at = 0;
    while let Some(data) = from.next_data(at).map_err(EngineError::Source)? {
        // Direct reads begin at multiples of a block, which spans do.
        let start = (data.start / SPAN as u64 * SPAN as u64).max(at);
        let end = (start / SPAN as u64 * SPAN as u64 + SPAN as u64).min(from.size());
        if running.cancel.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let bytes = from.read(start, (end - start) as usize, &mut buffer).map_err(EngineError::Source)?;
        to.write(start, bytes).map_err(EngineError::Target)?;
        running.progress.read.store(end, Ordering::Relaxed);
        at = end;
    }
    from.check().map_err(EngineError::Source)?;
    Ok(())
}
